"""What is known of image files: content and size, or why one cannot be used. Remembered in the user's cache, as git does."""

import errno
import hashlib
import os
import secrets
import time
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from distill_hub.config import InputError
from distill_hub.data.images import check
from distill_hub.disk.files import atomic_write, cache_dir, slug
from distill_hub.disk.lock import wait_for
from distill_hub.running.console import progress
from distill_hub.running.machine import cores

LARGEST = 2**29  # bytes of one file
_MANY = 2000  # files from which on a bar is shown
_PAUSE = 60.0  # seconds after which what is known is written down, for a run that is killed
_SETTLED = 2.0  # seconds after which a changed file has another time, whatever the file system
_SCHEMA = pa.schema(
    [
        ("path", pa.string()), ("size", pa.int64()), ("changed", pa.int64()), ("modified", pa.int64()),
        ("sha256", pa.binary(32)), ("width", pa.int32()), ("height", pa.int32()), ("broken", pa.string()),
    ]
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Facts:
    """Of N files, in arrays: a million of them would be a gigabyte of objects in every process."""

    sha256: np.ndarray  # uint8 (N, 32), of the bytes of each
    sides: np.ndarray  # int32 (N, 2), width and height in px as stored
    broken: np.ndarray  # objects (N,), why one cannot be used, '' where it can

    def __len__(self) -> int:
        return len(self.sha256)

    def take(self, rows: Sequence[int] | slice) -> "Facts":
        """Return those of some files."""
        return Facts(self.sha256[rows], self.sides[rows], self.broken[rows])


class _Look(NamedTuple):
    """At one file."""

    sha256: bytes
    width: int
    height: int
    broken: str


State = tuple[int, int, int]  # what changes with a file, as its folder knows it: bytes, times of change and modification, ns
_GONE = -1, -1, -1


def read_facts(root: str, names: Sequence[str], *, quiet: bool = False) -> Facts:
    """Look at image files, each once: later calls read only those that changed. One process of all that ask looks.

    Args:
        root: Folder.
        names: Paths from it.
        quiet: Show no progress.

    Returns:
        What is known of each, in their order.

    Raises:
        InputError: When nothing can be written to the user's cache.
    """
    real = os.path.realpath(root)
    file = cache_dir() / "sources" / f"{slug(real)}-{hashlib.sha256(os.fsencode(real)).hexdigest()[:12]}.arrow"
    asked, before = hashlib.sha256("\n".join(names).encode()).hexdigest(), _looked(file)
    with locked(file):
        # Where another process has looked while this one waited, its look serves: of a million files even that takes long.
        now = _looked(file)
        served = now != before and now[:1] == [asked]
        facts = _read_facts(file, root, names, quiet=quiet, trusted=served)
        if not served:
            atomic_write(file.with_suffix(".looked"), f"{asked} {secrets.token_hex(8)}".encode())
        return facts


def _looked(file: Path) -> list[str]:
    """Return what the last look at a folder was at, and a number of its own; nothing where there was none."""
    try:
        return file.with_suffix(".looked").read_text(encoding="ascii").split()
    except (OSError, ValueError):
        return []


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """Hold the lock of a file in the user's cache, as soon as it is free.

    Raises:
        InputError: When nothing can be written there.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        lock = wait_for(file.with_name(f"{file.name}.lock"), lambda _: None)
        try:
            yield
        finally:
            lock.release()
    except OSError as error:
        refused = error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST)
        nowhere = error.errno in (errno.ENOENT, errno.ENAMETOOLONG, errno.ELOOP) and not file.parent.is_dir()  # below /proc
        if not (refused or nowhere):
            raise
        valid = f"nothing can be written there ({error.strerror}); set another folder"
        raise InputError("DISTILL_HUB_CACHE", str(cache_dir()), valid) from error


def _read_facts(file: Path, root: str, names: Sequence[str], *, quiet: bool, trusted: bool) -> Facts:
    paths, known = pa.array(names, pa.string()), _remembered(file)
    places = pc.fill_null(pc.index_in(paths, known["path"]), -1).to_numpy()  # in what is known
    remembered = places >= 0
    known = known.drop_columns("path")
    found = known.take(pa.array(places[remembered]))
    states = np.full((len(names), 3), _GONE, np.int64)
    states[remembered] = _rows(found, "size", "changed", "modified")
    if not trusted:
        before = states
        looks = (state_of(os.path.join(root, name)) for name in names)
        states = np.fromiter(looks, np.dtype((np.int64, 3)), len(names))
        remembered &= (before == states).all(1) & (states >= 0).all(1)
        found = known.take(pa.array(places[remembered]))
    count = len(names)
    facts = Facts(np.zeros((count, 32), np.uint8), np.zeros((count, 2), np.int32), np.full(count, "", object))
    facts.sha256[remembered] = np.frombuffer(b"".join(found["sha256"].to_pylist()), np.uint8).reshape(-1, 32)
    facts.sides[remembered] = _rows(found, "width", "height")
    facts.broken[remembered] = found["broken"].to_numpy()
    new = np.flatnonzero(~remembered)
    if not len(new):
        return facts
    settled, written = have_settled(states), time.monotonic()
    with warnings.catch_warnings(), ThreadPoolExecutor(min(8, cores())) as pool:  # the readers' own is of no use in threads
        warnings.simplefilter("ignore")
        looks = _in_order(pool, (os.path.join(root, names[row]) for row in new))
        bar = progress(new, "look at images", unit="image", disable=quiet or len(new) < _MANY)
        for row, look in zip(bar, looks, strict=True):
            facts.sha256[row] = np.frombuffer(look.sha256, np.uint8)
            facts.sides[row], facts.broken[row] = (look.width, look.height), look.broken
            remembered[row] = settled[row]
            if time.monotonic() - written > _PAUSE:
                _remember(file, paths, states, facts, remembered)
                written = time.monotonic()
    _remember(file, paths, states, facts, remembered)
    return facts


def _rows(table: pa.Table, *columns: str) -> np.ndarray:
    return np.stack([table[column].to_numpy() for column in columns], 1)


def _in_order(pool: ThreadPoolExecutor, files: Iterator[str]) -> Iterator[_Look]:
    """Look at files in threads, a thousand at a time: millions of tasks would wait in memory."""
    while some := list(islice(files, 1000)):
        yield from pool.map(_look_at, some)


def _look_at(file: str) -> _Look:
    try:
        if os.stat(file).st_size > LARGEST:
            return _Look(bytes(32), 0, 0, f"larger than {LARGEST // 2**20} MiB")
        with open(file, "rb") as opened:
            data = opened.read(LARGEST)
    except OSError as error:
        return _Look(bytes(32), 0, 0, f"cannot be read: {error.strerror}")
    digest = hashlib.sha256(data).digest()
    try:
        return _Look(digest, *check(data), "")
    except ValueError as error:
        return _Look(digest, 0, 0, str(error) if data else "it is empty")


def state_of(file: str) -> State:
    """Return size and times of a file; of one that is gone since it was listed, -1: reading it will say so."""
    try:
        found = os.stat(file)
    except OSError:
        return _GONE
    return found.st_size, found.st_ctime_ns, found.st_mtime_ns


def have_settled(states: Sequence[State] | np.ndarray) -> np.ndarray:
    """Tell of which files a change from now on would be seen: one right after another might leave the times as they are."""
    states = np.asarray(states)
    return (states >= 0).all(1) & (time.time_ns() - states[:, 1:].max(1) > _SETTLED * 1e9)


def _remembered(file: Path) -> pa.Table:
    try:
        with pa.OSFile(str(file), "rb") as opened:
            table = pa.ipc.open_file(opened).read_all()
        table.validate(full=True)  # where it is damaged, the process might end
        if table.schema == _SCHEMA and not any(column.null_count for column in table.columns):
            return table
    except (OSError, ValueError, pa.ArrowException):  # none yet, or damaged
        pass
    return _SCHEMA.empty_table()  # it is made again, also that of another version


def _remember(file: Path, paths: pa.Array, states: np.ndarray, facts: Facts, rows: np.ndarray) -> None:
    digests = pa.FixedSizeBinaryArray.from_buffers(pa.binary(32), len(paths), [None, pa.py_buffer(facts.sha256)])
    columns = [paths, *map(pa.array, states.T), digests, *map(pa.array, facts.sides.T), pa.array(facts.broken, pa.string())]
    buffer = pa.BufferOutputStream()
    with pa.ipc.new_file(buffer, _SCHEMA) as writer:
        writer.write_table(pa.table(columns, schema=_SCHEMA).filter(pa.array(rows)))
    atomic_write(file, buffer.getvalue().to_pybytes())
