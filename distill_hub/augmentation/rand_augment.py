"""RandAugment (Cubuk et al., 2020) of whole batches: torchvision's operations, at its default magnitude of 9 of 30."""

import functools
import math
from collections.abc import Callable

import torch
from torchvision.transforms import functional as tv

COUNT = 2  # operations per image, one after the other


def _sheared(images: torch.Tensor, sign: int, axis: int) -> torch.Tensor:
    degrees = [0.0, 0.0]
    degrees[axis] = sign * math.degrees(math.atan(0.09))
    return tv.affine(images, angle=0.0, translate=[0, 0], scale=1.0, shear=degrees, center=[0, 0])


def _shifted(images: torch.Tensor, sign: int, axis: int) -> torch.Tensor:
    pixels = [0, 0]
    pixels[axis] = sign * int(45 / 331 * images.shape[-1])
    return tv.affine(images, angle=0.0, translate=pixels, scale=1.0, shear=[0.0, 0.0])


# Of uint8 images (B, 3, S, S) and a sign, which five of them take no notice of.
OPERATIONS: tuple[Callable[[torch.Tensor, int], torch.Tensor], ...] = (
    lambda images, sign: images,
    functools.partial(_sheared, axis=0),
    functools.partial(_sheared, axis=1),
    functools.partial(_shifted, axis=0),
    functools.partial(_shifted, axis=1),
    lambda images, sign: tv.rotate(images, 9.0 * sign),
    lambda images, sign: tv.adjust_brightness(images, 1 + 0.27 * sign),
    lambda images, sign: tv.adjust_saturation(images, 1 + 0.27 * sign),
    lambda images, sign: tv.adjust_contrast(images, 1 + 0.27 * sign),
    lambda images, sign: tv.adjust_sharpness(images, 1 + 0.27 * sign),
    lambda images, sign: tv.posterize(images, 7),
    lambda images, sign: tv.solarize(images, 178.5),
    lambda images, sign: tv.autocontrast(images),
    lambda images, sign: tv.equalize(images),
)


def rand_augment(images: torch.Tensor, operations: torch.Tensor, signs: torch.Tensor) -> torch.Tensor:
    """Apply to each image its own operations.

    Args:
        images: uint8 (B, 3, S, S).
        operations: int64 (B, `COUNT`), places in `OPERATIONS`.
        signs: int64 (B, `COUNT`), 1 or -1: to which side it is.

    Returns:
        uint8 (B, 3, S, S).
    """
    for own, sides in zip(operations.unbind(1), signs.unbind(1), strict=True):
        images, wanted = images.clone(), list(zip(own.tolist(), sides.tolist(), strict=True))
        for operation, sign in sorted(set(wanted)):  # those of one kind together
            rows = [row for row, one in enumerate(wanted) if one == (operation, sign)]
            images[rows] = OPERATIONS[operation](images[rows], sign)
    return images
