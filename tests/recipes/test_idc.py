"""recipes/idc.py end to end; the loop and its sums are tested in tests/matching."""

import json

import numpy as np
import pytest
import torch
from helpers import refused, run_here, unscored
from processes import run_python

from distill_hub import load_distilled
from distill_hub.data.sources import load_source
from distill_hub.running.seeds import cpu_generator, draw_seed

SMALL = ["--ipc", "2", "--teacher_epochs", "4", "--students", "convnet-1-w16", "--repeats", "1", "--view_epochs", "2"]
WORDS = [*SMALL, "--network", "convnet-2-w8", "--match_networks", "2", "--match_steps", "3", "--real_batch_size", "16"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A set of 2 x 2 tiles."""
    folder = tmp_path_factory.mktemp("matched") / "idc"
    run_here("recipes/idc.py", *WORDS, "--output_dir", str(folder))
    return folder


def sha(folder):
    return json.loads((folder / "manifest.json").read_text())["content_sha256"]


def test_the_set_says_what_it_is(made):
    found = load_distilled(made)
    manifest, rows = found.manifest, found.dataset
    assert manifest.name == "digits-ipc2-idc" and (manifest.tiles, manifest.image_size, manifest.rows) == (2, 16, 20)
    first, last = manifest.method.notes["mean_loss_of_first_and_last_tenth"]
    assert last > 0 and first > 0
    assert manifest.views.rows == 2 * 80
    # The seed of an image is the real one in its upper left tile.
    train = load_source("digits").train
    for label in range(10):
        rows_of = train.by_class[label]
        order = cpu_generator(draw_seed(0, "start", str(label)))
        chosen = rows_of[torch.randperm(len(rows_of), generator=order)[:8:4].numpy()]
        assert rows["seed"][2 * label : 2 * label + 2] == chosen.tolist()
    (record,) = found.evaluations
    assert record.baselines.keys() == {"random real"} and record.settings["epochs"] == 50  # of two batches, for 80 images
    pixels, labels, soft_labels = found.decoded()
    assert pixels.shape == (80, 3, 16, 16) and np.abs(soft_labels.sum(1) - 1).max() < 1e-4
    assert (labels == np.repeat(np.arange(10), 8)).all()
    card = (made / "README.md").read_text()
    assert "**Each image holds 2 \N{MULTIPLICATION SIGN} 2 smaller ones.**" in card and "def decode(images, tiles)" in card
    assert card.index("The results above were measured so") > card.index("## Results")


def test_one_chunk_or_several_in_two_processes_give_the_same_set(made, tmp_path):
    words = [*WORDS, "--classes_at_a_time", "3", "--output_dir", str(tmp_path / "two")]
    done = run_python("recipes/idc.py", *words, world=2)
    assert done.returncode == 0, done.stderr[-3000:]
    assert sha(tmp_path / "two") == sha(made)


def test_idc_1_and_dream_are_called_so(tmp_path):
    with unscored():
        words = (
            "--factor",
            "1",
            "--start",
            "real",
            "--distance",
            "l1",
            "--pretrain_epochs",
            "1",
            "--training_images",
            "500",
        )
        run_here("recipes/idc.py", *WORDS, *words, "--output_dir", str(tmp_path / "one"))
        words = ("--sampler", "dream", "--real_batch_size", "8", "--match_networks", "1", "--factor", "3")
        run_here("recipes/idc.py", *WORDS, *words, "--output_dir", str(tmp_path / "dream"))
    one, dream = (load_distilled(tmp_path / name).manifest for name in ("one", "dream"))
    assert (one.name, one.method.name, one.tiles) == ("digits-ipc2-idc-1", "idc", None)
    assert (dream.name, dream.method.name, dream.tiles) == ("digits-ipc2-dream", "dream", 3)


def test_a_dry_run_foresees_it(tmp_path, capfd):
    run_here("recipes/idc.py", *WORDS, "--dry_run", "--output_dir", str(tmp_path / "set"))
    told = capfd.readouterr().out
    assert "match" in told and "evaluate" in told and not (tmp_path / "set").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--factor", "7"), "an image of 16 px cannot hold 7 x 7 tiles"),
        (("--factor", "9"), "factor: '9'"),
        (("--ipc", "40"), "160 are needed to start from"),
        (("--network", "resnet-18-bn"), "it has BatchNorm"),
    ],
)
def test_what_cannot_be_matched_is_refused_in_one_line(tmp_path, capfd, words, said):
    assert said in refused(capfd, "recipes/idc.py", *WORDS, *words, "--output_dir", str(tmp_path / "set"))
