"""recipes/dm.py end to end; what it does to pixels is tested in tests/matching."""

import json

import pytest
from helpers import refused, run_here, unscored
from processes import run_python

from distill_hub import evaluate, load_distilled
from distill_hub.data.sources import load_source

SMALL = ["--ipc", "2", "--teacher_epochs", "4", "--students", "convnet-1-w16", "--repeats", "1", "--view_epochs", "0"]
WORDS = [*SMALL, "--network", "convnet-2-w8", "--match_steps", "10", "--real_batch_size", "16"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("matched") / "dm"
    run_here("recipes/dm.py", *WORDS, "--output_dir", str(folder))
    return folder


def test_the_set_says_what_it_is(made):
    found = load_distilled(made)
    manifest, rows = found.manifest, found.dataset
    assert manifest.name == "digits-ipc2-dm" and manifest.method.config["match_steps"] == 10
    first, last = manifest.method.notes["mean_loss_of_first_and_last_tenth"]
    assert 0 < last < first
    # The seed of an image is the real one that it started from.
    train = load_source("digits").train
    assert [train.labels[row] for row in rows["seed"][:]] == rows["label"][:] == [label for label in range(10) for _ in "ab"]
    assert [record.baselines.keys() for record in found.evaluations] == [{"random real"}]


def test_networks_may_be_trained_on_real_images_meanwhile(tmp_path):
    words = ("--networks", "trained", "--match_steps", "1", "--output_dir", str(tmp_path / "set"))
    with unscored():
        run_here("recipes/dm.py", *WORDS, *words)
    manifest = load_distilled(tmp_path / "set").manifest
    assert manifest.name == "digits-ipc2-dm-trained" and manifest.method.name == "dm"
    assert manifest.method.config["networks"] == "trained"


def test_two_processes_make_the_same_set(made, tmp_path):
    done = run_python("recipes/dm.py", *WORDS, "--output_dir", str(tmp_path / "two"), world=2)
    assert done.returncode == 0, done.stderr[-3000:]
    one, two = (json.loads((folder / "manifest.json").read_text()) for folder in (made, tmp_path / "two"))
    assert one["content_sha256"] == two["content_sha256"] and two["environment"]["processes"] == 2


def test_a_run_that_is_cut_short_inside_a_class_comes_to_the_same(made, tmp_path, monkeypatch):
    import distill_hub.running.checkpoint as checkpoint
    from distill_hub.matching import pixels

    class Killed(BaseException):
        pass

    taken, step = [], pixels.step

    def counted(*how, **more):
        taken.append(1)
        if len(taken) == 26:
            raise Killed
        step(*how, **more)

    monkeypatch.setattr(checkpoint, "SAVED_AFTER", -1.0)
    monkeypatch.setattr(pixels, "step", counted)
    words = [*WORDS, "--output_dir", str(tmp_path / "cut")]
    with pytest.raises(Killed), unscored():
        run_here("recipes/dm.py", *words)
    with unscored():
        run_here("recipes/dm.py", *words)
    assert len(taken) == 101  # ten steps of ten classes, and the one that was cut short
    one, again = (json.loads((folder / "manifest.json").read_text()) for folder in (made, tmp_path / "cut"))
    assert one["content_sha256"] == again["content_sha256"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--ipc", "200"), "ipc: 200 cannot be used; class"),
        (("--network", "resnet-18-bn"), "it has BatchNorm"),
        (("--network", "convnet-9"), "16 px allow a depth of 4"),
        (("--networks", "trained", "--pixels", "free"), "--networks trained is IDC's loop"),
        (("--networks", "trained", "--augment", "none"), "valid beside it: dsa"),
    ],
)
def test_what_cannot_be_matched_is_refused_in_one_line(tmp_path, capfd, words, said):
    assert said in refused(capfd, "recipes/dm.py", *WORDS, *words, "--output_dir", str(tmp_path / "set"))


@pytest.mark.parametrize(
    ("recipe", "words", "said"),
    [
        ("dm", ("--network", "resnet-18-bn"), "it has BatchNorm"),
        ("dc", ("--network", "convnet-9"), "16 px allow a depth of 4"),
        ("mtt", ("--network", "timm/resnet10t"), "network: 'timm/resnet10t'"),
        ("mtt", ("--min_start", "4"), "max_start is 4: an earlier epoch is needed"),
        ("mtt", ("--window_start", "9", "--window_end", "10"), "max_start is 4, which it grows to"),
        ("idc", ("--ipc", "40"), "160 are needed to start from"),
        ("glad", ("--network", "resnet-18-bn"), "it has BatchNorm"),
    ],
)
def test_nothing_is_fitted_for_what_cannot_be_matched(tmp_path, capfd, monkeypatch, recipe, words, said):
    monkeypatch.setenv("DISTILL_HUB_CACHE", str(tmp_path / "cache"))
    assert said in refused(capfd, f"recipes/{recipe}.py", *words, "--output_dir", str(tmp_path / "set"))
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("space", ["free", "zca"])
def test_free_pixels_are_published_and_score_the_same_again(space, tmp_path):
    folder = tmp_path / space
    run_here("recipes/dm.py", *WORDS, "--pixels", space, "--match_learning_rate", "3", "--output_dir", str(folder))
    found = load_distilled(folder)
    assert found.free_pixels.shape == (20, 3, 16, 16) and (found.manifest.free_pixels.zca is not None) == (space == "zca")
    assert found.free_pixels.min() < 0  # where a clamped pixel would have stopped
    if space == "free":  # the picture is the column, clipped
        clipped = (found.free_pixels.astype("float32").clip(0, 1) * 255).round().astype("uint8")
        assert (clipped == found.pixels).all()
    (again,) = evaluate(folder)
    assert again.measured.score == again.claimed.score
    assert again.claimed.baselines["random real"].mean > 0.2


def test_what_free_pixels_cannot_do_is_refused_before_any_work(tmp_path, capfd):
    words = ["recipes/dm.py", *WORDS, "--output_dir", str(tmp_path / "set"), "--pixels"]
    taught = ["--protocol", "rded-soft", "--students", "convnet-1-bn"]
    assert "protocol: 'rded-soft' cannot be used; a teacher labels" in refused(capfd, *words, "free", *taught)
    assert "view_epochs: 300 cannot be used; stored views are" in refused(capfd, *words, "zca", "--view_epochs", "300")
    assert "top_k: 3 cannot be used; stored views are" in refused(capfd, *words, "zca", "--top_k", "3")
    assert "19 GB of memory" in refused(capfd, *words, "zca", "--image_size", "128")
    assert not (tmp_path / "set").exists()
