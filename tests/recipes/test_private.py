"""Nothing of its author's machine is in a set, and the set is rebuilt when one says where things lie."""

import json
import shlex

import pytest
from helpers import run_here

from distill_hub import cli
from distill_hub.artifact.manifest import Manifest
from distill_hub.data.sources import load_source

SECRET = "eve-the-author"
SMALL = ["--ipc", "2", "--students", "convnet-1-w16", "--repeats", "1", "--view_epochs", "0", "--test_fraction", "0.5"]


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """A folder of images, a teacher trained on them, and a set made with both, all named by absolute paths."""
    home = tmp_path_factory.mktemp("home") / SECRET
    train = load_source("digits").train
    for label, name in enumerate(("zero", "one", "two")):
        folder = home / "My photos" / name
        folder.mkdir(parents=True)
        for row in train.by_class[label][:60]:
            train.image(int(row)).save(folder / f"{row}.png")
    own = {"source": home / "My photos", "teacher": home / "my-teacher", "set": home / "the-set"}
    own |= {"cwd": tmp_path_factory.mktemp("elsewhere")}
    fit = ["--network", "convnet-1-w16-bn", "--epochs", "20", "--batch_size", "16", "--test_fraction", "0.5"]
    run_here("recipes/fit_classifier.py", "--source", str(own["source"]), "--output_dir", str(own["teacher"]), *fit)
    where = ["--source", str(own["source"]), "--teacher", str(own["teacher"]), "--output_dir", str(own["set"])]
    run_here("recipes/random_real.py", *where, *SMALL)
    return own


@pytest.mark.parametrize("what", ["set", "teacher"])
def test_no_file_names_the_machine(places, what):
    files = [file for file in places[what].rglob("*") if file.is_file() and ".run" not in file.parts]
    assert {"README.md", "manifest.json" if what == "set" else "config.json"} <= {file.name for file in files}
    for file in files:
        assert SECRET.encode() not in file.read_bytes(), file
        assert str(places["cwd"]).encode() not in file.read_bytes(), file


def test_the_record_has_names_and_hashes(places):
    manifest = Manifest.read(places["set"] / "manifest.json")
    assert (manifest.source.name, manifest.teacher.id) == ("My photos", "my-teacher")
    assert (manifest.method.config["source"], manifest.method.config["teacher"]) == ("My photos", "my-teacher")
    assert manifest.name == "my-photos-ipc2-random" and len(manifest.teacher.sha256) == 64
    assert 'load_dataset("the-set"' in (places["set"] / "README.md").read_text("utf-8")


def told(capsys, monkeypatch, *words):
    monkeypatch.setattr("sys.argv", ["distill-hub", *map(str, words)])
    try:
        cli.main()
        code = 0
    except SystemExit as end:
        code = end.code
    return code, capsys.readouterr()


def test_it_is_rebuilt_and_scored_from_where_things_lie_now(places, capsys, monkeypatch):
    monkeypatch.chdir(places["cwd"])
    line = ["reproduce", places["set"], "--print_command"]
    code, shown = told(capsys, monkeypatch, *line)
    assert code == 2 and "source: 'My photos' cannot be used" in shown.err and "--source" in shown.err
    code, shown = told(capsys, monkeypatch, *line, "--source", places["source"])
    assert code == 2 and "teacher: 'my-teacher' cannot be used" in shown.err and "--teacher" in shown.err
    code, shown = told(capsys, monkeypatch, *line, "--source", places["source"], "--teacher", places["teacher"])
    assert code == 0 and shown.err.startswith("Next: ")
    words = shlex.split(shown.out)
    assert f"--source={places['source']}" in words and f"--teacher={places['teacher']}" in words
    assert "--output_dir=outputs/my-photos-ipc2-random-reproduced" in words
    code, shown = told(capsys, monkeypatch, "evaluate", places["set"])
    assert code == 2 and "pass --source" in shown.err
    result = places["cwd"] / "scores.json"
    code, shown = told(capsys, monkeypatch, "evaluate", places["set"], "--source", places["source"], "--json", result)
    assert code == 0 and shown.out.splitlines()[-1].startswith("Next: ")
    assert SECRET not in result.read_text() and json.loads(result.read_text())[0]["claimed"]
