"""MTT's loop against an unrolled one with torch's own optimisers; batches, windows, and what ends it."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch.func import functional_call

from distill_hub.augmentation.augment import augment
from distill_hub.config import InputError, check_settings
from distill_hub.matching.experts import Flat
from distill_hub.matching.mtt import (
    DATM,
    FACTS,
    TESLA,
    batches_of,
    facts_of,
    first_beyond,
    match,
    mean_of_right,
    start,
    student_views,
)
from distill_hub.networks.build import ConvNet
from distill_hub.options.mtt import MttConfig
from distill_hub.running.seeds import cpu_generator, draw_seed

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)
NAMES = ("color", "crop", "scale", "rotate")  # without cutout, in which a pixel's gradient may be zero
SETTINGS = MttConfig(
    match_steps=3, student_steps=3, expert_stretch=2, max_start=2, student_batch_size=4, student_rate=0.3,
    pixel_learning_rate=0.5, rate_learning_rate=0.01, label_learning_rate=3.0,
)  # fmt: skip
LABELS = torch.arange(6) % 3


@pytest.fixture(scope="module")
def scene():
    torch.manual_seed(0)
    network = ConvNet(3, depth=1, image_size=8, width=4)
    own = Flat(network).own
    trajectories = [[own + 0.05 * k * torch.randn_like(own) for k in range(4)] for _ in range(2)]
    return network, trajectories, 0.2 + 0.6 * torch.rand(6, 3, 8, 8), torch.randn(6, 3)


def matched(scene, settings, logits=None, todo=None, state=None):
    network, trajectories, images, _ = scene
    state = start(images, logits, settings) if state is None else state
    match(
        state, range(settings.match_steps) if todo is None else todo, Flat(network), lambda k, t: trajectories[k][t], 2,
        LABELS, settings, names=NAMES, normalization=(MEAN, STD), seed=7,
    )  # fmt: skip
    return state


@pytest.mark.parametrize("learn_labels", [False, True])
def test_steps_are_those_of_an_unrolled_loss_and_torchs_optimisers(scene, learn_labels):
    network, trajectories, images, logits = scene
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
    shown = ((images - mean) / std).requires_grad_()  # in normalised space, as the papers have it
    rate, learned = torch.tensor(0.3, requires_grad=True), logits.clone().requires_grad_()
    optimizers = [
        torch.optim.SGD([shown], 0.5, 0.5),
        torch.optim.SGD([rate], 0.01, 0.5),
        torch.optim.SGD([learned], 3.0, 0.9),
    ]
    names, losses = [name for name, _ in network.named_parameters()], []
    for step in range(3):
        generator = cpu_generator(draw_seed(7, "trajectory", step))
        expert = int(torch.randint(2, (), generator=generator))
        epoch = int(torch.randint(0, 2, (), generator=generator))
        batches = batches_of(6, 4, 3, generator)
        draws = student_views(NAMES, batches, 8, generator)
        theta, target = trajectories[expert][epoch], trajectories[expert][epoch + 2]
        shapes = [weight.shape for weight in network.parameters()]
        weights = [part.view(shape) for part, shape in zip(theta.split([s.numel() for s in shapes]), shapes, strict=True)]
        for rows, views in zip(batches, draws, strict=True):
            weights = [weight.requires_grad_() if weight.is_leaf else weight for weight in weights]
            seen = augment(shown[rows] * std + mean, views, MEAN, STD)
            output = functional_call(network, dict(zip(names, weights, strict=True)), (seen,))
            goal = F.softmax(learned[rows], 1) if learn_labels else F.one_hot(LABELS[rows], 3).float()
            loss = -(goal * output.log_softmax(1)).sum(1).mean()
            gradients = torch.autograd.grad(loss, weights, create_graph=True)
            weights = [weight - rate * gradient for weight, gradient in zip(weights, gradients, strict=True)]
        end = torch.cat([weight.flatten() for weight in weights])
        distance = (end - target).square().sum() / (theta - target).square().sum()
        for optimizer in optimizers:
            optimizer.zero_grad()
        distance.backward()
        for optimizer in optimizers[: 3 if learn_labels else 2]:
            optimizer.step()
        losses.append(distance.item())
    state = matched(scene, SETTINGS, logits if learn_labels else None)
    torch.testing.assert_close(state["losses"], torch.tensor(losses), rtol=1e-4, atol=0)
    torch.testing.assert_close(state["pixels"], shown.detach() * std + mean, rtol=0, atol=2e-5)
    torch.testing.assert_close(state["rate"], rate.detach(), rtol=1e-4, atol=0)
    assert (state["pixels"] - images).abs().max() > 1e-3 and abs(rate.detach() - 0.3) > 1e-4
    if learn_labels:
        torch.testing.assert_close(state["logits"], learned.detach(), rtol=0, atol=1e-4)
        assert (learned - logits).abs().max() > 1e-3


def test_one_that_was_cut_short_goes_on_to_the_same_bits(scene):
    settings = dataclasses.replace(SETTINGS, ema_decay=0.9)
    whole, logits = matched(scene, settings, scene[3]), scene[3]
    state = matched(scene, settings, logits, todo=range(2))
    matched(scene, settings, todo=range(2, 3), state=state)
    assert all(torch.equal(whole[name], state[name]) for name in whole)


def test_the_average_lags_behind_the_pixels(scene):
    settings, average = dataclasses.replace(SETTINGS, ema_decay=0.7), scene[2].double()
    state = start(scene[2], None, settings)
    for step in range(3):
        matched(scene, settings, todo=[step], state=state)
        average = 0.7 * average + 0.3 * state["pixels"].double()
    torch.testing.assert_close(state["average"].double(), average, rtol=0, atol=1e-6)
    assert "average" not in start(scene[2], None, SETTINGS)


def test_a_step_of_too_large_a_loss_is_left_out(scene):
    state = matched(scene, dataclasses.replace(SETTINGS, skip_above=1e-9))
    assert torch.equal(state["pixels"], scene[2]) and state["rate"] == torch.tensor(0.3) and (state["losses"] > 0).all()


@pytest.mark.parametrize("rate", [1e4, float("inf")])
def test_a_rate_that_is_no_rate_any_more_ends_it(scene, rate):
    with pytest.raises(InputError) as refused:
        matched(scene, dataclasses.replace(SETTINGS, rate_learning_rate=rate))
    assert refused.value.field == "rate_learning_rate" and "learning rate becomes" in str(refused.value)


def test_batches_hold_every_image_once_before_any_twice():
    batches = batches_of(10, 4, 7, cpu_generator(0))
    assert [len(rows) for rows in batches] == [4, 4, 2, 4, 4, 2, 4]
    first, second = torch.cat(batches[:3]), torch.cat(batches[3:6])
    assert sorted(first.tolist()) == sorted(second.tolist()) == list(range(10)) and not torch.equal(first, second)
    assert [len(rows) for rows in batches_of(3, 8, 2, cpu_generator(0))] == [3, 3]


def test_every_batch_gets_one_operation_and_every_image_its_own():
    batches = batches_of(6, 3, 400, cpu_generator(0))
    views = student_views(("color", "flip"), batches, 8, cpu_generator(1))
    assert {tuple(one) for one in views} == {("color",), ("flip",)}
    assert 0.4 < sum("color" in one for one in views) / len(views) < 0.6
    colors = next(one["color"] for one in views if "color" in one)
    assert len(colors) == 3 and not torch.equal(colors[0], colors[1])


def test_the_window_grows_in_a_straight_line():
    """DATM's CIFAR-10 settings at IPC 10: starts before 10 at first, before 20 from step 1,000 on."""
    datm = MttConfig(max_start=20, window_start=10, window_end=1000)
    assert [first_beyond(datm, step) for step in (0, 99, 100, 500, 999, 1000, 9999)] == [10, 10, 11, 15, 19, 20, 20]
    assert first_beyond(MttConfig(max_start=20), 0) == 20


def test_labels_start_from_the_experts_that_are_right():
    logits = torch.tensor([[[2.0, 0, 1], [0, 3, 0]], [[5.0, 1, 0], [9, 0, 0]]])  # the second expert is wrong on the second
    found = mean_of_right(logits, torch.tensor([0, 1]))
    assert found.tolist() == [[3.5, 0.5, 0.5], [0, 3, 0]]


def test_settings_say_whose_method_they_are():
    assert facts_of(MttConfig()) is FACTS and facts_of(MttConfig(gradient="truncated")) is TESLA
    assert facts_of(MttConfig(learn_labels=True)) is DATM


WINDOWS = [
    ("min_start", {"min_start": 4}),
    ("window_start", {"min_start": 2, "window_start": 2, "window_end": 9}),
    ("window_start", {"window_start": 5, "window_end": 9}),
    ("window_end", {"window_start": 2}),
    ("window_end", {"window_end": 9}),
]


@pytest.mark.parametrize(("name", "settings"), WINDOWS)
def test_an_empty_window_and_one_that_does_not_grow_are_refused(name, settings):
    with pytest.raises(InputError) as refused:
        check_settings(MttConfig(max_start=4, **settings))
    assert refused.value.field == name
    with pytest.raises(InputError) as refused:
        MttConfig(**settings).at(8)  # where the default of max_start is 4
    assert refused.value.field == name
