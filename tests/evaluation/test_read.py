"""A set is read once for all processes, and each maps what was found."""

import dataclasses
import shutil

import numpy as np
import pytest
from processes import run_python

from distill_hub.artifact.find import find
from distill_hub.artifact.load import load_artifact
from distill_hub.evaluation.read import read_together, scratch

READ = """
import sys
from accelerate import PartialState
from distill_hub.artifact.find import find
from distill_hub.config import InputError
from distill_hub.evaluation import read

calls, read_artifact = [], read.read_artifact
read.read_artifact = lambda *words, **how: calls.append(words) or read_artifact(*words, **how)
with read.scratch() as folder:
    found = read.read_together(find(sys.argv[1]), folder)
    sums = int(found.pixels.sum(dtype=int)), float(found.soft_labels.sum()), found.labels.tolist()
    print("read", len(calls), sums, flush=True)
    PartialState().wait_for_everyone()
    try:
        read.read_together(find(sys.argv[2]), folder)
    except (InputError, SystemExit) as error:
        print("ended", type(error).__name__, error, flush=True)
    PartialState().wait_for_everyone()
"""


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DISTILL_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_it_is_what_is_read_alone(artifact, cache):
    with scratch() as folder:
        found, alone = read_together(find(artifact), folder), load_artifact(artifact, pixels=True)
        for name in ("labels", "soft_labels", "pixels"):
            assert isinstance(getattr(found, name), np.memmap)
            assert np.array_equal(getattr(found, name), getattr(alone, name))
        found.pixels[:] = 0  # stays in this process
        assert np.array_equal(read_together(find(artifact), folder).pixels, alone.pixels)
        same = {name: getattr(alone, name) for name in ("labels", "soft_labels", "pixels", "dataset")}
        assert dataclasses.replace(found, **same) == alone
    assert not list((cache / "scratch").iterdir())


def test_what_a_killed_process_left_goes(cache):
    left = cache / "scratch" / "0"
    left.mkdir(parents=True)
    (left / "pixels").write_bytes(b"1")
    with scratch() as folder, scratch() as other:
        assert not left.exists() and sorted((cache / "scratch").iterdir()) == sorted([folder, other])


def test_one_of_two_processes_reads_and_both_end_where_it_is_damaged(artifact, cache, tmp_path):
    damaged = shutil.copytree(artifact, tmp_path / "damaged")
    manifest = damaged / "manifest.json"
    manifest.write_text(manifest.read_text().replace(load_artifact(artifact).manifest.content_sha256, "0" * 64))
    done = run_python("-c", READ, str(artifact), str(damaged), world=2)
    assert done.returncode == 0, done.stderr
    found = load_artifact(artifact, pixels=True)
    sums = int(found.pixels.sum(dtype=int)), float(found.soft_labels.sum()), found.labels.tolist()
    lines = done.stdout.splitlines()
    assert [line for line in lines if line.startswith("read")] == [f"read 1 {sums}", f"read 0 {sums}"]
    one, other = (line for line in lines if line.startswith("ended"))
    assert one.startswith("ended InputError") and "altered" in one and other == "ended SystemExit 2"
    assert not list((cache / "scratch").iterdir())
