"""Loops inside a chunk: killed at any step they come to the same, and what is broken reaches no checkpoint."""

import time

import pytest
import torch

import distill_hub.running.checkpoint as module
from distill_hub.config import InputError
from distill_hub.running.checkpoint import Checkpoint, steps
from distill_hub.running.dry_run import DryRun
from distill_hub.running.run import Run


class Killed(BaseException):
    pass


@pytest.fixture
def run(tmp_path):
    run = Run(tmp_path / "out", {"a": 1})
    yield run
    run.end()


def walk(run, file, total=9, *, kill_at=None, broken_at=None, taken=None):
    """Double and add the step's number: what came before is in every number."""
    state = {"x": torch.zeros(3), "count": torch.zeros((), dtype=torch.int64)}
    for step in steps(run, file, total, state):
        if step == kill_at:
            raise Killed
        if taken is not None:
            taken.append(step)
        state["x"].mul_(2).add_(step if step != broken_at else float("nan"))
        state["count"] += 1
    return state


@pytest.mark.parametrize("kill_at", range(9))
def test_a_killed_loop_goes_on_to_the_same_numbers(run, tmp_path, monkeypatch, kill_at):
    monkeypatch.setattr(module, "SAVED_AFTER", -1.0)  # after every step
    whole = walk(run, tmp_path / "whole")
    taken = []
    with pytest.raises(Killed):
        walk(run, tmp_path / "part", kill_at=kill_at, taken=taken)
    assert Checkpoint(tmp_path / "part").step == kill_at
    again = walk(run, tmp_path / "part", taken=taken)
    assert taken == list(range(9)) and int(again["count"]) == 9
    assert again["x"].equal(whole["x"]) and whole["x"][0] == sum(step * 2 ** (8 - step) for step in range(9))
    assert not (tmp_path / "part").exists()  # the chunk is kept then


def test_without_the_time_for_it_nothing_is_written(run, tmp_path):
    with pytest.raises(Killed):
        walk(run, tmp_path / "part", kill_at=7)
    assert not (tmp_path / "part").exists()


def test_a_number_that_is_not_finite_leaves_the_last_good_checkpoint(run, tmp_path, monkeypatch):
    file = tmp_path / "part"
    clock = iter(range(0, 1000, 20))  # seconds: a checkpoint after every second step
    monkeypatch.setattr(module.time, "monotonic", lambda: float(next(clock)))
    with pytest.raises(InputError) as caught:
        walk(run, file, broken_at=5)
    assert "x: nan" in str(caught.value) and "by step 6 of 9; the checkpoint of step 4 is kept" in str(caught.value)
    found = Checkpoint(file)
    assert found.step == 4 and found.tensors()["count"] == 4 and found.tensors()["x"].isfinite().all()


def test_a_loop_that_ends_with_what_is_not_finite_is_refused(run, tmp_path):
    with pytest.raises(InputError, match="by step 9 of 9; there is no checkpoint yet"):
        walk(run, tmp_path / "part", broken_at=8)


def test_earlier_attempts_count_as_the_chunks_cost(run, tmp_path, monkeypatch):
    file = run.state("walk") / "0.safetensors"
    Checkpoint(file).save(
        {"x": torch.zeros(3), "count": torch.tensor(4)}, 4, {"seconds": 50.0, "core_seconds": 40.0, "gpu_seconds": 0.0}
    )
    run.map("walk stage", [0], lambda part: {"x": walk(run, file)["x"][None]}, chunk_size=1)
    (noted,) = run.stages
    assert 50 <= noted["seconds"] < 55 and 40 <= noted["core_seconds"] < 45 and noted["wall"] < 5
    run.map("another", [0], lambda part: {"x": torch.zeros(1)}, chunk_size=1)
    assert run.stages[-1]["seconds"] < 5


@pytest.mark.parametrize(("total", "count"), [(60, 1), (500, 5), (200_000, 50)])
def test_a_dry_run_takes_a_small_part(tmp_path, total, count):
    run, taken = DryRun(tmp_path / "out", {"a": 1}), []
    walk(run, tmp_path / "file", total=total, taken=taken)
    assert taken == list(range(count))
    run.end()


def test_a_dry_run_counts_what_is_around_a_loop_once(tmp_path):
    run = DryRun(tmp_path / "out", {"a": 1})

    def work(part):
        time.sleep(0.3)
        for _ in steps(run, tmp_path / "file", 500, {}):
            time.sleep(0.01)
        return {"x": torch.zeros(len(part))}

    run.map("twice", [0, 1], work, chunk_size=1)
    run.map("no loop", [0], lambda part: {"x": torch.zeros(1)}, chunk_size=1)
    twice, none = (known.seconds for known in run.estimates)
    assert 2 * 5.3 < twice < 2 * 20 and none < 1  # with all of it 500 / 5 times, 2 * 35
    run.end()
