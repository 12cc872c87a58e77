"""Efficient Dataset Distillation via Minimax Diffusion (Gu et al., CVPR 2024): memories and criteria.

The generator is fine-tuned (`methods.tuning`) so that the latents it predicts for a class come closer to the least similar
real one (Eq. 3) and away from the most similar predicted one (Eq. 4), among those of the latest steps; then it is sampled.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F

FACTS = {
    "name": "minimax",
    "title": "Efficient Dataset Distillation via Minimax Diffusion",
    "paper": "https://arxiv.org/abs/2311.15529",
    "bibtex": """@inproceedings{gu2024minimax,
  title = {Efficient Dataset Distillation via Minimax Diffusion},
  author = {Gu, Jianyang and Vahidian, Saeed and Kungurtsev, Vyacheslav and Wang, Haonan and Jiang, Wei and You, Yang
            and Chen, Yiran},
  booktitle = {Conference on Computer Vision and Pattern Recognition},
  year = {2024},
}""",
}


class Memory:
    """The latest `size` latents of every class, first in, first out: M and D of Alg. 1.

    Args:
        classes: Number of classes, C.
        size: Latents per class.
        dimensions: Length of a flattened latent.
        device: Where to keep them.
        dtype: Of the latents.
    """

    def __init__(self, classes: int, size: int, dimensions: int, device: torch.device | str = "cpu", dtype=torch.float32):
        self.entries = torch.zeros(classes, size, dimensions, device=device, dtype=dtype)
        self.seen = torch.zeros(classes, dtype=torch.int64, device=device)  # latents ever added, per class

    def add(self, labels: torch.Tensor, latents: torch.Tensor) -> None:
        """Add latents (B, dimensions) of classes (B,), in their order; the oldest ones of a full class go."""
        size, same = self.entries.shape[1], labels[:, None] == labels
        before = same.tril(-1).sum(1)  # how many of the class come earlier in the batch
        kept = same.sum(1) - before <= size  # of more than fit, the last ones
        place = (self.seen[labels] + before) % size
        self.entries[labels[kept], place[kept]] = latents.detach()[kept].to(self.entries.dtype)
        self.seen += torch.bincount(labels, minlength=len(self.seen))

    def of(self, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the memory of each label's class, (B, size, dimensions), and which entries are filled, (B, size)."""
        size = self.entries.shape[1]
        return self.entries[labels], torch.arange(size, device=labels.device) < self.seen[labels, None]


def criteria(
    predicted: torch.Tensor,
    labels: torch.Tensor,
    real: Memory,
    generated: Memory,
    *,
    representativeness: str = "minimax",
    diversity: str = "minimax",
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return L_r and L_d of a batch, each averaged over its classes; a class that the memories do not know counts as 0.

    'minimax' takes the worst pair of (latents of the class in the batch) x (memory of the class): L_r is one minus the
    cosine of the least similar real latent (Eq. 3), L_d the cosine of the most similar predicted one (Eq. 4). 'mean', the
    naive form of the ablation (Eq. 2, Tab. 5), takes the mean cosine with the mean of the class's memory. Eq. 2 has the mean
    of the batch's images, of which, at 8 images, hardly one is of the class; the memory's mean is what the text describes,
    the centre of the real distribution.

    Args:
        predicted: ẑ, (B, dimensions).
        labels: (B,) in [0, C).
        real: M.
        generated: D.
        representativeness: 'minimax' or 'mean'.
        diversity: 'minimax' or 'mean'.

    Returns:
        Two scalars, L_r in [0, 2] and L_d in [-1, 1], differentiable in `predicted`.
    """
    same = labels[:, None] == labels
    share = 1 / same.sum(1, dtype=predicted.dtype)  # of each image in its class, so that classes count alike

    def similarity(memory: Memory, worst: Callable | None) -> torch.Tensor:
        entries, filled = memory.of(labels)
        if worst is None:
            return F.cosine_similarity(predicted, entries.sum(1), dim=1)  # a cosine ignores the mean's scale
        outside = torch.inf if worst is torch.amin else -torch.inf
        pairs = F.cosine_similarity(predicted[:, None], entries, dim=2).masked_fill(~filled, outside)  # (B, size)
        return worst(worst(pairs, 1).expand_as(same).masked_fill(~same, outside), 1)

    def over_classes(values: torch.Tensor) -> torch.Tensor:
        return (share * values.where(real.seen[labels] > 0, 0)).sum() / share.sum()

    near = similarity(real, torch.amin if representativeness == "minimax" else None)
    far = similarity(generated, torch.amax if diversity == "minimax" else None)
    return over_classes(1 - near), over_classes(far)
