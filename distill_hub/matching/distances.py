"""Distances of two gradients of a network's weights, that of real and that of synthetic images (Zhao et al., ICLR 2021)."""

from collections.abc import Sequence

import torch

EPSILON = 1e-6  # beside the product of two norms, as in the released code: a gradient of 0 has the distance 1


def row_cosine(real: Sequence[torch.Tensor], synthetic: Sequence[torch.Tensor]) -> torch.Tensor:
    """Sum 1 - cos over layers and their rows (DC), a scalar.

    A row is what leads to one output: of a convolution (out, in, k, k) the in * k * k weights of a channel, of a linear
    layer (out, in) those of a unit. Biases, and scales and shifts of norms, have a single dimension and do not count.

    Args:
        real: Gradients of the weights, in the order of the network's parameters.
        synthetic: Likewise.
    """
    total = synthetic[0].new_zeros(())
    for wanted, own in zip(real, synthetic, strict=True):
        if own.ndim > 1:
            total = total + _one_minus_cosine(wanted.flatten(1), own.flatten(1)).sum()
    return total


def cosine(real: Sequence[torch.Tensor], synthetic: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return 1 - cos of the two gradients as one vector each; see `row_cosine`."""
    return _one_minus_cosine(_vector(real), _vector(synthetic))


def squared(real: Sequence[torch.Tensor], synthetic: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return the squared Euclidean distance of the two gradients; see `row_cosine`."""
    return (_vector(real) - _vector(synthetic)).square().sum()


def _one_minus_cosine(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return 1 - (a * b).sum(-1) / (a.norm(dim=-1) * b.norm(dim=-1) + EPSILON)


def _vector(gradients: Sequence[torch.Tensor]) -> torch.Tensor:
    return torch.cat([gradient.flatten() for gradient in gradients])
