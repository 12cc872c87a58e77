"""A teacher that is fitted for a run and learns nothing is refused, with what helps."""

import dataclasses

import numpy as np
import PIL.Image
import pytest
import torch

from distill_hub.classifiers import Classifier, save_network
from distill_hub.config import InputError
from distill_hub.data.sources import load_source
from distill_hub.networks.build import build
from distill_hub.running.run import Run
from distill_hub.teachers.open import fit_settings, open_selector, open_teacher
from distill_hub.training.subject import HeldOut


def test_a_fitted_teacher_that_knows_nothing_is_not_blamed_on_the_class_order(tmp_path):
    for split, shown in (("train", 0), ("test", 1)):  # a is red and b green, in the test split the other way round
        for number in range(6):
            file = tmp_path / "photos" / split / "ab"[number % 2] / f"{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            pixels = np.zeros((16, 16, 3), dtype=np.uint8)
            pixels[..., (number + shown) % 2] = 150 + number
            PIL.Image.fromarray(pixels).save(file)
    source = load_source(str(tmp_path / "photos"))
    expected = (
        r"its predictions on the test split agree with the labels on 0\.0%, near chance \(50\.0%\): it has learned too "
        r"little from 6 images in 30 epochs; what helps is a --teacher that .* --teacher_epochs .*; least: a \(0%\)"
    )
    how = {"teacher": "auto", "teacher_revision": None, "teacher_epochs": 30, "seed": 0, "networks": ("convnet-1-w16",)}
    with pytest.raises(InputError, match=expected):
        open_teacher(Run(tmp_path / "set", {}), HeldOut(source), 16, **how)


@pytest.mark.parametrize(
    ("images", "epochs"),
    [
        (20, 200),
        (50, 200),
        (51, 100),
        (160, 50),
        (250, 50),
        (1_000, 30),
        (2_000, 15),
        (5_000, 10),
        (50_000, 10),
    ],  # 50 a step
)
def test_a_teacher_is_fitted_for_a_step_an_image_within_limits(digits, images, epochs):
    rows = np.arange(images) % len(digits.train)
    source = dataclasses.replace(digits, train=digits.train.select(rows, "train"))
    settings = fit_settings(source, "convnet-2", 16)
    assert (settings.epochs, settings.looks) == (epochs, ())
    assert fit_settings(source, "convnet-2", 16, 3).epochs == 3


def saved(folder, digits, names):
    """A network that knows more than the digits, each by a name of its own."""
    network = build("convnet-1-w16", len(names), 16)
    save_network(network, folder, "convnet-1-w16", names, 16)
    return str(folder)


def test_a_selector_is_measured_as_a_teacher_is_and_blamed_as_the_selector(tmp_path, digits, monkeypatch):
    names = [*map(str, range(10)), "a", "b"]
    place, test, run = saved(tmp_path / "net", digits, names), HeldOut(digits), Run(tmp_path / "set", {})
    how = {"selector_revision": None, "selector_resize": None}
    with pytest.raises(InputError, match=r"^selector: .*net.* predictions on the test split .* near chance \(10.0%\)"):
        open_selector(run, test, 16, selector=place, **how)
    with pytest.raises(InputError, match=r"^selector: .*nowhere.* timm/NAME, a Hub id or a folder"):
        open_selector(run, test, 16, selector="timm/nowhere", **how)
    with pytest.raises(InputError, match=r"^selector: .*few.* do not give one for: 9"):
        open_selector(run, test, 16, selector=saved(tmp_path / "few", digits, [*names[:9], "a"]), **how)
    monkeypatch.setattr(Classifier, "predict", lambda self, images: test.labels)
    found, record = open_selector(run, test, 16, selector=place, **how)
    assert (found.known, len(found.columns), record.id, record.test_accuracy) == (12, 10, "net", 1.0)


def test_a_selector_may_see_the_middle_of_larger_images(tmp_path, digits, monkeypatch):
    place, test, run = saved(tmp_path / "net", digits, list(map(str, range(10)))), HeldOut(digits), Run(tmp_path / "set", {})
    monkeypatch.setattr(Classifier, "predict", lambda self, images: test.labels)
    named = {"selector": place, "selector_revision": None}
    whole, _ = open_selector(run, test, 16, **named, selector_resize=None)
    middle, _ = open_selector(run, test, 16, **named, selector_resize=24)
    images = torch.rand(3, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(middle.logits(images), whole.logits(images[..., 4:20, 4:20]))
    for small in (12, 2):  # on 2 px the network does not run at all
        with pytest.raises(InputError, match=rf"^selector_resize: {small} .* sees 16 px: so many at least"):
            open_selector(run, test, 16, **named, selector_resize=small)
