"""Disturb commands at random moments, again and again: the next run must end as an undisturbed one, and leave nothing.

    python -m tests.bench.faults --folder /tmp/faults --minutes 60               # all jobs in turn
    python -m tests.bench.faults --folder /tmp/faults --job push --faults 20     # the same folder again goes on
    python -m tests.bench.faults --folder /tmp/faults --markdown faults.md       # what came of all so far

Every job (see `jobs`) is a command of seconds that works in a folder of its own, against a Hub on this machine. It is
started again and again, with one fault each time, until it ends by itself: SIGKILL of any of its processes, SIGKILL of the
one of the largest memory, as the system does when memory runs out, SIGTERM or SIGHUP of the command, or a process of it that
stands still for a while. A moment is a time; or the change of a file before which the process is killed; or a request to
the Hub, which it never gets, or whose answer comes too late. After each fault nothing of the command may run, no traceback
of ours be shown, and the exit code be right. In the end results, names of all files in working folder, caches and temporary
folder, and what the Hub holds are compared with those of an undisturbed run, and nothing new may lie in shared memory.
Outcomes are appended to `outcomes.jsonl`.
"""

import argparse
import collections
import datetime
import json
import os
import platform
import random
import re
import shutil
import signal
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).parents[3]
sys.path.insert(1, str(ROOT / "tests"))

from hub_server import HubServer  # noqa: E402
from processes import FORKED, hear_signals  # noqa: E402

from tests.bench.faults.attempt import Attempt, Place, shared_memory, until  # noqa: E402
from tests.bench.faults.jobs import JOBS, SET, Job, undated, write_base  # noqa: E402
from tests.bench.hostile.__main__ import heavy  # noqa: E402

SIGNALS = {"SIGTERM": {143, -15}, "SIGHUP": {129, -1}}
PATIENCE = 45  # seconds until all processes have ended after a fault
IN_A_ROW = 6  # faults until a job may end
PACKAGES = ("torch", "diffusers", "transformers", "datasets", "accelerate", "huggingface-hub", "filelock")


class Bench:
    """Jobs, and what came of them so far."""

    def __init__(self, folder: Path, hub: HubServer, seed: int):
        self.folder, self.hub, self.seed = folder, hub, seed
        self.file = folder / "outcomes.jsonl"
        folder.mkdir(parents=True, exist_ok=True)
        self.outcomes = [json.loads(line) for line in self.file.read_text().splitlines()] if self.file.exists() else []
        self.environment = hub.environment(folder, "hf_alice") | {"OMP_WAIT_POLICY": "PASSIVE", "COLUMNS": "200"}
        self.environment |= {"PYTHONPATH": str(ROOT), "ACCELERATE_USE_CPU": "true"}
        if not (folder / "base" / "done").exists():
            shutil.rmtree(folder / "base", ignore_errors=True)
            place = Place(folder / "base", self.environment)
            self.finish(SET, place)
            write_base(place.folder)
            (place.folder / "done").touch()

    def note(self, **outcome: Any) -> None:
        self.outcomes.append(outcome)
        with self.file.open("a") as file:
            file.write(json.dumps(outcome) + "\n")
        print(", ".join(f"{name} {value}" for name, value in outcome.items()), flush=True)

    def fresh(self, name: str, *, fits: bool) -> Place:
        """Return an empty place, always the same, as names in caches follow from it; the job's own start lies there."""
        shutil.rmtree(self.folder / "place", ignore_errors=True)
        place = Place(self.folder / "place", self.environment)
        JOBS[name].prepare(place, self.hub, self.folder / "base")
        if fits and not (place.home / "fits").exists():
            shutil.copytree(self.folder / name / "fits", place.home / "fits")
        return place

    def finish(self, job: Job, place: Place) -> float:
        attempt = Attempt(place, job.words, uuid.uuid4().hex, processes=job.processes)
        assert attempt.end(900) and attempt.main.exitcode == 0, attempt.output
        return time.perf_counter() - attempt.started

    def expected(self, name: str) -> dict[str, Any]:
        """Return result, files and extent of the undisturbed run."""
        file, job = self.folder / name / "expected.json", JOBS[name]
        if not file.exists():
            for attempt in range(1 + job.warm):  # the second one finds what the first one fitted
                self.reset()
                place = self.fresh(name, fits=bool(attempt))
                seconds = self.finish(job, place)
                if job.warm and not attempt and (place.home / "fits").exists():
                    shutil.copytree(place.home / "fits", self.folder / name / "fits", dirs_exist_ok=True)
                else:
                    (self.folder / name / "fits").mkdir(parents=True, exist_ok=True)
            known = {"seconds": seconds, "changes": place.counter.stat().st_size, "requests": len(self.hub.requests)}
            known |= {"names": sorted(map(undated, place.names())), "result": job.result(place, self.hub)}
            file.write_text(json.dumps(known))
        return json.loads(file.read_text())

    def reset(self) -> None:
        self.hub.repos.clear()
        self.hub.reset()

    def round(self, name: str) -> None:
        """Disturb a job until it ends by itself, and compare."""
        job, known = JOBS[name], self.expected(name)
        self.reset()
        place, memory = self.fresh(name, fits=job.warm), shared_memory()
        for number in range(IN_A_ROW + 1):
            chance = random.Random(f"{self.seed} {len(self.outcomes)}")
            if self.attempt(name, place, known, chance, last=number == IN_A_ROW):
                break
        self.compare(name, place, known, attempts=number + 1, memory=memory)

    def compare(self, name: str, place: Place, known: dict, *, memory: set[str] | None = None, **facts: Any) -> None:
        """Compare what is there with an undisturbed run."""
        wrong, result, should = [], JOBS[name].result(place, self.hub), known["result"]
        if result != should:
            differ = sorted(part for part in result.keys() | should.keys() if result.get(part) != should.get(part))
            wrong.append(f"result: {', '.join(differ)}")
        if left := sorted({*map(undated, place.names())} - {*known["names"]}):
            wrong.append(f"left behind: {', '.join(left[:5])}{', ...' * (len(left) > 5)}")
        if memory is not None and (left := sorted(shared_memory() - memory)):
            wrong.append(f"left in shared memory: {', '.join(left)}")
        self.note(job=name, finished=True, **facts, wrong=wrong)
        if wrong:
            shutil.rmtree(self.folder / "wrong", ignore_errors=True)
            shutil.copytree(place.folder, self.folder / "wrong", symlinks=True)

    def attempt(self, name: str, place: Place, known: dict, chance: random.Random, *, last: bool) -> bool:
        """Run a job's command once, with one fault but for the last time; return whether it ended by itself."""
        job, change, when = JOBS[name], None, chance.uniform(0, 0.8 * known["seconds"])
        faults, moments = ["SIGKILL", "pause", "SIGKILL", *SIGNALS], ["time"]
        if job.processes == 1 and known["changes"]:
            moments += ["change", "change"]
        if job.processes > 1:
            faults.insert(1, "memory")
        if known["requests"]:
            moments += ["request", "answer"]
        often = sum(one["job"] == name and "fault" in one for one in self.outcomes)
        fault = None if last else faults[often % len(faults)]
        moment = chance.choice(moments) if fault == "SIGKILL" else "time"
        if moment == "change":
            change = chance.randrange(known["changes"])
        attempt = Attempt(place, job.words, uuid.uuid4().hex, processes=job.processes, change=change)
        if moment in ("request", "answer"):

            def strike(request) -> None:
                if moment == "answer":
                    self.hub.answer(request)
                attempt.main.kill()

            self.hub.reset()
            self.hub.fail(strike, at=chance.randrange(known["requests"]))
        elif fault and change is None and until(lambda: time.perf_counter() - attempt.started > when, attempt):
            self.strike(name, attempt, fault, chance)
        started = time.perf_counter()
        ends = attempt.end(60 + 20 * known["seconds"] if fault in (None, "pause") or moment != "time" else PATIENCE)
        code, output, wrong = attempt.main.exitcode, attempt.output, []
        if not ends:
            wrong.append("a process lives on")
        if "Traceback" in output and "distill_hub" in output:
            wrong.append("a traceback")
        if code == 0 or (job.complete and job.complete in output):
            return True
        allowed = SIGNALS.get(fault, {-9, 137, 1} if fault else {0})
        if fault == "memory":
            allowed = {137}
            if "was ended by SIGKILL" not in output:
                wrong.append("no line that names the process that was killed")
        if code not in allowed or fault == "pause":
            wrong.append(f"exit code {code}")
        if wrong:
            wrong.append(output[-1500:])
        at = {"time": round(when, 2), "change": change}.get(moment, moment)
        self.note(
            job=name, fault=fault, moment=moment, at=at, code=code, ended_after=round(time.perf_counter() - started, 2),
            stage=stage(place), wrong=wrong,
        )  # fmt: skip
        return last

    def strike(self, name: str, attempt: Attempt, fault: str, chance: random.Random) -> None:
        ranks = attempt.ranks()
        try:
            if fault == "pause":
                for own in ranks[:1] if chance.random() < 0.5 else ranks[-1:]:
                    own.suspend()
                    time.sleep(1.5)
                    own.resume()
                    self.note(job=name, fault="pause", moment="time", wrong=[])
            elif fault == "memory":
                if ranks:
                    max(ranks, key=lambda own: own.memory_info().rss).kill()
            elif fault == "SIGKILL":
                chance.choice([psutil.Process(attempt.main.pid), *ranks]).kill()
            else:
                os.kill(attempt.main.pid, getattr(signal, fault))
        except (psutil.Error, ProcessLookupError):
            pass  # it ended meanwhile


def stage(place: Place) -> str:
    """Return where a command stood: the stage, or else the folder, of the newest file that it wrote."""
    files = [file for part in (place.work, place.home) for file in part.rglob("*") if file.is_file()]
    newest = max(files, key=lambda file: file.lstat().st_mtime_ns, default=place.work / "set-up")
    *_, folder = newest.parent.as_posix().split("/.run/")
    name = Path(folder).relative_to(place.folder).as_posix() if folder.startswith("/") else folder.split("/")[0]
    return re.sub("[0-9a-f]{8,}", "*", name)


def markdown(outcomes: list[dict], line: str) -> str:
    """Return the tables of what came of all so far."""
    count: collections.Counter = collections.Counter()
    for one in outcomes:
        count[one["job"], "finished" if "finished" in one else one["fault"]] += 1
        count[one["job"], "wrong"] += bool(one["wrong"])
    columns = ["SIGKILL", "memory", *SIGNALS, "pause", "full", "read-only", "two at once", "finished", "wrong"]
    names = [*JOBS]
    versions = ", ".join([f"Python {platform.python_version()}", *(f"{p} {metadata.version(p)}" for p in PACKAGES)])
    memory = psutil.virtual_memory().total / 2**30
    lines = [
        f"# Faults, {datetime.date.today()}", "", f"    {line}", "",
        f"Machine: {platform.machine()}, {os.cpu_count()} cores, {memory:.0f} GiB, {platform.system()}. {versions}.", "",
        f"| job | {' | '.join(columns)} |", f"|---|{'--:|' * len(columns)}",
        *(f"| {name} | {' | '.join(str(count[name, column]) for column in columns)} |" for name in names),
        f"| **all** | {' | '.join(str(sum(count[name, column] for name in names)) for column in columns)} |",
    ]  # fmt: skip
    lines += ["", "Where commands stood when they were ended:", ""]
    for name in names:
        stages = collections.Counter(one["stage"] for one in outcomes if one["job"] == name and "stage" in one)
        lines += [f"- {name}: {', '.join(f'{stage} {often}' for stage, often in stages.most_common())}"] * bool(stages)
    if wrong := [one for one in outcomes if one["wrong"]]:
        lines += ["", "What was wrong:", "", *(f"- {json.dumps(one)}" for one in wrong)]
    return "\n".join(lines) + "\n"


@contextmanager
def opened(folder: Path, seed: int) -> Iterator[Bench]:
    """Open the bench of a folder, with its Hub, and what forks commands."""
    hear_signals()
    with HubServer() as hub:
        hub.add_user("alice")
        hub.add_user("bob")
        hub.add_token("hf_alice", "alice")
        # Read when a library is loaded, so before the fork; relative, as a command's folder is.
        os.environ.update(hub.environment(Path("../home/hf"), "hf_alice"), HF_DATASETS_CACHE="../home/datasets")
        FORKED.set_forkserver_preload([*heavy()])
        yield Bench(folder.absolute(), hub, seed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="for everything; the same one again goes on")
    parser.add_argument("--job", action="append", choices=JOBS, help="only this one; may be given several times")
    parser.add_argument("--faults", type=int, default=10**9, help="stop after so many more")
    parser.add_argument("--minutes", type=float, default=10**9, help="stop after so many")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--markdown", type=Path, help="write the tables of all so far to this file, and do nothing else")
    args = parser.parse_args()
    if args.markdown:
        outcomes = [json.loads(line) for line in (args.folder / "outcomes.jsonl").read_text().splitlines()]
        args.markdown.write_text(markdown(outcomes, f"python -m tests.bench.faults --seed {args.seed}"), encoding="utf-8")
        return
    stop = time.monotonic() + 60 * args.minutes
    with opened(args.folder, args.seed) as bench:
        before, names = len(bench.outcomes), args.job or [*JOBS]
        while time.monotonic() < stop and sum("fault" in one for one in bench.outcomes[before:]) < args.faults:
            done = collections.Counter(one["job"] for one in bench.outcomes)
            bench.round(min(names, key=lambda name: done[name]))
    sys.exit(1 if any(one["wrong"] for one in bench.outcomes[before:]) else 0)


if __name__ == "__main__":
    main()
