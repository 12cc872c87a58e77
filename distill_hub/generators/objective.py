"""What a diffusion transformer is trained on: the noise, and the variance of each step where it is learned."""

import math

import torch
from torch.special import ndtr


class Objective:
    """Noising, and the loss of what a network makes of it, on the full schedule of T steps.

    Args:
        betas: (T,), β_0 .. β_{T-1}.
        device: Where the latents are.
    """

    def __init__(self, betas: torch.Tensor, device: torch.device | str = "cpu"):
        betas = betas.double().cpu()
        alpha = (1 - betas).cumprod(0)  # ᾱ_t
        before = torch.cat([torch.ones(1, dtype=torch.float64), alpha[:-1]])  # ᾱ_{t-1}
        variance = betas * (1 - before) / (1 - alpha)  # of q(z_{t-1} | z_t, z_0): β̃_t
        variance[0] = variance[1]  # β̃_0 is 0, and its logarithm is taken
        self.steps = len(betas)
        self._tables = {
            "signal": alpha.sqrt(),
            "noise": (1 - alpha).sqrt(),
            "clean": before.sqrt() * betas / (1 - alpha),  # weight of z_0 in the posterior's mean
            "smallest": variance.log(),
            "largest": betas.log(),
        }
        self._tables = {name: table.to(device) for name, table in self._tables.items()}

    def _at(self, name: str, timesteps: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        return self._tables[name][timesteps].to(like.dtype).view(-1, 1, 1, 1)

    def add_noise(self, latents: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """Return z_t = √ᾱ_t·z_0 + √(1−ᾱ_t)·ε, (B, channels, h, w)."""
        return self._at("signal", timesteps, latents) * latents + self._at("noise", timesteps, latents) * noise

    def clean(self, noisy: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """Return the z_0 that z_t and a predicted noise imply, (B, channels, h, w)."""
        return (noisy - self._at("noise", timesteps, noisy) * noise) / self._at("signal", timesteps, noisy)

    def loss(
        self, output: torch.Tensor, latents: torch.Tensor, noise: torch.Tensor, noisy: torch.Tensor, timesteps: torch.Tensor
    ) -> torch.Tensor:
        """Return the loss of every image, (B,): L_simple, and for a learned variance the variational bound beside it.

        Args:
            output: The network's, (B, channels or 2 * channels, h, w): noise, and then the variance where it is learned.
            latents: z_0, (B, channels, h, w).
            noise: ε.
            noisy: z_t.
            timesteps: (B,) in [0, T).
        """
        predicted = output[:, : latents.shape[1]]
        loss = (predicted - noise).square().flatten(1).mean(1)
        if output.shape[1] == latents.shape[1]:
            return loss
        return loss + self._variance_loss(output[:, latents.shape[1] :], predicted.detach(), latents, noisy, timesteps)

    def _variance_loss(self, fraction, predicted, latents, noisy, timesteps) -> torch.Tensor:
        """Return the bound's term of step t in bits per latent element, (B,) (Nichol and Dhariwal, 2021, Eq. 4-6 and 15).

        The mean has no part in its gradient, so that it teaches the variance alone, as in DiT's own training.
        """
        smallest, largest = (self._at(name, timesteps, latents) for name in ("smallest", "largest"))
        share = (fraction + 1) / 2
        log_variance = share * largest + (1 - share) * smallest
        # Between the means of both steps; the share of z_t in them is the same.
        offset = self._at("clean", timesteps, latents) * (latents - self.clean(noisy, predicted, timesteps))
        divergence = 0.5 * (
            log_variance - smallest - 1 + (smallest - log_variance).exp() + offset.square() * (-log_variance).exp()
        )
        # t = 0: the likelihood of the latent itself, in the bins of 1/127.5 that pixels would have. DiT's code approximates
        # the normal distribution function by a tanh.
        inverse = (-0.5 * log_variance).exp()
        upper, lower = ndtr(inverse * (offset + 1 / 255)), ndtr(inverse * (offset - 1 / 255))
        probability = torch.where(latents < -0.999, upper, torch.where(latents > 0.999, 1 - lower, upper - lower))
        last = -probability.clamp(min=1e-12).log()
        term = torch.where((timesteps == 0).view(-1, 1, 1, 1), last, divergence)
        return term.flatten(1).mean(1) / math.log(2)
