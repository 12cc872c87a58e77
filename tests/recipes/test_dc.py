"""recipes/dc.py end to end; what it does to pixels is tested in tests/matching."""

import json

import numpy as np
import pytest
from helpers import refused, run_here, unscored
from processes import run_python

from distill_hub import load_distilled
from distill_hub.data.sources import load_source
from distill_hub.running.seeds import draw_seed

SMALL = ["--ipc", "2", "--teacher_epochs", "4", "--students", "convnet-1-w16", "--repeats", "1", "--view_epochs", "0"]
LOOPS = ["--match_networks", "2", "--outer_steps", "3", "--inner_epochs", "2", "--real_batch_size", "16"]
DSA = [*SMALL, *LOOPS, "--network", "convnet-2-w8"]
DC = [*DSA, "--augment", "none"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A set of DC and one of DSA."""
    folder = tmp_path_factory.mktemp("matched")
    run_here("recipes/dc.py", *DC, "--output_dir", str(folder / "dc"))
    with unscored():
        run_here("recipes/dc.py", *DSA, "--output_dir", str(folder / "dsa"))
    return folder


def sha(folder) -> str:
    return json.loads((folder / "manifest.json").read_text())["content_sha256"]


def test_dc_starts_from_noise(made):
    found = load_distilled(made / "dc")
    assert found.manifest.name == "digits-ipc2-dc" and found.manifest.method.config["start"] == "noise"
    assert found.manifest.is_from_noise and "DSA" not in found.manifest.method.title
    assert found.dataset["seed"][:] == [draw_seed(0, "start", str(label)) for label in range(10) for _ in "ab"]
    assert [record.baselines.keys() for record in found.evaluations] == [{"random real"}]


def test_dsa_starts_from_real_images(made):
    found = load_distilled(made / "dsa")
    assert found.manifest.name == "digits-ipc2-dsa" and found.manifest.method.name == "dsa"
    assert found.manifest.method.config["start"] == "real" and not found.manifest.is_from_noise
    train = load_source("digits").train
    assert [train.labels[row] for row in found.dataset["seed"][:]] == [label for label in range(10) for _ in "ab"]
    starts = train.pixels(np.array(found.dataset["seed"][:]), 16).numpy()
    moved = np.abs(found.pixels.astype(int) - starts.astype(int))
    assert 0 < moved.mean() < 60
    first, last = found.manifest.method.notes["mean_loss_of_first_and_last_tenth"]
    assert last > 0 and 0 < first < 10 * (8 + 8 + 10) * 2  # at most 2 for every row, summed over classes


def test_two_processes_make_the_same_set(made, tmp_path):
    done = run_python("recipes/dc.py", *DC, "--output_dir", str(tmp_path / "two"), world=2)
    assert done.returncode == 0, done.stderr[-3000:]
    assert sha(tmp_path / "two") == sha(made / "dc")


@pytest.mark.parametrize("kill_at", [1, 4])  # before the network has learned a second time, and in the second network
def test_a_run_that_is_cut_short_inside_comes_to_the_same(made, tmp_path, monkeypatch, kill_at):
    import distill_hub.running.checkpoint as checkpoint
    from distill_hub.matching import pixels

    class Killed(BaseException):
        pass

    taken, step = [], pixels.step

    def counted(*how, **more):
        taken.append(1)
        if len(taken) == kill_at + 1:
            raise Killed
        step(*how, **more)

    monkeypatch.setattr(checkpoint, "SAVED_AFTER", -1.0)
    monkeypatch.setattr(pixels, "step", counted)
    words = ["recipes/dc.py", *DSA, "--output_dir", str(tmp_path / "cut")]
    with unscored():
        with pytest.raises(Killed):
            run_here(*words)
        run_here(*words)
    assert len(taken) == 6 + 1
    assert sha(tmp_path / "cut") == sha(made / "dsa")


def test_noise_that_shows_nothing_is_a_warning_and_no_error(tmp_path, capfd):
    """All the work is done then; and whoever scores the set again is warned, too."""
    folder = str(tmp_path / "set")
    with unscored():
        run_here("recipes/dc.py", *DC, "--match_learning_rate", "1e-9", "--output_dir", folder)
    assert "warning: its images agree with the labels on" in " ".join(capfd.readouterr().out.split())
    how = {"source": "digits", "protocol": "quick", "students": "convnet-1-w16", "repeats": 1}
    (pair,) = load_distilled(folder).evaluate(**how)
    assert pair.measured.score.mean < 0.5
    assert "warning: its soft labels agree with the labels on" in " ".join(capfd.readouterr().out.split())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--ipc", "200"), "ipc: 200 cannot be used; class"),
        (("--network", "resnet-18-bn"), "it has BatchNorm"),
        (("--network", "convnet-9"), "16 px allow a depth of 4"),
        (("--distance", "row"), "did you mean 'rows'"),
        (("--outer_steps", "0"), "outer_steps"),
        (("--network_learning_rate", "1e30"), "pixels: nan"),
    ],
)
def test_what_cannot_be_matched_is_refused_in_one_line(tmp_path, capfd, words, said):
    assert said in refused(capfd, "recipes/dc.py", *DSA, *words, "--output_dir", str(tmp_path / "set"))
