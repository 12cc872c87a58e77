"""One distillation run: the Accelerator, the output folder, and stages that survive kill -9 and any number of processes."""

import dataclasses
import hashlib
import json
import platform
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast_object_list
from filelock import FileLock
from rich.table import Table
from safetensors import safe_open
from safetensors.torch import load_file, save

from distill_hub.config import InputError
from distill_hub.running.console import Item, progress, show
from distill_hub.running.files import STATE, atomic_write, check_folder
from distill_hub.running.machine import environment, peak_memory, start_accelerator

SEEN_AFTER = 90  # seconds in which a file that one machine wrote is there for all that share its folder


@dataclasses.dataclass(frozen=True)
class Stage:
    """The finished results of one stage, read from disk chunk by chunk, in the order of its work items."""

    folder: Path
    chunk_size: int
    items: int

    def __len__(self) -> int:
        return self.items

    def rows(self, start: int, stop: int, *names: str) -> dict[str, torch.Tensor]:
        """Read items [start, stop): one tensor per name, its first dimension over the items.

        Args:
            start: First item.
            stop: Item behind the last.
            names: Tensors to read; all by default. Nothing else is read from disk.
        """
        return self.take(range(start, stop), *names)

    def take(self, items: Sequence[int], *names: str) -> dict[str, torch.Tensor]:
        """Read some items, in the order asked for; see `rows`. A chunk is opened once, one after the other."""
        ordered, order = torch.tensor(items).sort(stable=True)
        chunks, sizes = (ordered // self.chunk_size).unique_consecutive(return_counts=True)
        parts, result = zip(chunks.tolist(), *(x.split(sizes.tolist()) for x in (ordered, order)), strict=True), {}
        for index, own, places in parts:
            first, last = (int(own[end]) - index * self.chunk_size for end in (0, -1))
            with safe_open(_chunk_file(self.folder, index), "pt") as file:
                for name in names or file.keys():
                    part = file.get_slice(name)[first : last + 1]
                    if name not in result:
                        result[name] = part.new_empty(len(items), *part.shape[1:])
                    result[name][places] = part[own - own[0]]
        return result

    def batches(self, *names: str, size: int = 100) -> Iterator[dict[str, torch.Tensor]]:
        """Read all items in order, `size` at a time; see `rows`."""
        return (self.rows(start, min(start + size, self.items), *names) for start in range(0, self.items, size))

    def mapped(self) -> list[dict[str, torch.Tensor]]:
        """Open all chunks, their tensors mapped into memory: what is not used is not read."""
        return [load_file(_chunk_file(self.folder, index)) for index in range(-(-self.items // self.chunk_size))]


class Run:
    """Processes, device and output folder of one run of a recipe.

    Args:
        output_dir: Folder of the artifact. Everything needed to resume lies in its `.run` folder.
        settings: The resolved settings. A folder that holds a run with others is refused.
        overwrite: Delete what is there and start afresh.

    Raises:
        InputError: When the folder belongs to other settings, or is not empty and not a run.
    """

    is_dry = False  # see running.dry_run

    def __init__(self, output_dir: Path, settings: Mapping[str, Any], *, overwrite: bool = False):
        self.accelerator = start_accelerator()
        self.output_dir = output_dir
        self.stages: list[dict[str, Any]] = []
        settings = json.loads(json.dumps({**settings, "mixed_precision": self.accelerator.mixed_precision}, default=str))
        if not overwrite:
            self._check_folder(settings)
        self.accelerator.wait_for_everyone()
        if self.is_main:
            if overwrite and output_dir.exists():
                self._check_is_run()
                # The state goes last: a folder half deleted is still known as a run's.
                for old in sorted(output_dir.iterdir(), key=lambda path: path.name == STATE):
                    shutil.rmtree(old) if old.is_dir() else old.unlink()
            for temporary in output_dir.rglob(".*.tmp"):
                if temporary.stat().st_mtime < time.time() - 3600:  # a younger one may be another run's, at work
                    temporary.unlink()
            atomic_write(output_dir / STATE / "config.json", json.dumps(settings, indent=2).encode())
        self.accelerator.wait_for_everyone()
        _see(output_dir / STATE / "config.json")

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

    def say(self, text: Any) -> None:
        """Print on the main process."""
        if self.is_main:
            show(text)

    def _check_is_run(self) -> None:
        check_folder(self.output_dir)
        # A run stopped at its very first write leaves STATE without config.json.
        foreign = any(file.name != STATE for file in self.output_dir.iterdir())
        if foreign and not (self.output_dir / STATE / "config.json").is_file():
            raise InputError("output_dir", str(self.output_dir), "it holds files that are not a run's; name a new folder")

    def _check_folder(self, settings: Mapping[str, Any]) -> None:
        if not self.output_dir.exists():
            return
        self._check_is_run()
        path = self.output_dir / STATE / "config.json"
        finished = [f for f in self.output_dir.iterdir() if f.name != STATE] + [*(self.output_dir / STATE).glob("*/*.json")]
        if path.is_file() and finished:  # else there is nothing to lose
            try:
                before = json.loads(path.read_bytes())
            except ValueError as error:
                valid = f"{path} is broken ({error}); --overwrite starts afresh"
                raise InputError("output_dir", str(self.output_dir), valid) from error
            for name in sorted(before.keys() | settings.keys()):
                if before.get(name) != settings.get(name):
                    if name not in before or name not in settings:
                        valid = (
                            f"it was made by another recipe, or another version of it: {name} is not an option of both; "
                            "--overwrite or another --output_dir starts afresh"
                        )
                        raise InputError("output_dir", str(self.output_dir), valid)
                    raise InputError(
                        name,
                        settings[name],
                        f"{self.output_dir} was made with {before[name]!r}; "
                        "use that value, another --output_dir, or --overwrite to start afresh",
                    )

    def map(
        self,
        stage: str,
        items: Sequence[Item],
        function: Callable[[Sequence[Item]], dict[str, torch.Tensor]],
        *,
        chunk_size: int,
    ) -> Stage:
        """Apply a function to work items, spread over processes, and keep every finished chunk on disk.

        Chunks are cut by `chunk_size` alone and process r takes chunks r, r + P, r + 2P, ..., so what a chunk holds does
        not depend on the number P of processes. A chunk whose marker is there and fits, checksum and all, is not redone.

        Args:
            stage: Name of the stage and of its folder.
            items: The same list on every process.
            function: From a chunk's items to tensors, each with one row per item. It must draw every random number from
                the items themselves, see `draw_seed`.
            chunk_size: Items per call of `function`.
        """
        folder = self.output_dir / STATE / stage
        chunks = [items[start : start + chunk_size] for start in range(0, len(items), chunk_size)]
        mine = range(self.accelerator.process_index, len(chunks), self.accelerator.num_processes)
        todo = [index for index in mine if not _finished(folder, index, len(chunks[index]))]
        started = time.perf_counter()
        for index in progress(todo, stage, unit="chunk", disable=not self.is_main or not todo):
            chunk, chunk_started = chunks[index], time.perf_counter()
            result = {name: tensor.detach().cpu().contiguous() for name, tensor in function(chunk).items()}
            if any(len(tensor) != len(chunk) for tensor in result.values()):
                raise ValueError(f"stage {stage}: {len(chunk)} items gave { ({k: len(v) for k, v in result.items()}) } rows")
            _store(folder, index, save(result), items=len(chunk), seconds=time.perf_counter() - chunk_started)
        self.accelerator.wait_for_everyone()
        markers = [json.loads(_marker(folder, index).read_bytes()) for index in range(len(chunks))]
        sha256 = hashlib.sha256("".join(marker["sha256"] for marker in markers).encode()).hexdigest()
        seconds = sum(marker["seconds"] for marker in markers)
        self._note(stage, len(items), seconds, started, reused=len(mine) > len(todo), sha256=sha256)
        return Stage(folder, chunk_size, len(items))

    def on_main(self, stage: str, function: Callable[[], None], *, makes: Path | None = None) -> None:
        """Call a function on the main process while the others wait.

        Args:
            stage: Name of the stage.
            function: What to do.
            makes: File or folder that the function makes, complete from the moment it exists. When it is there already,
                the function is not called; a run beside this one that makes the same is waited for.
        """
        if self.is_main:
            started = time.perf_counter()
            with _claim(makes) as needed:
                if needed:
                    function()
                    self._note(stage, 1, time.perf_counter() - started, started, reused=False)
        self.accelerator.wait_for_everyone()
        if makes:
            _see(makes)

    def together(self, stage: str, items: int, function: Callable[[], float]) -> None:
        """Call a function on all processes at once.

        Args:
            stage: Name of the stage.
            items: How many of what it counts, for the table.
            function: What to do; resumes by its own means. Returns its seconds, interrupted attempts included.
        """
        started = time.perf_counter()
        seconds = function()
        self.accelerator.wait_for_everyone()
        self._note(stage, items, seconds, started, reused=False)

    def _note(
        self, name: str, items: int, seconds: float, started: float, *, reused: bool, sha256: str | None = None
    ) -> None:
        wall, seconds = time.perf_counter() - started, round(seconds, 2)
        note = {"name": name, "items": items, "seconds": seconds, "wall": wall, "reused": reused, "sha256": sha256}
        self.stages.append(note)

    def environment(self) -> dict[str, Any]:
        """Describe this run for the records; see `environment`. Call it on every process."""
        return environment(self.accelerator)

    def summary(self) -> Table:
        """Return the table of stage times of this run and peak memory."""
        peaks = ", ".join(f"{name} {value / 2**20:,.0f} MiB" for name, value in peak_memory(self.accelerator).items())
        table = Table("stage", "items", "time", caption=f"peak memory of one process: {peaks}", title="Stages")
        for stage in self.stages:
            seconds = f"{stage['wall']:.1f} s" + (" (finished work reused)" if stage["reused"] else "")
            table.add_row(stage["name"], str(stage["items"]), seconds)
        table.add_row("total", "", f"{sum(stage['wall'] for stage in self.stages):.1f} s")
        return table

    def end(self) -> None:
        """Leave the process group."""
        self.accelerator.end_training()


@contextmanager
def _claim(path: Path | None) -> Iterator[bool]:
    """Hold the lock of a path; yield whether it is still to be made."""
    if path is None:
        yield True
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f"{path.name}.lock")):
        yield not path.exists()


def _see(path: Path) -> None:
    """Wait until this machine, too, sees what the main process made: NFS may take a minute to notice a new file."""
    for _ in range(10 * SEEN_AFTER):
        if path.exists():
            return
        time.sleep(0.1)
    raise InputError("file", str(path), f"{platform.node()} does not see it, but the main process does; share the folder")


def _chunk_file(folder: Path, index: int) -> Path:
    return folder / f"{index:06d}.safetensors"


def _marker(folder: Path, index: int) -> Path:
    return folder / f"{index:06d}.json"


def _store(folder: Path, index: int, data: bytes, *, items: int, seconds: float) -> None:
    atomic_write(_chunk_file(folder, index), data)
    # The marker comes second: a chunk counts only when it is complete.
    marker = {"sha256": hashlib.sha256(data).hexdigest(), "items": items, "seconds": round(seconds, 3)}
    atomic_write(_marker(folder, index), json.dumps(marker).encode())


def _finished(folder: Path, index: int, items: int) -> bool:
    try:
        marker = json.loads(_marker(folder, index).read_bytes())
        fits = marker["items"] == items and marker["seconds"] >= 0  # another list of items has other last chunks
        return fits and hashlib.sha256(_chunk_file(folder, index).read_bytes()).hexdigest() == marker["sha256"]
    except (FileNotFoundError, ValueError, KeyError, TypeError):  # not there, or a damaged marker
        return False
