"""--dry_run: a recipe says what it would take, and leaves nothing behind."""

import io
import mmap
import os
import sys
import time
from contextlib import redirect_stdout

import pytest
import torch
from helpers import LAUNCH, SMALL, run, run_here
from processes import run_python

from distill_hub.running import dry_run, machine
from distill_hub.running.console import size_text
from distill_hub.running.cost import NOTHING
from distill_hub.running.dry_run import DryRun
from distill_hub.running.run import Run

PIXELS = ["--ipc", "2", "--teacher_epochs", "4", "--students", "convnet-1-w16", "--repeats", "2", "--view_epochs", "0"]
PACKAGE = ["images", "encode images", "package"]
SCORE = [*(f"random real images, seed {seed}, 16 px" for seed in range(2)), "evaluate convnet-1-w16"]
END = [*PACKAGE, *SCORE]
FITS = ["fit generator", "fit teacher"]
BANK = ["fit teacher", "measure statistics", "keep statistics", "recover", *END]
PLANS = {  # recipe: its words, and the stages that its plan has
    "cao2": (SMALL, [*FITS, "pool", "choose", "refine", *PACKAGE, "views", "store views", "plain samples", *SCORE]),
    "dgs": (
        [*SMALL, "--view_epochs", "0"],
        [*FITS, "difficulty", "keep difficulty", "pool", "choose", "select", *PACKAGE, "plain samples", *SCORE],
    ),
    "minimax": (
        [*SMALL, "--view_epochs", "0", "--tuning_epochs", "4", "--tuning_batch_size", "32"],
        [*FITS, "encode", "fine-tune", "save generator", "pool", "plain", *PACKAGE, "plain samples", *SCORE],
    ),
    "rded": (PIXELS, ["fit teacher", "select", *END]),
    "sre2l": (PIXELS, ["fit teacher", "recover", "select", *END]),
    "deda": (PIXELS, BANK),
    "fit_classifier": (["--network", "convnet-1-w16", "--epochs", "20"], ["decode", "fit"]),
    "fit_generator": (SMALL[:10], ["fit generator"]),
}


def plan_of(*words: str) -> dict[str, list[str]]:
    """Run a recipe in this process; return the rows of its plan: stage to its other cells."""
    with redirect_stdout(io.StringIO()) as printed:
        run_here(*words, "--dry_run")
    return rows_of(printed.getvalue())


def rows_of(printed: str) -> dict[str, list[str]]:
    cells = [[cell.strip() for cell in line.strip("│").split("│")] for line in printed.splitlines() if line.startswith("│")]
    found: dict[str, list[str]] = {}
    for name, *rest in cells:  # on a narrow terminal a table is printed in parts
        found.setdefault(name, []).extend(rest)
    return found


@pytest.mark.parametrize("recipe", PLANS)
def test_a_plan_has_the_stages_of_the_run_and_nothing_is_kept(recipe, tmp_path, monkeypatch):
    monkeypatch.setenv("DISTILL_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    words, stages = PLANS[recipe]
    found = plan_of(f"recipes/{recipe}.py", *words)
    assert list(found) == [*stages, "total"]
    files = [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".lock"]
    assert files == []


def test_items_chunks_and_bytes_are_those_of_the_run(tmp_path, monkeypatch):
    monkeypatch.setenv("DISTILL_HUB_CACHE", str(tmp_path / "cache"))
    found = plan_of("recipes/random_real.py", *PIXELS, "--ipc", "3", "--output_dir", str(tmp_path / "set"))
    # 10 classes, one per chunk; 3 images of 3 x 16 x 16 bytes, 10 logits in float32 and a seed in int64 each.
    assert found["select"][:2] == ["30", "10"] and found["select"][3] == f"{30 * (768 + 40 + 8) / 1000:.0f} kB"
    assert found["evaluate convnet-1-w16"][:2] == ["4", "4"]  # this set and random real images, two seeds


def test_what_a_loop_of_steps_does_once_is_not_multiplied(tmp_path):
    run = DryRun(tmp_path / "set", {})

    def load_and_train():
        time.sleep(0.3)
        run.part(90)  # of which it takes one
        return {**NOTHING, "seconds": 0.01}

    run.together("fine-tune", 90, load_and_train)
    run.close()
    assert 1.1 < run.estimates[0].seconds < 5  # 90 steps of 0.01 s and the loading, not 90 of 0.3 s


def test_two_processes_share_the_chunks(tmp_path):
    words = ["recipes/random_real.py", *PIXELS, "--dry_run", "--output_dir", str(tmp_path / "set")]
    done = run_python(*words, environment={**os.environ, "DISTILL_HUB_CACHE": str(tmp_path / "cache")}, world=2)
    assert done.returncode == 0, done.stderr
    found = rows_of(done.stdout)
    assert found["select"][:2] == ["20", "5"] and found["evaluate convnet-1-w16"][:2] == ["4", "2"]
    assert "2 processes" in done.stdout and list(tmp_path.glob("**/*.png")) == []


def test_a_finished_set_is_left_alone_and_can_be_planned_with(tmp_path, monkeypatch):
    folder = tmp_path / "set"
    run_here("recipes/random_real.py", *PIXELS, "--output_dir", str(folder))
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert next(iter(plan_of("recipes/random_real.py", *PIXELS, "--output_dir", str(folder)))) == "select"
    assert list(plan_of("recipes/evaluate.py", str(folder), "--students", "convnet-1-w16")) == [
        "evaluate convnet-1-w16",
        "total",
    ]
    assert list(plan_of("recipes/relabel.py", str(folder), "--epochs", "5")) == ["views", "total"]
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_bad_input_is_refused_as_ever(tmp_path):
    done = run(LAUNCH, "recipes/plain.py", "--dry_run", "--ipc", "0", "--output_dir", str(tmp_path / "set"))
    assert "ipc" in done.stderr and list(tmp_path.iterdir()) == []


@pytest.fixture
def clock(monkeypatch):
    """A clock that only work moves."""
    now = [0.0]
    monkeypatch.setattr(dry_run.time, "perf_counter", lambda: now[0])
    return now


@pytest.mark.parametrize("seconds", [0.5, 3.0])  # timed twice, and once
def test_time_is_that_of_the_first_chunk_times_their_number(tmp_path, clock, seconds):
    planned = DryRun(tmp_path / "set", {})
    seen = []

    def work(chunk):
        seen.append(list(chunk))
        clock[0] += seconds
        return {"x": torch.tensor(chunk)}

    stage = planned.map("work", list(range(10)), work, chunk_size=4)
    (known,) = planned.estimates
    assert seen == [[0, 1, 2, 3]] * (2 if seconds < 2 else 1)
    assert (known.seconds, known.bytes, known.chunks) == (seconds * 10 / 4, 80, 3)
    assert stage.rows(2, 7, "x")["x"].tolist() == [2, 3, 0, 1, 2]  # the first chunk stands for the others


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not say what a process holds")
def test_memory_is_that_of_the_run(tmp_path):
    def work(chunk):
        block = mmap.mmap(-1, 2**24 * len(chunk), mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)  # given back at once
        block.write(b"1" * len(block))
        time.sleep(5 * machine.EVERY)
        block.close()
        return {"x": torch.tensor(chunk)}

    planned, run = DryRun(tmp_path / "set", {}), Run(tmp_path / "set", {})
    for own in (planned, run):
        own.map("small", [1], work, chunk_size=1)
        own.map("work", list(range(24)), work, chunk_size=8)
    small, foreseen = (known.peaks["host"] for known in planned.estimates)
    taken = run.stages[-1]["peak_memory_bytes"]["host"]
    assert foreseen == pytest.approx(taken, rel=0.25) and foreseen - small > 5 * 2**24
    assert [*planned.plan().columns[-1].cells][-1] == size_text(foreseen)
    assert size_text(taken) in list(run.summary().columns[-1].cells)


def test_a_loop_is_cut_short_and_its_time_multiplied(tmp_path, clock):
    planned = DryRun(tmp_path / "set", {})

    def loop(steps):
        clock[0] += planned.part(steps)

    def work(chunk):
        loop(1000)  # ten of them
        return {"x": torch.zeros(len(chunk))}

    planned.map("work", [1, 2], work, chunk_size=1)
    planned.on_main("once", lambda: loop(7))  # one of them
    planned.expect("more", 1, 5.0)
    assert [known.seconds for known in planned.estimates] == [2000.0, 7.0, 5.0]


def test_nothing_is_made_outside_its_folder(tmp_path):
    planned = DryRun(tmp_path / "set", {})
    with pytest.raises(ValueError, match="outside"):
        planned.on_main("fit", lambda: None, makes=tmp_path / "cache" / "model")
