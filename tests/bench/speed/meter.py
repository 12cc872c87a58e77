"""A process that measures one side of one task."""

import os
import resource
import sys
import time

import torch
from torch.utils.flop_counter import FlopCounterMode


class Meter:
    """One side of one task. All but its peak memory is measured with nothing else beside it.

    Args:
        side: 'ours' or 'plain'.
        task: See `ours.TASKS` and `matching.OURS`.
        scale: Key of `scene.SCALES`.
        compiled: Whether our networks are compiled.
        workers: Of a plain loop's DataLoader.
    """

    def __init__(self, side: str, task: str, scale: str, compiled: bool, workers: int):
        import matching
        import ours
        import plain
        from scene import SCALES, Scene

        # What is tuned is in float32, whatever the precision of its forward passes.
        self.scene = Scene(SCALES[scale], precise=task == "minimax", compiled=compiled)
        own, others = {**ours.TASKS, **matching.OURS}, {**plain.TASKS, **matching.PLAIN}
        self.work = own[task](self.scene) if side == "ours" else others[task](self.scene, workers)
        self.is_plain, self.gpu = side == "plain", self.scene.device.type == "cuda"

    def outcome(self) -> dict:
        """Return what this side arrives at, float64 arrays by name."""
        torch.backends.cudnn.allow_tf32 = False
        self._allow_tf32(False)
        arrays = {name: tensor.detach().double().cpu().numpy() for name, tensor in self.work.outcome().items()}
        torch.backends.cudnn.allow_tf32 = True
        return arrays

    def rate(self, other: str | None = None) -> float:
        """Return units per second, of one call."""
        self._allow_tf32(self.is_plain)  # the scripts of CaO2 and Minimax do
        work = self.work.others[other] if other else self.work.main
        self._synchronize()
        started = time.perf_counter()
        count = work()
        self._synchronize()
        return count / (time.perf_counter() - started)

    def peak(self) -> int:
        """Return the peak of this process's memory so far, in bytes: allocated on a GPU, resident on a CPU."""
        if self.gpu:
            return torch.cuda.max_memory_allocated()
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts in KiB

    def flops(self) -> float:
        """Return floating-point operations per unit, of matrix products, convolutions and attention."""
        work = self.work.others.get("batch 1", self.work.main)  # as many for each image in any batch
        with FlopCounterMode(display=False) as counter:
            count = work()
        return counter.get_total_flops() / count

    def matmul(self) -> float:
        """Return operations per second of one large matrix product in the precision of the run."""
        self._allow_tf32(self.is_plain)
        side, repeats = (8192, 30) if self.gpu else (2048, 10)
        a, b = (torch.randn(side, side, device=self.scene.device, dtype=self.scene.run.dtype) for _ in range(2))
        a @ b
        self._synchronize()
        started = time.perf_counter()
        for _ in range(repeats):
            a @ b
        self._synchronize()
        return 2 * side**3 * repeats / (time.perf_counter() - started)

    def facts(self) -> dict:
        """Return the unit, what else can be measured, and where."""
        from distill_hub.running.machine import cores

        where = torch.cuda.get_device_name() if self.gpu else f"{cores()} CPU cores, {torch.get_num_threads()} threads"
        return {"unit": self.work.unit, "others": list(self.work.others), "device": where}

    def _synchronize(self) -> None:
        if self.gpu:
            torch.cuda.synchronize()

    def _allow_tf32(self, allow: bool) -> None:
        torch.backends.cuda.matmul.allow_tf32 = allow  # PyTorch has it off, and on for cuDNN's convolutions


METER: Meter


def start(precision: str, *given) -> None:
    """Make this process a meter; what the package prints goes nowhere, errors come back."""
    global METER
    os.environ["ACCELERATE_MIXED_PRECISION"] = precision  # as `accelerate launch` hands it on
    for stream in (sys.stdout, sys.stderr):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    METER = Meter(*given)


def by_ipc(precision: str, task: str, scale: str, ipc: int) -> tuple[float, float]:
    """Return what `matching.measure` does, in a process of its own."""
    os.environ["ACCELERATE_MIXED_PRECISION"] = precision
    import matching
    from scene import SCALES, Scene

    return matching.measure(task, Scene(SCALES[scale], precise=False, compiled=False), ipc)


def ask(question: str, *given):
    """Return an answer of this process's meter."""
    return getattr(METER, question)(*given)
