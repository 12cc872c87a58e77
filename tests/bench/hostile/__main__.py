"""Meet the command `distill-hub` with hostile and broken input, and count by kind what was tried and what fell.

    python -m tests.bench.hostile                                   # everything, in the checkout's folder
    python -m tests.bench.hostile sources models --kind teacher     # two parts, and of them the kinds with this word
    python -m tests.bench.hostile --markdown hostile.md --json hostile.json

A part is a module of this folder with a function `attacks`. Every attack is built in a folder of its own; the command runs
there in a process of its own, forked from one that has imported what is heavy: without network and input, with its own
caches, within a time and a size of memory. What it started must have ended with it.
"""

import argparse
import collections
import datetime
import importlib
import itertools
import json
import os
import pkgutil
import platform
import re
import shlex
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

import psutil

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
sys.path[1:1] = [str(ROOT / "tests"), str(ROOT / "tests" / "bench")]  # parts use what the tests share

from processes import FORKED, kill, start_python  # noqa: E402

from tests.bench.hostile.attack import Attack, Outcome  # noqa: E402

PARTS = [module.name for module in pkgutil.iter_modules([str(HERE)]) if module.name not in ("__main__", "attack")]
PACKAGES = ("distill-hub", "torch", "diffusers", "transformers", "datasets", "timm", "pillow", "pyarrow", "huggingface-hub")
MOST = 3.5e9  # bytes over what the imports take, at which a command is ended
# Read when a library is loaded, so before the fork; relative, as every command has its own folder.
CACHES = {"HF_HUB_OFFLINE": "1", "HF_HOME": "../home/hf", "HF_DATASETS_CACHE": "../home/datasets", "TQDM_DISABLE": "1"}
CALL = "from distill_hub.cli import command; command()"


@dataclass(frozen=True)
class Result:
    """What came of an attack."""

    part: str
    kind: str
    name: str
    wrong: str | None  # None: it held
    words: str
    code: int | None
    seconds: float
    memory: int  # bytes over what the imports take
    output: str  # its end


def heavy() -> Iterator[str]:
    """Yield the names of the package's modules: to import them is to import whatever they use."""
    for module in pkgutil.walk_packages([str(ROOT / "distill_hub")], "distill_hub."):
        yield module.name


def resident(pid: int) -> int:
    """Return the most bytes that a process has held, 0 when it has ended."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    found = re.search(r"VmHWM:\s+(\d+) kB", text)
    return 1024 * int(found[1]) if found else 0


def run(folder: Path, words: Sequence[str], seconds: float) -> tuple[Outcome, str | None]:
    """Run the command in a folder; return how it ended, and what is wrong whatever the attack was."""
    home = folder.parent / "home"
    home.mkdir()
    own = {"HOME": home, "DISTILL_HUB_CACHE": home / "fits", "PATH": f"{folder / 'bin'}:{os.environ['PATH']}"}
    own |= dict(word.split("=", 1) for word in itertools.takewhile(re.compile("[A-Z_]+=").match, words))
    words = list(itertools.dropwhile(re.compile("[A-Z_]+=").match, words))
    streams = [Path(os.devnull), home / "stdout", home / "stderr"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **{name: str(value) for name, value in own.items()}}
    started, wrong = time.perf_counter(), None
    process = start_python(["-c", CALL, *words], streams, environment, folder)
    least = most = resident(process.pid)
    while process.is_alive():
        process.join(0.02)
        most = max(most, resident(process.pid))
        if most - least > MOST:
            wrong = f"it took over {MOST / 1e9:.1f} GB of memory"
            kill(process)
        elif time.perf_counter() - started > seconds:
            wrong = f"it hung for {seconds:.0f} s"
            kill(process)
    try:
        os.killpg(process.pid, signal.SIGKILL)
        wrong = wrong or "it left a process behind"
    except ProcessLookupError:
        pass
    output = "".join(file.read_text(encoding="utf-8", errors="replace") for file in streams[1:] if file.exists())
    outcome = Outcome(process.exitcode, output, time.perf_counter() - started, most - least, folder)
    return outcome, wrong


def meet(part: str, attack: Attack, place: Path, building: threading.Lock, seconds: float) -> Result:
    """Build an attack, run it, and judge what came of it."""
    folder = place / "input"
    folder.mkdir(parents=True)
    with building:  # libraries' random states are the process's
        words = [str(word) for word in attack.build(folder)]
    outcome, wrong = run(folder, words, seconds)
    wrong = wrong or attack.right(outcome)
    shutil.rmtree(place)
    output = outcome.output[-2000:].replace(str(place), "...")
    command = shlex.join(words).replace(str(place), "...")
    return Result(
        part, attack.kind, attack.name, wrong, command, outcome.code, round(outcome.seconds, 2), outcome.memory, output
    )


def facts(args: argparse.Namespace) -> dict[str, str]:
    """Return when, where and with what it was done."""
    memory = psutil.virtual_memory().total / 2**30
    return {
        "date": f"{datetime.date.today()}",
        "command": shlex.join(["python", "-m", "tests.bench.hostile", *args.line]),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {memory:.0f} GiB, {platform.system()}",
        "versions": ", ".join([f"Python {platform.python_version()}", *(f"{p} {metadata.version(p)}" for p in PACKAGES)]),
    }


def markdown(results: Sequence[Result], of: dict[str, str]) -> str:
    """Return the tables: what was tried and fell, by kind, and how each fell."""
    tried = collections.Counter((one.part, one.kind) for one in results)
    fell = [one for one in results if one.wrong]
    fallen = collections.Counter((one.part, one.kind) for one in fell)
    lines = ["# Hostile and broken input", "", *(f"- {name}: {value}" for name, value in of.items()), ""]
    lines += ["| part | kind | tried | fell |", "|---|---|--:|--:|"]
    lines += [f"| {part} | {kind} | {count} | {fallen[part, kind]} |" for (part, kind), count in tried.items()]
    lines += [f"| **all** | | **{len(results)}** | **{len(fell)}** |"]
    if fell:
        lines += ["", "| kind | what | how it fell |", "|---|---|---|"]
        lines += [f"| {one.kind} | {one.name} | {one.wrong} |".replace("\n", " ") for one in fell]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="part", help=f"of {', '.join(PARTS)}; default: all")
    parser.add_argument("--kind", default="", help="only kinds with this text in their names")
    parser.add_argument("--name", default="", help="only attacks with this text in their names")
    parser.add_argument("--every", type=int, default=1, help="a sample: of each kind every so many, a prime number")
    parser.add_argument("--processes", type=int, default=2, help="how many run at once")
    parser.add_argument("--seconds", type=float, default=60, help="after which a command hangs")
    parser.add_argument("--json", type=Path, help="file for all results")
    parser.add_argument("--markdown", type=Path, help="file for the tables")
    args = parser.parse_args()
    args.line = sys.argv[1:]
    if unknown := sorted({*args.parts} - {*PARTS}):
        parser.error(f"no such part: {', '.join(unknown)}; known: {', '.join(PARTS)}")

    os.environ.update(CACHES)
    FORKED.set_forkserver_preload([*heavy()])
    known = [
        (part, attack)
        for part in args.parts or PARTS
        for attack in importlib.import_module(f"tests.bench.hostile.{part}").attacks()
        if args.kind in attack.kind and args.name in attack.name
    ]
    seen: collections.Counter[tuple[str, str]] = collections.Counter()
    chosen = []
    for part, attack in known:
        if seen[part, attack.kind] % args.every == 0:
            chosen.append((part, attack))
        seen[part, attack.kind] += 1
    building = threading.Lock()
    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor(args.processes) as pool:
        waiting = [
            (attack, pool.submit(meet, part, attack, Path(name, f"{place:05d}"), building, args.seconds))
            for place, (part, attack) in enumerate(chosen)
        ]
        results = []
        for attack, future in waiting:
            result = future.result()
            results.append(result)
            if result.wrong:
                last = next((line for line in reversed(result.output.splitlines()) if line.strip()), "")
                print(f"{attack.kind} | {attack.name}: {result.wrong}\n    {result.words}\n    {last}", flush=True)
    text = markdown(results, {**facts(args), "attacks": f"{len(results)} of {len(known)}"})
    print(f"\n{text}")
    if args.markdown:
        args.markdown.write_text(text, encoding="utf-8")
    if args.json:
        content = {**facts(args), "results": [asdict(result) for result in results]}
        args.json.write_text(json.dumps(content, indent=2), encoding="utf-8")
    sys.exit(1 if any(result.wrong for result in results) else 0)


if __name__ == "__main__":
    main()
