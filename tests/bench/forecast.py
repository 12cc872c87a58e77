"""What a dry run foresees beside what the run takes: time and memory, stage by stage.

    python tests/bench/forecast.py --output_dir outputs/forecast -- recipes/cao2.py --repeats 1
    python tests/bench/forecast.py --output_dir outputs/forecast --processes 2 -- recipes/herding.py --source path/to/images

The words behind `--` are a recipe and its options. Models that have to be fitted are best fitted before, in the cache: the
dry run, too, works with what it finds there.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
UNITS = {"s": 1, "min": 60, "h": 3600, "bytes": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9}


def value(text: str) -> float | None:
    """Return the number that a cell begins with, in seconds or bytes; None where it has none."""
    found = re.match(r"([\d.,]+) (\w+)", text)
    return float(found[1].replace(",", "")) * UNITS[found[2]] if found else None


def run(words: list[str], processes: int) -> dict[str, dict[str, float | None]]:
    """Run a recipe; return the columns of the first table that it prints, by stage."""
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)] if processes > 1 else []
    done = subprocess.run([sys.executable, *launch, *words], cwd=ROOT, env={**os.environ, "COLUMNS": "300"}, text=True,
                          stdout=subprocess.PIPE, check=True)  # fmt: skip
    lines = done.stdout.splitlines()
    head = next(place for place, line in enumerate(lines) if line.startswith("┃"))
    names = [cell.strip() for cell in lines[head].strip("┃").split("┃")]
    rows = [line.strip("│").split("│") for line in lines[head + 2 : lines.index(next(filter(is_end, lines)))]]
    print(done.stdout, file=sys.stderr)
    return {row[0].strip(): {name: value(cell.strip()) for name, cell in zip(names, row, strict=True)} for row in rows}


def is_end(line: str) -> bool:
    return line.startswith("└")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, required=True, help="of the set; replaced")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("words", nargs="+", help="a recipe and its options")
    args = parser.parse_args()
    shutil.rmtree(args.output_dir, ignore_errors=True)
    words = [*args.words, "--output_dir", str(args.output_dir.resolve())]
    planned, taken = run([*words, "--dry_run"], args.processes), run(words, args.processes)
    columns = {"time": ("s", 1.0), "memory of a process": ("MB", 1e6)}
    heads = [f"{name} ({unit}): {what}" for name, (unit, _) in columns.items() for what in ("foreseen", "taken", "ratio")]
    print("| stage | " + " | ".join(heads) + " |\n|---" + "|---" * len(heads) + "|")
    for stage in [*dict.fromkeys([*taken, *planned])]:
        cells = []
        for name, (_, unit) in columns.items():
            pair = [rows.get(stage, {}).get(name) for rows in (planned, taken)]
            cells += ["" if each is None else f"{each / unit:.1f}" for each in pair]
            cells.append(f"{pair[0] / pair[1]:.2f}" if None not in pair and pair[1] else "")
        print(f"| {stage} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
