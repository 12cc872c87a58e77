"""Finding a distilled set, in a folder or on the Hub, and reading what it says of itself; its images are left alone."""

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from distill_hub.artifact.base import MANIFEST_BYTES
from distill_hub.artifact.manifest import Manifest
from distill_hub.artifact.records import EvaluationRecord
from distill_hub.config import InputError
from distill_hub.hub import RemoteSet, check_location, fetch, last_authors, look

MANIFEST = "manifest.json"
RECORD_BYTES = 1_000_000
MOST_RECORDS = 1000
MOST_FILES = 2_000_000  # more than ImageNet-1K has
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
        """Return the folder that holds some of the files; from the Hub they are downloaded and checked, see `hub.fetch`.

        Raises:
            InputError: When one of them is larger than `most_bytes`; see also `hub.fetch`.
        """
        if self.remote:
            return fetch(self.remote, names, most_bytes=most_bytes)
        for name in names if most_bytes else ():
            if self.files[name] > most_bytes:
                valid = f"at most {most_bytes:,} are read"
                raise InputError(f"{self.location}/{name}", f"{self.files[name]:,} bytes", valid)
        return self.folder


def find(location: str | Path, revision: str | None = None) -> Found:
    """Find a set: a folder that exists, else a repository on the Hub, at the commit that `revision` stands for now.

    Raises:
        InputError: When there is neither; see `hub.plain_errors` for the rest.
        HubError: When the Hub fails.
    """
    check_location(str(location))
    if os.path.exists(location):
        if revision is not None:
            raise InputError("revision", revision, f"{location} lies on this machine; only sets on the Hub have revisions")
        return Found(str(location), _files(Path(location)), folder=Path(location))
    remote = look(str(location), revision)
    return Found(str(location), {name: file.size for name, file in remote.files.items()}, remote=remote)


def _files(folder: Path) -> dict[str, int]:
    """Return names and sizes of the regular files in a folder; of a file: none. What cannot be looked at is left out."""
    files = {}
    for place, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(place, name)
            if os.path.isfile(path) and os.access(path, os.R_OK):
                files[Path(path).relative_to(folder).as_posix()] = os.path.getsize(path)
        if len(files) > MOST_FILES:
            raise InputError("distilled set", str(folder), f"it holds more than {MOST_FILES:,} files; name a set")
    return files


def record_names(files: Iterable[str]) -> set[str]:
    """Return the names among `files` that evaluation records have."""
    return {name for name in files if _RECORD(name)}


def read_records(folder: Path) -> dict[str, EvaluationRecord]:
    """Read all evaluation records of a folder, by name, whatever content they were measured on.

    Raises:
        InputError: When one cannot be read.
    """
    files = (file for file in (folder / "evaluations").glob("*.json") if file.is_file())
    names = record_names(f"evaluations/{file.name}" for file in files)
    return {name: EvaluationRecord.read(folder / name, RECORD_BYTES) for name in sorted(names)}


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


def signed(found: Found, records: Iterable[EvaluationRecord]) -> set[str]:
    """Return the names of the records' files that the account which they name sent to the Hub itself, as the Hub tells it.

    Raises:
        InputError, HubError: See `hub.plain_errors`.
    """
    named = {f"evaluations/{record.file_name}": record.submitted_by for record in records if record.submitted_by}
    if found.remote is None:
        return set()
    authors = last_authors(found.remote, named.keys() & found.files.keys())
    return {name.removeprefix("evaluations/") for name, account in named.items() if account in authors.get(name, ())}


def folder_bytes(files: Mapping[str, int], folder: str) -> int:
    """Return the size in bytes of what lies in a folder of a set, from names and sizes of its files; see `Found.files`."""
    return sum(size for name, size in files.items() if name.startswith(f"{folder}/"))
