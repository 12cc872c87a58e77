"""The recover loop and the losses of SRe2L and LPLD, against separate references in float64."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small_net import make_teacher

from distill_hub.config import InputError, check_settings
from distill_hub.data.classes import SourceClass
from distill_hub.options.sre2l import Sre2lConfig
from distill_hub.recovery import recover as loop
from distill_hub.recovery import sre2l
from distill_hub.statistics.features import batch_norms

CLASSES = [SourceClass(name, place, None) for place, name in enumerate(("ant", "bee", "cat"))]
ALL = loop.Views(smallest_crop=0.08, flip=True, rolls=(0, 2))
STILL = loop.Views(smallest_crop=1.0, flip=False, rolls=(0, 0))
QUIET = {"size": 16, "learning_rate": 0.1, "views_seed": 5, "views": STILL}


def images_of(count: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def teacher():
    return make_teacher(CLASSES, dtype=torch.float64)


def reference(teacher, images, labels, wanted, weight: float, first_layer_weight: float) -> float:
    """SRe2L's loss of one batch, a layer at a time, with NumPy; `wanted` has variance and mean of each BatchNorm's input."""
    mean, std = (np.reshape(value, (1, 3, 1, 1)) for value in (teacher.mean, teacher.std))
    values, total, layer = torch.from_numpy((images.numpy() - mean) / std), 0.0, 0
    for module in teacher.model:
        if isinstance(module, torch.nn.BatchNorm2d):
            seen = values.numpy()
            variance = ((seen - seen.mean((0, 2, 3), keepdims=True)) ** 2).mean((0, 2, 3))
            distance = math.dist(variance, wanted[layer][0]) + math.dist(seen.mean((0, 2, 3)), wanted[layer][1])
            total += weight * distance * (first_layer_weight if layer == 0 else 1)
            layer += 1
        values = module(values)
    log_probabilities = values - values.exp().sum(1, keepdim=True).log()
    return total - float(log_probabilities[range(len(labels)), labels].mean())


def test_the_objective_is_cross_entropy_and_distances_to_the_running_statistics(teacher):
    labels, images = torch.tensor([2, 0, 1]), images_of(3)
    wanted = [(n.running_var.tolist(), n.running_mean.tolist()) for n in batch_norms(teacher).values()]
    objective = sre2l.statistics_objective(teacher, labels, 1, weight=0.3, first_layer_weight=7.0)
    expected = reference(teacher, images, labels.tolist(), wanted, 0.3, 7.0)
    assert objective(images).tolist() == pytest.approx([expected], rel=1e-10)
    assert torch.autograd.gradcheck(objective, images[:, :, :, :].clone().requires_grad_(), fast_mode=True, atol=1e-6)


class TwoClasses:
    """A bank in memory, of classes 0 and 2."""

    def __init__(self):
        variances = [torch.rand(2, size, dtype=torch.float64) for size in (4, 6)]
        self.statistics = [{"variance": variance, "mean": variance.log()} for variance in variances]

    def read(self, labels, *names):
        rows = [[0, 2].index(label) for label in labels]
        return [tuple(layer[name][rows] for name in names) for layer in self.statistics]


def test_with_a_bank_each_group_comes_near_its_own_class(teacher):
    labels, images, bank = torch.tensor([2, 2, 0, 0]), images_of(4), TwoClasses()
    found = sre2l.statistics_objective(teacher, labels, 2, bank=bank, weight=0.3)(images)
    for group, place in enumerate((1, 0)):
        wanted = [(layer["variance"][place].tolist(), layer["mean"][place].tolist()) for layer in bank.statistics]
        part = slice(2 * group, 2 * group + 2)
        expected = reference(teacher, images[part], labels[part].tolist(), wanted, 0.3, 10.0)
        assert float(found[group]) == pytest.approx(expected, rel=1e-10)


def test_the_loop_is_adam_with_a_cosine_and_a_clamp(teacher):
    teacher.mean, teacher.std = (0.2, 0.5, 0.4), (0.25, 0.5, 0.2)
    goal, steps, seeds = images_of(2, seed=3) * 1.4 - 0.2, 12, [11, 12]  # some of it is out of reach
    found, losses = loop.recover(
        teacher, [lambda x: (x - goal).square().sum((1, 2, 3))], seeds, steps=steps, **{**QUIET, "learning_rate": 0.7}
    )
    mean, std = (np.reshape(value, (3, 1, 1)) for value in (teacher.mean, teacher.std))
    for place, seed in enumerate(seeds):
        noise = torch.randn(3, 16, 16, generator=torch.Generator().manual_seed(seed)).double().numpy()
        values, first, second = noise, 0.0, 0.0
        for step in range(steps):
            distance = values * std + mean - goal[place].numpy()
            np.testing.assert_allclose(losses[step, place], (distance**2).sum(), rtol=1e-4)
            gradient = 2 * distance * std
            first, second = 0.5 * first + 0.5 * gradient, 0.9 * second + 0.1 * gradient**2
            rate = 0.7 * (1 + math.cos(math.pi * step / steps)) / 2
            corrected = first / (1 - 0.5 ** (step + 1)), second / (1 - 0.9 ** (step + 1))
            values = values - rate * corrected[0] / (np.sqrt(corrected[1]) + 1e-8)
            values = np.clip(values, (0 - mean) / std, (1 - mean) / std)
        np.testing.assert_allclose(found[place] / 255, values * std + mean, atol=0.51 / 255)


def test_it_starts_from_images_and_objectives_take_turns(teacher):
    teacher.mean, teacher.std = (0.2, 0.5, 0.4), (0.25, 0.5, 0.2)
    start, turns = (images_of(2, seed=4) * 255).to(torch.uint8), []

    def objective(place: int):
        return lambda views: (turns.append((place, views.detach())), 0.0 * views.sum((1, 2, 3)))[1]

    found, _ = loop.recover(teacher, [objective(place) for place in range(3)], [1, 2], start=start, steps=7, **QUIET)
    assert torch.equal(found, start) and [place for place, _ in turns] == [0, 1, 2, 0, 1, 2, 0]
    torch.testing.assert_close(turns[0][1], start / 255)


@pytest.mark.parametrize("rolls", [(0, 2), (-1, 1)])
def test_a_view_is_cropped_mirrored_and_rolled(teacher, rolls):
    images = images_of(6)
    how = loop.Views(smallest_crop=1.0, flip=True, rolls=rolls)
    seen = []

    def keep(views):
        seen.append(views.detach().clone())
        return views.sum((1, 2, 3))

    loop.recover(teacher, [keep], range(6), steps=30, **{**QUIET, "views": how, "learning_rate": 1e-9})
    start = torch.stack([torch.randn(3, 16, 16, generator=torch.Generator().manual_seed(seed)) for seed in range(6)])
    images = loop.denormalize(start, teacher.mean, teacher.std)
    found, mirrored = set(), 0
    for place, views in enumerate(seen):
        source = images if place == 0 else images.clamp(0, 1)  # as they are after the first step
        for image, view in zip(source, views, strict=True):
            fits = [
                (down, right, flip)
                for down in range(-3, 4)
                for right in range(-3, 4)
                for flip in (False, True)
                if torch.allclose(view, (image.flip(2) if flip else image).roll((down, right), (1, 2)), atol=1e-5)
            ]
            assert len(fits) == 1
            found.add(fits[0][:2])
            mirrored += fits[0][2]
    allowed = {*range(rolls[0], rolls[1] + 1)}
    assert {down for down, _ in found} == {right for _, right in found} == allowed and len(found) > 5
    assert 60 < mirrored < 120  # of 180
    crops = []
    objective = lambda views: (crops.append(views.detach().std()), views.sum((1, 2, 3)))[1]  # noqa: E731
    loop.recover(teacher, [objective], range(6), steps=1, **{**QUIET, "views": loop.Views(0.1, False, (0, 0))})
    assert crops[0] < 0.8 * images.std()  # enlarging a part of noise smooths it


@pytest.mark.parametrize("schedule", ["step", "linear", "cosine"])
def test_crops_go_from_easy_to_hard_until_the_milestone(teacher, schedule, monkeypatch):
    """The numbers of CDA's program, a step at a time."""
    steps, smallest, milestone, areas = 20, 0.08, 0.6, []
    plain = loop.draw
    monkeypatch.setattr(loop, "draw", lambda rules, *rest: (areas.append(rules.crop_scale), plain(rules, *rest))[1])
    how = loop.Views(smallest, False, (0, 0), schedule, milestone)
    loop.recover(teacher, [lambda x: x.sum((1, 2, 3))], [1], steps=steps, **{**QUIET, "views": how})
    for step in range(steps):
        expected, until = smallest, milestone * steps
        if step < until:
            moved = {
                "step": 1.0,
                "linear": 0.08 + 0.92 * (1 - step / until),
                "cosine": 0.08 + 0.92 * (1 + math.cos(math.pi * step / until)) / 2,
            }
            expected = moved[schedule]
        assert areas[step] == (pytest.approx((expected, 1.0)) if expected < 1 else None)
    assert (areas[0], areas[12]) == (None, (smallest, 1.0))  # none: the whole image


def test_a_schedule_needs_crops():
    with pytest.raises(InputError, match=r"^smallest_crop: 1 .* with --crop_schedule linear crops come down to it: below 1"):
        check_settings(Sre2lConfig(crop_schedule="linear", smallest_crop=1))
    with pytest.raises(InputError, match=r"^milestone: 1 .* with --crop_schedule step crops begin there, and none would"):
        check_settings(Sre2lConfig(crop_schedule="step"))
    with pytest.raises(InputError, match=r"^milestone: 0.5 .* a --crop_schedule ends there, and none is named"):
        check_settings(Sre2lConfig(milestone=0.5))
    for schedule, milestone in (("linear", 1), ("step", 0.5)):
        check_settings(Sre2lConfig(crop_schedule=schedule, milestone=milestone))
    assert loop.views_of(Sre2lConfig(crop_schedule="linear", milestone=0.5), 16, True) == loop.Views(
        0.08, False, (0, 2), "linear", 0.5
    )


@pytest.mark.parametrize(
    ("size", "mirrored", "options", "expected"),
    [
        (224, True, {}, (0.08, True, (0, 32))),  # SRe2L's codes for ImageNet-1K, Tiny-ImageNet and CIFAR
        (64, True, {}, (0.08, True, (-4, 4))),
        (32, True, {}, (1.0, False, (0, 4))),
        (16, True, {}, (1.0, False, (0, 2))),
        (224, False, {}, (0.08, False, (0, 32))),
        (32, True, {"flips": "yes", "smallest_crop": 0.5}, (0.5, True, (0, 4))),
        (32, False, {"flips": "yes"}, (1.0, False, (0, 4))),
        (64, True, {"largest_roll": 3, "flips": "no"}, (0.08, False, (0, 3))),
        (64, True, {"largest_roll": 0, "smallest_crop": 1.0}, (1.0, True, (0, 0))),
        (224, True, {"largest_roll": 5, "roll_both_ways": True}, (0.08, True, (-5, 5))),
        (32, True, {"roll_both_ways": True}, (1.0, False, (-4, 4))),
    ],
)
def test_views_are_those_of_the_released_codes_unless_others_are_asked_for(size, mirrored, options, expected):
    assert loop.views_of(Sre2lConfig(**options), size, mirrored) == loop.Views(*expected)


def test_only_pixels_get_gradients_and_the_network_stays_as_it_is():
    teacher = make_teacher(CLASSES)
    before = {name: tensor.clone() for name, tensor in teacher.model.state_dict().items()}
    objective = sre2l.statistics_objective(teacher, torch.tensor([0, 1, 2]), 1)
    how = {"size": 16, "steps": 120, "learning_rate": 0.2, "views_seed": 1, "views": loop.Views(1.0, True, (0, 2))}
    images, losses = loop.recover(teacher, [objective], [1, 2, 3], **how)
    assert images.dtype == torch.uint8 and images.shape == (3, 3, 16, 16) and losses.shape == (120, 1)
    assert losses[-5:].mean() < 0.7 * losses[0]
    assert all(parameter.grad is None for parameter in teacher.model.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.model.state_dict().items())
    assert not teacher.model.training
    again, _ = loop.recover(teacher, [objective], [1, 2, 3], **how)
    assert torch.equal(images, again)


def test_bf16_changes_little():
    teacher = make_teacher(CLASSES)
    objective = sre2l.statistics_objective(teacher, torch.tensor([0, 1, 2]), 1)
    found = [
        loop.recover(
            teacher, [objective], [1, 2, 3], size=16, steps=10, learning_rate=0.1, views_seed=1, views=ALL, dtype=dtype
        )[1]
        for dtype in (torch.float32, torch.bfloat16)
    ]
    torch.testing.assert_close(*found, rtol=0.02, atol=0.02)
    assert not torch.equal(*found)


@pytest.mark.parametrize("step", [1, 7, 130])
def test_a_loss_that_is_not_finite_stops_it(teacher, step):
    calls = []

    def objective(views):
        calls.append(1)
        return views.sum((1, 2, 3)) * (math.nan if len(calls) == step else 1.0)

    with pytest.raises(InputError, match=rf"recover_learning_rate: 0.1 .* not a finite number in step {step};"):
        loop.recover(teacher, [objective], [1, 2], steps=150, **QUIET)
    assert len(calls) <= step + loop.CHECK_STEPS


def test_cross_entropy_is_averaged_within_groups():
    logits, labels = torch.randn(6, 4, dtype=torch.float64), torch.tensor([0, 1, 3, 2, 2, 2])
    found = sre2l.grouped_cross_entropy(logits, labels, 2)
    for group in range(2):
        part = slice(3 * group, 3 * group + 3)
        torch.testing.assert_close(found[group], F.nll_loss(logits[part].log_softmax(1), labels[part]))
