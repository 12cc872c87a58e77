"""Reading a distilled set back, from a folder or the Hub, believing nothing: format, counts and content are checked."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset

from distill_hub.artifact.hub import RemoteSet, fetch, look
from distill_hub.artifact.manifest import Manifest
from distill_hub.artifact.records import EvaluationRecord
from distill_hub.artifact.schema import check_rows, content_sha256
from distill_hub.config import InputError

MANIFEST = "manifest.json"
MANIFEST_BYTES = 20_000_000  # room for 100,000 classes
RECORD_BYTES = 1_000_000
MOST_RECORDS = 1000
_SHARD = re.compile(r"data/train-(\d{5})-of-(\d{5})\.parquet").fullmatch
_RECORD = re.compile(r"evaluations/[A-Za-z0-9][A-Za-z0-9_.-]*\.json").fullmatch


@dataclass(frozen=True)
class Found:
    """A set, not read yet: a folder, or the files of a repository at one commit."""

    location: str  # as the user named it
    files: Mapping[str, int]  # name to size in bytes
    folder: Path | None = None
    remote: RemoteSet | None = None

    @property
    def is_artifact(self) -> bool:
        """Whether it says of itself that it is a distilled set in this format."""
        return MANIFEST in self.files

    def fetch(self, names: Iterable[str], *, most_bytes: int | None = None) -> Path:
        """Return the folder that holds some of the files; from the Hub they are downloaded and checked, see `hub.fetch`."""
        return self.folder or fetch(self.remote, names, most_bytes=most_bytes)


@dataclass(frozen=True)
class Artifact:
    """A distilled set whose data are what its manifest says."""

    location: str  # folder or Hub id
    path: Path  # the folder, or where the client caches this commit
    dataset: Dataset  # columns of `schema.features`, N = C * IPC rows
    manifest: Manifest
    evaluations: tuple[EvaluationRecord, ...]  # of this content, oldest first
    revision: str | None = None  # commit on the Hub


def find(location: str | Path, revision: str | None = None) -> Found:
    """Find a set: a folder that exists, else a repository on the Hub, at the commit that `revision` stands for now.

    Raises:
        InputError: When there is neither; see `hub.plain_errors` for the rest.
        HubError: When the Hub fails.
    """
    path = Path(location)
    if path.exists():
        if revision is not None:
            raise InputError("revision", revision, f"{location} lies on this machine; only sets on the Hub have revisions")
        files = (
            {str(f.relative_to(path)): f.stat().st_size for f in path.glob("**/*") if f.is_file()} if path.is_dir() else {}
        )
        return Found(str(location), files, folder=path)
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", str(location)):
        raise InputError("distilled set", str(location), "there is no such folder, and it is not a Hub id NAMESPACE/NAME")
    remote = look(str(location), revision)
    return Found(str(location), {name: file.size for name, file in remote.files.items()}, remote=remote)


def record_names(files: Iterable[str]) -> set[str]:
    """Return the names among `files` that evaluation records have."""
    return {name for name in files if _RECORD(name)}


def read_records(folder: Path) -> dict[str, EvaluationRecord]:
    """Read all evaluation records of a folder, by name, whatever content they were measured on.

    Raises:
        InputError: When one cannot be read.
    """
    names = record_names(f"evaluations/{file.name}" for file in (folder / "evaluations").glob("*.json"))
    return {name: EvaluationRecord.read(folder / name) for name in sorted(names)}


def of_content(records: Iterable[EvaluationRecord], content_sha256: str) -> tuple[EvaluationRecord, ...]:
    """Return the records that were measured on a content, oldest first: the others say nothing about it."""
    own = (record for record in records if record.content_sha256 == content_sha256)
    return tuple(sorted(own, key=lambda record: record.date))


def read_description(found: Found) -> tuple[Manifest, tuple[EvaluationRecord, ...]]:
    """Read manifest and evaluation records, leaving the images alone.

    Records of an earlier content of the same set say nothing about this one and are left out.

    Returns:
        The manifest, and the records oldest first.

    Raises:
        InputError: When one is missing, unreadable, of another format version or of absurd size.
    """
    if not found.is_artifact:
        raise InputError("distilled set", found.location, f"it holds no {MANIFEST}, so it is not a distilled set")
    records = record_names(found.files)
    if len(records) > MOST_RECORDS:
        raise InputError(
            "distilled set", found.location, f"it has {len(records):,} evaluation records, at most {MOST_RECORDS:,} are read"
        )
    found.fetch(records, most_bytes=RECORD_BYTES)
    folder = found.fetch([MANIFEST], most_bytes=MANIFEST_BYTES)
    manifest = Manifest.read(folder / MANIFEST)
    return manifest, of_content(read_records(folder).values(), manifest.content_sha256)


def load_artifact(location: str | Path, revision: str | None = None) -> Artifact:
    """Load a distilled set and check it.

    Every image is decoded once for the content hash. The rows are held in memory: the cache of `load_dataset` knows a
    file by its path and time of change, and could answer for an altered one.

    Args:
        location: The artifact folder, or NAMESPACE/NAME on the Hub.
        revision: Branch, tag or commit on the Hub; default main.

    Raises:
        InputError: When set or manifest is missing, the format is newer, a file is damaged, or the data are not what the
            manifest says.
        HubError: When the Hub fails.
    """
    return read_artifact(find(location, revision))


def read_artifact(found: Found) -> Artifact:
    """Read and check a set that was found; see `load_artifact`."""
    manifest, evaluations = read_description(found)
    shards = _shards(found, manifest)
    folder = found.fetch(shards)
    dataset = _read_rows(found.location, [folder / name for name in shards], manifest)
    return Artifact(found.location, folder, dataset, manifest, evaluations, found.remote.commit if found.remote else None)


def _most_bytes(manifest: Manifest) -> int:
    """Bound the size of the rows, stored or decoded: images without loss need not be larger than their pixels."""
    pixels, classes = 3 * manifest.image_size**2, len(manifest.classes)
    return manifest.rows * (2 * pixels + 8 * classes + 10_000) + 10_000_000


def _shards(found: Found, manifest: Manifest) -> list[str]:
    """Return the names of the parquet files, all there and of a believable size."""
    shards = sorted(name for name in found.files if name.startswith("data/train-"))  # as load_dataset takes them
    counts = [int(name[2]) for name in map(_SHARD, shards) if name]
    if not counts:
        raise InputError("distilled set", found.location, "it holds no data/train-*.parquet")
    count = counts[-1]
    expected = [f"data/train-{i:05d}-of-{count:05d}.parquet" for i in range(min(count, len(shards) + 1))]
    if shards != expected:
        wrong = sorted(set(expected) ^ set(shards))[0]
        raise InputError("distilled set", found.location, f"{wrong} is {'missing' if wrong in expected else 'one too many'}")
    size = sum(found.files[name] for name in shards)
    if size > _most_bytes(manifest):
        valid = f"its parquet files have {size:,} bytes, more than {manifest.rows:,} images can need"
        raise InputError("distilled set", found.location, valid)
    return shards


def _read_rows(location: str, shards: list[Path], manifest: Manifest) -> Dataset:
    def refuse(reason: Any) -> InputError:
        return InputError("distilled set", location, str(reason))

    try:
        footers = [pq.read_metadata(shard) for shard in shards]
        rows = sum(footer.num_rows for footer in footers)
        if rows != manifest.rows:
            raise refuse(f"the manifest says {manifest.rows:,} images, its parquet files hold {rows:,}")
        # What the columns take once they are read; asked before any is.
        groups = [footer.row_group(i) for footer in footers for i in range(footer.num_row_groups)]
        decoded = sum(group.column(i).total_uncompressed_size for group in groups for i in range(group.num_columns))
        if decoded > _most_bytes(manifest):
            raise refuse(f"its columns take {decoded:,} bytes, more than its images can need")
        dataset = Dataset(pq.read_table(shards, partitioning=None, page_checksum_verification=True))
    except InputError:
        raise
    # The last three: what `datasets` raises when its own description of the columns is damaged.
    except (pa.ArrowException, OSError, ValueError, TypeError, AttributeError, KeyError) as error:
        raise refuse(f"its parquet files cannot be read ({error})") from error
    try:
        check_rows(dataset, manifest.class_names, manifest.ipc)
    except ValueError as error:
        raise refuse(error) from error
    try:
        content = content_sha256(_sized(dataset, manifest.image_size))
    # Pillow raises SyntaxError for a broken PNG.
    except (OSError, ValueError, SyntaxError, PIL.Image.DecompressionBombError) as error:
        raise refuse(f"an image cannot be used ({error})") from error
    if content != manifest.content_sha256:
        raise refuse(
            f"its images or labels were altered: they hash to {content}, the manifest has {manifest.content_sha256}"
        )
    return dataset


def _sized(rows: Dataset, side: int) -> Iterator[Mapping[str, Any]]:
    for row in rows:
        if row["image"].size != (side, side):
            raise ValueError(f"it has {row['image'].size} pixels, the manifest says {(side, side)}")
        yield row
