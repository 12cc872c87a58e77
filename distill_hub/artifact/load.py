"""Reading the rows of a distilled set, from a folder or the Hub, believing nothing: format, counts, content are checked."""

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset

from distill_hub.artifact.find import Found, find, read_description
from distill_hub.artifact.manifest import Manifest
from distill_hub.artifact.records import EvaluationRecord
from distill_hub.artifact.schema import check_labels, check_rows, hash_row, read_free_pixels
from distill_hub.config import InputError
from distill_hub.data.images import decode, size_of
from distill_hub.disk.pages import MOST_EXPANSION, SMALL_SET, read_columns, rows_at_a_time

MOST_DECODED_BYTES = 64 * 2**30  # in memory: eight times ImageNet-1K at IPC 50 and 224 px
_PART_ROWS = 100  # read at a time
_SHARD = re.compile(r"(?:data|views)/train-(\d{5})-of-(\d{5})\.parquet").fullmatch


@dataclass(frozen=True)
class Artifact:
    """A distilled set whose data are what its manifest says: N = C * IPC images, S pixels a side, of C classes."""

    location: str  # folder or Hub id
    path: Path  # the folder, or where the client caches this commit
    manifest: Manifest
    evaluations: tuple[EvaluationRecord, ...]  # of this content, oldest first
    labels: np.ndarray = field(repr=False)  # int64 (N,)
    soft_labels: np.ndarray = field(repr=False)  # float32 (N, C) probabilities
    dataset: Dataset | None  # columns of `schema.features`, N rows, images encoded; None when not asked for
    pixels: np.ndarray | None = field(repr=False)  # uint8 (N, 3, S, S), the images; None when not asked for
    free_pixels: np.ndarray | None = field(repr=False)  # float16 (N, 3, S, S), of a set with free pixels, with `pixels`
    revision: str | None = None  # commit on the Hub

    def decoded(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return pixels, labels and soft labels as students see them: of a set of tiles, a row for each of them.

        Raises:
            ValueError: When the pixels were not asked for.
        """
        import torch  # what asks for no pixels starts without it

        from distill_hub.augmentation.tiles import decode

        if self.pixels is None:
            raise ValueError("the set was loaded without its pixels")
        tiles = self.manifest.tiles
        repeated = (own.repeat((tiles or 1) ** 2, 0) for own in (self.labels, self.soft_labels))
        return decode(torch.from_numpy(self.pixels), tiles).numpy(), *repeated


def load_artifact(location: str | Path, revision: str | None = None, *, rows: bool = True, pixels: bool = False) -> Artifact:
    """Load a distilled set and check it; see `read_artifact`.

    Args:
        location: The artifact folder, or NAMESPACE/NAME on the Hub.
        revision: Branch, tag or commit on the Hub; default main.
        rows: Keep the rows, images encoded.
        pixels: Keep the decoded images, and free pixels.

    Raises:
        InputError: When set or manifest is missing, the format is newer, a file is damaged, or the data are not what the
            manifest says.
        HubError: When the Hub fails.
    """
    return read_artifact(find(location, revision), rows=rows, pixels=pixels)


def read_artifact(found: Found, *, rows: bool = True, pixels: bool = False, folder: Path | None = None) -> Artifact:
    """Read and check a set that was found, in one pass that decodes every image once.

    Beside what is asked for, memory holds labels, soft labels and one row group of the files. What was checked is what is
    returned: no file is read again, and the cache of `load_dataset`, which knows a file by its path and time of change, is
    not asked.

    Args:
        found: The set.
        rows: Keep the rows, images encoded.
        pixels: Keep the decoded images, and free pixels.
        folder: Where files are made that the arrays are mapped from, see `arrays_of`; None: they are held in memory.

    Raises:
        InputError: See `load_artifact`.
        HubError: When the Hub fails.
    """
    manifest, evaluations = read_description(found)
    place, shards = rows_of(found, manifest)
    try:
        data = _read_rows([place / name for name in shards], manifest, rows=rows, pixels=pixels, folder=folder)
    except ValueError as error:
        raise InputError("distilled set", found.location, str(error)) from error
    commit = found.remote.commit if found.remote else None
    return Artifact(found.location, place, manifest, evaluations, revision=commit, **data)


def rows_of(found: Found, manifest: Manifest) -> tuple[Path, list[str]]:
    """Fetch the parquet files of a set; return the folder of it and their names in there. They are not read.

    Raises:
        InputError: See `shard_names`.
        HubError: When the Hub fails.
    """
    shards = shard_names(found, "data", "distilled set", _most_bytes(manifest), f"{manifest.rows:,} images")
    return found.fetch(shards), shards


def arrays_of(manifest: Manifest, *, pixels: bool, folder: Path | None, fresh: bool = False) -> dict[str, np.ndarray | None]:
    """Return the arrays of `Artifact`, as large as a manifest says.

    Args:
        manifest: Of the set.
        pixels: Whether the images, and free pixels, are among them.
        folder: Of the files that they are mapped from; what is written to them stays out of these. None: they are held in
            memory.
        fresh: Make new ones, to be filled, which writes to the files.
    """
    count, side = manifest.rows, manifest.image_size
    images = (count, 3, side, side)
    kinds = {
        "labels": ((count,), np.int64),
        "soft_labels": ((count, len(manifest.classes)), np.float32),
        "pixels": (images, np.uint8) if pixels else None,
        "free_pixels": (images, np.float16) if pixels and manifest.free_side else None,
    }

    def array(name: str, shape: tuple[int, ...], dtype: type) -> np.ndarray:
        if folder is None:
            return np.empty(shape, dtype)
        return np.memmap(folder / name, dtype, "w+" if fresh else "c", shape=shape)

    return {name: kind and array(name, *kind) for name, kind in kinds.items()}


def _most_bytes(manifest: Manifest) -> int:
    """Bound the size of the rows, stored or decoded: images without loss need not be larger than their pixels."""
    row = _most_bytes_of_image(manifest.image_size) + 8 * len(manifest.classes) + 4 * 3 * (manifest.free_side or 0) ** 2
    return manifest.rows * row + 10_000_000


def _most_bytes_of_image(side: int) -> int:
    return 2 * 3 * side**2 + 10_000


def shard_names(found: Found, kind: str, field: str, most_bytes: int, holding: str) -> list[str]:
    """Return the names of the parquet files of `data/` or `views/`, all there and of a believable size.

    Args:
        found: The set.
        kind: 'data' or 'views'.
        field: What to blame.
        most_bytes: What all of them may have.
        holding: What needs no more than that, for the message.

    Raises:
        InputError: When a file is missing, one too many, or they are too large.
    """
    shards = sorted(name for name in found.files if name.startswith(f"{kind}/train-"))  # as load_dataset takes them
    counts = [int(name[2]) for name in map(_SHARD, shards) if name]
    if not counts:
        raise InputError(field, found.location, f"it holds no {kind}/train-*.parquet")
    count = counts[-1]
    expected = [f"{kind}/train-{i:05d}-of-{count:05d}.parquet" for i in range(min(count, len(shards) + 1))]
    if shards != expected:
        wrong = sorted(set(expected) ^ set(shards))[0]
        raise InputError(field, found.location, f"{wrong} is {'missing' if wrong in expected else 'one too many'}")
    size = sum(found.files[name] for name in shards)
    if size > most_bytes:
        valid = f"its parquet files have {size:,} bytes, more than {holding} can need"
        raise InputError(field, found.location, valid)
    return shards


@contextmanager
def _reading_parquet() -> Iterator[None]:
    try:
        yield
    # The last four: what `datasets` raises when its own description of the columns is damaged.
    except (pa.ArrowException, OSError, ValueError, TypeError, AttributeError, KeyError) as error:
        raise ValueError(f"its parquet files cannot be read ({error})") from error


def _check_footers(shards: Sequence[Path], manifest: Manifest) -> int:
    """Check what parquet files say of themselves, before memory is given to what they hold.

    Returns:
        How many rows to read at a time.
    """
    with _reading_parquet():
        columns = [column for shard in shards for column in read_columns(shard)]
        footers = [pq.read_metadata(shard) for shard in shards]
        schemas = [footer.schema.to_arrow_schema() for footer in footers]
        groups = [footer.row_group(i) for footer in footers for i in range(footer.num_row_groups)]
        sizes = [group.total_byte_size for group in groups]
    rows = sum(group.num_rows for group in groups)
    if rows != manifest.rows:
        raise ValueError(f"the manifest says {manifest.rows:,} images, its parquet files hold {rows:,}")
    if sum(sizes) > _most_bytes(manifest):
        raise ValueError(f"its columns take {sum(sizes):,} bytes, more than its images can need")
    if any(schema != schemas[0] for schema in schemas):
        raise ValueError("its parquet files do not have the same columns")
    return rows_at_a_time(columns, _PART_ROWS)


def _parts(shards: Sequence[Path], rows: int) -> Iterator[Dataset]:
    """Yield the rows of parquet files, some at a time."""
    for shard in shards:
        with _reading_parquet(), pq.ParquetFile(shard, page_checksum_verification=True) as file:
            # Asked for all row groups at once, or with threads, pyarrow holds far more than it has yet to give.
            for group in range(file.num_row_groups):
                for part in file.iter_batches(rows, row_groups=[group], use_threads=False):
                    yield _dataset(pa.Table.from_batches([part]), shard.name)


def _dataset(table: pa.Table, fingerprint: str) -> Dataset:
    """Wrap a table; without a fingerprint, `datasets` would pickle all rows to find one."""
    return Dataset(table, fingerprint=fingerprint)


def _read_rows(
    shards: Sequence[Path], manifest: Manifest, *, rows: bool, pixels: bool, folder: Path | None
) -> dict[str, Any]:
    """Return the fields of `Artifact` that come from the parquet files.

    Raises:
        ValueError: When the files cannot be read, or are not what format and manifest say.
    """
    part_rows = _check_footers(shards, manifest)
    count, classes, side, free_side = manifest.rows, len(manifest.classes), manifest.image_size, manifest.free_side
    of_pixels = 3 * side**2 * (3 if free_side else 1)
    needed = count * (8 + 4 * classes + (of_pixels if pixels else 0))
    stored = sum(shard.stat().st_size for shard in shards)
    most = min(MOST_DECODED_BYTES, max(SMALL_SET, MOST_EXPANSION * stored))
    if needed > most:
        raise ValueError(f"its images and labels take {needed:,} bytes, at most {most:,} are read of files of {stored:,}")
    if pixels and (shown := manifest.images * 3 * side**2) > MOST_DECODED_BYTES:
        raise ValueError(f"its tiles take {shown:,} bytes at full size, at most {MOST_DECODED_BYTES:,} are shown")
    arrays = arrays_of(manifest, pixels=pixels, folder=folder, fresh=True)
    labels, soft_labels, images, free_pixels = arrays.values()
    kept, digest, row = [], hashlib.sha256(), 0
    for part in _parts(shards, part_rows):
        own = slice(row, row + len(part))
        labels[own], soft_labels[own] = check_rows(part, manifest.class_names, free_side)
        free = read_free_pixels(part, free_side) if free_side else [None] * len(part)
        if free_pixels is not None:
            free_pixels[own] = free
        for cell, free_row in zip(part.data.column("image"), free, strict=True):
            if (size := cell["bytes"].as_buffer().size) > _most_bytes_of_image(side):
                raise ValueError(f"an image of {side} pixels a side has {size:,} bytes, more than it can need")
            decoded = _decoded(cell.as_py(), side)
            hash_row(digest, decoded, labels[row], soft_labels[row], free_row)
            if pixels:
                images[row] = decoded.transpose(2, 0, 1)
            row += 1
        if rows:
            kept.append(part.data.table)
    if row != count:
        raise ValueError(f"its parquet files promise {count:,} images and hold {row:,}")
    check_labels(labels, manifest.class_names, manifest.counts)
    content = digest.hexdigest()
    if content != manifest.content_sha256:
        raise ValueError(
            f"its images or labels were altered: they hash to {content}, the manifest has {manifest.content_sha256}"
        )
    dataset = _dataset(pa.concat_tables(kept), manifest.content_sha256) if rows else None
    return {**arrays, "dataset": dataset}


def _decoded(encoded: Mapping[str, Any], side: int) -> np.ndarray:
    """Decode an image as `load_dataset` does, once its header says what the manifest says: uint8 (S, S, 3)."""
    try:
        size = size_of(encoded["bytes"])
        if size != (side, side):
            raise ValueError(f"it has {size} pixels, the manifest says {(side, side)}")
        return np.asarray(decode(encoded["bytes"]))
    except (ValueError, TypeError) as error:  # TypeError: a path in place of bytes
        raise ValueError(f"an image cannot be used ({error})") from error
