"""Processes of a run, forked from one that has imported what takes long: each is there in a moment.

Modules of tests that hand their functions to `start` are imported by every process, so they import nothing heavy.
"""

import dataclasses
import multiprocessing
import os
import socket
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

from distill_hub.config import launch

FORKED = multiprocessing.get_context("forkserver")
FORKED.set_forkserver_preload(["distill_hub.running.run", "pytest", "datasets"])


@dataclasses.dataclass(frozen=True)
class Nothing:
    """Settings."""


def _process(rank, world, port, log, work, arguments):
    for stream in (1, 2):
        os.dup2(os.open(log, os.O_CREAT | os.O_WRONLY | os.O_APPEND), stream)
    where = {
        "RANK": rank,
        "WORLD_SIZE": world,
        "LOCAL_RANK": rank,
        "LOCAL_WORLD_SIZE": world,
        "MASTER_PORT": port,
        "OMP_NUM_THREADS": 1,
    }
    os.environ.update({name: str(value) for name, value in where.items()})
    os.environ.update(MASTER_ADDR="127.0.0.1", ACCELERATE_USE_CPU="true")
    launch(lambda _: work(*arguments), Nothing, None, [])


def start_processes(log: Path, work: Callable, *arguments, world: int = 2) -> tuple[list[BaseProcess], list[Path]]:
    """Start processes as torchrun starts them.

    Args:
        log: Beginning of the names of the files that get their output.
        work: What they launch, a function of a module; called with the arguments.
        arguments: Plain ones.
        world: How many processes.

    Returns:
        The processes, and the files.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    files = [log.with_name(f"{log.name}-{rank}") for rank in range(world)]
    parts = [(rank, world, port, file, work, arguments) for rank, file in enumerate(files)]
    started = [FORKED.Process(target=_process, args=part, daemon=True) for part in parts]  # a test that fails ends them
    for one in started:
        one.start()
    return started, files


def wait_for(path: Path, *processes: BaseProcess) -> None:
    """Wait until there is a file, which the processes live to see."""
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline and all(one.is_alive() for one in processes), f"it never made {path}"
        time.sleep(0.005)


def end_process(one: BaseProcess, seconds: float = 20) -> int:
    """Return the exit code of a process, which must end by itself."""
    one.join(seconds)
    assert one.exitcode is not None, "it hangs"
    return one.exitcode
