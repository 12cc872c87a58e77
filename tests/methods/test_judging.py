"""Verdicts against numbers worked out by hand and loops: among all classes of a network, and among those of a set."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from distill_hub.classifiers import Classifier
from distill_hub.config import InputError
from distill_hub.data.classes import SourceClass
from distill_hub.methods.candidates import draw_pool, judge_pool, verdicts_of
from distill_hub.methods.judging import VERDICTS, difficulty, judge, judge_images
from distill_hub.running.run import Run

KNOWN = ["ant", "bee", "cow", "dog"]  # to the network, in its order
SET = [SourceClass("cow", 0), SourceClass("ant", 1)]


class Head(nn.Module):
    """Logits that are a linear map of the image's mean colour; it counts the images that it has seen."""

    def __init__(self, weight):
        super().__init__()
        self.linear = nn.Linear(3, len(weight), bias=False)
        self.linear.weight.data = torch.tensor(weight)
        self.seen = 0

    def forward(self, images):
        self.seen += len(images)
        return self.linear(images.mean((2, 3)))


def classifier(weight):
    how = {"id": "x", "architecture": "x", "classes": SET, "class_names": KNOWN[: len(weight)], "image_size": 4}
    return Classifier(Head(weight), **how, mean=(0.0,), std=(1.0,))


def colours(*rows):
    return torch.tensor(rows).view(-1, 3, 1, 1).expand(-1, 3, 4, 4)


# Of red ant has 4, of green cow 4 and dog 6, of blue cow 2 and ant 1.
WEIGHT = [[4.0, 0.0, 1.0], [0.0, 0.0, 0.0], [0.0, 4.0, 2.0], [0.0, 6.0, 0.0]]


def test_a_network_that_knows_more_passes_less_and_may_turn_the_order_of_difficulty_round():
    """Green and blue, both as cow. Among ant and cow both pass; among all four green is a dog, and the harder one."""
    images = colours((0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
    e = math.exp
    for over, expected, correct in (
        ("set", [e(4) / (e(4) + 1), e(2) / (e(2) + e(1))], [True, True]),
        ("all", [e(4) / (e(6) + e(4) + 2), e(2) / (e(2) + e(1) + 2)], [False, True]),
    ):
        found = judge_images(classifier(WEIGHT), images, [0, 0], over)
        assert list(found) == VERDICTS and found["correct"].tolist() == correct
        np.testing.assert_allclose(found["confidence"], expected, rtol=1e-6)
        np.testing.assert_allclose(found["difficulty"], [1 - p for p in expected], rtol=1e-6)
    by_set, by_all = (judge_images(classifier(WEIGHT), images, [0, 0], over)["difficulty"] for over in ("set", "all"))
    assert by_set[0] < by_set[1] and by_all[0] > by_all[1]
    assert found["largest"][0] == pytest.approx(e(6) / (e(6) + e(4) + 2), rel=1e-6)


def test_verdicts_of_random_logits_equal_loops():
    logits = torch.randn(40, 9, generator=torch.Generator().manual_seed(1)) * 5
    columns = [index % 9 for index in range(40)]
    found = judge(logits, columns)
    for row, own, *said in zip(logits.tolist(), columns, *(found[name].tolist() for name in VERDICTS), strict=True):
        powers = [math.exp(value) for value in row]
        shares = [power / math.fsum(powers) for power in powers]
        error = math.sqrt(math.fsum((p - (k == own)) ** 2 for k, p in enumerate(shares)))
        expected = [max(row) == row[own], shares[own], 1 - shares[own], max(shares), error]
        assert said[0] == expected[0] and said[1:] == pytest.approx(expected[1:], abs=1e-13)


def test_a_network_that_knows_the_classes_of_the_set_alone_says_the_same_over_all_of_them():
    images = torch.rand(20, 3, 4, 4, generator=torch.Generator().manual_seed(2))
    weight = torch.randn(2, 3, generator=torch.Generator().manual_seed(3)).tolist()
    model = Classifier(
        Head(weight), id="x", architecture="x", classes=SET, class_names=["cow", "ant"], image_size=4
    )  # fitted here, in the order of the set
    over_all, over_set = (judge_images(model, images, [0, 1] * 10, over) for over in ("all", "set"))
    assert all(torch.equal(over_all[name], over_set[name]) for name in VERDICTS)


class Painter:
    """Draws images of one colour each, as its latents say."""

    def sample(self, class_ids, seeds):
        return torch.rand(len(seeds), 3, 1, 1, generator=torch.Generator().manual_seed(sum(seeds) % 1000))

    def decode(self, latents):
        return latents.expand(-1, 3, 4, 4)


def test_a_pool_is_judged_by_the_teacher_in_one_pass_and_by_another_network_without_drawing_it_anew(tmp_path):
    teacher, other = classifier(WEIGHT), classifier(WEIGHT[:3])
    run = Run(tmp_path, {})
    pool = draw_pool(run, Painter(), teacher, ["cow", "ant"], [2, 0], 5, seed=1, batch_size=4, made_from={})
    assert teacher.model.seen == 10
    images, logits = pool.rows(0, 10, "images", "logits").values()
    labels = [0] * 5 + [1] * 5

    def same(stage, judging, over):
        expected = judge_images(judging, images.float() / 255, labels, over)
        for label in (0, 1):
            found = verdicts_of(stage, label, 5)
            for name in VERDICTS:
                own = expected[name][5 * label : 5 * label + 5]
                torch.testing.assert_close(getattr(found, name), own, rtol=1e-6, atol=1e-9)

    same(pool, teacher, "all")
    assert logits.shape == (10, 2) and not torch.equal(
        pool.rows(0, 10, "confidence")["confidence"], judge(logits, labels)["confidence"]
    )
    seen = teacher.model.seen
    among_set = judge_pool(run, pool, None, 5, over="set", made_from={"selector_sha256": "a"})
    assert teacher.model.seen == seen  # its logits are there
    same(among_set, teacher, "set")
    for over in ("all", "set"):
        judged = judge_pool(run, pool, other, 5, over=over, made_from={"selector_sha256": "b"})
        assert other.model.seen == 10  # afresh for each: finished work of the other is not taken
        same(judged, other, over)
        again = judge_pool(run, pool, other, 5, over=over, made_from={"selector_sha256": "b"})
        assert again.sha256 == judged.sha256
        other.model.seen = 0


def test_difficulty_is_one_minus_the_probability_of_the_label():
    logits = torch.tensor([[0.1, 0.2, 0.7], [0.6, 0.3, 0.1]], dtype=torch.float64).log() + 1000  # defined up to a constant
    for labels, expected in (([2, 0], [0.3, 0.4]), ([0, 1], [0.9, 0.7])):
        result = difficulty(logits, torch.tensor(labels))
        assert result.dtype == np.float64
        np.testing.assert_allclose(result, expected, rtol=1e-12)


def test_difficulty_of_float32_logits_equals_python_floats():
    logits = torch.randn(50, 7, generator=torch.Generator().manual_seed(0)) * 8
    labels = torch.arange(50) % 7
    for row, label, value in zip(logits.tolist(), labels.tolist(), difficulty(logits, labels), strict=True):
        expected = 1 - math.exp(row[label]) / math.fsum(map(math.exp, row))
        assert value == pytest.approx(expected, abs=1e-14)


def test_difficulty_of_a_sure_classifier_keeps_its_digits():
    logits = torch.tensor([[0.0, -50.0, -60.0], [50.0, 0.0, 0.0], [900.0, 0.0, 0.0], [0.0, 900.0, 0.0]])
    result = difficulty(logits, torch.zeros(4, dtype=torch.int64))
    np.testing.assert_allclose(result[:2], [math.exp(-50) + math.exp(-60), 2 * math.exp(-50)], rtol=1e-13)
    assert result[2:].tolist() == [0.0, 1.0]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_logits_that_are_not_finite_are_refused(value):
    logits = torch.zeros(4, 3)
    logits[2, 1] = value
    with pytest.raises(InputError, match=rf"^logits: {value} cannot be used; .* finite"):
        difficulty(logits, torch.zeros(4, dtype=torch.int64))
