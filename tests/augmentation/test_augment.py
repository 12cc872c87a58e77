"""Augmentation: every operation image by image against torchvision and plain loops, and what is drawn against its law."""

import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch
import torchvision.transforms as T
import torchvision.transforms.functional as TF
from scipy import stats
from torchvision.transforms.autoaugment import _apply_op

from distill_hub.augmentation.augment import Augmentation, augment, batch_of, draw
from distill_hub.augmentation.rand_augment import rand_augment
from distill_hub.running.seeds import cpu_generator

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
IDC = Augmentation(crop_scale=(0.5, 1.0), flip=True, jitter=0.4, lighting=0.1, mix="cutmix")
IDC_SMALL = Augmentation(flip=True, siamese=True, mix="cutmix", mix_probability=0.5)
RDED = Augmentation(patches=2, crop_scale=(0.5, 1.0), flip=True, mix="cutmix")
CIFAR_KD = Augmentation(pad=0.125, flip=True, mix="mixup")
EVERYTHING = Augmentation(3, (0.08, 1.0), 0.25, True, 0.4, 0.1, True, "cutmix", 0.5, 0.8)


def noise(count: int, size: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, size, size), generator=cpu_generator(seed), dtype=torch.uint8)


# --- applying: one image at a time, float64 ---------------------------------------------------------------------------


def shuffled(image, patches):
    strip = image.shape[-1] // len(patches[0])
    image = torch.cat([image[:, :, int(p) * strip : (int(p) + 1) * strip] for p in patches[0]], 2)
    return torch.cat([image[:, int(p) * strip : (int(p) + 1) * strip] for p in patches[1]], 1)


def cropped(image, crop):
    size = image.shape[-1]
    top, left, height, width = (round(share * size) for share in crop.tolist())
    return TF.resized_crop(image, top, left, height, width, [size, size], antialias=False)


def shifted(image, shift):
    size, (down, right) = image.shape[-1], shift.tolist()
    result = torch.zeros_like(image)
    for y, x in itertools.product(range(size), repeat=2):
        if 0 <= y + down < size and 0 <= x + right < size:
            result[:, y, x] = image[:, y + down, x + right]
    return result


def jittered(image, amounts, order):
    for kind in order.tolist():
        grey = 0.299 * image[0] + 0.587 * image[1] + 0.114 * image[2]
        reference = [torch.zeros_like(image), grey.mean().expand_as(image), grey.expand_as(image)][kind]
        image = (1 - amounts[kind]) * image + amounts[kind] * reference
    return image


def lit(image, weights):
    eigenvectors = np.array([[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]])
    color = eigenvectors @ np.diag([0.2175, 0.0188, 0.0045]) @ weights.double().numpy()
    return torch.stack([channel + shade for channel, shade in zip(image, color, strict=True)])


def siamese_color(image, color):
    brightness, saturation, contrast = color.tolist()
    image = image + brightness
    image = torch.stack([(channel - image.mean(0)) * saturation + image.mean(0) for channel in image])
    return (image - image.mean()) * contrast + image.mean()


def sampled(image, affine):
    """Look up each pixel of the result where the map sends its centre, in coordinates from -1 to 1; outside is 0."""
    size, result = image.shape[-1], torch.zeros_like(image)
    for y, x in itertools.product(range(size), repeat=2):
        place = affine.double() @ torch.tensor([(2 * x + 1) / size - 1, (2 * y + 1) / size - 1, 1], dtype=torch.float64)
        right, down = (((place + 1) * size - 1) / 2).tolist()
        for row, column in itertools.product(
            (math.floor(down), math.floor(down) + 1), (math.floor(right), math.floor(right) + 1)
        ):
            if 0 <= row < size and 0 <= column < size:
                result[:, y, x] += (1 - abs(down - row)) * (1 - abs(right - column)) * image[:, row, column]
    return result


def by_hand(images, draws):
    views = []
    for row, image in enumerate(images):
        mine = {name: values[row] for name, values in draws.items()}
        view = image.double() / 255
        view = shuffled(view, mine["patches"]) if "patches" in mine else view
        view = cropped(view, mine["crop"]) if "crop" in mine else view
        view = shifted(view, mine["shift"]) if "shift" in mine else view
        view = TF.hflip(view) if mine.get("flip") else view
        view = jittered(view, mine["jitter"].double(), mine["jitter_order"]) if "jitter" in mine else view
        view = lit(view, mine["lighting"]) if "lighting" in mine else view
        view = TF.normalize(view, MEAN, STD)
        view = siamese_color(view, mine["color"]) if "color" in mine else view
        view = sampled(view, mine["affine"]) if "affine" in mine else view
        views.append(view)
    mixed = [view.clone() for view in views]
    for row, view in enumerate(mixed if "partner" in draws else []):
        partner, share = views[draws["partner"][row]], draws["share"][row].double()
        if "box" in draws:
            top, left, bottom, right = draws["box"][row].tolist()
            view[:, top:bottom, left:right] = partner[:, top:bottom, left:right]
        else:
            view[:] = share * view + (1 - share) * partner
    return torch.stack(mixed)


@pytest.mark.parametrize(
    "rules",
    [
        Augmentation(),
        Augmentation(patches=2),
        Augmentation(patches=3),
        Augmentation(crop_scale=(0.08, 1.0)),
        Augmentation(pad=0.125),
        Augmentation(flip=True),
        Augmentation(jitter=0.4),
        Augmentation(lighting=0.1),
        Augmentation(siamese=True),
        Augmentation(mix="cutmix"),
        Augmentation(mix="mixup"),
        IDC,
        IDC_SMALL,
        RDED,
        CIFAR_KD,
        EVERYTHING,
    ],
    ids=str,
)
def test_each_image_is_augmented_as_by_hand(rules):
    images, draws = noise(14, 12), draw(rules, 14, 14, 12, cpu_generator(3))
    result = augment(images, draws, MEAN, STD)
    assert result.dtype == torch.float32
    assert torch.allclose(result.double(), by_hand(images, draws), atol=2e-5, rtol=0)


@pytest.mark.parametrize(("size", "tolerance"), [(32, 2e-6), (224, 2e-4)])  # white noise, and float32 coordinates
def test_crops_are_torchvisions(size, tolerance):
    images, draws = noise(12, size), draw(Augmentation(crop_scale=(0.08, 1.0)), 12, 12, size, cpu_generator(0))
    expected = torch.stack(
        [TF.normalize(cropped(i / 255, c), MEAN, STD) for i, c in zip(images, draws["crop"], strict=True)]
    )
    assert (augment(images, draws, MEAN, STD) - expected).abs().max() < tolerance


@pytest.mark.parametrize(("stored", "size"), [(256, 224), (33, 20), (24, 31)])
@pytest.mark.parametrize("scale", [(0.08, 1.0), (0.5, 1.0), (1.0, 1.0)])
def test_crops_of_a_stored_image_of_another_size_are_torchvisions(stored, size, scale):
    images = noise(8, stored)
    draws = draw(Augmentation(crop_scale=scale), 8, 8, size, cpu_generator(0), stored_size=stored)
    shares = (draws["crop"] * stored).double()
    assert (shares - shares.round()).abs().max() < 1e-4  # whole pixels of the stored image
    result = augment(images, draws, (0, 0, 0), (1, 1, 1), size)
    for image, view, share in zip(images, result, shares, strict=True):
        top, left, height, width = share.round().int().tolist()
        expected = TF.resized_crop(image / 255, top, left, height, width, [size, size], antialias=True)
        assert (view - expected).abs().max() < 2e-4
    around = images.clone()
    top, left, height, width = shares[0].round().int().tolist()
    around[0] = 255 - around[0]
    around[0, :, top : top + height, left : left + width] = images[0, :, top : top + height, left : left + width]
    assert (augment(around, draws, (0, 0, 0), (1, 1, 1), size) - result).abs().max() < 1e-4  # nothing of its surroundings


def test_a_crop_sees_nothing_of_what_surrounds_it():
    images = torch.full((1, 3, 32, 32), 255, dtype=torch.uint8)
    images[:, :, 8:24, 4:25] = 0
    draws = {"crop": torch.tensor([[8, 4, 16, 21]]) / 32}
    black = -torch.tensor(MEAN) / torch.tensor(STD)
    assert torch.allclose(augment(images, draws, MEAN, STD), black.view(1, 3, 1, 1).expand(1, 3, 32, 32), atol=1e-5)


def test_color_jitter_in_all_six_orders():
    """Plain red by hand: 0.5 halves it, -0.5 moves it away from the mean grey, 0.25 a quarter of the way to its grey."""
    images = torch.zeros(6, 3, 2, 2, dtype=torch.uint8)
    images[:, 0] = 255
    orders = torch.tensor(list(itertools.permutations(range(3))))
    draws = {"jitter": torch.tensor([[0.5, -0.5, 0.25]]).expand(6, 3), "jitter_order": orders}
    result = augment(images, draws, (0, 0, 0), (1, 1, 1))

    def brightness(red, other):
        return red / 2, other / 2

    def contrast(red, other):
        return [1.5 * value - 0.5 * (0.299 * red + 0.701 * other) for value in (red, other)]

    def saturation(red, other):
        return [0.75 * value + 0.25 * (0.299 * red + 0.701 * other) for value in (red, other)]

    for order, image in zip(itertools.permutations((brightness, contrast, saturation)), result, strict=True):
        red, other = order[2](*order[1](*order[0](1, 0)))
        expected = torch.tensor([red, other, other]).view(3, 1, 1).expand(3, 2, 2)
        assert torch.allclose(image, expected, atol=1e-6)
    assert result.min() < 0  # not clamped


def test_rand_augment_is_torchvisions():
    """Every operation to both sides, of single images, by Pillow; it rounds in a way of its own."""
    space, images = T.RandAugment()._augmentation_space(31, (20, 20)), noise(28, 20) // 2 + 60
    operations, signs = torch.arange(28) // 2, 1 - 2 * (torch.arange(28) % 2)
    nothing = torch.stack([operations, torch.zeros_like(operations)], 1)
    got = rand_augment(images, nothing, signs[:, None].expand(-1, 2))
    for image, place, sign, result in zip(images, operations.tolist(), signs.tolist(), got, strict=True):
        name, (magnitudes, signed) = list(space.items())[place]
        magnitude = (float(magnitudes[9]) if magnitudes.ndim else 0.0) * (sign if signed else 1)
        picture = _apply_op(TF.to_pil_image(image), name, magnitude, TF.InterpolationMode.NEAREST, None)
        assert (result.int() - TF.pil_to_tensor(picture).int()).abs().max() <= 1, (name, sign)


def test_rand_augment_applies_one_after_the_other_before_everything_else():
    images, rules = noise(60, 20), Augmentation(crop_scale=(0.5, 1.0), flip=True, rand_augment=True)
    drawn = draw(rules, 60, 60, 16, cpu_generator(3), stored_size=20)
    got = augment(images, drawn, MEAN, STD, 16)
    for step in range(2):
        first = [drawn[name][:, step : step + 1] for name in ("operations", "signs")]
        images = torch.cat(
            [rand_augment(images[row : row + 1], *(part[row : row + 1] for part in first)) for row in range(60)]
        )
    rest = {name: rows for name, rows in drawn.items() if name not in ("operations", "signs")}
    assert torch.equal(got, augment(images, rest, MEAN, STD, 16))


def test_rand_augment_draws_two_of_fourteen_to_either_side():
    drawn = draw(Augmentation(rand_augment=True), 14_000, 50, 8, cpu_generator(0))
    pairs = torch.bincount((14 * drawn["operations"][:, 0] + drawn["operations"][:, 1]), minlength=196)
    assert stats.chisquare(pairs.numpy()).pvalue > 0.001
    assert abs(drawn["signs"].double().mean()) < 0.02 and set(drawn["signs"].flatten().tolist()) == {-1, 1}


def test_rotation_and_scale_are_torchvisions():
    image = noise(1, 32)
    normalised = TF.normalize(image / 255, MEAN, STD)
    for degrees in (-15.0, -4.0, 7.5, 15.0):
        cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
        turned = augment(image, {"affine": torch.tensor([[[cos, -sin, 0], [sin, cos, 0]]])}, MEAN, STD)
        assert torch.allclose(turned, TF.rotate(normalised, degrees, TF.InterpolationMode.BILINEAR), atol=1e-4)
    for factor in (1 / 1.2, 1.1):
        scaled = augment(image, {"affine": torch.tensor([[[factor, 0, 0], [0, factor, 0]]])}, MEAN, STD)
        expected = TF.affine(normalised, 0, [0, 0], 1 / factor, [0.0], TF.InterpolationMode.BILINEAR)
        assert torch.allclose(scaled, expected, atol=1e-4)


def test_siamese_crop_moves_by_whole_pixels():
    image = noise(1, 32)
    for right, down in itertools.product((-4, 0, 3), repeat=2):
        affine = torch.tensor([[[1, 0, right / 16], [0, 1, down / 16]]])
        moved = augment(image, {"affine": affine}, MEAN, STD)[0]
        expected = shifted(
            TF.normalize(image / 255, MEAN, STD)[0], torch.tensor([down, right])
        )  # outside is the mean colour
        assert torch.allclose(moved, expected, atol=1e-6)


def test_black_and_white_keep_the_ends_of_the_range():
    images = torch.stack([torch.zeros(3, 32, 32), torch.full((3, 32, 32), 255)]).to(torch.uint8)
    rules = Augmentation(patches=2, crop_scale=(0.08, 1.0), flip=True)
    result = augment(images, draw(rules, 2, 2, 32, cpu_generator(0)), (0, 0, 0), (1, 1, 1))
    assert (result[0] == 0).all()
    assert torch.allclose(result[1], torch.ones(3, 32, 32), atol=1e-6)
    assert torch.equal(augment(images, {}, (0, 0, 0), (1, 1, 1)), images / 255)


# --- batches ----------------------------------------------------------------------------------------------------------

PROTOCOLS = pytest.mark.parametrize("rules", [IDC, IDC_SMALL, RDED, CIFAR_KD, EVERYTHING], ids=str)


@PROTOCOLS
def test_a_row_depends_on_its_own_image_alone(rules):
    rules = dataclasses.replace(rules, mix="none")
    draws = draw(rules, 9, 9, 12, cpu_generator(1))
    images = noise(9, 12)
    result = augment(images[:7], batch_of(draws, 0, 7), MEAN, STD)
    other = images.clone()
    other[3] = 255 - other[3]
    changed = augment(other, draws, MEAN, STD)[:7]  # one image is another one, and two more follow
    same = torch.arange(7) != 3
    assert torch.equal(result[same], changed[same])
    assert not torch.equal(result[3], changed[3])


@PROTOCOLS
def test_two_seeds_in_one_batch_are_each_alone(rules):
    first, second = (draw(rules, 6, 6, 12, cpu_generator(seed)) for seed in (1, 2))
    both = {name: torch.cat([first[name], second[name]]) for name in first}
    both["partner"][6:] += 6
    together = augment(torch.cat([noise(6, 12, 1), noise(6, 12, 2)]), both, MEAN, STD)
    assert torch.equal(together[:6], augment(noise(6, 12, 1), first, MEAN, STD))
    assert torch.equal(together[6:], augment(noise(6, 12, 2), second, MEAN, STD))


@PROTOCOLS
def test_batches_of_an_epoch_with_a_short_last_one(rules):
    draws = draw(rules, 23, 5, 12, cpu_generator(4))
    images = noise(23, 12)[draws["order"]]
    whole = augment(images, draws, MEAN, STD)  # in one call, with partners counted from the first row
    for start in range(0, 23, 5):
        stop = min(start + 5, 23)
        batch = batch_of(draws, start, stop)
        assert sorted(batch["partner"].tolist()) == list(range(stop - start))
        assert torch.equal(augment(images[start:stop], batch, MEAN, STD), whole[start:stop])


# --- drawing ----------------------------------------------------------------------------------------------------------


def test_what_is_drawn():
    expected = {
        "order": ((23,), torch.int64),
        "patches": ((23, 2, 3), torch.int64),
        "crop": ((23, 4), torch.float32),
        "shift": ((23, 2), torch.int64),
        "flip": ((23,), torch.bool),
        "jitter": ((23, 3), torch.float32),
        "jitter_order": ((23, 3), torch.int64),
        "lighting": ((23, 3), torch.float32),
        "color": ((23, 3), torch.float32),
        "affine": ((23, 2, 3), torch.float32),
        "partner": ((23,), torch.int64),
        "box": ((23, 4), torch.int64),
        "share": ((23,), torch.float32),
    }
    draws = draw(EVERYTHING, 23, 5, 12, cpu_generator(0))
    assert {name: (tuple(rows.shape), rows.dtype) for name, rows in draws.items()} == expected
    assert list(draw(Augmentation(), 23, 5, 12, cpu_generator(0))) == ["order"]
    assert list(draw(CIFAR_KD, 23, 5, 12, cpu_generator(0))) == ["order", "shift", "flip", "partner", "share"]
    assert sorted(draws["order"].tolist()) == list(range(23))
    for strips in draws["patches"].flatten(0, 1).tolist():
        assert sorted(strips) == [0, 1, 2]


def test_an_epoch_depends_on_its_generator_alone():
    def epoch(generator):
        return {name: rows.clone() for name, rows in draw(EVERYTHING, 23, 5, 12, generator).items()}

    generator = cpu_generator(7)
    first, second = epoch(generator), epoch(generator)
    torch.manual_seed(1), np.random.seed(1)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    generator = cpu_generator(7)
    for name, rows in epoch(generator).items():
        assert torch.equal(rows, first[name])
    for name, rows in epoch(generator).items():
        assert torch.equal(rows, second[name])
        assert not torch.equal(rows, first[name])  # the next epoch is another one
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()


def test_pixels_that_are_over_after_equal_strips_are_cut_off():
    rules = Augmentation(patches=2, crop_scale=(1.0, 1.0))
    images, draws = noise(5, 15), draw(rules, 5, 5, 14, cpu_generator(0), stored_size=15)
    result = augment(images, draws, MEAN, STD, 14)
    assert torch.equal(result, augment(images[..., :14, :14], draws, MEAN, STD))
    assert augment(images, draws, MEAN, STD).shape == images.shape


def plausible(p: float) -> None:
    """Fail when a law is refuted; with fixed seeds and some fifty tests, a true law comes nowhere near."""
    assert p > 1e-3


def is_uniform(values, low: float, high: float) -> None:
    plausible(stats.kstest(np.asarray(values).ravel(), stats.uniform(low, high - low).cdf).pvalue)


def equally_often(outcomes, expected) -> None:
    """Check that just the expected outcomes occur, all of the same probability."""
    found, counts = np.unique(np.asarray(outcomes), axis=0, return_counts=True)
    assert sorted(map(tuple, found)) == sorted(expected)
    plausible(stats.chisquare(counts).pvalue)


@pytest.mark.parametrize(("size", "scale"), [(32, (0.5, 1.0)), (224, (0.08, 1.0)), (32, (1.0, 1.0)), (224, (0.97, 1.0))])
def test_crops_are_drawn_as_torchvision_draws_them(size, scale):
    count = 20_000
    shares = draw(Augmentation(crop_scale=scale), count, 64, size, cpu_generator(0))["crop"].double() * size
    ours = shares.round().numpy()
    assert np.abs(shares.numpy() - ours).max() < 1e-4 * size / 32  # whole pixels
    torch.manual_seed(0)
    image = torch.empty(3, size, size)
    theirs = np.array([T.RandomResizedCrop.get_params(image, scale, (3 / 4, 4 / 3)) for _ in range(count)])
    for first, second in itertools.combinations_with_replacement(range(4), 2):  # top, left, height, width and their products
        a, b = ours[:, first] * ours[:, second], theirs[:, first] * theirs[:, second]
        plausible(stats.ks_2samp(a, b).pvalue)
        assert abs(a.mean() - b.mean()) <= 4.5 * math.hypot(a.std(), b.std()) / math.sqrt(count)
    plausible(stats.ks_2samp(ours[:, 3] / ours[:, 2], theirs[:, 3] / theirs[:, 2]).pvalue)
    whole = [int((crops == [0, 0, size, size]).all(1).sum()) for crops in (ours, theirs)]
    plausible(stats.fisher_exact([whole, [count - w for w in whole]]).pvalue)
    assert ours.min() >= 0 and (ours[:, :2] + ours[:, 2:]).max() <= size


def test_rates_of_what_is_drawn_per_image():
    draws = draw(dataclasses.replace(EVERYTHING, pad=0.1), 12_000, 64, 33, cpu_generator(0))
    equally_often(draws["flip"].unsqueeze(1), [(0,), (1,)])
    equally_often(draws["shift"], itertools.product(range(-3, 4), repeat=2))  # 3.3 pixels
    for strips in draws["patches"].unbind(1):
        equally_often(strips, itertools.permutations(range(3)))
    equally_often(
        draws["patches"].flatten(1),
        [a + b for a in itertools.permutations(range(3)) for b in itertools.permutations(range(3))],
    )
    equally_often(draws["jitter_order"], itertools.permutations(range(3)))
    for column in range(3):
        is_uniform(draws["jitter"][:, column], -0.4, 0.4)
        is_uniform(draws["color"][:, column], *[(-0.5, 0.5), (0, 2), (0.5, 1.5)][column])
        plausible(stats.kstest(draws["lighting"][:, column].numpy(), stats.norm(0, 0.1).cdf).pvalue)
    columns = np.concatenate([draws[name].numpy() for name in ("jitter", "color", "lighting", "shift")], 1)
    correlations = np.corrcoef(columns.T)[np.triu_indices(columns.shape[1], 1)]
    assert np.abs(correlations).max() < 4.5 / math.sqrt(12_000)


def test_one_siamese_operation_per_batch_with_parameters_per_image():
    size, batch_size = 32, 10
    affine = draw(Augmentation(siamese=True), 30_003, batch_size, size, cpu_generator(0))["affine"].double().numpy()
    kinds, found = [], {"crop": [], "scale": [], "rotate": []}
    for start in range(0, len(affine), batch_size):
        batch = affine[start : start + batch_size]
        if (batch[:, 0, 0] == 1).all() and (batch[:, 1, 1] == 1).all():
            kind = "crop"
            assert (batch[:, [0, 1], [1, 0]] == 0).all()
            found[kind] += (batch[:, :, 2] * size / 2).tolist()
        elif (batch[:, 0, 1] == 0).all():
            kind = "scale"
            assert (batch[:, [1, 0, 1], [0, 2, 2]] == 0).all()
            found[kind] += batch[:, [0, 1], [0, 1]].tolist()
        else:
            kind = "rotate"
            angle = np.arctan2(batch[:, 1, 0], batch[:, 0, 0])
            rotation = np.array([[np.cos(angle), -np.sin(angle), 0 * angle], [np.sin(angle), np.cos(angle), 0 * angle]])
            assert np.allclose(batch, rotation.transpose(2, 0, 1), atol=1e-6)
            found[kind] += np.degrees(angle).tolist()
        kinds.append([kind])
    equally_often(kinds, [("crop",), ("rotate",), ("scale",)])
    equally_often(found["crop"], itertools.product(range(-4, 5), repeat=2))
    is_uniform(found["rotate"], -15, 15)
    for factors in np.array(found["scale"]).T:
        is_uniform(factors, 1 / 1.2, 1.2)
    assert abs(np.corrcoef(np.array(found["scale"]).T)[0, 1]) < 0.05


@pytest.mark.parametrize("alpha", [0.2, 0.8, 1.0, 3.0])
def test_mixup_draws_lambda_from_beta(alpha):
    rules = Augmentation(mix="mixup", mix_alpha=alpha)
    shares, others = (draw(rules, 5 * 4000, 5, 8, cpu_generator(seed))["share"].view(-1, 5) for seed in (0, 1))
    assert (shares == shares[:, :1]).all()  # one for a batch
    assert not (shares == others).any()
    plausible(stats.kstest(shares[:, 0].double().numpy(), stats.beta(alpha, alpha).cdf).pvalue)


@pytest.mark.parametrize(("alpha", "size"), [(1.0, 8), (0.8, 9)])
def test_cutmix_boxes_follow_their_law(alpha, size):
    """Against the probability of every box there is: uniform centre, side int(size sqrt(1 - lambda)), halves cut down."""
    law = {}
    for cut in range(size):
        chance = stats.beta.cdf([(cut / size) ** 2, ((cut + 1) / size) ** 2], alpha, alpha)
        for y, x in itertools.product(range(size), repeat=2):
            corners = [max(0, y - cut // 2), max(0, x - cut // 2), min(size, y + cut // 2), min(size, x + cut // 2)]
            law[tuple(corners)] = law.get(tuple(corners), 0) + (chance[1] - chance[0]) / size**2
    batches = 100_000
    draws = draw(Augmentation(mix="cutmix", mix_alpha=alpha), 2 * batches, 2, size, cpu_generator(0))
    assert torch.equal(draws["box"][::2], draws["box"][1::2])  # one for a batch
    boxes, counts = np.unique(draws["box"][::2].numpy(), axis=0, return_counts=True)
    counts = dict(zip(map(tuple, boxes.tolist()), counts, strict=True))
    assert set(counts) <= set(law)
    plausible(stats.chisquare([counts.get(box, 0) for box in law], [batches * p for p in law.values()]).pvalue)
    for box, share in zip(draws["box"][:2000].tolist(), draws["share"].tolist(), strict=False):
        replaced = sum(1 for y in range(size) for x in range(size) if box[0] <= y < box[2] and box[1] <= x < box[3])
        assert share == pytest.approx(1 - replaced / size**2, abs=1e-7)
    mean = sum(p * (1 - (box[2] - box[0]) * (box[3] - box[1]) / size**2) for box, p in law.items())
    assert draws["share"].mean().item() == pytest.approx(mean, abs=4.5 * draws["share"].std().item() / math.sqrt(batches))


@pytest.mark.parametrize("mix", ["cutmix", "mixup"])
@pytest.mark.parametrize("probability", [0.0, 0.5, 1.0])
def test_partners_are_a_permutation_of_each_mixed_batch(mix, probability):
    rules = Augmentation(mix=mix, mix_probability=probability)
    draws = draw(rules, 3 * 3000 + 2, 3, 8, cpu_generator(0))
    own = torch.arange(9002)
    assert torch.equal(draws["partner"] // 3, own // 3)
    batches = (draws["partner"] - own // 3 * 3)[:9000].view(-1, 3)
    untouched = draws["share"] == 1
    if mix == "cutmix":
        height, width = (draws["box"][:, 2:] - draws["box"][:, :2]).unbind(1)
        assert torch.equal(untouched, height * width == 0)
    if probability == 0:
        assert torch.equal(draws["partner"], own)
        assert untouched.all()
        assert not draws.get("box", torch.zeros(1)).any()
    if probability == 1:
        equally_often(batches, itertools.permutations(range(3)))
    if probability == 0.5:
        unmixed = (batches == torch.arange(3)).all(1)
        assert stats.binomtest(int(unmixed.sum()), 3000, 0.5 + 0.5 / 6).pvalue > 1e-3
        if mix == "mixup":  # a box may be empty in a mixed batch, too
            assert stats.binomtest(int(untouched[:9000:3].sum()), 3000, 0.5).pvalue > 1e-3
            assert unmixed[untouched[:9000:3]].all()
