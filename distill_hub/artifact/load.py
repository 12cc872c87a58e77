"""Reading a distilled set back, believing nothing: format, columns, counts and content are checked."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset

from distill_hub.artifact.manifest import Manifest
from distill_hub.artifact.records import EvaluationRecord
from distill_hub.artifact.schema import check_rows, content_sha256
from distill_hub.config import InputError


@dataclass(frozen=True)
class DistilledSet:
    """A distilled set whose data are what its manifest says."""

    path: Path
    dataset: Dataset  # columns of `schema.features`, N = C * IPC rows
    manifest: Manifest
    evaluations: tuple[EvaluationRecord, ...]  # of this content, oldest first


def read_manifest(path: str | Path) -> Manifest:
    """Read the manifest of an artifact folder, leaving the images alone.

    Raises:
        InputError: When the folder or its manifest is missing, unreadable, or of another format version.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise InputError("distilled set", str(path), "there is no such folder")
    if not (folder / "manifest.json").is_file():
        raise InputError("distilled set", str(path), "the folder holds no manifest.json, so it is not a distilled set")
    return Manifest.read(folder / "manifest.json")


def read_evaluations(path: str | Path, manifest: Manifest) -> tuple[EvaluationRecord, ...]:
    """Read the evaluation records of an artifact folder that were measured on the manifest's content, oldest first.

    Records of an earlier content of the same folder say nothing about this one and are left out.

    Raises:
        InputError: When a record cannot be read.
    """
    records = [EvaluationRecord.read(file) for file in sorted((Path(path) / "evaluations").glob("*.json"))]
    return tuple(sorted((r for r in records if r.content_sha256 == manifest.content_sha256), key=lambda record: record.date))


def load_distilled(path: str | Path) -> DistilledSet:
    """Load a distilled set from a local folder and check it.

    Every image is decoded once for the content hash. The rows are held in memory: the cache of `load_dataset` knows a
    file by its path and time of change, and could answer for an altered one.

    Args:
        path: The artifact folder.

    Raises:
        InputError: When the folder or manifest is missing, the format is newer, a file is damaged, or the data are not
            what the manifest says.
    """
    manifest = read_manifest(path)
    folder = Path(path)
    evaluations = read_evaluations(folder, manifest)
    shards = sorted((folder / "data").glob("train-*.parquet"))
    if not shards:
        raise InputError("distilled set", str(path), "the folder holds no data/train-*.parquet")
    try:
        dataset = Dataset(pq.read_table(shards, partitioning=None, page_checksum_verification=True))
    # The last three: what `datasets` raises when its own description of the columns is damaged.
    except (pa.ArrowException, OSError, ValueError, TypeError, AttributeError, KeyError) as error:
        raise InputError("distilled set", str(path), f"its parquet files cannot be read ({error})") from error
    try:
        check_rows(dataset, manifest.class_names, manifest.ipc)
    except ValueError as error:
        raise InputError("distilled set", str(path), str(error)) from error
    try:
        content = content_sha256(_sized(dataset, manifest.image_size))
    # Pillow raises SyntaxError for a broken PNG.
    except (OSError, ValueError, SyntaxError, PIL.Image.DecompressionBombError) as error:
        raise InputError("distilled set", str(path), f"an image cannot be used ({error})") from error
    if content != manifest.content_sha256:
        raise InputError(
            "distilled set",
            str(path),
            f"its images or labels were altered: they hash to {content}, the manifest has {manifest.content_sha256}",
        )
    return DistilledSet(folder, dataset, manifest, evaluations)


def _sized(rows: Dataset, side: int) -> Iterator[Mapping[str, Any]]:
    for row in rows:
        if row["image"].size != (side, side):
            raise ValueError(f"it has {row['image'].size} pixels, the manifest says {(side, side)}")
        yield row
