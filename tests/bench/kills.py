"""Kill a random process of a recipe at a random moment, again and again; the set must be that of an undisturbed run.

    python tests/bench/kills.py --recipe recipes/cao2.py --kills 50 --processes 2
    python tests/bench/kills.py --recipe recipes/rded.py --kills 20 -- --factor 2       # further words for the recipe

Every attempt is a torchrun in a session of its own. A random moment after it has written a random number of files one of its
processes gets SIGKILL, and torchrun has to end the others. A run that finishes first is compared, deleted, and begun anew.
Fitted models lie in the cache from the undisturbed run on. Everything is small: what counts is how often work is cut
off, not what it makes.
"""

import argparse
import collections
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

import psutil
import pyarrow.parquet as pq

ROOT = Path(__file__).parents[2]
SMALL = ["--ipc", "4", "--students", "convnet-1", "--repeats", "1", "--teacher_epochs", "4", "--view_epochs", "150"]
DIT = [
    *("--fit_vae_steps", "60", "--fit_dit_steps", "600", "--fit_vae_width", "8", "--fit_dit_width", "64"),
    *("--fit_dit_layers", "2", "--sample_steps", "10", "--sample_batch_size", "5"),
]
OWN = {"cao2": [*DIT, "--pool_factor", "3", "--refine_batch_size", "2", "--refine_steps", "5"], "dit": DIT}
TOKEN = "DISTILL_HUB_KILLS"  # in the environment of every process that an attempt starts, and of theirs


class Attempt:
    """A recipe started with torchrun."""

    def __init__(self, words: list[str], processes: int, log: Path):
        self.token = uuid.uuid4().hex
        environment = {**os.environ, "ACCELERATE_USE_CPU": "true", TOKEN: self.token}
        start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
        self.log = log
        with log.open("w") as file:
            self.torchrun = subprocess.Popen(
                [*start, *words], cwd=ROOT, env=environment, stdout=file, stderr=file, start_new_session=True
            )

    def ranks(self) -> list[psutil.Process]:
        children = psutil.Process(self.torchrun.pid).children() if self.torchrun.poll() is None else []
        return [child for child in children if "RANK" in environment_of(child)]

    def orphans(self) -> list[psutil.Process]:
        return [process for process in psutil.process_iter() if environment_of(process).get(TOKEN) == self.token]


def environment_of(process: psutil.Process) -> dict[str, str]:
    try:
        return process.environ() if process.status() != psutil.STATUS_ZOMBIE else {}
    except psutil.Error:  # it has just ended, or is somebody else's
        return {}


def pieces(folder: Path) -> dict[Path, int]:
    """Return all files of a run but unfinished ones, and when they were written."""
    found = {}
    for place, _, names in os.walk(folder):  # passes over what goes while it looks
        for name in names:
            file = Path(place, name)
            try:
                if file.suffix != ".tmp" and "staging" not in file.parts:
                    found[file] = file.stat().st_mtime_ns
            except FileNotFoundError:
                pass
    return found


def chunks(folder: Path) -> dict[str, str]:
    """Return the finished chunks of a run and the hashes that their markers record."""
    markers = (folder / ".run").glob("*/0*.json")
    return {str(file.relative_to(folder)): json.loads(file.read_bytes())["sha256"] for file in markers}


def stage_at(folder: Path, before: dict[Path, int]) -> str:
    """Return behind which stage's files the run stood: that of the newest one."""
    new = [(written, file) for file, written in pieces(folder).items() if before.get(file) != written]
    if not new:
        return "start-up"
    newest = max(new)[1].relative_to(folder)
    if newest.parts[0] != ".run":
        return {"data": "package", "manifest.json": "package", "views": "store views"}.get(newest.parts[0], "card")
    return newest.parts[1] if len(newest.parts) > 2 else "set-up"  # config.json: models are loaded, chunks checked


def images(folder: Path) -> list[str]:
    """Return a hash per row of the set."""
    files = sorted((folder / "data").glob("*.parquet"))
    rows = [row for file in files for row in pq.read_table(file).to_pylist()]
    return [hashlib.sha256(repr(row).encode()).hexdigest() for row in rows]


def result(folder: Path) -> dict:
    manifest = json.loads((folder / "manifest.json").read_bytes())
    records = [json.loads(file.read_bytes()) for file in sorted((folder / "evaluations").iterdir())]
    return {
        "set": manifest["content_sha256"],
        "views": (manifest["views"] or {}).get("sha256"),
        "scores": [[record["score"], record["baselines"]] for record in records],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="recipes/cao2.py")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--most_pieces", type=int, default=12, help="new files after which an attempt is killed, at most")
    parser.add_argument("--most_seconds", type=float, default=1.0, help="after the last of them, at most")
    parser.add_argument("words", nargs="*", help="further words for the recipe, behind --")
    args = parser.parse_args()
    chance, base = random.Random(args.seed), Path(tempfile.mkdtemp())
    words = [args.recipe, *SMALL, *OWN.get(Path(args.recipe).stem, []), *args.words, "--output_dir"]

    def finish(folder: Path) -> None:
        last = Attempt([*words, str(folder)], args.processes, base / "log")
        assert last.torchrun.wait() == 0, last.log.read_text()

    finish(base / "undisturbed")
    expected, rows = result(base / "undisturbed"), images(base / "undisturbed")
    print(f"undisturbed: {len(rows)} images, content_sha256 {expected['set']}", flush=True)

    folder, finished, slowest, started = base / "killed", 0, 0.0, time.perf_counter()
    stages, hit, wrong = collections.Counter(), collections.Counter(), collections.Counter()

    def compare() -> None:
        nonlocal finished
        finished += 1
        own = images(folder)
        wrong["images lost"] += max(0, len(rows) - len(own))
        wrong["images altered"] += sum(a != b for a, b in zip(rows, own, strict=False)) + max(0, len(own) - len(rows))
        wrong["results that differ"] += result(folder) != expected
        wrong["chunks that differ"] += chunks(folder) != chunks(base / "undisturbed")
        shutil.rmtree(folder)

    while sum(stages.values()) < args.kills:
        before, kept = pieces(folder), chunks(folder)
        attempt = Attempt([*words, str(folder)], args.processes, base / "log")
        enough, pause, place = chance.randint(0, args.most_pieces), chance.uniform(0, args.most_seconds), chance.random()
        while attempt.torchrun.poll() is None:
            new = sum(before.get(file) != written for file, written in pieces(folder).items())
            if new >= enough and len(ranks := attempt.ranks()) == args.processes:
                break
            time.sleep(0.03)
        else:
            assert attempt.torchrun.returncode == 0, attempt.log.read_text()
            compare()
            continue
        time.sleep(pause)
        victim = int(place * args.processes)
        try:
            ranks[victim].kill()
        except psutil.NoSuchProcess:  # the run ended meanwhile
            attempt.torchrun.wait()
            compare()
            continue
        killed_at = time.perf_counter()
        if attempt.torchrun.wait() == 0:  # it had no more to do than to end
            compare()
            continue
        slowest = max(slowest, time.perf_counter() - killed_at)
        wrong["orphans"] += len(attempt.orphans())
        wrong["tracebacks of ours"] += "distill_hub" in attempt.log.read_text()
        now = chunks(folder)
        wrong["finished chunks lost"] += sum(now.get(name) != value for name, value in kept.items())
        stage = stage_at(folder, before)
        stages[stage] += 1
        hit[f"process {victim}"] += 1
        print(f"kill {sum(stages.values())}: process {victim}, {stage}, {len(now)} chunks", flush=True)
    finish(folder)
    leftover = len(list((folder / ".run").rglob("*.tmp")))
    compare()

    print(f"{sum(stages.values())} kills in {time.perf_counter() - started:.0f} s, {finished} finished runs")
    print("by stage:", ", ".join(f"{stage} {count}" for stage, count in stages.items()))
    print("by process:", ", ".join(f"{name} {count}" for name, count in sorted(hit.items())))
    print(f"all processes had ended {slowest:.1f} s after a kill, at most; {leftover} temporary files left at the end")
    print("wrong:", ", ".join(f"{count} {name}" for name, count in wrong.items()))
    shutil.rmtree(base)
    sys.exit(1 if wrong.total() else 0)


if __name__ == "__main__":
    main()
