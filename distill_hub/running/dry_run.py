"""What a run would take: the first chunk of every stage is worked on and timed, and the rest is counted."""

import atexit
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from rich.table import Table

from distill_hub.disk.files import STATE, of_dry_run, slug
from distill_hub.running.console import duration, memory_text, size_text
from distill_hub.running.cost import Cost
from distill_hub.running.folder import check_is_run
from distill_hub.running.machine import PEAKS, Peaks, largest, watched
from distill_hub.running.mapped import ARRAY
from distill_hub.running.memory import in_parts, told
from distill_hub.running.run import Item, Run
from distill_hub.running.stages import Stage
from distill_hub.running.trackers import STARTS

SHORT = 2.0  # seconds: what takes less is timed a second time, without what only the first time costs
PART = 100  # a loop of steps is cut to this share,
MOST_STEPS = 50  # and to so many where that is fewer


@dataclass(frozen=True)
class Estimate:
    """What one stage is expected to take."""

    stage: str
    items: int
    chunks: int  # of the process that has most
    seconds: float
    bytes: int  # that it leaves on disk
    is_published: bool = False
    mapped: int = 0  # bytes of these that are mapped into memory
    peaks: Peaks = field(default_factory=dict)  # memory of the process that needs most, see `machine.watched`


def open_run(
    output_dir: Path, settings: Mapping[str, Any], *,
    overwrite: bool, dry_run: bool, join: bool = False, until: str | None = None, log_with: str | None = None,
) -> Run:  # fmt: skip
    """Return the run of a recipe, or one that only finds out what it would take, and logs nothing."""
    if dry_run:
        check_is_run(output_dir)  # a plan of what will be refused is of no use
        return DryRun(output_dir, settings)
    run = Run(output_dir, settings, overwrite=overwrite, join=join, until=until)
    if log_with:  # those who have joined each log their own share
        run.trackers.open(log_with, slug(str(output_dir)), settings, None if join else output_dir / STATE / STARTS)
    return run


@dataclass(frozen=True)
class FirstChunk(Stage):
    """A stage of which the first chunk is there; it stands for the others."""

    def take(self, items: Sequence[int], *names: str) -> dict[str, torch.Tensor]:
        """Return what the first chunk has, over and over; see `Stage.take`."""
        made = min(self.chunk_size, self.items)
        return super().take([item % made for item in items], *names)

    def mapped(self) -> list[dict[str, torch.Tensor]]:
        """Return the first chunk as often as there are chunks; see `Stage.mapped`."""
        return Stage(self.folder, self.chunk_size, min(self.chunk_size, self.items)).mapped() * -(
            -self.items // self.chunk_size
        )


class DryRun(Run):
    """A run that does a small part of its work, in a folder of its own, which goes at the end.

    What it finds in the user's cache is used, and nothing is added to it.

    Args:
        output_dir: Where the run itself would work; not touched.
        settings: See `Run`.
    """

    is_dry = True

    def __init__(self, output_dir: Path, settings: Mapping[str, Any]):
        super().__init__(of_dry_run(output_dir), settings, overwrite=True)
        atexit.register(self._remove)  # also after an error, or Ctrl-C
        self.planned_dir = output_dir
        self.estimates: list[Estimate] = []
        self._scale, self._left_out = 1.0, 0.0
        self._peaks: Peaks = {}  # of what was timed since the last stage of the plan

    def cached(self, path: Path) -> Path:
        """Return a path in the cache where there is something, else one in this run's folder."""
        return path if path.exists() else self.output_dir / STATE / "cache" / path.parent.name / path.name

    def part(self, steps: int) -> int:
        """Return how many of a loop's steps to take; the time of the stage is multiplied accordingly."""
        taken = max(1, min(steps // PART, MOST_STEPS))
        self._scale = steps / taken
        return taken

    def looped(self, seconds: float) -> None:
        """Count what the steps that were left out take, and nothing around the loop more than once."""
        self._left_out += seconds * (self._scale - 1)
        self._scale = 1.0

    def timed(self, function: Callable[[], Any]) -> tuple[float, Any]:
        """Call a function on all processes at once; return the seconds of the slowest, and this process's result.

        Of a loop that took `part` of its steps and said so, see `looped`, the seconds are those of all steps.
        """
        self.accelerator.wait_for_everyone()
        for _ in range(2):
            self._left_out, started = 0.0, time.perf_counter()
            with watched(self.device) as peaks:
                result = function()
                if self.device.type == "cuda":
                    torch.cuda.synchronize(self.device)
            seconds = max(gather_object([time.perf_counter() - started]))
            self._peaks = largest(self._peaks, *gather_object([peaks]))
            if seconds >= SHORT:
                break
        return seconds + max(gather_object([self._left_out])), result

    def expect(
        self, stage: str, items: int, seconds: float, size: int = 0, *, chunks: int = 1, is_published: bool = False,
        mapped: int = 0,
    ) -> None:  # fmt: skip
        """Add a stage to the plan. Its memory is the most that anything took which was timed since the last one.

        Args:
            stage: Its name.
            items: Work items.
            seconds: That it takes, all processes at work.
            size: Bytes on disk.
            chunks: Of work, of the process that has most.
            is_published: Whether the bytes are part of what is uploaded.
            mapped: How many of them are mapped into memory.
        """
        seconds *= self._scale
        self.estimates.append(Estimate(stage, items, chunks, seconds, size, is_published, mapped, self._peaks))
        self._scale, self._peaks = 1.0, {}

    def shared(self, chunks: int) -> int:
        """Return how many of some chunks the process has that has most."""
        return -(-chunks // self.accelerator.num_processes)

    def map(
        self,
        stage: str,
        items: Sequence[Item],
        function: Callable[..., dict[str, torch.Tensor]],
        *,
        chunk_size: int,
        made_from: Mapping[str, Any] | None = None,
        whole: bool = False,
        lower: str | None = None,
        teams: bool = False,
    ) -> Stage:
        """Work on the first chunk, on every process at once, as they will; see `Run.map`."""
        first = items[:chunk_size]
        with told(stage, lower):
            seconds, result = self.timed(lambda: in_parts(first, function, chunk_size, whole=whole)[0])
        made = super().map(stage, first, lambda _: result, chunk_size=chunk_size, made_from=made_from, whole=True)
        share = self.shared(-(-len(items) // chunk_size))
        seconds *= min(share * chunk_size, len(items)) / len(first)  # the last chunk may be smaller
        size = sum(tensor.nbytes for tensor in result.values()) * len(items) // len(first)
        mapped = (made.folder / ARRAY).stat().st_size if (made.folder / ARRAY).exists() else 0  # see `make_mapped`
        self.expect(stage, len(items), seconds, size + mapped, chunks=share, mapped=mapped)
        return FirstChunk(made.folder, chunk_size, len(items))

    def on_main(
        self, stage: str, function: Callable[[], None], *, makes: Path | None = None, lower: str | None = None
    ) -> None:
        """Call it, unless it is in the cache; see `Run.on_main`."""
        if makes is not None and self.agree(makes.exists()):  # a process that comes late would see what is made below
            return
        if makes is not None and not makes.is_relative_to(self.output_dir):
            raise ValueError(f"a dry run makes nothing outside its folder, but stage {stage} would make {makes}")
        super().on_main(stage, function, makes=makes, lower=lower)
        self._peaks = (self.stages[-1][PEAKS] if self.is_main else None) or {}
        self.expect(stage, 1, max(gather_object([self.stages[-1]["wall"] if self.is_main else 0.0])))

    def together(self, stage: str, items: int, function: Callable[[], Cost], *, lower: str | None = None) -> None:
        """Call it; it asks `part` how many steps to take; see `Run.together`."""
        super().together(stage, items, function, lower=lower)
        self._peaks = self.stages[-1][PEAKS] or {}
        once = max(0.0, self.stages[-1]["wall"] - self.stages[-1]["seconds"])  # loading, which more steps do not repeat
        self.expect(stage, items, self.stages[-1]["seconds"] + once / self._scale)

    def plan(self) -> Table:
        """Return the table of what the run would take, see `expect`."""
        seconds = sum(known.seconds for known in self.estimates)
        size = sum(known.bytes for known in self.estimates)
        upload = sum(known.bytes for known in self.estimates if known.is_published)
        mapped = sum(known.mapped for known in self.estimates)
        count, here = self.accelerator.num_processes, int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        peaks = largest(*(known.peaks for known in self.estimates))
        together = memory_text({name: here * peak for name, peak in peaks.items() if name == "host"})
        all_here = f"{here} processes on this machine: {together}" if here > 1 and together else ""
        files = f"mapped files, which need memory only to be quick: {size_text(mapped)}" if mapped else ""
        table = Table(
            "stage",
            "items",
            "chunks per process",
            "time",
            "on disk",
            "memory of a process",
            title=f"Plan of {self.planned_dir}, {count} {'process' if count == 1 else 'processes'}",
            caption="; ".join(filter(None, [f"to upload: {size_text(upload)}", all_here, files])),
        )
        for known in self.estimates:
            cells = f"{known.items:,}", f"{known.chunks:,}", duration(known.seconds)
            on_disk = size_text(known.bytes) if known.bytes else ""
            table.add_row(known.stage, *cells, on_disk, memory_text(known.peaks))
        table.add_row("total", "", "", duration(seconds), size_text(size), memory_text(peaks))
        return table

    def close(self) -> None:
        """Print the plan, and remove what was made for it."""
        plan = self.plan()
        self.say(plan)
        self.say("Next: the same command without --dry_run does the work")
        self.accelerator.wait_for_everyone()
        self._remove()
        atexit.unregister(self._remove)

    def _remove(self) -> None:
        if self.place.lock:
            self.place.lock.release(self.output_dir)

    def end(self, *, keep: bool = True) -> None:
        """Close, and leave the process group. Nothing is kept."""
        self.close()
        self.accelerator.end_training()
