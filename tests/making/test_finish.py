"""The end of a recipe; whole recipes are run in tests/recipes."""

import os

import numpy as np
import torch
from helpers import refused, run_here

from distill_hub.artifact.manifest import Manifest
from distill_hub.artifact.rows import soft_labels
from distill_hub.running.run import Run


def test_soft_labels_are_probabilities_in_the_order_of_the_set(tmp_path):
    logits = 8 * torch.randn(250, 4, generator=torch.Generator().manual_seed(0))
    run = Run(tmp_path, {})
    stage = run.map("stage", range(250), lambda chunk: {"logits": logits[list(chunk)]}, chunk_size=7)
    odds = np.exp(logits.double().numpy())
    expected = torch.from_numpy(odds / odds.sum(1, keepdims=True)).float()
    torch.testing.assert_close(soft_labels(run, stage), expected, rtol=1e-6, atol=0)


def test_a_set_without_students_and_without_what_it_was_made_from(tmp_path, capfd):
    words = ["--ipc", "1", "--teacher_epochs", "2", "--view_epochs", "0", "--output_dir", str(tmp_path)]
    run_here("recipes/random_real.py", *words, "--score", "no", "--keep_run", "no")
    made = Manifest.read(tmp_path / "manifest.json")
    assert "No student has been trained on this set yet." in (tmp_path / "README.md").read_text()
    assert "` scores it, `" in capfd.readouterr().out and not (tmp_path / "evaluations").exists()
    assert os.listdir(tmp_path / ".run") == ["config.json"]
    run_here("recipes/random_real.py", *words)  # the same, but for what is no part of what it is made from
    said = capfd.readouterr().out
    assert f"The finished set is in {tmp_path}, but nothing that it was made from (--keep_run no)" in said
    assert Manifest.read(tmp_path / "manifest.json") == made and not (tmp_path / "evaluations").exists()
    assert "seed: 1 cannot be used" in refused(capfd, "recipes/random_real.py", *words, "--seed", "1")
