"""Differentiable siamese augmentation (DSA: Zhao and Bilen, ICML 2021), as the methods that match train and score with it.

One of six operations is applied to a batch, all of them to normalised pixels and with zeros for what comes from outside.
What is drawn is kept apart from what is done, so that a batch of real images and one of distilled images get the same.
The ranges are those of the code of dataset condensation (VICO 53f63a6), its numbers those of IDC's copy, too.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
import torch.nn.functional as F

Operation = Literal["color", "crop", "cutout", "flip", "scale", "rotate"]
OPERATIONS: tuple[Operation, ...] = ("color", "crop", "cutout", "flip", "scale", "rotate")
CROP, CUTOUT, SCALE, DEGREES = 0.125, 0.5, 1.2, 15
KEYS = {"color": "color", "crop": "affine", "cutout": "cut", "flip": "flip", "scale": "affine", "rotate": "affine"}


def operations(mirrored: bool) -> tuple[Operation, ...]:
    """Return the operations for a source; images whose mirrored ones show another class, as digits, are not flipped."""
    return tuple(name for name in OPERATIONS if name != "flip" or mirrored)


def draw_operations(
    names: Sequence[Operation], batch: torch.Tensor, size: int, generator: torch.Generator
) -> dict[str, torch.Tensor]:
    """Draw which operation each batch gets, and its parameters for each image.

    Args:
        names: Operations to draw from, each as likely as the others.
        batch: int64 (N,), the number of the batch of each row, ascending.
        size: S, side of the images in pixels.
        generator: On the CPU.

    Returns:
        CPU tensors of N rows; those of operations that a batch does not get change nothing.

        - color: float32 (N, 3), summand of brightness and factors of saturation and contrast.
        - affine: float32 (N, 2, 3), crop, scale or rotation for `torch.nn.functional.affine_grid`.
        - cut: int64 (N, 4), top, left, bottom and right in pixels of what becomes zero.
        - flip: bool (N,).
    """
    count = len(batch)
    chosen = torch.randint(len(names), (int(batch[-1]) + 1,), generator=generator)[batch]
    numbers = torch.rand(6, count, dtype=torch.float64, generator=generator)
    every = {name: chosen == (names.index(name) if name in names else len(names)) for name in OPERATIONS}
    return _parameters(every, size, numbers, {KEYS[name] for name in names})


def one_row(names: Sequence[Operation], size: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """Draw one row, for all images of two batches; see `draw_operations`.

    Args:
        names: Operations to draw one from.
        size: Side of the images in pixels.
        generator: On the CPU.

    Returns:
        What is needed for the operation that was drawn, and nothing else.
    """
    return every_operation([names[int(torch.randint(len(names), (1,), generator=generator))]], 1, size, generator)


def every_operation(
    names: Sequence[Operation], count: int, size: int, generator: torch.Generator
) -> dict[str, torch.Tensor]:
    """Draw parameters of all of some operations, as IDC applies colour, crop and cutout; see `draw_operations`.

    Args:
        names: Operations, of which no two are among crop, scale and rotate.
        count: Number of rows, N.
        size: Side of the images in pixels.
        generator: On the CPU.

    Returns:
        What is needed for these operations, and nothing else.
    """
    numbers = torch.rand(6, count, dtype=torch.float64, generator=generator)
    every = {name: torch.full((count,), name in names) for name in OPERATIONS}
    return _parameters(every, size, numbers, {KEYS[name] for name in names})


def shared(draws: Mapping[str, torch.Tensor], count: int) -> dict[str, torch.Tensor]:
    """Return one row of draws for `count` images."""
    return {name: row.expand(count, *row.shape[1:]) for name, row in draws.items()}


def _parameters(
    every: Mapping[str, torch.Tensor], size: int, numbers: torch.Tensor, keys: set[str]
) -> dict[str, torch.Tensor]:
    """Turn uniform numbers (6, N), and which rows get an operation, (N,) each, into draws of the keys that are asked for."""
    found = {}
    if "color" in keys:
        values = (numbers[:3].T + torch.tensor([-0.5, 0, 0.5])) * torch.tensor([1, 2, 1])
        found["color"] = torch.where(every["color"][:, None], values, torch.tensor([0.0, 1, 1])).float()
    if "affine" in keys:
        found["affine"] = draw_affine([every[name] for name in ("crop", "scale", "rotate")], size, numbers[:4])
    if "cut" in keys:
        side = int(size * CUTOUT + 0.5)
        start = (numbers[4:].T * (size + 1 - side % 2)).floor().long() - side // 2
        box = torch.cat([start, start + side], 1).clamp(0, size)
        found["cut"] = torch.where(every["cutout"][:, None], box, 0)
    if "flip" in keys:
        found["flip"] = every["flip"] & (numbers[0] < 0.5)
    return found


def draw_affine(rows: Sequence[torch.Tensor], size: int, uniform: torch.Tensor) -> torch.Tensor:
    """Turn uniform numbers (4, N) into affine maps (N, 2, 3) for `torch.nn.functional.affine_grid`.

    Args:
        rows: Which images are cropped, which scaled and which rotated, bool (N,) each; the others stay as they are.
        size: Side of the images in pixels.
        uniform: Down and across of a crop, and both factors of a scale, of which a rotation takes the first.
    """
    most = int(size * CROP + 0.5)
    pixels = (uniform[:2] * (2 * most + 1)).floor() - most
    scales = 1 / SCALE + (SCALE - 1 / SCALE) * uniform[2:]
    angle = math.radians(DEGREES) * (2 * uniform[2] - 1)
    unmoved = torch.eye(2, 3, dtype=torch.float64).repeat(uniform.shape[1], 1, 1)
    crop, scale, rotate = unmoved.clone(), unmoved.clone(), unmoved.clone()
    crop[:, :, 2] = 2 * pixels.T / size  # the image is 2 wide
    scale[:, [0, 1], [0, 1]] = scales.T
    rotate[:, :, :2] = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], 1).view(-1, 2, 2)
    for chosen, maps in zip(rows, (crop, scale, rotate), strict=True):
        unmoved = torch.where(chosen.view(-1, 1, 1), maps, unmoved)
    return unmoved.float()


def recolored(images: torch.Tensor, color: torch.Tensor) -> torch.Tensor:
    """Change brightness, saturation about the mean of the channels, and contrast about the mean of the image."""
    brightness, saturation, contrast = color.view(-1, 3, 1, 1, 1).unbind(1)
    images = images + brightness
    grey = images.mean(1, keepdim=True)
    images = (images - grey) * saturation + grey
    mean = images.mean((1, 2, 3), keepdim=True)
    return (images - mean) * contrast + mean


def moved(images: torch.Tensor, affine: torch.Tensor) -> torch.Tensor:
    """Sample images (B, C, S, S) at what affine maps (B, 2, 3) say, bilinear, with zeros around them."""
    grid = F.affine_grid(affine, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)


def cut_out(images: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
    """Set boxes (B, 4) of images (B, C, S, S) to zero."""
    return images.masked_fill(inside(boxes, images.shape[-1]).unsqueeze(1), 0)


def inside(boxes: torch.Tensor, size: int) -> torch.Tensor:
    """Return which pixels, bool (B, S, S), lie in boxes (B, 4) of top, left, bottom and right."""
    lines = torch.arange(size, device=boxes.device)
    top, left, bottom, right = boxes.unsqueeze(2).unbind(1)
    rows, columns = (lines >= top) & (lines < bottom), (lines >= left) & (lines < right)
    return rows.unsqueeze(2) & columns.unsqueeze(1)
