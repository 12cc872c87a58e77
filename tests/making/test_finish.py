"""The end of a recipe; whole recipes are run in tests/recipes."""

import numpy as np
import torch

from distill_hub.artifact.rows import soft_labels
from distill_hub.running.run import Run


def test_soft_labels_are_probabilities_in_the_order_of_the_set(tmp_path):
    logits = 8 * torch.randn(250, 4, generator=torch.Generator().manual_seed(0))
    run = Run(tmp_path, {})
    stage = run.map("stage", range(250), lambda chunk: {"logits": logits[list(chunk)]}, chunk_size=7)
    odds = np.exp(logits.double().numpy())
    expected = torch.from_numpy(odds / odds.sum(1, keepdims=True)).float()
    torch.testing.assert_close(soft_labels(run, stage), expected, rtol=1e-6, atol=0)
