"""Teachers and selectors by name: timm, transformers, and the networks that are trained here.

A classifier folder holds `config.json` and `model.safetensors`, in timm's layout; transformers' own layout is read, too.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
from huggingface_hub import hf_hub_download
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import nn

from distill_hub.config import InputError, nearest
from distill_hub.data.augment import normalize
from distill_hub.data.classes import SourceClass, imagenet_classes, match_classes
from distill_hub.networks.build import build
from distill_hub.networks.names import TEACHER, is_own
from distill_hub.running.files import atomic_write

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
_OF_THE_NETWORK = ("fixed_input_size", "first_conv", "classifier")
IMAGENET_TEACHER = "timm/resnet18.tv_in1k"  # torchvision's IMAGENET1K_V1 weights, the selector of CaO2


def find_head(model: nn.Module, num_classes: int, name: str, *, field: str = "teacher") -> nn.Linear:
    """Return the last linear layer with one output per class: its input is the embedding, whatever the architecture.

    Raises:
        InputError: When the network has none; it blames the option `field`.
    """
    heads = [m for m in model.modules() if isinstance(m, nn.Linear) and m.out_features == num_classes]
    if not heads:
        raise InputError(field, name, f"a network that ends in a linear layer with {num_classes} outputs is needed")
    return heads[-1]


def unit_batches(images: torch.Tensor, batch_size: int, device: torch.device) -> Iterator[torch.Tensor]:
    """Yield uint8 images (N, 3, H, W) a batch at a time, on a device and as floats in [0, 1]."""
    return (batch.to(device).float() / 255 for batch in images.split(batch_size))


class Classifier:
    """A trained, frozen classifier for the classes of one source. Resizing and normalisation happen inside.

    Args:
        model: Network from normalised images to logits.
        id: What the manifest calls it.
        architecture: Name of the network.
        classes: The source's classes; logits come in their order.
        class_names: The network's own classes, in its order. Classes are matched by name or wnid. A network that knows more
            classes than the source is restricted to the source's: logits are cut out first, the softmax runs over those.
        image_size: Side of the network's input.
        mean: Of the normalisation, per channel.
        std: Of the normalisation, per channel.
        device: Where to run.
        revision: Commit on the Hub.
        license: Licence of the weights.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        id: str,
        architecture: str,
        classes: Sequence[SourceClass],
        class_names: Sequence[str],
        image_size: int,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        device: torch.device | str = "cpu",
        revision: str | None = None,
        license: str | None = None,
    ):
        self.columns = match_classes(classes, class_names, "teacher", id)
        self.model = model.to(device).eval().requires_grad_(False)
        self.id, self.architecture, self.revision, self.license = id, architecture, revision, license
        self.image_size, self.mean, self.std, self.device = image_size, mean, std, torch.device(device)
        head = find_head(model, len(class_names), id)
        head.register_forward_pre_hook(lambda _, inputs: setattr(self, "_embedding", inputs[0]))

    def __call__(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Map images (B, 3, H, W) in [0, 1] to logits (B, C) of the source's classes and embeddings (B, D), in one pass."""
        if images.shape[-1] != self.image_size:
            images = F.interpolate(images, (self.image_size,) * 2, mode="bilinear", antialias=True, align_corners=False)
        output = self.model(normalize(images, self.mean, self.std))
        logits = output if isinstance(output, torch.Tensor) else output.logits  # transformers wraps them
        return logits[:, self.columns], self._embedding.flatten(1)

    def logits(self, images: torch.Tensor) -> torch.Tensor:
        """Map images (B, 3, H, W) in [0, 1] to logits (B, C) of the source's classes."""
        return self(images)[0]

    def embed(self, images: torch.Tensor) -> torch.Tensor:
        """Map images (B, 3, H, W) in [0, 1] to the features (B, D) the last layer sees."""
        return self(images)[1]

    @torch.inference_mode()
    def judge(self, images: torch.Tensor, batch_size: int = 256) -> torch.Tensor:
        """Return the logits, float32 (N, C) on the CPU, of uint8 images (N, 3, S, S)."""
        return torch.cat([self.logits(batch).float().cpu() for batch in unit_batches(images, batch_size, self.device)])

    @torch.inference_mode()
    def predict(self, images: torch.Tensor, batch_size: int = 256) -> torch.Tensor:
        """Return the class, in the source's order, of each of the uint8 images (N, 3, S, S), as int64 (N,) on the CPU."""
        batches = unit_batches(images, batch_size, self.device)
        return torch.cat([self.logits(batch).argmax(1).cpu() for batch in batches])

    @torch.inference_mode()
    def soft_labels(self, images: torch.Tensor, batch_size: int = 256) -> torch.Tensor:
        """Return the probabilities at temperature 1, float32 (N, C) on the CPU, of uint8 images (N, 3, S, S)."""
        batches = unit_batches(images, batch_size, self.device)
        return torch.cat([self.logits(batch).double().softmax(1).float().cpu() for batch in batches])

    @torch.inference_mode()
    def embeddings(self, images: torch.Tensor, batch_size: int = 256) -> torch.Tensor:
        """Return the features that the last layer sees, float32 (N, D) on the CPU, of uint8 images (N, 3, S, S)."""
        return torch.cat([self.embed(batch).cpu() for batch in unit_batches(images, batch_size, self.device)])


def save_network(
    model: nn.Module,
    folder: Path,
    name: str,
    class_names: Sequence[str],
    image_size: int,
    *,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
    record: Mapping[str, Any] | None = None,
) -> None:
    """Save a trained network as `model.safetensors` and then `config.json`, in timm's layout.

    Args:
        model: The network; one of timm's is also what `timm.create_model("local-dir:FOLDER", pretrained=True)` returns.
        folder: Where to.
        name: See `networks.build`.
        class_names: Class of each logit.
        image_size: Side of its input, in pixels.
        mean: Of the normalisation, per channel.
        std: Of the normalisation, per channel.
        record: How it was trained, for people: `distill_hub` in the configuration.
    """
    # What timm needs to build its own network anew: whether its size is fixed, and which layers depend on the input's
    # channels and on the classes.
    own = {key: value for key, value in getattr(model, "pretrained_cfg", {}).items() if key in _OF_THE_NETWORK}
    data = {
        "input_size": [3, image_size, image_size],
        "mean": mean,
        "std": std,
        "interpolation": "bilinear",
        "crop_pct": 1.0,
    }
    config = {
        "architecture": name.removeprefix("timm/"),
        "num_classes": len(class_names),
        "label_names": list(class_names),
        "pretrained_cfg": {**own, **data},
        **({"distill_hub": record} if record else {}),
    }
    atomic_write(folder / "model.safetensors", save({k: v.contiguous() for k, v in model.state_dict().items()}))
    atomic_write(folder / "config.json", json.dumps(config, indent=2).encode())


def load_classifier(
    name: str, classes: Sequence[SourceClass], *, revision: str | None = None, device: torch.device | str = "cpu"
) -> Classifier:
    """Load a trained classifier.

    Args:
        name: 'timm/NAME' (a timm model with pretrained weights, e.g. timm/resnet18.tv_in1k), the Hub id of a transformers
            image classifier, or a folder in timm's or transformers' layout.
        classes: The source's classes, matched by name or wnid with the network's own.
        revision: Branch, tag or commit on the Hub.
        device: Where to run.

    Raises:
        InputError: When it cannot be loaded, or does not know a class.
    """
    config_file = Path(name) / "config.json"
    common = {"id": name, "classes": classes, "device": device, "revision": revision}
    try:
        config = json.loads(config_file.read_bytes()) if Path(name).is_dir() else {}
        if not isinstance(config, dict) or not isinstance(config.get("architecture", ""), str):
            raise ValueError(f"{config_file} describes no network")
        if is_own(config.get("architecture", "")):
            return _load_own(Path(name), config, common)
        if name.startswith("timm/") or "architecture" in config:
            return _load_timm(name, config, common)
        return _load_transformers(name, common)
    except InputError:
        raise
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0]
        near = nearest(name, [f"timm/{known}" for known in (*timm.list_models(), *timm.list_pretrained())])
        valid = f"{TEACHER} ({reason}){near}"
        raise InputError("teacher", name, valid) from error


def _load_own(folder: Path, config: dict, common: dict) -> Classifier:
    size = config["pretrained_cfg"]["input_size"][-1]
    model = build(config["architecture"], config["num_classes"], size)
    model.load_state_dict(load_file(folder / "model.safetensors"))
    cfg = config["pretrained_cfg"]
    return Classifier(model, architecture=config["architecture"], class_names=config["label_names"], image_size=size,
                      mean=cfg["mean"], std=cfg["std"], **common)  # fmt: skip


def _load_timm(name: str, config: dict, common: dict) -> Classifier:
    if config:
        if not (Path(name) / "model.safetensors").is_file():
            raise FileNotFoundError("there is no model.safetensors")  # timm would unpickle pytorch_model.bin
        source = f"local-dir:{name}"
    elif timm.is_model_pretrained(name.removeprefix("timm/")) and common["revision"] is None:
        source = name.removeprefix("timm/")  # timm knows where its own weights lie
    else:
        # Without this file timm would unpickle pytorch_model.bin.
        hf_hub_download(name, "model.safetensors", revision=common["revision"])
        source = f"hf-hub:{name}" + (f"@{common['revision']}" if common["revision"] else "")
    model = timm.create_model(source, pretrained=True)
    data = timm.data.resolve_model_data_config(model)
    names = config.get("label_names") or model.pretrained_cfg.get("label_names")
    if names is None:
        subset = timm.data.infer_imagenet_subset(model)
        if subset != "imagenet-1k":
            raise InputError(
                "teacher", name, "its class names are not known; a folder or repository with label_names is needed"
            )
        names = imagenet_classes()[0]
    return Classifier(model, architecture=model.pretrained_cfg["architecture"], class_names=names,
                      image_size=data["input_size"][-1], mean=data["mean"], std=data["std"],
                      license=model.pretrained_cfg.get("license"), **common)  # fmt: skip


def _load_transformers(name: str, common: dict) -> Classifier:
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    model = AutoModelForImageClassification.from_pretrained(
        name, revision=common["revision"], use_safetensors=True, dtype=torch.float32
    )  # weights stored in half precision would refuse our images
    processor = AutoImageProcessor.from_pretrained(name, revision=common["revision"])
    names = [model.config.id2label[i] for i in range(model.config.num_labels)]
    size = processor.crop_size if getattr(processor, "do_center_crop", False) else processor.size
    side = size.get("height") or size["shortest_edge"]
    return Classifier(model, architecture=model.config.model_type, class_names=names, image_size=side,
                      mean=processor.image_mean, std=processor.image_std, **common)  # fmt: skip
