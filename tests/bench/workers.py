"""Kill and start processes at random over one folder: it becomes that of one process, no chunk is made twice for nothing.

    python -m tests.bench.workers --folder /tmp/workers                    # a stage of noise
    python -m tests.bench.workers --folder /tmp/workers --recipe cao2      # a recipe on digits; the first fits its models

Three runs of the same: one process; runs that join each other, of which now and then one at work is killed, or stopped for
longer or shorter than a lease, and another one started; and process groups, killed whole and started with another
number of processes. Every chunk that is begun is written to a log. One that is begun again is right when whoever began it
before was killed, or stood still for longer than a lease.
"""

import argparse
import collections
import functools
import hashlib
import json
import os
import random
import shutil
import signal
import sys
import time
from contextlib import suppress
from multiprocessing.process import BaseProcess
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(1, str(ROOT / "tests"))

from processes import FORKED, hear_signals, start_processes  # noqa: E402

LOST = 4.0  # seconds without a sign of life, after which a lease is taken over
CHUNKS, SECONDS = 400, 1.0  # of the stage of noise; for the one process they take no time
TINY = [
    *("--ipc", "2", "--pool_factor", "6", "--sample_batch_size", "3", "--sample_steps", "10", "--refine_batch_size", "1"),
    *("--refine_steps", "20", "--fit_vae_steps", "60", "--fit_dit_steps", "600", "--fit_vae_width", "8", "--fit_dit_width"),
    *("64", "--fit_dit_layers", "2", "--teacher_epochs", "4", "--view_epochs", "0", "--students", "convnet-1-w16"),
]


def note(log: Path, *facts: object) -> None:
    """Append a line, at once; many processes do."""
    line = " ".join(map(str, (*facts, f"{time.time():.3f}"))) + "\n"
    handle = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(handle, line.encode())
    os.close(handle)


def work(out: Path, log: Path, recipe: str | None, join: bool, seconds: float) -> None:
    """Do what one process does."""
    from distill_hub.disk import lock
    from distill_hub.running import run as run_module

    lock.LOST_AFTER, lock.SIGN_EVERY = LOST, 0.2
    in_parts, told, at_work = run_module.in_parts, run_module.told, [""]

    def named(stage, lower):
        at_work[0] = stage
        return told(stage, lower)

    def noted(part, function, *more, **how):
        chunk = hashlib.sha256(f"{at_work[0]} {list(part)}".encode()).hexdigest()[:12]
        note(log, "begin", os.getpid(), chunk)
        return in_parts(part, function, *more, **how)

    run_module.in_parts, run_module.told = noted, named
    if recipe:
        from helpers import run_here

        run_here(f"recipes/{recipe}.py", *TINY, "--output_dir", str(out), *["--join"] * join)
        return
    import torch

    from distill_hub.running.seeds import cpu_generator, draw_seed

    def noise(chunk):
        time.sleep(seconds * random.Random(chunk[0]).uniform(0.2, 1.8))
        return {"noise": torch.stack([torch.randn(64, generator=cpu_generator(draw_seed(0, "noise", i))) for i in chunk])}

    run = run_module.Run(out, {"seed": 0}, join=join)
    stage = run.map("noise", range(CHUNKS), noise, chunk_size=1)

    def package():
        note(log, "package", os.getpid())
        (out / "manifest.json").write_text(json.dumps({"content_sha256": stage.sha256}))

    run.on_main("package", package)
    run.end()


class Folder:
    """One run, by processes that come and go."""

    def __init__(self, folder: Path, recipe: str | None, seed: int, workers: int):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        self.folder, self.out, self.log, self.recipe = folder, folder / "out", folder / "log", recipe
        self.workers = workers
        self.chance, self.number, self.events = random.Random(seed), 0, collections.Counter()

    def start(self, world: int, *, join: bool, seconds: float = SECONDS) -> list[BaseProcess]:
        self.number += 1
        self.events["started"] += world
        output = self.folder / f"output-{self.number}"
        return start_processes(output, work, self.out, self.log, self.recipe, join, seconds, world=world)[0]

    def strike(self, one: BaseProcess, kind: str) -> None:
        note(self.log, kind, one.pid)
        self.events[kind] += 1
        with suppress(ProcessLookupError):  # it has just ended
            os.kill(one.pid, {"kill": signal.SIGKILL, "stop": signal.SIGSTOP, "go": signal.SIGCONT}[kind])

    def joined(self, pause: float) -> None:
        """Let runs join; every now and then one is killed or stopped, and another one comes."""
        alive, wakes, at = [*self.start(1, join=True)], {}, time.monotonic()
        while any(one.is_alive() for one in alive):
            ended = [one for one in alive if one.exitcode == 0]
            if len(alive) < self.workers and not ended:
                alive += self.start(1, join=True)
            if time.monotonic() > at and not ended:
                at = time.monotonic() + self.chance.uniform(0.5, 1.5) * pause
                begun = {line.split()[1] for line in self.log.read_text().splitlines()} if self.log.exists() else set()
                if awake := [one for one in alive if one.is_alive() and one not in wakes and str(one.pid) in begun]:
                    one = self.chance.choice(awake)
                    if self.chance.random() < 0.7:
                        self.strike(one, "kill")
                        one.join()
                    else:
                        self.strike(one, "stop")
                        wakes[one] = time.monotonic() + self.chance.choice([0.3, 2.5]) * LOST
            for one in [one for one, when in wakes.items() if time.monotonic() > when or ended]:
                self.strike(one, "go")
                del wakes[one]
            alive = [one for one in alive if one.is_alive() or one.exitcode == 0]
            time.sleep(0.05)

    def groups(self, pause: float) -> None:
        """Start process groups of other sizes, and kill each after a while, until one comes to the end."""
        while True:
            group = self.start(self.chance.randint(1, self.workers), join=False)
            until = time.monotonic() + self.chance.uniform(1, 3) * pause
            while any(one.is_alive() for one in group) and time.monotonic() < until:
                time.sleep(0.05)
            if all(one.exitcode == 0 for one in group):
                return
            for one in group:
                if one.is_alive():
                    self.strike(one, "kill")
            for one in group:
                one.join()

    def facts(self) -> dict[str, object]:
        """Return what came of it; raise where a chunk was made twice for nothing."""
        begun, events, twice = collections.defaultdict(list), collections.defaultdict(list), collections.Counter()
        for line in self.log.read_text().splitlines():
            kind, pid, *chunk, when = line.split()
            (begun[chunk[0]] if kind == "begin" else events[kind, pid]).append((float(when), pid))
        for chunk, starts in begun.items():
            for (first, pid), (second, _) in zip(sorted(starts), sorted(starts)[1:], strict=False):
                killed = any(first <= when <= second for when, _ in events["kill", pid])
                still = any(when <= second - LOST + 0.5 and when >= first - 0.5 for when, _ in events["stop", pid])
                twice["after a kill" if killed else "after a lease" if still else "FOR NOTHING"] += 1
                if not (killed or still):
                    print("begun again for nothing:", chunk, starts)
        content = json.loads((self.out / "manifest.json").read_bytes())["content_sha256"]
        left = [path.name for path in (self.out / ".run").rglob("*") if "lock" in path.name or path.suffix == ".tmp"]
        return {
            "sha256": content[:12], "chunks": len(begun), "begun": sum(map(len, begun.values())), **twice, **self.events,
            "packaged": len([key for key in events if key[0] == "package"]), "left": len(left),
        }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="for everything")
    parser.add_argument("--recipe", choices=["cao2"], help="instead of a stage of noise")
    parser.add_argument("--pause", type=float, default=1.2, help="seconds between two events, about")
    parser.add_argument("--workers", type=int, default=8, help="processes at a time, at most")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    args = parser.parse_args()
    hear_signals()
    os.environ.setdefault("DISTILL_HUB_CACHE", str(args.folder.absolute() / "cache"))
    FORKED.set_forkserver_preload(["helpers", "distill_hub.running.run", "distill_hub.making.start", "sklearn.datasets"])
    ways = {
        "one process": lambda folder: [one.join() for one in folder.start(1, join=False, seconds=0)],
        "that join": functools.partial(Folder.joined, pause=args.pause),
        "groups": functools.partial(Folder.groups, pause=2 * args.pause),
    }
    found = {}
    for name, way in ways.items():
        folder, started = (
            Folder(args.folder / name.replace(" ", "-"), args.recipe, args.seed, args.workers),
            time.monotonic(),
        )
        way(folder)
        found[name] = {**folder.facts(), "seconds": round(time.monotonic() - started)}
        print(name, found[name], flush=True)
    columns = list(dict.fromkeys(column for facts in found.values() for column in facts))
    print(f"| | {' | '.join(columns)} |\n|---|{'--:|' * len(columns)}")
    for name, facts in found.items():
        print(f"| {name} | {' | '.join(str(facts.get(column, 0)) for column in columns)} |")
    wrong = len({facts["sha256"] for facts in found.values()}) > 1 or any(
        facts.get("FOR NOTHING") for facts in found.values()
    )
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
