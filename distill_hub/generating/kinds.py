"""The kinds of generators: a file each, and one line here."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from diffusers import AutoencoderKL
from torch import nn

from distill_hub.data.classes import SourceClass
from distill_hub.generators import dit, mar, sit, text
from distill_hub.generators.base import Generator


class Kind(Protocol):
    """What the file of a kind of generator has."""

    FACTS: Mapping[str, str]  # of plain samples of it, as of a method; `name` is its key in `KINDS`
    PIPELINES: Sequence[str]  # what the model_index.json of those that it loads has as `_class_name`
    DEFAULTS: Mapping[str, Any]  # what it takes of `GeneratorOptions`, with the value where the user names none
    SAMPLERS: Sequence[str]  # names for `--scheduler`; empty where it has one of its own

    def load(
        self,
        name: str,
        *,
        classes: Sequence[SourceClass],
        revision: str | None,
        device: torch.device,
        dtype: torch.dtype,
        **options: Any,
    ) -> Generator:
        """Load one from a Hub repository or folder.

        Args:
            name: Hub id or folder.
            classes: Those of the source, for a kind that has none of its own.
            revision: Branch, tag or commit on the Hub.
            device: Where to run.
            dtype: Precision of the network. The VAE stays in float32.
            **options: A value for each key of `DEFAULTS`.

        Raises:
            InputError: When a file is missing, truncated, or does not fit its config.
        """


class Fittable(Kind, Protocol):
    """What it has, too, where small ones are fitted to a source; see `fit`."""

    def build(self, latent_shape: tuple[int, int, int], classes: int, width: int, layers: int) -> nn.Module:
        """Return a new network for latents (channels, h, w), as it is trained; PyTorch's generator draws its weights."""

    def levels(self, draw: torch.Generator, batch: int) -> torch.Tensor:
        """Draw how strongly B latents are corrupted, (B, ...), on the CPU."""

    def loss(
        self,
        network: nn.Module,
        latents: torch.Tensor,
        noise: torch.Tensor,
        levels: torch.Tensor,
        class_ids: torch.Tensor,
        draw: torch.Generator,
    ) -> torch.Tensor:
        """Return the mean loss of a batch.

        Args:
            network: From `build`.
            latents: (B, channels, h, w), of unit variance.
            noise: Standard normal, in the shape of `latents`.
            levels: From `levels`.
            class_ids: (B,), the number of classes where the label is dropped.
            draw: Of what else is drawn; on the CPU.
        """

    def save(self, network: nn.Module, vae: AutoencoderKL, folder: Path) -> None:
        """Write a pipeline folder; the names of the classes are added to its model_index.json."""


FITTED_KINDS: Mapping[str, Fittable] = {"dit": dit, "sit": sit, "mar": mar}
KINDS: Mapping[str, Kind] = {**FITTED_KINDS, "text": text}
