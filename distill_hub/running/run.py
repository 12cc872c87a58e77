"""One distillation run: the Accelerator, the output folder, and stages that survive kill -9 and any number of processes."""

import functools
import json
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast_object_list, gather_object
from rich.table import Table

from distill_hub.config import Done, InputError, nearest
from distill_hub.disk.files import STATE, atomic_write, remove
from distill_hub.disk.lock import Lock
from distill_hub.disk.once import missing, turn
from distill_hub.running.claims import Claims, cut, found, order, read_markers
from distill_hub.running.console import Item, progress, show
from distill_hub.running.cost import NOTHING, Cost, Meter, added
from distill_hub.running.folder import CONFIG, LOCK
from distill_hub.running.machine import PEAKS, Peaks, environment, largest, stage_table, start_accelerator, watched
from distill_hub.running.memory import in_parts, told
from distill_hub.running.place import KEY, Place
from distill_hub.running.processes import main_decides, wait_until_seen
from distill_hub.running.seeds import draw_seed
from distill_hub.running.stages import Chunk, Stage, chunks_in, hash_of, key_of, remove_rest
from distill_hub.running.trackers import Trackers
from distill_hub.running.versions import versions
from distill_hub.teams.team import Led, divided, gathered

STAGE = "stage.json"  # in a folder of the cache: what it took to measure what lies there


class Run:
    """Processes, device and output folder of one run of a recipe. No other run works in the folder while this one lives.

    Only runs of the same settings that `join` share a folder and its work; each of them may come and go.

    What is finished is used again by a later run that makes it from the same: the same settings as far as they matter for
    it, library versions, kind of device and precision.

    Args:
        output_dir: Folder of the artifact. Everything needed to resume lies in its `.run` folder.
        settings: The resolved settings. An unfinished run with others goes on with these.
        overwrite: Replace what is there; finished stages are used where they still fit.
        join: Work in the folder beside other runs of the same settings that join, too.
        until: Name of the stage to end with, see `Done`.
        lock: Of the folder, where the caller holds it.

    Raises:
        InputError: When another run is at work in the folder, or joined ones are that have other settings; it holds a
            finished result of other settings, or a run of another recipe; or it cannot be written to, or is not empty and
            not a run.
    """

    is_dry = False  # see running.dry_run

    def __init__(
        self, output_dir: Path, settings: Mapping[str, Any], *,
        overwrite: bool = False, join: bool = False, until: str | None = None, lock: Lock | None = None,
    ):  # fmt: skip
        self.accelerator = start_accelerator()
        self.output_dir, self.until, self.trackers = output_dir, until, Trackers(self.accelerator)
        self.place = Place(output_dir, join=join, lock=lock)
        self.stages: list[dict[str, Any]] = []
        self.carried: Cost = NOTHING  # what earlier attempts at the chunk at work took, see `checkpoint.steps`
        self._used: set[str] = set()  # folders in STATE
        self._seen: list[str] = []  # names of stages, on every process
        self._name = f"{platform.node()} {os.getpid()}"
        self._makers: set[str] = set()  # processes that made chunks, by such names
        self._base = {
            "mixed_precision": self.accelerator.mixed_precision,
            "device": self.device.type,
            "versions": versions(),
        }
        self.settings = json.loads(json.dumps({**settings, **self._base}, default=str))
        try:
            main_decides(self.accelerator, lambda: self.place.open(self.settings, overwrite=overwrite))
        except InputError:
            if self.place.lock and not self.place.is_given:
                self.place.lock.release()
            raise
        self._came_later = self.agree(self.place.came_later)
        wait_until_seen(output_dir / STATE / CONFIG)

    @property
    def device(self) -> torch.device:
        """Device of this process; without an index where it is the CPU, or `.to` would copy what lies there already."""
        return torch.device("cpu") if self.accelerator.device.type == "cpu" else self.accelerator.device

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

    def decide(self, function: Callable[[], None]) -> None:
        """Call a function that takes but a moment on the main process, one after the other of those that have joined.

        Raises:
            InputError: See `main_decides`.
        """

        def behind_the_door() -> None:
            with self.place.door() if self.place.join else nullcontext():
                function()

        main_decides(self.accelerator, behind_the_door)

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

        self.decide(empty)
        return folder

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
        """Apply a function to work items, spread over processes, and keep every finished chunk on disk.

        Chunks are cut by `chunk_size` alone, so what a chunk holds does not depend on the number of processes, which claim
        them, see `Claims`. A chunk that is there, made from the same items and settings and whole by its checksum, is not
        redone. One that does not fit into memory is worked on in parts, and so are those after it.

        Args:
            stage: Name of the stage and of its folder.
            items: The same list on every process, ready for JSON.
            function: From a chunk's items to tensors, each with one row per item. It must draw every random number from
                the items themselves, see `draw_seed`.
            chunk_size: Items per call of `function`.
            made_from: What the results depend on beside the items; see `key`.
            whole: What comes of an item depends on the others of its chunk, so that it cannot be worked on in parts.
            lower: What needs less memory when it is made smaller; for the error.
            teams: Whether several processes may work on one chunk: where there are fewer to make than processes, these form
                as many `Team`s. `function` gets its team as `team`, or None, and what the first member returns counts.

        Raises:
            InputError: When memory does not suffice for one item, or for a chunk that is not worked on in parts.
        """
        folder = self.output_dir / STATE / stage
        self._used.add(stage)
        parts, keys = cut(items, chunk_size, self.key(made_from))
        process, processes = self.accelerator.process_index, self.accelerator.num_processes
        chunks, made, done = found(self.accelerator, folder, keys, look=not self._came_later)
        others = any(facts and facts.get("key") != key for facts, key in zip(made, keys, strict=True))
        if self.is_main and (others or len(chunks_in(folder)) > len(chunks)):
            show(f"{stage}: what it is made from has changed; what does not fit any more is done again")
        start, shared, team = draw_seed(self._name) if self.place.join else 0, processes > 1 or self.place.join, None
        if teams and 0 < (left := len(chunks) - len(done)) < processes:
            (process, team), processes = divided(left), left
        function = functools.partial(function, team=team) if teams else function
        todo = [index for index in order(len(chunks), process, processes, start) if index not in done]
        at_a_time = min((made[index].get("at_a_time") or chunk_size for index in done), default=chunk_size)
        started = time.perf_counter()
        claims = Claims(chunks, keys, todo, shared=shared)
        claimed = Led(claims, team) if team else claims
        for claim in progress(claimed, stage, unit="chunk", disable=not self.is_main or not todo):
            if not claim.is_mine:
                continue
            part, meter, self.carried = parts[claim.index], Meter(self.device), NOTHING
            with told(stage, lower), watched(self.device) as peaks:
                result, at_a_time = in_parts(part, function, at_a_time, whole=whole)
            if any(len(tensor) != len(part) for tensor in result.values()):
                raise ValueError(f"stage {stage}: {len(part)} items gave { ({k: len(v) for k, v in result.items()}) } rows")
            took = added(*gathered(team, added(self.carried, meter.read())))
            facts: dict[str, Any] = {"items": len(part), "by": self._name, PEAKS: peaks, **took}
            if at_a_time < len(part):
                facts["at_a_time"] = at_a_time
            self.place.check()
            if not claim.is_lost and not (team and team.rank):  # else somebody else makes it, with the same bits
                chunks[claim.index].store(result, key=keys[claim.index], **facts)
        made = read_markers(self.accelerator, chunks) if todo else made
        sha256 = hash_of(facts["sha256"] for facts in made)
        self._makers |= {facts["by"] for facts in made if "by" in facts}
        self._note(
            stage, len(items), added(*made), started, reused=bool(done), sha256=sha256,
            at_a_time=min((facts["at_a_time"] for facts in made if "at_a_time" in facts), default=None),
            peaks=largest(*(facts.get(PEAKS) for facts in made)),
        )  # fmt: skip
        if self.is_main:
            remove_rest(folder, len(chunks))
        self._end_at(stage)
        return Stage(folder, chunk_size, len(items), sha256)

    def unfinished(
        self, stage: str, items: Sequence[Item], *, chunk_size: int, made_from: Mapping[str, Any] | None = None
    ) -> list[Item]:
        """Return the items that `map` would work on, the same on every process."""
        parts, keys = cut(items, chunk_size, self.key(made_from))
        _, _, done = found(self.accelerator, self.output_dir / STATE / stage, keys, look=not self._came_later)
        return [item for index, part in enumerate(parts) if index not in done for item in part]

    def on_main(
        self, stage: str, function: Callable[[], None], *, makes: Path | None = None, lower: str | None = None
    ) -> None:
        """Call a function on the main process while the others wait. Of runs that have joined one does it, and once.

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
        if once := makes is not None or self.place.join:
            self._used.add(stage)
        if self.is_main:
            started, meter = time.perf_counter(), Meter(self.device)
            mark = Chunk(self.output_dir / STATE / stage, 0)
            key = self.key({"makes": str(makes)}) if makes else self._key_so_far(stage)
            with missing(makes, stage, self.say) if makes else self._turn(stage) as is_missing:
                if is_missing or (makes is None and not (self.place.join and mark.is_finished(key))):
                    self.place.check()
                    with told(stage, lower), watched(self.device) as peaks:
                        function()
                    cost = meter.read()
                    self._note(stage, 1, cost, started, peaks=peaks)
                    if once:
                        mark.store({}, key=key, items=1, **cost, **{PEAKS: peaks})
                elif mark.is_finished(key) and all(known["name"] != stage for known in self.stages):
                    self._note(stage, 1, added(mark.facts()), started, reused=True, peaks=mark.facts().get(PEAKS))
        self.accelerator.wait_for_everyone()
        if makes:
            wait_until_seen(makes)
        self._end_at(stage)

    def _key_so_far(self, stage: str) -> str:
        """Return what a step depends on that joined runs take once: what was made before it."""
        made = [known["sha256"] for known in self.stages if known["sha256"]]
        return self.key({"settings": self.settings, "stage": stage, "after": made[-1:]})

    def together(self, stage: str, items: int, function: Callable[[], Cost], *, lower: str | None = None) -> None:
        """Call a function on all processes at once; of runs that have joined, in one after the other.

        Args:
            stage: Name of the stage.
            items: How many of what it counts, for the table.
            function: What to do; resumes by its own means. Returns its cost, interrupted attempts included; see `summed`.
            lower: See `map`.

        Raises:
            InputError: When memory does not suffice.
        """
        started, mark, key = time.perf_counter(), Chunk(self.output_dir / STATE / stage, 0), self._key_so_far(stage)
        with self._turn(stage):
            self.accelerator.wait_for_everyone()  # until it is this run's turn
            with told(stage, lower), watched(self.device) as own:
                cost = function()
            peaks = largest(*gather_object([own]))
            if self.place.join:
                self._used.add(stage)
                if self.is_main and not mark.is_finished(key):
                    mark.store({}, key=key, items=items, **cost)
                self.accelerator.wait_for_everyone()
                cost = added(mark.facts())
        self._note(stage, items, cost, started, peaks=peaks)
        self._end_at(stage)

    def _turn(self, stage: str) -> AbstractContextManager[None]:
        """Let the main processes of joined runs take turns; of other runs there is one."""
        if not (self.place.join and self.is_main):
            return nullcontext()
        return turn(self.output_dir / STATE / stage / LOCK, stage, self.say)

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

    def _end_at(self, stage: str) -> None:
        self._seen.append(stage)
        if stage == self.until:
            main_decides(self.accelerator, self.place.leave)
            self.accelerator.end_training()
            raise Done(f"Stage {stage} is finished. Next: the same command without --stage goes on from there")

    def refuse_unknown_stage(self, following: Sequence[str]) -> None:
        """Refuse to go on where no stage is called as the one to end with.

        Args:
            following: Names of those that are to come.

        Raises:
            InputError: On the main process; it names them all.
        """
        names = [*dict.fromkeys([*self._seen, *following])]

        def refuse() -> None:
            if self.until not in (None, *names):
                raise InputError("stage", self.until, f"its stages are {', '.join(names)}{nearest(str(self.until), names)}")

        main_decides(self.accelerator, refuse)

    def drop(self, stage: str, *, now: bool = True) -> None:
        """Remove what no stage needs any more, now or at the end; where others have joined, who may read it, at the end."""
        self._used.discard(stage)
        if now and not self.place.join:
            remove(self.output_dir / STATE / stage)

    def leave_stage(self, folder: Path) -> None:
        """Say in a folder of the cache what the last stage took, whose results lie there for all runs."""
        atomic_write(folder / STAGE, json.dumps(self.stages[-1]).encode())

    def count_stage(self, folder: Path) -> None:
        """Count a stage that another run left in the cache as one of this run's: what is made of it costs the same."""
        if (file := folder / STAGE).is_file():  # older versions did not say
            self.stages.append({**json.loads(file.read_bytes()), "wall": 0.0, "reused": True})

    def environment(self) -> dict[str, Any]:
        """Describe this run for the records; see `environment`. Call it on every process.

        Of joined runs the processes are those that made chunks.
        """
        known = environment(self.accelerator)
        return {**known, "processes": max(known["processes"], len(self._makers) if self.place.join else 0)}

    def summary(self) -> Table:
        """Return the table of this run's stages: time, and memory of the process that needed most."""
        return stage_table(self.stages)

    def end(self, *, keep: bool = True) -> None:
        """Remove what no stage of this run needs, let go of the folder, and leave the process group.

        Args:
            keep: Its stages stay, and the same run again uses them.
        """
        if self.is_main:
            self.place.leave(self._used if keep else ())
        self.accelerator.end_training()
