"""Speed of every part of a distillation beside a plain loop that does the same, on the same hardware in the same run.

    python tests/bench/speed                                              # the offline default's size, on a CPU
    python tests/bench/speed --variants none --only relabel,dm,idc,mtt    # no variants of our side
    python tests/bench/speed --scale xl --precision bf16 --only cao2,psr  # DiT-XL/2 at 256 px, ResNet-18 at 224 px, on a GPU
    python tests/bench/speed --processes                                  # what a second process brings, on two cores
    python tests/bench/speed --ipc 1,10,50                                # time and memory of matching against IPC

The plain loop is what `plain.py` says, in float32 (on a GPU with TF32, as in the authors' scripts). Every side of a task is
a process of its own; they take turns, and the median of the rounds counts. Before, both results are compared: from the same
seeds, in float32, the largest difference relative to the largest value must be within the tolerance; where the run is in
another precision, its difference is shown, too. Variants of our side, compiled (`--compile_set`, `--compile`) and in bf16,
take turns with the others; their differences are shown and bound by nothing, as bfloat16 has three digits. Weights are
random. Operations are those of matrix products, convolutions and attention; their rate is a share of that of one large
matrix product in the same precision on the same threads.
"""

import argparse
import datetime
import json
import multiprocessing
import os
import platform
import statistics
import sys
from concurrent.futures import ProcessPoolExecutor
from importlib import metadata
from pathlib import Path

import meter
import numpy as np
import processes

# Most that float32 results may differ, relative to the largest value. Adam at first moves by the sign of a gradient,
# whatever its size; cached latents are kept in half precision; Pillow rounds a transformed image to whole levels.
TOLERANCES = {
    "sampling": 1e-3,
    "cao2": 1e-2,
    "psr": 1e-3,
    "minimax": 1e-2,
    "recover": 2e-2,
    "relabel": 2e-2,
    "evaluate": 1e-2,
    "dm": 1e-3,
    "idc": 1e-2,
    "mtt": 1e-2,
}
# What can be compiled, and in which precision the variants of our side are.
COMPILED = ("sampling", "cao2", "psr", "minimax", "recover", "evaluate")
VARIANTS = {"compiled": ("no", True), "bf16": ("bf16", False), "compiled bf16": ("bf16", True)}
PACKAGES = ("torch", "torchvision", "diffusers", "transformers", "accelerate", "timm", "datasets")


class Side:
    """A process that measures one side of a task; see `meter.Meter`."""

    def __init__(self, side: str, task: str, precision: str, args: argparse.Namespace, compiled: bool = False):
        given = precision, side, task, args.scale, compiled, args.workers
        self.pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), meter.start, given)
        self.ready = self.pool.submit(meter.ask, "facts")

    def ask(self, question: str, *given):
        """Return an answer."""
        return self.pool.submit(meter.ask, question, *given).result()


def difference(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> dict[str, float]:
    """Return the largest differences, relative to the largest value."""
    return {name: float(np.abs(a[name] - b[name]).max() / np.abs(b[name]).max()) for name in a}


def measure(task: str, args: argparse.Namespace) -> dict:
    """Return everything about one task."""
    plain, own = Side("plain", task, "no", args), Side("ours", task, args.precision, args)
    expected = plain.ask("outcome")
    result = {**own.ready.result(), "tolerance": TOLERANCES[task]}
    if args.precision != "no":
        result["difference in this precision"] = difference(own.ask("outcome"), expected)
        exact = Side("ours", task, "no", args)
        result["difference"] = difference(exact.ask("outcome"), expected)
        exact.pool.shutdown()
    else:
        result["difference"] = difference(own.ask("outcome"), expected)
    result["equal"] = max(result["difference"].values()) <= TOLERANCES[task]
    sides = {"plain": plain, "ours": own}
    result["differences of variants"] = {}
    for name in args.variants if task in COMPILED else ():
        precision, compiled = VARIANTS[name]
        sides[name] = Side("ours", task, args.precision if precision == "no" else precision, args, compiled)
        result["differences of variants"][name] = difference(sides[name].ask("outcome"), expected)
    for side in sides.values():
        side.ask("rate")  # memory, kernels and compilation
    rounds = [{name: side.ask("rate") for name, side in sides.items()} for _ in range(args.rounds)]
    for name, side in sides.items():
        rate = statistics.median(one[name] for one in rounds)
        found = {"rate": rate, "rounds": [one[name] for one in rounds], "peak_bytes": side.ask("peak")}
        # Those of compiled code cannot be counted, and are as many.
        counted = side if name in ("plain", "ours") else own
        found |= {"flops_per_unit": counted.ask("flops"), "matmul_flops": side.ask("matmul")}
        result[name] = {**found, "share": rate * found["flops_per_unit"] / found["matmul_flops"]}
    result["ratio"] = result["ours"]["rate"] / result["plain"]["rate"]
    result["ratios of variants"] = {name: result[name]["rate"] / result["plain"]["rate"] for name in list(sides)[2:]}
    result["other_rates"] = {}
    for other in result["others"]:
        own.ask("rate", other)
        result["other_rates"][other] = own.ask("rate", other)
    for side in sides.values():
        side.pool.shutdown()
    return result


def show(task: str, found: dict) -> None:
    """Print one task."""
    own, unit = found["ours"], found["unit"]
    worst = ", ".join(f"{name} {value:.1e}" for name, value in found["difference"].items())
    print(
        f"\n{task}: {'equal' if found['equal'] else 'NOT EQUAL'} within {found['tolerance']:g} (largest difference: {worst})"
    )
    if "difference in this precision" in found:
        lossy = found["difference in this precision"].items()
        print("  in this precision: " + ", ".join(f"{name} {value:.1e}" for name, value in lossy))
    for name in ("plain", "ours", *found["ratios of variants"]):
        side = found[name]
        spread = f"{min(side['rounds']):.4g} to {max(side['rounds']):.4g}"
        print(
            f"  {name:13} {side['rate']:10.4g} {unit}/s ({spread}), peak {side['peak_bytes'] / 2**20:,.0f} MiB, "
            f"{side['flops_per_unit'] / 1e9:.4g} GFLOP each, {100 * side['share']:.1f} % of the matrix product"
        )
    print(f"  {'ratio':13} {found['ratio']:10.2f}")
    for name, ratio in found["ratios of variants"].items():
        worst = ", ".join(f"{part} {value:.1e}" for part, value in found["differences of variants"][name].items())
        print(f"  {'ratio, ' + name:20} {ratio:.2f} (largest difference: {worst})")
    for other, rate in found["other_rates"].items():
        print(f"  {other}: {rate:.4g} {unit}/s, {rate / own['rate']:.2f} of ours")


def show_processes(found: list[dict]) -> dict:
    """Print and return images per second by contestant and stage."""
    rates = {}
    for way in dict.fromkeys(one["way"] for one in found):
        own = [one for one in found if one["way"] == way]
        rates[way] = {stage: statistics.median(one[stage] for one in own) for stage in (*processes.STAGES, "both")}
        print(f"  {way}: " + ", ".join(f"{stage} {rate:.4g} images/s" for stage, rate in rates[way].items()))
    one, two = rates["one process on one core"]["both"], rates["two processes on two cores"]["both"]
    print(f"  two processes on two cores are {two / one:.2f} x one process on one core")
    return {"rates": rates, "ratio": two / one, "rounds": found}


def show_by_ipc(ipcs: list[int], args: argparse.Namespace) -> dict:
    """Print and return seconds per step, and MiB that it takes, by method and IPC."""
    found: dict[str, dict[int, tuple[float, float]]] = {}
    for task in ("dm", "dsa", "idc", "mtt"):
        for ipc in ipcs:
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
                given = args.precision, task, args.scale, ipc
                found.setdefault(task, {})[ipc] = pool.submit(meter.by_ipc, *given).result()
        lines = (f"IPC {ipc} {seconds:.3g} s, {size:,.0f} MiB" for ipc, (seconds, size) in found[task].items())
        print(f"  a step of {task}: " + "; ".join(lines))
    return found


def processor() -> str:
    """Return the processor's name."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", choices=["digits", "xl"], default="digits")
    parser.add_argument("--only", default=",".join(TOLERANCES), help=f"tasks, comma-separated: {', '.join(TOLERANCES)}")
    parser.add_argument("--precision", choices=["no", "bf16"], default="no", help="of our side")
    parser.add_argument("--variants", default=",".join(VARIANTS), help="of our side, comma-separated, or none")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)), help="of the plain DataLoader")
    parser.add_argument("--processes", action="store_true", help="compare numbers of processes instead")
    parser.add_argument("--ipc", help="comma-separated: compare images per class instead, of the methods that match")
    parser.add_argument("--json", type=Path, help="file that everything is written to")
    args = parser.parse_args()
    tasks = args.only.split(",")
    args.variants = [] if args.variants == "none" else args.variants.split(",")
    if unknown := set(args.variants) - set(VARIANTS):
        parser.error(f"--variants: {', '.join(sorted(unknown))} unknown; known: {', '.join(VARIANTS)}")
    if unknown := set(tasks) - set(TOLERANCES):
        parser.error(f"--only: {', '.join(sorted(unknown))} unknown; known: {', '.join(TOLERANCES)}")
    about = {
        "date": str(datetime.date.today()),
        "command": "python tests/bench/speed " + " ".join(sys.argv[1:]),
        "machine": f"{processor()} ({platform.machine()}), {len(os.sched_getaffinity(0))} cores",
        "load": f"{os.getloadavg()[0]:.1f} processes in the minute before",
        "versions": {"python": platform.python_version()} | {name: metadata.version(name) for name in PACKAGES},
    }
    print("\n".join(f"{name}: {value}" for name, value in about.items()))
    results = {}

    def keep() -> None:
        if args.json:
            settings = {name: value for name, value in vars(args).items() if name != "json"}
            args.json.write_text(json.dumps({**about, **settings, "results": results}, indent=1) + "\n")

    if args.processes:
        results["processes"] = show_processes(processes.compare(args.rounds))
        keep()
        return
    if args.ipc:
        results["by IPC"] = show_by_ipc([int(ipc) for ipc in args.ipc.split(",")], args)
        keep()
        return
    for task in tasks:
        results[task] = measure(task, args)
        show(task, results[task])
        keep()  # after each, so that a run cut short leaves what it has
    if not all(found["equal"] for found in results.values()):
        sys.exit("not all results are equal")


if __name__ == "__main__":
    main()
