"""What is made once, of several runs that want it: one makes it, the others wait."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from distill_hub.config import InputError
from distill_hub.disk.files import cache_dir
from distill_hub.disk.lock import wait_for
from distill_hub.ending import FULL

Say = Callable[[str], Any]


@contextmanager
def missing(path: Path, stage: str, say: Say) -> Iterator[bool]:
    """Hold the lock of a file or folder that is to be made; yield whether it is still missing.

    Args:
        path: Of what is complete from the moment it exists.
        stage: What makes it, for the line that says that another run is waited for.
        say: Prints that.

    Raises:
        InputError: When nothing can be written where it is to be made.
    """
    lock = path.with_name(f"{path.name}.lock")
    if path.exists() and not lock.exists():  # in a folder, perhaps, that only others can write to
        yield False
        return
    try:
        held = wait_for(lock, lambda holder: say(f"{stage}: waiting for the same of another run; {holder}"))
    except OSError as error:
        if error.errno in FULL:
            raise
        field = "DISTILL_HUB_CACHE" if path.is_relative_to(cache_dir()) else "folder"
        valid = f"nothing can be written there ({error.strerror}); name another folder"
        raise InputError(field, str(path.parent), valid) from error
    try:
        yield not path.exists()
    finally:
        held.release()


@contextmanager
def turn(lock: Path, stage: str, say: Say) -> Iterator[None]:
    """Let those that have joined a run do something one after the other.

    Args:
        lock: File of its lock.
        stage: What they do, for the line that says that another one is waited for.
        say: Prints that.
    """
    held = wait_for(lock, lambda holder: say(f"{stage}: waiting for it; {holder}"))
    try:
        yield
    finally:
        held.release()
