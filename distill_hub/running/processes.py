"""The processes of a run: what one of them does or decides for all."""

import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from distill_hub.config import InputError

SEEN_AFTER = 90  # seconds in which a file that one machine wrote is there for all that share its folder


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
