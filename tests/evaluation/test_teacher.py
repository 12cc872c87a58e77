"""A teacher that is fitted for a run and learns nothing is refused, with what helps."""

import dataclasses

import numpy as np
import PIL.Image
import pytest

from distill_hub.config import InputError
from distill_hub.data.sources import load_source
from distill_hub.evaluation.subject import HeldOut
from distill_hub.evaluation.teacher import fit_settings, open_teacher
from distill_hub.running.run import Run


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
    how = {"teacher": "auto", "teacher_revision": None, "teacher_epochs": 30, "seed": 0, "network": "convnet-1-w16"}
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
