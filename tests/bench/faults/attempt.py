"""A command of `distill-hub` in a folder of its own: started, watched, ended, and what it left."""

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
from processes import start_python

WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate"}
TOKEN = "DISTILL_HUB_FAULTS"  # in the environment of every process that an attempt starts, and of theirs
CALL = """
import sys
from tests.bench.faults.attempt import count_changes
count_changes({counter!r}, {last})
from distill_hub.cli import command
command()
"""

NEW = """
import os, sys
os.execv(sys.executable, [sys.executable, "-m", "distill_hub.cli", *sys.argv[1:]])
"""


def count_changes(counter: str, last: int | None) -> None:
    """Note every change of a file or folder in this process's own places, just before it happens.

    Args:
        counter: File that gets a byte for each.
        last: Number, from 0, of the change before which the process kills itself; None: none.
    """
    log = os.open(counter, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    place, count = str(Path(counter).parent), 0

    def changes(event: str, args: tuple) -> None:
        nonlocal count
        writes = event == "open" and len(args) > 2 and isinstance(args[2], int) and args[2] & WRITES
        if not (writes or event in CHANGES) or isinstance(args[0], int):
            return
        if not os.path.abspath(os.fsdecode(args[0])).startswith(place):  # /dev/null, /proc
            return
        if count == last:
            os.kill(os.getpid(), signal.SIGKILL)
        count += 1
        os.write(log, b".")

    sys.addaudithook(changes)


class Place:
    """Where a command works: `work`, its current folder, and `home`, with all caches and temporary files."""

    def __init__(self, folder: Path, environment: dict[str, str]):
        self.folder, self.work, self.home = folder, folder / "work", folder / "home"
        self.counter, self.log = folder / "changes", folder / "log"
        self.environment = {
            **environment,
            "HOME": str(self.home),
            "TMPDIR": str(self.home / "tmp"),
            "HF_HOME": str(self.home / "hf"),
            "HF_DATASETS_CACHE": str(self.home / "datasets"),
            "DISTILL_HUB_CACHE": str(self.home / "fits"),
        }
        for part in (self.work, self.home / "tmp"):
            part.mkdir(parents=True, exist_ok=True)

    def names(self) -> set[str]:
        """Return the names of all files and folders, without what is a process's own in them."""
        found = (file.relative_to(self.folder).as_posix() for part in (self.work, self.home) for file in part.rglob("*"))
        return set(found)


class Attempt:
    """A command that runs.

    Args:
        place: Where.
        words: Behind `distill-hub`.
        token: Names it, in the environment of all processes.
        processes: That work on it.
        change: See `count_changes`.
        new: Let a new interpreter run it, which loads all modules.
    """

    def __init__(
        self, place: Place, words: list[str], token: str, *, processes: int, change: int | None = None, new: bool = False
    ):
        self.place, self.words, self.token, self.processes = place, words, token, processes
        place.log.unlink(missing_ok=True)
        place.counter.unlink(missing_ok=True)
        call = NEW if new else CALL.format(counter=str(place.counter), last=change)
        streams = [Path(os.devnull), place.log, place.log.with_name("errors")]
        streams[2].unlink(missing_ok=True)
        environment = {**place.environment, TOKEN: token, "OMP_NUM_THREADS": "1"}
        self.main = start_python(["-c", call, *words], streams, environment, place.work)
        self.started, self.began = time.perf_counter(), time.time()

    @property
    def output(self) -> str:
        files = (self.place.log, self.place.log.with_name("errors"))
        return "".join(file.read_text(encoding="utf-8", errors="replace") for file in files if file.exists())

    def ranks(self) -> list[psutil.Process]:
        """Return the processes that work: those of torchrun, or the only one."""
        if self.processes == 1:
            return [psutil.Process(self.main.pid)] if self.main.is_alive() else []
        with contextlib.suppress(psutil.Error):
            return [own for own in psutil.Process(self.main.pid).children(recursive=True) if "RANK" in environment_of(own)]
        return []

    def living(self) -> list[psutil.Process]:
        """Return all processes that the command started and that have not ended, itself among them."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, ProcessLookupError):
                own = os.getsid(process.pid) == self.main.pid or environment_of(process).get(TOKEN) == self.token
                if own and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def end(self, seconds: float) -> bool:
        """Wait for the end of all processes; return whether it came. What is left is killed."""
        deadline = time.monotonic() + seconds
        self.main.join(seconds)
        while (left := self.living()) and time.monotonic() < deadline:
            time.sleep(0.1)
        for process in left:
            with contextlib.suppress(psutil.Error):
                process.kill()
        self.main.join()
        return not left


def environment_of(process: psutil.Process) -> dict[str, str]:
    try:
        return process.environ() if process.status() != psutil.STATUS_ZOMBIE else {}
    except psutil.Error:  # it has just ended, or is somebody else's
        return {}


def shared_memory() -> set[str]:
    """Return the names of what lies in shared memory, but for semaphores: a forked process leaves its to the fork server.

    Names of the system's other processes come and go, too.
    """
    folder = Path("/dev/shm")
    return {file.name for file in folder.iterdir() if not file.name.startswith("sem.")} if folder.is_dir() else set()


def until(is_time: Callable[[], bool], attempt: Attempt) -> bool:
    """Wait until it is time; return whether it came before the command's end."""
    while attempt.main.is_alive():
        if is_time():
            return True
        time.sleep(0.01)
    return False
