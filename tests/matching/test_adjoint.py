"""The adjoint gradient against a trajectory that autograd unrolls, in float64."""

import pytest
import torch
import torch.nn.functional as F
from torch.func import functional_call

from distill_hub.matching.adjoint import match_trajectory
from distill_hub.networks.build import ConvNet

SIZES = (5, 3, 5, 2)  # images of each step


@pytest.fixture(scope="module")
def problem():
    """A small ConvNet, two points of a trajectory, and batches of images and label logits."""
    torch.manual_seed(0)
    network = ConvNet(3, depth=2, image_size=8, width=4).double()
    names, shapes = zip(*((name, weight.shape) for name, weight in network.named_parameters()), strict=True)

    def step_loss(weights, step, images, logits):
        parts = weights.split([shape.numel() for shape in shapes])
        own = {name: part.view(shape) for name, part, shape in zip(names, parts, shapes, strict=True)}
        return F.cross_entropy(functional_call(network, own, (images * (1 + 0.1 * step),)), logits.softmax(1))

    start = torch.cat([weight.detach().flatten() for weight in network.parameters()])
    target = start + 0.1 * torch.randn_like(start)
    images = torch.randn(6, 3, 8, 8, dtype=torch.float64, requires_grad=True)
    logits = torch.randn(6, 3, dtype=torch.float64, requires_grad=True)
    rows = [torch.randperm(6)[:size] for size in SIZES]
    return step_loss, start, target, images, logits, rows


def unrolled(step_loss, start, target, images, logits, rows, rate):
    weights = start.clone().requires_grad_()
    for step, own in enumerate(rows):
        (gradient,) = torch.autograd.grad(step_loss(weights, step, images[own], logits[own]), weights, create_graph=True)
        weights = weights - rate * gradient
    return (weights - target).square().sum() / (start - target).square().sum()


def collected(matched, whole, rows, place):
    total = torch.zeros_like(whole)
    for own, found in zip(rows, matched.batches, strict=True):
        total.index_add_(0, own, found[place])
    return total


@pytest.mark.parametrize("alpha", [0.05, 2.0])
def test_it_is_the_gradient_of_the_unrolled_loss(problem, alpha):
    step_loss, start, target, images, logits, rows = problem
    rate = torch.tensor(alpha, dtype=torch.float64, requires_grad=True)
    loss = unrolled(*problem, rate)
    expected = torch.autograd.grad(loss, [images, logits, rate])
    matched = match_trajectory(step_loss, start, target, [(images[own], logits[own]) for own in rows], rate.detach())
    found = collected(matched, images, rows, 0), collected(matched, logits, rows, 1), matched.rate
    torch.testing.assert_close(matched.loss, loss.detach(), rtol=1e-13, atol=0)
    for own, other in zip(found, expected, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-11, atol=1e-12 * float(other.abs().max()))
    assert not any(tensor.requires_grad for tensor in (matched.loss, *found))


def test_truncated_is_the_formula_of_tesla(problem):
    """TESLA: dL/dx_i = 2/D (alpha (target - theta_0) + alpha^2 G)^T dg_i/dx_i, with theta_i held fixed."""
    step_loss, start, target, images, logits, rows = problem
    rate, weights, gradients = 0.5, start, []
    for step, own in enumerate(rows):
        point = weights.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(step_loss(point, step, images[own], logits[own]), point, create_graph=True)
        gradients.append(gradient)
        weights = (weights - rate * gradient).detach()
    distance, total = (start - target).square().sum(), sum(gradient.detach() for gradient in gradients)
    pull = 2 / distance * (rate * (target - start) + rate**2 * total)
    expected = torch.autograd.grad(sum(pull @ gradient for gradient in gradients), [images, logits])
    of_rate = 2 / distance * (rate * total - (start - target)) @ total
    batches = [(images[own], logits[own]) for own in rows]
    matched = match_trajectory(step_loss, start, target, batches, rate, truncated=True)
    for place, whole in enumerate((images, logits)):
        torch.testing.assert_close(collected(matched, whole, rows, place), expected[place], rtol=1e-11, atol=1e-14)
    torch.testing.assert_close(matched.rate, of_rate, rtol=1e-11, atol=0)
    exact = match_trajectory(step_loss, start, target, batches, rate)
    assert torch.cosine_similarity(matched.batches[0][0].flatten(), exact.batches[0][0].flatten(), dim=0) < 0.999


def test_one_step_has_no_chain(problem):
    step_loss, start, target, images, logits, _ = problem
    ways = [
        match_trajectory(step_loss, start, target, [(images, logits)], 0.1, truncated=truncated)
        for truncated in (True, False)
    ]
    assert torch.equal(ways[0].batches[0][0], ways[1].batches[0][0]) and torch.equal(ways[0].rate, ways[1].rate)


def test_only_what_is_learned_has_a_gradient(problem):
    step_loss, start, target, images, logits, rows = problem
    matched = match_trajectory(step_loss, start, target, [(images[own], logits[own].detach()) for own in rows], 0.1)
    assert [len(found) for found in matched.batches] == [1] * len(rows)
