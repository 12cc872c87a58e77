"""What methods ask of a generator, whatever its network: to draw, to decode, to encode, and to say how wrong it is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn


class Corruption(Protocol):
    """What a generator's `corruption` draws and its `residual` reads; to all others a closed box but for one number."""

    @property
    def elements(self) -> int | torch.Tensor:
        """How many elements of a `residual` count, one number or (B,); the others, as of tokens not masked, are 0."""


@dataclass(frozen=True)
class Decoder:
    """A VAE that decodes latents in place of a generator's own."""

    id: str  # as it was asked for
    module: nn.Module
    revision: str | None  # commit on the Hub
    license: str | None  # of the weights; None: not known


@dataclass(frozen=True)
class GeneratorFacts:
    """What the record of a set says of its generator."""

    name: str  # of its kind, e.g. DiT
    method: Mapping[str, str]  # plain samples of it, as a method
    architecture: str  # class of the network
    modules: tuple[nn.Module, ...]  # all that has weights, in the order in which they are hashed
    folder: Path | None = None  # where it lies; None: in memory alone
    revision: str | None = None  # commit on the Hub
    license: str | None = None  # of the weights; None: not known
    timestep_features: str | None = None  # which sinusoids tell the network its timestep, where there is a choice
    decoder: Decoder | None = None  # None: it decodes with its own weights
    prompts: tuple[str, ...] | None = None  # what it is told of each of its classes, and last of none; None: no text
    classes: frozenset[int] | None = None  # ids of those that it can draw, each with a class; None: all, and without one


@dataclass(frozen=True)
class State:
    """One step of a sampler, B latents side by side, before the step is taken."""

    step: int  # of the full schedule, from 0: noise
    of: int  # steps of the full schedule
    level: float  # standard deviation of the noise in `noisy`, in (0, 1]: √(1−ᾱ_t) of a diffusion, s of a flow's line
    noisy: torch.Tensor  # z_t, float32 (B, channels, h, w)
    x0: torch.Tensor  # the clean latents that the guided prediction implies, x̂_0, in the shape of `noisy`
    sigma: torch.Tensor | None  # σ_t of the noise that the step adds, broadcasts to `noisy`; None: the sampler adds none
    weight: float | None  # of x̂_0 in the mean of the next latents; None where `sigma` is


class Guide(Protocol):
    """Pulls samples somewhere while they are drawn, by shifting x̂_0; the sampler makes noise, velocity or mean of that.

    A pull on the mean of the next latents, as papers on ancestral samplers have it, is a shift by the pull over `weight`.
    """

    needs_graph: bool  # whether `x0` must be differentiable in `noisy`; else gradients are off

    def __call__(self, state: State) -> torch.Tensor | None:
        """Return the shift of x̂_0, in its shape; None or zeros leave the step as it is to the last bit."""

    def take(self, rows: Sequence[int]) -> "Guide":
        """Return the guide of some of the images: a generator may draw those of one call in several parts."""


class Generator(Protocol):
    """A frozen class-conditional generator of images, on latents.

    Latents are float32 (B, channels, h, w) everywhere, in the scale that the network works on; images float32
    (B, 3, H, W) in [0, 1]. A class is its id in the generator, or None: no condition. What an image comes out as depends on
    its own arguments and seed, not on the batch.
    """

    latent_shape: tuple[int, int, int]  # (channels, h, w)
    image_size: int  # side of the images, in pixels
    class_names: list[str]  # in the order of their ids; empty when they are not known
    device: torch.device
    facts: GeneratorFacts

    def sample(
        self,
        class_ids: Sequence[int | None],
        seeds: Sequence[int],
        *,
        guide: Guide | None = None,
        start: torch.Tensor | None = None,
        strength: float = 1.0,
    ) -> torch.Tensor:
        """Draw one latent per (class id, seed).

        Args:
            class_ids: B classes.
            seeds: B seeds of CPU generators, which give all noise.
            guide: Pulls the samples.
            start: (B, channels, h, w): latents that are noised, to be denoised again. None: pure noise.
            strength: Share of the steps that a start is noised for, and which are then run, in (0, 1]; 1 without a start.

        Returns:
            (B, channels, h, w).

        Raises:
            InputError: For a guide that needs a graph where there is none.
            ValueError: For another strength.
        """

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Decode latents to images, differentiable in `latents`."""

    def posterior(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Encode images to mean and standard deviation of their latents, each (B, channels, h, w)."""

    def corruption(
        self, draws: Sequence[torch.Generator], *, most: float | None = None, noise: torch.Tensor | None = None
    ) -> Corruption:
        """Draw how B latents are corrupted: how strongly, and with which noise.

        Args:
            draws: B CPU generators, one per image. Each gives its image's noise, unless that is given, and then its level.
            most: Levels are drawn from those above none and below this share of the strongest, in (0, 1]: for a diffusion
                model of T steps timesteps 0 < t < most·T, at least t = 1, for a masked one shares of masked tokens up to it.
                None: from all that training has.
            noise: (B, channels, h, w), to be used instead of a fresh one.
        """

    def residual(self, latents: torch.Tensor, corruption: Any, class_ids: Sequence[int | None]) -> torch.Tensor:
        """Corrupt latents, let the network predict its target, and return prediction minus target, (B, n).

        Differentiable in `latents`; the weights get no gradients. The target is the network's own: noise, or velocity. The
        mean is a sum over `corruption.elements`.

        Args:
            latents: (B, channels, h, w).
            corruption: From this generator, of as many images.
            class_ids: The conditions.
        """


def check_start(start: torch.Tensor | None, strength: float) -> None:
    """Refuse what `Generator.sample` cannot be asked for.

    Raises:
        ValueError: For a strength outside (0, 1], or of no start.
    """
    if not 0 < strength <= 1 or (start is None and strength != 1):
        raise ValueError(f"strength {strength}: it lies in (0, 1], and is 1 without a start")
