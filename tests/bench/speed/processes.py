"""What a second process brings: images per second of a recipe's sampling and refinement, in two processes and in one."""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

RECIPES = Path(__file__).parents[3] / "recipes"
IMAGES = 640  # ten chunks of 64 in either stage: two processes have five each
STAGES = ("pool", "refine")
WORK = ["--ipc", str(IMAGES // 10), "--pool_factor", "1", "--refine_steps", "50"]
AFTERWARDS = ["--view_epochs", "0", "--repeats", "1", "--students", "convnet-1"]  # what follows is kept short


def rates(start: list[str], folder: Path) -> dict[str, float]:
    """Return images per second of CaO2's recipe on digits. What it fits is taken from the cache after the first run."""
    words = [str(RECIPES / "cao2.py"), *WORK, *AFTERWARDS, "--output_dir", str(folder)]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true"}
    done = subprocess.run([*start, *words], env=environment, capture_output=True, text=True, check=True).stdout
    seconds = {name: float(re.search(rf"\b{name}\W+\d+\W+([\d.]+) s", done)[1]) for name in STAGES}
    found = {name: IMAGES / seconds[name] for name in STAGES}
    return {**found, "both": IMAGES / sum(seconds.values())}


def compare(rounds: int) -> list[dict]:
    """Let one and two processes take turns; return the rates of every round."""
    first, *_ = sorted(os.sched_getaffinity(0))
    two = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    ways = {
        "one process on one core": ["taskset", "-c", str(first), sys.executable],
        "two processes on two cores": two,
        "one process on two cores": [sys.executable],
    }
    with tempfile.TemporaryDirectory() as folder:
        return [
            {"way": way, **rates(start, Path(folder, f"{number}-{way}"))}
            for number in range(rounds)
            for way, start in ways.items()
        ]
