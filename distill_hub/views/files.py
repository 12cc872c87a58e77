"""Stored views: the augmented images of every epoch, spelled out, with a teacher's logits; a student needs no teacher.

After FKD (Shen & Xing 2022) and its use for distilled sets in SRe2L (Yin et al. 2023). Their files keep neither the images'
numbers nor their order, which follow from a seed and the version of PyTorch; here a row says all.
"""

import hashlib
import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Features, List, Value

from distill_hub.artifact.find import Found
from distill_hub.artifact.load import shard_names
from distill_hub.artifact.manifest import Manifest, ViewsFacts, ViewsRecord
from distill_hub.artifact.package import empty_staging, move_into_place, write_shards
from distill_hub.artifact.pages import read_columns
from distill_hub.config import InputError

# Logits share hardly any values, so a dictionary of them only adds to the size; zstd takes some off their exponents.
PARQUET = {"compression": "zstd", "use_dictionary": False, "write_statistics": False}
_TOLERANCE = 1e-6  # of fractions in float32


def view_dtype(classes: int) -> np.dtype:
    """Return the columns of `views/`, packed: a row's bytes, little-endian and without gaps, are what the hash covers."""
    return np.dtype(
        [
            ("epoch", "<i4"),  # from 0
            ("image", "<i4"),  # row of the default configuration
            ("crop", "<f4", (4,)),  # top, left, height, width, as fractions of the side
            ("flip", "?"),  # whether the crop is mirrored
            ("partner", "<i4"),  # row of the default configuration; its view of this epoch is pasted in
            ("box", "<i4", (4,)),  # top, left, bottom, right of what is pasted, in pixels of the finished view
            ("share", "<f4"),  # of the area, what the box leaves
            ("logits", "<f2", (classes,)),  # the teacher's, of the finished view, in label order
        ]
    )


def view_features(classes: int) -> Features:
    """Return the columns of `views/` as `datasets` knows them."""

    def feature(kind: np.dtype) -> Value | List:
        value = Value(kind.base.name)
        return List(value, length=kind.shape[0]) if kind.shape else value

    columns = view_dtype(classes)
    return Features({name: feature(columns[name]) for name in columns.names})


def write_views(
    folder: Path, manifest: Manifest, batches: Iterable[Mapping[str, np.ndarray]], facts: ViewsFacts
) -> Manifest:
    """Write `views/` of a distilled set, and its manifest anew; earlier views are replaced.

    Batches are streamed: memory holds one. Everything is complete on the disk, under `<folder>/.run/staging`, before it
    replaces what the folder held, manifest last; the same batches always give the same bytes.

    Args:
        folder: The artifact folder.
        manifest: The set's, as it is in the folder.
        batches: In training order, each the columns of `view_dtype` for the rows of one batch, shape (B, ...); B is
            `facts.batch_size`, or what is left for the last batch of an epoch.
        facts: How the views were made.

    Returns:
        The manifest, as written.

    Raises:
        ValueError: When the batches are not what the format and `facts` say. The folder is as it was.
        TypeError: When a column holds numbers of another kind.
        OSError: When the disk is full, for example. What the folder held is still there.
    """
    staging, digest, classes = empty_staging(folder), hashlib.sha256(), len(manifest.classes)
    schema = view_features(classes).arrow_schema
    packed = (_packed(batch, classes) for batch in batches)
    tables = (_table(rows, schema) for rows in _checked(packed, facts, manifest.images, digest))
    shards = write_shards(staging, tables, schema, **PARQUET)
    record = ViewsRecord(**dict(facts), rows=facts.epochs * manifest.images, sha256=digest.hexdigest())
    manifest = manifest.model_copy(update={"views": record})
    move_into_place(shards, folder, "views", manifest)
    staging.rmdir()
    return manifest


@dataclass(frozen=True)
class Views:
    """The stored views of a set, checked; read from disk batch by batch."""

    record: ViewsRecord
    images: int  # N, images of the set
    classes: int  # C
    shards: tuple[tuple[Path, pq.FileMetaData], ...]  # one row group per batch

    def batches(self, epoch: int) -> Iterator[dict[str, np.ndarray]]:
        """Yield the batches of an epoch in training order, each the columns of `view_dtype`, shape (B, ...).

        Raises:
            IndexError: When there is no such epoch.
        """
        for rows in self._rows(epoch):
            yield {name: rows[name].copy() for name in rows.dtype.names}

    def _rows(self, epoch: int) -> Iterator[np.ndarray]:
        if not 0 <= epoch < self.record.epochs:
            raise IndexError(f"there are epochs 0 to {self.record.epochs - 1}, not {epoch}")
        per_epoch = _per_epoch(self.images, self.record.batch_size)
        first, last, before = epoch * per_epoch, (epoch + 1) * per_epoch, 0
        for path, footer in self.shards:
            own = range(max(first, before), min(last, before + footer.num_row_groups))
            if own:
                with pq.ParquetFile(path, metadata=footer, page_checksum_verification=True) as file:
                    for batch in own:
                        yield _unpacked(file.read_row_group(batch - before), self.classes)
            before += footer.num_row_groups


def open_views(found: Found, manifest: Manifest) -> Views:
    """Find the stored views of a set and check every value, believing nothing; from the Hub they are downloaded.

    Args:
        found: The set.
        manifest: Its manifest.

    Raises:
        InputError: When the set has no stored views, a file is missing or damaged, or they are not what the manifest says.
        HubError: When the Hub fails.
    """
    record = manifest.views
    if record is None:
        raise InputError("views", found.location, "the set holds no stored views")
    classes, batches = len(manifest.classes), record.epochs * _per_epoch(manifest.images, record.batch_size)
    most = _most_bytes(record.rows, batches, classes) + 1_000_000
    names = shard_names(found, "views", "views", most, f"{record.rows:,} views")
    folder = found.fetch(names)
    digest = hashlib.sha256()
    try:
        for name in names:
            read_columns(folder / name)  # a damaged footer, and what swells, ends here and not in PyArrow
        footers = [_footer(folder / name, classes) for name in names]
        _check_row_groups(footers, record, manifest.images, classes)
        shards = tuple((folder / name, footer) for name, footer in zip(names, footers, strict=True))
        views = Views(record, manifest.images, classes, shards)
        stored = (rows for epoch in range(record.epochs) for rows in views._rows(epoch))
        for _ in _checked(stored, record, manifest.images, digest):
            pass
    except (pa.ArrowException, OSError, ValueError) as error:
        raise InputError("views", found.location, str(error)) from error
    if digest.hexdigest() != record.sha256:
        altered = f"they were altered: they hash to {digest.hexdigest()}, the manifest has {record.sha256}"
        raise InputError("views", found.location, altered)
    return views


def _per_epoch(images: int, batch_size: int) -> int:
    return -(-images // batch_size)


def _batch_sizes(images: int, batch_size: int) -> list[int]:
    return [min(batch_size, images - start) for start in range(0, images, batch_size)]


def _most_bytes(rows: int, batches: int, classes: int) -> int:
    """Bound the size of row groups, whoever wrote them: values, the levels of lists, dictionaries, headers."""
    return 4 * rows * view_dtype(classes).itemsize + 100_000 * batches


def _footer(path: Path, classes: int) -> pq.FileMetaData:
    expected = view_features(classes).arrow_schema
    with pq.ParquetFile(path) as file:
        columns, wanted = ([(field.name, field.type) for field in schema] for schema in (file.schema_arrow, expected))
        if columns != wanted:
            wrong = next(have or want for have, want in itertools.zip_longest(columns, wanted) if have != want)
            raise ValueError(f"{path.name}: column {wrong[0]!r} is not as the format has it")
        return file.metadata


def _check_row_groups(footers: list[pq.FileMetaData], record: ViewsRecord, images: int, classes: int) -> None:
    groups = [footer.row_group(i) for footer in footers for i in range(footer.num_row_groups)]
    per_epoch = _per_epoch(images, record.batch_size)
    if len(groups) != record.epochs * per_epoch:  # before a list as long as the manifest says is made
        wanted = f"{record.epochs:,} epochs of {per_epoch:,} batches need as many row groups"
        raise ValueError(f"{wanted}, there are {len(groups):,}")
    for group, size in zip(groups, _batch_sizes(images, record.batch_size) * record.epochs, strict=True):
        if group.num_rows != size:
            raise ValueError(f"a batch of {size} is in a row group of {group.num_rows}")
        # What the columns take once they are read; asked before any is. PyArrow would end the process for a damaged record
        # of a column, which `group.column` looks at.
        if group.total_byte_size > _most_bytes(size, 1, classes):
            raise ValueError(f"a batch takes {group.total_byte_size:,} bytes, more than its views can need")


def _checked(batches: Iterable[np.ndarray], facts: ViewsFacts, images: int, digest: Any) -> Iterator[np.ndarray]:
    """Pass batches on that are what the format and the facts say, and add their bytes to the hash."""
    batches = iter(batches)
    for epoch in range(facts.epochs):
        seen = []
        for size in _batch_sizes(images, facts.batch_size):
            rows = next(batches, None)
            if rows is None or len(rows) != size:
                found = "none" if rows is None else len(rows)
                raise ValueError(f"epoch {epoch}: the next batch must have {size} views, it has {found}")
            if reason := _fault(rows, epoch, facts.image_size):
                raise ValueError(f"epoch {epoch}: {reason}")
            seen.append(rows["image"].copy())
            digest.update(rows.tobytes())
            yield rows
        if not np.array_equal(np.sort(np.concatenate(seen)), np.arange(images)):
            raise ValueError(f"epoch {epoch}: every image must be there once")
    if next(batches, None) is not None:
        raise ValueError(f"there are more batches than {facts.epochs} epochs have")


def _fault(rows: np.ndarray, epoch: int, side: int) -> str | None:
    """Say what is wrong with a batch."""
    crop, box = rows["crop"].astype(np.float64), rows["box"].astype(np.int64)
    heights, widths = box[:, 2] - box[:, 0], box[:, 3] - box[:, 1]
    share = 1 - heights * widths / side**2
    # Each of these is false for a number that is none.
    rules = {
        "a row is of another epoch": rows["epoch"] == epoch,
        "crops must lie inside the image": (crop[:, :2] >= 0)
        & (crop[:, 2:] > 0)
        & (crop[:, :2] + crop[:, 2:] <= 1 + _TOLERANCE),
        "partners must be images of the same batch": np.isin(rows["partner"], rows["image"]),
        "boxes must lie inside the image": (box >= 0).all(1) & (box <= side).all(1) & (heights >= 0) & (widths >= 0),
        "share must be what the box leaves of the area": np.abs(rows["share"] - share) <= _TOLERANCE,
        "logits must be finite": np.isfinite(rows["logits"]),
    }
    return next((reason for reason, holds in rules.items() if not holds.all()), None)


def _packed(batch: Mapping[str, np.ndarray], classes: int) -> np.ndarray:
    columns = view_dtype(classes)
    if set(batch) != set(columns.names):
        raise ValueError(f"a batch needs the columns {', '.join(columns.names)}, not {', '.join(batch)}")
    rows = np.empty(len(batch["image"]), columns)
    for name in columns.names:
        values = np.asarray(batch[name])
        if values.shape != rows[name].shape:
            raise ValueError(f"{name} must have shape {rows[name].shape}, not {values.shape}")
        with np.errstate(over="ignore"):  # infinite logits are refused with all others
            np.copyto(rows[name], values, casting="same_kind")
    return rows


def _unpacked(table: pa.Table, classes: int) -> np.ndarray:
    rows = np.empty(table.num_rows, view_dtype(classes))
    for name in rows.dtype.names:
        column = table.column(name).combine_chunks()
        values = column.flatten() if pa.types.is_fixed_size_list(column.type) else column
        if column.null_count or values.null_count:
            raise ValueError(f"column {name!r} has empty cells")
        rows[name] = values.to_numpy(zero_copy_only=False).reshape(rows[name].shape)
    return rows


def _table(rows: np.ndarray, schema: pa.Schema) -> pa.Table:
    def column(values: np.ndarray) -> pa.Array:
        flat = pa.array(values.ravel())
        return flat if values.ndim == 1 else pa.FixedSizeListArray.from_arrays(flat, values.shape[1])

    return pa.table([column(rows[name]) for name in schema.names], schema=schema)
