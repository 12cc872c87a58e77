"""The machine that a process runs on: its cores, devices and memory, and the other processes of the run."""

import ctypes
import os
import platform
import sys
from datetime import timedelta
from importlib import metadata
from typing import Any

import psutil
import torch
from accelerate import Accelerator, InitProcessGroupKwargs


def cores() -> int:
    """Physical cores this process may use."""
    process, physical = psutil.Process(), psutil.cpu_count(logical=False) or 1
    if not hasattr(process, "cpu_affinity"):  # macOS binds no process to cores
        return physical
    return max(1, min(physical, len(process.cpu_affinity())))


def own_cores() -> int:
    """Of `cores`, those that this process has to itself beside the others of a launch on this machine."""
    return max(1, cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def peak_memory(accelerator: Accelerator) -> dict[str, int]:
    """Return the largest peak over all processes, in bytes: resident memory, and device memory where there is one."""
    peaks = {"cpu": _peak_resident()}
    if accelerator.device.type == "cuda":
        peaks["cuda"] = torch.cuda.max_memory_allocated(accelerator.device)
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
