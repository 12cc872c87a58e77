"""Author, user and sceptic over HTTP: every step in a process of its own, with caches of its own."""

import json
import re
import sys

import pytest
from helpers import TINY, run
from processes import run_python

from distill_hub import load_distilled
from distill_hub.artifact.find import read_records
from distill_hub.artifact.schema import features
from distill_hub.config import LOADING

REPO = "org/digits-ipc2-cao2"


def quiet(log: str) -> None:
    """In a log are the lines of our own bars, and nothing that moves the cursor."""
    assert not re.search(r"[\r\x1b]", log)
    lines = log.splitlines()
    assert lines[0] == LOADING and len(lines) > 3
    assert not [line for line in lines[1:] if not re.fullmatch(r".+: \d+ %, \d+ of \d+ \[.+\]", line)]


@pytest.fixture(scope="module")
def published(hub, tmp_path_factory):
    """A set as the recipe publishes it."""
    folder = tmp_path_factory.mktemp("author") / "set"
    environment = hub.environment(folder.parent / "home", "hf_alice")
    words = [*TINY, "--output_dir", str(folder), "--push_to_hub", REPO]
    result = run([sys.executable], "recipes/cao2.py", *words, **environment)  # it prints that it loads, so nothing may be
    assert result.returncode == 0, result.stderr[-3000:]
    assert f"{REPO}, commit {hub.repos[REPO].head().sha}" in result.stdout
    quiet(result.stderr)
    return folder


def cli(hub, home, *words, token=None):
    environment = hub.environment(home / "home", token)
    return run_python("-m", "distill_hub.cli", *words, environment=environment, folder=home)


@pytest.mark.parametrize("streaming", [False, True])
def test_a_user_loads_it_without_this_package(hub, published, tmp_path, streaming):
    code = f"""
import sys
sys.modules["distill_hub"] = None  # any import of it fails
import hashlib, json
import numpy as np
from datasets import load_dataset
data = load_dataset({REPO!r}, split="train", streaming={streaming})
digest, rows = hashlib.sha256(), 0
for row in data:
    pixels = np.asarray(row["image"].convert("RGB"))
    digest.update(np.array(pixels.shape[:2], dtype="<i8").tobytes() + pixels.tobytes())
    digest.update(np.array(row["label"], dtype="<i8").tobytes())
    digest.update(np.array(row["soft_label"], dtype="<f4").tobytes())
    rows += 1
print(json.dumps([digest.hexdigest(), rows, data.features.to_dict()]))
"""
    done = run_python("-c", code, environment=hub.environment(tmp_path))
    assert done.returncode == 0, done.stderr
    content, rows, found = json.loads(done.stdout)
    manifest = load_distilled(published).manifest
    assert content == manifest.content_sha256
    assert rows == 20
    assert found == features(manifest.class_names).to_dict()


def test_a_sceptic_measures_what_is_claimed(hub, published, tmp_path):
    words, environment = ["--check", "--json", str(tmp_path / "found.json")], hub.environment(tmp_path / "home")
    done = run([sys.executable, "-m", "distill_hub.cli"], "evaluate", REPO, *words, **environment)
    assert done.returncode == 0, done.stderr
    assert "yes" in done.stdout and "│ NO " not in done.stdout
    quiet(done.stderr)
    (pair,) = json.loads((tmp_path / "found.json").read_text())
    (claimed,) = (json.loads(record.to_json()) for record in read_records(published).values())
    assert pair["claimed"] == claimed and pair["measured"]["score"] == claimed["score"]
    assert pair["difference"] == 0 and pair["agrees"] is True


def test_two_processes_measure_the_same(hub, published, tmp_path):
    result = run_python("recipes/evaluate.py", str(published), "--check", "--json", str(tmp_path / "found.json"), world=2)
    assert result.returncode == 0, result.stderr[-3000:]
    (pair,) = json.loads((tmp_path / "found.json").read_text())
    assert pair["measured"]["environment"]["processes"] == 2
    assert pair["measured"]["score"] == pair["claimed"]["score"]


def test_a_wrong_claim_is_found(hub, published, tmp_path):
    (name,) = (name for name in hub.repos[REPO].tree() if name.startswith("evaluations/"))
    honest = hub.repos[REPO].tree()[name]
    record = json.loads(honest)
    record["score"] |= {"last": [0.99, 0.985], "curve": None}  # with the honest one it would contradict itself
    hub.commit(REPO, {name: json.dumps(record).encode()})
    done = cli(hub, tmp_path, "evaluate", REPO, "--check")
    hub.commit(REPO, {name: honest})
    assert done.returncode == 1
    assert "98.8 ± 0.4" in done.stdout and "│ NO " in done.stdout


def test_a_measurement_is_submitted(hub, published, tmp_path):
    done = cli(hub, tmp_path, "evaluate", REPO, "--students", "convnet-2-w16", "--repeats", "2", "--submit", token="hf_bob")
    assert done.returncode == 0, done.stderr
    assert "/discussions/1" in done.stdout
    hub.merge(REPO, 1)
    shown = cli(hub, tmp_path, "info", REPO)
    assert "convnet-2-w16, measured by bob" in shown.stdout
    downloaded = [request.path for request in hub.requests if request.path.endswith(".parquet") and request.method == "GET"]
    hub.reset()
    assert downloaded  # by the evaluations; not by info:
    (tmp_path / "cold").mkdir()
    assert cli(hub, tmp_path / "cold", "info", REPO).returncode == 0
    assert not [request for request in hub.requests if request.path.endswith(".parquet")]


def test_a_name_that_cannot_be_is_refused_before_any_work(hub, tmp_path):
    environment = hub.environment(tmp_path, "hf_alice")
    for name, reason in (("org/digits ipc", "NAMESPACE/NAME"), ("nobody/digits", "alice, org")):
        words = ["--output_dir", str(tmp_path / "set"), "--push_to_hub", name]
        result = run_python("recipes/plain.py", *words, environment=environment)
        assert result.returncode != 0
        (line,) = (line for line in result.stderr.splitlines() if line.startswith("error: "))
        assert reason in line and name in line
    assert not (tmp_path / "set").exists()
