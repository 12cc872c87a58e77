"""Which sets and measurements are on a leaderboard, and what a page for everybody leaves out."""

import json
import shutil
import sys
from pathlib import Path

import pytest
from compared import score

from distill_hub import cli
from distill_hub.artifact import find
from distill_hub.artifact.manifest import MethodRecord
from distill_hub.comparing.compare import compare
from distill_hub.comparing.leaderboard import gather, is_wanted, measured_by
from distill_hub.config import HubError, InputError
from distill_hub.hub import RemoteFile, RemoteSet

ANY = {"source": None, "method": None, "ipc": None, "author": None}


def read(*folders, is_public=True, fits=lambda own: True):
    return gather(folders, is_public=is_public, fits=fits)


def leaderboard(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["distill-hub", "leaderboard", *map(str, words)])
    cli.main()


@pytest.fixture
def on_the_hub(make_set, monkeypatch):
    """Let folders be repositories; a set is then found under org/NAME. Returns a function that publishes one."""
    folders = {}

    def publish(name, *records, private=False, gated=False, **fields):
        folder = Path(make_set(name, *records, **fields))
        files = [str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()]
        sizes = {file: RemoteFile((folder / file).stat().st_size) for file in files}
        folders[f"org/{name}"] = folder, RemoteSet(f"org/{name}", "c" * 40, private, sizes, "dataset", gated)
        return f"org/{name}"

    monkeypatch.setattr(find, "look", lambda location, revision: folders[location][1])
    monkeypatch.setattr(find, "last_authors", lambda remote, names: {})
    monkeypatch.setattr(find, "fetch", lambda remote, names, **_: folders[remote.repo_id][0])
    return publish


def test_a_page_for_everybody_shows_nothing_that_is_not_for_everybody(on_the_hub):
    names = [on_the_hub("open"), on_the_hub("private", private=True), on_the_hub("gated", gated=True)]
    sets, left_out = read(*names)
    assert [own.label for own in sets] == ["open"]
    assert [(one.location, one.why.split(",")[0]) for one in left_out] == [
        ("org/private", "it is private"),
        ("org/gated", "it is gated"),
    ]
    sets, left_out = read(*names, is_public=False)
    assert [own.label for own in sets] == ["open", "private", "gated"] and not left_out


def test_what_cannot_be_read_on_the_hub_is_left_out_and_a_folder_is_refused(on_the_hub, make_set, monkeypatch):
    names = [on_the_hub(name) for name in ("a", "down", "damaged", "b")]
    there = find.fetch

    def fetch(remote, names, **how):
        if remote.repo_id == "org/down":
            raise HubError("org/down: the Hub answered 500")
        if remote.repo_id == "org/damaged" and "assets/preview.png" in names:
            raise InputError("repository", "org/damaged", "assets/preview.png arrives altered")
        return there(remote, names, **how)

    monkeypatch.setattr(find, "fetch", fetch)
    sets, left_out = read(*names, "org/a")
    assert [own.label for own in sets] == ["a", "b"]
    assert [(one.location, "500" in one.why or "altered" in one.why) for one in left_out] == [
        ("org/down", True),
        ("org/damaged", True),
    ]
    folder = make_set("here")
    Path(folder, "manifest.json").write_text("{}")
    with pytest.raises(InputError, match=r"manifest\.json"):
        read(folder)


def test_a_folder_is_called_by_its_name_alone(make_set, monkeypatch, tmp_path):
    folder = make_set("here")
    (own,), _ = read(folder)
    assert own.found.location == "here" and own.found.fetch(["manifest.json"]) == Path(folder)
    shutil.copytree(folder, tmp_path / "elsewhere" / "there")
    leaderboard(monkeypatch, folder, tmp_path / "elsewhere" / "there", "--json", tmp_path / "rows.json")
    rows = [row["location"] for group in json.loads((tmp_path / "rows.json").read_text()) for row in group["rows"]]
    assert sorted(rows) == ["here", "there"] and str(tmp_path) not in (tmp_path / "rows.json").read_text()


def test_folders_of_one_name_stay_two_sets(make_set, tmp_path):
    claim = {"score": score(0.5), "seeds": [0], "baselines": {}}
    folders = []
    for sub, records in (("a", [claim, {**claim, "score": score(0.2), "submitted_by": "carol"}]), ("b", [claim])):
        shutil.move(make_set("set", *records), tmp_path / sub / "set")
        folders.append(str(tmp_path / sub / "set"))
        claim = {**claim, "score": score(0.8)}
    sets, _ = read(*folders)
    assert [own.label for own in sets] == ["set", "set (2)"]
    (row,) = (row for group in compare(sets) for row in group.rows if row.record.submitted_by)
    assert row.over_claim.claimed.score.mean == 0.5


def test_sets_and_measurements_are_chosen(on_the_hub, make_set):
    other = MethodRecord(name="rded", title="RDED", config={})
    on_hub = on_the_hub("one", {"student": "convnet3"}, {"protocol": "kd"})
    sets, _ = read(on_hub, make_set("two", ipc=5), make_set("three", method=other))

    def chosen(**filters):
        return [own.label for own in sets if is_wanted(own, **{**ANY, **filters})]

    assert chosen() == ["one", "two", "three"]
    assert chosen(source="org/Fish") == ["one", "two", "three"] and not chosen(source="cifar10")
    assert chosen(method="RDED") == ["three"] and chosen(ipc=5) == ["two"] and chosen(author="org") == ["one"]
    assert [own.label for own in read(on_hub, fits=lambda own: own.manifest.ipc == 5)[0]] == []

    kept = measured_by(sets, protocol=None, student="convnet3")
    assert [(own.label, [record.student for record in own.records]) for own in kept] == [("one", ["convnet3"])]
    assert [len(own.records) for own in measured_by(sets, protocol="quick", student=None)] == [1, 1, 1]
    assert measured_by(sets, protocol="kd", student="convnet3") == []
    assert measured_by(sets, protocol=None, student=None) == sets


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["nowhere"], "there is no such folder"),
        (["--title", "x" * 60], "1 to 59 characters"),
        (["--collection"], "name one with --push_to_space"),
        (["--private"], "name one with --push_to_space"),
        (["--push_to_space", "a/b/c"], "NAMESPACE/NAME"),
        (["--push_to_space", "org/board"], "HF_HUB_OFFLINE"),
        (["--html", "one", "--json", "one"], "--html names the same file"),
        (["SET", "--ipc", "99"], "none that fits was found"),
    ],
)
def test_bad_input_is_refused_in_one_line(make_set, monkeypatch, capsys, words, reason):
    with pytest.raises(SystemExit) as exit:
        leaderboard(monkeypatch, *(make_set("one") if word == "SET" else word for word in words))
    assert exit.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and reason in error
