"""What goes wrong outside of a run: processes killed or failing, Ctrl-C, a full disk, machines that share no folder."""

import errno
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest
import torch
from datasets.exceptions import DatasetGenerationError
from processes import Nothing, end_process, start_processes, wait_for
from safetensors import SafetensorError
from safetensors.torch import save

from distill_hub.config import InputError, launch
from distill_hub.disk.files import atomic_write
from distill_hub.ending import OUT_OF_MEMORY
from distill_hub.running import processes as process_module
from distill_hub.running.run import Run
from distill_hub.running.seeds import cpu_generator, draw_seed

# Killed processes

ITEMS = range(12)


def two_stages(out):
    def noise(chunk):
        time.sleep(0.05)
        return {"x": torch.stack([torch.randn(4, generator=cpu_generator(draw_seed(0, "noise", i))) for i in chunk])}

    def double(chunk):
        time.sleep(0.05)
        return {"x": 2 * first.rows(chunk[0], chunk[-1] + 1)["x"]}

    def package():
        (out / ".run" / "packaging").touch()
        time.sleep(1)
        atomic_write(out / "set", save(second.rows(0, len(second))))

    run = Run(out, {"seed": 0})
    first = run.map("first", ITEMS, noise, chunk_size=2)
    second = run.map("second", ITEMS, double, chunk_size=2)
    run.on_main("package", package)
    run.end()


def markers(out):
    return {file: (file.read_bytes(), file.stat().st_mtime_ns) for file in (out / ".run").glob("*/*.json")}


def test_whichever_process_is_killed_wherever_the_set_is_the_same(tmp_path):
    two_stages(tmp_path / "undisturbed")
    out, kept = tmp_path / "out", {}
    moments = [(0, "config.json"), (1, "first/000002.json"), (0, "second/000001.json"), (0, "packaging")]
    for number, (victim, moment) in enumerate(moments):
        (out / ".run" / "config.json").unlink(missing_ok=True)
        processes, logs = start_processes(tmp_path / f"log{number}", two_stages, out)
        wait_for(out / ".run" / moment, *processes)
        processes[victim].kill()
        assert end_process(processes[victim]) == -signal.SIGKILL
        processes[1 - victim].terminate()  # as torchrun does
        assert end_process(processes[1 - victim]) in (-signal.SIGTERM, 1)  # 1: the connection broke first
        assert not (out / "set").exists()
        now = markers(out)
        assert now.items() >= kept.items(), "finished work was lost or redone"
        kept = now
    assert len(kept) == 12
    processes, logs = start_processes(tmp_path / "log", two_stages, out)
    assert [end_process(one) for one in processes] == [0, 0], [log.read_text() for log in logs]
    assert markers(out) == kept
    assert (out / "set").read_bytes() == (tmp_path / "undisturbed" / "set").read_bytes()


# Ctrl-C


def wait_or_work(out, busy):
    """One process works on and on; the other one waits for it."""
    run = Run(out, {})

    def work(chunk):
        if chunk[0] == busy:
            (out / ".run" / "busy").touch()
            for _ in range(1200):
                time.sleep(0.1)
        return {"x": torch.tensor(chunk)}

    run.map("stage", [0, 1], work, chunk_size=1)


@pytest.mark.parametrize("busy", [0, 1])
def test_ctrl_c_ends_processes_that_work_and_that_wait(tmp_path, busy):
    processes, logs = start_processes(tmp_path / "log", wait_or_work, tmp_path / "out", busy)
    wait_for(tmp_path / "out" / ".run" / "busy", *processes)
    wait_for(tmp_path / "out" / ".run" / "stage" / f"{1 - busy:06d}.json", *processes)
    time.sleep(0.2)  # the other one is in the barrier by now
    for one in (processes[1 - busy], processes[busy]):  # the one that waits does so until it is told itself
        os.kill(one.pid, signal.SIGINT)
        assert end_process(one, 5) == 130
    assert [line for line in logs[0].read_text().splitlines() if line and "chunk/s" not in line] == [
        "interrupted; the same command goes on where it stopped"
    ]
    assert logs[1].read_text() == ""


def test_ctrl_c_in_a_run_of_one_process(tmp_path):
    (one,), (log,) = start_processes(tmp_path / "log", wait_or_work, tmp_path / "out", 0, world=1)
    wait_for(tmp_path / "out" / ".run" / "busy", one)
    os.kill(one.pid, signal.SIGINT)
    assert end_process(one, 5) == 130
    text = log.read_text()
    assert "interrupted; the same command goes on where it stopped" in text.splitlines() and "Traceback" not in text


# One process fails


def fail_on(out, rank, kind):
    run = Run(out, {})

    def work(chunk):
        if chunk[0] == rank:
            raise InputError("weather", "rain", "sun") if kind is InputError else kind("a bug")
        return {"x": torch.tensor(chunk)}

    run.map("stage", [0, 1], work, chunk_size=1)


@pytest.mark.parametrize(
    ("rank", "kind", "code", "line"),
    [
        (0, InputError, 2, "error: weather: 'rain' cannot be used; sun"),
        (1, InputError, 2, "error on rank 1: weather: 'rain' cannot be used; sun"),
        (1, RuntimeError, 1, "RuntimeError: a bug"),
    ],
)
def test_a_process_that_fails_says_why_and_does_not_wait_for_the_others(tmp_path, rank, kind, code, line):
    processes, logs = start_processes(tmp_path / "log", fail_on, tmp_path / "out", rank, kind)
    assert end_process(processes[rank]) == code
    assert line in logs[rank].read_text().splitlines()
    processes[1 - rank].terminate()
    assert end_process(processes[1 - rank], 5) in (-signal.SIGTERM, 1, code)  # it may have taken over what failed


def fail_on_main(out):
    def fit():
        raise InputError("weather", "rain", "sun")

    Run(out, {}).on_main("fit", fit, makes=out / "made")


def test_what_fails_on_the_main_process_fails_the_run_and_leaves_no_lock(tmp_path):
    for attempt in range(2):
        processes, logs = start_processes(tmp_path / f"log{attempt}", fail_on_main, tmp_path / "out")
        assert end_process(processes[0]) == 2 and "error: weather" in logs[0].read_text()
        processes[1].terminate()
        assert end_process(processes[1], 5) in (-signal.SIGTERM, 1)


SCRIPT = """
import os, sys, time
from dataclasses import make_dataclass
from pathlib import Path
from distill_hub.config import InputError, launch
from distill_hub.ending import OUT_OF_MEMORY

out, what = Path(sys.argv[1]), sys.argv[2]

def main(config):
    import torch
    from distill_hub.running.run import Run
    run = Run(out, {})
    (out / ".run" / f"process-{os.getpid()}").touch()
    def work(chunk):
        if chunk[0] == 1:
            if what == "fail":
                raise InputError("weather", "rain", "sun")
            (out / ".run" / "busy").touch()
            time.sleep(120)
        return {"x": torch.tensor(chunk)}
    run.map("stage", [0, 1], work, chunk_size=1)

launch(main, make_dataclass("Settings", []), None, [])
"""


@pytest.mark.parametrize("what", ["fail", "interrupt"])
def test_torchrun_ends_with_the_reason_and_leaves_no_process(tmp_path, what):
    script, out = tmp_path / "script.py", tmp_path / "out"
    script.write_text(SCRIPT)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", script, out, what]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true"}
    torchrun = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True)
    if what == "interrupt":
        busy = out / ".run" / "busy"
        while not busy.exists():
            assert torchrun.poll() is None, torchrun.stderr.read()
            time.sleep(0.02)
        # As a terminal does. It reaches torchrun alone, whose processes have groups of their own.
        os.killpg(torchrun.pid, signal.SIGINT)
    _, text = torchrun.communicate(timeout=20 if what == "interrupt" else 60)
    assert torchrun.returncode != 0
    own = {
        "fail": "error on rank 1: weather: 'rain' cannot be used; sun",
        "interrupt": "interrupted; the same command goes on where it stopped",
    }
    assert [line for line in own.values() if line in text] == [own[what]]  # behind another process's progress bar, perhaps
    assert "distill_hub" not in text, "a traceback of ours"  # nor of the process that lost the other one
    pids = [int(file.name.split("-")[1]) for file in (out / ".run").glob("process-*")]
    assert len(pids) == 2 and not any(map(psutil.pid_exists, pids))


def test_where_another_process_was_killed_the_likely_cause_is_named(capsys):
    def main():
        raise RuntimeError("[/pytorch/gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:1")

    with pytest.raises(SystemExit) as stop:
        launch(lambda _: main(), Nothing, None, [])
    (line,) = capsys.readouterr().err.splitlines()
    assert stop.value.code == 1 and line.startswith("error: the connection to another process broke; look for what that one")
    assert line.endswith(f"One that was killed says nothing: {OUT_OF_MEMORY}")


# A full disk

LINE = "error: disk: no space left for {}; free some and run the same command again: finished work is kept"


def ended(capsys, main) -> str:
    """Launch something that must end with code 2; return its one line."""
    with pytest.raises(SystemExit) as stop:
        launch(lambda _: main(), Nothing, None, [])
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line and "chunk/s" not in line]
    assert stop.value.code == 2
    return line


def raises(error, cause=None):
    def main():
        raise error from cause

    return main


QUOTA = OSError(errno.EDQUOT, "Disk quota exceeded")
WRAPPED = DatasetGenerationError("An error occurred while generating the dataset")
IN_TEXT = "I/O error: No space left on device (os error 28)"
FULL = {
    "plain": raises(OSError(errno.ENOSPC, "No space left on device")),
    "safetensors": raises(SafetensorError(f"Error while serializing: {IN_TEXT}")),
    "download": raises(RuntimeError(f"Data processing error: {IN_TEXT}")),
    "quota": raises(QUOTA),
    "wrapped": raises(WRAPPED, QUOTA),
    "taken for bad input": raises(InputError("source", "x", "a dataset with images is needed"), QUOTA),
}


@pytest.mark.parametrize("how", FULL)
def test_a_full_disk_is_known_in_the_words_of_every_library(capsys, how):
    assert ended(capsys, FULL[how]) == LINE.format("the output, its folder or a cache")


@pytest.mark.parametrize("error", [OSError(errno.EIO, "os error 5"), RuntimeError("os error 280")])
def test_other_errors_are_not_taken_for_a_full_disk(error):
    with pytest.raises(type(error)) as caught:
        launch(lambda _: raises(error)(), Nothing, None, [])
    assert caught.value is error


def contents(folder):
    """The artifact, without what a run keeps for itself and without the moment that it was made."""
    files = {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file() and ".run" not in f.parts}
    manifest = json.loads(files.pop("manifest.json"))
    return files, {**manifest, "created": None}


def test_a_disk_that_fills_up_at_any_write_costs_nothing_but_the_file(tmp_path, monkeypatch, capfd):
    """`distill-hub adopt` writes settings, parquet, manifest, preview and card. The disk is full at write 1, 2, ..."""
    from distill_hub import cli
    from distill_hub.data.sources import load_source

    train = load_source("digits").train
    rows = [row for label in range(10) for row in np.flatnonzero(train.labels == label)[:2]]
    images = train.pixels(rows, 16).permute(0, 2, 3, 1).numpy()
    np.savez(tmp_path / "set.npz", images=images, labels=train.labels[rows])
    words = ["adopt", str(tmp_path / "set.npz"), "--source", "digits", "--classes", "source", "--method", "DM"]

    def adopt(folder):
        monkeypatch.setattr(sys, "argv", ["distill-hub", *words, "--output_dir", str(folder)])
        cli.main()

    adopt(tmp_path / "undisturbed")
    fsync, writes = os.fsync, 0

    def fail_at(limit):
        def counting(file):
            nonlocal writes
            writes += 1
            if writes == limit:
                raise OSError(errno.ENOSPC, "No space left on device")
            fsync(file)

        return counting

    for limit in range(1, 100):
        writes = 0
        capfd.readouterr()
        with monkeypatch.context() as full:
            full.setattr(os, "fsync", fail_at(limit))
            try:
                adopt(tmp_path / "out")
                break
            except SystemExit as stop:
                assert stop.code == 2
        errors = [line for line in capfd.readouterr().err.splitlines() if line and "chunk/s]" not in line]
        assert len(errors) == 1 and errors[0].startswith("error: disk: no space left for "), errors
        assert not [file for file in tmp_path.glob("out/**/.*.tmp")]
    assert limit > 5
    (files, manifest), (own, of_own) = contents(tmp_path / "undisturbed"), contents(tmp_path / "out")
    assert own.keys() == files.keys() and of_own == manifest
    assert all(own[name] == files[name] for name in files if name.endswith((".parquet", ".png")))


def test_a_disk_full_of_images(tmp_path, monkeypatch, capsys):
    """The kernel's own error, out of a parquet file half written."""
    import pyarrow as pa

    from distill_hub.artifact import package

    # Never by its name: libraries delete or replace what they could not write, and root may.
    monkeypatch.setattr(package, "open", lambda *_: os.fdopen(os.open("/dev/full", os.O_WRONLY), "wb"), raising=False)
    schema = pa.schema({"x": pa.binary()})
    table = pa.table({"x": [os.urandom(100_000)]}, schema=schema)
    line = ended(capsys, lambda: package.write_shards(tmp_path, iter([table, table]), schema))
    assert line == LINE.format("the output, its folder or a cache")


def test_a_disk_that_fills_up_during_a_chunk_keeps_those_before_it(tmp_path, monkeypatch, capsys):
    replace, calls = os.replace, []

    def work():
        def square(chunk):
            calls.append(chunk[0])
            return {"x": torch.tensor(chunk) ** 2}

        return Run(tmp_path, {}).map("stage", [1, 2, 3], square, chunk_size=1).rows(0, 3)["x"].tolist()

    def full(temporary, path):
        if path.name == "000001.safetensors":
            raise OSError(errno.ENOSPC, "No space left on device")
        replace(temporary, path)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        line = ended(capsys, work)
    assert line == LINE.format(tmp_path / ".run" / "stage" / "000001.safetensors")
    assert work() == [1, 4, 9] and calls == [1, 2, 2, 3]


# Machines


def machine(folders, patience):
    process_module.SEEN_AFTER = patience
    Run(folders[int(os.environ["RANK"])] / "out", {})


def test_machines_that_do_not_share_the_output_folder_are_told(tmp_path):
    processes, logs = start_processes(tmp_path / "log", machine, (tmp_path / "a", tmp_path / "b"), 1)
    assert end_process(processes[1]) == 2
    assert logs[1].read_text().startswith(f"error on rank 1: file: '{tmp_path}/b/out/.run/config.json' cannot be used; ")


def test_a_file_that_a_machine_sees_late_is_waited_for(tmp_path):
    processes, _ = start_processes(tmp_path / "log", machine, (tmp_path / "a", tmp_path / "b"), 90)
    wait_for(tmp_path / "a" / "out" / ".run" / "config.json")
    time.sleep(0.3)
    assert processes[1].is_alive()
    atomic_write(tmp_path / "b" / "out" / ".run" / "config.json", b"{}")
    assert [end_process(one) for one in processes] == [0, 0]


def test_temporary_names_differ_between_machines(tmp_path, monkeypatch):
    names, replace = set(), os.replace
    monkeypatch.setattr(os, "replace", lambda a, b: (names.add(a.name), replace(a, b)))
    for host in ("node1", "node2"):
        monkeypatch.setattr(process_module.platform, "node", lambda host=host: host)
        atomic_write(tmp_path / "file", b"")
    assert len(names) == 2 and all(name.startswith(".file.") and name.endswith(".tmp") for name in names)
