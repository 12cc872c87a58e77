"""Memory that runs out, caches that fill up or that nobody can write to, and two commands at once. For root, on Linux.

    python -m tests.bench.faults.shortages --folder /tmp/faults

A command of two processes gets less memory than it needs (cgroup v1), and the kernel kills one of them: one line must say so
and what takes less, and the same command must end well with more. Each cache is a file system of a few kilobytes, which is
doubled after every failure until the job ends well: every failure must be one line and exit code 2, the result that of an
undisturbed run, and nothing may be left. Then the cache is empty and can only be read: one line again, or no harm. At last
two commands of the same job start at once, with empty caches and folders of their own: both must end well. Outcomes are
appended to `outcomes.jsonl` of the folder.
"""

import argparse
import subprocess
import sys
import uuid
from contextlib import contextmanager
from pathlib import Path

from tests.bench.faults.__main__ import Bench, opened
from tests.bench.faults.attempt import Attempt
from tests.bench.faults.jobs import JOBS, undated

CACHES = {  # under home
    "fits": ["photos", "evaluate"],
    "datasets": ["published photos"],
    "hf": ["evaluate", "published photos"],
    "tmp": ["photos", "evaluate"],
}
TWICE = ["photos", "published photos", "first fits"]
STARVED, MEMORY = "fit_classifier", 700_000_000  # bytes, for what two processes do not share with the bench
GROUP = Path("/sys/fs/cgroup/memory/distill_hub_faults")
LARGEST = 1 << 30  # bytes


@contextmanager
def file_system(folder: Path, size: int):
    """Mount an empty one."""
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def refusal(attempt: Attempt) -> list[str]:
    """Say what is wrong with how a command ended that could not write."""
    lines = [line for line in attempt.output.splitlines() if line.startswith("error")]
    wrong = [] if attempt.main.exitcode == 2 and len(lines) == 1 else [f"exit code {attempt.main.exitcode}, {lines}"]
    return [*wrong, *(["a traceback", attempt.output[-1500:]] if "Traceback" in attempt.output else [])]


def said(attempt: Attempt) -> str:
    return next((line for line in attempt.output.splitlines() if line.startswith("error")), "nothing")


def fill(bench: Bench, cache: str, name: str) -> None:
    """Let a cache fill up, again and again."""
    job, known = JOBS[name], bench.expected(name)
    bench.reset()
    place = bench.fresh(name, fits=job.warm and cache != "fits")
    size = 4096
    with file_system(place.home / cache, size):
        while True:
            attempt = Attempt(place, job.words, uuid.uuid4().hex, processes=1)
            attempt.end(300)
            if attempt.main.exitcode == 0:
                break
            line = next((line for line in attempt.output.splitlines() if line.startswith("error")), "")
            bench.note(
                job=name, fault="full", moment=cache, at=size, code=attempt.main.exitcode, said=line, wrong=refusal(attempt)
            )
            size *= 2
            assert size < LARGEST, attempt.output
            subprocess.run(["mount", "-o", f"remount,size={size}", str(place.home / cache)], check=True)
        bench.compare(name, place, known, size=size, cache=cache)
    bench.reset()
    place = bench.fresh(name, fits=job.warm and cache != "fits")
    with file_system(place.home / cache, size):
        subprocess.run(["mount", "-o", "remount,ro", str(place.home / cache)], check=True)
        attempt = Attempt(place, job.words, uuid.uuid4().hex, processes=1)
        attempt.end(300)
        wrong = refusal(attempt) if attempt.main.exitcode else []
        bench.note(job=name, fault="read-only", moment=cache, said=said(attempt), wrong=wrong)


def starve(bench: Bench, name: str) -> None:
    """Let memory run out."""
    job, known = JOBS[name], bench.expected(name)
    place = bench.fresh(name, fits=True)
    GROUP.mkdir(exist_ok=True)
    (GROUP / "memory.limit_in_bytes").write_text(str(MEMORY))
    attempt = Attempt(place, job.words, uuid.uuid4().hex, processes=2)
    (GROUP / "cgroup.procs").write_text(str(attempt.main.pid))
    attempt.end(300)
    GROUP.rmdir()
    wrong = [] if attempt.main.exitcode == 137 and "memory ran out" in said(attempt) else [attempt.output[-1500:]]
    bench.note(job=name, fault="memory", moment="kernel", at=MEMORY, said=said(attempt), wrong=wrong)
    bench.finish(job, place)
    bench.compare(name, place, known)


def twice(bench: Bench, name: str) -> None:
    """Start two of a job at once."""
    job, known = JOBS[name], bench.expected(name)
    bench.reset()
    place, token = bench.fresh(name, fits=False), uuid.uuid4().hex
    one = Attempt(place, job.words, token, processes=1)
    words = [word if word != "set" else "other" for word in job.words]
    place.log = place.folder / "other"  # of the second one's output
    other = Attempt(place, words, token, processes=1)
    codes = [one.main.join(), other.main.join()] and [one.main.exitcode, other.main.exitcode]
    names = {undated(name).replace("work/other", "work/set") for name in place.names()}
    wrong = [f"exit codes {codes}", one.output[-800:], other.output[-800:]] if any(codes) else []
    if left := sorted(names - {*known["names"]}):
        wrong.append(f"left behind: {', '.join(left[:5])}")
    result, files = job.result(place, bench.hub), known["result"]
    differ = [part for part in result if files.get(part.replace("work/other", "work/set")) != result[part]]
    bench.note(job=name, fault="two at once", moment="first fit", wrong=wrong + [f"result: {part}" for part in differ])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="for everything")
    args = parser.parse_args()
    with opened(args.folder, seed=0) as bench:
        before = len(bench.outcomes)
        if GROUP.parent.is_dir():
            starve(bench, STARVED)
        for cache, names in CACHES.items():
            for name in names:
                fill(bench, cache, name)
        for name in TWICE:
            twice(bench, name)
    sys.exit(1 if any(one["wrong"] for one in bench.outcomes[before:]) else 0)


if __name__ == "__main__":
    main()
