"""Networks that are trained for their training dynamics: what they say, killed and resumed, and kept for all runs."""

import dataclasses

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from distill_hub.augmentation.augment import augment, draw, usual_augmentation
from distill_hub.config import InputError
from distill_hub.coresets.dynamics import Recorder
from distill_hub.data.known import NORMALIZATIONS
from distill_hub.networks.build import build
from distill_hub.running import checkpoint
from distill_hub.running.dry_run import DryRun
from distill_hub.running.run import Run
from distill_hub.running.seeds import cpu_generator, draw_seed
from distill_hub.teachers.dynamics import open_dynamics

HOW = {"dynamics_network": "convnet-1-w8-bn", "dynamics_epochs": 3, "dynamics_count": 2}


@pytest.fixture
def few(digits, tmp_path, monkeypatch):
    """150 images, of which an epoch makes two batches of 75, and a cache of its own."""
    monkeypatch.setenv("DISTILL_HUB_CACHE", str(tmp_path / "cache"))
    return dataclasses.replace(digits, train=digits.train.select(np.arange(150), "train"))


def test_the_first_batch_is_what_a_new_network_says_of_it(few, tmp_path):
    files = open_dynamics(Run(tmp_path / "run", {}), few, 8, **HOW).files
    assert len(files) == 2 and all((load_file(file)["error"] >= 0).all() for file in files)
    for index, file in enumerate(files):
        seed = draw_seed(0, "dynamics", index)
        draws = draw(usual_augmentation(8, False), 150, 128, 8, cpu_generator(draw_seed(seed, "classifier epoch", 0)))
        first = {name: rows[:75] for name, rows in draws.items()}
        torch.manual_seed(draw_seed(seed, "classifier weights"))
        network, rows = build("convnet-1-w8-bn", 10, 8).train(), first["order"]
        images = augment(few.train.pixels(rows.numpy(), 8), first, *NORMALIZATIONS[few.normalization])
        logits = network(images).detach().numpy().astype(float)
        labels = few.train.labels[rows]
        own = logits[np.arange(75), labels]
        logits[np.arange(75), labels] = -np.inf
        found = load_file(file)["margin"][0, rows].numpy()
        np.testing.assert_allclose(found, own - logits.max(1), atol=1e-4)
    with pytest.raises(InputError, match="dynamics_network: 'convnet-9'"):
        open_dynamics(Run(tmp_path / "run", {}), few, 8, dynamics_network="convnet-9")


def test_killed_and_resumed_they_say_the_same_and_are_kept_for_all_runs(few, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setenv("DISTILL_HUB_CACHE", str(tmp_path / "other"))
        whole = open_dynamics(Run(tmp_path / "whole", {}), few, 8, **HOW)
    epochs, end_epoch = [], Recorder.end_epoch

    def until_the_fifth(recorder, epoch):
        epochs.append(epoch)
        if len(epochs) == 5:
            raise RuntimeError
        end_epoch(recorder, epoch)

    monkeypatch.setattr(checkpoint, "SAVED_AFTER", 0)
    monkeypatch.setattr(Recorder, "end_epoch", until_the_fifth)
    with pytest.raises(RuntimeError):
        open_dynamics(Run(tmp_path / "killed", {}), few, 8, **HOW)
    dry = open_dynamics(DryRun(tmp_path / "dry", {}), few, 8, **HOW)
    assert dry.difficulty("aum", 1).isfinite().all() and not list((tmp_path / "cache").glob("*dynamics*"))
    del epochs[:]
    resumed = open_dynamics(Run(tmp_path / "killed", {}), few, 8, **HOW)
    assert epochs == [1, 2] and resumed.sha256 == whole.sha256  # of the second network
    monkeypatch.setattr(Recorder, "end_epoch", lambda *_: pytest.fail("it is there"))
    later = Run(tmp_path / "later", {})
    assert open_dynamics(later, few, 8, **HOW).sha256 == whole.sha256
    assert [(stage["name"], stage["reused"]) for stage in later.stages] == [("dynamics", True)]
