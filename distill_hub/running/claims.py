"""Chunks of a stage, claimed one after the other by all processes that share its folder."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object

from distill_hub.disk.lock import Busy, Lock
from distill_hub.running.console import Item
from distill_hub.running.stages import Chunk, key_of, says

LOOK_EVERY = 1.0  # seconds between two looks at what others have made, while there is work
FIRST_PAUSE, LAST_PAUSE = 0.005, 1.0  # seconds between two, while there is none


@dataclass(frozen=True)
class Claim:
    """A chunk: this process's to make, or made by somebody else meanwhile."""

    index: int
    is_mine: bool
    lease: Lock | None = None

    @property
    def is_lost(self) -> bool:
        """Whether somebody else has taken it over: there was no sign of life of this process for too long."""
        return self.lease is not None and not self.lease.is_held


class Claims:
    """What is to be made of a stage, each chunk once: as soon as this process may make it, or somebody else has made it.

    A process holds a lease of the chunk that it makes. A dead one's is free at once, that of one that stands still, or whose
    machine does, after `LOST_AFTER` seconds. Where nothing is free, the others' chunks are waited for.

    Args:
        chunks: All of the stage.
        keys: What each of them is made from, see `Chunk.is_marked`.
        todo: Those to make, the first to claim first.
        shared: Whether other processes work on them, too; else nothing is leased.
    """

    def __init__(self, chunks: Sequence[Chunk], keys: Sequence[str], todo: Sequence[int], *, shared: bool):
        self.chunks, self.keys, self.todo, self.shared = chunks, keys, todo, shared

    def __len__(self) -> int:
        return len(self.todo)

    def __iter__(self) -> Iterator[Claim]:
        if not self.shared:
            yield from (Claim(index, is_mine=True) for index in self.todo)
            return
        left, pause, look_at = dict.fromkeys(self.todo), FIRST_PAUSE, time.monotonic() + LOOK_EVERY
        while left:
            before = len(left)
            for index in [*left]:
                if time.monotonic() > look_at:
                    started = time.monotonic()
                    for made in [other for other in left if self._is_made(other)]:
                        del left[made]
                        yield Claim(made, is_mine=False)
                    look_at = time.monotonic() + max(LOOK_EVERY, 100 * (time.monotonic() - started))
                if index in left and (claim := self._claim(index)):
                    try:
                        yield claim
                        if not claim.is_lost:
                            del left[index]
                    finally:
                        if claim.lease:
                            claim.lease.release()
            pause = FIRST_PAUSE if len(left) < before else min(1.5 * pause, LAST_PAUSE)
            if left:
                time.sleep(pause)

    def _is_made(self, index: int) -> bool:
        return self.chunks[index].is_marked(self.keys[index])

    def _claim(self, index: int) -> Claim | None:
        """Claim a chunk; None where somebody else is at work on it."""
        if self._is_made(index):
            return Claim(index, is_mine=False)
        try:
            lease = Lock(self.chunks[index].lease, lease=True)
        except Busy:
            return None
        if self._is_made(index):  # between the two
            lease.release()
            return Claim(index, is_mine=False)
        return Claim(index, is_mine=True, lease=lease)


def read_markers(accelerator: Accelerator, chunks: Sequence[Chunk]) -> list[dict[str, Any]]:
    """Return what the markers of chunks say; the main process reads them for all."""
    found = [chunk.facts() for chunk in chunks] if accelerator.is_main_process else []
    return broadcast_object_list([found])[0]


def cut(items: Sequence[Item], chunk_size: int, key: str) -> tuple[list[Sequence[Item]], list[str]]:
    """Cut items into those of each chunk; return these, and what each of them is made from, together with `key`."""
    parts = [items[start : start + chunk_size] for start in range(0, len(items), chunk_size)]
    return parts, [key_of(key, list(part)) for part in parts]


def found(
    accelerator: Accelerator, folder: Path, keys: Sequence[str], *, look: bool
) -> tuple[list[Chunk], list[dict[str, Any]], set[int]]:
    """Return what there is of a stage. Markers of chunks that are not as they were written go.

    Args:
        accelerator: Of the processes; each reads its share of the chunks.
        folder: Of the stage.
        keys: What its chunks are made from.
        look: Whether to read them; else others have.

    Returns:
        The chunks, what their markers say, and which of them need not be made.
    """
    chunks = [Chunk(folder, index) for index in range(len(keys))]
    made = read_markers(accelerator, chunks)
    marked = [index for index, facts in enumerate(made) if says(facts, keys[index])]
    share = marked[accelerator.process_index :: accelerator.num_processes] if look else []
    damaged = [index for index in share if not chunks[index].is_whole(made[index]["sha256"])]
    for index in damaged:
        chunks[index].marker.unlink(missing_ok=True)
    return chunks, made, set(marked) - set(gather_object(damaged))


def order(count: int, process: int, processes: int, start: int = 0) -> list[int]:
    """Return in which order a process claims chunks: its own, as if they were dealt, and then others', those last first.

    Args:
        count: Of chunks.
        process: Number of the process among those that were started together.
        processes: How many these are.
        start: Where in this order to begin; those that were started on their own do not all begin with the first chunk.
    """
    own = range(process, count, processes)
    dealt = [*own, *(index for index in reversed(range(count)) if index not in own)]
    start = start % max(1, count)
    return dealt[start:] + dealt[:start]
