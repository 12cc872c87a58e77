"""Images in one file that is mapped into memory: the processes of a machine share its pages, and read what they use."""

import math
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from distill_hub.disk.files import STATE, check_folder, remove
from distill_hub.running.processes import wait_until_seen
from distill_hub.running.run import Run

ARRAY = "array"  # file in the folder of a stage: its rows, one after the other
AT_A_TIME = 256  # items per chunk of work; that many images a classifier also looks at


def open_mapped(file: Path, shape: Sequence[int], dtype: torch.dtype = torch.uint8) -> torch.Tensor:
    """Return what a file holds, as a tensor on the CPU that takes memory only where it is looked at.

    Args:
        file: Its values one after the other, in the machine's byte order.
        shape: Of the tensor, (N, ...).
        dtype: Of its values.

    Raises:
        RuntimeError: When the file is shorter.
    """
    return torch.from_file(str(file), shared=False, size=math.prod(shape), dtype=dtype).view(*shape)


def make_mapped(
    run: Run,
    stage: str,
    shape: Sequence[int],
    function: Callable[[Sequence[int]], torch.Tensor],
    *,
    chunk_size: int,
    made_from: Mapping[str, Any] | None,
    dtype: torch.dtype = torch.uint8,
    file: Path | None = None,
    lower: str | None = None,
) -> torch.Tensor:
    """Make the rows of a tensor, spread over processes, write them to one file, and open that.

    A killed run goes on with the rows that are missing. Of a dry run all rows but those of the first chunk are 0.

    Args:
        run: Spreads the work, see `Run.map`.
        stage: Name of the stage.
        shape: Of the tensor, (N, ...).
        function: From rows, which follow each other, to what they hold: (rows, ...) of `dtype`.
        chunk_size: Rows at a time.
        made_from: See `Run.map`.
        dtype: Of its values.
        file: Where it stays, in the user's cache; None: in the run's folder. When it is there already, nothing is made.
        lower: See `Run.map`.

    Returns:
        The tensor, see `open_mapped`.

    Raises:
        InputError: When nothing can be written to the user's cache; see also `Run.map`.
    """
    folder = run.output_dir / STATE / stage
    array, row_bytes = folder / ARRAY, math.prod(shape[1:]) * dtype.itemsize

    def is_there(place: Path | None) -> bool:  # and whole
        return place is not None and place.is_file() and place.stat().st_size == shape[0] * row_bytes

    if file and run.agree(is_there(file)):
        return open_mapped(file, shape, dtype)

    def make_room() -> None:
        if file:
            check_folder(file.parent, "DISTILL_HUB_CACHE")
        if not is_there(file) and not is_there(array):
            remove(folder)  # its markers, if any, speak of another file
            folder.mkdir(parents=True)
            with open(array, "wb") as opened:
                opened.truncate(shape[0] * row_bytes)

    def write(rows: Sequence[int]) -> dict[str, torch.Tensor]:
        made = function(rows).cpu().contiguous()
        if made.shape != (len(rows), *shape[1:]) or made.dtype != dtype:
            raise ValueError(f"stage {stage}: rows of {made.dtype} {tuple(made.shape)} for {dtype} {tuple(shape)}")
        wait_until_seen(array)
        with open(array, "r+b") as opened:
            opened.seek(rows[0] * row_bytes)
            opened.write(made.numpy().data)
            opened.flush()
            os.fsync(opened.fileno())
        return {}

    run.decide(make_room)
    if file and run.agree(is_there(file)):  # another run of those that joined was faster
        return open_mapped(file, shape, dtype)
    run.map(stage, range(shape[0]), write, chunk_size=chunk_size, made_from=made_from, lower=lower)
    if file is None or run.is_dry:
        wait_until_seen(array)
        return open_mapped(array, shape, dtype)

    def keep() -> None:
        if is_there(file):
            return
        file.parent.mkdir(parents=True, exist_ok=True)
        moved = file.with_name(f".{file.name}.{os.getpid()}.tmp")
        shutil.move(array, moved)  # the cache may lie on another disk
        with open(moved, "rb") as opened:
            os.fsync(opened.fileno())
        os.replace(moved, file)

    run.decide(keep)
    wait_until_seen(file)
    return open_mapped(file, shape, dtype)


def map_rows(
    run: Run,
    stage: str,
    read: Callable[[int, int], torch.Tensor],
    items: int,
    *,
    made_from: Mapping[str, Any] | None = None,
) -> torch.Tensor:
    """Map what is read, or made, of items that follow each other. Once the run has ended, the file is removed.

    Args:
        run: See `make_mapped`, as the next.
        stage: Name of the stage.
        read: From the first item and that behind the last to what they are: as many rows of each item, all of one shape.
        items: Number of items.
        made_from: See `Run.map`.

    Returns:
        The rows of all items; see `make_mapped`.
    """
    first = read(0, 1)
    each = len(first)

    def rows_of(rows: Sequence[int]) -> torch.Tensor:
        start, stop = rows[0] // each, -(-(rows[-1] + 1) // each)
        return read(start, stop)[rows[0] - start * each : rows[-1] + 1 - start * each]

    shape, how = (items * each, *first.shape[1:]), {"made_from": made_from, "dtype": first.dtype}
    made = make_mapped(run, stage, shape, rows_of, chunk_size=AT_A_TIME * each, **how)
    run.drop(stage, now=False)
    return made
