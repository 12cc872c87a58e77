"""Near chance is refused, naming the classes; above it, the agreement comes back."""

import numpy as np
import pytest

from distill_hub.artifact.manifest import MethodRecord
from distill_hub.config import InputError
from distill_hub.training.contract import excuse, refuse_chance


def judge(right: int, total: int, classes: int) -> float:
    labels = np.arange(total) % classes
    predicted = np.where(np.arange(total) < right, labels, (labels + 1) % classes)
    return refuse_chance("teacher", "x", predicted, labels, [f"class {c}" for c in range(classes)], "its predictions")


@pytest.mark.parametrize(("right", "total", "classes"), [(10, 100, 10), (18, 100, 10), (90, 1000, 1000), (54, 100, 2)])
def test_near_chance_is_refused(right, total, classes):
    with pytest.raises(InputError, match="near chance"):
        judge(right, total, classes)


@pytest.mark.parametrize(("right", "total", "classes"), [(20, 100, 10), (120, 1000, 1000), (60, 100, 2), (10, 10, 10)])
def test_better_than_chance_passes(right, total, classes):
    assert judge(right, total, classes) == right / total


def test_the_classes_that_agree_least_are_named():
    labels = np.repeat([0, 1, 2], 10)
    with pytest.raises(InputError, match=r"least: cat \(0%\), dog \(0%\), ape \(100%\)"):
        refuse_chance("teacher", "x", np.zeros(30), labels, ["ape", "cat", "dog"], "its predictions")


def test_what_such_a_disagreement_comes_from_is_said():
    labels, names = np.repeat([0, 1], 10), ["ape", "cat"]
    with pytest.raises(InputError, match=r"near chance \(50.0%\): another class order, or images that do not show their"):
        refuse_chance("teacher", "x", np.zeros(20), labels, names, "its predictions")
    with pytest.raises(InputError, match=r"near chance \(50.0%\): it has learned too little; least: cat \(0%\)"):
        refuse_chance("teacher", "x", np.zeros(20), labels, names, "its predictions", "it has learned too little")


@pytest.mark.parametrize(
    ("name", "config", "reason"),
    [
        ("dc", {"start": "noise"}, "from noise"),
        ("dc", {"start": "real"}, None),
        ("aum", {"keep": "hardest"}, "the hardest of their classes"),
        ("aum", {"keep": "easiest"}, None),
        ("ccs", {"keep": "hardest"}, None),  # which takes none of them
    ],
)
def test_what_need_not_be_recognised(build_manifest, name, config, reason):
    found = excuse(build_manifest(method=MethodRecord(name=name, title=name, config=config))("0" * 64))
    assert found is None if reason is None else reason in found


def test_of_such_images_a_line_says_it():
    labels, said = np.repeat([0, 1], 10), []
    how = "method", "dc", np.zeros(20), labels, ["ape", "cat"], "its images", "they were optimised from noise"
    assert refuse_chance(*how, said.append) == 0.5
    assert len(said) == 1 and said[0].startswith(
        "warning: its images agree with the labels on 50.0%, near chance (50.0%): they"
    )
    assert refuse_chance("method", "dc", labels, *how[3:], said.append) == 1 and len(said) == 1
