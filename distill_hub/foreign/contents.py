"""What every format of a foreign set has in common: the result, its limits, and the reading of files and images."""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from distill_hub.config import refusing
from distill_hub.data.images import MAX_SIDE, chosen_side, decode, side_for, size_of, square
from distill_hub.disk.pages import MOST_EXPANSION, SMALL_SET
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
    def remarks(self) -> Iterator[str]:
        """What was not read, and which size was chosen for the images: a line each."""
        if count := len(self.unused):
            yield printable(f"Not used, {count:,} of its files: {few(self.unused)}")
        if "median_side" in self.notes:
            yield chosen_side(self.images.shape[-1], self.notes["median_side"], "image_size")


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
    location: str, encoded: Callable[[], Iterable[tuple[str, bytes]]], image_size: int | None, stored: int
) -> tuple[torch.Tensor, dict[str, Any]]:
    """Decode images into one uint8 (N, 3, S, S).

    Args:
        location: The set.
        encoded: Returns name and bytes of each image in turn. It is asked twice: for their headers, and for their pixels.
        image_size: See `read_foreign`.
        stored: Bytes that the set has: one image may stand for many.

    Returns:
        The images, and notes that say how many were scaled, and the median of their shorter sides where that gave the size.
    """
    sides, notes = np.array([_read(location, name, size_of, data) for name, data in encoded()]), {}
    size = image_size or int(sides[0, 0])
    if image_size is None and (sides != size).any():
        notes["median_side"] = int(np.median(sides.min(1)))
        size = side_for(notes["median_side"])
    result = room(location, len(sides), size)
    if result.numel() > max(SMALL_SET, MOST_EXPANSION * stored):
        raise refusal(location, f"{len(sides):,} images of {size} px cannot lie in {stored:,} bytes")
    for row, (name, data) in enumerate(encoded()):
        result[row] = torch.from_numpy(square(_read(location, name, decode, data), size)).permute(2, 0, 1)
    if scaled := int((sides != size).any(1).sum()):
        notes["scaled_images"] = scaled
    return result, notes


def _read(location: str, name: str, how: Callable[[bytes], Any], data: bytes) -> Any:
    with refusing((ValueError,), "distilled set", location, f"image {name} cannot be decoded"):
        return how(data)
