"""The files of a pipeline of transformer and VAE: fetched, checked, and built from known classes, whatever they name."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import AutoencoderKL, DiTTransformer2DModel, ModelMixin, SchedulerMixin
from huggingface_hub import snapshot_download

from distill_hub.config import InputError
from distill_hub.generators.base import Decoder
from distill_hub.generators.known import PHASES, TUNING, stated_license
from distill_hub.networks.configs import (
    Config,
    MarConfig,
    NoiseConfig,
    PipelineIndex,
    SingleVaeConfig,
    TransformerConfig,
    VaeConfig,
)
from distill_hub.networks.folders import building, check_loaded, check_weights, checked, read_json
from distill_hub.networks.names import GENERATOR, VAE

_STEM = "diffusion_pytorch_model"  # diffusers' name of weights
MODEL_FILES = ["config.json", f"{_STEM}.safetensors", f"{_STEM}-*.safetensors", f"{_STEM}.safetensors.index.json"]
_FILES = [
    *("model_index.json", "scheduler/scheduler_config.json", TUNING, PHASES, "README.md"),
    *(f"{part}/{file}" for part in ("transformer", "vae") for file in MODEL_FILES),
]


@dataclass(frozen=True)
class Loaded:
    """A pipeline and what its folder says of it."""

    transformer: Any
    vae: AutoencoderKL
    noise: Config  # its scheduler_config.json
    class_names: list[str]  # in the order of their ids; empty when they are not known
    timestep_features: str | None  # that it was trained with, where the folder says so
    folder: Path
    commit: str | None  # on the Hub
    decoder: Decoder | None  # in place of the pipeline's own


def load_pipeline(
    name: str,
    revision: str | None,
    dtype: torch.dtype,
    *,
    network: Any = DiTTransformer2DModel,
    index: type[PipelineIndex] = PipelineIndex,
    shape: type[TransformerConfig] | type[MarConfig] = TransformerConfig,
    noise: type[Config] = NoiseConfig,
    vae: str | None = None,
    vae_revision: str | None = None,
) -> Loaded:
    """Load a Hub repository or folder in the DiTPipeline layout; no code and no pickle of it is opened.

    Args:
        name: Hub id or folder.
        revision: Branch, tag or commit on the Hub.
        dtype: Precision of the transformer. The VAE stays in float32.
        network: Class of its transformer, of diffusers' kind.
        index: Record of its model_index.json.
        shape: Record of its transformer/config.json.
        noise: Record of its scheduler_config.json.
        vae: Hub id or folder of another VAE, for the decoding; None: the pipeline's own.
        vae_revision: Branch, tag or commit of that on the Hub.

    Raises:
        InputError: When a file is missing, truncated, or does not fit its config, or the configs do not fit together.
    """
    folder, commit = find_folder(name, revision, "generator", f"{GENERATOR} is needed", _FILES)

    def said(file: str, kind: type[Config]) -> Any:
        return checked(kind, read_json(folder / file, "generator", name), file, "generator", name)

    named = said("model_index.json", index)
    names = named.id2label or []
    sizes, pixels = said("transformer/config.json", shape), said("vae/config.json", VaeConfig)
    path = said("scheduler/scheduler_config.json", noise)
    if sizes.in_channels != pixels.latent_channels:
        valid = f"transformer/config.json has in_channels {sizes.in_channels}, vae/config.json has latent_channels"
        raise InputError("generator", name, f"{valid} {pixels.latent_channels}; they must be equal")
    if names and len(names) != sizes.num_classes:
        valid = f"model_index.json, id2label has {len(names)} names for the {sizes.num_classes} classes"
        said_by = shape.model_fields["num_classes"].alias or "num_classes"
        raise InputError("generator", name, f"{valid} of transformer/config.json, {said_by}")
    decoder = load_vae(vae, vae_revision, pixels) if vae else None
    generator = "generator", name, f"{GENERATOR} is needed"
    transformer = load_model(network, folder / "transformer", dtype, *generator)
    own = load_model(AutoencoderKL, folder / "vae", torch.float32, *generator)
    return Loaded(transformer, own, path, names, named.timestep_features, folder, commit, decoder)


def load_vae(name: str, revision: str | None = None, own: VaeConfig | None = None) -> Decoder:
    """Load a VAE from a Hub repository or folder of its own.

    Args:
        name: Hub id or folder.
        revision: Branch, tag or commit on the Hub.
        own: Configuration of the VAE that encodes what this one is to decode; None: it does both.

    Raises:
        InputError: When a file is missing, truncated, or does not fit its config, or the latents are not of the same kind.
    """
    field, valid = "vae", f"{VAE} is needed"
    folder, commit = find_folder(name, revision, field, valid, [*MODEL_FILES, "README.md"])
    config = checked(SingleVaeConfig, read_json(folder / "config.json", field, name), "config.json", field, name)
    encoder = own or config
    for what, here, there in (
        ("latent_channels", config.latent_channels, encoder.latent_channels),
        ("downscale factor", config.downscale, encoder.downscale),
        ("scaling_factor", config.scaling_factor, encoder.scaling_factor),
    ):
        if here != there:
            raise InputError(field, name, f"its {what} is {here}, that of the generator's own {there}; they must be equal")
    model = load_model(AutoencoderKL, folder, torch.float32, field, name, valid)
    return Decoder(name, model, commit, stated_license(folder, field))


def find_folder(name: str, revision: str | None, field: str, valid: str, files: list[str]) -> tuple[Path, str | None]:
    """Return the folder of a model, fetched where it is on the Hub, and its commit there.

    Args:
        name: Hub id or folder.
        revision: Branch, tag or commit on the Hub.
        field: Option to blame.
        valid: What is needed, for the message.
        files: Patterns of all that may be fetched.

    Raises:
        InputError: When it cannot be fetched.
    """
    if Path(name).exists():
        return Path(name), None
    with building(field, name, valid):
        folder = Path(snapshot_download(name, revision=revision, allow_patterns=files))
    return folder, folder.name  # .../snapshots/<commit>


def load_model(
    kind: Any, folder: Path, dtype: torch.dtype, field: str, name: str, valid: str, *, stem: str = _STEM
) -> torch.nn.Module:
    """Build a network of diffusers or transformers from config.json and safetensors weights.

    Args:
        kind: Its class.
        folder: Where it lies.
        dtype: Its precision.
        field: Option to blame.
        name: What the user called the model that it is a part of.
        valid: What is needed, for the message.
        stem: Name of its weights without suffix.

    Raises:
        InputError: When weights are missing, truncated, or not those of the configuration.
    """
    check_weights(folder, stem, field, name)
    with building(field, name, valid):
        # With the default, `low_cpu_mem_usage`, a configuration takes no memory beyond that of its weights.
        model, found = kind.from_pretrained(folder, use_safetensors=True, dtype=dtype, output_loading_info=True)
    check_loaded(model, field, name, found["missing_keys"], found["unexpected_keys"])
    return model


def save_pipeline(name: str, folder: Path, **parts: ModelMixin | SchedulerMixin) -> None:
    """Write a pipeline folder in diffusers' layout, of a pipeline that diffusers has no class of.

    Args:
        name: `_class_name` in its model_index.json.
        folder: Where to save.
        parts: Its networks and its scheduler, each in the folder of its name.
    """
    for part, module in parts.items():
        module.save_pretrained(folder / part)
    classes = {part: [type(module).__module__.split(".")[0], type(module).__name__] for part, module in parts.items()}
    said = {"_class_name": name, "_diffusers_version": diffusers.__version__, **classes}
    (folder / "model_index.json").write_text(json.dumps(said, indent=2), encoding="utf-8")
