"""recipes/gvbsm.py and edc.py end to end; their losses are tested in tests/recovery/test_gvbsm.py."""

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from helpers import refused, run_here, unscored
from processes import run_python

from distill_hub import load_distilled
from distill_hub.running.seeds import draw_seed

SMALL = ["--ipc", "2", "--students", "convnet-1-w16", "--repeats", "1", "--view_epochs", "0"]


GVBSM = [*SMALL, "--recover_steps", "30", "--recover_learning_rate", "0.2", "--recover_batch_size", "7"]  # parts a class
EDC = [*SMALL, "--recover_steps", "20", "--images_per_class", "20", "--recover_batch_size", "8"]


class Made(NamedTuple):
    """A set of each recipe, and the option that names its networks."""

    folder: Path
    teacher: tuple[str, str]


def to(folder: Path) -> tuple[str, str]:
    return "--output_dir", str(folder)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Made:
    """Two networks, the second without BatchNorm, and what they make."""
    folder = tmp_path_factory.mktemp("made")
    for place, name in (("a", "convnet-2-w16-bn"), ("b", "convnet-1-w24")):
        run_here("recipes/fit_classifier.py", "--network", name, "--epochs", "5", *to(folder / place))
    teacher = "--teacher", f"{folder / 'a'},{folder / 'b'}"
    with unscored():
        run_here("recipes/gvbsm.py", *GVBSM, *teacher, *to(folder / "gvbsm"))
        run_here("recipes/edc.py", *EDC, *teacher, *to(folder / "edc"))
    return Made(folder, teacher)


@pytest.mark.parametrize("method", ["gvbsm", "edc"])
def test_the_set_says_what_it_is(made, method):
    found = load_distilled(made.folder / method)
    manifest, rows = found.manifest, found.dataset
    assert manifest.name == f"digits-ipc2-{method}" and manifest.method.name == method
    assert [member.architecture for member in manifest.teacher.members] == ["convnet-2-w16-bn", "convnet-1-w24"]
    assert manifest.teacher.combination == {"gvbsm": "norm", "edc": "mean"}[method]
    first, last = manifest.method.notes["mean_loss_of_first_and_last_tenth"]
    assert last < first
    assert rows["label"][:] == [label for label in range(10) for _ in range(2)]
    assert rows["seed"][:] == [draw_seed(0, "recover", str(label), index) for label in range(10) for index in range(2)]
    assert np.mean(np.argmax(rows["soft_label"][:], 1) == rows["label"][:]) > 0.7


def test_edc_changes_rdeds_images_a_little(made, tmp_path):
    with unscored():
        words = ("--teacher", str(made.folder / "a"), "--images_per_class", "20", *to(tmp_path / "rded"))
        run_here("recipes/rded.py", *SMALL, *words)
    tiled, images = (load_distilled(folder).pixels.astype(int) for folder in (tmp_path / "rded", made.folder / "edc"))
    change = abs(images - tiled).mean((1, 2, 3))
    assert (change > 0.5).all() and (change < 40).all()  # of 255


def test_two_processes_make_the_same_set(made, tmp_path):
    """They measure anew, each some of the classes, and tile and recover each some of the images."""
    environment = {**os.environ, "DISTILL_HUB_CACHE": str(tmp_path / "cache")}
    done = run_python("recipes/edc.py", *EDC, *made.teacher, *to(tmp_path / "two"), environment=environment, world=2)
    assert done.returncode == 0, done.stderr[-3000:]
    one, two = (load_distilled(folder).manifest.content_sha256 for folder in (made.folder / "edc", tmp_path / "two"))
    assert one == two


def test_tiles_that_do_not_fit_are_refused(made, tmp_path, capfd):
    line = refused(capfd, "recipes/edc.py", *EDC, *made.teacher, "--factor", "3", *to(tmp_path / "set"))
    assert "image_size: 16" in line and "multiple of factor, 3" in line
