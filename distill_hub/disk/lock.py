"""Locks: who works in a folder, or makes what others wait for, on this machine or on one that shares the folder.

The kernel holds the lock of a process and lets go of it however the process ends. Not every shared folder passes such locks
on to other machines. So the lock's file also says who holds it, and its time of change is the holder's sign of life; it is
compared with the clock of the file system, never with that of a machine.

A *lease* is a lock that others may take over after a while without a sign of life, though the kernel says that its holder
lives: it was stopped, or its machine hangs.
"""

import atexit
import errno
import functools
import json
import os
import platform
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from distill_hub.config import InputError
from distill_hub.disk.files import remove
from distill_hub.ending import FULL
from distill_hub.text import printable

SIGN_EVERY = 15.0  # seconds between two signs of life
LOST_AFTER = 90.0  # seconds without one, after which the holder of a lease, or one on another machine, counts as dead
_NOT_SUPPORTED = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)
_held: dict[Path, "Lock"] = {}


class Busy(Exception):
    """Somebody else holds the lock; says who."""


class Lock:
    """A lock that this process holds, until `release` or its end.

    Args:
        file: The lock's own file; made, with its folder, where it is not there.
        lease: Take it from a holder that lives, too, if there was no sign of that for `LOST_AFTER` seconds.

    Raises:
        Busy: When somebody else holds it.
        OSError: When the file cannot be written.
    """

    def __init__(self, file: Path, *, lease: bool = False):
        self.file, self.process, self.thread = file.absolute(), os.getpid(), threading.get_ident()
        file.parent.mkdir(parents=True, exist_ok=True)
        self._handle = _taken(file, lease)
        self._released = threading.Event()
        _held[self.file] = self
        threading.Thread(target=self._stay, args=(SIGN_EVERY,), daemon=True).start()

    def release(self, folder: Path | None = None) -> None:
        """Let go, and remove the lock's file, or the whole folder that it lies in. Nothing happens the second time."""
        if self._released.is_set():
            return
        self._released.set()
        del _held[self.file]
        is_own = self.is_held  # what somebody else has taken over is theirs
        if sys.platform == "win32":  # which deletes no open file
            os.close(self._handle)
        if folder is None:
            if is_own:
                self.file.unlink(missing_ok=True)
        else:
            gone = folder.with_name(f".{folder.name}.{self.process}.gone")
            os.rename(folder, gone)  # at once: whoever comes now finds no folder half removed
            remove(gone)
        if sys.platform != "win32":
            os.close(self._handle)

    @property
    def is_held(self) -> bool:
        """Whether nobody has taken it over, or deleted its file."""
        return _is_file_of(self.file, self._handle) and _owner(self._handle) == _this_process()

    def check(self) -> None:
        """Refuse to go on where it is not held any more: what is written now might be mixed with what others write.

        Raises:
            InputError: When another machine has taken it over, because it saw no sign of life, or its file was deleted.
        """
        if not self.is_held:
            raise InputError("lock", str(self.file), "another run has taken over, or it was deleted; this run ends here")

    def _stay(self, pause: float) -> None:
        """Show signs of life."""
        while not self._released.wait(pause):
            with suppress(OSError):  # a network's file system may be gone for a while, and come back
                os.utime(self._handle if os.utime in os.supports_fd else self.file)


def hold(file: Path, field: str, place: Path, advice: str, *, again: bool = False) -> Lock:
    """Take a lock, or refuse to go on without it.

    Args:
        file: See `Lock`.
        field: What named the place, for the error.
        place: What the lock is for.
        advice: What to do where somebody else holds it.
        again: Take over the lock that this thread itself holds: of work that an error ended, and that nobody released.

    Raises:
        InputError: When somebody else holds it: who, and when there was a sign of life; or when it cannot be written.
    """
    own = _held.get(file.absolute())
    if again and own and (own.process, own.thread) == (os.getpid(), threading.get_ident()):
        own.release()
    try:
        return Lock(file)
    except Busy as error:
        raise InputError(field, str(place), f"{error}; {advice}") from None
    except OSError as error:
        if error.errno in FULL:
            raise
        raise InputError(field, str(place), f"{file} cannot be locked ({error.strerror})") from error


def wait_for(file: Path, say: Callable[[str], Any], *, lease: bool = False) -> Lock:
    """Take a lock, see `Lock`, as soon as it is free; say once who holds it meanwhile."""
    said = False
    while True:
        try:
            return Lock(file, lease=lease)
        except Busy as error:
            if not said:
                say(str(error))
            said = True
            time.sleep(0.2)


def remove_unlocked(folder: Path, file: str) -> None:
    """Remove a folder, unless somebody holds the lock whose file is in it.

    Args:
        folder: It need not be there; a link is left alone.
        file: Name of the lock's file in it.
    """
    if folder.is_dir() and not folder.is_symlink():
        with suppress(Busy, OSError):  # somebody else may work there, or may own it
            Lock(folder / file).release(folder)


@atexit.register
def release_all() -> None:
    """Release what this process holds: at its end, or when work in it has failed."""
    for lock in list(_held.values()):
        if lock.process == os.getpid():  # not a process that was forked from the holder's
            lock.release()


def _taken(file: Path, lease: bool) -> int:
    """Return the handle of a lock's file, locked, with this process's name in it; see `Lock`.

    Raises:
        Busy: When somebody else holds it.
    """
    own = _this_process()
    while True:
        handle = os.open(file, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
        try:
            free = _lock(handle)
            if not _is_file_of(file, handle):  # its holder let go, and removed it, in this moment
                os.close(handle)
                continue
            owner = _owner(handle)
            if free is False or (owner and (free is None or owner["machine"] != own["machine"])):
                age = _now(file.parent) - os.fstat(handle).st_mtime
                if age < LOST_AFTER or (free is False and not lease):
                    raise Busy(_who(owner, age))
                _take_from(file, handle)
                os.close(handle)
                continue
            os.truncate(handle, 0)
            os.lseek(handle, 0, os.SEEK_SET)
            os.write(handle, json.dumps(own).encode())
            return handle
        except BaseException:
            os.close(handle)
            raise


def _take_from(file: Path, handle: int) -> None:
    """Remove the file of a lost holder, so that it sees, should it live after all, that it is not there any more.

    Raises:
        Busy: When somebody else does the same now: the file's name may be that of a new one already.
    """
    alone = Lock(file.with_name(f"{file.name}.taken"))
    if _is_file_of(file, handle):
        file.unlink()
    alone.release()


def _lock(handle: int) -> bool | None:
    """Lock a file for this process alone; return whether it was free, or None where the file system has no locks."""
    try:
        if sys.platform == "win32":
            import msvcrt

            os.lseek(handle, 1 << 30, os.SEEK_SET)  # behind what others read
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _NOT_SUPPORTED:
            return None
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES, errno.EDEADLK):
            return False
        raise
    return True


def _is_file_of(file: Path, handle: int) -> bool:
    try:
        return os.path.samestat(os.stat(file), os.fstat(handle))
    except FileNotFoundError:
        return False


def _owner(handle: int) -> dict[str, Any] | None:
    """Return what a lock's file says of its holder; None where it says nothing yet."""
    os.lseek(handle, 0, os.SEEK_SET)
    try:
        owner = json.loads(os.read(handle, 10_000))
        return {name: owner[name] for name in _this_process()}
    except (ValueError, KeyError, TypeError):
        return None


def _who(owner: dict[str, Any] | None, age: float) -> str:
    process, host = (printable(str(owner[name])[:80]) for name in ("process", "host")) if owner else ("", "")
    holder = f"process {process} on {host}" if owner else "another process"
    return f"{holder} is at work there, its last sign of life {max(0, age):.0f} s ago"


def _now(folder: Path) -> float:
    """Return the time of the file system that a folder lies on."""
    with tempfile.TemporaryFile(dir=folder) as file:
        return os.fstat(file.fileno()).st_mtime


def _this_process() -> dict[str, Any]:
    """Return what tells this process from all others on all machines, of which some may share a name."""
    return {**_machine(), "process": os.getpid()}


@functools.cache
def _machine() -> dict[str, str]:
    boot = Path("/proc/sys/kernel/random/boot_id")
    machine = boot.read_text(encoding="ascii").strip() if boot.exists() else platform.node()
    return {"machine": machine, "host": platform.node()}
