"""Every step of RDED by marked crops and a classifier whose taste is known, its crops against torchvision's."""

import numpy as np
import pytest
import torch
from datasets import Dataset
from PIL import Image
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms.functional import resized_crop

from distill_hub.classifiers import Classifier
from distill_hub.config import InputError
from distill_hub.data.classes import SourceClass
from distill_hub.data.sources import Source, Split
from distill_hub.methods import rded
from distill_hub.running.seeds import draw_seed

COUNTS = {"cat": 9, "dog": 12}


class Bright(torch.nn.Module):
    """Logits of two classes: the mean of the normalised image speaks for dog. Remembers what it saw."""

    def __init__(self):
        super().__init__()
        self.head = torch.nn.Linear(1, 2)
        self.head.weight.data = torch.tensor([[0.0], [1.0]])
        self.head.bias.data.zero_()
        self.seen = []

    def forward(self, images):
        self.seen.append(images.clone())
        return self.head(images.mean((1, 2, 3)).unsqueeze(1))


@pytest.fixture
def teacher():
    classes = [SourceClass(name, index) for index, name in enumerate(COUNTS)]
    return Classifier(Bright(), id="x", architecture="x", classes=classes, class_names=list(COUNTS), image_size=12)


@pytest.fixture(scope="module")
def source():
    """Images of 20 x 15 pixels, each of one grey that no other has: 10 for row 0, 20 for row 1, ..."""
    labels = np.array([label for label, count in enumerate(COUNTS.values()) for _ in range(count)])
    labels = np.random.default_rng(0).permutation(labels)
    images = [Image.new("RGB", (20, 15), (10 + 10 * row,) * 3) for row in range(len(labels))]
    split = Split("toy", "train", Dataset.from_dict({"image": images}), labels, "image")
    return Source("toy", split, split, [SourceClass(name, index) for index, name in enumerate(COUNTS)], "label")


def test_crops_are_tiled_row_by_row():
    crops = torch.arange(2 * 9).view(18, 1, 1, 1) * 10 + torch.tensor([[0, 1], [2, 3]])  # 2 x 2 pixels, each its own number
    images = rded.tile(crops.expand(18, 3, 2, 2), 3)
    assert images.shape == (2, 3, 6, 6)
    first = [
        [0, 1, 10, 11, 20, 21],
        [2, 3, 12, 13, 22, 23],
        [30, 31, 40, 41, 50, 51],
        [32, 33, 42, 43, 52, 53],
        [60, 61, 70, 71, 80, 81],
        [62, 63, 72, 73, 82, 83],
    ]
    for channel in range(3):
        assert images[0, channel].tolist() == first
        assert (images[1, channel] - images[0, channel] == 90).all()


def test_one_crop_makes_an_image_when_factor_is_1():
    crops = torch.randint(256, (5, 3, 4, 4))
    assert torch.equal(rded.tile(crops, 1), crops)


def test_the_lowest_loss_of_an_image_and_then_of_all():
    losses = torch.tensor([[5.0, 3.0], [1.0, 2.0], [3.0, 3.0], [9.0, 0.5]])
    images, crops = rded.select(losses, 3)
    assert images.tolist() == [3, 1, 0] and crops.tolist() == [1, 0, 1]  # 0 and 2 tie


def test_a_crop_is_judged_in_the_middle_of_zeros(teacher):
    crops = torch.randint(256, (5, 3, 5, 5), dtype=torch.uint8)
    losses = rded.losses(teacher, crops, 1, 12, batch_size=2)
    seen = torch.cat(teacher.model.seen)
    assert [len(batch) for batch in teacher.model.seen] == [2, 2, 1]
    mean, std = (torch.tensor(numbers).view(3, 1, 1) for numbers in (teacher.mean, teacher.std))
    inside = (crops / 255 - mean) / std
    torch.testing.assert_close(seen[:, :, 3:8, 3:8], inside)  # 7 pixels are left: 3 before, 4 behind
    outside = seen.clone()
    outside[:, :, 3:8, 3:8] = 0
    assert (outside == 0).all()
    logit = inside.sum((1, 2, 3)) / (3 * 12 * 12)
    torch.testing.assert_close(losses, torch.log(1 + torch.exp(-logit)).double(), rtol=1e-5, atol=0)


def test_without_padding_the_crop_is_the_image(teacher):
    rded.losses(teacher, torch.full((1, 3, 12, 12), 255, dtype=torch.uint8), 0, 12)
    (seen,) = teacher.model.seen
    expected = (1 - torch.tensor(teacher.mean)) / torch.tensor(teacher.std)
    torch.testing.assert_close(seen, expected.view(1, 3, 1, 1).expand(1, 3, 12, 12))


@pytest.mark.parametrize(("width", "height"), [(64, 64), (90, 60)])
def test_crops_are_drawn_as_torchvision_draws_them(width, height):
    count = 6000
    left, top, right, bottom = rded.draw_boxes(width, height, count, seed=3).unbind(1)
    side = right - left
    assert torch.equal(side, bottom - top)
    assert left.min() >= 0 and top.min() >= 0 and right.max() <= width and bottom.max() <= height
    torch.manual_seed(0)
    pixels = torch.zeros(1, height, width)
    drawn = [RandomResizedCrop.get_params(pixels, (0.08, 1.0), (1.0, 1.0)) for _ in range(count)]
    theirs = torch.tensor(drawn)  # top, left, height, width
    levels = torch.linspace(0.05, 0.95, 10, dtype=torch.float64)
    for ours, other in ((top, theirs[:, 0]), (left, theirs[:, 1]), (side, theirs[:, 2])):
        quantiles = (values.double().quantile(levels) for values in (ours, other))
        torch.testing.assert_close(*quantiles, rtol=0, atol=2)
    assert side.min() == theirs[:, 2].min() and side.max() == theirs[:, 2].max()


def test_a_crop_that_never_fits_is_the_middle():
    top, left, height, width = RandomResizedCrop.get_params(torch.zeros(1, 5, 100), (0.08, 1.0), (1.0, 1.0))
    assert rded.draw_boxes(100, 5, 3, seed=0).tolist() == [[left, top, left + width, top + height]] * 3
    assert (left, top, width, height) == (47, 0, 5, 5)


def test_crops_are_scaled_as_torchvision_scales_them():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8))
    boxes = torch.tensor([[3, 4, 33, 34], [0, 0, 9, 9], [10, 20, 30, 40]])
    crops = rded.crop(image, boxes, 12)
    assert crops.dtype == torch.uint8 and crops.shape == (3, 3, 12, 12)
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).float()
    for found, (left, top, right, bottom) in zip(crops, boxes.tolist(), strict=True):
        expected = resized_crop(pixels, top, left, bottom - top, right - left, [12, 12], antialias=True)
        torch.testing.assert_close(
            found.float(), expected, rtol=0, atol=1.01
        )  # theirs are floats, PIL's weights have 8 bits
    assert torch.equal(rded.crop(image.convert("L"), boxes, 12)[:, 0], rded.crop(image.convert("L"), boxes, 12)[:, 2])


def distilled(source, teacher, **changes):
    how = {"image_size": 12, "factor": 2, "images_per_class": 300, "num_crops": 3, "seed": 5}
    return rded.distill_class(source, teacher, 1, 2, **{**how, **changes})


def test_the_brightest_dogs_are_dealt_out_and_decoded_once(source, teacher, monkeypatch):
    """Any crop of an image has its grey, so that tiles say whose they are."""
    decoded, decode = [], Split.image
    monkeypatch.setattr(Split, "image", lambda split, row: decoded.append(row) or decode(split, row))
    images, seeds = distilled(source, teacher).values()
    dogs = np.flatnonzero(source.train.labels == 1)
    assert sorted(decoded) == dogs.tolist()
    tiles = [images[j, 0, y, x].item() for y in (0, 6) for x in (0, 6) for j in range(2)]
    assert tiles == [10 + 10 * row for row in dogs[::-1][:8]]
    assert images.shape == (2, 3, 12, 12) and images.dtype == torch.uint8
    for y in (0, 6):
        for x in (0, 6):
            assert (images[:, :, y : y + 6, x : x + 6] == images[:, :1, y : y + 1, x : x + 1]).all()
    # The seed is that of the upper left tile's image, by its place in the draw, which is the order of decoding.
    assert seeds.tolist() == [draw_seed(5, "rded", "dog", decoded.index(row)) for row in dogs[::-1][:2]]


def test_crops_come_from_some_images_where_there_are_more(source, teacher, monkeypatch):
    decoded, decode = [], Split.image
    monkeypatch.setattr(Split, "image", lambda split, row: decoded.append(row) or decode(split, row))
    images, _ = distilled(source, teacher, images_per_class=9, factor=1).values()
    greys = sorted((10 + 10 * row for row in decoded), reverse=True)
    assert len(decoded) == len(set(decoded)) == 9 and images[:, 0, 0, 0].tolist() == greys[:2]
    first = list(decoded)
    for seed in (5, 6):
        decoded.clear()
        distilled(source, teacher, images_per_class=9, factor=1, seed=seed)
        assert (decoded == first) == (seed == 5)


def test_factor_by_image_size():
    assert [rded.resolve_factor(None, size) for size in (32, 64, 65, 224)] == [1, 1, 2, 2]
    assert rded.resolve_factor(3, 32) == 3


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"image_size": 15}, ["image_size: 15", "multiple of factor, 2"]),
        ({"images_per_class": 7}, ["images_per_class: 7", "2 x 2", "need 8 real images"]),
        ({"ipc": 3}, ["ipc: 3", "'cat'", "has 9 images", "each of 12"]),
    ],
)
def test_what_leaves_a_tile_empty_is_refused(source, changes, parts):
    rded.check(source, **{"ipc": 2, "image_size": 12, "factor": 2, "images_per_class": 8})
    with pytest.raises(InputError) as error:
        rded.check(source, **{"ipc": 2, "image_size": 12, "factor": 2, "images_per_class": 300, **changes})
    assert all(part in str(error.value) for part in parts), error.value
