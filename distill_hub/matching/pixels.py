"""What is optimised: the pixels of a set, from what they start, and how a step moves them.

The papers' pixels are free numbers in normalised space, of which the released pictures are clipped copies. Here they are
numbers in [0, 1], clamped after every step, so that the stored image is the set, unless another `matching.space` is asked
for. A learning rate keeps the papers' unit: that of normalised pixels, z = (x - mean) / std, whose step of SGD is one of
std^2 times the rate in x.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch

from distill_hub.augmentation.augment import denormalize
from distill_hub.config import InputError
from distill_hub.data.known import NORMALIZATIONS, RGB
from distill_hub.data.sources import Source
from distill_hub.running.seeds import cpu_generator, draw_seed

MOMENTUM = 0.5  # of the pixels, in all codes since dataset condensation
Start = Literal["real", "noise"]


def normalization(source: Source, size: int) -> tuple[RGB, RGB]:
    """Return mean and deviation per channel of a source's images: up to 64 px its own, above ImageNet's."""
    return NORMALIZATIONS[source.normalization if size <= 64 else "imagenet"]


def refuse_half_precision(dtype: torch.dtype) -> None:
    """Refuse float16, in which gradients of pixels vanish unless they are scaled, which is not done here.

    Raises:
        InputError: Saying what is valid.
    """
    if dtype is torch.float16:
        raise InputError("mixed_precision", "fp16", "gradients would vanish in it; valid for matching: bf16, no")


def start(
    how: Start, real: torch.Tensor, rows: np.ndarray, ipc: int, source: Source, seed: int, class_name: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what the images of a class start from.

    Args:
        how: real: real images at random; noise: normal noise in normalised space, cut to [0, 1].
        real: All real images of the class, uint8 (N, 3, S, S).
        rows: Their rows in the training split, (N,).
        ipc: Images per class.
        source: The real dataset.
        seed: Of the run; what is drawn depends on it and on the class.
        class_name: Of the class.

    Returns:
        Images, float32 (IPC, 3, S, S) in [0, 1], and of each the row that it was, or the seed of the noise, int64 (IPC,).
    """
    own = draw_seed(seed, "start", class_name)
    if how == "real":
        chosen = torch.randperm(len(real), generator=cpu_generator(own))[:ipc]
        return real[chosen].float() / 255, torch.from_numpy(rows)[chosen]
    size = real.shape[-1]
    drawn = torch.randn(ipc, 3, size, size, generator=cpu_generator(own))
    return denormalize(drawn, *normalization(source, size)).clamp(0, 1), torch.full((ipc,), own)


def step(
    pixels: torch.Tensor,
    velocity: torch.Tensor,
    gradient: torch.Tensor,
    rate: float,
    std: Sequence[float],
    *,
    free: bool = False,
) -> None:
    """Take one step of SGD with momentum, in place.

    Args:
        pixels: (N, 3, S, S) in [0, 1], where they are not free.
        velocity: The momentum, of the same shape; zeros at the start.
        gradient: Of the loss in the pixels.
        rate: Learning rate in units of normalised pixels.
        std: Of the normalisation, per channel.
        free: Whether nothing bounds the pixels.
    """
    with torch.no_grad():
        velocity.mul_(MOMENTUM).add_(gradient)
        pixels.sub_(velocity * (rate * pixels.new_tensor(std).square().view(3, 1, 1)))
        if not free:
            pixels.clamp_(0, 1)


def to_uint8(pixels: torch.Tensor) -> torch.Tensor:
    """Return pixels in [0, 1] as images, uint8 on the CPU; what lies outside is clipped."""
    return (pixels.detach().clamp(0, 1) * 255).round().to(torch.uint8).cpu()
