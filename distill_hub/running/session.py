"""Work on a set that exists already: kept while it is interrupted, gone once it is done."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from distill_hub.config import InputError
from distill_hub.disk.files import STATE, cache_dir, check_folder, remove, remove_temporary
from distill_hub.disk.lock import Lock, hold
from distill_hub.running.dry_run import DryRun
from distill_hub.running.folder import LOCK
from distill_hub.running.machine import start_accelerator
from distill_hub.running.mapped import ARRAY
from distill_hub.running.place import Place
from distill_hub.running.processes import main_decides
from distill_hub.running.run import Run
from distill_hub.running.trackers import STARTS
from distill_hub.running.versions import versions


@contextmanager
def session(
    what: str, settings: Mapping[str, Any], *, dry_run: bool = False, log_with: str | None = None, project: str = ""
) -> Iterator[Run]:
    """Open a run in the user's cache; the same call after an interruption goes on where it stopped.

    Args:
        what: 'evaluations' or 'views': its folder in the cache.
        settings: All that the results depend on.
        dry_run: Open a `DryRun`, which prints its plan at the end.
        log_with: Trackers; see `Trackers.open`, as the next.
        project: What they call it.

    Raises:
        InputError: When the same is running already.
    """
    accelerator = start_accelerator()
    settings = {**settings, "mixed_precision": accelerator.mixed_precision, "versions": versions()}
    key = hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:16]
    folder = cache_dir() / what / key
    if dry_run:
        dry = DryRun(folder, settings)
        yield dry
        dry.close()
        return
    locks: list[Lock] = []

    def take() -> None:
        check_folder(folder, "DISTILL_HUB_CACHE")
        locks.append(hold(folder / STATE / LOCK, what, folder, "the same is running already; wait for it to end"))
        for gone in folder.parent.glob(f".{key}.*.gone"):  # of one that was killed while it removed its folder
            remove(gone)

    main_decides(accelerator, take)
    try:
        run = Run(folder, settings, lock=next(iter(locks), None))
        if log_with:
            run.trackers.open(log_with, project, settings, folder / STATE / STARTS)
        yield run
        run.trackers.close()
        run.accelerator.wait_for_everyone()
        for lock in locks:
            lock.release(folder)  # the next call works anew
    except InputError:
        if all((marker.parent / ARRAY).exists() for marker in (folder / STATE).glob("*/*.json")):  # no work of note is lost
            for lock in locks:
                lock.release(folder)
        raise
    finally:
        for lock in locks:
            lock.release()


@contextmanager
def working_in(run: Run, folder: Path) -> Iterator[None]:
    """Keep other runs out of the folder of a set while it is worked on.

    Raises:
        InputError: When one is at work there.
    """
    locks: list[Lock] = []

    def take() -> None:
        if not run.is_dry:
            check_folder(folder, "location")
            if others := Place(folder).others():
                raise InputError("location", str(folder), f"{others[0]}; wait for its end")
            locks.append(hold(folder / STATE / LOCK, "location", folder, "wait for its end", again=True))
            remove_temporary(folder)

    main_decides(run.accelerator, take)
    try:
        yield
    finally:
        for lock in locks:
            lock.release()
