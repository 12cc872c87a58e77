"""Reading a set for several processes: one reads and checks it, and all of a machine share what it found."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from accelerate.utils import broadcast_object_list

from distill_hub.artifact.find import Found, read_description
from distill_hub.artifact.load import Artifact, arrays_of, read_artifact, rows_of
from distill_hub.disk.files import cache_dir, check_folder
from distill_hub.disk.lock import Lock, hold, remove_unlocked
from distill_hub.running.folder import LOCK
from distill_hub.running.machine import start_accelerator
from distill_hub.running.processes import main_decides, wait_until_seen


@contextmanager
def scratch() -> Iterator[Path]:
    """Give all processes a folder in the user's cache that is gone in the end; those of killed runs go, too.

    Raises:
        InputError: When nothing can be written there.
    """
    accelerator, place = start_accelerator(), cache_dir() / "scratch"
    locks: list[Lock] = []

    def take() -> None:
        check_folder(place, "DISTILL_HUB_CACHE")
        for left in place.glob("*"):
            remove_unlocked(left, LOCK)
        folder = place / uuid.uuid4().hex
        locks.append(hold(folder / LOCK, "DISTILL_HUB_CACHE", folder, "wait for its end"))

    main_decides(accelerator, take)
    folder = broadcast_object_list([locks[0].file.parent if locks else None])[0]
    wait_until_seen(folder)
    try:
        yield folder
    finally:
        for lock in locks:
            lock.release(folder)


def read_together(found: Found, folder: Path) -> Artifact:
    """Read and check a set with its pixels, on the main process, into files that every process maps.

    Args:
        found: The set.
        folder: All processes see it; see `scratch`.

    Returns:
        The set without its encoded rows: they are not needed any more, and may be as large as the pixels.

    Raises:
        InputError: See `read_artifact`.
        HubError: When the Hub fails.
        SystemExit: On other processes than the main one, where that raises an `InputError`.
    """

    def read() -> None:
        made = read_artifact(found, rows=False, pixels=True, folder=folder)
        for array in (made.labels, made.soft_labels, made.pixels, made.free_pixels):
            if isinstance(array, np.memmap):
                array.flush()  # for processes of other machines

    main_decides(start_accelerator(), read)
    manifest, evaluations = read_description(found)
    place, _ = rows_of(found, manifest)
    commit = found.remote.commit if found.remote else None
    arrays = arrays_of(manifest, pixels=True, folder=folder)
    return Artifact(found.location, place, manifest, evaluations, dataset=None, revision=commit, **arrays)
