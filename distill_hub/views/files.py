"""Stored views: the augmented images of every epoch, spelled out, with a teacher's logits; a student needs no teacher.

After FKD (Shen & Xing 2022) and its use for distilled sets in SRe2L (Yin et al. 2023). Their files keep neither the images'
numbers nor their order, which follow from a seed and the version of PyTorch; here a row says all. Of the batches all or the
first are stored (LPLD: Xiao & He 2024), of a view's logits all or the largest.
"""

import functools
import hashlib
import itertools
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from distill_hub.artifact.find import Found
from distill_hub.artifact.load import shard_names
from distill_hub.artifact.manifest import VIEWS_FORMAT, Manifest, ViewsFacts, ViewsRecord
from distill_hub.artifact.package import empty_staging, move_into_place, write_shards
from distill_hub.config import InputError
from distill_hub.disk.pages import read_columns
from distill_hub.views.columns import as_table, fault, packed, unpacked, view_dtype, view_features

# Logits share hardly any values, so a dictionary of them only adds to the size; zstd takes some off their exponents.
PARQUET = {"compression": "zstd", "use_dictionary": False, "write_statistics": False}


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
            `facts.batch_size`, or what is left for the last batch of an epoch of views that are not pruned.
        facts: How the views were made, in the format that is written now.

    Returns:
        The manifest, as written.

    Raises:
        ValueError: When the batches are not what the format and `facts` say. The folder is as it was.
        TypeError: When a column holds numbers of another kind.
        OSError: When the disk is full, for example. What the folder held is still there.
    """
    if facts.format != VIEWS_FORMAT:
        raise ValueError(f"views are written in format {VIEWS_FORMAT}, not {facts.format}")
    staging, digest, classes, images = empty_staging(folder), hashlib.sha256(), len(manifest.classes), manifest.images
    schema = view_features(facts, classes).arrow_schema
    rows = (packed(batch, facts, classes) for batch in batches)
    tables = (as_table(own, schema) for own in _checked(rows, facts, images, classes, digest))
    shards = write_shards(staging, tables, schema, **PARQUET)
    record = ViewsRecord(**dict(facts), rows=facts.views(images), sha256=digest.hexdigest())
    manifest = manifest.model_copy(update={"views": record})
    move_into_place(shards, folder, "views", manifest)
    staging.rmdir()
    return manifest


@dataclass(frozen=True)
class Views:
    """The stored views of a set, checked; read from disk batch by batch, in any order."""

    record: ViewsRecord
    images: int  # N, images of the set
    classes: int  # C
    paths: tuple[Path, ...]  # of the shards, one row group per batch

    @functools.cached_property
    def shards(self) -> list[pq.ParquetFile]:
        """The files, open, since a footer of many groups is not read twice."""
        return [pq.ParquetFile(path, page_checksum_verification=True) for path in self.paths]

    @functools.cached_property
    def starts(self) -> list[int]:
        """Number of the first batch of each shard."""
        return list(itertools.accumulate((shard.num_row_groups for shard in self.shards[:-1]), initial=0))

    def __reduce__(self) -> tuple[type, tuple]:  # open files stay here; who unpickles it opens them anew
        return Views, (self.record, self.images, self.classes, self.paths)

    @property
    def count(self) -> int:
        """Number of stored batches, K."""
        return self.record.batches(self.images)

    def batch(self, index: int) -> dict[str, np.ndarray]:
        """Read a batch: the columns of `view_dtype`, each (B, ...), contiguous.

        Args:
            index: Its number in the order of training, from 0 to K - 1.

        Raises:
            IndexError: When there is no such batch.
        """
        rows = self._rows(index)
        return {name: rows[name].copy() for name in rows.dtype.names}

    def _rows(self, index: int) -> np.ndarray:
        if not 0 <= index < self.count:
            raise IndexError(f"there are batches 0 to {self.count - 1}, not {index}")
        shard = bisect_right(self.starts, index) - 1
        return unpacked(self.shards[shard].read_row_group(index - self.starts[shard]), self.record, self.classes)


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
    classes, images = len(manifest.classes), manifest.images
    most = _most_bytes(record.rows, record.batches(images), record, classes) + 1_000_000
    names = shard_names(found, "views", "views", most, f"{record.rows:,} views")
    folder = found.fetch(names)
    digest = hashlib.sha256()
    try:
        for name in names:
            read_columns(folder / name)  # a damaged footer, and what swells, ends here and not in PyArrow
        views = Views(record, images, classes, tuple(folder / name for name in names))
        for name, shard in zip(names, views.shards, strict=True):
            _check_columns(name, shard, view_features(record, classes).arrow_schema)
        _check_row_groups([shard.metadata for shard in views.shards], record, images, classes)
        for _ in _checked(map(views._rows, range(views.count)), record, images, classes, digest):
            pass
    except (pa.ArrowException, OSError, ValueError) as error:
        raise InputError("views", found.location, str(error)) from error
    if digest.hexdigest() != record.sha256:
        altered = f"they were altered: they hash to {digest.hexdigest()}, the manifest has {record.sha256}"
        raise InputError("views", found.location, altered)
    return views


def _size_of(index: int, facts: ViewsFacts, images: int) -> int:
    """Return how many views a batch has."""
    return min(facts.batch_size, images - index % facts.per_epoch(images) * facts.batch_size)


def _most_bytes(rows: int, batches: int, facts: ViewsFacts, classes: int) -> int:
    """Bound the size of row groups, whoever wrote them: values, the levels of lists, dictionaries, headers."""
    return 4 * rows * view_dtype(classes, facts.top_k).itemsize + 100_000 * batches


def _check_columns(name: str, file: pq.ParquetFile, expected: pa.Schema) -> None:
    columns, wanted = ([(field.name, field.type) for field in schema] for schema in (file.schema_arrow, expected))
    if columns != wanted:
        wrong = next(have or want for have, want in itertools.zip_longest(columns, wanted) if have != want)
        raise ValueError(f"{Path(name).name}: column {wrong[0]!r} is not as the format has it")


def _check_row_groups(footers: list[pq.FileMetaData], record: ViewsRecord, images: int, classes: int) -> None:
    groups = [footer.row_group(i) for footer in footers for i in range(footer.num_row_groups)]
    if len(groups) != record.batches(images):
        share = f"{record.label_share} of " if record.is_pruned else ""
        wanted = f"{share}{record.epochs:,} epochs of {record.per_epoch(images):,} batches"
        raise ValueError(f"{wanted} need {record.batches(images):,} row groups, there are {len(groups):,}")
    for index, group in enumerate(groups):
        size = _size_of(index, record, images)
        if group.num_rows != size:
            raise ValueError(f"a batch of {size} is in a row group of {group.num_rows}")
        # What the columns take once they are read; asked before any is. PyArrow would end the process for a damaged record
        # of a column, which `group.column` looks at.
        if group.total_byte_size > _most_bytes(size, 1, record, classes):
            raise ValueError(f"a batch takes {group.total_byte_size:,} bytes, more than its views can need")


def _checked(
    batches: Iterable[np.ndarray], facts: ViewsFacts, images: int, classes: int, digest: Any
) -> Iterator[np.ndarray]:
    """Pass batches on that are what the format and the facts say, and add their bytes to the hash."""
    batches, per_epoch, count, seen = iter(batches), facts.per_epoch(images), facts.batches(images), []
    for index in range(count):
        epoch, place = divmod(index, per_epoch)
        rows, size = next(batches, None), _size_of(index, facts, images)
        if rows is None or len(rows) != size:
            found = "none" if rows is None else len(rows)
            raise ValueError(f"epoch {epoch}: the next batch must have {size} views, it has {found}")
        if reason := fault(rows, epoch, facts.image_size, classes):
            raise ValueError(f"epoch {epoch}: {reason}")
        seen.append(rows["image_index"].copy())
        if place == per_epoch - 1 or index == count - 1:
            shown = np.sort(np.concatenate(seen))
            seen.clear()
            if shown[0] < 0 or shown[-1] >= images or not np.diff(shown).all():
                raise ValueError(f"epoch {epoch}: every image must be there once{' at most' if facts.is_pruned else ''}")
        digest.update(rows.tobytes())
        yield rows
    if next(batches, None) is not None:
        raise ValueError(f"there are more batches than {facts.epochs} epochs have")
