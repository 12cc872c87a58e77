"""Work on a set that exists already: kept while it is interrupted, gone once it is done."""

import hashlib
import json
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import filelock
import torch

from distill_hub.config import InputError
from distill_hub.running.dry_run import DryRun
from distill_hub.running.files import STATE, cache_dir
from distill_hub.running.machine import start_accelerator
from distill_hub.running.run import Run


@contextmanager
def session(what: str, settings: Mapping[str, Any], *, dry_run: bool = False) -> Iterator[Run]:
    """Open a run in the user's cache; the same call after an interruption goes on where it stopped.

    Args:
        what: 'evaluations' or 'views': its folder in the cache.
        settings: All that the results depend on.
        dry_run: Open a `DryRun`, which prints its plan at the end.

    Raises:
        InputError: When the same is running already.
    """
    accelerator = start_accelerator()
    settings = {**settings, "mixed_precision": accelerator.mixed_precision, "torch": torch.__version__}
    key = hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:16]
    folder = cache_dir() / what / key
    if dry_run:
        dry = DryRun(folder, settings)
        yield dry
        dry.close()
        return
    lock = folder.with_name(f"{key}.lock")
    with ExitStack() as stack:
        if accelerator.is_main_process:
            folder.parent.mkdir(parents=True, exist_ok=True)
            try:
                stack.enter_context(filelock.FileLock(lock, timeout=0))
            except filelock.Timeout as error:
                raise InputError(what, str(folder), "the same is running already; wait for it to end") from error
        run = Run(folder, settings)
        try:
            yield run
        except InputError:
            if run.is_main and not any((folder / STATE).glob("*/*.json")):  # no work is lost
                _remove(folder, lock)
            raise
        run.accelerator.wait_for_everyone()
        if run.is_main:
            _remove(folder, lock)  # the next call works anew


def _remove(folder: Path, lock: Path) -> None:
    shutil.rmtree(folder)
    if sys.platform != "win32":  # which deletes no open file
        lock.unlink(missing_ok=True)  # nobody waits for it: whoever finds it held is refused
