"""ZCA whitening, as the matching methods use it (MTT and its family): features of images become uncorrelated.

The transform follows from sums over the real training images, of values and of their products. Of pixels of 8 bits they are
whole numbers below 2^53, so double precision holds them exactly, whatever the order of summation: their hash is the same on
every machine, which that of eigenvectors is not.
"""

import functools
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import torch

from distill_hub.config import InputError

EPS = 0.1  # of all papers that whiten
LARGEST = 64  # side in pixels: the transform has (3 side²)² entries


def check_side(side: int) -> None:
    """Refuse to whiten images whose transform would not fit into memory.

    Raises:
        InputError: Above `LARGEST` pixels.
    """
    if side > LARGEST:
        gigabytes = 8 * (3 * side**2) ** 2 / 1e9
        valid = f"images of {side} pixels take {gigabytes:,.0f} GB of memory for each matrix of it; whiten at most {LARGEST}"
        raise InputError("pixels", "zca", valid)


@dataclass(frozen=True, eq=False)
class Zca:
    """A fitted transform: x ↦ (x - mean) T, with T = U diag((s + eps)^-1/2) Uᵀ of the covariance U diag(s) Uᵀ.

    Attributes:
        mean: (D,), of the images in [0, 1], D = 3·S·S.
        transform: T, (D, D), symmetric.
        eps: ε.
        images: How many it was fitted to.
        sha256: Over number, sums and sums of products; see `cards/FORMAT.md`.
    """

    mean: torch.Tensor
    transform: torch.Tensor
    eps: float
    images: int
    sha256: str

    def whiten(self, images: torch.Tensor, batch_size: int = 1000) -> torch.Tensor:
        """Whiten images, uint8 or float in [0, 1], (N, 3, S, S), on the transform's device: float32 of the same shape."""
        parts = []
        for part in images.split(batch_size):
            values = part if part.is_floating_point() else part.float() / 255
            whitened = (values.to(self.mean.device).flatten(1) - self.mean) @ self.transform
            parts.append(whitened.view_as(part))
        return torch.cat(parts)

    def restore(self, whitened: torch.Tensor) -> torch.Tensor:
        """Undo it: whitened (N, 3, S, S) to the units of an image, where nothing bounds them to [0, 1]."""
        return (whitened.to(self.mean.device).flatten(1) @ self._inverse + self.mean).view_as(whitened)

    @functools.cached_property
    def _inverse(self) -> torch.Tensor:
        return torch.linalg.inv(self.transform)  # of a condition of at most √(1 + s/eps), about 50


def fit(batches: Iterable[torch.Tensor], eps: float = EPS) -> Zca:
    """Fit the transform, on the device of the images.

    Args:
        batches: All training images, uint8 (B, 3, S, S), some at a time.
        eps: ε, added to the eigenvalues of the covariance of the images in [0, 1].

    Raises:
        InputError: See `check_side`.
    """
    count, total, products = 0, 0.0, 0.0
    for batch in batches:
        check_side(batch.shape[-1])
        values = batch.flatten(1).double()
        count, total, products = count + len(batch), total + values.sum(0), products + values.T @ values
    digest = hashlib.sha256()
    for part in (torch.tensor([count]), total, products):
        digest.update(part.to("cpu", torch.int64).contiguous().numpy().astype("<i8", copy=False))
    mean = total / count
    covariance = (products - count * torch.outer(mean, mean)) / (count - 1)  # of values in 0 … 255
    variances, vectors = torch.linalg.eigh(covariance / 255**2)
    transform = (vectors * (variances.clamp(min=0) + eps).rsqrt()) @ vectors.T
    return Zca((mean / 255).float(), transform.float(), eps, count, digest.hexdigest())
