"""Classifiers of timm, by name and from folders in its layout. timm takes seconds to load: import this where it is needed.

What comes back is what `classifiers.Classifier` needs of a network; `class_names` is None where no names are known.
"""

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from huggingface_hub import snapshot_download
from torch import nn

from distill_hub.config import InputError, nearest
from distill_hub.data.classes import imagenet_classes
from distill_hub.networks.configs import TimmConfig
from distill_hub.networks.folders import building, check_extent, check_loaded, check_weights, checked
from distill_hub.networks.names import TEACHER

# Arguments of timm's functions that build a network, in place of the network's own: caches, other weights, scripting.
_FACTORY = {
    *(name for f in (timm.create_model, timm.models.build_model_with_cfg) for name in inspect.signature(f).parameters),
    *("pruned", "features_only", "out_indices", "feature_cls", "device", "dtype"),
}
# Where timm would look for weights; they lie in the folder.
_NOWHERE = dict.fromkeys(("url", "hf_hub_id", "hf_hub_filename", "state_dict", "label_offset")) | {
    "source": "",
    "custom_load": False,
}


def names() -> list[str]:
    """Return 'timm/NAME' of all networks and of all weights."""
    return [f"timm/{known}" for known in (*timm.list_models(), *timm.list_pretrained())]


def pretrained(name: str, revision: str | None = None, *, headless: bool = False) -> dict[str, Any] | None:
    """Return 'timm/NAME' with timm's own weights, at a commit of their repository; None where it has none of that name.

    A `headless` one maps to features: its last layer is left out, if it has one, and so its classes.
    """
    architecture = name.removeprefix("timm/")
    if not timm.is_model_pretrained(architecture):
        return None
    place, commit = timm.get_pretrained_cfg(architecture).hf_hub_id, None
    with building("teacher", name, TEACHER):
        if place:  # of the few that lie elsewhere, the hash of the weights alone tells which they are
            commit = Path(snapshot_download(place, revision=revision, allow_patterns=["config.json"])).name
        pinned = {"hf_hub_id": f"{place}@{commit}", "url": ""} if place else {}  # nor from a cache of before the Hub
        left_out = {"num_classes": 0} if headless else {}
        model = timm.create_model(architecture, pretrained=True, pretrained_cfg_overlay=pinned, **left_out)
    return {**_described(name, model, [] if headless else None), "revision": commit}


def from_folder(name: str, folder: Path, content: dict) -> dict[str, Any]:
    """Return a network in timm's layout; of the configuration no file or address is followed."""
    config = checked(TimmConfig, content, "config.json", "teacher", name)
    if not timm.is_model(config.architecture):
        near = nearest(config.architecture, timm.list_models())
        valid = f"neither timm nor a package that is installed here has it{near}"
        raise InputError("teacher", name, f"config.json, architecture {config.architecture!r:.80}: {valid}")
    if unsafe := sorted(_FACTORY & config.model_args.keys()):
        raise InputError("teacher", name, f"config.json, model_args.{unsafe[0]}: it is no argument of the network itself")
    check_weights(folder, "model", "teacher", name)
    weights = folder / "model.safetensors"
    data = config.pretrained_cfg.model_dump(exclude_none=True, exclude={"label_names"})
    fixed: dict[str, Any] = {"num_classes": config.classes} if config.classes else {}
    arguments = {**config.model_args, **fixed}
    if config.pretrained_cfg.input_size:
        arguments["in_chans"] = config.pretrained_cfg.input_size[0]
    cfg = {**_NOWHERE, **data, **fixed, "file": str(weights)}
    with building("teacher", name, TEACHER):
        with torch.device("meta"):
            outline = timm.create_model(config.architecture, pretrained_cfg_overlay=cfg, **arguments)
        check_extent(outline, folder)
        model = timm.create_model(config.architecture, pretrained=True, pretrained_cfg_overlay=cfg, **arguments)
    return _described(name, model, config.names)


def _described(name: str, model: nn.Module, names: Sequence[str] | None) -> dict[str, Any]:
    data = timm.data.resolve_model_data_config(model)
    check_loaded(model, "teacher", name)
    names = model.pretrained_cfg.get("label_names") if names is None else names
    if names is None and timm.data.infer_imagenet_subset(model) == "imagenet-1k":
        names = imagenet_classes()[0]
    return {"model": model, "architecture": model.pretrained_cfg["architecture"], "class_names": names,
            "image_size": data["input_size"][-1], "mean": data["mean"], "std": data["std"],
            "grey": data["input_size"][0] == 1, "license": model.pretrained_cfg.get("license")}  # fmt: skip
