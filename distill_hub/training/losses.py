"""What students of LPQLD and EDC are measured by, beside the divergence from the labels."""

import torch
import torch.nn.functional as F

from distill_hub.teams.team import Team


def nearest_temperatures(logits: torch.Tensor, targets: torch.Tensor, team: Team | None = None) -> torch.Tensor:
    """Return the temperature at which each student is nearest to the labels (LPQLD: Xiao and He, 2026).

    Args:
        logits: Of K students, float32 (K, B, C).
        targets: Probabilities, alike.
        team: Whose members have a share of the B each.

    Returns:
        float32 (K, 1, 1): of 0.01, 0.02, ..., 1 that with the least Kullback-Leibler divergence, the first of equal ones.
    """
    grid = torch.arange(1, 101, device=logits.device) / 100
    # Without the labels' own entropy, which no temperature changes; ten at a time, as B times C may be large.
    parts = (F.log_softmax(logits / some.view(-1, 1, 1, 1), dim=3) for some in grid.split(10))
    divergences = torch.cat([-(targets * part).sum((2, 3)) for part in parts])  # (100, K)
    divergences = team.summed(divergences) if team else divergences
    return grid[divergences.argmin(0)].view(-1, 1, 1)


def squared_error(logits: torch.Tensor, wanted: torch.Tensor, labels: torch.Tensor, hard_weight: float) -> torch.Tensor:
    """Return EDC's loss (Shao et al., 2024): the mean squared difference of logits (B, C), and some of the cross-entropy."""
    return F.mse_loss(logits, wanted) + hard_weight * F.cross_entropy(logits, labels)
