"""Foreign sets of tensors: which of them are images and labels, and what their numbers mean.

Normalised images are turned back into pixels only by the numbers a user gives.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch

from distill_hub.config import InputError
from distill_hub.data.images import square
from distill_hub.foreign.contents import MAX_BYTES, ForeignSet, check_labels, numbered, room
from distill_hub.foreign.labels import LabelKind, check_decided, hard_labels, probabilities
from distill_hub.foreign.layout import refusal
from distill_hub.foreign.tensor_files import load, plain, plainly
from distill_hub.text import few

# In small letters; those that the field's programs save.
_KEYS = {
    "images": """
        images image imgs img data x inputs samples pixel_values syn syn_data images_train images_syn image_syn
        syn_images syn_image train_images x_train x_syn x_proto
    """.split(),
    "labels": """
        labels label lab targets target classes y syn_targets labels_train labels_syn label_syn syn_labels syn_label
        train_labels y_train y_syn y_proto
    """.split(),
    "soft_labels": """
        soft_labels soft_label labels_soft label_soft soft_y y_soft soft_targets logits teacher_logits probs
        probabilities
    """.split(),
}
_UNNAMED = ("arr_0", "arr_1", "arr_2")  # what `numpy.savez` calls arrays that it is given without names
_BLOCK = 64  # images that are converted at a time
_TOLERANCE = 1e-3  # of values that should lie in [0, 1]
_HALF_STEP = 0.5 / 255  # a value beyond [0, 1] by less is the rounding of a pixel
MAX_CLIPPED = 0.01

Content = dict[str, np.ndarray]
Normalisation = tuple[np.ndarray, np.ndarray]  # mean and standard deviation, (1, 1, 1) or (3, 1, 1)


def parse_normalisation(mean: str | None, std: str | None, pixel_range: float | None = None) -> Normalisation | None:
    """Read the options mean and std, one number or three each, or pixel_range, which stands for 0 and its inverse.

    Raises:
        InputError: For one without the other, for both ways at once, and for numbers that no images in [0, 1] have.
    """
    if pixel_range is not None:
        if mean is not None or std is not None:
            raise InputError("pixel_range", pixel_range, "pass either it or --mean and --std")
        if not 0 < pixel_range < np.inf:
            raise InputError("pixel_range", pixel_range, "a number above 0 is needed, e.g. 255")
        return np.zeros((1, 1, 1)), np.full((1, 1, 1), 1 / pixel_range)
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


def load_tensors(location: str, files: Mapping[str, Path], index: int | None) -> Content:
    """Load images, labels and, if there are, soft labels from one file each."""
    content = {key: plainly(load(location, file)) for key, file in files.items()}
    return _arrays(location, _chosen(location, content, index))


def load_file_of_tensors(location: str, index: int | None) -> tuple[Content, list[str] | None]:
    """Load images, labels and, if there are, soft labels from one file, or from images* and the files beside it.

    Args:
        location: The file.
        index: Which of several sets that it holds, from 0.

    Returns:
        The tensors, and names of label value 0, 1, ... where they are on record.

    Raises:
        InputError: For a file of another format, one that cannot be read without executing what it holds, or one of several
            sets of which none is chosen.
    """
    path = Path(location)
    content = plainly(load(location, path))
    if isinstance(content, torch.Tensor | np.ndarray):
        _refuse_index(location, index)
        beside = {key: plainly(load(location, file)) for key, file in _beside(location, path).items()}
        return _arrays(location, {"images": content, **beside}), None
    if isinstance(content, Mapping) and isinstance(content.get("data"), list | tuple) and not _names_labels(content):
        content = list(content["data"])  # Dataset Condensation: one pair per run
        content = content if not content or _is_set(content[0]) else [content]
    return _of_classes(location, content) or (_arrays(location, _chosen(location, content, index)), None)


def _refuse_index(location: str, index: int | None) -> None:
    if index is not None:
        raise InputError("index", index, f"{location} holds one set")


def _chosen(location: str, content: Any, index: int | None) -> Mapping[str, Any]:
    """Return images and labels by what they are, of the set of several that is meant."""
    several = content
    if isinstance(content, Mapping) and not any(_found(content).values()):
        several = list(content.values())  # by step
    if isinstance(several, list | tuple) and (not several or all(map(_is_set, several))):
        if index is None and len(several) != 1:
            valid = f"0 to {len(several) - 1}" if several else "none, it is empty"
            raise InputError("index", None, f"{location} holds {len(several)} sets; choose one with --index: {valid}")
        if not 0 <= (index or 0) < len(several):
            raise InputError("index", index, f"{location} holds {len(several)} sets, 0 to {len(several) - 1}")
        content, index = several[index or 0], None
    _refuse_index(location, index)
    if isinstance(content, Mapping) and set(content) in ({*_UNNAMED[:2]}, {*_UNNAMED}):
        content = [content[key] for key in _UNNAMED if key in content]
    if isinstance(content, list | tuple) and len(content) in (2, 3):
        return dict(zip(_KEYS, content, strict=False))
    if not isinstance(content, Mapping):
        raise refusal(location, f"it holds a {type(content).__name__}; two or three tensors or a dict of them is needed")
    found = _found(content)
    if not (len(found["images"]) == len(found["labels"]) == 1 and len(found["soft_labels"]) <= 1):
        raise refusal(
            location,
            f"one tensor of images, one of labels and at most one of soft labels is needed, called e.g. "
            f"{', '.join(names[0] for names in _KEYS.values())}; it holds {few(map(str, content))}",
        )
    return {key: content[names[0]] for key, names in found.items() if names}


def _found(content: Mapping[Any, Any]) -> dict[str, list[Any]]:
    return {key: [name for name in content if str(name).lower() in names] for key, names in _KEYS.items()}


def _names_labels(content: Mapping[Any, Any]) -> bool:
    found = _found(content)
    return bool(found["labels"] or found["soft_labels"])


def _is_set(value: Any) -> bool:
    """Whether something holds images and labels by itself."""
    if isinstance(value, Mapping):
        return bool(_found(value)["images"] and _found(value)["labels"])
    if not (isinstance(value, list | tuple) and len(value) in (2, 3)):
        return False
    images, labels = value[0], value[1]
    if isinstance(images, list | tuple):
        return bool(images) and _ndim(images[0]) >= 2 and _ndim(labels) in (1, 2)
    return _ndim(images) >= 3 and _ndim(labels) in (1, 2)


def _ndim(value: Any) -> int:
    if isinstance(value, list | tuple):
        return 1 + (_ndim(value[0]) if value else 0)
    return getattr(value, "ndim", 0)


def _of_classes(location: str, content: Any) -> tuple[Content, list[str] | None] | None:
    """Return the set that a dict of one tensor of images per class is, by label or class name; None for anything else."""
    if not isinstance(content, Mapping) or not content or any(_found(content).values()):
        return None
    if len({type(key) for key in content}) != 1 or not isinstance(next(iter(content)), int | str):
        return None
    if not all(_ndim(images) == 4 for images in content.values()):
        return None
    parts = {key: _joined(location, f"images of {key}", images, None) for key, images in content.items()}
    given = [key for key, images in parts.items() for _ in range(len(images))]
    labels, names = numbered(given) if isinstance(given[0], str) else (np.array(given), None)
    images = _joined(location, "images", list(parts.values()), None)
    return {"images": images, "labels": labels}, names


def _arrays(location: str, content: Mapping[str, Any]) -> Content:
    images = _joined(location, "images", content["images"], None)
    count = len(images) if images.ndim else 0
    others = {key: value for key, value in content.items() if key != "images"}
    return {"images": images, **{key: _joined(location, key, value, count) for key, value in others.items()}}


def _joined(location: str, key: str, value: Any, count: int | None) -> np.ndarray:
    """Return one array. A list holds one tensor per image (images have 2 or 3 axes), or one per class.

    Args:
        location: The set.
        key: What it is for.
        value: A tensor, numbers, or a list of either.
        count: Images, for labels.
    """
    if not (isinstance(value, list | tuple) and value and _ndim(value[0]) + (count is not None) > 0):
        return plain(location, key, value)
    if count is not None and all(isinstance(one, int | float) for one in value):
        return plain(location, key, value)
    parts = [plain(location, key, one) for one in value]
    if sum(part.nbytes for part in parts) > MAX_BYTES:
        raise refusal(location, f"{key} have more than {MAX_BYTES:,} bytes")
    stacked = parts[0].ndim < 4 if count is None else len(parts) == count
    if len({part.shape if stacked else part.shape[1:] for part in parts}) != 1 or not (stacked or parts[0].ndim):
        raise refusal(location, f"{key} are {len(parts)} tensors of different shapes")
    return np.stack(parts) if stacked else np.concatenate(parts)


def _beside(location: str, images: Path) -> dict[str, Path]:
    """Return labels_best.pt for images_best.pt, and soft_labels_best.pt if there is one."""
    rest = images.name.removeprefix("images")
    files = {key: images.with_name(key + rest) for key in ("labels", "soft_labels")}
    if rest == images.name or not files["labels"].is_file():
        raise refusal(location, "it holds one tensor: call it images*, with its labels* of the same ending beside it")
    return {key: file for key, file in files.items() if file.is_file()}


def from_tensors(
    location: str,
    content: Content,
    class_names: Sequence[str] | None,
    *,
    image_size: int | None,
    normalisation: Normalisation | None,
    max_clipped: float,
    label_kind: LabelKind | None,
) -> ForeignSet:
    """Read tensors images, labels and, if there are, soft_labels. See `read_foreign` for the options.

    Args:
        location: The set.
        content: images (N, 3, H, W), (N, H, W, 3), (N, 1, H, W) or (N, H, W); labels: see `hard_labels`, or floats (N, C),
            then soft labels; soft_labels (N, C).
        class_names: Of label value 0, 1, ..., where they are on record.
        image_size: Side in pixels; default: theirs, when square.
        normalisation: What the images went through.
        max_clipped: Share of values that may lie outside the range of pixels once the normalisation is undone.
        label_kind: What soft labels are.
    """
    images, labels, soft = content["images"], content["labels"], content.get("soft_labels")
    notes: dict[str, Any] = {"format": "tensors"}
    what, hard = "tensor 'soft_labels'", hard_labels(location, labels)
    if hard is None:
        if soft is not None:
            raise refusal(location, "its labels are soft labels already, so that it has two kinds of them")
        what, soft, hard = "tensor 'labels'", labels, labels.argmax(1)
        notes["labels"] = "argmax of the soft labels"
    check_labels(location, hard, len(images) if images.ndim else 0, class_names)
    soft_labels = None
    if soft is not None:
        soft_labels, notes["soft_labels"] = probabilities(location, soft, hard, what, label_kind)
        if soft is labels:
            check_decided(location, soft, what)
    elif label_kind is not None:
        raise InputError("label_kind", label_kind, f"{location} has no soft labels")
    pixels, done = _pixels(location, _channels_first(location, images), image_size, normalisation, max_clipped)
    names = list(class_names) if class_names else None
    return ForeignSet(location, pixels, hard, names, soft_labels, {**notes, **done})


def _channels_first(location: str, images: np.ndarray) -> np.ndarray:
    """Return a view (N, C, H, W) with 1 or 3 channels."""
    if images.ndim == 3:
        images = images[:, None]
    elif images.ndim == 4 and images.shape[1] not in (1, 3):
        images = images.transpose(0, 3, 1, 2)
    if images.ndim != 4 or images.shape[1] not in (1, 3) or 0 in images.shape or images.dtype.kind == "b":
        shapes = "(N, 3, H, W), (N, H, W, 3), (N, 1, H, W) or (N, H, W)"
        raise refusal(location, f"images must be numbers {shapes}, not {images.dtype} of {images.shape}")
    return images


def _pixels(
    location: str, images: np.ndarray, image_size: int | None, normalisation: Normalisation | None, max_clipped: float
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
        if images.dtype != np.uint8 or normalisation is not None:
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
        if clipped > max_clipped * images.size:
            advice = "pass the --mean and --std, or the --pixel_range, that they went through, or a larger --max_clipped"
            share = f"{100 * clipped / images.size:.3g} % of its values then lie outside the range of pixels"
            raise InputError("mean" if mean.any() else "std", _numbers(mean, std), f"{share}; {advice}")
        notes["normalisation"] = {"mean": mean.ravel().tolist(), "std": std.ravel().tolist()}
        notes["clipped_values"] = clipped / images.size
    if (height, width) != result.shape[2:]:
        notes["scaled_images"] = count
    return result, notes


def _numbers(mean: np.ndarray, std: np.ndarray) -> str:
    return f"mean {mean.ravel().tolist()}, std {std.ravel().tolist()}"


def _scale(
    location: str, images: np.ndarray, normalisation: Normalisation | None
) -> tuple[np.ndarray | float, np.ndarray | float]:
    """Return mean and standard deviation with which value * std + mean lies in [0, 1]."""
    low, high = float(images.min()), float(images.max())
    if not np.isfinite([low, high]).all():
        raise refusal(location, "its images hold values that are not finite")
    values = f"its values lie in [{low:.4g}, {high:.4g}]"
    ranged = normalisation is not None and not normalisation[0].any()
    if normalisation is not None and any(len(numbers) not in (1, images.shape[1]) for numbers in normalisation):
        mean = normalisation[0].ravel().tolist()
        raise InputError("mean", mean, f"its images have {images.shape[1]} channel, so --mean and --std need one number")
    std = None
    if images.dtype.kind == "f" and low >= -_TOLERANCE and high <= 1 + _TOLERANCE:
        std = 1.0
    elif low >= 0 and 1 < high <= 255 and _are_whole(images):
        std = 1 / 255
    if normalisation is None:
        if std is None and low >= -_TOLERANCE:
            raise InputError(
                "pixel_range", None, f"{values}: pass --pixel_range with the value of full brightness, e.g. 255"
            )
        if std is None:
            advice = "pass --mean and --std of the normalisation (a ZCA-whitened set cannot be undone)"
            raise InputError("mean", None, f"{values}, not in [0, 1]: {advice}; where they are pixels, --pixel_range")
        return 0.0, std
    if std is not None and not (ranged and normalisation[1].size == 1 and np.isclose(normalisation[1].item(), std)):
        raise InputError("mean", _numbers(*normalisation), f"{values}: they are pixels, with no normalisation to undo")
    return normalisation


def _are_whole(images: np.ndarray) -> bool:
    blocks = (images[start : start + _BLOCK] for start in range(0, len(images), _BLOCK))
    return images.dtype.kind != "f" or all((block == np.rint(block)).all() for block in blocks)
