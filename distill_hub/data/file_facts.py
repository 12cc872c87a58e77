"""What is known of image files: content and size, or why one cannot be used. Remembered in the user's cache, as git does."""

import errno
import hashlib
import os
import time
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from distill_hub.config import InputError
from distill_hub.data.images import check
from distill_hub.running.console import progress
from distill_hub.running.files import atomic_write, cache_dir, slug
from distill_hub.running.lock import wait_for
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


class Facts(NamedTuple):
    """Of one file: the sha256 of its bytes, its sides in px as stored, and why it cannot be used, '' where it can."""

    sha256: bytes
    width: int
    height: int
    broken: str


class _State(NamedTuple):
    """What changes with a file, as its folder knows it: size in bytes, times of change and modification in ns."""

    size: int
    changed: int
    modified: int


def read_facts(root: str, names: Sequence[str], *, quiet: bool = False) -> list[Facts]:
    """Look at image files, each once: later calls read only those that changed. One process of a machine reads.

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
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        lock = wait_for(file.with_name(f"{file.name}.lock"), lambda _: None)
        try:
            return _read_facts(file, root, names, quiet=quiet)
        finally:
            lock.release()
    except OSError as error:
        refused = error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST)
        nowhere = error.errno in (errno.ENOENT, errno.ENAMETOOLONG, errno.ELOOP) and not file.parent.is_dir()  # below /proc
        if not (refused or nowhere):
            raise
        valid = f"nothing can be written there ({error.strerror}); set another folder"
        raise InputError("DISTILL_HUB_CACHE", str(cache_dir()), valid) from error


def _read_facts(file: Path, root: str, names: Sequence[str], *, quiet: bool) -> list[Facts]:
    known = _remembered(file)
    states = [_state(os.path.join(root, name)) for name in names]
    old = {n: known[n][1] for n, state in zip(names, states, strict=True) if state and n in known and known[n][0] == state}
    kept = {name: known[name] for name in old}
    new = [name for name in names if name not in old]
    if not new:
        return [old[name] for name in names]
    of = dict(zip(names, states, strict=True))
    started, written = time.time_ns(), time.monotonic()
    with warnings.catch_warnings(), ThreadPoolExecutor(min(8, cores())) as pool:  # the readers' own is of no use in threads
        warnings.simplefilter("ignore")
        found = _in_order(pool, [os.path.join(root, name) for name in new])
        bar = progress(new, "look at images", unit="image", disable=quiet or len(new) < _MANY)
        for name, facts in zip(bar, found, strict=True):
            old[name], state = facts, of[name]
            # One that changes right after it is read might keep its times.
            if state and started - max(state.changed, state.modified) > _SETTLED * 1e9:
                kept[name] = state, facts
            if time.monotonic() - written > _PAUSE:
                _remember(file, kept)
                written = time.monotonic()
    _remember(file, kept)
    return [old[name] for name in names]


def _in_order(pool: ThreadPoolExecutor, files: Sequence[str]) -> Iterator[Facts]:
    """Look at files in threads, a thousand at a time: millions of tasks would wait in memory."""
    rest = iter(files)
    while some := list(islice(rest, 1000)):
        yield from pool.map(_look_at, some)


def _look_at(file: str) -> Facts:
    try:
        if os.stat(file).st_size > LARGEST:
            return Facts(bytes(32), 0, 0, f"larger than {LARGEST // 2**20} MiB")
        with open(file, "rb") as opened:
            data = opened.read(LARGEST)
    except OSError as error:
        return Facts(bytes(32), 0, 0, f"cannot be read: {error.strerror}")
    digest = hashlib.sha256(data).digest()
    try:
        return Facts(digest, *check(data), "")
    except ValueError as error:
        return Facts(digest, 0, 0, str(error) if data else "it is empty")


def _state(file: str) -> _State | None:
    try:
        found = os.stat(file)
    except OSError:  # gone since the folder was listed: reading it will say so
        return None
    return _State(found.st_size, found.st_ctime_ns, found.st_mtime_ns)


def _remembered(file: Path) -> dict[str, tuple[_State, Facts]]:
    try:
        with pa.OSFile(str(file), "rb") as opened:
            table = pa.ipc.open_file(opened).read_all()
    except (OSError, pa.ArrowInvalid):  # none yet, or damaged: it is made again
        return {}
    if table.schema != _SCHEMA:  # of another version
        return {}
    columns = [column.to_pylist() for column in table.columns]
    return {path: (_State(*rest[:3]), Facts(*rest[3:])) for path, *rest in zip(*columns, strict=True)}


def _remember(file: Path, known: dict[str, tuple[_State, Facts]]) -> None:
    rows = [(path, *state, *facts) for path, (state, facts) in known.items()]
    table = pa.Table.from_pylist([dict(zip(_SCHEMA.names, row, strict=True)) for row in rows], _SCHEMA)
    buffer = pa.BufferOutputStream()
    with pa.ipc.new_file(buffer, _SCHEMA) as writer:
        writer.write_table(table)
    atomic_write(file, buffer.getvalue().to_pybytes())
