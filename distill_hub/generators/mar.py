"""Masked autoregression without quantisation: MAR (Li et al., NeurIPS 2024).

A transformer sees the tokens that are there and says of every other place what belongs there; a small diffusion model, the
head, draws the tokens of some places from that, in every autoregressive step of more places. See `networks.mar`.

The head's noise schedule lies beside the network, as a scheduler's configuration does elsewhere: the published weights have
the cosine schedule. A small network that is fitted here has the linear one of the DiT. With the cosine, the first of 100
respaced steps, from t to t', multiplies an error of the predicted noise by √(ᾱ_t'/ᾱ_t)·β/√(1−ᾱ_t) = 316 (linear: 0.2), which
a network must have been trained long to survive.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDPMScheduler

from distill_hub.config import InputError
from distill_hub.data.classes import SourceClass
from distill_hub.generators.autoencoder import Autoencoder
from distill_hub.generators.base import Decoder, GeneratorFacts, Guide, State, check_start
from distill_hub.generators.known import stated_license
from distill_hub.generators.mar_schedule import masked_counts, respaced, training_share
from distill_hub.generators.objective import Objective
from distill_hub.generators.pipeline import load_pipeline, save_pipeline
from distill_hub.networks.configs import MarConfig, MarIndex
from distill_hub.networks.mar import MAR
from distill_hub.running.seeds import cpu_generator

FACTS = {
    "name": "mar",
    "title": "MAR, plain samples: Autoregressive Image Generation without Vector Quantization",
    "paper": "https://arxiv.org/abs/2406.11838",
    "bibtex": """@inproceedings{li2024mar,
  title = {Autoregressive Image Generation without Vector Quantization},
  author = {Li, Tianhong and Tian, Yonglong and Li, He and Deng, Mingyang and He, Kaiming},
  booktitle = {Advances in Neural Information Processing Systems},
  year = {2024},
}""",
}
PIPELINES = ("MARPipeline",)
DEFAULTS = {
    "sample_steps": 64,  # MAR's README, for speed; its paper has as many as tokens, CaO2's branch 32
    "head_steps": 100,
    "head_temperature": 1.0,
    "guidance_scale": 2.9,  # of the published base
    "vae": None,
    "vae_revision": None,
}
SAMPLERS = ()  # the head has one of its own

COSINE = {"beta_schedule": "squaredcos_cap_v2"}  # of the published weights
_FITTED = {"beta_schedule": "linear"}  # of those that are fitted here
_REPEATS = 4  # noises and timesteps of a token per optimiser step (Li et al., 2024, Sec. 3.2)


@dataclass(frozen=True)
class _Masking:
    """A corruption: which tokens are masked, and the noise and timestep that each of them is asked with."""

    masked: torch.Tensor  # bool (B, L)
    timesteps: torch.Tensor  # (B, L) in [0, T)
    noise: torch.Tensor  # ε, (B, channels, h, w)
    elements: torch.Tensor  # (B,): values of the masked tokens


class MARGenerator:
    """A frozen MAR with its VAE and sampler: a `Generator`, which documents its methods.

    Args:
        network: The transformer and its head.
        vae: Encodes, and decodes unless there is a decoder. Latents are its own times `vae.config.scaling_factor`.
        noise: Configuration of the head's noise schedule, as of a `DDPMScheduler`.
        class_names: Names of the classes, in the order of their ids; empty when they are not known.
        sample_steps: Autoregressive steps; at most one for each token.
        head_steps: Denoising steps of a token.
        head_temperature: Scales the noise that these add.
        guidance_scale: Classifier-free guidance, which grows with the share of tokens that are there; 1 switches it off.
        device: Where to run.
        folder: Where it lies.
        revision: Commit on the Hub.
        license: Of the weights.
        decoder: Decodes in place of the VAE.

    Raises:
        InputError: For head steps that the noise schedule has not got.
    """

    def __init__(
        self,
        network: MAR,
        vae: AutoencoderKL,
        noise: dict[str, Any],
        class_names: Sequence[str] = (),
        *,
        sample_steps: int = 64,
        head_steps: int = 100,
        head_temperature: float = 1.0,
        guidance_scale: float = 2.9,
        device: torch.device | str = "cpu",
        folder: Path | None = None,
        revision: str | None = None,
        license: str | None = None,
        decoder: Decoder | None = None,
    ):
        self.network = network.to(device).eval().requires_grad_(False)
        self.autoencoder = Autoencoder(vae, decoder, device)
        self.decode, self.posterior = self.autoencoder.decode, self.autoencoder.posterior
        self.facts = GeneratorFacts(
            name="MAR",
            method=FACTS,
            architecture=type(network).__name__,
            modules=(self.network, self.autoencoder.vae),
            folder=folder,
            revision=revision,
            license=license,
            decoder=decoder,
        )
        self.device, self.class_names = torch.device(device), list(class_names)
        config = network.config
        self.latent_shape = (config.in_channels, config.sample_size, config.sample_size)
        self.image_size = config.sample_size * self.autoencoder.downscale
        self.sample_steps, self._heat, self.guidance_scale = sample_steps, head_temperature, guidance_scale
        betas = DDPMScheduler(**noise).betas
        if not 2 <= head_steps <= len(betas):
            raise InputError("head_steps", head_steps, f"valid: 2 to {len(betas)}, the timesteps that it was trained with")
        self._head_steps = list(respaced(betas, head_steps))
        self._objective = Objective(betas, self.device)

    def sample(
        self,
        class_ids: Sequence[int | None],
        seeds: Sequence[int],
        *,
        guide: Guide | None = None,
        start: torch.Tensor | None = None,
        strength: float = 1.0,
    ) -> torch.Tensor:
        """See `Generator.sample`. A seed gives the order of the tokens, and then the noise of each autoregressive step.

        A start keeps a share of 1 − strength of its tokens. A guide acts in the head's steps: in its `State` the tokens that
        are being drawn lie where they belong, those that are there already are as they are, and the others are zeros.

        Raises:
            InputError: For a guide that needs a graph: the tokens that are there are no function of those being drawn.
        """
        check_start(start, strength)
        if guide is not None and guide.needs_graph:
            raise InputError(
                "generator", self.facts.name, "no gradients go through its sampler; one of another kind is needed"
            )
        with torch.inference_mode():
            return self._sample(class_ids, seeds, guide, start, strength)

    def _sample(
        self,
        class_ids: Sequence[int | None],
        seeds: Sequence[int],
        guide: Guide | None,
        start: torch.Tensor | None,
        strength: float,
    ) -> torch.Tensor:
        count, channels = self.network.tokens, self.network.token_channels
        draws = [cpu_generator(seed) for seed in seeds]
        # Those that are masked come first, as long as they are.
        order = torch.stack([torch.randperm(count, generator=draw) for draw in draws]).to(self.device)
        if start is None:
            tokens, left = torch.zeros(len(draws), count, channels, device=self.device), count
        else:
            tokens = self.network.patchify(start.to(self.device, torch.float32))
            left = max(1, round(strength * count))
        conditions = self._embedding(class_ids, self.network.fake_latent)
        if self.guidance_scale != 1:
            conditions = torch.cat([conditions, self.network.fake_latent.expand(len(draws), -1)])
        twice = len(conditions) // len(draws)
        for after in masked_counts(count, self.sample_steps):
            if after >= left:  # a start has these tokens
                continue
            masked = torch.zeros_like(order, dtype=torch.bool).scatter(1, order[:, :left], True)
            z = self._condition(tokens.repeat(twice, 1, 1), masked.repeat(twice, 1), conditions)
            places = order[:, after:left]
            z = z.gather(1, places.repeat(twice, 1)[..., None].expand(-1, -1, z.shape[2]))
            shape = (len(self._head_steps), places.shape[1], channels)
            noise = torch.stack([torch.randn(shape, generator=draw) for draw in draws], dim=1).to(self.device)
            # MAR's code counts one token as masked at the end.
            scale = 1 + (self.guidance_scale - 1) * (count - max(1, after)) / count
            tokens = self._draw(tokens, places, z.flatten(0, 1), noise, scale, guide)
            left = after
        return self.network.unpatchify(tokens)

    def _draw(
        self,
        tokens: torch.Tensor,
        places: torch.Tensor,
        z: torch.Tensor,
        noise: torch.Tensor,
        scale: float,
        guide: Guide | None,
    ) -> torch.Tensor:
        """Let the head draw the tokens of some places.

        Args:
            tokens: (B, L, D).
            places: (B, n).
            z: Conditions of the places, (B * n, width), and with guidance as many without class behind them.
            noise: (steps, B, n, D): where it starts, and what each step but the last adds.
            scale: Of classifier-free guidance.
            guide: Pulls.

        Returns:
            (B, L, D).
        """
        index = places[..., None].expand(-1, -1, tokens.shape[2])

        def placed(values: torch.Tensor) -> torch.Tensor:
            return self.network.unpatchify(tokens.scatter(1, index, values))

        x = noise[0]
        for step, how in enumerate(self._head_steps):
            output = self._predict(x.flatten(0, 1), how.timestep, z).unflatten(0, (-1, *places.shape))
            predicted, fraction = output[0].chunk(2, dim=2)  # the variance is the conditional one's
            if len(output) > 1:
                without = output[1].chunk(2, dim=2)[0]
                predicted = without + scale * (predicted - without)
            x0 = (x - how.level * predicted) / how.signal
            share = (fraction + 1) / 2
            last = step + 1 == len(self._head_steps)
            sigma = (0.5 * (share * how.largest + (1 - share) * how.smallest)).exp() * (0.0 if last else self._heat)
            if guide is not None:
                state = State(
                    step,
                    len(self._head_steps),
                    how.level,
                    noisy=placed(x),
                    x0=placed(x0),
                    sigma=placed(sigma),
                    weight=how.clean,
                )
                shift = guide(state)
                if shift is not None:
                    x0 = x0 + self.network.patchify(shift).gather(1, index)
            x = how.clean * x0 + how.keep * x
            if not last:
                x = x + sigma * noise[step + 1]
        return tokens.scatter(1, index, x)

    def corruption(
        self, draws: Sequence[torch.Generator], *, most: float | None = None, noise: torch.Tensor | None = None
    ) -> _Masking:
        """See `Generator.corruption`: which tokens are masked, and of each a timestep of the head and ε.

        The share of masked tokens is drawn from (0, most], where that is None as in training, and rounded up; timesteps are
        drawn from all. One count per image: none depends on who shares its batch.
        """
        count = self.network.tokens
        noises, maskings, timesteps = [], [], []
        for draw in draws:
            if noise is None:
                noises.append(torch.randn(self.latent_shape, generator=draw))
            u = torch.rand((), dtype=torch.float64, generator=draw)
            share = training_share(u) if most is None else most * (1 - u)
            maskings.append(torch.randperm(count, generator=draw) < share * count)
            timesteps.append(torch.randint(self._objective.steps, (count,), generator=draw))
        noise = torch.stack(noises) if noise is None else noise
        masked = torch.stack(maskings).to(self.device)
        elements = masked.sum(1) * self.network.token_channels
        return _Masking(masked, torch.stack(timesteps).to(self.device), noise.to(self.device), elements)

    def residual(self, latents: torch.Tensor, corruption: _Masking, class_ids: Sequence[int | None]) -> torch.Tensor:
        """See `Generator.residual`: the head's ε_θ − ε for masked tokens, 0 elsewhere; the learned variance is left out.

        The tokens that the transformer sees get gradients, and so do the masked ones, which are noised for the head (CaO2's
        code detaches these). Without class the embedding is zero, as in CaO2's Eq. 6; samples have MAR's own, `fake_latent`.
        """
        network, masked = self.network, corruption.masked
        tokens, noise = network.patchify(latents), network.patchify(corruption.noise)
        z = self._condition(tokens, masked, self._embedding(class_ids, torch.zeros_like(network.fake_latent)))
        timesteps, own = corruption.timesteps[masked], noise[masked]
        noisy = self._objective.add_noise(_pixel(tokens[masked]), _pixel(own), timesteps).flatten(1)
        error = self._predict(noisy, timesteps, z[masked])[:, : network.token_channels] - own
        return network.unpatchify(torch.zeros_like(tokens).masked_scatter(masked[..., None], error)).flatten(1)

    def _embedding(self, class_ids: Sequence[int | None], none: torch.Tensor) -> torch.Tensor:
        """Return what stands for each class, (B, width); `none`, (1, width), for no class."""
        table = torch.cat([self.network.class_emb.weight, none])
        return table[[len(table) - 1 if id is None else id for id in class_ids]]

    def _condition(self, tokens: torch.Tensor, masked: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
        return self.network(tokens.to(self.network.dtype), masked, embedding)

    def _predict(self, x: torch.Tensor, timesteps: torch.Tensor | int, z: torch.Tensor) -> torch.Tensor:
        """Return the head's output, float32 (N, 2D), of tokens (N, D), or of N/2 with both conditions z (N, width)."""
        x = x.to(z.dtype).repeat(len(z) // len(x), 1)
        timesteps = torch.as_tensor(timesteps, device=x.device).expand(len(x))
        return self.network.head(x, timesteps, z).float()


def _pixel(tokens: torch.Tensor) -> torch.Tensor:
    """Return tokens (N, D) as latents of one pixel, (N, D, 1, 1)."""
    return tokens[..., None, None]


def load(
    name: str,
    *,
    classes: Sequence[SourceClass],
    revision: str | None,
    device: torch.device | str,
    dtype: torch.dtype,
    vae: str | None = None,
    vae_revision: str | None = None,
    **options: Any,
) -> MARGenerator:
    """See `kinds.Kind`."""
    kind = {"network": MAR, "index": MarIndex, "shape": MarConfig}
    loaded = load_pipeline(name, revision, dtype, **kind, vae=vae, vae_revision=vae_revision)
    where = {"folder": loaded.folder, "revision": loaded.commit, "license": stated_license(loaded.folder)}
    return MARGenerator(
        loaded.transformer, loaded.vae, loaded.noise.model_dump(), loaded.class_names, decoder=loaded.decoder, device=device,
        **where, **options,
    )  # fmt: skip


def build(latent_shape: tuple[int, int, int], classes: int, width: int, layers: int) -> MAR:
    """See `kinds.Fittable`; the width is a multiple of 32, and half of the layers are the encoder's."""
    network = MAR(
        in_channels=latent_shape[0],
        sample_size=latent_shape[1],
        patch_size=2,
        width=width,
        heads=width // 32,
        encoder_layers=max(1, layers // 2),
        decoder_layers=max(1, layers - layers // 2),
        head_width=width,
        head_layers=3,
        buffer_size=4,
        num_classes=classes,
    )
    network.initialize()
    return network


def levels(draw: torch.Generator, batch: int) -> torch.Tensor:
    """See `kinds.Fittable`: the share of tokens that are masked, as in MAR's code one for all of a batch."""
    return training_share(torch.rand((), dtype=torch.float64, generator=draw)).expand(batch)


def loss(
    network: MAR,
    latents: torch.Tensor,
    noise: torch.Tensor,
    levels: torch.Tensor,
    class_ids: torch.Tensor,
    draw: torch.Generator,
) -> torch.Tensor:
    """See `kinds.Fittable`: the diffusion loss of masked tokens, with the bound's term for the variance (Sec. 3.2).

    `noise` is the first of a token's noises; the others are drawn, and the timesteps, and which tokens are masked.
    """
    tokens, device = network.patchify(latents), latents.device
    order = torch.rand(tokens.shape[:2], generator=draw).argsort(1).to(device)
    masked = order < levels[:, None] * network.tokens
    z = network(tokens, masked, torch.cat([network.class_emb.weight, network.fake_latent])[class_ids])[masked]
    clean = tokens[masked]
    others = torch.randn((_REPEATS - 1, *clean.shape), generator=draw).to(device)
    noises = torch.cat([network.patchify(noise)[masked][None], others]).flatten(0, 1)
    objective = _fitted_objective(device)
    timesteps = torch.randint(objective.steps, (len(noises),), generator=draw).to(device)
    clean, noises = _pixel(clean.repeat(_REPEATS, 1)), _pixel(noises)
    noisy = objective.add_noise(clean, noises, timesteps)
    output = network.head(noisy.flatten(1), timesteps, z.repeat(_REPEATS, 1))
    return objective.loss(_pixel(output), clean, noises, noisy, timesteps).mean()


@cache
def _fitted_objective(device: torch.device) -> Objective:
    return Objective(DDPMScheduler(**_FITTED).betas, device)


def save(network: MAR, vae: AutoencoderKL, folder: Path, noise: dict[str, Any] = _FITTED) -> None:
    """See `kinds.Fittable`; `noise` is the configuration of the head's noise schedule, where it is not that of a fit."""
    scheduler = DDPMScheduler(**noise, clip_sample=False)
    save_pipeline(PIPELINES[0], folder, transformer=network, vae=vae, scheduler=scheduler)
