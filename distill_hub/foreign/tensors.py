"""The formats of foreign sets that hold tensors: .pt, .pth, .safetensors, .npz, and pairs of .pt or .npy files.

Nothing here unpickles more than tensors. Normalised images are turned back into pixels only by the numbers a user gives.
"""

import struct
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from tokenize import TokenError
from typing import Any

import numpy as np
import PIL.Image
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from distill_hub.config import InputError
from distill_hub.data.images import square
from distill_hub.foreign.encoded import (
    SOFT_LABELS,
    ZIP_ERRORS,
    ForeignSet,
    check_labels,
    probabilities,
    reading,
    room,
)
from distill_hub.foreign.layout import few, refusal

_KEYS = {
    "images": ("images", "image", "data", "x"),
    "labels": ("labels", "label", "targets", "y"),
    "soft_labels": SOFT_LABELS,
}
# What each reader raises for a damaged file, or for one made to confuse it: found by damaging files.
_NUMPY = (*ZIP_ERRORS, RuntimeError, TypeError, KeyError, SyntaxError, TokenError, OverflowError, MemoryError)
_SAFETENSORS = (SafetensorError, OSError, ValueError, KeyError)
_TORCH = (UnpicklingError, RuntimeError, EOFError, OSError, ValueError, TypeError, LookupError, AttributeError)
_TORCH_LEGACY = (AssertionError, struct.error)
_BLOCK = 64  # images that are converted at a time
_TOLERANCE = 1e-3  # of values that should lie in [0, 1]
_HALF_STEP = 0.5 / 255  # a value beyond [0, 1] by less is the rounding of a pixel

Normalisation = tuple[np.ndarray, np.ndarray]  # mean and standard deviation, (1, 1, 1) or (3, 1, 1)


def parse_normalisation(mean: str | None, std: str | None) -> Normalisation | None:
    """Read the options mean and std: one number or three each.

    Raises:
        InputError: For one without the other, and for numbers that no images in [0, 1] have.
    """
    if mean is None and std is None:
        return None
    values = []
    for option, text in (("mean", mean), ("std", std)):
        try:
            numbers = np.array([float(part) for part in (text or "").split(",")])
        except ValueError:
            numbers = np.empty(0)
        in_range = (numbers <= 1) & ((numbers > 0) if option == "std" else (numbers >= 0))
        if len(numbers) not in (1, 3) or not in_range.all():
            needed = f"one number or three, comma separated, in {'(0, 1]' if option == 'std' else '[0, 1]'}"
            raise InputError(option, text, f"valid, with --mean and --std together: {needed}")
        values.append(numbers.reshape(-1, 1, 1))
    return values[0], values[1]


def load_tensors(location: str, files: Mapping[str, Path]) -> dict[str, np.ndarray]:
    """Load one tensor from each of the files, by what they are for."""
    return {key: _array(location, key, _load(location, file)) for key, file in files.items()}


def load_file_of_tensors(location: str) -> dict[str, np.ndarray]:
    """Load images, labels and, if there are, soft labels from one file, or from images* and the files beside it.

    Raises:
        InputError: For a file of another format, or one that cannot be read without executing what it holds.
    """
    path = Path(location)
    content = _load(location, path)
    if isinstance(content, torch.Tensor | np.ndarray):
        return {"images": _array(location, "images", content), **load_tensors(location, _beside(location, path))}
    if isinstance(content, Mapping) and isinstance(content.get("data"), list):  # Dataset Condensation: one pair per run
        if len(content["data"]) != 1:
            raise refusal(location, f"it holds {len(content['data'])} sets; save the pair of images and labels you mean")
        content = content["data"][0]
    if isinstance(content, list | tuple) and len(content) in (2, 3):
        content = dict(zip(_KEYS, content, strict=False))
    if not isinstance(content, Mapping):
        raise refusal(location, f"it holds a {type(content).__name__}; two or three tensors or a dict of them is needed")
    found = {key: [name for name in names if name in content] for key, names in _KEYS.items()}
    if not (len(found["images"]) == len(found["labels"]) == 1 and len(found["soft_labels"]) <= 1):
        raise refusal(location, f"one of {', '.join(_KEYS['images'])} and one of {', '.join(_KEYS['labels'])} is needed; "
                      f"it holds {few(map(str, content))}")  # fmt: skip
    return {key: _array(location, key, content[names[0]]) for key, names in found.items() if names}


def _beside(location: str, images: Path) -> dict[str, Path]:
    """Return labels_best.pt for images_best.pt, and soft_labels_best.pt if there is one."""
    rest = images.name.removeprefix("images")
    files = {key: images.with_name(key + rest) for key in ("labels", "soft_labels")}
    if rest == images.name or not files["labels"].is_file():
        raise refusal(location, "it holds one tensor: call it images*, with its labels* of the same ending beside it")
    return {key: file for key, file in files.items() if file.is_file()}


def _load(location: str, file: Path) -> Any:
    kind = file.suffix.lower()
    if kind in (".pt", ".pth"):
        try:
            return torch.load(file, map_location="cpu", weights_only=True)
        except (*_TORCH, *_TORCH_LEGACY) as error:  # its text advises to load the file without the safeguard
            raise refusal(location, f"{file.name} is damaged, or holds more than tensors, which would have to be executed; "
                          "ask its author for tensors, safetensors or parquet") from error  # fmt: skip
    if kind == ".safetensors":
        with reading(location, file.name, _SAFETENSORS):
            return load_file(file)
    with reading(location, file.name, _NUMPY):
        content = np.load(file, mmap_mode="r", allow_pickle=False)
        return dict(content) if isinstance(content, np.lib.npyio.NpzFile) else content


def _array(location: str, key: str, value: Any) -> np.ndarray:
    with reading(location, key, (RuntimeError, TypeError)):  # sparse, quantised or without data
        if isinstance(value, torch.Tensor):
            plain = (torch.float16, torch.float32, torch.float64)
            widened = value.float() if value.is_floating_point() and value.dtype not in plain else value  # bfloat16
            value = widened.numpy(force=True)
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "iuf":
        raise refusal(location, f"{key} must be a tensor of numbers; it is {getattr(value, 'dtype', type(value).__name__)}")
    return value


def from_tensors(
    location: str, content: Mapping[str, np.ndarray], image_size: int | None, normalisation: Normalisation | None
) -> ForeignSet:
    """Read tensors images, labels and, if there are, soft_labels. See `read_foreign` for the options.

    Args:
        location: The set.
        content: images (N, 3, H, W), (N, H, W, 3), (N, 1, H, W) or (N, H, W), labels (N,) or as probabilities or logits
            (N, C), soft_labels (N, C).
        image_size: Side in pixels; default: theirs, when square.
        normalisation: What the images went through.
    """
    images, labels, soft = content["images"], content["labels"], content.get("soft_labels")
    notes: dict[str, Any] = {"format": "tensors"}
    what = "tensor 'soft_labels'"
    if labels.ndim == 2 and labels.dtype.kind == "f" and labels.shape[1] > 0:
        if soft is not None:
            raise refusal(location, "its labels are soft labels already, so that it has two kinds of them")
        what, soft, labels = "tensor 'labels'", labels, labels.argmax(1)
        notes["labels"] = "argmax of the soft labels"
    if labels.ndim != 1 or labels.dtype.kind == "f":
        raise refusal(location, f"labels must be integers (N,) or floats (N, C); they are {labels.dtype} of {labels.shape}")
    labels = labels.astype(np.int64)
    check_labels(location, labels, len(images) if images.ndim else 0, None)
    soft_labels = None
    if soft is not None:
        soft_labels, notes["soft_labels"] = probabilities(location, soft, labels, what)
    pixels, done = _pixels(location, _channels_first(location, images), image_size, normalisation)
    return ForeignSet(location, pixels, labels, None, soft_labels, {**notes, **done})


def _channels_first(location: str, images: np.ndarray) -> np.ndarray:
    """Return a view (N, C, H, W) with 1 or 3 channels."""
    if images.ndim == 3:
        images = images[:, None]
    elif images.ndim == 4 and images.shape[1] not in (1, 3):
        images = images.transpose(0, 3, 1, 2)
    if images.ndim != 4 or images.shape[1] not in (1, 3) or 0 in images.shape:
        raise refusal(location, f"images must be (N, 3, H, W), (N, H, W, 3), (N, 1, H, W) or (N, H, W), not {images.shape}")
    return images


def _pixels(
    location: str, images: np.ndarray, image_size: int | None, normalisation: Normalisation | None
) -> tuple[torch.Tensor, dict[str, Any]]:
    """Return numbers (N, C, H, W) as uint8 (N, 3, S, S), and what was done."""
    count, _, height, width = images.shape
    if image_size is None and height != width:
        raise InputError("image_size", None, f"its images are {width} x {height} px; pass --image_size")
    result = room(location, count, image_size or height)
    pixels = result.numpy()  # the same memory
    mean, std = _scale(location, images, normalisation)
    clipped = 0
    for start in range(0, count, _BLOCK):
        block = images[start : start + _BLOCK]
        if images.dtype != np.uint8:
            values = block.astype(np.float64) * std + mean
            clipped += np.count_nonzero(np.abs(values - 0.5) > 0.5 + _HALF_STEP)
            block = np.rint(values.clip(0, 1) * 255).astype(np.uint8)
        if block.shape[2:] == result.shape[2:]:
            pixels[start : start + _BLOCK] = block  # a grey channel becomes all three
        else:
            for row, image in enumerate(np.broadcast_to(block, (len(block), 3, height, width)), start):
                scaled = square(PIL.Image.fromarray(image.transpose(1, 2, 0).copy()), result.shape[2])
                pixels[row] = scaled.transpose(2, 0, 1)
    notes: dict[str, Any] = {}
    if normalisation is not None:
        notes["normalisation"] = {"mean": mean.ravel().tolist(), "std": std.ravel().tolist()}
        notes["clipped_values"] = clipped / images.size
    if (height, width) != result.shape[2:]:
        notes["scaled_images"] = count
    return result, notes


def _scale(
    location: str, images: np.ndarray, normalisation: Normalisation | None
) -> tuple[np.ndarray | float, np.ndarray | float]:
    """Return mean and standard deviation with which value * std + mean lies in [0, 1]."""
    low, high = float(images.min()), float(images.max())
    if not np.isfinite([low, high]).all():
        raise refusal(location, "its images hold values that are not finite")
    std = None
    if images.dtype.kind == "f" and low >= -_TOLERANCE and high <= 1 + _TOLERANCE:
        std = 1.0
    elif low >= 0 and high <= 255 and _are_whole(images):
        std = 1 / 255
    values = f"its values lie in [{low:.4g}, {high:.4g}]"
    if normalisation is None:
        if std is None:
            advice = "pass --mean and --std of the normalisation (a ZCA-whitened set cannot be undone)"
            raise InputError("mean", None, f"{values}, not in [0, 1]: {advice}")
        return 0.0, std
    mean = normalisation[0].ravel().tolist()
    if std is not None:
        raise InputError("mean", mean, f"{values}: they are pixels, with no normalisation to undo")
    if any(len(numbers) not in (1, images.shape[1]) for numbers in normalisation):
        raise InputError("mean", mean, f"its images have {images.shape[1]} channel, so --mean and --std need one number")
    return normalisation


def _are_whole(images: np.ndarray) -> bool:
    blocks = (images[start : start + _BLOCK] for start in range(0, len(images), _BLOCK))
    return images.dtype.kind != "f" or all((block == np.rint(block)).all() for block in blocks)
