"""Scalable interpolant transformers (Ma et al., 2024): the DiT's network, which predicts a velocity instead of noise.

On the straight line z_s = (1−s)·z + s·ε from data z to noise ε the velocity is v = ε − z. The released code, and so the
weights, run the other way: time t = 1−s, from noise to data, and the network says z − ε = −v. Both signs turn in
`_network_velocity` alone; everything else here is in the paper's time, s.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DiTTransformer2DModel, FlowMatchEulerDiscreteScheduler

from distill_hub.data.classes import SourceClass
from distill_hub.generators.autoencoder import Autoencoder
from distill_hub.generators.base import Decoder, GeneratorFacts, Guide, State, check_start
from distill_hub.generators.diffusion import classifier_free
from distill_hub.generators.dit import build as build_dit
from distill_hub.generators.dit import check_guided_channels, set_timestep_features
from distill_hub.generators.known import stated_license
from distill_hub.generators.pipeline import load_pipeline, save_pipeline
from distill_hub.networks.configs import FlowConfig
from distill_hub.running.seeds import cpu_generator

FACTS = {
    "name": "sit",
    "title": "SiT, plain samples: Exploring Flow and Diffusion-based Generative Models with Scalable Interpolant "
    "Transformers",
    "paper": "https://arxiv.org/abs/2401.08740",
    "bibtex": """@inproceedings{ma2024sit,
  title = {{SiT}: Exploring Flow and Diffusion-based Generative Models with Scalable Interpolant Transformers},
  author = {Ma, Nanye and Goldstein, Mark and Albergo, Michael S. and Boffi, Nicholas M. and Vanden-Eijnden, Eric
            and Xie, Saining},
  booktitle = {European Conference on Computer Vision},
  year = {2024},
}""",
}
PIPELINES = ("SiTPipeline",)
DEFAULTS = {
    "scheduler": "heun",
    "sample_steps": 50,
    "guidance_scale": 2.7,  # as of a DiT; SiT's own code has 4 in its demonstration, the paper 1.5 for its best FID
    "guided_channels": None,
    "vae": None,
    "vae_revision": None,
    "compile_set": False,
}


# The samplers: how a step of some length goes from z_s, whose guided velocity is known, to the next level. SiT's own ODE
# solver is adaptive; here an image may not depend on its batch, and so steps are even.

Velocity = Callable[[torch.Tensor, float], torch.Tensor]  # of latents at a level
Noise = Callable[[], torch.Tensor]  # a fresh one for each of them


def _euler(
    latents: torch.Tensor, velocity: torch.Tensor, level: float, following: float, again: Velocity, fresh: Noise
) -> torch.Tensor:
    return latents - (level - following) * velocity


def _heun(
    latents: torch.Tensor, velocity: torch.Tensor, level: float, following: float, again: Velocity, fresh: Noise
) -> torch.Tensor:
    half = (level - following) / 2
    return latents - half * velocity - half * again(latents - 2 * half * velocity, following)


def _euler_maruyama(
    latents: torch.Tensor, velocity: torch.Tensor, level: float, following: float, again: Velocity, fresh: Noise
) -> torch.Tensor:
    """The reverse SDE (Sec. 2.3), v − ½·w·score, where the score is −ε̂/s, with w = 2s, the default of the released code."""
    length = level - following
    noise = latents + (1 - level) * velocity
    return latents - length * (velocity + noise) + math.sqrt(2 * level * length) * fresh()


SCHEDULERS = {"heun": _heun, "euler": _euler, "sde": _euler_maruyama}
SAMPLERS = tuple(SCHEDULERS)


@dataclass(frozen=True)
class _Mixing:
    """A corruption: with which noise, and how much of it."""

    noise: torch.Tensor  # ε, (B, channels, h, w)
    levels: torch.Tensor  # s, (B,) in [0, 1)

    @property
    def elements(self) -> int:
        """All elements of a latent."""
        return self.noise[0].numel()


class SiTGenerator:
    """A frozen SiT with its VAE and sampler: a `Generator`, which documents its methods.

    Latents are in the network's scale: VAE latents times `vae.config.scaling_factor`.

    Args:
        transformer: Its output is z − ε at time t = 1−s, in the first half of its channels where it has twice as many as
            latents: SiT-XL/2 has DiT's learned variance, too, which nothing trains or reads.
        vae: Encodes, and decodes.
        class_names: Names of the classes, in the order of their ids; empty when they are not known.
        scheduler: Key of `SCHEDULERS`: 'heun' and 'euler' solve the ODE in steps of second and of first order, the former
            with two calls of the network in all but the last; 'sde' adds noise in each.
        steps: Per sample.
        guidance_scale: Classifier-free guidance; 1 switches it off and halves the cost.
        guided_channels: How many latent channels, from the first, it acts on; None: all. SiT's own code has 3 of 4.
        device: Where to run.
        folder: Where the pipeline lies.
        revision: Commit on the Hub.
        license: Of the weights.
        decoder: Decodes in place of `vae`.
        compiled: Whether to compile the network, for each size of a batch; numbers are the same up to rounding.

    Raises:
        InputError: For more guided channels than there are.
    """

    def __init__(
        self,
        transformer: DiTTransformer2DModel,
        vae: AutoencoderKL,
        class_names: Sequence[str] = (),
        *,
        scheduler: str = "heun",
        steps: int = 50,
        guidance_scale: float = 2.7,
        guided_channels: int | None = None,
        device: torch.device | str = "cpu",
        folder: Path | None = None,
        revision: str | None = None,
        license: str | None = None,
        decoder: Decoder | None = None,
        compiled: bool = False,
    ):
        config = transformer.config
        check_guided_channels(guided_channels, config.in_channels)
        # eval(): in train mode diffusers drops 10 % of the labels, in every block on its own.
        self.transformer = transformer.to(device).eval().requires_grad_(False)
        set_timestep_features(self.transformer, "dit")
        if compiled:
            self.transformer.compile(dynamic=False)
        self.autoencoder = Autoencoder(vae, decoder, device)
        self.decode, self.posterior = self.autoencoder.decode, self.autoencoder.posterior
        self.facts = GeneratorFacts(
            name="SiT",
            method=FACTS,
            architecture="SiT",  # the class of the network is a DiT's
            modules=(self.transformer, self.autoencoder.vae),
            folder=folder,
            revision=revision,
            license=license,
            decoder=decoder,
        )
        self._take, self.steps, self.guidance_scale = SCHEDULERS[scheduler], steps, guidance_scale
        self.guided_channels = guided_channels or config.in_channels
        self.device, self.class_names = torch.device(device), list(class_names)
        self.latent_shape = (config.in_channels, config.sample_size, config.sample_size)
        self.image_size = config.sample_size * self.autoencoder.downscale
        self._null_class = config.num_embeds_ada_norm  # the row behind the last class in the label embedding

    def sample(
        self,
        class_ids: Sequence[int | None],
        seeds: Sequence[int],
        *,
        guide: Guide | None = None,
        start: torch.Tensor | None = None,
        strength: float = 1.0,
    ) -> torch.Tensor:
        """See `Generator.sample`. A seed gives the initial noise, and then that of every step that adds some.

        A guide is asked once per step; what it adds to the velocity holds for all of the step.
        """
        check_start(start, strength)
        with_graph = guide is not None and guide.needs_graph
        draws = [cpu_generator(seed) for seed in seeds]
        levels = [1 - step / self.steps for step in range(self.steps + 1)]
        first = self.steps - max(1, round(strength * self.steps))
        with torch.inference_mode(not with_graph), torch.set_grad_enabled(with_graph):
            classes = self._conditions(class_ids)
            latents = self._noise(draws)
            if start is not None:
                latents = (1 - levels[first]) * start.to(self.device, torch.float32) + levels[first] * latents
            for step in range(first, self.steps):
                level, following = levels[step], levels[step + 1]
                latents.requires_grad_(with_graph)
                velocity = self._velocity(latents, classes=classes, level=level)
                pull = self._pull(latents, velocity, step, level, guide) if guide else 0.0
                # Of the last step x̂_0 is the end, as in EDM's Heun (Karras et al., 2022, Alg. 1). SiT's SDE ends in one of
                # .04 along the drift, which overshoots by the noise that was due.
                take = self._take if following else _euler
                again = partial(self._velocity, classes=classes, pull=pull)
                with torch.no_grad():
                    latents = take(
                        latents.detach(), velocity.detach() + pull, level, following, again, partial(self._noise, draws)
                    )
        return latents

    def _pull(
        self, latents: torch.Tensor, velocity: torch.Tensor, step: int, level: float, guide: Guide
    ) -> torch.Tensor | float:
        """Return what a guide adds to the velocity: x̂_0 = z_s − s·v moves by its shift where v moves by −shift/s."""
        sigma = weight = None
        if self._take is _euler_maruyama:
            length, last = 1 / self.steps, step == self.steps - 1
            sigma = torch.tensor(0.0 if last else math.sqrt(2 * level * length), device=self.device)
            weight = 1.0 if last else length * (2 - level) / level
        x0 = latents - level * velocity
        shift = guide(State(step, self.steps, level, noisy=latents, x0=x0, sigma=sigma, weight=weight))
        return 0.0 if shift is None else -shift.detach() / level

    def _noise(self, draws: Sequence[torch.Generator]) -> torch.Tensor:
        return torch.stack([torch.randn(self.latent_shape, generator=draw) for draw in draws]).to(self.device)

    def _conditions(self, class_ids: Sequence[int | None]) -> torch.Tensor:
        return torch.tensor([self._null_class if id is None else id for id in class_ids], device=self.device)

    def _velocity(
        self, latents: torch.Tensor, level: float, *, classes: torch.Tensor, pull: torch.Tensor | float = 0.0
    ) -> torch.Tensor:
        """Return the guided velocity of latents (B, channels, h, w) of classes (B,) at one level, and with it a pull."""
        if self.guidance_scale != 1:  # one forward for both conditions
            twice, both = torch.cat([latents, latents]), torch.cat([classes, torch.full_like(classes, self._null_class)])
            velocity = _network_velocity(self.transformer, twice, torch.full((len(twice),), level, device=self.device), both)
            return classifier_free(velocity, self.guidance_scale, self.guided_channels) + pull
        levels = torch.full((len(latents),), level, device=self.device)
        return _network_velocity(self.transformer, latents, levels, classes) + pull

    def corruption(
        self, draws: Sequence[torch.Generator], *, most: float | None = None, noise: torch.Tensor | None = None
    ) -> _Mixing:
        """See `Generator.corruption`: noise ε and levels s, uniform in [0, most), or in [0, 1) where that is None."""
        noises, levels = [], []
        for draw in draws:
            if noise is None:
                noises.append(torch.randn(self.latent_shape, generator=draw))
            levels.append(torch.rand((), generator=draw))
        noise = torch.stack(noises) if noise is None else noise
        return _Mixing(noise.to(self.device), (torch.stack(levels) * (1.0 if most is None else most)).to(self.device))

    def residual(self, latents: torch.Tensor, corruption: _Mixing, class_ids: Sequence[int | None]) -> torch.Tensor:
        """See `Generator.residual`: v_θ(z_s, s, c) − (ε − z)."""
        noise, classes = corruption.noise, self._conditions(class_ids)
        return _error(self.transformer, latents, noise, corruption.levels, classes).flatten(1)


def _network_velocity(
    network: torch.nn.Module, noisy: torch.Tensor, levels: torch.Tensor, class_ids: torch.Tensor
) -> torch.Tensor:
    """Return v_θ(z_s, s, c), (B, channels, h, w), of a network that was trained in the time of the released code."""
    output = network(noisy.to(network.dtype), timestep=1 - levels, class_labels=class_ids).sample
    return -output[:, : noisy.shape[1]].float()


def _error(
    network: torch.nn.Module, latents: torch.Tensor, noise: torch.Tensor, levels: torch.Tensor, class_ids: torch.Tensor
) -> torch.Tensor:
    """Return v_θ(z_s, s, c) − (ε − z), (B, channels, h, w), for levels (B,) and class ids (B,)."""
    share = levels.view(-1, 1, 1, 1)
    noisy = (1 - share) * latents + share * noise
    return _network_velocity(network, noisy, levels, class_ids) - (noise - latents)


def load(
    name: str,
    *,
    classes: Sequence[SourceClass],
    revision: str | None,
    dtype: torch.dtype,
    sample_steps: int,
    vae: str | None,
    vae_revision: str | None,
    compile_set: bool = False,
    **settings: Any,
) -> SiTGenerator:
    """See `kinds.Kind`; the folder is in the layout that `save` writes."""
    loaded = load_pipeline(name, revision, dtype, noise=FlowConfig, vae=vae, vae_revision=vae_revision)
    return SiTGenerator(
        loaded.transformer,
        loaded.vae,
        loaded.class_names,
        steps=sample_steps,
        folder=loaded.folder,
        revision=loaded.commit,
        license=stated_license(loaded.folder),
        decoder=loaded.decoder,
        compiled=compile_set,
        **settings,
    )


# Fitting a small one.


def build(latent_shape: tuple[int, int, int], classes: int, width: int, layers: int) -> DiTTransformer2DModel:
    """See `kinds.Fittable`; the width is a multiple of 32."""
    network = build_dit(latent_shape, classes, width, layers)
    set_timestep_features(network, "dit")
    return network


def levels(draw: torch.Generator, batch: int) -> torch.Tensor:
    """See `kinds.Fittable`: s, uniform in [0, 1)."""
    return torch.rand(batch, generator=draw)


def loss(
    network: DiTTransformer2DModel,
    latents: torch.Tensor,
    noise: torch.Tensor,
    levels: torch.Tensor,
    class_ids: torch.Tensor,
    draw: torch.Generator,
) -> torch.Tensor:
    """See `kinds.Fittable`: the mean square error of the velocity (Sec. 2.1)."""
    return _error(network, latents, noise, levels, class_ids).square().mean()


def save(network: DiTTransformer2DModel, vae: AutoencoderKL, folder: Path) -> None:
    """See `kinds.Fittable`."""
    save_pipeline(PIPELINES[0], folder, transformer=network, vae=vae, scheduler=FlowMatchEulerDiscreteScheduler())
