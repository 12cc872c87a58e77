"""What work takes: time of the clock, of the cores, and of GPUs.

A *core-second* is a second in which one core of a CPU worked for a process of the run, in it or in the kernel, for any
of its threads: the process's own CPU time (user and system), which is measured, not counted from cores. A *GPU-second* is a
second in which a process held its GPU.
"""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill_hub.disk.files import atomic_write

if TYPE_CHECKING:
    import torch

COST = "cost.json"  # in the folder of a model that was fitted here
Cost = dict[str, float | None]  # None: unknown
NOTHING: Cost = {"seconds": 0.0, "core_seconds": 0.0, "gpu_seconds": 0.0}


class Meter:
    """Measures what this process takes from now on.

    Args:
        device: Where it works.
    """

    def __init__(self, device: "torch.device | str"):
        self.has_gpu = str(device).startswith("cuda")
        self.clock, self.cores = time.perf_counter(), time.process_time()

    def read(self) -> Cost:
        """Return the seconds of the clock, the cores and the GPU so far."""
        seconds = round(time.perf_counter() - self.clock, 3)
        cores = round(time.process_time() - self.cores, 3)
        return {"seconds": seconds, "core_seconds": cores, "gpu_seconds": seconds if self.has_gpu else 0.0}


def added(*costs: Mapping[str, Any]) -> Cost:
    """Return what several pieces of work took together; None where one does not say, which an older version left."""

    def total(name: str) -> float | None:
        known = [value for own in costs if (value := own.get(name)) is not None]
        return round(sum(known), 3) if len(known) == len(costs) else None

    return {name: total(name) for name in NOTHING}


def to_metadata(cost: Mapping[str, float | None]) -> dict[str, str]:
    """Return what is known of a cost as a checkpoint's metadata, which is text."""
    return {name: str(value) for name, value in cost.items() if value is not None}


def from_metadata(facts: Mapping[str, str]) -> Cost:
    """Return the cost in a checkpoint's metadata; None: unknown, as in a checkpoint of an older version."""
    return {name: float(facts[name]) if name in facts else None for name in NOTHING}


def write_cost(folder: Path, cost: Cost, device: "torch.device | str", *, processes: int = 1) -> None:
    """Keep in a model's folder what fitting it took, and on what."""
    import torch  # `compare`, which adds costs up, starts without it

    from distill_hub.running.machine import hardware

    facts = {**cost, "hardware": hardware(torch.device(device)), **({"processes": processes} if processes > 1 else {})}
    atomic_write(folder / COST, json.dumps(facts, indent=2).encode())
