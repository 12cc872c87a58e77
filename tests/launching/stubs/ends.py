"""Ends: as it is told."""

import ctypes
import json
import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from distill_hub.config import InputError, argument, launch, option


@dataclass(frozen=True)
class Config:
    """How it ends."""

    folder: Path = argument("where each process notes what it was given")
    how: str = option("well", "well, refused, a bug, killed, asleep, or hanging")
    rank: int = option(0, "of the process that does")
    note: str | None = option(None, "words")
    draw_batch_size: int = option(1, "of what takes memory")


def main(config: Config) -> None:
    """End."""
    environment = {k: v for k, v in os.environ.items() if k in ("RANK", "WORLD_SIZE") or k.startswith("ACCELERATE_")}
    rank = int(environment.get("RANK", 0))
    told = {"pid": os.getpid(), "how": config.how, "note": config.note, "path": sys.path[0], "environment": environment}
    temporary = config.folder / f"{rank}.tmp"
    temporary.write_text(json.dumps(told))
    temporary.rename(config.folder / f"{rank}.json")
    os.write(1, f"process {rank} on its output\n".encode())  # at once: lines of two processes must not mix
    os.write(2, f"process {rank} on its errors\n".encode())
    if config.how == "asleep":
        time.sleep(60)
    if config.how == "hanging":
        ctypes.PyDLL(None).sleep(60)  # none of Python's threads runs meanwhile
    if rank == config.rank:
        if config.how == "refused":
            raise InputError("weather", "rain", "sun")
        if config.how == "a bug":
            raise RuntimeError("a bug")
        if config.how == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
    elif config.how != "well":
        time.sleep(60)


if __name__ == "__main__":
    launch(main, Config, __doc__)
