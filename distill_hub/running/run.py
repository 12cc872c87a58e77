"""One distillation run: the Accelerator, the output folder, and stages that survive kill -9 and any number of processes."""

import json
import platform
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object
from rich.table import Table

from distill_hub.config import InputError
from distill_hub.ending import FULL
from distill_hub.running.console import Item, memory_text, progress, show, size_text
from distill_hub.running.cost import NOTHING, Cost, Meter, added
from distill_hub.running.files import STATE, atomic_write, cache_dir, of_dry_run, remove, remove_temporary
from distill_hub.running.folder import CONFIG, LOCK, check_is_run, clear, made_with, refuse_other
from distill_hub.running.lock import Lock, hold, remove_unlocked, wait_for
from distill_hub.running.machine import Peaks, environment, largest, peak_memory, start_accelerator, watched
from distill_hub.running.memory import in_parts, told
from distill_hub.running.stages import Chunk, Stage, chunks_in, hash_of, key_of
from distill_hub.running.versions import versions

STAGE = "stage.json"  # in a folder of the cache: what it took to measure what lies there
KEY = "key"  # in the folder of work that is no chunk of a stage: what it is made from
PEAKS = "peak_memory_bytes"  # in the marker of a chunk, and in the record of a stage: see `machine.watched`
SEEN_AFTER = 90  # seconds in which a file that one machine wrote is there for all that share its folder


class Run:
    """Processes, device and output folder of one run of a recipe. No other run works in the folder while this one lives.

    What is finished is used again by a later run that makes it from the same: the same settings as far as they matter for
    it, library versions, kind of device and precision.

    Args:
        output_dir: Folder of the artifact. Everything needed to resume lies in its `.run` folder.
        settings: The resolved settings. An unfinished run with others goes on with these.
        overwrite: Replace what is there; finished stages are used where they still fit.
        lock: Of the folder, where the caller holds it.

    Raises:
        InputError: When another run is at work in the folder; it holds a finished result of other settings, or a run of
            another recipe; or it cannot be written to, or is not empty and not a run.
    """

    is_dry = False  # see running.dry_run

    def __init__(self, output_dir: Path, settings: Mapping[str, Any], *, overwrite: bool = False, lock: Lock | None = None):
        self.accelerator = start_accelerator()
        self.output_dir, self.lock = output_dir, lock
        self.stages: list[dict[str, Any]] = []
        self.carried: Cost = NOTHING  # what earlier attempts at the chunk at work took, see `checkpoint.steps`
        self._used: set[str] = set()  # folders in STATE
        self._base = {
            "mixed_precision": self.accelerator.mixed_precision,
            "device": self.device.type,
            "versions": versions(),
        }
        self.settings = json.loads(json.dumps({**settings, **self._base}, default=str))
        try:
            main_decides(self.accelerator, lambda: self._open(overwrite))
        except InputError:
            if self.lock and self.lock is not lock:
                self.lock.release()
            raise
        wait_until_seen(output_dir / STATE / CONFIG)

    def _open(self, overwrite: bool) -> None:
        """Take the folder, refuse what it holds or make room in it, and write down what this run is made with."""
        folder, state = self.output_dir, self.output_dir / STATE
        check_is_run(folder)
        self.lock = self.lock or self._hold()
        if overwrite:
            if state.is_symlink():  # its lock showed that nobody works where it leads to
                self.lock.release()
                state.unlink()
                self.lock = self._hold()
            clear(folder, keep=(STATE,))
            kept = [path for path in state.iterdir() if chunks_in(path) or (path / KEY).is_file()]
            clear(state, keep=(LOCK, *(path.name for path in kept if not path.is_symlink())))
        elif before := made_with(folder):
            for line in refuse_other(folder, before, self.settings):
                show(line)
        remove_temporary(folder)
        remove_unlocked(of_dry_run(folder), f"{STATE}/{LOCK}")  # of one that was killed
        atomic_write(state / CONFIG, json.dumps(self.settings, indent=2).encode())

    def _check_lock(self) -> None:
        if self.lock:
            self.lock.check()

    def _hold(self) -> Lock:
        advice = "wait for its end, or name another --output_dir"
        return hold(self.output_dir / STATE / LOCK, "output_dir", self.output_dir, advice, again=True)

    @property
    def device(self) -> torch.device:
        """Device of this process."""
        return self.accelerator.device

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the generator: what Accelerate's mixed_precision says."""
        return {"fp16": torch.float16, "bf16": torch.bfloat16}.get(self.accelerator.mixed_precision, torch.float32)

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that prints, fits and packages."""
        return self.accelerator.is_main_process

    def agree(self, value: bool) -> bool:
        """Return on every process what the main process says."""
        return broadcast_object_list([value])[0]

    def cached(self, path: Path) -> Path:
        """Return where a file or folder of the user's cache is to be looked for, and made."""
        return path

    def part(self, steps: int) -> int:
        """Return how many of a loop's steps to take: all of them, but for a dry run."""
        return steps

    def looped(self, seconds: float) -> None:
        """Hear how long a loop inside a chunk took, whose steps `part` gave; only a dry run minds."""

    def say(self, text: Any) -> None:
        """Print on the main process."""
        if self.is_main:
            show(text)

    def key(self, made_from: Mapping[str, Any] | None = None) -> str:
        """Return a short name of what goes into a result: what is named, and versions, device and precision.

        Args:
            made_from: What the result depends on, ready for JSON; None: all settings of the run.
        """
        return key_of(self.settings if made_from is None else {**made_from, "run": self._base})

    def state(self, name: str, made_from: Mapping[str, Any] | None = None) -> Path:
        """Return a folder for what work that is no chunk of a stage needs to resume; empty where that was made from others.

        Args:
            name: Of the folder.
            made_from: See `key`.
        """
        folder, key = self.output_dir / STATE / name, self.key(made_from)
        self._used.add(name)

        def empty() -> None:
            file = folder / KEY
            if not (file.is_file() and file.read_text(encoding="utf-8") == key):
                remove(folder)
                atomic_write(file, key.encode())

        main_decides(self.accelerator, empty)
        return folder

    def map(
        self,
        stage: str,
        items: Sequence[Item],
        function: Callable[[Sequence[Item]], dict[str, torch.Tensor]],
        *,
        chunk_size: int,
        made_from: Mapping[str, Any] | None = None,
        whole: bool = False,
        lower: str | None = None,
    ) -> Stage:
        """Apply a function to work items, spread over processes, and keep every finished chunk on disk.

        Chunks are cut by `chunk_size` alone and process r takes chunks r, r + P, r + 2P, ..., so what a chunk holds does
        not depend on the number P of processes. A chunk that is there, made from the same items and settings and whole by
        its checksum, is not redone. One that does not fit into memory is worked on in parts, and so are those after it.

        Args:
            stage: Name of the stage and of its folder.
            items: The same list on every process, ready for JSON.
            function: From a chunk's items to tensors, each with one row per item. It must draw every random number from
                the items themselves, see `draw_seed`.
            chunk_size: Items per call of `function`.
            made_from: What the results depend on beside the items; see `key`.
            whole: What comes of an item depends on the others of its chunk, so that it cannot be worked on in parts.
            lower: What needs less memory when it is made smaller; for the error.

        Raises:
            InputError: When memory does not suffice for one item, or for a chunk that is not worked on in parts.
        """
        folder, key = self.output_dir / STATE / stage, self.key(made_from)
        self._used.add(stage)
        parts = [items[start : start + chunk_size] for start in range(0, len(items), chunk_size)]
        chunks = [Chunk(folder, index) for index in range(len(parts))]
        keys = [key_of(key, list(part)) for part in parts]
        if self.is_main and any(chunk.facts().get("key") not in keys for chunk in chunks_in(folder)):
            show(f"{stage}: what it is made from has changed; what does not fit any more is done again")
        mine = range(self.accelerator.process_index, len(chunks), self.accelerator.num_processes)
        todo = [index for index in mine if not chunks[index].is_finished(keys[index])]
        at_a_time = min(
            (chunks[i].facts().get("at_a_time") or chunk_size for i in set(mine) - set(todo)), default=chunk_size
        )
        started = time.perf_counter()
        for index in progress(todo, stage, unit="chunk", disable=not self.is_main or not todo):
            part, meter, self.carried = parts[index], Meter(self.device), NOTHING
            with told(stage, lower), watched(self.device) as peaks:
                result, at_a_time = in_parts(part, function, at_a_time, whole=whole)
            if any(len(tensor) != len(part) for tensor in result.values()):
                raise ValueError(f"stage {stage}: {len(part)} items gave { ({k: len(v) for k, v in result.items()}) } rows")
            facts: dict[str, Any] = {"items": len(part), **added(self.carried, meter.read()), PEAKS: peaks}
            if at_a_time < len(part):
                facts["at_a_time"] = at_a_time
            self._check_lock()
            chunks[index].store(result, key=keys[index], **facts)
        self.accelerator.wait_for_everyone()
        made = [chunk.facts() for chunk in chunks]
        sha256 = hash_of(facts["sha256"] for facts in made)
        self._note(
            stage, len(items), added(*made), started, reused=len(mine) > len(todo), sha256=sha256,
            at_a_time=min((facts["at_a_time"] for facts in made if "at_a_time" in facts), default=None),
            peaks=largest(*(facts.get(PEAKS) for facts in made)),
        )  # fmt: skip
        if self.is_main:
            for chunk in chunks_in(folder)[len(chunks) :]:  # of more items
                chunk.marker.unlink()
                chunk.file.unlink(missing_ok=True)
        return Stage(folder, chunk_size, len(items), sha256)

    def on_main(
        self, stage: str, function: Callable[[], None], *, makes: Path | None = None, lower: str | None = None
    ) -> None:
        """Call a function on the main process while the others wait.

        Args:
            stage: Name of the stage.
            function: What to do.
            makes: File or folder that the function makes, complete from the moment it exists. When it is there already,
                the function is not called; a run beside this one that makes the same is waited for. That an earlier attempt
                of this run made it is kept in the run's folder, and stays one of its stages.
            lower: See `map`.

        Raises:
            InputError: When memory does not suffice, or nothing can be written where it is to be made.
        """
        if makes:
            self._used.add(stage)
        if self.is_main:
            started, meter = time.perf_counter(), Meter(self.device)
            mark, key = Chunk(self.output_dir / STATE / stage, 0), self.key({"makes": str(makes)})
            with self._claim(stage, makes) as needed:
                if needed:
                    self._check_lock()
                    with told(stage, lower), watched(self.device) as peaks:
                        function()
                    cost = meter.read()
                    self._note(stage, 1, cost, started, peaks=peaks)
                    if makes:
                        mark.store({}, key=key, items=1, **cost, **{PEAKS: peaks})
                elif mark.is_finished(key) and all(known["name"] != stage for known in self.stages):
                    self._note(stage, 1, added(mark.facts()), started, reused=True, peaks=mark.facts().get(PEAKS))
        self.accelerator.wait_for_everyone()
        if makes:
            wait_until_seen(makes)

    @contextmanager
    def _claim(self, stage: str, path: Path | None) -> Iterator[bool]:
        """Hold the lock of what is to be made; yield whether it is still needed."""
        if path is None:
            yield True
            return
        lock = path.with_name(f"{path.name}.lock")
        if path.exists() and not lock.exists():  # in a folder, perhaps, that only others can write to
            yield False
            return
        try:
            held = wait_for(lock, lambda holder: self.say(f"{stage}: waiting for the same of another run; {holder}"))
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

    def together(self, stage: str, items: int, function: Callable[[], Cost], *, lower: str | None = None) -> None:
        """Call a function on all processes at once.

        Args:
            stage: Name of the stage.
            items: How many of what it counts, for the table.
            function: What to do; resumes by its own means. Returns its cost, interrupted attempts included; see `summed`.
            lower: See `map`.

        Raises:
            InputError: When memory does not suffice.
        """
        started = time.perf_counter()
        with told(stage, lower), watched(self.device) as peaks:
            cost = function()
        self._note(stage, items, cost, started, peaks=largest(*gather_object([peaks])))

    def summed(self, cost: Cost) -> Cost:
        """Return what all processes took that worked at once: the clock of the slowest, the cores and GPUs of all."""
        costs = gather_object([dict(cost)])
        return {**added(*costs), "seconds": max(one["seconds"] for one in costs)}

    def _note(
        self, name: str, items: int, cost: Cost, started: float, *,
        reused: bool = False, sha256: str | None = None, at_a_time: int | None = None, peaks: Peaks | None = None,
    ) -> None:  # fmt: skip
        wall, cost = time.perf_counter() - started, {key: value and round(value, 2) for key, value in cost.items()}
        note = {"name": name, "items": items, **cost, "wall": wall, "reused": reused, "sha256": sha256}
        self.stages.append({**note, "at_a_time": at_a_time, PEAKS: peaks or None})

    def leave_stage(self, folder: Path) -> None:
        """Say in a folder of the cache what the last stage took, whose results lie there for all runs."""
        atomic_write(folder / STAGE, json.dumps(self.stages[-1]).encode())

    def count_stage(self, folder: Path) -> None:
        """Count a stage that another run left in the cache as one of this run's: what is made of it costs the same."""
        if (file := folder / STAGE).is_file():  # older versions did not say
            self.stages.append({**json.loads(file.read_bytes()), "wall": 0.0, "reused": True})

    def environment(self) -> dict[str, Any]:
        """Describe this run for the records; see `environment`. Call it on every process."""
        return environment(self.accelerator)

    def summary(self) -> Table:
        """Return the table of this run's stages: time, and memory of the process that needed most."""
        peaks = ", ".join(f"{name} {size_text(value)}" for name, value in peak_memory(self.accelerator).items())
        caption = f"peak of one process, files that it maps included: {peaks}"
        table = Table("stage", "items", "time", "memory of a process", caption=caption, title="Stages")
        for stage in self.stages:
            seconds = f"{stage['wall']:.1f} s" + (" (finished work reused)" if stage["reused"] else "")
            table.add_row(stage["name"], str(stage["items"]), seconds, memory_text(stage.get(PEAKS)))
        table.add_row("total", "", f"{sum(stage['wall'] for stage in self.stages):.1f} s", "")
        return table

    def end(self) -> None:
        """Remove what no stage of this run needs, let go of the folder, and leave the process group."""
        if self.is_main:
            clear(self.output_dir / STATE, keep=(CONFIG, LOCK, *self._used))
        if self.lock:
            self.lock.release()
        self.accelerator.end_training()


def main_decides(accelerator: Accelerator, function: Callable[[], None]) -> None:
    """Call a function on the main process; where it finds input that cannot be used, all processes end.

    Raises:
        InputError: On the main process, which tells why.
        SystemExit: On the others, with the code of the main process.
    """
    error = None
    if accelerator.is_main_process:
        try:
            function()
        except InputError as found:
            error = found
    (failed,) = broadcast_object_list([error is not None])
    if error:
        raise error
    if failed:
        sys.exit(2)


def wait_until_seen(path: Path) -> None:
    """Wait until this machine, too, sees what the main process made: NFS may take a minute to notice a new file."""
    for _ in range(10 * SEEN_AFTER):
        if path.exists():
            return
        time.sleep(0.1)
    raise InputError("file", str(path), f"{platform.node()} does not see it, but the main process does; share the folder")
