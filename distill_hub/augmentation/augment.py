"""Augmentation of whole batches on the device.

All random numbers of an epoch are drawn beforehand on the CPU, one row per image in training order. Applying them draws
nothing: a student sees the same images for any number of processes and on any device, and views can be stored and replayed.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F

from distill_hub.augmentation.dsa import Operation, cut_out, draw_affine, draw_operations, inside, moved, recolored

# Principal components of ImageNet's colours, in [0, 1] units (Krizhevsky et al., 2012, section 4.1), as IDC uses them.
COLOR_EIGENVALUES = (0.2175, 0.0188, 0.0045)
COLOR_EIGENVECTORS = ((-0.5675, 0.7192, 0.4009), (-0.5808, -0.0045, -0.8140), (-0.5836, -0.6948, 0.4203))  # rows: R, G, B
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601
BRIGHTNESS, CONTRAST, SATURATION = range(3)


def normalize(images: torch.Tensor, mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
    """Normalise images (B, 3, H, W) in [0, 1]."""
    shape = (1, 3, 1, 1)
    return (images - images.new_tensor(mean).view(shape)) / images.new_tensor(std).view(shape)


def denormalize(images: torch.Tensor, mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
    """Undo `normalize`."""
    shape = (1, 3, 1, 1)
    return images * images.new_tensor(std).view(shape) + images.new_tensor(mean).view(shape)


@dataclass(frozen=True)
class Augmentation:
    """What is done to each image of a batch, in the order of the fields; the default does nothing.

    Normalisation comes between `lighting` and `siamese`, which is not combined with `dsa`.

    Attributes:
        patches: Vertical strips that are shuffled, then as many horizontal ones (RDED: Sun et al., CVPR 2024); 1: none.
            The few pixels that are over where the side is no multiple are cut off, as RDED's code does.
        crop_scale: Least and greatest share of the area in a RandomResizedCrop to the size of the result, of aspect ratio
            3/4 to 4/3 and bilinear (Szegedy et al., 2015, as torchvision draws it); None: no crop.
        pad: A random crop of the image after black padding by round(pad * side) pixels.
        flip: Horizontal, with probability 0.5.
        jitter: IDC's colour jitter (Kim et al., ICML 2022). Brightness, contrast and saturation, in an order drawn per
            image: lerp(image, reference, a), a ~ U(-jitter, jitter), unclamped. The references are black, the mean grey
            and the grey image. Not torchvision's ColorJitter, which clamps.
        lighting: Standard deviation of AlexNet's colour noise along the principal components, per image.
        siamese: Differentiable siamese augmentation (Zhao and Bilen, ICML 2021) as IDC trains with it: always colour, then
            one of crop, scale and rotate, the same one for a whole batch. Its flip is the field above.
        mix: With another image of the batch: CutMix (Yun et al., ICCV 2019) or mixup (Zhang et al., ICLR 2018).
        mix_probability: That a batch is mixed.
        mix_alpha: Of lambda ~ Beta(alpha, alpha), one per batch.
        dsa: Differentiable siamese augmentation as those of its authors train with it: the operations of which each batch
            gets one, with parameters of its own for each image; see `augmentation.dsa`. Not combined with `flip`.
        rand_augment: RandAugment (Cubuk et al., 2020) of the stored image, before everything else; see
            `augmentation.rand_augment`. Not of floats.
    """

    patches: int = 1
    crop_scale: tuple[float, float] | None = None
    pad: float = 0.0
    flip: bool = False
    jitter: float = 0.0
    lighting: float = 0.0
    siamese: bool = False
    mix: Literal["none", "cutmix", "mixup"] = "none"
    mix_probability: float = 1.0
    mix_alpha: float = 1.0
    dsa: tuple[Operation, ...] = ()
    rand_augment: bool = False


def usual_augmentation(size: int, mirrored: bool) -> Augmentation:
    """Return how classifiers are usually trained: up to 64 px on padded crops, above on RandomResizedCrops of the square.

    Args:
        size: Side of the images in pixels.
        mirrored: Whether half of them are mirrored.
    """
    if size <= 64:
        return Augmentation(pad=0.125, flip=mirrored)
    return Augmentation(crop_scale=(0.08, 1.0), flip=mirrored)


def draw(
    rules: Augmentation,
    count: int,
    batch_size: int,
    size: int,
    generator: torch.Generator,
    *,
    stored_size: int | None = None,
) -> dict[str, torch.Tensor]:
    """Draw one epoch: the order of the images, and what happens to each.

    Args:
        rules: What to draw for.
        count: Number of images, N.
        batch_size: Batches are consecutive runs of so many rows; the last may be shorter.
        size: Side of the square images of the result, in pixels.
        generator: On the CPU. Nothing else decides the outcome.
        stored_size: Side of the images that patches and crops are taken from; default: `size`.

    Returns:
        CPU tensors. Row r of every one belongs to the image `order[r]`. Those that the rules do not need are left out.

        - order: int64 (N,), a permutation of the images.
        - operations: int64 (N, 2), which of RandAugment's are applied, one after the other.
        - signs: int64 (N, 2), 1 or -1, to which side each of them is.
        - patches: int64 (N, 2, f), which strip comes to each place, left to right and top to bottom.
        - crop: float32 (N, 4), top, left, height and width as shares of the side; whole pixels of the stored image.
        - shift: int64 (N, 2), the image's pixel that comes to the top left corner, as row and column.
        - flip: bool (N,).
        - jitter: float32 (N, 3), the a of brightness, contrast and saturation.
        - jitter_order: int64 (N, 3), these three (0, 1, 2) as they follow on each other.
        - lighting: float32 (N, 3), the weights of the principal components.
        - color: float32 (N, 3), DSA's summand of brightness and factors of saturation and contrast.
        - affine: float32 (N, 2, 3), DSA's crop, scale or rotation for `torch.nn.functional.affine_grid`.
        - cut: int64 (N, 4), top, left, bottom and right in pixels of what DSA's cutout sets to zero.
        - partner: int64 (N,), the row of the image mixed in, in the same batch; its own where there is no mixing.
        - box: int64 (N, 4), top, left, bottom and right in pixels of what CutMix replaces; all 0 where there is no mixing.
        - share: float32 (N,), of the row's own label in the mixed one.
    """

    def uniform(*shape: int) -> torch.Tensor:
        # 53 random bits instead of 24: numbers that are sorted do not tie.
        return torch.rand(shape, dtype=torch.float64, generator=generator)

    draws = {"order": torch.randperm(count, generator=generator)}
    if rules.rand_augment:
        from distill_hub.augmentation.rand_augment import COUNT, OPERATIONS

        draws["operations"] = torch.randint(len(OPERATIONS), (count, COUNT), generator=generator)
        draws["signs"] = 1 - 2 * torch.randint(2, (count, COUNT), generator=generator)
    if rules.patches > 1:
        draws["patches"] = uniform(count, 2, rules.patches).argsort(2)
    if rules.crop_scale is not None:
        side = (stored_size or size) // rules.patches * rules.patches
        draws["crop"] = _draw_crops(rules.crop_scale, side, uniform(4, count, 10))
    if rules.pad:
        most = round(rules.pad * size)
        draws["shift"] = torch.randint(-most, most + 1, (count, 2), generator=generator)
    if rules.flip:
        draws["flip"] = uniform(count) < 0.5
    if rules.jitter:
        draws["jitter"] = (rules.jitter * (2 * uniform(count, 3) - 1)).float()
        draws["jitter_order"] = uniform(count, 3).argsort(1)
    if rules.lighting:
        draws["lighting"] = rules.lighting * torch.randn(count, 3, generator=generator)
    batch = torch.arange(count) // batch_size
    if rules.siamese:
        draws["color"] = ((uniform(count, 3) + torch.tensor([-0.5, 0, 0.5])) * torch.tensor([1, 2, 1])).float()
        one_of_three = torch.randint(3, (math.ceil(count / batch_size),), generator=generator)[batch]
        draws["affine"] = draw_affine([one_of_three == place for place in range(3)], size, uniform(4, count))
    if rules.dsa:
        draws |= draw_operations(rules.dsa, batch, size, generator)
    if rules.mix != "none":
        draws |= _draw_mix(rules, batch, size, generator)
    return draws


def _draw_crops(scale: tuple[float, float], size: int, uniform: torch.Tensor) -> torch.Tensor:
    """Turn uniform numbers (4, N, 10) into crops (N, 4), as torchvision's RandomResizedCrop does: ten attempts each."""
    area, ratio, down, right = uniform
    area = size**2 * (scale[0] + (scale[1] - scale[0]) * area)
    ratio = torch.exp(math.log(4 / 3) * (2 * ratio - 1))  # log-uniform in [3/4, 4/3]
    height, width = (area / ratio).sqrt().round(), (area * ratio).sqrt().round()
    fits = (height <= size) & (width <= size) & (height > 0) & (width > 0)
    top, left = (down * (size - height + 1)).floor(), (right * (size - width + 1)).floor()
    first = fits.long().argmax(1)
    crops = torch.stack([top, left, height, width], 2)[torch.arange(len(first)), first]
    whole = torch.tensor([0.0, 0.0, size, size], dtype=crops.dtype)  # torchvision's fallback, for a square image
    return (torch.where(fits.any(1, keepdim=True), crops, whole) / size).float()


def _draw_mix(rules: Augmentation, batch: torch.Tensor, size: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """Draw partner, box and share for rows of the batches numbered in `batch` (N,)."""
    count, batches = len(batch), int(batch[-1]) + 1
    mixed = torch.rand(batches, dtype=torch.float64, generator=generator) < rules.mix_probability
    # torch draws from Beta with its global generator only; a NumPy generator seeded from ours keeps the epoch ours.
    seed = int(torch.randint(2**63 - 1, (1,), generator=generator))
    own = torch.from_numpy(np.random.default_rng(seed).beta(rules.mix_alpha, rules.mix_alpha, batches))
    # Sorting by batch, then by chance: a permutation within each batch.
    keys = batch + torch.rand(count, dtype=torch.float64, generator=generator)
    draws = {"partner": torch.where(mixed[batch], keys.argsort(stable=True), torch.arange(count))}
    if rules.mix == "cutmix":
        half = (size * (1 - own).sqrt()).long().unsqueeze(1) // 2
        centre = torch.randint(size, (batches, 2), generator=generator)
        box = torch.cat([centre - half, centre + half], 1).clamp(0, size) * mixed.unsqueeze(1)
        draws["box"] = box[batch]
        own = 1 - (box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1]) / size**2  # after clipping
    draws["share"] = torch.where(mixed, own, 1).float()[batch]
    return draws


def batch_of(draws: Mapping[str, torch.Tensor], start: int, stop: int) -> dict[str, torch.Tensor]:
    """Return the rows of one batch of an epoch; `partner` counts from the batch's first row."""
    batch = {name: rows[start:stop] for name, rows in draws.items()}
    if "partner" in batch:
        batch["partner"] = batch["partner"] - start
    return batch


def augment(
    images: torch.Tensor,
    draws: Mapping[str, torch.Tensor],
    mean: Sequence[float],
    std: Sequence[float],
    size: int | None = None,
) -> torch.Tensor:
    """Augment and normalise a batch. An image depends on its own row alone, apart from mixing.

    The result is differentiable in images that are not whole numbers.

    Args:
        images: uint8, or float in [0, 1], (B, 3, S, S), on the device to work on.
        draws: What `draw` returned, for these images and with `partner` counting from the first of them; see `batch_of`.
        mean: Of the normalisation, per channel.
        std: Of the normalisation, per channel.
        size: Side of the result, to which crops are brought; default: S.

    Returns:
        float (B, 3, size, size). The labels that belong to it are mixed by `partner` and `share`.
    """
    draws = {name: rows.to(images.device, non_blocking=True) for name, rows in draws.items()}
    size = size or images.shape[-1]
    lines = torch.arange(size, device=images.device)
    if "operations" in draws:
        from distill_hub.augmentation.rand_augment import rand_augment  # which torchvision takes seconds to load for

        images = rand_augment(images, draws["operations"], draws["signs"])
    if "patches" in draws:
        count = draws["patches"].shape[2]
        strip = images.shape[-1] // count
        within = torch.arange(strip, device=images.device).repeat(count)
        columns, rows = (draws["patches"] * strip).repeat_interleave(strip, 2).add(within).unbind(1)
        images = _take(images, rows, columns)
    if not images.is_floating_point():
        images = images.float() / 255
    if "crop" in draws:
        images = resized_crop(images, draws["crop"], size)
    if "shift" in draws:
        rows, columns = (draws["shift"].unsqueeze(2) + lines + 1).clamp(0, size + 1).unbind(1)
        images = _take(F.pad(images, (1, 1, 1, 1)), rows, columns)  # one black pixel stands for all padding
    if "flip" in draws:
        images = torch.where(draws["flip"].view(-1, 1, 1, 1), images.flip(3), images)
    if "jitter" in draws:
        images = _color_jitter(images, draws["jitter"], draws["jitter_order"])
    if "lighting" in draws:
        weights = draws["lighting"] * images.new_tensor(COLOR_EIGENVALUES)
        images = images + (weights.unsqueeze(1) * images.new_tensor(COLOR_EIGENVECTORS)).sum(2).view(-1, 3, 1, 1)
    images = normalize(images, mean, std)
    if "color" in draws:
        images = recolored(images, draws["color"])
    if "affine" in draws:
        images = moved(images, draws["affine"])
    if "cut" in draws:
        images = cut_out(images, draws["cut"])
    if "partner" in draws:
        others = images[draws["partner"]]
        if "box" in draws:
            images = torch.where(inside(draws["box"], size).unsqueeze(1), others, images)
        else:
            images = torch.lerp(others, images, draws["share"].view(-1, 1, 1, 1))
    return images


def _take(images: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """Select pixel rows (B, S) and columns (B, S) of images (B, C, H, W), each image's own."""
    pixels = (rows.unsqueeze(2) * images.shape[3] + columns.unsqueeze(1)).flatten(1).unsqueeze(1)
    return images.flatten(2).take_along_dim(pixels, 2).unflatten(2, (rows.shape[1], columns.shape[1]))


def resized_crop(images: torch.Tensor, crop: torch.Tensor, size: int) -> torch.Tensor:
    """Bring the crops (B, 4) of float images (B, C, S, S) to `size` pixels, bilinear, with antialiasing where they shrink.

    Args:
        images: The images.
        crop: As `draw` has it.
        size: Side of the result.
    """
    batch, _, side, _ = images.shape
    corner, extent = crop.unsqueeze(2).split(2, 1)  # (B, 2, 1) each, rows first
    centres = (torch.arange(size, device=images.device) + 0.5) / size
    if size < side:
        return _shrunk(images, side * corner, side * extent, centres)
    # What lies outside the crop must not leak in: positions end at the centres of its outermost pixels.
    positions = corner + (centres * extent).clamp(min=0.5 / side).minimum(extent - 0.5 / side)
    rows, columns = (2 * positions - 1).unbind(1)
    grid = torch.stack([columns.unsqueeze(1).expand(batch, size, size), rows.unsqueeze(2).expand(batch, size, size)], 3)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def _shrunk(images: torch.Tensor, corner: torch.Tensor, extent: torch.Tensor, centres: torch.Tensor) -> torch.Tensor:
    """Resample crops, each side on its own, as Pillow and torchvision with antialiasing do.

    A pixel of the result weighs those of the crop by a triangle: one pixel to each side of its centre where the crop is
    enlarged, and as many as a pixel of the result covers where it shrinks.

    Args:
        images: Float (B, C, S, S).
        corner: Float (B, 2, 1), top and left, in pixels.
        extent: Float (B, 2, 1), height and width, in pixels.
        centres: Float (T,), of the pixels of the result, as shares of its side.
    """
    channels, side = images.shape[1:3]
    pixels = torch.arange(side, device=images.device) + 0.5
    reach = (extent / len(centres)).clamp(min=1).unsqueeze(3)
    weights = 1 - (pixels - (corner + centres * extent).unsqueeze(3)).abs() / reach  # (B, 2, T, S)
    inside = (pixels > corner) & (pixels < corner + extent)  # (B, 2, S)
    weights = weights.clamp(min=0) * inside.unsqueeze(2)
    rows, columns = (weights / weights.sum(3, keepdim=True)).unbind(1)
    lines = rows @ images.transpose(1, 2).flatten(2)  # (B, T, C * S)
    pixels = lines.unflatten(2, (channels, side)).flatten(1, 2) @ columns.mT  # (B, T * C, T)
    return pixels.unflatten(1, (len(centres), channels)).transpose(1, 2)


def _color_jitter(images: torch.Tensor, amounts: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    luma = images.new_tensor(LUMA).view(1, 3, 1, 1)
    for kind in order.unbind(1):
        amount = amounts.gather(1, kind.unsqueeze(1)).view(-1, 1, 1, 1)
        kind = kind.view(-1, 1, 1, 1)
        grey = (images * luma).sum(1, keepdim=True)
        reference = torch.where(kind == CONTRAST, grey.mean((2, 3), keepdim=True), grey) * (kind != BRIGHTNESS)
        images = torch.lerp(images, reference, amount)
    return images
