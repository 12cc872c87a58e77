"""Latents in place of pixels: the gradient through the decoder in pieces is the whole one, and steps are those of SGD."""

import pytest
import torch
from torch import nn

from distill_hub.config import InputError
from distill_hub.generators.base import GeneratorFacts
from distill_hub.matching import glad


class Toy:
    """A decoder of latents (N, 2, 4, 4) to images (N, 3, 8, 8), in double precision; counts what it decodes."""

    device = torch.device("cpu")

    def __init__(self, differentiable=True):
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.ConvTranspose2d(2, 3, 2, 2), nn.Sigmoid()).double().requires_grad_(False)
        self.facts = GeneratorFacts("toy", {}, "toy", (self.net,))
        self.differentiable, self.sizes = differentiable, []

    def decode(self, latents):
        self.sizes.append(len(latents))
        with torch.set_grad_enabled(self.differentiable and torch.is_grad_enabled()):
            return self.net(latents)

    def posterior(self, images):
        mean = images[:, :2, ::2, ::2]
        return mean, torch.full_like(mean, 7.0)


@pytest.fixture
def latents():
    return torch.randn(7, 2, 4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def coupled(images):
    """A loss in which every image depends on all others."""
    images = images.clone().requires_grad_()
    loss = (images.mean(0) - 0.3).square().sum() + images.std(0).sum()
    return loss.detach(), torch.autograd.grad(loss, images)[0]


@pytest.mark.parametrize("batch_size", [1, 3, 7, 100])
def test_in_pieces_it_is_the_gradient_in_one_go(latents, batch_size):
    toy, leaf = Toy(), latents.clone().requires_grad_()
    images = toy.decode(leaf)
    loss = (images.mean(0) - 0.3).square().sum() + images.std(0).sum()
    (expected,) = torch.autograd.grad(loss, leaf)
    toy.sizes.clear()
    found, own = glad.gradient(toy, latents, coupled, batch_size)
    torch.testing.assert_close(found, loss.detach(), rtol=1e-14, atol=0)
    torch.testing.assert_close(own, expected, rtol=1e-12, atol=1e-16)
    assert max(toy.sizes) == min(batch_size, 7)
    assert sum(toy.sizes) == (7 if batch_size >= 7 else 14)  # what fits is decoded once


def test_steps_are_those_of_sgd_with_momentum(latents):
    toy, leaf, seen = Toy(), latents.clone().requires_grad_(), []
    state = {"latents": latents.clone(), "velocity": torch.zeros_like(latents), "losses": torch.zeros(4).double()}
    optimizer, losses = torch.optim.SGD([leaf], 0.2, momentum=0.5), []
    for _ in range(4):
        images = toy.decode(leaf)
        loss = (images.mean(0) - 0.3).square().sum() + images.std(0).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())

    def objective(step, images):
        seen.append(step)
        return coupled(images)

    glad.match(state, range(4), toy, objective, rate=0.2, batch_size=2)
    torch.testing.assert_close(state["latents"], leaf.detach(), rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(state["losses"], torch.tensor(losses).double())
    assert seen == [0, 1, 2, 3] and losses[-1] < losses[0]


def test_latents_start_from_the_posteriors_means_and_decode_in_pieces():
    toy, images = Toy(), torch.rand(5, 3, 8, 8)
    start = glad.encode(toy, images, 2)
    assert torch.equal(start, images[:, :2, ::2, ::2])
    whole = toy.net(start.double())
    assert torch.equal(glad.decode(toy, start.double(), 2), torch.cat([toy.net(p) for p in start.double().split(2)]))
    assert not glad.decode(toy, start.double().requires_grad_(), 5).requires_grad
    torch.testing.assert_close(glad.decode(toy, start.double(), 2), whole)


@pytest.mark.parametrize("batch_size", [2, 7])
def test_a_decoder_without_gradients_is_refused(latents, batch_size):
    with pytest.raises(InputError, match=r"^generator: 'toy' .*not differentiable") as caught:
        glad.gradient(Toy(differentiable=False), latents, coupled, batch_size)
    assert "\n" not in str(caught.value)
