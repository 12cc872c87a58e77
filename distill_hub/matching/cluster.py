"""Clusters of features: images that stand for all of their class."""

import torch

from distill_hub.running.seeds import cpu_generator

ITERATIONS = 20
_AT_A_TIME = 2**24  # distances held in memory


def k_means(points: torch.Tensor, count: int, seed: int) -> torch.Tensor:
    """Return the means of clusters (Lloyd, 1982), from points drawn at random; where a cluster is empty, its last mean.

    There is no sum whose order a GPU chooses: the same points give the same means again.

    Args:
        points: float32 (N, D).
        count: Number of clusters, K, at most N.
        seed: Of the points to start from.

    Returns:
        float32 (K, D).
    """
    chosen = torch.randperm(len(points), generator=cpu_generator(seed))[:count]
    means = points[chosen.to(points.device)]
    for _ in range(ITERATIONS):
        members = torch.zeros(count, len(points), device=points.device)
        members.scatter_(0, nearest(points, means)[None], 1.0)
        sizes = members.sum(1, keepdim=True)
        moved = torch.where(sizes > 0, members @ points / sizes.clamp(min=1), means)
        if torch.equal(moved, means):
            break
        means = moved
    return means


def nearest(points: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """Return of each point (N, D) the index of the closest of others (K, D), int64 (N,); the first of equally close ones."""
    parts = points.split(max(1, _AT_A_TIME // len(others)))
    return torch.cat([torch.cdist(part, others).argmin(1) for part in parts])
