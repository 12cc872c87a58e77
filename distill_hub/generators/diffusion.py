"""Diffusion that predicts noise (Ho et al., 2020): its schedule, its samplers, and how latents are noised.

Which network predicts, and under which conditions, a generator says; the samplers' public interface is diffusers'.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler

from distill_hub.generators.base import Guide, State, check_start
from distill_hub.running.seeds import cpu_generator

# The respaced timesteps of each sampler. "linspace" for DDPM is the spacing of DiT's own sampler (0, 20.4, ..., 999 for 50
# steps); diffusers' DDIM step assumes equal strides, and "trailing" is the one that starts at pure noise.
SCHEDULERS = {
    "ddpm": (DDPMScheduler, "linspace"),
    "ddim": (DDIMScheduler, "trailing"),
    "dpm-solver++": (DPMSolverMultistepScheduler, "linspace"),
}

# Latents (B, channels, h, w) and a timestep, a scalar on their device, to what a network makes of them under the conditions
# and the guidance of a generator: float32 (B, channels, h, w), or twice as many channels, the second half the variance.
Predict = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Noising:
    """A corruption: with which noise, and up to which timestep."""

    noise: torch.Tensor  # ε, (B, channels, h, w)
    timesteps: torch.Tensor  # (B,) in [0, T)

    @property
    def elements(self) -> int:
        """All elements of a latent."""
        return self.noise[0].numel()

    def take(self, rows: Sequence[int]) -> "Noising":
        """Return that of some of the images."""
        return Noising(self.noise[rows], self.timesteps[rows])


class Diffusion:
    """A noise process of T steps and the sampler that goes back along it.

    Args:
        schedule: Configuration of a scheduler of diffusers: the betas, and that the network predicts the noise.
        latent_shape: (channels, h, w).
        scheduler: Key of `SCHEDULERS`.
        steps: Denoising steps per sample.
        learned_variance: Whether the network says the variance of an ancestral step, too, as `learned_range`.
        device: Where the latents are.
    """

    def __init__(
        self,
        schedule: Mapping[str, Any],
        latent_shape: tuple[int, int, int],
        *,
        scheduler: str,
        steps: int,
        learned_variance: bool = False,
        device: torch.device | str = "cpu",
    ):
        kind, spacing = SCHEDULERS[scheduler]
        changes: dict[str, Any] = {"timestep_spacing": spacing, "clip_sample": False}  # latents are not bounded by 1
        self._ancestral = kind is DDPMScheduler
        self._learned_variance = self._ancestral and learned_variance
        if self._ancestral:
            changes["variance_type"] = "learned_range" if learned_variance else "fixed_small"
        self.scheduler = kind.from_config(schedule, **changes)
        self.steps, self.latent_shape, self.device = steps, latent_shape, torch.device(device)
        self._alphas_cumprod = self.scheduler.alphas_cumprod.to(self.device, torch.float32)  # (T,)

    def sample(
        self, predict: Predict, seeds: Sequence[int], *, guide: Guide | None, start: torch.Tensor | None, strength: float
    ) -> torch.Tensor:
        """Draw one latent per seed, which gives the initial noise, and then the noise of every ancestral step.

        Args:
            predict: What is predicted of the latents of all seeds.
            seeds: See `Generator.sample`, as for the others.
            guide: Pulls the samples.
            start: Latents that are noised, to be denoised again.
            strength: For how many of the steps.

        Returns:
            (B, channels, h, w).

        Raises:
            ValueError: For another strength.
        """
        check_start(start, strength)
        with_graph = guide is not None and guide.needs_graph
        with torch.inference_mode(not with_graph), torch.set_grad_enabled(with_graph):
            return self._sample(predict, seeds, guide, start, strength)

    def _sample(
        self, predict: Predict, seeds: Sequence[int], guide: Guide | None, start: torch.Tensor | None, strength: float
    ) -> torch.Tensor:
        generators = [cpu_generator(seed) for seed in seeds]
        latents = torch.stack([torch.randn(self.latent_shape, generator=g) for g in generators]).to(self.device)
        self.scheduler.set_timesteps(self.steps)
        first = self.steps - max(1, round(strength * self.steps))
        timesteps = self.scheduler.timesteps[first:]
        if start is not None:
            latents = self.add_noise(start.to(self.device, torch.float32), latents, timesteps[:1].to(self.device))
        extra = {"generator": generators} if self._ancestral else {}
        for step, t in enumerate(timesteps, first):
            latents.requires_grad_(torch.is_grad_enabled())
            output = predict(latents, t.to(self.device))
            if not self._learned_variance:
                output = output[:, : latents.shape[1]]
            if guide is not None:
                output = self._shifted(output, latents, t, step, guide)
            # Detached, which without a graph they are already.
            latents = self.scheduler.step(output.detach(), t, latents.detach(), **extra).prev_sample
        return latents

    def _shifted(
        self, output: torch.Tensor, latents: torch.Tensor, t: torch.Tensor, step: int, guide: Guide
    ) -> torch.Tensor:
        """Return the output with the noise that implies the x̂_0 a guide wants; every sampler goes on from there."""
        alpha, channels = self._alphas_cumprod[t], latents.shape[1]
        noise, variance = output[:, :channels], output[:, channels:]
        x0 = (latents - (1 - alpha).sqrt() * noise) / alpha.sqrt()
        sigma, weight = self._added(t, variance.detach())
        level = float((1 - alpha).sqrt())
        shift = guide(State(step, self.steps, level, noisy=latents, x0=x0, sigma=sigma, weight=weight))
        if shift is None:
            return output
        return torch.cat([noise - (alpha / (1 - alpha)).sqrt() * shift, variance], dim=1)

    def _added(self, t: torch.Tensor, variance: torch.Tensor) -> tuple[torch.Tensor | None, float | None]:
        """Return σ_t and the weight of x̂_0 in the mean of a DDPM step (Ho et al., 2020, Eq. 7), (None, None) for others.

        Args:
            t: Its timestep.
            variance: What the network says of the variance, (B, channels, h, w), or without channels.
        """
        if not self._ancestral:
            return None, None
        here, before = self._alphas_cumprod[t], self.scheduler.previous_timestep(t)
        if before < 0:  # no noise is added in the last step, and what comes out is x̂_0
            return torch.zeros((), device=self.device), 1.0
        previous = self._alphas_cumprod[before]
        beta = 1 - here / previous
        smallest = beta * (1 - previous) / (1 - here)
        if variance.shape[1]:  # between smallest and β (Nichol and Dhariwal, 2021, Eq. 15)
            share = (variance + 1) / 2
            sigma = (0.5 * (share * beta.log() + (1 - share) * smallest.log())).exp()
        else:
            sigma = smallest.sqrt()
        return sigma, float(previous.sqrt() * beta / (1 - here))

    def corruption(self, draws: Sequence[torch.Generator], *, most: float | None, noise: torch.Tensor | None) -> Noising:
        """See `Generator.corruption`: noise ε and timesteps t, from [1, most·T), or from [0, T) where `most` is None."""
        steps = len(self._alphas_cumprod)
        low, high = (0, steps) if most is None else (1, max(2, round(most * steps)))
        noises, timesteps = [], []
        for draw in draws:
            if noise is None:
                noises.append(torch.randn(self.latent_shape, generator=draw))
            timesteps.append(torch.randint(low, high, (), generator=draw))
        noise = torch.stack(noises) if noise is None else noise
        return Noising(noise.to(self.device), torch.stack(timesteps).to(self.device))

    def add_noise(self, latents: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """Return √ᾱ_t·latents + √(1−ᾱ_t)·noise for timesteps (B,)."""
        alpha = self._alphas_cumprod[timesteps].view(-1, 1, 1, 1)
        return alpha.sqrt() * latents + (1 - alpha).sqrt() * noise


def classifier_free(output: torch.Tensor, scale: float, channels: int) -> torch.Tensor:
    """Return the guided noise u + w·(c − u) of what a network says with and without condition (Ho and Salimans, 2021).

    Args:
        output: (2B, ...): B with a condition, and the same without.
        scale: w.
        channels: How many, from the first, are guided. Of the others, and of a learned variance, it is the conditional one.

    Returns:
        (B, ...).
    """
    conditional, unconditional = output.chunk(2)
    noise = unconditional[:, :channels]
    noise = noise + scale * (conditional[:, :channels] - noise)
    return torch.cat([noise, conditional[:, channels:]], dim=1)
