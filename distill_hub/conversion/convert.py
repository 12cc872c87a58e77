"""Published weights under their authors' names, saved as a pipeline folder that generators are loaded from."""

import json
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from diffusers import DiTTransformer2DModel
from safetensors import SafetensorError
from safetensors.torch import load_file

from distill_hub.config import InputError, refusing
from distill_hub.conversion import transformer
from distill_hub.data.classes import imagenet_classes
from distill_hub.generators.kinds import KINDS
from distill_hub.generators.known import DIT_LICENSE
from distill_hub.generators.pipeline import load_vae
from distill_hub.networks.configs import TransformerConfig
from distill_hub.networks.folders import check_loaded, checked
from distill_hub.running.files import remove

LICENSES = {"dit": DIT_LICENSE, "sit": "mit"}  # of what their authors published


def convert(kind: str, weights: Path, vae: str, folder: Path, *, vae_revision: str | None, license: str | None) -> None:
    """Save weights and a VAE as a pipeline folder, in the precision that they have; nothing is unpickled.

    Weights of 1,000 classes get ImageNet-1K's names; for others a source's classes are matched by their order alone.

    Args:
        kind: Key of `LICENSES`.
        weights: A safetensors file of the network.
        vae: Hub id or folder of the AutoencoderKL that it was trained with.
        folder: Where to save; it appears when all is written.
        vae_revision: Branch, tag or commit of the VAE on the Hub.
        license: Of the weights; None: as in `LICENSES`.

    Raises:
        InputError: When the weights are not of that kind, or do not fit together or with the VAE.
    """
    state = _read(weights)
    network = _network(state, str(weights))
    pixels = load_vae(vae, vae_revision).module
    if pixels.config.latent_channels != network.config.in_channels:
        have = f"it has {pixels.config.latent_channels} latent channels"
        raise InputError("vae", vae, f"{have}, the weights are for {network.config.in_channels}")
    partial = folder.with_name(f"{folder.name}.partial")
    remove(partial)
    partial.mkdir(parents=True)
    KINDS[kind].save(network, pixels, partial)
    said = {"timestep_features": "dit"} if kind == "dit" else {}
    if network.config.num_embeds_ada_norm == 1000:
        said["id2label"] = {str(place): name for place, name in enumerate(imagenet_classes()[1])}
    index = partial / "model_index.json"
    index.write_text(json.dumps({**json.loads(index.read_bytes()), **said}, indent=2), encoding="utf-8")
    (partial / "README.md").write_text(_card(kind, weights, license or LICENSES[kind]), encoding="utf-8")
    os.replace(partial, folder)


def _read(weights: Path) -> dict[str, torch.Tensor]:
    with refusing((OSError, SafetensorError), "weights", str(weights), "a safetensors file of weights is needed"):
        state = load_file(weights)
    if others := [name for name, tensor in state.items() if not tensor.is_floating_point()]:
        raise InputError("weights", str(weights), f"{others[0]} is of {state[others[0]].dtype}, which is no precision")
    return state


def _network(state: Mapping[str, torch.Tensor], name: str) -> DiTTransformer2DModel:
    """Build the network that weights are of, and give them to it as they are."""
    sizes = transformer.sizes(state, name)
    checked(TransformerConfig, sizes, "its shapes", "weights", name)
    transformer.check_positions(state[transformer.POSITIONS], name)
    with torch.device("meta"):
        network = DiTTransformer2DModel(**sizes)
    found, needed = transformer.renamed(state), network.state_dict()
    shared = needed.keys() & found.keys()
    mismatched = [(key, found[key].shape, needed[key].shape) for key in shared if found[key].shape != needed[key].shape]
    missing, unexpected = needed.keys() - shared, found.keys() - shared
    if not (missing or unexpected or mismatched):
        network.load_state_dict(found, assign=True)
    check_loaded(network, "weights", name, missing, unexpected, mismatched)
    return network


def _card(kind: str, weights: Path, license: str) -> str:
    facts = KINDS[kind].FACTS
    return (
        f"---\nlicense: {license}\n---\n\n"
        f"Weights of `{weights.name}`, converted to a `{KINDS[kind].PIPELINES[0]}` folder by distill-hub, "
        f"which loads it by `--generator`. The method is of {facts['paper']}.\n\n```bibtex\n{facts['bibtex']}\n```\n"
    )
