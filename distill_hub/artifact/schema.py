"""The rows of a distilled set: format 1 of `cards/FORMAT.md`, as code."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import ClassLabel, Dataset, Features, Image, List, Value

from distill_hub.artifact.manifest import FORMAT_VERSION


def features(class_names: Sequence[str], free_side: int | None = None) -> Features:
    """Return the columns every distilled set has.

    Args:
        class_names: The C class names. Their order is the order of the `soft_label` columns, too: that is the contract
            that keeps a set from being read with another class order.
        free_side: Side S of the images of a set with free pixels, which have a column of their own; None: of any other set.
    """
    columns = Features(
        {
            "image": Image(),  # RGB, uint8, lossless
            "label": ClassLabel(names=list(class_names)),
            "soft_label": List(Value("float32"), length=len(class_names)),  # teacher probabilities at temperature 1
            "confidence": Value("float32"),  # the teacher's probability of `label`, in [0, 1]
            "seed": Value("int64"),  # redraws the candidate, with the generator and settings of the manifest
        }
    )
    if free_side is not None:
        columns["pixels"] = List(Value("float16"), length=3 * free_side**2)  # what students see in place of `image`
    return columns


def hash_row(
    digest: Any, pixels: np.ndarray, label: int, soft_label: np.ndarray, free_pixels: np.ndarray | None = None
) -> None:
    """Add one row to the content hash: what a student sees, and nothing of how it is stored.

    In this order: height and width as little-endian int64, the RGB pixels, the label as little-endian int64, the soft
    label as little-endian float32; and free pixels, where a set has them, as little-endian float16.

    Args:
        digest: A hashlib object, updated in place.
        pixels: uint8 (H, W, 3).
        label: Class index.
        soft_label: Teacher probabilities (C,).
        free_pixels: float16 (3, H, W), or None.
    """
    digest.update(np.asarray(pixels.shape[:2], dtype="<i8").tobytes())
    digest.update(pixels.tobytes())
    digest.update(np.asarray(label, dtype="<i8").tobytes())
    digest.update(np.asarray(soft_label, dtype="<f4").tobytes())
    if free_pixels is not None:
        digest.update(np.asarray(free_pixels, dtype="<f2").tobytes())


def one_hot(labels: np.ndarray, classes: int) -> np.ndarray:
    """Return soft labels (N, C) that are 1 for the label and 0 elsewhere: those of a set without a teacher."""
    return np.eye(classes, dtype=np.float32)[labels]


def check_soft_labels(soft: np.ndarray) -> None:
    """Check that soft labels (N, C) are probabilities.

    Raises:
        ValueError: When a value is negative or not finite, or a row does not sum to 1.
    """
    if not np.isfinite(soft).all() or (soft < 0).any() or (np.abs(soft.sum(1, dtype=np.float64) - 1) > 1e-4).any():
        raise ValueError("soft_label rows must be finite, not negative, and sum to 1")


def check_labels(labels: np.ndarray, class_names: Sequence[str], expected: Sequence[int]) -> None:
    """Check that labels (N,) hold as many images of each of the C classes as are expected.

    Raises:
        ValueError: When a label is no class index, or a class has another number of images.
    """
    if len(labels) and not 0 <= labels.min() <= labels.max() < len(class_names):
        raise ValueError(f"labels must lie in [0, {len(class_names)}), but reach from {labels.min()} to {labels.max()}")
    counts = np.bincount(labels, minlength=len(class_names))
    different = np.flatnonzero(counts != np.asarray(expected))[:5]
    if len(different):
        found, own = ({class_names[i]: int(numbers[i]) for i in different} for numbers in (counts, expected))
        said = expected[0] if len(set(expected)) == 1 else own
        raise ValueError(f"the manifest says {said} images per class, but there are {found}")


def _is_png_or_webp(encoded: pa.Buffer) -> bool:
    start = encoded.slice(0, min(12, encoded.size)).to_pybytes()
    return start.startswith(b"\x89PNG\r\n\x1a\n") or (start[:4] == b"RIFF" and start[8:] == b"WEBP")


def check_rows(rows: Dataset, class_names: Sequence[str], free_side: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Check rows of a set, all or some, against the format, and leave the images encoded.

    Args:
        rows: The rows.
        class_names: See `features`, as the next.
        free_side: Of the images, where their pixels are free; `read_free_pixels` has yet to see these.

    Returns:
        Labels int64 (N,), which `check_labels` has yet to see, and soft labels float32 (N, C).

    Raises:
        ValueError: When columns, class names, the stored images or the soft labels are not as declared.
    """
    if free_side is None and "pixels" in rows.features:
        raise ValueError("it has a column 'pixels', and its manifest no free_pixels: nothing says what students see")
    for column, feature in features(class_names, free_side).items():
        if rows.features.get(column) != feature:
            found = rows.features.get(column)
            raise ValueError(f"column {column!r} is {found}, format {FORMAT_VERSION} has {feature}")
        if rows.data.column(column).null_count:
            raise ValueError(f"column {column!r} has empty cells")
    stored = [pc.struct_field(chunk, "bytes") for chunk in rows.data.column("image").chunks]
    # Without bytes, `datasets` would open the path stored beside them: any file of this machine, or a URL.
    if any(chunk.null_count for chunk in stored):
        raise ValueError("every image must be stored in the file itself")
    # Pillow reads many formats more, and starts another program for one of them (PostScript).
    if not all(_is_png_or_webp(image.as_buffer()) for chunk in stored for image in chunk):
        raise ValueError("every image must be PNG or WebP")
    flat = rows.data.column("soft_label").combine_chunks().flatten()
    soft_labels = flat.to_numpy(zero_copy_only=False).reshape(-1, len(class_names))  # an empty cell is NaN
    check_soft_labels(soft_labels)
    return rows.data.column("label").to_numpy(), soft_labels


def read_free_pixels(rows: Dataset, side: int) -> np.ndarray:
    """Return the free pixels of rows that `check_rows` has seen, float16 (N, 3, S, S).

    Raises:
        ValueError: When a value is missing or not finite.
    """
    flat = rows.data.column("pixels").combine_chunks().flatten()
    pixels = flat.to_numpy(zero_copy_only=False).astype(np.float16, copy=False)  # an empty cell is NaN
    if not np.isfinite(pixels).all():
        raise ValueError("pixels must be finite")
    return pixels.reshape(-1, 3, side, side)
