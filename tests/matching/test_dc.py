"""DC and DSA against a plain loop of their algorithm in float64, and what their settings come to."""

import dataclasses
import functools
import types

import pytest
import torch
import torch.nn.functional as F

from distill_hub.augmentation.augment import Augmentation, augment, draw
from distill_hub.augmentation.dsa import OPERATIONS
from distill_hub.data.known import NORMALIZATIONS
from distill_hub.matching import dc, siamese
from distill_hub.matching.networks import fresh
from distill_hub.matching.space import Space
from distill_hub.options.dc import DcConfig
from distill_hub.running.seeds import cpu_generator, draw_seed

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
NAMES, IPC, SIZE = ["ant", "bee", "cat"], 2, 8
RULES = dc.Rules(
    networks=2, outer=3, inner=2, rate=0.5, network_rate=0.1, real_batch_size=4, distance="rows", operations=(), mean=MEAN,
    std=STD,
)  # fmt: skip
new = functools.partial(fresh, "convnet-2-w4", len(NAMES), SIZE, 0, device=torch.device("cpu"))


def real_images(count: int = 6) -> list[torch.Tensor]:
    generator = cpu_generator(2)
    return [torch.randint(0, 256, (count, 3, SIZE, SIZE), dtype=torch.uint8, generator=generator) for _ in NAMES]


def state_of(steps: int) -> dict[str, torch.Tensor]:
    start = torch.rand(len(NAMES), IPC, 3, SIZE, SIZE, generator=cpu_generator(1))
    return {"pixels": start, "velocity": torch.zeros_like(start), "losses": torch.zeros(steps)}


def matched(rules: dc.Rules, real: list[torch.Tensor], state: dict[str, torch.Tensor] | None = None):
    state, network = state or state_of(rules.steps), new(0)
    dc.match(state, network, real, range(rules.steps), new, rules, 5, NAMES)
    return state, network


def far(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return 1 - (a * b).sum() / (a.square().sum().sqrt() * b.square().sum().sqrt() + 1e-6)


def test_it_is_the_papers_algorithm_in_normalised_space():
    """Alg. 1 of DC with the gradients of all classes in one graph; what is drawn at random is the same."""
    real, mean, std = real_images(), *(torch.tensor(v, dtype=torch.float64).view(3, 1, 1) for v in (MEAN, STD))
    z, velocity, losses = (state_of(1)["pixels"].double() - mean) / std, 0.0, []
    for number in range(RULES.networks):
        network = new(number).double()
        for t in range(RULES.outer):
            step = number * RULES.outer + t
            own = z.clone().requires_grad_()
            total = 0.0
            for label, name in enumerate(NAMES):
                order = torch.randperm(6, generator=cpu_generator(draw_seed(5, "match", step, name)))
                batch = (real[label][order[:4]].double() / 255 - mean) / std
                sides = []
                for images in (batch, own[label]):
                    loss = -network(images).log_softmax(1)[:, label].mean()
                    sides.append(torch.autograd.grad(loss, list(network.parameters()), create_graph=True))
                for wanted, found in zip(*sides, strict=True):
                    if wanted.ndim > 1:
                        total = total + sum(
                            far(a.flatten().detach(), b.flatten()) for a, b in zip(wanted, found, strict=True)
                        )
            losses.append(total.item())
            velocity = 0.5 * velocity + torch.autograd.grad(total, own)[0]
            z = torch.minimum(torch.maximum(z - RULES.rate * velocity, -mean / std), (1 - mean) / std)
            if t == RULES.outer - 1:
                continue
            labels, generator = torch.tensor([0, 0, 1, 1, 2, 2]), cpu_generator(draw_seed(5, "learn", step))
            for _ in range(RULES.inner):
                order = torch.randperm(6, generator=generator)
                loss = F.cross_entropy(network(z.flatten(0, 1)[order]), labels[order])
                slopes = torch.autograd.grad(loss, list(network.parameters()))
                with torch.no_grad():
                    for weight, slope in zip(network.parameters(), slopes, strict=True):
                        weight -= RULES.network_rate * slope
    state, last = matched(RULES, real)
    torch.testing.assert_close(state["losses"].double(), torch.tensor(losses, dtype=torch.float64), rtol=1e-4, atol=0)
    torch.testing.assert_close(state["pixels"].double(), z * std + mean, rtol=0, atol=1e-4)
    assert (state["pixels"] - state_of(1)["pixels"]).abs().max() > 0.02
    for own, expected in zip(last.parameters(), network.parameters(), strict=True):
        torch.testing.assert_close(own.double(), expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("distance", ["rows", "cosine", "squared"])
def test_only_the_weights_that_a_distance_looks_at_get_gradients(distance, monkeypatch):
    seen, own = [], dc.gradients
    monkeypatch.setattr(
        dc, "gradients", lambda net, weights, *how, **more: seen.append(weights) or own(net, weights, *how, **more)
    )
    matched(dataclasses.replace(RULES, networks=1, outer=1, distance=distance), real_images())
    assert {weight.ndim for weight in seen[0]} == ({2, 4} if distance == "rows" else {1, 2, 4})


def test_real_and_distilled_images_get_the_same_augmentation(monkeypatch):
    """Images that are all the real ones of their class have their gradients, whatever is drawn; learning draws for each."""
    rules = dataclasses.replace(RULES, networks=1, outer=12, inner=0, operations=OPERATIONS)
    real, views = real_images(IPC), []
    state = {**state_of(12), "pixels": torch.stack(real).float() / 255}
    monkeypatch.setattr(siamese, "augment", lambda *how: views.append(augment(*how)) or views[-1])
    state, _ = matched(rules, real, state)
    assert state["losses"].max() < 1e-3 and len(views) == 2 * 12 * len(NAMES)
    for one, other in zip(views[::2], views[1::2], strict=True):
        assert all((image - other).abs().flatten(1).max(1).values.min() < 1e-2 for image in one)
    assert len({tuple(view[0].flatten().tolist()) for view in views}) > 30


def test_the_network_learns_with_an_augmentation_of_each_image(monkeypatch):
    asked = []
    monkeypatch.setattr(dc, "draw", lambda rules, *how: asked.append(rules) or draw(rules, *how))
    rules = dataclasses.replace(RULES, networks=1, outer=2, operations=("color",))
    matched(rules, real_images())
    assert asked == [Augmentation(dsa=("color",))] * rules.inner
    network, views = new(0), []
    monkeypatch.setattr(dc, "augment", lambda images, *how: views.append(augment(images, *how)) or views[-1])
    dc.learn(network, torch.full((3, 2, 3, 8, 8), 0.5), rules, cpu_generator(0))
    assert len({view.mean().item() for view in views[0]}) == 6


def test_a_network_learns_what_it_is_shown():
    rules = dataclasses.replace(RULES, inner=60, network_rate=0.3)
    pixels, network = state_of(1)["pixels"], new(0)
    before = [weight.clone() for weight in network.parameters()]
    dc.learn(network, pixels, rules, cpu_generator(0))
    seen = augment(pixels.flatten(0, 1), {}, MEAN, STD)
    assert network(seen).argmax(1).tolist() == [0, 0, 1, 1, 2, 2]
    assert not any(torch.equal(weight, own) for weight, own in zip(before, network.parameters(), strict=True))


def test_half_precision_changes_the_pixels_little():
    ends = [matched(dataclasses.replace(RULES, dtype=dtype), real_images())[0] for dtype in (torch.float32, torch.bfloat16)]
    moved = (ends[0]["pixels"] - state_of(1)["pixels"]).abs().mean()
    assert 0 < (ends[0]["pixels"] - ends[1]["pixels"]).abs().mean() < 0.3 * moved


def test_settings_are_the_papers_above_16_px():
    source = types.SimpleNamespace(normalization="cifar", mirrored=True)
    space = Space(*NORMALIZATIONS["cifar"])
    rules_of = lambda size, **how: dc.rules_of(DcConfig(**how), size, source, space, torch.float32)  # noqa: E731
    loops = {1: (1, 1), 5: (1, 1), 10: (10, 50), 20: (20, 25), 30: (30, 20), 40: (40, 15), 50: (50, 10), 100: (50, 10)}
    for ipc, loop in loops.items():
        rules = rules_of(32, ipc=ipc)
        assert (rules.outer, rules.inner) == loop and rules.networks == 1000 and rules.steps == 1000 * loop[0]
        assert (rules.rate, rules.network_rate, rules.real_batch_size) == (0.1, 0.01, 256)
    assert rules.operations == OPERATIONS and rules.mean == (0.4914, 0.4822, 0.4465)
    assert rules_of(32, augment="none").operations == ()
    other = rules_of(32, match_networks=3, outer_steps=4, inner_epochs=0, match_learning_rate=2.0, real_batch_size=8)
    assert (other.networks, other.outer, other.inner, other.rate, other.real_batch_size) == (3, 4, 0, 2, 8)
    small = [rules_of(16, ipc=ipc) for ipc in (1, 10, 50)]
    assert [(own.networks, own.outer, own.inner) for own in small] == [(60, 1, 0), (6, 10, 5), (1, 50, 1)]
