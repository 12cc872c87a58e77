"""Statistics of what convolutions see: against NumPy on whole arrays, and how they are kept."""

import numpy as np
import pytest
import torch
from small_net import make_teacher
from torch import nn

from distill_hub.classifiers import Classifier
from distill_hub.config import InputError
from distill_hub.data.classes import SourceClass
from distill_hub.data.sources import load_source
from distill_hub.running.run import Run
from distill_hub.statistics import convolutions
from distill_hub.statistics.convolutions import (
    batch_statistics,
    class_statistics,
    layers_of,
    measure,
    mixture,
    patch_moments,
)


@pytest.fixture(scope="module")
def source():
    return load_source("digits")


def patches(maps: np.ndarray, patch: int) -> list[np.ndarray]:
    """Cut maps whose sides are multiples of `patch` into what each patch holds, row by row."""
    rows, columns = (range(0, side, patch) for side in maps.shape[2:])
    return [maps[:, :, row : row + patch, column : column + patch] for row in rows for column in columns]


@pytest.mark.parametrize("sides", [(8, 12), (4, 4)])
@pytest.mark.parametrize("groups", [1, 3])
def test_a_patch_is_what_lies_there_in_all_images_and_channels(sides, groups):
    maps = torch.rand(6, 5, *sides, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    mean, variance = patch_moments(maps, groups, 4)
    for group, own in enumerate(maps.chunk(groups)):
        for place, values in enumerate(patches(own.numpy(), 4)):
            np.testing.assert_allclose(mean[group, place], values.mean(), rtol=1e-12)
            np.testing.assert_allclose(variance[group, place], values.var(), rtol=1e-12)


def test_maps_that_patches_do_not_fit_are_enlarged():
    maps = torch.arange(2.0).view(1, 1, 1, 2)  # 0, 1: four pixels of them are 0, .25, .75, 1
    mean, variance = patch_moments(maps, 1, 4)
    row = np.array([0, 0.25, 0.75, 1])
    assert mean.tolist() == [[pytest.approx(row.mean())]] and variance.tolist() == [[pytest.approx(row.var())]]


def test_parts_make_a_whole():
    values = np.random.default_rng(0).normal([1e4, 2, 3], [1, 2, 0.1], (60, 3))
    parts = np.split(values, [10, 45])
    means, variances = (torch.from_numpy(np.stack([getattr(part, name)(0) for part in parts])) for name in ("mean", "var"))
    mean, variance = mixture([10, 35, 15], means, variances)
    np.testing.assert_allclose(mean, values.mean(0), rtol=1e-13)
    np.testing.assert_allclose(variance, values.var(0), rtol=1e-9)


def seen_by(teacher, images: torch.Tensor) -> list[np.ndarray]:
    """What the two convolutions of `small_net`, and then its two BatchNorm layers, see of images in [0, 1]."""
    mean, std = (torch.tensor(value, dtype=torch.float64).view(3, 1, 1) for value in (teacher.mean, teacher.std))
    values, seen = (images.double() - mean) / std, {nn.Conv2d: [], nn.BatchNorm2d: []}
    for module in teacher.model[:5].double():
        if type(module) in seen:
            seen[type(module)].append(values.numpy())
        with torch.no_grad():
            values = module(values)
    return seen[nn.Conv2d] + seen[nn.BatchNorm2d]


@pytest.mark.parametrize("sizes", [[20], [7, 7, 6]])
def test_statistics_of_a_class_are_those_of_all_its_maps(source, sizes):
    images = source.train.pixels(range(20), 16).float() / 255
    teacher = make_teacher(source.classes)
    layers = layers_of(teacher, 16)
    found = class_statistics([batch_statistics(teacher, iter([part]), layers) for part in images.split(sizes)])
    for place, maps in enumerate(seen_by(make_teacher(source.classes), images)):
        np.testing.assert_allclose(found[f"{place}.mean"], maps.mean((0, 2, 3)), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(found[f"{place}.variance"], maps.var((0, 2, 3)), rtol=1e-5, atol=1e-7)
        assert (f"{place}.patch_mean" in found) == (place < 2)
        if place < 2:
            cells = patches(maps, 4)
            np.testing.assert_allclose(found[f"{place}.patch_mean"], [cell.mean() for cell in cells], rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(found[f"{place}.patch_variance"], [cell.var() for cell in cells], rtol=1e-4)


@pytest.fixture
def measured(source, tmp_path, monkeypatch):
    """Measure digits as they are, without crops, so that a reference knows what was seen."""
    monkeypatch.setenv("DISTILL_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(convolutions, "augment", lambda images, *_: images.float() / 255)
    return lambda **words: measure(
        Run(tmp_path / "run", {}), source, make_teacher(source.classes), "a" * 64, **{"image_size": 16, "seed": 0, **words}
    )


def test_all_images_and_those_of_some_classes(measured, source):
    found, labels = measured(), source.train.labels
    maps = seen_by(make_teacher(source.classes), source.train.pixels(None, 16).float() / 255)
    norms = [make_teacher(source.classes).model[place] for place in (1, 4)]
    for place in range(2):
        mean, variance, patch_mean, patch_variance = found.whole[place]
        np.testing.assert_allclose(mean, maps[place].mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(variance, maps[place].var((0, 2, 3)), rtol=1e-4)
        np.testing.assert_allclose(patch_mean, [cell.mean() for cell in patches(maps[place], 4)], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(patch_variance, [cell.var() for cell in patches(maps[place], 4)], rtol=1e-4)
        assert [x.tolist() for x in found.whole[2 + place]] == [
            norms[place].running_mean.tolist(), norms[place].running_var.tolist()
        ]  # fmt: skip
    # Two images of a 3 and one of a 7: every image of a class counts alike, and the 3 twice as much as the 7.
    for own, maps_of_layer in zip(found.of([3, 7, 3]), maps, strict=True):
        three, seven = (maps_of_layer[labels == label] for label in (3, 7))
        mean = (2 * three.mean((0, 2, 3)) + seven.mean((0, 2, 3))) / 3
        square = (2 * (three**2).mean((0, 2, 3)) + (seven**2).mean((0, 2, 3))) / 3
        np.testing.assert_allclose(own[0], mean, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(own[1], square - mean**2, rtol=1e-3, atol=1e-5)


def test_it_is_measured_once_and_what_is_of_something_else_is_refused(measured, source, tmp_path, monkeypatch):
    measured()
    (folder,) = (tmp_path / "cache").glob("digits-statistics-*/")
    monkeypatch.setattr(convolutions, "batch_statistics", lambda *_: pytest.fail("measured again"))
    measured()
    file = folder / "class-00004.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[:-20])
    with pytest.raises(InputError, match="it is damaged"):
        measured()
    file.write_bytes(content)
    record = folder / "bank.json"
    record.write_text(record.read_text().replace("a" * 64, "b" * 64))
    with pytest.raises(InputError, match=r"its teacher_sha256 is 'b{64}'"):
        measured()


def test_a_network_without_convolutions_is_refused():
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 2))
    classes = [SourceClass(name, place, None) for place, name in enumerate("ab")]
    how = {"id": "flat", "architecture": "mlp", "classes": classes, "class_names": ["a", "b"], "image_size": 8}
    with pytest.raises(InputError, match="a network with convolutions is needed, mlp has none"):
        layers_of(Classifier(model, **how), 8)
