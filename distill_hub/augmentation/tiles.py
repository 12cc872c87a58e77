"""Sets of tiles: an image that holds f x f smaller ones, which students see one by one, each at full size.

IDC's multi-formation (Kim et al., ICML 2022): the same storage shows more images. `cards/FORMAT.md` has `decode`
for readers without this package.
"""

import torch
import torch.nn.functional as F

from distill_hub.data.tiles import tile_side

_PADDING = 128 / 255  # in [0, 1]; IDC's code pads with 0.5, which 8 bits cannot say


def split(images: torch.Tensor, tiles: int) -> torch.Tensor:
    """Cut images into their tiles, padded with grey below and on the right where the side is no multiple of `tiles`.

    Args:
        images: uint8, or floats in [0, 1], (N, 3, S, S).
        tiles: f.

    Returns:
        (N * f^2, 3, t, t) with t = `tile_side`: the tiles of the first image row by row, then those of the second.
    """
    side = tile_side(images.shape[-1], tiles)
    missing = side * tiles - images.shape[-1]
    if missing:
        images = F.pad(images, (0, missing, 0, missing), value=_PADDING if images.is_floating_point() else 128)
    return images.unflatten(3, (tiles, side)).unflatten(2, (tiles, side)).permute(0, 2, 4, 1, 3, 5).flatten(0, 2)


def join(parts: torch.Tensor, tiles: int, size: int) -> torch.Tensor:
    """Undo `split`: (N * f^2, 3, t, t) to (N, 3, size, size); what exceeds the side is cut off."""
    images = parts.unflatten(0, (-1, tiles, tiles)).permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3)
    return images[..., :size, :size]


def enlarged(parts: torch.Tensor, size: int) -> torch.Tensor:
    """Scale tiles of floats (N, 3, t, t) to (N, 3, size, size), bilinear between the centres of pixels."""
    return F.interpolate(parts, (size, size), mode="bilinear", align_corners=False)


def decode(images: torch.Tensor, tiles: int | None) -> torch.Tensor:
    """Return what students see of a set: every tile at full size, bilinear between the centres of pixels.

    Args:
        images: (N, 3, S, S): uint8, or floats in [0, 1], which keep their gradient.
        tiles: f; None or 1: images are what they are.

    Returns:
        (N * f^2, 3, S, S), image by image, of each its tiles row by row. The sums of uint8 images are exact and a half is
        rounded up, so that these are the same bits on every machine.
    """
    if tiles in (None, 1):
        return images
    parts, size = split(images, tiles), images.shape[-1]
    if images.is_floating_point():
        return enlarged(parts, size)
    weights, total = _weights(parts.shape[-1], size).to(images.device), (2 * size) ** 2
    sums = (weights @ part.double() @ weights.T for part in parts.split(64))
    return torch.cat([((own + total // 2) / total).floor().to(torch.uint8) for own in sums])


def _weights(side: int, size: int) -> torch.Tensor:
    """Return the weights of a tile's pixels in each of the result, (size, side), times 2 * size: whole numbers."""
    pixels = (2 * torch.arange(size) + 1) * side - size  # where they lie on the tile, times 2 * size
    pixels = pixels.clamp(0, 2 * size * (side - 1))
    distances = (pixels[:, None] - 2 * size * torch.arange(side)).abs()
    return (2 * size - distances).clamp(min=0).double()
