"""What a process finds out about its machine, and machines that lack what Linux has: each is taken away here."""

import ast
import ctypes
import mmap
import os
import re
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch
from accelerate import Accelerator

import distill_hub
from distill_hub import load_distilled
from distill_hub.artifact import package
from distill_hub.config import InputError
from distill_hub.running import machine
from distill_hub.running.session import session

MiB = 2**20


def kept_cores(monkeypatch, physical, allowed):
    monkeypatch.setattr(psutil, "cpu_count", lambda logical=True: physical)
    monkeypatch.setattr(psutil.Process, "cpu_affinity", lambda self: allowed, raising=False)


@pytest.mark.parametrize(
    ("physical", "allowed", "cores"),
    [(4, [0, 1, 2, 3, 4, 5, 6, 7], 4), (4, [6], 1), (None, [0, 1], 1), (4, [], 1)],
)
def test_cores_are_physical_ones_that_the_process_may_use(monkeypatch, physical, allowed, cores):
    kept_cores(monkeypatch, physical, allowed)
    assert machine.cores() == cores


@pytest.mark.parametrize(("physical", "cores"), [(8, 8), (None, 1)])
def test_cores_where_processes_are_not_bound_to_any(monkeypatch, physical, cores):
    kept_cores(monkeypatch, physical, [0])
    monkeypatch.delattr(psutil.Process, "cpu_affinity")  # as on macOS
    assert machine.cores() == cores


def peak():
    return machine.peak_memory(Accelerator(cpu=True))["cpu"]


@pytest.mark.skipif(sys.platform != "linux", reason="reads what the kernel of Linux says")
def test_peak_memory_is_the_kernels():
    block = torch.ones(64 * MiB // 4)
    before = peak()
    del block  # the peak stays
    said = int(re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024
    assert before <= peak() == pytest.approx(said, abs=4 * MiB)


@pytest.mark.skipif(sys.platform != "linux", reason="reads what the kernel of Linux says")
def test_memory_of_its_own_is_watched_and_that_of_mapped_files_is_not(tmp_path):
    file = tmp_path / "zeros"
    file.write_bytes(bytes(96 * MiB))
    with machine.watched(torch.device("cpu")) as before:
        mapped = torch.from_file(str(file), size=96 * MiB, dtype=torch.uint8)
        assert int(mapped.max()) == 0 and before == {}  # known when the block ends
    with machine.watched(torch.device("cpu")) as held:
        block = mmap.mmap(-1, 96 * MiB, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)  # given back at once
        block.write(b"1" * 96 * MiB)
        time.sleep(10 * machine.EVERY)
        block.close()
    assert held["host"] - before["host"] == pytest.approx(96 * MiB, abs=40 * MiB)
    with machine.watched(torch.device("cpu")) as after:
        pass
    assert after["host"] < held["host"] - 48 * MiB


def test_of_a_system_that_does_not_say_it_no_memory_is_on_record(monkeypatch):
    monkeypatch.setattr(machine, "_anonymous", lambda: None)
    with machine.watched(torch.device("cpu")) as peaks:
        pass
    assert peaks == {} and machine.largest(peaks, None) == {}
    assert machine.largest({"host": 1, "cuda": 5}, None, {"host": 3}) == {"host": 3, "cuda": 5}


@pytest.mark.parametrize(("platform", "counted", "bytes"), [("linux", 3 * 1024, 3 * MiB), ("darwin", 3 * MiB, 3 * MiB)])
def test_each_system_counts_peak_memory_in_its_own_unit(monkeypatch, platform, counted, bytes):
    monkeypatch.setattr(machine, "sys", SimpleNamespace(platform=platform))
    monkeypatch.setattr("resource.getrusage", lambda who: SimpleNamespace(ru_maxrss=counted))
    assert peak() == bytes


def test_peak_memory_without_the_module_that_windows_lacks(monkeypatch):
    monkeypatch.setitem(sys.modules, "resource", None)  # an import of it fails
    monkeypatch.setattr(psutil.Process, "memory_info", lambda self: SimpleNamespace(rss=MiB, peak_wset=5 * MiB))
    assert peak() == 5 * MiB


def test_no_module_needs_what_only_unix_has_to_be_imported():
    unix = {"resource", "fcntl", "grp", "pwd", "posix", "pty", "syslog", "termios", "tty"}
    for file in Path(distill_hub.__file__).parent.rglob("*.py"):
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            names = [node.module] if isinstance(node, ast.ImportFrom) else [a.name for a in getattr(node, "names", ())]
            assert not unix & set(names), file


@pytest.mark.parametrize("platform", ["darwin", "win32"])
def test_the_c_library_is_left_alone_but_on_linux(monkeypatch, platform):
    def load(name):
        raise TypeError("argument of type 'NoneType' is not iterable")  # ctypes on Windows

    monkeypatch.setattr(ctypes, "CDLL", load)
    with pytest.raises(TypeError):
        ctypes.CDLL(None)
    monkeypatch.setattr(machine, "sys", SimpleNamespace(platform=platform))
    machine.start_accelerator()


def refuse(path, *rest, **more):
    raise PermissionError(13, "Permission denied", str(path))


def test_a_set_is_written_where_no_folder_can_be_opened(monkeypatch, tmp_path, make_rows, build_manifest, names):
    functions = {"fsync": os.fsync, "replace": os.replace, "O_RDONLY": os.O_RDONLY, "open": refuse}
    monkeypatch.setattr(package, "os", SimpleNamespace(**functions))
    with pytest.raises(PermissionError):
        package.write_artifact(tmp_path / "there", make_rows(), build_manifest(), class_names=names)
    monkeypatch.setattr(package, "sys", SimpleNamespace(platform="win32"))
    package.write_artifact(tmp_path / "here", make_rows(), build_manifest(), class_names=names)
    assert len(load_distilled(tmp_path / "here").labels) == 6


def test_a_session_is_open_once_and_then_gone(monkeypatch, tmp_path):
    monkeypatch.setenv("DISTILL_HUB_CACHE", str(tmp_path))
    for _ in range(2):  # the lock was released: the same call opens anew
        with session("views", {"x": 1}) as run:
            assert run.output_dir.is_dir()
            with pytest.raises(InputError, match="running already"), session("views", {"x": 1}):
                pass
        assert list((tmp_path / "views").iterdir()) == []


def test_compiling_for_a_cpu_is_refused_where_there_is_no_compiler(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    machine.check_compiler("compile_set", torch.device("cuda"))
    with pytest.raises(InputError, match=r"^compile_set: True cannot be used; there is no C.. compiler"):
        machine.check_compiler("compile_set", torch.device("cpu"))
    monkeypatch.setenv("CXX", sys.executable)
    machine.check_compiler("compile_set", torch.device("cpu"))
