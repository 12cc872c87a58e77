"""Signals at random moments of commands of two processes: each must end with one line, its code, and nothing that runs.

    python -m tests.bench.faults.signals --folder /tmp/faults --signals 150      # the same folder again goes on

`make` with two processes, and `reproduce`, which starts such a `make`, get SIGINT, SIGTERM, SIGHUP, SIGQUIT or SIGKILL:
while they load, as soon as one process is started, while the processes load, at work, at the end; the command alone, or
its whole group, as from a terminal; once, or twice; and now and then one process stands still and hears no signal itself.
The next run of the same command must end well, with the result of an undisturbed one. Outcomes are appended to
`outcomes.jsonl` of the folder.
"""

import argparse
import collections
import contextlib
import os
import random
import signal
import sys
import time
import uuid
from pathlib import Path
from typing import Any

import psutil

from tests.bench.faults.__main__ import Bench, opened
from tests.bench.faults.attempt import Attempt, Place, until
from tests.bench.faults.jobs import JOBS

NAMES = ["rded of two", "reproduce"]
SIGNALS = {"SIGINT": 130, "SIGTERM": 143, "SIGHUP": 129, "SIGQUIT": 131, "SIGKILL": 137}
MOMENTS = {  # and how many seconds may pass from there
    "new": (0.5, 6),  # a new interpreter loads all modules; Python itself shows where it was interrupted before that
    "loading": (0, 1.5),  # a forked one has them
    "starting": (0, 0.1),
    "ranks load": (0, 3),
    "work": (0, 3),
    "end": (0, 2),
}
PATIENCE = 20  # seconds until all processes have ended, on a machine that does other things
LINE = "interrupted; the same command goes on where it stopped"


def reached(moment: str, attempt: Attempt, place: Place) -> bool:
    """Return whether a command has come so far."""
    if moment == "new":
        return "distill_hub.cli" in psutil.Process(attempt.main.pid).cmdline()
    if moment == "loading":
        return place.counter.exists()  # written by what calls the command
    if moment in ("starting", "ranks load"):
        started = [own for own in psutil.Process(attempt.main.pid).children(recursive=True) if own.name() != "git"]
        return len(started) >= (1 if moment == "starting" else 2)
    if moment == "work":
        files = (file for part in ("set", "out") for file in (place.work / part / ".run").glob("config.json"))
        return any(file.stat().st_mtime > attempt.began for file in files)
    return "Test accuracy" in attempt.output


def send(attempt: Attempt, number: int, group: bool) -> None:
    with contextlib.suppress(ProcessLookupError):
        (os.killpg if group else os.kill)(attempt.main.pid, number)


def attack(bench: Bench, name: str, place: Place, known: dict, chance: random.Random) -> None:
    """Send a signal, or two, and look at what comes of it."""
    job, fault, moment = JOBS[name], chance.choice([*SIGNALS, "SIGINT"]), chance.choice([*MOMENTS])
    group, twice, stands = chance.random() < 0.5, chance.random() < 0.3, chance.random() < 0.15
    number = getattr(signal, fault)
    attempt = Attempt(place, job.words, uuid.uuid4().hex, processes=2, new=moment == "new")
    later = chance.uniform(*MOMENTS[moment])
    with contextlib.suppress(psutil.NoSuchProcess):
        if until(lambda: reached(moment, attempt, place), attempt):
            time.sleep(later)
            stopped = chance.sample(ranks, 1) if stands and (ranks := attempt.ranks()) else []
            for own in stopped:
                own.suspend()
    started = time.perf_counter()
    send(attempt, number, group)
    if twice:
        time.sleep(chance.choice([0, 0.02, 0.3]))
        send(attempt, number, group)
    ends = attempt.end(PATIENCE)
    seconds, code = time.perf_counter() - started, attempt.main.exitcode
    wrong: list[Any] = [] if ends else ["a process lives on"]
    said = attempt.output.splitlines().count(LINE)
    if code not in (SIGNALS[fault], -number, 0) or (code == 0 and moment != "end"):
        wrong.append(f"exit code {code}")
    if said != (code == 130):
        wrong.append(f"{said} lines")
    if "Traceback" in attempt.output or any(line.startswith("error") for line in attempt.output.splitlines()):
        wrong.append("an error")
    bench.note(
        job=name, fault=fault, moment=moment, at=round(later, 2), group=group, twice=twice, stands=stands, code=code,
        ended_after=round(seconds, 2), wrong=[*wrong, attempt.output[-1500:]] if wrong else [],
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="for everything")
    parser.add_argument("--signals", type=int, default=150, help="stop after so many more")
    parser.add_argument("--in_a_row", type=int, default=12, help="signals before a command may end")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    args = parser.parse_args()
    with opened(args.folder, args.seed) as bench:
        before = len(bench.outcomes)
        while (done := sum("fault" in one for one in bench.outcomes[before:])) < args.signals:
            rounds = collections.Counter(one["job"] for one in bench.outcomes if "finished" in one)
            name = min(NAMES, key=lambda name: rounds[name])
            known = bench.expected(name)
            bench.reset()
            place = bench.fresh(name, fits=JOBS[name].warm)
            for _ in range(min(args.in_a_row, args.signals - done)):
                attack(bench, name, place, known, random.Random(f"{args.seed} {len(bench.outcomes)}"))
            bench.finish(JOBS[name], place)
            bench.compare(name, place, known)
    sys.exit(1 if any(one["wrong"] for one in bench.outcomes[before:]) else 0)


if __name__ == "__main__":
    main()
