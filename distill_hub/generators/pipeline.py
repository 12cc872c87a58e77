"""The files of a DiTPipeline: fetched, checked, and built from what is known here, whatever else they name."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDPMScheduler, DiTPipeline, DiTTransformer2DModel
from huggingface_hub import snapshot_download

from distill_hub.config import InputError
from distill_hub.generators.known import TUNING
from distill_hub.networks.configs import Config, NoiseConfig, PipelineIndex, TransformerConfig, VaeConfig
from distill_hub.networks.folders import building, check_loaded, check_weights, checked, read_json
from distill_hub.networks.names import GENERATOR

_STEM = "diffusion_pytorch_model"  # diffusers' name of weights
_FILES = [
    *("model_index.json", "scheduler/scheduler_config.json", TUNING, "README.md"),
    *(
        f"{part}/{file}"
        for part in ("transformer", "vae")
        for file in ("config.json", f"{_STEM}.safetensors", f"{_STEM}-*.safetensors", f"{_STEM}.safetensors.index.json")
    ),
]


@dataclass(frozen=True)
class Loaded:
    """A pipeline and what its folder says of it."""

    pipeline: DiTPipeline
    class_names: list[str]  # in the order of their ids; empty when they are not known
    folder: Path
    commit: str | None  # on the Hub


def load_pipeline(name: str, revision: str | None, dtype: torch.dtype) -> Loaded:
    """Load a Hub repository or folder in the DiTPipeline layout; no code and no pickle of it is opened.

    Args:
        name: Hub id or folder.
        revision: Branch, tag or commit on the Hub.
        dtype: Precision of the transformer. The VAE stays in float32.

    Raises:
        InputError: When a file is missing, truncated, or does not fit its config, or the configs do not fit together.
    """
    folder, commit = Path(name), None
    if not folder.exists():
        with building("generator", name, f"{GENERATOR} is needed"):
            folder = Path(snapshot_download(name, revision=revision, allow_patterns=_FILES))
        commit = folder.name  # .../snapshots/<commit>

    def said(file: str, kind: type[Config]) -> Any:
        return checked(kind, read_json(folder / file, "generator", name), file, "generator", name)

    index = said("model_index.json", PipelineIndex)
    shape, pixels = said("transformer/config.json", TransformerConfig), said("vae/config.json", VaeConfig)
    noise = said("scheduler/scheduler_config.json", NoiseConfig)
    if shape.in_channels != pixels.latent_channels:
        valid = f"transformer/config.json has in_channels {shape.in_channels}, vae/config.json has latent_channels"
        raise InputError("generator", name, f"{valid} {pixels.latent_channels}; they must be equal")
    names = index.id2label or []
    if names and len(names) != shape.num_embeds_ada_norm:
        valid = f"model_index.json, id2label has {len(names)} names for the {shape.num_embeds_ada_norm} classes"
        raise InputError("generator", name, f"{valid} of transformer/config.json, num_embeds_ada_norm")
    transformer = _load(DiTTransformer2DModel, folder / "transformer", name, dtype)
    vae = _load(AutoencoderKL, folder / "vae", name, torch.float32)
    return Loaded(DiTPipeline(transformer, vae, DDPMScheduler(**noise.model_dump())), names, folder, commit)


def _load(kind: Any, folder: Path, name: str, dtype: torch.dtype) -> torch.nn.Module:
    check_weights(folder, _STEM, "generator", name)
    with building("generator", name, f"{GENERATOR} is needed"):
        # With the default, `low_cpu_mem_usage`, a configuration takes no memory beyond that of its weights.
        model, found = kind.from_pretrained(folder, use_safetensors=True, dtype=dtype, output_loading_info=True)
    check_loaded(model, "generator", name, found["missing_keys"], found["unexpected_keys"])
    return model
