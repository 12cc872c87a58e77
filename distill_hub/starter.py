"""A process ends with the one that started it, so that nothing that is killed leaves others at work."""

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

_STARTER = "DISTILL_HUB_STARTER"  # variable: id of the process of this package that starts others
_TORCHRUN = "TORCHELASTIC_RUN_ID"  # variable of what torchrun starts, as `accelerate launch` does for several processes
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
    """End this process soon after its starter, however that ended: SIGKILL lets nobody pass anything on.

    The starter is this package's (see `as_starter`) or torchrun; what a person's shell started lives on without it. Nothing
    is lost by `os._exit`: a run may be killed at any moment. Windows does not tell that a starter has ended.

    Returns:
        Whether the starter is this package's, which then says what interrupts both.
    """
    named = os.environ.pop(_STARTER, None)
    if named is None and _TORCHRUN not in os.environ:
        return False
    starter = os.getppid() if named is None else int(named)

    def watch() -> None:
        while os.getppid() == starter:
            time.sleep(_PAUSE)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    return named is not None
