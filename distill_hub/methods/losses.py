"""What a manifest says of the losses of a method."""

import torch

from distill_hub.running.run import Stage


def first_and_last_tenth(losses: torch.Tensor) -> list:
    """Return the means of the first and the last tenth of the steps.

    Args:
        losses: (steps, ...), steps >= 1.

    Returns:
        Two numbers, or two lists of the shape of what is left.
    """
    tenth = max(1, len(losses) // 10)
    return [losses[:tenth].mean(0).tolist(), losses[-tenth:].mean(0).tolist()]


def loss_note(stage: Stage) -> dict[str, list[float]]:
    """Return what the manifest says of the losses: means over the set, of the first and last tenth of the steps."""
    losses = stage.rows(0, len(stage), "losses")["losses"]
    return {"mean_loss_of_first_and_last_tenth": losses.mean(0).tolist()}
