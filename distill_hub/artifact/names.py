"""What records and cards call sources, models and sets."""

from pathlib import PurePath
from typing import get_args

from distill_hub.artifact.manifest import Manifest, MethodRecord, ModelRecord
from distill_hub.artifact.source import SourceRecord
from distill_hub.coresets.names import CORESETS as CORESETS
from distill_hub.coresets.names import CoresetMethod
from distill_hub.data.known import FITTED
from distill_hub.disk.files import slug
from distill_hub.kinds import is_path, local_name

REAL_IMAGES = ("random", *CORESETS, "rded")  # methods whose sets hold real images, or crops of them, as they are
# Of methods that are not called as their recipes are.
RECIPES = {
    "random": "random_real",
    "dit": "plain",
    "sit": "plain",
    "mar": "plain",
    "text": "plain",
    "difffit": "minimax",
    "cda": "sre2l",
    "dsa": "dc",
    "dream": "idc",
    "tesla": "mtt",
    "datm": "mtt",
    **dict.fromkeys(get_args(CoresetMethod), "coreset"),
}

# What people call the sources that are known by name.
TITLES = {
    "cifar10": "CIFAR-10",
    "cifar100": "CIFAR-100",
    "svhn": "SVHN",
    "mnist": "MNIST",
    "fashion-mnist": "Fashion-MNIST",
    "tiny-imagenet": "Tiny ImageNet",
    "imagenette": "Imagenette",
    "imagewoof": "Imagewoof",
    "imageidc": "ImageIDC",
    "imagenet100": "ImageNet-100",
    "imagenet1k": "ImageNet-1K",
}
LONGEST_TITLE = 32  # characters of a method's title within another one


def public_name(name: str) -> str:
    """Return what records call a source or a model: one on this machine by its folder's name, not by its place."""
    prefix = FITTED if name.startswith(FITTED) else ""
    return prefix + local_name(name.removeprefix(FITTED))


def source_name(source: SourceRecord) -> str:
    """Return what a card calls a source: not the author's path to it."""
    return source.name if source.hub_id else slug(source.name)


def source_title(source: SourceRecord) -> str:
    """Return what a heading calls a source."""
    return TITLES.get(source.name) or source_name(source)


def method_title(method: MethodRecord) -> str:
    """Return what a heading calls a method: of 'DM: Dataset Condensation with Distribution Matching' the first word."""
    short = method.title.partition(":")[0].strip()
    return short if 0 < len(short) <= LONGEST_TITLE else method.name


def set_title(manifest: Manifest) -> str:
    """Return what a heading calls a set, in words: its source, images per class and method."""
    images = "image" if manifest.ipc_text == "1" else "images"
    return f"{source_title(manifest.source)} in {manifest.ipc_text} {images} per class, by {method_title(manifest.method)}"


def is_synthetic(method: MethodRecord) -> bool | None:
    """Whether images of a method are synthetic, not real ones or crops of them; None: the method is not known."""
    return None if method.name == "unknown" else method.name not in REAL_IMAGES


def model_name(model: ModelRecord) -> str:
    """Return what a card calls a model: its id, not the author's path to it, which older records have."""
    if model.members:
        return f"{len(model.members)} networks: {', '.join(dict.fromkeys(map(model_name, model.members)))}"
    if model.revision or model.tuning:  # an id on the Hub, or one that `generator_record` wrote
        return model.id
    prefix = FITTED if model.id.startswith(FITTED) else ""
    name = model.id.removeprefix(prefix)
    return prefix + (PurePath(name).name if is_path(name) else name)


def set_name(source: str, ipc: int, method: str) -> str:
    """Return the name of a set, used for its folder and its repository: <source>-ipc<IPC>-<method>."""
    return f"{slug(source)}-ipc{ipc}-{method}"
