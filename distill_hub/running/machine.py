"""The machine that a process runs on: its cores, devices and memory, and the other processes of the run."""

import ctypes
import os
import platform
import shutil
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil
import torch
from accelerate import Accelerator, InitProcessGroupKwargs
from rich.table import Table

from distill_hub.config import InputError
from distill_hub.running.console import memory_text

EVERY = 0.02  # seconds between two looks at the memory of a process
PEAKS = "peak_memory_bytes"  # in the marker of a chunk, and in the record of a stage: see `watched`
Peaks = dict[str, int]  # bytes at the most, by what holds them: "host" and "cuda", as far as the system says it
_cuda_before = 0  # peak of device memory before its count began anew


def cores() -> int:
    """Physical cores this process may use."""
    process, physical = psutil.Process(), psutil.cpu_count(logical=False) or 1
    if not hasattr(process, "cpu_affinity"):  # macOS binds no process to cores
        return physical
    return max(1, min(physical, len(process.cpu_affinity())))


def own_cores() -> int:
    """Of `cores`, those that this process has to itself beside the others of a launch on this machine."""
    return max(1, cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


@contextmanager
def watched(device: torch.device) -> Iterator[Peaks]:
    """Find out how much memory this process holds at the most while a block runs.

    Of the host that is what the process alone holds: anonymous memory, in which pages of mapped files are not counted, for
    the kernel drops these when it needs room. It is looked at by a thread, since no kernel keeps the peak of it; what
    PyTorch frees stays with the process on Linux (see `start_accelerator`), so that little is missed.

    Yields:
        A mapping that is filled when the block ends: "host", on Linux, and "cuda" on a GPU.
    """
    global _cuda_before
    found: Peaks = {}
    held = [] if (now := _anonymous()) is None else [now]
    done = threading.Event()

    def look() -> None:
        while not done.wait(EVERY):
            held.append(max(held.pop(), _anonymous() or 0))

    thread = threading.Thread(target=look, daemon=True)
    if held:
        thread.start()
    if device.type == "cuda":
        _cuda_before = _cuda_peak(device)
        torch.cuda.reset_peak_memory_stats(device)
    try:
        yield found
    finally:
        done.set()
        if held:
            thread.join()
            found["host"] = max(held.pop(), _anonymous() or 0)
        if device.type == "cuda":
            found["cuda"] = torch.cuda.max_memory_allocated(device)


def largest(*peaks: Mapping[str, int] | None) -> Peaks:
    """Return the most of each; None: not on record."""
    known = [own for own in peaks if own]
    return {name: max(own.get(name, 0) for own in known) for name in dict.fromkeys(name for own in known for name in own)}


def _anonymous() -> int | None:
    """Bytes of memory that this process alone holds now, mapped files left out; None where the system does not say."""
    try:
        resident, of_files = Path("/proc/self/statm").read_text(encoding="ascii").split()[1:3]
    except OSError:  # not Linux
        return None
    return (int(resident) - int(of_files)) * os.sysconf("SC_PAGE_SIZE")


def _cuda_peak(device: torch.device) -> int:
    return max(_cuda_before, torch.cuda.max_memory_allocated(device))


def peak_memory(accelerator: Accelerator) -> dict[str, int]:
    """Return the largest peak over all processes, in bytes: resident memory, and device memory where there is one."""
    peaks = {"cpu": _peak_resident()}
    if accelerator.device.type == "cuda":
        peaks["cuda"] = _cuda_peak(accelerator.device)
    tensor = torch.tensor(list(peaks.values()), dtype=torch.int64, device=accelerator.device)
    gathered = accelerator.gather(tensor).view(-1, len(peaks)).amax(0)
    return {name: int(value) for name, value in zip(peaks, gathered, strict=True)}


def _peak_resident() -> int:
    """Most bytes of memory that this process has held at once."""
    memory = psutil.Process().memory_info()
    if hasattr(memory, "peak_wset"):  # Windows, which has no `resource`
        return memory.peak_wset
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # macOS counts in bytes, Linux in KiB


def environment(accelerator: Accelerator) -> dict[str, Any]:
    """Return versions, hardware, processes and peak memory, for the records. Call it on every process."""
    packages = ("distill-hub", "torch", "diffusers", "transformers", "datasets", "accelerate", "timm", "huggingface-hub")
    device = accelerator.device
    return {
        "packages": {name: metadata.version(name) for name in packages},
        "python": platform.python_version(),
        "hardware": hardware(device),
        "processes": accelerator.num_processes,
        "mixed_precision": accelerator.mixed_precision,
        "peak_memory_bytes": peak_memory(accelerator),
    }


def hardware(device: torch.device) -> str:
    """Return what records call a device: the GPU's name, or the CPU's kind and number of cores."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"{platform.machine()} CPU, {cores()} cores"


def start_accelerator() -> Accelerator:
    """Join the process group and let this process use all cores.

    `accelerate launch` and `torchrun` export OMP_NUM_THREADS=1 unless told otherwise. The cores are not divided among the
    processes: on a CPU the last bits of a convolution or a gradient depend on the number of threads, and a set must not
    depend on the number of processes.
    """
    # A process may wait for hours while another one fits a model or finishes its last chunk.
    accelerator = Accelerator(kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(days=7))])
    if accelerator.device.type == "cpu":
        torch.set_num_threads(cores())
        _keep_freed_memory()
    return accelerator


def check_compiler(option: str, device: torch.device) -> None:
    """Refuse to compile networks where PyTorch would not find the C++ compiler that it needs on a CPU.

    Args:
        option: Its name, for the error.
        device: To compile for.

    Raises:
        InputError: As above.
    """
    needed = {"darwin": "clang++", "win32": "cl"}.get(sys.platform, "g++")
    compiler = os.environ.get("CXX", needed)
    if device.type == "cpu" and not shutil.which(compiler):
        raise InputError(option, True, f"there is no C++ compiler {compiler!r} here; install one, or leave {option} out")


def _keep_freed_memory() -> None:
    """Let the C library keep what PyTorch frees, instead of asking the kernel for zeroed pages at every step.

    With glibc a block of more than 32 MiB, which one layer's activations easily are, otherwise goes back to the kernel when
    it is freed. A training step of ConvNet-3 on 64 images of 32 pixels took 127 instead of 214 ms (2 cores).
    """
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):  # glibc, not musl
        libc.mallopt(-4, 0)  # M_MMAP_MAX: no block gets a mapping of its own
        libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: up to 2 GiB of free memory stay


def stage_table(stages: Sequence[Mapping[str, Any]]) -> Table:
    """Return the table of what a run's stages took: time, and memory of the process that needed most."""
    table = Table("stage", "items", "time", "memory of a process", title="Stages")
    for stage in stages:
        seconds = f"{stage['wall']:.1f} s" + (" (finished work reused)" if stage["reused"] else "")
        table.add_row(stage["name"], str(stage["items"]), seconds, memory_text(stage.get(PEAKS)))
    table.add_row("total", "", f"{sum(stage['wall'] for stage in stages):.1f} s", "")
    return table
