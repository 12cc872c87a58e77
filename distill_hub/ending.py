"""How a process ends: with one line on the standard error and an exit code, whoever is there to read them."""

import contextlib
import errno
import os
import re
import signal
import socket
import sys
import threading
from collections.abc import Callable, Collection, Iterator
from typing import NoReturn, TextIO

from distill_hub.text import complaint

OUT_OF_MEMORY = "most likely memory ran out, so try fewer processes or smaller batches; the same command goes on"
FULL = (errno.ENOSPC, errno.EDQUOT)
_UNUSABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP)
# What PyTorch says of a device, of this machine, and of cuBLAS and cuDNN; it has a class of its own for the first alone.
_NO_MEMORY = re.compile(r"out of memory|DefaultCPUAllocator: (can't allocate|not enough) memory|_ALLOC_FAILED").search


def fail(message: str, code: int = 2) -> int:
    """Say why the process ends; return the exit code."""
    rank = os.environ.get("RANK", "0")
    tell(f"error: {message}" if rank == "0" else f"error on rank {rank}: {message}")
    return code


def tell(line: str) -> None:
    """Print a line on the standard error, if that can be written to."""
    with contextlib.suppress(OSError):
        print(f"{line}\n", end="", file=sys.stderr, flush=True)  # at once: lines of two processes must not mix
        return
    drop(sys.stderr)


def drop(stream: TextIO) -> None:
    """Let what a stream has not written vanish, where nobody takes it: Python would fail at it again at its end."""
    try:
        stream.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def of_the_machine(error: BaseException) -> str | None:
    """Return the line for what this machine lacks, or does not allow; None for an error of another kind."""
    for one in _chain(error):
        if getattr(one, "errno", None) in FULL or re.search(r"os error ({}|{})\b".format(*FULL), str(one)):  # hf_xet's
            where = getattr(one, "filename", None) or "the output, its folder or a cache"
            return f"disk: no space left for {where}; free some and run the same command again: finished work is kept"
    if isinstance(error, OSError) and error.filename and error.errno in _UNUSABLE:
        return complaint("file", str(error.filename), f"it cannot be read or written ({error.strerror})")
    if is_out_of_memory(error):
        return "memory: there is not enough for what was asked for; smaller images, batches or sets need less"
    return None


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error says that memory, of this machine or of its device, is used up."""
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and bool(_NO_MEMORY(str(error))))


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error:
        yield error
        error = error.__cause__ or error.__context__


def interrupted(*, say: bool = True) -> int:
    """Say that Ctrl-C ended the command, on the main process and unless another one does; return the exit code."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second one must not interrupt the end
    if say and os.environ.get("RANK", "0") == "0":
        tell("\ninterrupted; the same command goes on where it stopped")  # on a line of its own, behind a progress bar
    return 128 + signal.SIGINT


def end_on_signals(numbers: Collection[int], end: Callable[[int], NoReturn]) -> None:
    """End this process on a signal even while it waits for others.

    Python handles signals between two of its own instructions, so not before a barrier is over, and torchrun waits for 30 s
    before it kills. The interpreter's C part, however, writes a signal's number to a socket at once.

    Args:
        numbers: Of the signals.
        end: Called with the first signal's number, on a thread of its own.
    """
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    signal.set_wakeup_fd(writer.detach(), warn_on_full_buffer=False)
    for number in numbers:
        signal.signal(number, lambda *_: None)

    def wait() -> None:
        while (number := reader.recv(1)[0]) not in numbers:
            pass
        end(number)

    threading.Thread(target=wait, daemon=True).start()


def end_on_interrupt(*, say: bool) -> None:
    """End this process on Ctrl-C, see `end_on_signals`; what it says is as in `interrupted`.

    Nothing is lost by `os._exit`: a run may be killed at any moment.
    """
    end_on_signals([signal.SIGINT], lambda _: os._exit(interrupted(say=say)))
