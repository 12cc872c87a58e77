"""Who works in a folder: one run at a time, on one machine or on several that share it."""

import errno
import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from processes import end_process, start_processes, wait_for

from distill_hub.config import InputError
from distill_hub.disk import lock as lock_module
from distill_hub.disk.lock import LOST_AFTER, Busy, Lock, hold
from distill_hub.disk.once import missing
from distill_hub.running.dry_run import DryRun
from distill_hub.running.run import Run


@pytest.fixture
def file(tmp_path):
    return tmp_path / "state" / "lock"


def of_another_machine(file, age):
    """Write what a run on another machine would have written so long ago, by the file system's clock."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"machine": "elsewhere", "host": "node7", "process": 4711}))
    (probe := file.with_name("probe")).touch()
    then = probe.stat().st_mtime - age
    probe.unlink()
    os.utime(file, (then, then))


def test_it_is_held_once_and_leaves_nothing(file):
    lock = Lock(file)
    with pytest.raises(Busy, match=rf"process {os.getpid()} on .* is at work there, its last sign of life 0 s ago"):
        Lock(file)
    lock.release()
    lock.release()
    assert os.listdir(file.parent) == []
    Lock(file).release()


def test_who_is_refused_is_told_what_to_do(file):
    lock = Lock(file)
    with pytest.raises(InputError, match=r"^output_dir: 'out' cannot be used; process .*; do something else$"):
        hold(file, "output_dir", "out", "do something else")
    lock.release()


def test_a_lock_that_an_error_left_is_taken_again_by_the_thread_that_holds_it(file):
    Lock(file)
    hold(file, "output_dir", "out", "", again=True).release()


@pytest.mark.parametrize("age", [0, round(LOST_AFTER) - 10])
def test_a_young_sign_of_another_machine_is_believed(file, age):
    of_another_machine(file, age)
    before = file.read_bytes()
    with pytest.raises(Busy, match=f"process 4711 on node7 .* {age} s ago"):
        Lock(file)
    assert file.read_bytes() == before


def test_an_old_one_is_taken_over(file):
    of_another_machine(file, LOST_AFTER + 1)
    inode = file.stat().st_ino
    handle = os.open(file, os.O_RDWR)  # of the other machine, so that the number is not given again
    lock = Lock(file)
    assert file.stat().st_ino != inode, "the other machine would not notice"
    assert json.loads(file.read_bytes())["process"] == os.getpid()
    lock.release()
    os.close(handle)


def test_the_clock_is_that_of_the_file_system(file, monkeypatch):
    of_another_machine(file, 10)
    monkeypatch.setattr(time, "time", lambda: 4e9)  # this machine's is years ahead
    with pytest.raises(Busy, match="10 s ago"):
        Lock(file)


def test_without_locks_of_the_kernel_signs_of_life_count_on_the_same_machine_too(file, monkeypatch):
    def fail(*_):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", fail)
    lock = Lock(file)
    with pytest.raises(Busy):
        Lock(file)
    lock.release()
    Lock(file).release()


def test_a_file_that_its_holder_removes_in_the_same_moment_is_not_locked(file, monkeypatch):
    holder, real, raced = Lock(file), lock_module._lock, []

    def late(handle):
        if not raced:
            raced.append(holder.release())  # between this one's opening and its locking
        return real(handle)

    monkeypatch.setattr(lock_module, "_lock", late)
    lock = Lock(file)
    assert os.fstat(lock._handle).st_ino == file.stat().st_ino
    with pytest.raises(Busy):
        Lock(file)
    lock.release()


def test_a_damaged_file_of_nobody_is_taken(file):
    file.parent.mkdir()
    for content in (b"", b"[1]", b"{", b"\xff", b'{"machine": 1}'):
        file.write_bytes(content)
        Lock(file).release()


def test_a_forked_process_does_not_let_go_for_its_parent(file):
    lock = Lock(file)
    if not (child := os.fork()):
        lock_module.release_all()
        os._exit(0)
    os.waitpid(child, 0)
    assert file.exists()
    lock.release()


# Runs


def work_until(out, end):
    run = Run(out, {"seed": 0})

    def wait(chunk):
        while chunk[0] == 1 and not end.exists():
            time.sleep(0.01)
        return {"x": torch.tensor(chunk)}

    run.map("stage", [0, 1, 2], wait, chunk_size=1)
    run.end()


def start_another(out, kind):
    settings = {"seed": 1 if kind == "other settings" else 0}
    DryRun(out, settings) if kind == "dry run" else Run(out, settings, overwrite=kind == "overwrite")


@pytest.fixture
def at_work(tmp_path):
    """A run that is at work in a folder: its process, and the folder."""
    (one,), _ = start_processes(tmp_path / "log", work_until, tmp_path / "out", tmp_path / "end", world=1)
    wait_for(tmp_path / "out" / ".run" / "stage" / "000000.json", one)
    yield one, tmp_path / "out"
    (tmp_path / "end").touch()
    one.kill()


@pytest.mark.parametrize("kind", ["the same", "other settings", "overwrite"])
def test_a_second_run_is_refused_at_once_and_the_first_one_is_not_disturbed(at_work, tmp_path, kind):
    one, out = at_work
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    other, logs = start_processes(tmp_path / "other", start_another, out, kind)
    assert [end_process(process, 10) for process in other] == [2, 2]
    (line,) = [line for line in logs[0].read_text().splitlines() if line]
    assert line.startswith(f"error: output_dir: '{out}' cannot be used; process {one.pid} on ")
    assert line.endswith("wait for its end, or name another --output_dir") and logs[1].read_text() == ""
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    (tmp_path / "end").touch()
    assert end_process(one) == 0 and sorted(os.listdir(out / ".run")) == ["config.json", "stage"]


def test_a_dry_run_goes_on_beside_a_run_but_not_beside_a_dry_run_of_the_same(at_work, tmp_path):
    one, out = at_work
    planned = DryRun(out, {"seed": 0})
    (other,), (log,) = start_processes(tmp_path / "other", start_another, out, "dry run", world=1)
    assert end_process(other) == 2 and f"process {os.getpid()} on " in log.read_text()
    planned.close()
    assert one.is_alive() and not list(tmp_path.glob(".*"))


def plan(out):
    planned = DryRun(out, {})
    (planned.output_dir / "busy").touch()
    time.sleep(60)


def test_the_folder_of_a_dry_run_goes_with_it_or_with_the_run_that_it_planned(tmp_path):
    out, folder = tmp_path / "out", tmp_path / ".out.dry-run"
    (one,), _ = start_processes(tmp_path / "log", plan, out, world=1)
    wait_for(folder / "busy", one)
    Run(out, {}).end()
    assert (folder / "busy").exists(), "it was at work"
    one.kill()
    one.join()
    Run(out, {}).end()
    assert not folder.exists()
    failed = f"from distill_hub.running.dry_run import DryRun; DryRun({str(out)!r}, {{}}); print('planned'); 1 / 0"
    done = subprocess.run([sys.executable, "-c", failed], capture_output=True, text=True, timeout=60)
    assert done.stdout == "planned\n" and "ZeroDivisionError" in done.stderr and not folder.exists()


@pytest.mark.parametrize("signal_sent", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
def test_the_lock_of_a_process_that_was_ended_is_free_at_once(at_work, tmp_path, signal_sent):
    one, out = at_work
    os.kill(one.pid, signal_sent)
    one.join()
    (tmp_path / "end").touch()
    work_until(out, tmp_path / "end")
    assert sorted(os.listdir(out / ".run")) == ["config.json", "stage"]


def test_a_run_that_is_stopped_for_a_while_still_holds_its_folder(at_work, tmp_path):
    one, out = at_work
    os.kill(one.pid, signal.SIGSTOP)
    (other,), (log,) = start_processes(tmp_path / "other", start_another, out, "the same", world=1)
    assert end_process(other) == 2 and f"process {one.pid} on " in log.read_text()
    os.kill(one.pid, signal.SIGCONT)
    (tmp_path / "end").touch()
    assert end_process(one) == 0


def test_signs_of_life_are_shown(file, monkeypatch):
    monkeypatch.setattr(lock_module, "SIGN_EVERY", 0.05)
    lock = Lock(file)
    os.utime(file, (0, 0))
    deadline = time.monotonic() + 10
    while not file.stat().st_mtime:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    lock.release()


@pytest.mark.parametrize("how", ["taken over", "overwritten", "deleted"])
def test_a_run_that_another_one_has_replaced_stores_nothing_more(tmp_path, how):
    """Its machine was asleep, for example, and another one took it for dead."""
    run, file = Run(tmp_path, {}), tmp_path / ".run" / "lock"

    def work(chunk):
        if chunk == [2]:
            other = json.dumps({"machine": "elsewhere", "host": "node7", "process": 1})
            if how == "taken over":
                (new := file.with_name("new")).write_text(other)
                os.replace(new, file)
            else:
                file.write_text(other) if how == "overwritten" else file.unlink()
        return {"x": torch.tensor(chunk)}

    with pytest.raises(InputError, match=r"^lock: .* another run has taken over, or it was deleted; this run ends here"):
        run.map("stage", [1, 2, 3], work, chunk_size=1)
    assert sorted(path.name for path in (tmp_path / ".run" / "stage").iterdir()) == ["000000.json", "000000.safetensors"]
    with pytest.raises(InputError, match=r"^lock: "):
        run.on_main("package", lambda: pytest.fail("it was packaged"))


# What several runs make


def make_together(made, log):
    run = Run(log / str(os.getpid()), {})

    def make():
        (log / f"makes-{os.getpid()}").touch()
        while not (log / "go").exists():
            time.sleep(0.01)
        made.write_text("whole")

    run.on_main("fit", make, makes=made)
    assert made.read_text() == "whole"
    run.end()


def wait_for_word(word, log, process):
    wait_for(log, process)
    while word not in log.read_text():
        assert process.is_alive(), log.read_text()
        time.sleep(0.01)


def test_two_that_make_the_same_at_once_make_it_once_and_leave_no_lock(tmp_path):
    made, cache = tmp_path / "cache" / "model", tmp_path / "cache"
    (first,), _ = start_processes(tmp_path / "first", make_together, made, tmp_path, world=1)
    wait_for(cache / "model.lock", first)
    (second,), (log,) = start_processes(tmp_path / "second", make_together, made, tmp_path, world=1)
    wait_for_word("waiting", log, second)
    (tmp_path / "go").touch()
    assert [end_process(first), end_process(second)] == [0, 0]
    assert len(list(tmp_path.glob("makes-*"))) == 1 and os.listdir(cache) == ["model"]
    told = " ".join(log.read_text().split())
    assert f"fit: waiting for the same of another run; process {first.pid} on " in told


def test_a_fit_that_is_killed_is_made_by_the_one_that_waits(tmp_path):
    made = tmp_path / "cache" / "model"
    (first,), _ = start_processes(tmp_path / "first", make_together, made, tmp_path, world=1)
    wait_for(tmp_path / "cache" / "model.lock", first)
    (second,), (log,) = start_processes(tmp_path / "second", make_together, made, tmp_path, world=1)
    wait_for_word("waiting", log, second)
    first.kill()
    (tmp_path / "go").touch()
    assert end_process(second) == 0 and os.listdir(tmp_path / "cache") == ["model"]


def test_what_is_there_already_needs_no_lock(tmp_path, monkeypatch):
    (tmp_path / "model").touch()
    monkeypatch.setattr(lock_module.os, "open", lambda *_: pytest.fail("it was opened"))
    with missing(tmp_path / "model", "fit", print) as needed:
        assert not needed


def test_a_cache_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("DISTILL_HUB_CACHE", "/proc/cache")
    run = Run(tmp_path / "out", {})
    with pytest.raises(InputError, match=r"^DISTILL_HUB_CACHE: '/proc/cache' cannot be used; nothing can be written there"):
        run.on_main("fit", lambda: None, makes=lock_module.Path("/proc/cache/model"))


def test_windows_deletes_no_open_file(file, monkeypatch):
    done = []
    lock = Lock(file)
    monkeypatch.setattr(lock_module, "sys", type(sys)("sys"))
    lock_module.sys.platform = "win32"
    monkeypatch.setattr(lock_module.os, "close", lambda _: done.append("close"))
    monkeypatch.setattr(lock_module.Path, "unlink", lambda *_, **__: done.append("unlink"))
    lock.release()
    assert done == ["close", "unlink"]
