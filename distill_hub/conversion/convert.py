"""Published weights under their authors' names, saved as a pipeline folder that generators are loaded from."""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DiTTransformer2DModel
from safetensors import SafetensorError
from safetensors.torch import load_file

from distill_hub.config import InputError, refusing
from distill_hub.conversion.dit import dit
from distill_hub.conversion.mar import MAR_VAE, mar, mar_vae
from distill_hub.data.classes import imagenet_classes
from distill_hub.disk.files import remove
from distill_hub.generating.kinds import KINDS
from distill_hub.generators.known import DIT_LICENSE
from distill_hub.generators.mar import COSINE
from distill_hub.generators.pipeline import load_vae
from distill_hub.networks.configs import MarConfig, TransformerConfig
from distill_hub.networks.folders import check_loaded, checked
from distill_hub.networks.mar import MAR

State = dict[str, torch.Tensor]


@dataclass(frozen=True)
class _Published:
    """How a kind of generator was published."""

    read: Callable[[State, str], tuple[State, dict[str, Any]]]  # tensors and configuration of its network
    network: type[torch.nn.Module]
    sizes: type[TransformerConfig] | type[MarConfig]  # record of that configuration
    license: str  # of the weights
    saved: Mapping[str, Any] = field(default_factory=dict)  # what its `save` is told
    said: Mapping[str, Any] = field(default_factory=dict)  # in model_index.json


PUBLISHED = {
    "dit": _Published(dit, DiTTransformer2DModel, TransformerConfig, DIT_LICENSE, said={"timestep_features": "dit"}),
    "sit": _Published(dit, DiTTransformer2DModel, TransformerConfig, "mit"),
    "mar": _Published(mar, MAR, MarConfig, "mit", saved={"noise": COSINE}),
}


def convert(kind: str, weights: Path, vae: str, folder: Path, *, vae_revision: str | None, license: str | None) -> None:
    """Save weights and a VAE as a pipeline folder, in the precision that they have; nothing is unpickled.

    Where there are 1,000 classes they get ImageNet-1K's names; others have none, and a source's have to come in their order.

    Args:
        kind: Key of `PUBLISHED`.
        weights: A safetensors file of the network.
        vae: Hub id or folder of the AutoencoderKL that it was trained with, or the safetensors file of MAR's.
        folder: Where to save; it appears when all is written.
        vae_revision: Branch, tag or commit of the VAE on the Hub.
        license: Of the weights; None: that of those which the authors published.

    Raises:
        InputError: When the weights are not of that kind, or do not fit together or with the VAE.
    """
    how, name = PUBLISHED[kind], str(weights)
    state, config = how.read(_read(weights, "weights"), name)
    sizes = checked(how.sizes, config, "its shapes", "weights", name)
    network = _filled(how.network, config, state, "weights", name)
    if vae.endswith(".safetensors"):
        pixels = _filled(AutoencoderKL, MAR_VAE, mar_vae(_read(Path(vae), "vae")), "vae", vae)
    else:
        pixels = load_vae(vae, vae_revision).module
    if pixels.config.latent_channels != sizes.in_channels:
        have = f"it has {pixels.config.latent_channels} latent channels"
        raise InputError("vae", vae, f"{have}, the weights are for {sizes.in_channels}")
    partial = folder.with_name(f"{folder.name}.partial")
    remove(partial)
    partial.mkdir(parents=True)
    KINDS[kind].save(network, pixels, partial, **how.saved)
    said = dict(how.said)
    if sizes.num_classes == 1000:
        said["id2label"] = {str(place): label for place, label in enumerate(imagenet_classes()[1])}
    index = partial / "model_index.json"
    index.write_text(json.dumps({**json.loads(index.read_bytes()), **said}, indent=2), encoding="utf-8")
    (partial / "README.md").write_text(_card(kind, weights, license or how.license), encoding="utf-8")
    os.replace(partial, folder)


def _read(weights: Path, option: str) -> State:
    with refusing((OSError, SafetensorError), option, str(weights), "a safetensors file of weights is needed"):
        state = load_file(weights)
    if others := [name for name, tensor in state.items() if not tensor.is_floating_point()]:
        raise InputError(option, str(weights), f"{others[0]} is of {state[others[0]].dtype}, which is no precision")
    return state


def _filled(kind: type[torch.nn.Module], config: Mapping[str, Any], state: State, option: str, name: str) -> Any:
    """Build a network and give it weights as they are, of which each has to have its place, and each place its weights."""
    with torch.device("meta"):
        network = kind(**config)
    needed = network.state_dict()
    shared = needed.keys() & state.keys()
    missing, unexpected = needed.keys() - shared, state.keys() - shared
    mismatched = [(key, state[key].shape, needed[key].shape) for key in shared if state[key].shape != needed[key].shape]
    if not (missing or unexpected or mismatched):
        network.load_state_dict(state, assign=True)
    check_loaded(network, option, name, missing, unexpected, mismatched)
    return network


def _card(kind: str, weights: Path, license: str) -> str:
    facts = KINDS[kind].FACTS
    return (
        f"---\nlicense: {license}\n---\n\n"
        f"Weights of `{weights.name}`, converted to a `{KINDS[kind].PIPELINES[0]}` folder by distill-hub, "
        f"which loads it by `--generator`. The method is of {facts['paper']}.\n\n```bibtex\n{facts['bibtex']}\n```\n"
    )
