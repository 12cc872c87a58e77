"""Processes that are forked from one that has imported what takes long: each is there in a moment.

Modules of tests that hand their functions to `start_processes` are imported by every process, so they import nothing heavy.
"""

import dataclasses
import gc
import multiprocessing
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[1]
FORKED = multiprocessing.get_context("forkserver")
# Most of what a recipe imports, and nothing that reads the Hub's environment variables: every process has its own.
FORKED.set_forkserver_preload(
    [
        *("torch._dynamo", "torch.distributed.checkpoint", "torchvision.transforms.v2", "tokenizers", "sklearn.datasets"),
        *("scipy.stats", "pandas", "pyarrow.dataset", "matplotlib.pyplot", "pydantic", "rich.console", "pytest"),
    ]
)


@dataclasses.dataclass(frozen=True)
class Nothing:
    """Settings."""


def ranks(world: int) -> list[dict[str, str]]:
    """Return the variables that torchrun sets in each of its processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    shared |= {"OMP_NUM_THREADS": 1, "ACCELERATE_USE_CPU": "true"}
    return [
        {name: str(value) for name, value in {**shared, "RANK": rank, "LOCAL_RANK": rank}.items()} for rank in range(world)
    ]


def works(pid):
    """Whether a process has not ended; what nobody has asked for its exit code yet, has."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


# Programs


def start_python(
    words: Sequence[str], streams: Sequence[socket.socket | Path], environment: Mapping[str, str], folder: Path = ROOT
) -> BaseProcess:
    """Start what `python WORDS` starts, in a session of its own.

    Args:
        words: A script, "-m" and a module, or "-c" and code; then arguments.
        streams: Standard input, output and error: a socket, or a file.
        environment: All its variables.
        folder: Its working directory.
    """
    started = FORKED.Process(target=_python, args=(list(map(str, words)), streams, dict(environment), folder), daemon=True)
    started.start()
    return started


def run_python(
    *words: str, environment: Mapping[str, str] | None = None, folder: Path = ROOT, world: int = 0
) -> subprocess.CompletedProcess:
    """Run what `python WORDS` runs; return its exit code and what it printed.

    Args:
        words: A script, "-m" and a module, or "-c" and code; then arguments.
        environment: All its variables, instead of those of this process.
        folder: The working directory.
        world: How many processes run it as those of torchrun; 0 for one that is on its own.
    """
    environment = os.environ if environment is None else environment
    with tempfile.TemporaryDirectory() as name:
        started, printed = [], Path(name)
        for number, own in enumerate(ranks(world) or [{"ACCELERATE_USE_CPU": "true"}]):
            streams = Path(os.devnull), printed / f"stdout-{number}", printed / f"stderr-{number}"
            started.append(start_python(words, streams, {**environment, **own}, folder))
        codes = [end_process(one, 600) for one in started]
        texts = [
            "".join(file.read_text(encoding="utf-8") for file in sorted(printed.glob(f"{stream}-*")))
            for stream in ("stdout", "stderr")
        ]
    return subprocess.CompletedProcess(words, next(filter(None, codes), 0), *texts)


def kill(process: BaseProcess) -> None:
    """SIGKILL what `start_python` started, and whatever that has started."""
    os.killpg(process.pid, signal.SIGKILL)
    process.join()


def _python(words, streams, environment, folder):
    gc.freeze()  # the collector leaves what was imported alone, and so the pages of memory that it is in
    os.setsid()
    for number, stream in enumerate(streams):
        os.dup2(stream.fileno() if isinstance(stream, socket.socket) else os.open(stream, os.O_RDWR | os.O_CREAT), number)
    sys.stdin = os.fdopen(0)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    first, *rest = words
    if first == "-m":
        sys.argv = rest
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    elif first == "-c":
        sys.argv = ["-c", *rest[1:]]
        exec(rest[0], {"__name__": "__main__"})
    else:
        sys.argv = words
        runpy.run_path(first, run_name="__main__")


def hear_signals() -> None:
    """Let this process hear the signals that a shell lets it ignore: behind `nohup`, or with `&` in a script."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)


# Functions


def _process(own, log, work, arguments):
    gc.freeze()
    hear_signals()
    for stream in (1, 2):
        os.dup2(os.open(log, os.O_CREAT | os.O_WRONLY | os.O_APPEND), stream)
    os.environ.update(own)
    from distill_hub.config import launch

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
    files = [log.with_name(f"{log.name}-{rank}") for rank in range(world)]
    parts = [(own, file, work, arguments) for own, file in zip(ranks(world), files, strict=True)]
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
