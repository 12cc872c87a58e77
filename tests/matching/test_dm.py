"""DM against its equations by hand, and what its settings come to."""

import dataclasses
import types

import numpy as np
import pytest
import torch
from torch import nn

from distill_hub.augmentation.augment import augment
from distill_hub.augmentation.dsa import OPERATIONS
from distill_hub.config import InputError
from distill_hub.matching import dm, pixels, siamese
from distill_hub.matching.networks import embed, fresh, resolve
from distill_hub.matching.space import Space
from distill_hub.networks.build import build
from distill_hub.options.dm import DmConfig
from distill_hub.running.seeds import cpu_generator

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
SPACE = Space(MEAN, STD)
RULES = dm.Rules(steps=4, rate=0.05, real_batch_size=5, operations=(), mean=MEAN, std=STD)


def state_of(ipc: int, size: int, steps: int) -> dict[str, torch.Tensor]:
    start = torch.rand(ipc, 3, size, size, generator=cpu_generator(1))
    return {"pixels": start, "velocity": torch.zeros_like(start), "losses": torch.zeros(steps)}


def linear(step: int) -> nn.Module:
    torch.manual_seed(step)
    return nn.Linear(3 * 4 * 4, 7, bias=False)


@pytest.mark.parametrize("free", [False, True])
def test_it_is_the_papers_algorithm_with_a_linear_embedding(free):
    """In NumPy, in normalised space, as the paper has it: the gradient in z_i is -2/B W^T (mean real - mean own)."""
    real = torch.randint(0, 256, (5, 3, 4, 4), dtype=torch.uint8, generator=cpu_generator(2))
    state = state_of(3, 4, RULES.steps)
    mean, std = (np.array(values).reshape(3, 1, 1) for values in (MEAN, STD))
    z, velocity = (state["pixels"].double().numpy() - mean) / std, 0.0
    goal = ((real.double().numpy() / 255 - mean) / std).reshape(5, -1).mean(0)
    losses, rules = [], dataclasses.replace(RULES, rate=1.0, free=free)
    for step in range(rules.steps):
        weight = linear(step).weight.detach().double().numpy()
        difference = weight @ (goal - z.reshape(3, -1).mean(0))
        losses.append((difference**2).sum())
        gradient = np.broadcast_to((-2 / 3 * weight.T @ difference).reshape(3, 4, 4), z.shape)
        velocity = 0.5 * velocity + gradient
        z = z - rules.rate * velocity
        z = z if free else np.clip(z, (0 - mean) / std, (1 - mean) / std)
    embedding = lambda network, images: network(images.flatten(1))  # noqa: E731
    dm.match(state, real, range(rules.steps), linear, embedding, rules, 0, "cat")
    np.testing.assert_allclose(state["pixels"].numpy(), z * std + mean, atol=1e-5)
    np.testing.assert_allclose(state["losses"].numpy(), losses, rtol=1e-4)
    assert ((state["pixels"] <= 0) | (state["pixels"] >= 1)).any()  # the clamp had something to do


def test_the_loss_is_a_sum_over_features():
    real, own = torch.tensor([[1.0, 2.0], [3.0, 6.0]]), torch.tensor([[5.0, 1.0]])
    assert dm.loss(real, own).item() == (2 - 5) ** 2 + (4 - 1) ** 2


def test_real_and_distilled_images_get_the_same_augmentation(monkeypatch):
    """An image that is its class's only real one stays where it is, whatever is drawn."""
    real = torch.randint(0, 256, (1, 3, 8, 8), dtype=torch.uint8, generator=cpu_generator(2))
    rules = dataclasses.replace(RULES, operations=OPERATIONS, steps=12)
    state = state_of(1, 8, 12)
    state["pixels"] = real.float() / 255
    network = lambda step: fresh("convnet-1-w4", 3, 8, 0, step, torch.device("cpu"))  # noqa: E731
    views = []
    monkeypatch.setattr(siamese, "augment", lambda *how: views.append(augment(*how)) or views[-1])
    dm.match(state, real, range(12), network, lambda net, images: embed(net, images, 3), rules, 0, "cat")
    assert state["losses"].abs().max() < 1e-8 and len(views) == 24
    assert all(one.allclose(other, atol=1e-5) for one, other in zip(views[::2], views[1::2], strict=True))
    assert len({tuple(view.flatten().tolist()) for view in views[::2]}) > 8


def test_half_precision_changes_the_pixels_little():
    real = torch.randint(0, 256, (5, 3, 8, 8), dtype=torch.uint8, generator=cpu_generator(2))
    network = lambda step: fresh("convnet-2-w8", 3, 8, 0, step, torch.device("cpu"))  # noqa: E731
    ends = []
    for dtype in (torch.float32, torch.bfloat16):
        state = state_of(2, 8, 4)
        rules = dataclasses.replace(RULES, dtype=dtype)
        dm.match(state, real, range(4), network, lambda net, images: embed(net, images, 3), rules, 0, "cat")
        ends.append(state["pixels"])
    assert (ends[0] - ends[1]).abs().mean() < 0.1 * (ends[0] - state_of(2, 8, 4)["pixels"]).abs().mean()


def test_a_network_depends_on_seed_and_step_alone():
    weights = lambda seed, step: fresh("convnet-1-w4", 3, 8, seed, step, torch.device("cpu")).classifier.weight  # noqa: E731
    first = weights(0, 0)
    torch.rand(1)
    assert first.equal(weights(0, 0)) and not first.equal(weights(0, 1)) and not first.equal(weights(1, 0))


@pytest.mark.parametrize("name", ["convnet-2-w8", "resnet-10", "timm/resnet18"])
def test_the_embedding_is_what_the_last_layer_sees(name):
    network, images = build(name, 3, 16).eval(), torch.rand(2, 3, 16, 16, generator=cpu_generator(0))
    head = [module for module in network.modules() if isinstance(module, nn.Linear)][-1]
    torch.testing.assert_close(head(embed(network, images, 3)), network(images))


def test_names_of_networks():
    assert [resolve("auto", 10, size) for size in (16, 32, 64)] == ["convnet-2-w64", "convnet-3", "convnet-4"]
    with pytest.raises(InputError, match="network: 'resnet-18-bn' cannot be used; it has BatchNorm"):
        resolve("resnet-18-bn", 10, 32)
    with pytest.raises(InputError, match="timm/resnet18' cannot be used; it has BatchNorm"):
        resolve("timm/resnet18", 10, 64)
    with pytest.raises(InputError, match="8 px allow a depth of 3"):
        resolve("convnet-4", 10, 8)


def test_settings_are_the_papers_above_16_px():
    source = types.SimpleNamespace(normalization="cifar", mirrored=True)
    space = Space(*pixels.normalization(source, 32))
    rules = [dm.rules_of(DmConfig(ipc=ipc), 32, source, space, torch.float32) for ipc in (1, 10, 50, 100)]
    assert {(own.steps, own.real_batch_size) for own in rules} == {(20_000, 256)}
    assert [own.rate for own in rules] == [1, 1, 1, 10] and rules[0].operations == OPERATIONS
    assert rules[0].mean == (0.4914, 0.4822, 0.4465)
    digits = types.SimpleNamespace(normalization="imagenet", mirrored=False)
    small = dm.rules_of(DmConfig(), 16, digits, SPACE, torch.float32)
    assert (small.steps, small.real_batch_size, small.rate) == (100, 64, 1) and "flip" not in small.operations
    assert not dm.rules_of(DmConfig(augment="none"), 16, digits, SPACE, torch.float32).operations


def test_where_images_start():
    source = types.SimpleNamespace(normalization="cifar")
    real = torch.randint(0, 256, (9, 3, 8, 8), dtype=torch.uint8, generator=cpu_generator(2))
    rows = np.arange(100, 109)
    images, seeds = pixels.start("real", real, rows, 4, source, 0, "cat")
    assert images.equal(real[seeds - 100].float() / 255) and len(set(seeds.tolist())) == 4
    assert pixels.start("real", real, rows, 2, source, 0, "cat")[1].equal(seeds[:2])
    assert not pixels.start("real", real, rows, 4, source, 1, "cat")[1].equal(seeds)
    drawn, _ = pixels.start("noise", real, rows, 400, source, 0, "cat")
    assert drawn.min() == 0 and drawn.max() == 1
    torch.testing.assert_close(drawn.mean((0, 2, 3)), torch.tensor([0.4914, 0.4822, 0.4465]), atol=0.005, rtol=0)


def test_half_floats_are_refused():
    with pytest.raises(InputError, match="mixed_precision: 'fp16' cannot be used; gradients would vanish"):
        pixels.refuse_half_precision(torch.float16)
