"""What every format of a foreign set has in common: the result, its limits, and the reading of files and images."""

import re
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from distill_hub.artifact.pages import MOST_EXPANSION, SMALL_SET
from distill_hub.config import InputError, refusing
from distill_hub.data.images import MAX_SIDE, decode, square
from distill_hub.foreign.layout import refusal
from distill_hub.text import few, printable

MAX_ROWS = 10_000_000
MAX_BYTES = 64 * 2**30  # decoded or unpacked: eight times ImageNet-1K at IPC 50 and 224 px
MAX_ENTRY_BYTES = 64 * 2**20  # one encoded image


@dataclass(frozen=True)
class ForeignSet:
    """A set of images and labels whose format, class order and origin are not on record."""

    location: str  # as the user named it
    images: torch.Tensor = field(repr=False)  # uint8 (N, 3, S, S)
    labels: np.ndarray = field(repr=False)  # int64 (N,), the set's own label values
    class_names: list[str] | None  # of label value 0, 1, ...; None when the set does not say
    soft_labels: np.ndarray | None = field(repr=False)  # float32 (N, C) probabilities, columns in the set's own order
    notes: dict[str, Any]  # what was done to read it, ready for JSON
    revision: str | None = None  # commit, for a set on the Hub
    unused: Sequence[str] = ()  # files of the set that were not read, by name

    @property
    def left_out(self) -> str | None:
        """What was not read, in one line; None when everything was."""
        count = len(self.unused)
        return printable(f"Not used, {count:,} of its files: {few(self.unused)}") if count else None


def reading(location: str, what: str, errors: tuple[type[Exception], ...]) -> AbstractContextManager[None]:
    """Turn what a reader raises for a damaged file into one line; see `refusing`."""
    return refusing(errors, "distilled set", location, f"{what} cannot be read")


def natural(name: str) -> tuple:
    """Return a key that sorts 2.png before 10.png."""
    # A number goes by its length, then its digits: a name may hold more digits than `int` takes. Every other part is one.
    parts = [(len(p), p) if i % 2 else p for i, p in enumerate(re.split("0*([0-9]+)", name))]
    return parts, name


def numbered(texts: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    """Return the label values (N,) of class names, one per image, and the names of values 0, 1, ..., in natural order."""
    names = sorted(set(texts), key=natural)
    value = {name: i for i, name in enumerate(names)}
    return np.array([value[text] for text in texts], dtype=np.int64), names


def check_labels(location: str, labels: np.ndarray, count: int, class_names: Sequence[str] | None) -> None:
    """Check that labels (N,) are values 0, 1, ... for `count` images, with a name each where there are names.

    Raises:
        InputError: When they are not.
    """
    if len(labels) != count or count == 0:
        raise refusal(location, f"one label per image is needed; it has {count} images and {len(labels)} labels")
    if labels.min() < 0:
        raise refusal(location, f"labels must be 0, 1, ..., but one is {labels.min()}")
    if labels.max() >= MAX_ROWS:
        raise refusal(location, f"labels must be 0, 1, ..., one for each class, but one is {labels.max()}")
    if class_names is not None and not (labels.max() < len(class_names) and all(isinstance(n, str) for n in class_names)):
        raise refusal(location, f"its {len(class_names)} class names are no texts, or too few for label {labels.max()}")


def room(location: str, count: int, size: int) -> torch.Tensor:
    """Return an empty uint8 (count, 3, size, size), for a size that a distilled set may have."""
    if size > MAX_SIDE:
        raise refusal(location, f"images of {size:,} px a side are more than {MAX_SIDE:,}")
    if count * 3 * size**2 > MAX_BYTES:
        raise refusal(location, f"{count:,} images of {size} px are more than {MAX_BYTES:,} bytes")
    with reading(location, f"{count:,} images of {size} px", (MemoryError, RuntimeError)):
        return torch.empty(count, 3, size, size, dtype=torch.uint8)


def decoded(
    location: str, count: int, encoded: Iterable[tuple[str, bytes]], image_size: int | None, stored: int
) -> tuple[torch.Tensor, dict[str, Any]]:
    """Decode images into one uint8 (N, 3, S, S).

    Args:
        location: The set.
        count: How many they are.
        encoded: Name and bytes of each in turn.
        image_size: See `read_foreign`.
        stored: Bytes that the set has: one image may stand for many.

    Returns:
        The images, and notes that say how many were scaled.
    """
    result, scaled = None, 0
    for row, (name, data) in enumerate(encoded):
        try:
            image = decode(data)
        except ValueError as error:
            raise refusal(location, f"image {name} cannot be decoded ({error})") from error
        if result is None:
            first = image.size
            result = room(location, count, image_size or min(first))
            if result.numel() > max(SMALL_SET, MOST_EXPANSION * stored):
                raise refusal(location, f"{count:,} images of {result.shape[2]} px cannot lie in {stored:,} bytes")
        if image.size != result.shape[2:]:
            if image_size is None:
                sizes = " and ".join(dict.fromkeys(f"{width} x {height} px" for width, height in (first, image.size)))
                raise InputError("image_size", None, f"its images are not of one square size: {sizes}; pass --image_size")
            scaled += 1
        result[row] = torch.from_numpy(square(image, result.shape[2])).permute(2, 0, 1)
    return result, {"scaled_images": scaled} if scaled else {}
