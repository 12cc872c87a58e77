"""DSA against plain loops over pixels, and the laws of its draws."""

import math

import numpy as np
import pytest
import torch

from distill_hub.augmentation.augment import Augmentation, augment, batch_of, draw
from distill_hub.augmentation.dsa import OPERATIONS, every_operation, one_row, operations, shared
from distill_hub.running.seeds import cpu_generator

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


def by_hand(image: np.ndarray, row: dict[str, np.ndarray]) -> np.ndarray:
    """One normalised image (3, S, S), pixel by pixel."""
    size = image.shape[1]
    if row.get("flip", False):
        image = image[:, :, ::-1]
    if "color" in row:
        brightness, saturation, contrast = row["color"]
        image = image + brightness
        grey = image.mean(0)
        image = (image - grey) * saturation + grey
        image = (image - image.mean()) * contrast + image.mean()
    if "affine" in row:
        result = np.zeros_like(image)
        for i in range(size):
            for j in range(size):
                # Centres of pixels in [-1, 1], x across; what lies between four pixels is weighed by its nearness to each.
                x, y = row["affine"] @ np.array([(2 * j + 1) / size - 1, (2 * i + 1) / size - 1, 1.0])
                across, down = ((x + 1) * size - 1) / 2, ((y + 1) * size - 1) / 2
                for r in (math.floor(down), math.floor(down) + 1):
                    for c in (math.floor(across), math.floor(across) + 1):
                        if 0 <= r < size and 0 <= c < size:
                            result[:, i, j] += image[:, r, c] * (1 - abs(down - r)) * (1 - abs(across - c))
        image = result
    if "cut" in row:
        image, (top, left, bottom, right) = image.copy(), row["cut"]
        for i in range(top, bottom):
            for j in range(left, right):
                image[:, i, j] = 0
    return image


def normalized(images: torch.Tensor) -> np.ndarray:
    mean, std = (np.array(values).reshape(3, 1, 1) for values in (MEAN, STD))
    return (images.double().numpy() - mean) / std


@pytest.mark.parametrize("name", OPERATIONS)
def test_each_operation_is_the_one_by_hand(name):
    images = torch.rand(3, 3, 8, 8, generator=cpu_generator(1))
    for seed in range(4):
        row = one_row([name], 8, cpu_generator(seed))
        found = augment(images, shared(row, 3), MEAN, STD)
        for image, view in zip(normalized(images), found, strict=True):
            expected = by_hand(image, {key: value[0].double().numpy() if value.is_floating_point() else value[0].numpy()
                                       for key, value in row.items()})  # fmt: skip
            np.testing.assert_allclose(view.numpy(), expected, atol=2e-5)


def test_a_batch_of_training_gets_one_operation_and_each_image_its_own_parameters():
    draws = draw(Augmentation(dsa=OPERATIONS), 64, 16, 8, cpu_generator(3))
    images = torch.rand(64, 3, 8, 8, generator=cpu_generator(1))
    seen = set()
    for start in range(0, 64, 16):
        part = batch_of(draws, start, start + 16)
        found = augment(images[start : start + 16], part, MEAN, STD)
        for place in range(16):
            row = {key: part[key][place].double().numpy() if part[key].is_floating_point() else part[key][place].numpy()
                   for key in ("color", "affine", "cut", "flip")}  # fmt: skip
            expected = by_hand(normalized(images[start + place : start + place + 1])[0], row)
            np.testing.assert_allclose(found[place].numpy(), expected, atol=2e-5)
        still = {"color": part["color"].eq(torch.tensor([0.0, 1, 1])).all(), "cutout": part["cut"].eq(0).all()}
        still["affine"] = part["affine"].eq(torch.eye(2, 3)).all()
        changed = [key for key, same in still.items() if not same]
        assert len(changed) <= 1
        if changed == ["color"]:
            assert len(part["color"].unique(dim=0)) == 16
        seen.update(changed)
    assert len(seen) >= 2


def test_laws_of_the_draws():
    size, rows = 32, {name: [one_row([name], 32, cpu_generator(seed)) for seed in range(1500)] for name in OPERATIONS}
    color = torch.cat([row["color"] for row in rows["color"]])
    for column, (least, most) in enumerate(((-0.5, 0.5), (0, 2), (0.5, 1.5))):
        assert least <= color[:, column].min() < least + 0.01 * (most - least)
        assert most - 0.01 * (most - least) < color[:, column].max() <= most
    shifts = torch.cat([row["affine"][:, :, 2] for row in rows["crop"]]) * size / 2
    assert shifts.round().unique().tolist() == list(range(-4, 5))  # 12.5 % of 32
    cut = torch.cat([row["cut"] for row in rows["cutout"]])
    # The corner that the code draws lies in 0 .. 32, and half of the side of 16 lies to each side of it.
    assert cut[:, 0].min() == 0 and cut[:, 2].min() == 8 and cut[:, 0].max() == 24 and cut[:, 2].max() == 32
    scales = torch.cat([row["affine"][:, [0, 1], [0, 1]] for row in rows["scale"]])
    assert 1 / 1.2 <= scales.min() < 0.835 and 1.198 < scales.max() <= 1.2 + 1e-6
    angles = torch.cat([torch.atan2(row["affine"][:, 1, 0], row["affine"][:, 0, 0]) for row in rows["rotate"]]).rad2deg()
    assert -15.001 <= angles.min() < -14.8 and 14.8 < angles.max() <= 15.001
    assert 0.46 < torch.cat([row["flip"] for row in rows["flip"]]).double().mean() < 0.54
    chosen = [tuple(one_row(OPERATIONS, size, cpu_generator(seed))) for seed in range(2000)]
    shares = {key: chosen.count((key,)) / 2000 for key in ("color", "affine", "cut", "flip")}
    assert all(abs(share - (0.5 if key == "affine" else 1 / 6)) < 0.03 for key, share in shares.items())


def test_together_draws_all_of_them():
    row = every_operation(("color", "crop", "cutout"), 1, 32, cpu_generator(0))
    assert set(row) == {"color", "affine", "cut"}
    assert row["cut"].ne(0).any() and row["affine"][0, :, :2].equal(torch.eye(2))


def test_digits_are_not_flipped():
    assert "flip" not in operations(mirrored=False) and operations(mirrored=True) == OPERATIONS


def test_it_is_differentiable_as_finite_differences_say():
    images = torch.rand(2, 3, 6, 6, dtype=torch.float64, generator=cpu_generator(2)).requires_grad_()
    row = every_operation(("color", "rotate", "cutout"), 1, 6, cpu_generator(5))
    row = {key: value.double() if value.is_floating_point() else value for key, value in row.items()}
    assert torch.autograd.gradcheck(lambda pixels: augment(pixels, shared(row, 2), MEAN, STD), images)
