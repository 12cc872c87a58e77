"""The formats of foreign sets that hold encoded images: tables, image folders, and archives of image folders.

Bytes from outside meet pyarrow, zipfile and Pillow here. What asks for more memory than any distilled set needs is refused
before it gets it.
"""

import re
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from datasets import ClassLabel, Features, Image

from distill_hub.config import InputError
from distill_hub.data.images import decode, square
from distill_hub.foreign.layout import refusal

MAX_ROWS = 10_000_000
MAX_BYTES = 64 * 2**30  # decoded or unpacked: eight times ImageNet-1K at IPC 50 and 224 px
MAX_ENTRY_BYTES = 64 * 2**20  # of an archive: one image
_IMAGE_COLUMNS = ("image", "img", "images")
SOFT_LABELS = ("soft_labels", "soft_label")
_LABEL_COLUMNS = ("label", "labels", "class_id", "class", "target", "fine_label")
# What each reader raises for a damaged file, or for one made to confuse it.
_PARQUET = (pa.ArrowException, OSError, ValueError, TypeError, AttributeError, KeyError, RecursionError)
ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, NotImplementedError, EOFError, OSError, ValueError, IndexError)


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


@contextmanager
def reading(location: str, what: str, errors: tuple[type[Exception], ...]) -> Iterator[None]:
    """Turn what a reader raises for a damaged file into one line."""
    try:
        yield
    except errors as error:
        raise refusal(location, f"{what} cannot be read ({str(error)[:200]})") from error


def natural(name: str) -> tuple:
    """Return a key that sorts 2.png before 10.png."""
    # A number goes by its length, then its digits: a name may hold more digits than `int` takes. Every other part is one.
    parts = [(len(p), p) if i % 2 else p for i, p in enumerate(re.split("0*([0-9]+)", name))]
    return parts, name


def check_labels(location: str, labels: np.ndarray, count: int, class_names: Sequence[str] | None) -> None:
    """Check that labels (N,) are values 0, 1, ... for `count` images, with a name each where there are names.

    Raises:
        InputError: When they are not.
    """
    if len(labels) != count or count == 0:
        raise refusal(location, f"one label per image is needed; it has {count} images and {len(labels)} labels")
    if labels.min() < 0:
        raise refusal(location, f"labels must be 0, 1, ..., but one is {labels.min()}")
    if class_names is not None and not (labels.max() < len(class_names) and all(isinstance(n, str) for n in class_names)):
        raise refusal(location, f"its {len(class_names)} class names are no texts, or too few for label {labels.max()}")


def probabilities(location: str, soft: np.ndarray, labels: np.ndarray, what: str) -> tuple[np.ndarray, str]:
    """Return soft labels (N, C) as float32 probabilities, and what was done: with negative values they are logits.

    Raises:
        InputError: For another shape or type, a value that is not finite, or rows that are neither.
    """
    if soft.ndim != 2 or len(soft) != len(labels) or soft.shape[1] <= labels.max() or soft.dtype.kind != "f":
        needed = f"floats, for each of {len(labels)} images at least {labels.max() + 1}"
        raise refusal(location, f"{what} must hold {needed}; it is {soft.dtype} of shape {soft.shape}")
    values = soft.astype(np.float64)
    if not np.isfinite(values).all():
        raise refusal(location, f"{what} holds values that are empty or not finite")
    sums = values.sum(1, keepdims=True)
    if (values >= 0).all():
        if (np.abs(sums - 1) > 1e-3).any():
            reach = f"rows sum to {sums.min():.4g} to {sums.max():.4g}, not 1"
            raise refusal(location, f"{what} holds neither probabilities ({reach}) nor logits (no value is negative)")
        return (values / sums).astype(np.float32), f"probabilities of {what}"
    values = np.exp(values - values.max(1, keepdims=True))
    return (values / values.sum(1, keepdims=True)).astype(np.float32), f"softmax of {what}"


def room(location: str, count: int, size: int) -> torch.Tensor:
    """Return an empty uint8 (count, 3, size, size), for a size that a distilled set may have."""
    if count * 3 * size**2 > MAX_BYTES:
        raise refusal(location, f"{count:,} images of {size} px are more than {MAX_BYTES:,} bytes")
    return torch.empty(count, 3, size, size, dtype=torch.uint8)


def _decode(location: str, name: str, data: bytes) -> PIL.Image.Image:
    try:
        return decode(data)
    except ValueError as error:
        raise refusal(location, f"image {name} cannot be decoded ({error})") from error


def _decoded(
    location: str, count: int, encoded: Iterable[tuple[str, bytes]], image_size: int | None
) -> tuple[torch.Tensor, dict[str, Any]]:
    """Decode `count` images (name, bytes) in turn into one uint8 (N, 3, S, S); the notes say how many were scaled."""
    result, scaled = None, 0
    for row, (name, data) in enumerate(encoded):
        image = _decode(location, name, data)
        if result is None:
            first = image.size
            result = room(location, count, image_size or min(first))
        if image.size != result.shape[2:]:
            if image_size is None:
                sizes = " and ".join(dict.fromkeys(f"{width} x {height} px" for width, height in (first, image.size)))
                raise InputError("image_size", None, f"its images are not of one square size: {sizes}; pass --image_size")
            scaled += 1
        result[row] = torch.from_numpy(square(image, result.shape[2])).permute(2, 0, 1)
    return result, {"scaled_images": scaled} if scaled else {}


def from_pictures(
    location: str, names: Sequence[str], read: Callable[[str], bytes], kind: str, image_size: int | None
) -> ForeignSet:
    """Read an image folder: <...>/<class>/<file>, classes and files in natural order.

    Args:
        location: The set.
        names: The files, all below folders of classes.
        read: Returns the bytes of a file.
        kind: Name of the format, for the notes.
        image_size: See `read_foreign`.
    """
    classes = sorted({PurePosixPath(name).parent.name for name in names}, key=natural)
    label = {name: value for value, name in enumerate(classes)}
    names = sorted(names, key=lambda name: (label[PurePosixPath(name).parent.name], natural(name)))
    images, notes = _decoded(location, len(names), ((name, read(name)) for name in names), image_size)
    labels = np.array([label[PurePosixPath(name).parent.name] for name in names], dtype=np.int64)
    return ForeignSet(location, images, labels, classes, None, {"format": kind, **notes})


@contextmanager
def open_archive(location: str) -> Iterator[tuple[list[str], Callable[[str], bytes]]]:
    """Give the names of a zip's files and a function that reads one into memory.

    Raises:
        InputError: For an entry that is encrypted, leaves the archive's folder, or is larger than any image.
    """
    with reading(location, "the archive", ZIP_ERRORS):
        archive = zipfile.ZipFile(location)
        files = {entry.filename: entry for entry in archive.infolist() if not entry.is_dir()}
    with archive:
        for name, entry in files.items():
            if re.match(r"[/\\]|[A-Za-z]:", name) or ".." in re.split(r"[/\\]", name):
                raise refusal(location, f"entry {name!r} would lie outside the archive's folder")
            if entry.flag_bits & 1:
                raise refusal(location, f"entry {name!r} is encrypted")
            if entry.file_size > MAX_ENTRY_BYTES:
                raise refusal(location, f"entry {name!r} says it unpacks to {entry.file_size:,} bytes; an image is smaller")
        if sum(entry.file_size for entry in files.values()) > MAX_BYTES:
            raise refusal(location, f"it says that it unpacks to more than {MAX_BYTES:,} bytes")

        def read(name: str) -> bytes:
            with reading(location, f"entry {name!r}", ZIP_ERRORS), archive.open(files[name]) as file:
                return file.read(files[name].file_size)

        yield list(files), read


def from_tables(
    location: str, files: Sequence[Path], image_column: str | None, label_column: str | None, image_size: int | None
) -> ForeignSet:
    """Read parquet files as one table. See `read_foreign` for the options.

    The columns are taken as they are stored, not as `datasets` decodes them: it would open an image's path.
    """
    with reading(location, "parquet", _PARQUET):
        footers = [pq.read_metadata(file) for file in files]
        schemas = [footer.schema.to_arrow_schema() for footer in footers]
        features = [Features.from_arrow_schema(schema) for schema in schemas]
        rows = sum(footer.num_rows for footer in footers)
        size = sum(footer.row_group(i).total_byte_size for footer in footers for i in range(footer.num_row_groups))
    if rows > MAX_ROWS or size > MAX_BYTES:
        raise refusal(location, f"{rows:,} rows of {size:,} bytes are more than {MAX_ROWS:,} rows or {MAX_BYTES:,} bytes")
    if any(other != features[0] for other in features):
        raise refusal(location, "its parquet files do not agree on columns and class names")
    schema, kinds = schemas[0], features[0]
    shown = [f.name for f in schema if isinstance(kinds[f.name], Image) or _stores_bytes(f.type) or f.name in _IMAGE_COLUMNS]
    image = _column("image_column", image_column, shown, schema)
    named = [name for name in schema.names if isinstance(kinds[name], ClassLabel)]
    label = _column("label_column", label_column, named or [n for n in _LABEL_COLUMNS if n in schema.names], schema)
    others = [f for f in schema if f.name not in (image, label)]
    soft = [f.name for f in others if f.name in SOFT_LABELS] or [f.name for f in others if _lists_floats(f.type)]
    with reading(location, "parquet", _PARQUET):
        table = pq.read_table(files, columns=[image, label, *soft], partitioning=None, page_checksum_verification=True)
    labels, class_names = _label_values(location, table.column(label), kinds[label])
    check_labels(location, labels, table.num_rows, class_names)
    notes = {"format": "parquet", "files": [f.name for f in files], "image_column": image, "label_column": label}
    soft_labels = None
    for name, matrix in _soft_columns(location, table.select(soft), labels, class_names).items():
        soft_labels, notes["soft_labels"] = probabilities(location, matrix, labels, f"column {name!r}")
    images, scaled = _decoded(location, table.num_rows, _cells(location, table.column(image)), image_size)
    return ForeignSet(location, images, labels, class_names, soft_labels, {**notes, **scaled})


def _stores_bytes(kind: pa.DataType) -> bool:
    return pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0


def _lists_floats(kind: pa.DataType) -> bool:
    lists = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    return lists and pa.types.is_floating(kind.value_type)


def _column(option: str, name: str | None, found: Sequence[str], schema: pa.Schema) -> str:
    if name is None and len(found) != 1:
        raise InputError(option, None, f"name one with --{option}; the columns are {', '.join(schema.names)}")
    if name is not None and name not in schema.names:
        raise InputError(option, name, f"the columns are {', '.join(schema.names)}")
    return name or found[0]


def _label_values(location: str, column: pa.ChunkedArray, kind: Any) -> tuple[np.ndarray, list[str] | None]:
    """Return label values (N,) and their names; texts are numbered in natural order."""
    if column.null_count:
        raise refusal(location, f"{column.null_count} rows have no label")
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        texts = column.to_pylist()
        names = sorted(set(texts), key=natural)
        value = {name: i for i, name in enumerate(names)}
        return np.array([value[text] for text in texts], dtype=np.int64), names
    if not pa.types.is_integer(column.type):
        raise refusal(location, f"labels must be integers or texts; they are {column.type}")
    with reading(location, "labels", (pa.ArrowInvalid,)):  # beyond int64
        labels = column.cast(pa.int64()).to_numpy()
    return labels, kind.names if isinstance(kind, ClassLabel) else None


def _soft_columns(
    location: str, table: pa.Table, labels: np.ndarray, class_names: Sequence[str] | None
) -> dict[str, np.ndarray]:
    """Return the one column that has a number per class in every row as (N, C), or none."""
    found = {}
    for name, column in zip(table.column_names, table.columns, strict=True):
        matrix = _matrix(column)
        if matrix is not None and labels.max() < matrix.shape[1] and len(class_names or matrix[0]) == matrix.shape[1]:
            found[name] = matrix
        elif name in SOFT_LABELS:
            raise refusal(location, f"column {name!r} must list a float per class in every row; it is {column.type}")
    if len(found) > 1:
        raise refusal(location, f"several columns may be its soft labels ({', '.join(found)}); call one soft_label")
    return found


def _matrix(column: pa.ChunkedArray) -> np.ndarray | None:
    """Return lists of floats as (N, K), None when they are not all of one length."""
    if not _lists_floats(column.type) or column.null_count:
        return None
    lengths = pc.unique(pc.list_value_length(column)).to_pylist()
    if len(lengths) != 1:
        return None
    values = [chunk.flatten().to_numpy(zero_copy_only=False) for chunk in column.chunks]  # an empty cell becomes NaN
    return np.concatenate(values).reshape(len(column), lengths[0])


def _cells(location: str, column: pa.ChunkedArray) -> Iterator[tuple[str, bytes]]:
    """Return name and bytes of every image."""
    if _stores_bytes(column.type):
        column = pc.struct_field(column, "bytes")
    if not (pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type)):
        raise refusal(location, f"its image column must hold encoded images; it is {column.type}")
    if column.null_count:
        # A path alone would open any file of this machine, or a URL.
        raise refusal(location, f"every image must be stored in the file itself; {column.null_count} are not")
    return ((f"of row {row}", cell.as_py()) for row, cell in enumerate(column))
