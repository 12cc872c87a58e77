"""The VAE between images and the latents that a generator works on."""

import torch
from diffusers import AutoencoderKL

from distill_hub.generators.base import Decoder


class Autoencoder:
    """A frozen VAE, whose latents are in a generator's scale: the VAE's own times `vae.config.scaling_factor`.

    Args:
        vae: Encodes, and decodes unless there is a decoder.
        decoder: Decodes in its place.
        device: Where to run.
    """

    def __init__(self, vae: AutoencoderKL, decoder: Decoder | None, device: torch.device | str):
        self.vae = vae.to(device).eval().requires_grad_(False)
        self._decoder = decoder.module.to(device).eval().requires_grad_(False) if decoder else self.vae
        self._scale = self.vae.config.scaling_factor

    @property
    def downscale(self) -> int:
        """Pixels per latent, along each side."""
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """See `Generator.decode`."""
        return (self._decoder.decode(latents / self._scale).sample / 2 + 0.5).clamp(0, 1)

    def posterior(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See `Generator.posterior`: those of the generator's own VAE."""
        posterior = self.vae.encode(images * 2 - 1).latent_dist
        return posterior.mean * self._scale, posterior.std * self._scale
