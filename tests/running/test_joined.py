"""Runs that share one folder and its work: each may come and go."""

import json
import os
import signal
import time
from collections import Counter

import pytest
import torch
from processes import end_process, start_processes, wait_for

from distill_hub.config import Done, InputError
from distill_hub.disk import lock as lock_module
from distill_hub.disk.lock import Busy, Lock
from distill_hub.running.claims import Claims, order
from distill_hub.running.cost import NOTHING
from distill_hub.running.run import Run
from distill_hub.running.seeds import cpu_generator, draw_seed
from distill_hub.running.session import working_in
from distill_hub.running.stages import Chunk

COUNT = 24
PAUSE = 0.02  # seconds that a chunk takes
LOST = 2.5  # seconds without a sign of life


def noise(item):
    return torch.randn(4, generator=cpu_generator(draw_seed(0, "noise", item)))


def work(out, log, join=True, lost=LOST, **how):
    """Make a stage, and what is made of it once; say in `log` who begins which chunk, and holds it at its end."""
    lock_module.LOST_AFTER, lock_module.SIGN_EVERY = lost, 0.1
    run = Run(out, {"seed": 0}, join=join, **how)
    me = f"{os.getpid()}-{run.accelerator.process_index}"
    (log / f"here {me}").touch()

    def make(chunk):
        (log / f"{chunk[0]} {me}").touch()
        time.sleep(PAUSE)
        while (log / f"hold {me}").exists():
            time.sleep(0.01)
        return {"noise": torch.stack([noise(item) for item in chunk])}

    def trained():
        state = run.state("trained") / "done"
        if not state.exists():
            (log / f"trained {me}").touch()
            state.touch()
        return {**NOTHING, "seconds": 5.0}

    stage = run.map("noise", range(COUNT), make, chunk_size=1)
    run.together("train", 1, trained)
    run.on_main("package", lambda: ((log / f"packaged {me}").touch(), (out / "manifest.json").write_text("{}")))
    rows, environment = stage.rows(0, COUNT)["noise"], run.environment()
    run.end()
    facts = {"sha256": stage.sha256, "rows": rows.tolist(), "processes": environment["processes"]}
    facts["stages"] = [(one["name"], one["items"], one["seconds"], one["sha256"]) for one in run.stages]
    (log / f"end {me}").write_text(json.dumps(facts))


def started(log, kind):
    return [name.split()[-1] for name in os.listdir(log) if name.startswith(f"{kind} ")]


def made_by(log):
    """Return how often each chunk was begun."""
    return Counter(int(name.split()[0]) for name in os.listdir(log) if name.split()[0].isdecimal())


def ended(log):
    return [json.loads((log / f"end {one}").read_text()) for one in started(log, "end")]


@pytest.fixture
def log(tmp_path):
    (tmp_path / "log").mkdir()
    return tmp_path / "log"


@pytest.fixture
def start(tmp_path, log):
    """Start a run that joins; return its process."""

    def start(number, out=tmp_path / "out", **how):
        (one,), _ = start_processes(tmp_path / f"output-{number}", joined, out, log, how, world=1)
        return one

    return start


def joined(out, log, how):
    work(out, log, **how)


def test_one_is_killed_one_stands_still_and_the_others_make_the_same_set(tmp_path, log, start):
    killed, still, other = (start(number) for number in range(3))
    for one in (killed, still):
        (log / f"hold {one.pid}-0").touch()
    while not {killed.pid, still.pid} <= {int(name.split()[1][:-2]) for name in os.listdir(log) if name[0].isdecimal()}:
        time.sleep(0.01)
    killed.kill()
    os.kill(still.pid, signal.SIGSTOP)
    late = start(3)
    assert [end_process(one, 60) for one in (other, late)] == [0, 0]
    first, second = ended(log)
    twice = {item for item, often in made_by(log).items() if often > 1}
    assert sorted(made_by(log)) == list(range(COUNT)) and len(twice) == 2 and max(made_by(log).values()) == 2
    assert torch.tensor(first["rows"]).equal(torch.stack([noise(item) for item in range(COUNT)]))
    assert first["stages"] == second["stages"] and first["sha256"] == second["sha256"]
    assert ["train", 1, 5.0, None] in first["stages"]
    assert len(started(log, "trained")) == len(started(log, "packaged")) == 1
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.*") if path.is_file()}
    (log / f"hold {still.pid}-0").unlink()
    os.kill(still.pid, signal.SIGCONT)
    assert end_process(still) == 2 and "another run has taken over" in (tmp_path / "output-1-0").read_text()
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.*") if path.is_file()} == before
    assert sorted(os.listdir(tmp_path / "out" / ".run")) == ["config.json", "noise", "package", "train", "trained"]


def test_what_a_killed_group_left_is_made_by_a_larger_one_and_the_faster_makes_more(tmp_path, log):
    """A process works on its own chunks, and then on what others have not begun."""
    pair, _ = start_processes(tmp_path / "pair", work, tmp_path / "out", log, False, 90)
    (log / f"hold {pair[1].pid}-1").touch()
    for index in range(0, COUNT, 2):
        wait_for(log / f"{index} {pair[0].pid}-0", *pair)
    wait_for(log / f"{COUNT - 1} {pair[0].pid}-0", *pair)  # one of the other's, the last first
    for one in pair:
        one.kill()
        one.join()
    three, logs = start_processes(tmp_path / "three", work, tmp_path / "out", log, False, 90, world=3)
    assert [end_process(one, 60) for one in three] == [0, 0, 0], [file.read_text() for file in logs]
    lost = {item for item, often in made_by(log).items() if often > 1}
    assert sorted(made_by(log)) == list(range(COUNT)) and 1 in lost and len(lost) <= 2
    assert all(torch.tensor(one["rows"]).equal(torch.stack([noise(item) for item in range(COUNT)])) for one in ended(log))
    assert len({one["sha256"] for one in ended(log)}) == 1 and not list((tmp_path / "out").rglob("*.lock"))


@pytest.fixture
def beside(tmp_path):
    """A run that others may join, at work."""
    run = Run(tmp_path / "out", {"seed": 0}, join=True)
    yield run
    run.end()


@pytest.mark.parametrize(
    ("settings", "how", "line"),
    [
        ({"seed": 0}, {}, "^output_dir: .*; --join it, wait for its end, or name another --output_dir"),
        ({"seed": 1}, {"join": True}, "^seed: 1 cannot be used; process .* is at work there, .*, with 0; give it the same"),
        ({"seed": 0}, {"join": True, "overwrite": True}, "^overwrite: True .*; leave it out to join"),
    ],
)
def test_who_does_not_fit_is_refused_while_others_live(beside, settings, how, line):
    with pytest.raises(InputError, match=line):
        Run(beside.output_dir, settings, **how)
    beside.map("stage", [1], lambda chunk: {"x": torch.tensor(chunk)}, chunk_size=1)
    beside.end()
    Run(beside.output_dir, settings, **how).end()


def test_nobody_relabels_what_others_are_making(beside, tmp_path):
    run, out = Run(tmp_path / "other", {}), beside.output_dir
    with pytest.raises(InputError, match=r"^location: .* is at work there, .*; wait for its end$"), working_in(run, out):
        pass
    run.end()


def test_nobody_joins_a_run_that_works_alone(tmp_path):
    run = Run(tmp_path, {})
    held = run.place.lock
    del lock_module._held[held.file]  # as if it were another process
    with pytest.raises(InputError, match=r"^output_dir: .* wait for its end, or name another --output_dir"):
        Run(tmp_path, {}, join=True)
    lock_module._held[held.file] = held
    run.end()


def test_the_last_one_out_clears_what_no_stage_needs(tmp_path):
    runs = [Run(tmp_path, {}, join=True) for _ in range(2)]
    (tmp_path / ".run" / "other").mkdir()
    (tmp_path / ".run" / "other" / "file").touch()
    for run in runs:
        run.on_main("package", lambda: None)
    runs[0].end()
    assert (tmp_path / ".run" / "other" / "file").exists()
    runs[1].end()
    assert sorted(os.listdir(tmp_path / ".run")) == ["config.json", "package"]


def test_what_is_done_once_is_done_again_after_other_stages(tmp_path):
    calls = []
    for value in (1, 1, 2):
        run = Run(tmp_path, {}, join=True)
        run.map("stage", [value], lambda chunk: {"x": torch.tensor(chunk)}, chunk_size=1)
        run.on_main("package", lambda value=value: calls.append(value))
        run.end()
    assert calls == [1, 2]


# The last stage, and what stays


def test_a_run_ends_after_a_stage_and_goes_on_from_there(tmp_path):
    def attempt(until):
        calls, run = [], Run(tmp_path, {}, until=until)
        for stage in ("a", "b"):
            run.map(
                stage, [1], lambda chunk, stage=stage: (calls.append(stage), {"x": torch.tensor(chunk)})[1], chunk_size=1
            )
        run.refuse_unknown_stage(["package"])
        run.on_main("package", lambda: calls.append("package"))
        run.end()
        return calls

    with pytest.raises(Done, match=r"^Stage a is finished\. Next: the same command without --stage goes on from there$"):
        attempt("a")
    with pytest.raises(InputError, match=r"^stage: 'pakage' .* its stages are a, b, package \(did you mean 'package'\?\)"):
        attempt("pakage")
    lock_module.release_all()
    with pytest.raises(Done, match=r"^Stage package is finished"):
        attempt("package")
    assert attempt(None) == ["package"]


# Leases


def test_a_lease_is_taken_over_from_a_holder_that_lives_and_it_notices(tmp_path, monkeypatch):
    file = tmp_path / "lock"
    first = Lock(file)
    with pytest.raises(Busy):
        Lock(file, lease=True)
    os.utime(file, (0, 0))
    with pytest.raises(Busy):
        Lock(file)  # a plain lock is never taken from who lives
    second = Lock(file, lease=True)
    assert not first.is_held and second.is_held
    first._released.set()  # its place in the list of those held is the second one's
    os.close(first._handle)
    second.release()
    assert os.listdir(tmp_path) == []


def test_two_do_not_take_over_the_same_lease(tmp_path):
    file = tmp_path / "lock"
    Lock(file)
    os.utime(file, (0, 0))
    between = Lock(tmp_path / "lock.taken")  # of somebody who is about to
    with pytest.raises(Busy):
        Lock(file, lease=True)
    between.release()
    Lock(file, lease=True).release()


def test_a_chunk_that_was_made_between_two_looks_is_not_made_again(tmp_path, monkeypatch):
    chunk = Chunk(tmp_path, 0)

    def late(file, **how):
        chunk.store({}, key="key", seconds=1.0)
        return Lock(file, **how)

    monkeypatch.setattr("distill_hub.running.claims.Lock", late)
    assert [claim.is_mine for claim in Claims([chunk], ["key"], [0], shared=True)] == [False]


@pytest.mark.parametrize("processes", [1, 2, 3, 7])
def test_every_process_comes_to_every_chunk_and_to_its_own_first(processes):
    for process in range(processes):
        found = order(10, process, processes)
        own = list(range(process, 10, processes))
        assert found[: len(own)] == own and sorted(found) == list(range(10))
        assert sorted(order(10, process, processes, 12345)) == list(range(10))
