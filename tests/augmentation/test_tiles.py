"""Sets of tiles: cutting, putting together and enlarging them, against a loop over pixels in whole numbers."""

import re
from fractions import Fraction

import numpy as np
import pytest
import torch

from distill_hub.augmentation.tiles import decode, join, split
from distill_hub.data.tiles import can_hold, tile_side
from distill_hub.publishing.card import cards_folder

SHAPES = [(16, 2), (16, 3), (5, 2), (7, 4), (3, 1)]


def images(size, count=2):
    return torch.randint(256, (count, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(size))


def by_pixels(image, tiles):
    """Decode one channel of one image, (S, S): bilinear by its definition, in fractions, a half rounded up."""
    size = len(image)
    side = -(-size // tiles)

    def pixel(y, x):
        return int(image[y][x]) if y < size and x < size else 128

    def at(top, left, y, x):  # the centre of pixel i lies at i + 1/2; beyond the outermost centres nothing changes
        places = [min(max((Fraction(2 * o + 1, 2) * side / size) - Fraction(1, 2), 0), side - 1) for o in (y, x)]
        (y0, ry), (x0, rx) = ((int(p), p - int(p)) for p in places)
        y1, x1 = min(y0 + 1, side - 1), min(x0 + 1, side - 1)
        upper = (1 - rx) * pixel(top + y0, left + x0) + rx * pixel(top + y0, left + x1)
        lower = (1 - rx) * pixel(top + y1, left + x0) + rx * pixel(top + y1, left + x1)
        return int((1 - ry) * upper + ry * lower + Fraction(1, 2))

    return [
        [[at(row * side, column * side, y, x) for x in range(size)] for y in range(size)]
        for row in range(tiles)
        for column in range(tiles)
    ]


@pytest.mark.parametrize(("size", "tiles"), SHAPES)
def test_every_tile_is_enlarged_as_bilinear_interpolation_is_defined(size, tiles):
    stored = images(size)
    found = decode(stored, tiles)
    expected = [[by_pixels(channel.tolist(), tiles) for channel in image] for image in stored]  # (N, 3, f^2, S, S)
    assert found.dtype == torch.uint8
    assert torch.equal(found, torch.tensor(expected, dtype=torch.uint8).transpose(1, 2).flatten(0, 1))


@pytest.mark.parametrize(("size", "tiles"), SHAPES)
def test_floats_are_enlarged_as_bytes_are_and_keep_their_gradient(size, tiles):
    stored = images(size)
    pixels = (stored.double() / 255).requires_grad_()
    found = decode(pixels, tiles)
    assert (found * 255 - decode(stored, tiles)).abs().max() <= 0.5 + 1e-9
    (gradient,) = torch.autograd.grad(found.sum(), pixels)
    padded = tile_side(size, tiles) * tiles > size
    assert gradient.sum() < found.numel() if padded else torch.isclose(gradient.sum(), torch.tensor(found.numel()).double())


@pytest.mark.parametrize(("size", "tiles"), SHAPES)
def test_tiles_that_are_put_together_are_the_image_again(size, tiles):
    stored = images(size)
    parts = split(stored, tiles)
    assert parts.shape == (2 * tiles**2, 3, *[tile_side(size, tiles)] * 2)
    assert torch.equal(join(parts, tiles, size), stored)


def test_format_and_card_say_how_it_is_done_without_this_package():
    text = (cards_folder() / "FORMAT.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(import numpy as np\n\n\ndef decode.*?)```", text, re.DOTALL)
    names = {}
    exec(code, names)
    for size, tiles in SHAPES:
        stored = images(size)
        found = names["decode"](stored.permute(0, 2, 3, 1).numpy(), tiles)
        assert found.dtype == np.uint8
        assert np.array_equal(found, decode(stored, tiles).permute(0, 2, 3, 1).numpy())
    assert code.strip() in (cards_folder() / "dataset_card.md.jinja").read_text(encoding="utf-8")


def test_no_tile_is_of_padding_alone():
    assert can_hold(224, 3) and can_hold(16, 3) and can_hold(7, 4) and can_hold(16, 8) and can_hold(8, 1)
    assert not can_hold(4, 3)  # tiles of 2 pixels: the third lies outside
    assert not can_hold(2, 3) and not can_hold(224, 9) and not can_hold(8, 0)
