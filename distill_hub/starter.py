"""A process ends with the one that started it, so that nothing that is killed leaves others at work."""

import ctypes
import itertools
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

_STARTER = "DISTILL_HUB_STARTER"  # variable: id of the process of this package that starts others
_TORCHRUN = "TORCHELASTIC_RUN_ID"  # variable of what torchrun starts, as `accelerate launch` does for several processes
_ACCELERATE = "ACCELERATE_MIXED_PRECISION"  # variable of what `accelerate launch` starts
_LAUNCH = ("accelerate", "launch")
_PR_SET_PDEATHSIG = 1  # of Linux: the signal that a process gets when its starter ends
_PAUSE = 0.2  # seconds


@contextmanager
def as_starter() -> Iterator[None]:
    """Let the commands and recipes that this process starts meanwhile end with it."""
    os.environ[_STARTER] = str(os.getpid())
    try:
        yield
    finally:
        del os.environ[_STARTER]


def end_with_starter() -> bool:
    """End this process with its starter, however that ended: SIGKILL lets nobody pass anything on.

    The starter is this package's (see `as_starter`), torchrun or `accelerate launch`; what a person's shell started lives on
    without it. Nothing is lost: a run may be killed at any moment. Windows does not tell that a starter has ended.

    Returns:
        Whether the starter is this package's, which then says what interrupts both.
    """
    named = os.environ.pop(_STARTER, None)
    if named is None and _TORCHRUN not in os.environ and not _is_started_by_accelerate():
        return False
    starter = os.getppid() if named is None else int(named)

    def watch() -> None:
        while os.getppid() == starter:
            time.sleep(_PAUSE)
        os._exit(1)

    if sys.platform == "linux":  # the kernel does it at once, even where this process is stopped or hangs
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    threading.Thread(target=watch, daemon=True).start()  # and here, where the starter has ended already
    return named is not None


def _is_started_by_accelerate() -> bool:
    """Whether `accelerate launch` waits for this process: its variable, which a person may set as well, is not enough."""
    if _ACCELERATE not in os.environ:
        return False
    import psutil  # takes longer than the rest of what a short command loads

    try:
        words = psutil.Process(os.getppid()).cmdline()
    except psutil.Error:  # it is somebody else's, or has just ended
        return False
    names = [os.path.basename(word).removesuffix(".exe") for word in words[:4]]
    return "accelerate-launch" in names or "accelerate.commands.launch" in names or _LAUNCH in itertools.pairwise(names)
