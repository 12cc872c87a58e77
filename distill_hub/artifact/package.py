"""Writing the artifact folder: parquet shards and manifest, complete or not at all."""

import hashlib
import io
import itertools
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq

from distill_hub.artifact.manifest import Manifest
from distill_hub.artifact.schema import check_labels, check_soft_labels, features, hash_row
from distill_hub.disk.files import STATE, atomic_write

ROW_GROUP_ROWS = 100  # the Hub's viewer reads whole row groups, and images are large rows
SHARD_BYTES = 500_000_000  # a shard is closed once it has reached this size
SHARD_GROUPS = 2_000  # or holds as many row groups: whoever checks a footer holds all of it in memory, 40 kB a group


def write_artifact(
    folder: Path,
    rows: Iterable[Mapping[str, Any]],
    build_manifest: Callable[[str], Manifest],
    *,
    class_names: Sequence[str],
    free_side: int | None = None,
    image_format: Literal["png", "webp"] = "png",
) -> Manifest:
    """Write `data/` and `manifest.json` of a distilled set.

    Rows are streamed: memory holds one row group. Everything is complete on the disk, under `<folder>/.run/staging`,
    before it replaces what the folder held, manifest last; the same rows always give the same bytes. Stored views of what
    the folder held go.

    Args:
        folder: The artifact folder; created when missing.
        rows: In final order, each with `image` uint8 (H, W, 3), `label` int, `soft_label` (C,), `confidence` in [0, 1]
            and `seed` int; of a set with free pixels, `pixels` float16 (3, H, W), too; and where that is known already,
            `encoded`, the bytes of the image.
        build_manifest: Gets the content hash, returns the manifest.
        class_names: The C class names, in label order.
        free_side: Side of the images of a set with free pixels; None: of any other set.
        image_format: Lossless encoding of the images that come without.

    Returns:
        The manifest, as written.

    Raises:
        ValueError: When the rows are not what format 1 or the manifest says. The folder is as it was.
        OSError: When the disk is full, for example. What the folder held is still there.
    """
    staging = empty_staging(folder)
    digest, labels, sizes = hashlib.sha256(), [], set()

    def observed():
        for row in rows:
            _check_row(row, len(class_names), free_side)
            hash_row(digest, row["image"], row["label"], row["soft_label"], row.get("pixels"))
            labels.append(int(row["label"]))
            sizes.add(row["image"].shape[:2])
            yield row

    schema = features(class_names, free_side).arrow_schema
    shards = write_shards(staging, _row_groups(observed(), schema, image_format), schema)
    manifest = build_manifest(digest.hexdigest())
    if manifest.class_names != list(class_names):
        raise ValueError(f"the manifest has the classes {manifest.class_names}, the rows {list(class_names)}")
    check_labels(np.asarray(labels, dtype=np.int64), class_names, manifest.counts)
    if sizes != {(manifest.image_size, manifest.image_size)}:
        raise ValueError(f"the manifest says {manifest.image_size} pixels a side, but images have {sorted(sizes)}")
    if manifest.free_side != free_side:
        raise ValueError(f"the manifest says free pixels of side {manifest.free_side}, the rows have {free_side}")
    if manifest.views:
        raise ValueError("stored views are written after the rows they show")
    move_into_place(shards, folder, "data", manifest)
    shutil.rmtree(staging)
    return manifest


def empty_staging(folder: Path) -> Path:
    """Return an empty folder for what is complete before it replaces files of the artifact folder."""
    staging = folder / STATE / "staging"
    shutil.rmtree(staging, ignore_errors=True)  # of an attempt that was cut short
    staging.mkdir(parents=True)
    return staging


def _check_row(row: Mapping[str, Any], classes: int, free_side: int | None) -> None:
    image, soft_label = row["image"], np.asarray(row["soft_label"])
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"an image must be uint8 (H, W, 3), not {image.dtype} {image.shape}")
    if soft_label.shape != (classes,):
        raise ValueError(f"a soft label must have shape ({classes},), not {soft_label.shape}")
    check_soft_labels(soft_label[None].astype(np.float32))
    free = row.get("pixels")
    if (free is None) != (free_side is None):
        raise ValueError("either all rows have free pixels, or none has")
    if free is not None and (free.dtype != np.float16 or free.shape != (3, *image.shape[:2]) or not np.isfinite(free).all()):
        raise ValueError(f"free pixels must be finite float16 (3, H, W), not {free.dtype} {free.shape}")


def _row_groups(rows: Iterator[Mapping[str, Any]], schema: pa.Schema, image_format: str) -> Iterator[pa.Table]:
    while group := list(itertools.islice(rows, ROW_GROUP_ROWS)):
        columns = {name: [row[name] for row in group] for name in schema.names if name != "image"}
        encoded = (row.get("encoded") or encode_image(row["image"], image_format) for row in group)
        columns["image"] = [{"bytes": own, "path": None} for own in encoded]
        columns["soft_label"] = [np.asarray(soft, dtype=np.float32) for soft in columns["soft_label"]]
        if "pixels" in columns:
            columns["pixels"] = [pixels.flatten() for pixels in columns["pixels"]]
        yield pa.Table.from_pydict(columns, schema=schema)


def encode_image(pixels: np.ndarray, image_format: str) -> bytes:
    """Encode an image, uint8 (H, W, 3), as PNG or lossless WebP."""
    buffer = io.BytesIO()
    lossless = {"lossless": True} if image_format == "webp" else {}
    PIL.Image.fromarray(pixels).save(buffer, format=image_format, **lossless)
    return buffer.getvalue()


def write_shards(staging: Path, groups: Iterator[pa.Table], schema: pa.Schema, **options: Any) -> list[Path]:
    """Write tables as row groups of parquet files of about `SHARD_BYTES` or `SHARD_GROUPS`, each safe on the disk.

    Args:
        staging: Where to.
        groups: One table per row group.
        schema: Of the tables.
        options: Of `pq.ParquetWriter`.
    """
    shards: list[Path] = []
    for first in groups:
        shards.append(staging / f"{len(shards):05d}.parquet")
        with open(shards[-1], "wb") as file:
            with pq.ParquetWriter(file, schema, write_page_checksum=True, **options) as writer:
                for group in itertools.islice(itertools.chain([first], groups), SHARD_GROUPS):
                    writer.write_table(group)
                    if file.tell() >= SHARD_BYTES:
                        break
            file.flush()
            os.fsync(file.fileno())
    return shards


def move_into_place(shards: Sequence[Path], folder: Path, kind: Literal["data", "views"], manifest: Manifest) -> None:
    """Replace what the folder holds. Stopped half way, the old manifest refuses the mixture until the next run."""
    place = folder / kind
    place.mkdir(exist_ok=True)
    staged = shards[0].with_name("manifest.json")
    atomic_write(staged, manifest.to_json().encode())  # while a full disk can still do no harm
    names = [f"train-{i:05d}-of-{len(shards):05d}.parquet" for i in range(len(shards))]
    for shard, name in zip(shards, names, strict=True):
        os.replace(shard, place / name)
    stale = set(place.glob("train-*.parquet")) - {place / name for name in names}  # load_dataset would read them, too
    if manifest.views is None:
        stale.update((folder / "views").glob("train-*.parquet"))  # of other images
    for file in stale:
        file.unlink()
    _sync(place)
    os.replace(staged, folder / "manifest.json")
    _sync(folder)


def _sync(folder: Path) -> None:
    """Make the renames in a folder survive a power cut; Windows opens no folder, and has no such call."""
    if sys.platform == "win32":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
