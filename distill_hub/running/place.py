"""The output folder of a run while it is at work there: alone, or beside others that were started on their own."""

import json
import uuid
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from distill_hub.config import InputError
from distill_hub.disk.files import STATE, atomic_write, of_dry_run, remove_temporary
from distill_hub.disk.lock import Busy, Lock, hold, remove_unlocked, wait_for
from distill_hub.running.console import show
from distill_hub.running.folder import CONFIG, LOCK, check_is_run, clear, made_with, refuse_other, refuse_unlike
from distill_hub.running.stages import chunks_in

KEY = "key"  # in the folder of work that is no chunk of a stage: what it is made from
DOOR = "door.lock"  # in STATE: held by whoever comes or goes, for a moment
WORKERS = "workers"  # in STATE: a lock of everybody who works there beside others


class Place:
    """The folder of a run, as its main process holds it.

    Args:
        folder: Of the artifact.
        join: Work beside others that were started with the same.
        lock: Of the folder, where the caller holds it.
    """

    def __init__(self, folder: Path, *, join: bool = False, lock: Lock | None = None):
        self.folder, self.state, self.join, self.lock = folder, folder / STATE, join, lock
        self.is_given = lock is not None
        self.came_later = False  # than others, who are at work

    def open(self, settings: Mapping[str, Any], *, overwrite: bool) -> None:
        """Take the folder, refuse what it holds or make room in it, and write down what this run is made with.

        Args:
            settings: What it is to be made with.
            overwrite: Replace what is there.

        Raises:
            InputError: See `Run`.
        """
        check_is_run(self.folder)
        if self.is_given:
            self._make_room(settings, overwrite)
            return
        if overwrite and self.state.is_symlink():
            self._hold(self.state / LOCK).release()  # nobody works where it leads to
            self.state.unlink()
        with self.door():
            alone = self._hold(self.state / LOCK)
            try:
                if others := self.others():
                    self._refuse_to_join(others, settings, overwrite)
                    self.came_later = True
                else:
                    self._make_room(settings, overwrite)
                self.lock = self._hold(self.state / WORKERS / f"{uuid.uuid4().hex}.lock") if self.join else alone
            finally:
                if self.lock is not alone:
                    alone.release()

    @contextmanager
    def door(self) -> Iterator[None]:
        """Keep others from coming, going and what else is done behind the door; it takes but a moment."""
        held = wait_for(self.state / DOOR, lambda _: None, lease=True)
        try:
            yield
        finally:
            held.release()

    def _hold(self, file: Path) -> Lock:
        advice = "wait for its end, or name another --output_dir"
        return hold(file, "output_dir", self.folder, advice, again=True)

    def others(self) -> list[str]:
        """Say who else works there; whoever gave no sign of life for long is shut out."""
        found = []
        for file in (self.state / WORKERS).glob("*.lock"):
            try:
                Lock(file, lease=True).release()
            except Busy as error:
                found.append(str(error))
        return found

    def _refuse_to_join(self, others: list[str], settings: Mapping[str, Any], overwrite: bool) -> None:
        if not self.join:
            valid = f"{others[0]}; --join it, wait for its end, or name another --output_dir"
            raise InputError("output_dir", str(self.folder), valid)
        if overwrite:
            raise InputError("overwrite", True, f"{others[0]}; leave it out to join, or wait for its end")
        refuse_unlike(self.folder, made_with(self.folder) or {}, settings, others[0])

    def _make_room(self, settings: Mapping[str, Any], overwrite: bool) -> None:
        if overwrite:
            clear(self.folder, keep=(STATE,))
            kept = [path for path in self.state.iterdir() if chunks_in(path) or (path / KEY).is_file()]
            clear(self.state, keep=(LOCK, DOOR, *(path.name for path in kept if not path.is_symlink())))
        elif before := made_with(self.folder):
            for line in refuse_other(self.folder, before, settings):
                show(line)
        remove_temporary(self.folder)
        remove_unlocked(of_dry_run(self.folder), f"{STATE}/{LOCK}")  # of one that was killed
        atomic_write(self.state / CONFIG, json.dumps(settings, indent=2).encode())

    def check(self) -> None:
        """Refuse to go on where another run has taken the folder over; see `Lock.check`."""
        if self.lock:
            self.lock.check()

    def leave(self, keep: Collection[str] | None = None) -> None:
        """Let go of the folder.

        Args:
            keep: Names in its state; whoever goes last removes the others. None: all stay.
        """
        lock = self.lock
        if lock is None:
            return
        if self.is_given:
            self._tidy(keep)
            lock.release()
            return
        with self.door():
            lock.release()
            if not (self.join and self.others()):
                self._tidy(keep)

    def _tidy(self, keep: Collection[str] | None) -> None:
        if self.join:
            remove_temporary(self.folder)  # of those that were killed
        if keep is not None:
            clear(self.state, keep=(CONFIG, LOCK, DOOR, *keep))
