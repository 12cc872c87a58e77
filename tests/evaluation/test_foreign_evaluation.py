"""Scoring sets that were made elsewhere: by class names, beside random real images, and without a guess."""

import json
import os
import shutil
import sys
import time

import numpy as np
import pytest
from hub_client import Client
from hub_server import HubServer
from processes import kill, start_python

from distill_hub import InputError, evaluate
from distill_hub.cli import main
from distill_hub.config import HubError
from distill_hub.evaluation import scores
from distill_hub.training.train import Training

ORDER = [3, 7, 5, 9, 0, 2, 8, 1, 6, 4]  # the digit that each label stands for; none for its own
NAMES = [str(digit) for digit in ORDER]
HOW = {"source": "digits", "protocol": "quick", "students": "convnet-2-w16", "repeats": 1}
REPO = "org/digits"
FILE = "data/train-00000-of-00001.parquet"


@pytest.fixture(scope="module")
def stranger(parquet, tmp_path_factory):
    """A user of a set on the Hub whose labels are mere numbers, in a class order of their own."""
    with HubServer() as hub:
        hub.add_user("alice", orgs=["org"])
        hub.commit(REPO, {FILE: parquet(ORDER), "README.md": b"# Digits"})
        client = Client(hub, tmp_path_factory.mktemp("stranger"))
        yield client
        client.stop()


@pytest.fixture
def score(tmp_path, remembered):
    """Score a parquet file, or any set, in this process."""

    def score(data, **options):
        if isinstance(data, bytes):
            (tmp_path / "set").mkdir()
            (tmp_path / "set" / "set.parquet").write_bytes(data)
            data = tmp_path / "set"
        (pair,) = evaluate(data, **{**HOW, **options})
        return pair

    return score


@pytest.fixture
def plain(score, image_folder):
    """The score of the images, read the plainest way."""
    return score(image_folder)


def test_a_set_on_the_hub_scores_the_same_in_another_class_order(stranger, plain):
    (found,) = stranger.result("evaluate", REPO, **HOW, classes=",".join(NAMES))
    assert found["measured"] == plain.measured.score.last and found["measured"][0] > 0.75
    # Nothing is claimed, so random real images give the number its meaning.
    assert found["claimed"] is None and found["agrees"] is None
    assert list(found["baselines"]) == ["random real"] and found["baselines"]["random real"][0] > 0.75


def test_what_the_set_does_not_say_is_asked_for(stranger):
    for missing in ("classes", "source"):
        given = {name: value for name, value in {**HOW, "classes": "digits"}.items() if name != missing}
        line = stranger.refusal("evaluate", REPO, **given)
        assert line.startswith(f"{missing}: ") and f"pass --{missing}" in line


def test_the_wrong_class_order_shows_as_accuracy_near_chance(score, parquet):
    assert score(parquet(ORDER), classes="digits").measured.score.mean < 0.15


def test_names_in_the_table_need_no_option(score, parquet, plain):
    found = score(parquet(ORDER, names=NAMES))
    assert found.measured.score == plain.measured.score and found.measured.baselines == plain.measured.baselines
    assert found.measured.content_sha256 == plain.measured.content_sha256


def test_a_zip_of_the_folder_scores_as_the_folder(score, image_folder, plain, tmp_path):
    file = shutil.make_archive(str(tmp_path / "pictures"), "zip", image_folder)
    assert score(file).measured.score == plain.measured.score


def test_soft_labels_in_another_order_than_the_labels_are_refused(score, parquet):
    with pytest.raises(InputError, match=r"its soft labels agree with the labels on 0\.0%"):
        score(parquet(range(10), names=list("0123456789"), soft_labels=np.roll(np.eye(10, dtype=np.float32), 1, axis=1)))


def test_classes_that_the_set_does_not_have_are_not_tested(score, digits, image_folder, tmp_path):
    for name in "2467":
        shutil.copytree(image_folder / name, tmp_path / "four" / name)
    record = score(tmp_path / "four").measured
    count = int(np.isin(digits.test.labels, [2, 4, 6, 7]).sum())
    assert count < 250
    for accuracy in (record.score.last[0], record.baselines["random real"].last[0]):
        hits = accuracy * count
        assert accuracy > 0.8 and hits == pytest.approx(round(hits), abs=1e-9)


def test_a_set_larger_than_its_source_is_refused(score, pixels, tmp_path):
    np.save(tmp_path / "images.npy", np.tile(pixels, (1, 28, 1, 1, 1)).reshape(-1, 16, 16, 3))
    np.save(tmp_path / "labels.npy", np.repeat(np.arange(10), 140))
    with pytest.raises(InputError, match=r"^source: 'digits' .* images to train on, the set 140"):
        score(tmp_path, classes="digits")


def test_the_command_writes_what_it_measured(image_folder, plain, tmp_path, monkeypatch, capsys):
    words = [word for name, value in HOW.items() for word in (f"--{name}", str(value))]
    words += ["--json", str(tmp_path / "found.json")]
    monkeypatch.setattr(sys, "argv", ["distill-hub", "evaluate", str(image_folder), *words])
    main()
    printed = capsys.readouterr()
    assert "random real" in printed.out and plain.measured.score.percent() in printed.out
    (pair,) = json.loads((tmp_path / "found.json").read_text())
    assert pair["claimed"] is pair["difference"] is pair["agrees"] is None
    assert pair["measured"]["score"]["last"] == plain.measured.score.last


def test_what_claims_nothing_is_not_checked(image_folder, monkeypatch, capsys):
    monkeypatch.setattr("distill_hub.evaluation.reevaluate.evaluate", lambda *_, **__: pytest.fail("it trained"))
    monkeypatch.setattr(sys, "argv", ["distill-hub", "evaluate", str(image_folder), "--source", "digits", "--check"])
    with pytest.raises(SystemExit) as stop:
        main()
    (error,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("error: "))
    assert stop.value.code == 2
    assert error.startswith("error: check: ") and "was made elsewhere and claims nothing" in error


def test_nothing_is_lost_when_what_was_measured_cannot_be_delivered(image_folder, tmp_path, monkeypatch):
    """A pull request that the Hub refuses, or a file that cannot be written, after all the training."""
    trained = []

    def students(*_, **__):
        trained.append(1)
        return [Training(None, last=0.25, best=0.25, best_epoch=1, curve=(0.25,))]

    def fail(comparisons):
        assert comparisons[0].measured.score.last == [0.25]
        raise error

    monkeypatch.setenv("DISTILL_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(scores, "train_students", students)
    for error in (HubError("the Hub is down"), OSError("Read-only file system"), InputError("json", "x", "no")):
        with pytest.raises(type(error)):
            evaluate(image_folder, **HOW, deliver=fail)
    delivered = []
    evaluate(image_folder, **HOW, deliver=delivered.append)
    assert len(delivered) == 1 and len(trained) == 2  # this set and random real images, once
    assert not list((tmp_path / "evaluations").iterdir())


def test_a_killed_evaluation_goes_on_where_it_stopped(image_folder, plain, tmp_path, monkeypatch):
    code = f"import sys, distill_hub; distill_hub.evaluate(sys.argv[1], **{HOW})"
    environment = {**os.environ, "DISTILL_HUB_CACHE": str(tmp_path)}
    process = start_python(["-c", code, str(image_folder)], [], environment)
    while not (markers := list(tmp_path.glob("evaluations/*/.run/1 of 1*/000000.json"))):  # of the student
        assert process.is_alive()
        time.sleep(0.01)
    kill(process)
    (marker,) = markers
    written = marker.stat().st_mtime_ns
    trained = []

    def students(*_, **__):
        trained.append(marker.exists() and marker.stat().st_mtime_ns == written)
        return [Training(None, last=0.25, best=0.25, best_epoch=1, curve=(0.25,))]

    monkeypatch.setenv("DISTILL_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(scores, "train_students", students)
    (pair,) = evaluate(image_folder, **HOW)
    assert trained == [True]  # the baseline's student, beside the finished one
    assert pair.measured.score == plain.measured.score and pair.measured.baselines["random real"].last == [0.25]
    assert not marker.parents[2].exists()
    (pair,) = evaluate(image_folder, **HOW)  # anew
    assert trained == [True, False, False] and pair.measured.score.last == [0.25]
