"""The diffusion loss against diffusers' scheduler, and against the variational bound derived in another way, in float64."""

import math

import pytest
import torch
from diffusers import DDPMScheduler
from scipy.stats import norm
from torch.distributions import Normal, kl_divergence

from distill_hub.generators.objective import Objective
from distill_hub.running.seeds import cpu_generator

BETAS = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
SIGNAL = (1 - BETAS).log().cumsum(0).exp()  # ᾱ_t
STEPS = [0, 1, 2, 500, 999]
SHAPES = [(1, 1, 1), (4, 8, 8), (3, 2, 5)]


def scheduler(**settings):
    result = DDPMScheduler(beta_start=1e-4, beta_end=0.02, clip_sample=False, **settings)
    # It keeps float32, in which 1 - ᾱ_0 = 0.0001 has three digits.
    result.alphas_cumprod, result.one = SIGNAL, torch.ones((), dtype=torch.float64)
    return result


def draws(seed, count, shape):
    """Return latents, noise, a guess of the noise and fractions of the variance, float64 (count, *shape) each."""
    draw = cpu_generator(seed)
    latents, noise, error = torch.randn(3, count, *shape, generator=draw, dtype=torch.float64)
    fraction = torch.rand(count, *shape, generator=draw, dtype=torch.float64) * 2 - 1
    # Half a unit away: the likelihood of step 0 keeps all its digits.
    return latents, noise, noise + error.clamp(-3, 3) / 2, fraction


def noised(latents, noise, t):
    return SIGNAL[t].sqrt() * latents + (1 - SIGNAL[t]).sqrt() * noise


def posterior(clean, noisy, t):
    """q(z_{t-1} | z_t, z_0) of t > 0: q(z_t | z_{t-1}) and q(z_{t-1} | z_0) as functions of z_{t-1}, multiplied."""
    precisions = (1 - BETAS[t]) / BETAS[t], 1 / (1 - SIGNAL[t - 1])
    means = noisy / (1 - BETAS[t]).sqrt(), SIGNAL[t - 1].sqrt() * clean
    precision = sum(precisions)
    mean = sum(p * m for p, m in zip(precisions, means, strict=True)) / precision
    return Normal(mean, precision.rsqrt().expand_as(mean))


def model_scale(fraction, t):
    """Standard deviation between those of β̃_t and β_t, in the logarithm; β̃_0, which is 0, counts as β̃_1."""
    smallest = posterior(*torch.zeros(2, 1), max(t, 1)).scale
    return smallest ** ((1 - fraction) / 2) * BETAS[t].sqrt() ** ((1 + fraction) / 2)


def bound(latents, noisy, predicted, fraction, t):
    """Return the bits per latent element of one image."""
    clean = (noisy - (1 - SIGNAL[t]).sqrt() * predicted) / SIGNAL[t].sqrt()
    scale = model_scale(fraction, t)
    if t:
        nats = kl_divergence(posterior(latents, noisy, t), Normal(posterior(clean, noisy, t).mean, scale))
        return nats.mean() / math.log(2)
    # Pixels lie 2/255 apart in [-1, 1], and the outer bins have no end. z_0 has no noise left: its mean is the guess.
    value, mean, scale = (tensor.numpy() for tensor in (latents, clean, scale))
    above, below = norm.sf(value - 1 / 255, mean, scale), norm.cdf(value + 1 / 255, mean, scale)
    inside = norm.cdf(value + 1 / 255, mean, scale) - norm.cdf(value - 1 / 255, mean, scale)
    probability = (value > 0.999) * above + (value < -0.999) * below + (abs(value) <= 0.999) * inside
    return -torch.from_numpy(probability).log2().mean()


@pytest.mark.parametrize("shape", SHAPES)
def test_noising_is_the_schedulers(shape):
    latents, noise, predicted, _ = draws(0, len(STEPS), shape)
    timesteps, objective, reference = torch.tensor(STEPS), Objective(BETAS), scheduler()
    assert objective.steps == 1000
    noisy = objective.add_noise(latents, noise, timesteps)
    torch.testing.assert_close(noisy, reference.add_noise(latents, noise, timesteps), rtol=1e-12, atol=1e-12)
    clean = objective.clean(noisy, predicted, timesteps)
    for place, t in enumerate(STEPS):
        expected = reference.step(predicted[place], t, noisy[place]).pred_original_sample
        torch.testing.assert_close(clean[place], expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(objective.clean(noisy, noise, timesteps), latents, rtol=1e-10, atol=1e-10)


def test_tables_are_computed_in_double_precision_whatever_holds_the_betas():
    """The schedulers hold float32; ᾱ accumulates their rounding and no other."""
    latents, noise, predicted, fraction = (tensor.float() for tensor in draws(1, len(STEPS), (4, 8, 8)))
    timesteps, objective = torch.tensor(STEPS), Objective(BETAS.float())
    noisy = objective.add_noise(latents, noise, timesteps)
    loss = objective.loss(torch.cat([predicted, fraction], 1), latents, noise, noisy, timesteps)
    assert noisy.dtype == loss.dtype == torch.float32
    latents, noise, predicted, fraction, noisy = (tensor.double() for tensor in (latents, noise, predicted, fraction, noisy))
    for place, t in enumerate(STEPS):
        torch.testing.assert_close(noisy[place], noised(latents[place], noise[place], t), rtol=1e-5, atol=1e-6)
        parts = (tensor[place] for tensor in (latents, noisy, predicted, fraction))
        expected = (predicted[place] - noise[place]).square().mean() + bound(*parts, t)
        torch.testing.assert_close(loss[place].double(), expected, rtol=1e-5, atol=0)


def test_the_simple_loss_by_hand():
    """Per image the mean of squares; and nothing else where no variance is learned."""
    noise = torch.tensor([[[[1.0, 2.0]]], [[[0.0, -1.0]]]])
    predicted = torch.tensor([[[[2.0, 4.0]]], [[[3.0, -1.0]]]])
    zeros = torch.zeros_like(noise)
    loss = Objective(BETAS).loss(predicted, zeros, noise, zeros, torch.tensor([7, 999]))
    assert loss.tolist() == [2.5, 4.5]


@pytest.mark.parametrize("t", STEPS)
@pytest.mark.parametrize("shape", SHAPES)
def test_the_variational_term_and_its_gradient(shape, t):
    objective, count = Objective(BETAS), 6
    latents, noise, predicted, fraction = draws(t, count, shape)
    latents.flatten()[:3] = torch.tensor([-0.9995, 0.9995, 0.5])  # the outer bins and an inner one
    fraction.flatten()[:2] = torch.tensor([-1.0, 1.0])
    noisy = noised(latents, noise, t)
    output = torch.cat([predicted, fraction], 1).requires_grad_()
    loss = objective.loss(output, latents, noise, noisy, torch.full((count,), t))
    simple = (predicted - noise).square().flatten(1).mean(1)
    expected = torch.stack([bound(*parts, t) for parts in zip(latents, noisy, predicted, fraction, strict=True)])
    torch.testing.assert_close(loss - simple, expected, rtol=1e-8, atol=0)
    torch.testing.assert_close(loss, simple + expected, rtol=1e-8, atol=0)

    (gradient,) = torch.autograd.grad(loss.sum(), output)
    of_noise, of_variance = gradient.chunk(2, 1)
    torch.testing.assert_close(of_noise, 2 * (predicted - noise) / noise[0].numel(), rtol=1e-14, atol=0)
    h = 1e-5
    # Elements do not mix, so a step in all of them gives the sum of their gradients.
    both = [
        torch.stack([bound(*parts, t) for parts in zip(latents, noisy, predicted, fraction + step, strict=True)])
        for step in (h, -h)
    ]
    torch.testing.assert_close(of_variance.flatten(1).sum(1), (both[0] - both[1]) / (2 * h), rtol=1e-5, atol=1e-9)
    assert (of_variance != 0).all()


@pytest.mark.parametrize("t", STEPS[1:])
def test_the_gradient_of_every_fraction(t):
    latents, noise, predicted, fraction = draws(t, 1, (4, 8, 8))
    noisy = noised(latents, noise, t)
    fraction.requires_grad_()
    loss = Objective(BETAS).loss(torch.cat([predicted, fraction], 1), latents, noise, noisy, torch.tensor([t]))
    expected = torch.autograd.grad(bound(latents, noisy, predicted, fraction, t), fraction)[0]
    torch.testing.assert_close(torch.autograd.grad(loss.sum(), fraction)[0], expected, rtol=1e-8, atol=1e-14)


def test_the_variance_is_the_one_the_scheduler_samples_with():
    """With the right noise the two means are one, and the divergence is that of the variances alone."""
    reference = scheduler(variance_type="learned_range")
    timesteps = torch.arange(1, 1000)
    latents, noise, _, fraction = draws(2, 999, (4, 2, 2))
    objective = Objective(BETAS)
    noisy = objective.add_noise(latents, noise, timesteps)
    loss = objective.loss(torch.cat([noise, fraction], 1), latents, noise, noisy, timesteps)
    for t, actual, share in zip(timesteps.tolist(), loss, fraction, strict=True):
        deviation = reference._get_variance(t, predicted_variance=share).mul(0.5).exp()
        exact = Normal(torch.zeros_like(share), reference._get_variance(t, variance_type="fixed_small").sqrt())
        expected = kl_divergence(exact, Normal(torch.zeros_like(share), deviation)).mean() / math.log(2)
        torch.testing.assert_close(actual, expected, rtol=1e-8, atol=1e-15)


def test_the_likelihood_is_the_same_on_both_sides_of_the_mean():
    """Of values inside (-1, 1), up to four deviations away."""
    distance = torch.linspace(0, 0.03, 20, dtype=torch.float64)
    latents, objective = torch.zeros(2, 1, 1, 20, dtype=torch.float64), Objective(BETAS)
    fraction, zeros = -torch.ones_like(latents), torch.zeros_like(latents)
    noisy = torch.stack([distance, -distance]).view_as(latents) * SIGNAL[0].sqrt()
    loss = objective.loss(torch.cat([zeros, fraction], 1), latents, zeros, noisy, torch.tensor([0, 0]))
    torch.testing.assert_close(loss[0], loss[1], rtol=1e-10, atol=0)
    deviation = model_scale(fraction[0, 0, 0, 0], 0).item()
    edges = [(d + 1 / 255, d - 1 / 255) for d in distance.tolist()]
    expected = -sum(math.log2(norm.cdf(a / deviation) - norm.cdf(b / deviation)) for a, b in edges) / 20
    assert loss[0].item() == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize("scale", [0, 1, 10])
def test_all_steps_are_finite_in_single_precision(scale):
    """From a perfect guess of the noise to one ten units away; fractions at both ends and between."""
    latents, noise, guess, fraction = (tensor.float() for tensor in draws(3, 1000, (4, 4, 4)))
    fraction[:, 0], fraction[:, 1] = -1, 1
    timesteps, objective = torch.arange(1000), Objective(BETAS)
    noisy = objective.add_noise(latents, noise, timesteps)
    output = torch.cat([noise + scale * 2 * (guess - noise), fraction], 1).requires_grad_()
    loss = objective.loss(output, latents, noise, noisy, timesteps)
    loss.sum().backward()
    assert loss.isfinite().all() and output.grad.isfinite().all()
