"""Ordinary commands in the surroundings that people and machines have: locales, terminals, caches, closed streams.

    python -m tests.bench.surroundings                  # everything, in the checkout's folder
    python -m tests.bench.surroundings --name ", info"  # one command in all of them

Each starts a new interpreter: what a library reads when it is loaded would come too late for a forked one.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[1:1] = [str(ROOT / "tests"), str(ROOT / "tests" / "bench")]  # what the tests share

from tests.bench.hostile.attack import Outcome, Right, base, either, refused, used  # noqa: E402
from tests.bench.hostile.foreign import images, placed  # noqa: E402

ADOPT = ["adopt", "set", "--source", "src", "--method", "dm", "--output_dir", "out"]
COMMANDS: dict[str, list[str]] = {
    "info": ["info", "scored"],
    "compare": ["compare", "scored", "scored2"],
    "env": ["env"],
    "help": ["make", "cao2", "--help"],
    "adopt": ADOPT,
    "refused": ["adopt", "set", "--source", "nowhere", "--method", "dm"],
    "dry run": ["make", "random_real", "--source", "src", "--dry_run", "--ipc", "1", "--students", "convnet-1-w1"],
}
ENVIRONMENTS: dict[str, dict[str, str | None]] = {  # None: not set
    "LANG=C": {"LANG": "C", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    "POSIX": {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"},
    "latin-1": {"PYTHONIOENCODING": "latin-1"},
    "cp437": {"PYTHONIOENCODING": "cp437"},
    "utf-16": {"PYTHONIOENCODING": "utf-16"},
    "ascii, strict": {"PYTHONIOENCODING": "ascii:strict"},
    "Turkish": {"LANG": "tr_TR.UTF-8", "LC_ALL": "tr_TR.UTF-8"},
    "no such locale": {"LC_ALL": "xx_YY"},
    "no HOME": {"HOME": None, "XDG_CACHE_HOME": None, "DISTILL_HUB_CACHE": None},
    "HOME is no folder": {"HOME": "/nonexistent", "DISTILL_HUB_CACHE": None},
    "an empty HOME": {"HOME": "", "DISTILL_HUB_CACHE": None},
    "HOME is a file": {"HOME": "/etc/passwd", "DISTILL_HUB_CACHE": None},
    "no TMPDIR": {"TMPDIR": "/nonexistent"},
    "TMPDIR is a file": {"TMPDIR": "/etc/passwd"},
    "COLUMNS=40": {"COLUMNS": "40"},
    "COLUMNS=10": {"COLUMNS": "10"},
    "COLUMNS=0": {"COLUMNS": "0"},
    "COLUMNS=x": {"COLUMNS": "x"},
    "COLUMNS=100000": {"COLUMNS": "100000"},
    "NO_COLOR": {"NO_COLOR": "1"},
    "FORCE_COLOR": {"FORCE_COLOR": "1"},
    "dumb": {"TERM": "dumb"},
    "no TERM": {"TERM": None},
    "no PATH": {"PATH": ""},
    "no USER": {"USER": None, "LOGNAME": None},
    "a zone": {"TZ": "Asia/Kathmandu"},
    "a zone that is none": {"TZ": "No/Where"},
    "cache below a file": {"DISTILL_HUB_CACHE": "/etc/passwd/x"},
    "cache in /proc": {"DISTILL_HUB_CACHE": "/proc/x"},
    "a relative cache": {"DISTILL_HUB_CACHE": "cache"},
    "a cache in ~": {"DISTILL_HUB_CACHE": "~/x"},
    "an empty cache": {"DISTILL_HUB_CACHE": ""},
    "datasets' cache below a file": {"HF_DATASETS_CACHE": "/etc/passwd/x"},
    "HF_HOME below a file": {"HF_HOME": "/etc/passwd/x"},
    "threads": {"OMP_NUM_THREADS": "x"},
    "no threads": {"OMP_NUM_THREADS": "0"},
    "a device that is none": {"CUDA_VISIBLE_DEVICES": "9"},
    "an endpoint that is none": {"HF_ENDPOINT": "not a url"},
    "an empty endpoint": {"HF_ENDPOINT": ""},
    "ranks": {"RANK": "x"},
    "half a torchrun": {"RANK": "0", "WORLD_SIZE": "1"},
    "SLURM": {"SLURM_NTASKS": "8", "SLURM_PROCID": "3"},
    "matplotlib": {"MPLBACKEND": "nonsense", "MPLCONFIGDIR": "/etc/passwd/x"},
    "warnings are errors": {"PYTHONWARNINGS": "error"},
    "a proxy": {"HTTPS_PROXY": "http://127.0.0.1:1", "HTTP_PROXY": "not a url"},
    "optimised": {"PYTHONOPTIMIZE": "2"},
    "dev mode": {"PYTHONDEVMODE": "1"},
    "unbuffered": {"PYTHONUNBUFFERED": "1"},
    "no bytecode": {"PYTHONDONTWRITEBYTECODE": "1"},
    "hashes": {"PYTHONHASHSEED": "7"},
}
STREAMS = {  # what a shell does with the command
    "| head -1": "{} | head -1",
    "| true": "{} | true",
    ">&-": "{} >&-",
    "2>&-": "{} 2>&-",
    ">&- 2>&-": "{} >&- 2>&-",
    "<&-": "{} <&-",
    "> /dev/full": "{} > /dev/full",
    "umask 077": "umask 077; {}",
    "nohup": "nohup {} < /dev/null",
    "ulimit -n 64": "ulimit -n 64; {}",
    "ulimit -f 0": "ulimit -f 0; {}",
    "in a folder that is gone": "mkdir x; cd x; rmdir ../x; {}",
    "yes |": "yes | {}",
    "a narrow terminal": "script -qec 'stty cols 40; {}' /dev/null",
    "nice": "nice -n 19 {}",
    "in /": "cd /; {}",
    "in the background": "({} & wait $!)",
}


def prepare(folder: Path) -> None:
    """Write a source, a set made elsewhere, and two scored sets."""
    for split, count in (("train", 4), ("test", 2)):
        images(folder / "src" / split, count=count)
    images(folder / "set", count=1)
    for name in ("scored", "scored2"):
        shutil.copytree(base("set"), folder / name)


def run(folder: Path, line: str, environment: dict[str, str | None]) -> tuple[int, str]:
    """Run a shell line in which `distill-hub` is this code, in a new interpreter; return its code and output."""
    own = {**os.environ, "HF_HOME": str(folder / "hf"), "DISTILL_HUB_CACHE": str(folder / "fits"), "HOME": str(folder)}
    own |= {"HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    own = {key: value for key, value in {**own, **environment}.items() if value is not None}
    done = subprocess.run(["/bin/bash", "-c", line], env=own, cwd=folder, capture_output=True, timeout=300, check=False)
    text = "".join(stream.decode("utf-8", "replace") for stream in (done.stdout, done.stderr))
    return done.returncode, text


def right_of(command: str) -> Right:
    """Return what is right of a command where nothing is in its way."""
    return {"refused": refused, "adopt": placed}.get(command, used)


def trials() -> Iterator[tuple[str, str, str, dict[str, str | None], Right]]:
    """Kind, name, shell line, environment, what is right."""
    call = f"{sys.executable} -m distill_hub.cli "
    for name, environment in ENVIRONMENTS.items():
        for command, words in COMMANDS.items():
            spoiled = any(str(value).startswith(("/etc/passwd", "/nonexistent", "/proc/")) for value in environment.values())
            odd = name in (
                "utf-16",
                "threads",
                "an endpoint that is none",
                "ranks",
                "warnings are errors",
                "a proxy",
                "matplotlib",
            )
            right = either if (spoiled or odd) and command != "refused" else right_of(command)
            yield "environment", f"{name}, {command}", call + " ".join(words), environment, right
    for name, line in STREAMS.items():
        for command, words in COMMANDS.items():
            yield "streams", f"{name}, {command}", line.format(call + " ".join(words)), {}, either


def main() -> None:
    """Try them, two at a time, and print what fell and how many were tried."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", default="", help="only those with this text in their names, e.g. ', info'")
    wanted = parser.parse_args().name
    base("set")

    def one(trial: tuple[str, str, str, dict[str, str | None], Right]) -> tuple[str, str | None]:
        kind, name, line, environment, right = trial
        with tempfile.TemporaryDirectory() as place:
            prepare(Path(place))
            code, output = run(Path(place), line, environment)
            return f"{kind} | {name}", right(Outcome(code, output, 0, 0, Path(place)))

    tried = fell = 0
    with ThreadPoolExecutor(2) as pool:
        for name, wrong in pool.map(one, [trial for trial in trials() if wanted in trial[1]]):
            tried += 1
            fell += wrong is not None
            if wrong:
                print(f"{name}: {wrong}", flush=True)
    print(f"{tried} tried, {fell} fell")
    sys.exit(1 if fell else 0)


if __name__ == "__main__":
    main()
