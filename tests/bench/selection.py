"""Time and memory of selecting from pools as large as ImageNet-1K's, run by hand.

python tests/bench/selection.py --classes 1000

Candidates are random: 250 of each class, logits of all classes, embeddings of 512 dimensions; IPC 50 are selected. As in a
recipe there is one class in memory at a time.
"""

import argparse
import resource
import time

import numpy as np
import torch

from distill_hub.methods import cao2, dgs, psr
from distill_hub.methods.candidates import Candidates
from distill_hub.methods.judging import Verdicts, judge

IPC, POOL, DIMENSIONS, REAL = 50, 250, 512, 1300


def candidates(label: int, classes: int) -> Candidates:
    """Draw one class's pool: most of it is recognised."""
    draw = torch.Generator().manual_seed(label)
    logits = torch.randn(POOL, classes, generator=draw)
    logits[:, label] += 5 + 3 * torch.randn(POOL, generator=draw)
    embeddings = torch.randn(POOL, DIMENSIONS, generator=draw)
    return Candidates(label, logits, embeddings, torch.arange(POOL))


def peak() -> float:
    """Return the largest resident memory so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classes", type=int, default=1000)
    args = parser.parse_args()
    alpha, beta, gamma = psr.selection_weights(IPC)
    methods = {
        "CaO2": lambda pool, verdicts, real: cao2.select(verdicts, IPC),
        "DGS": lambda pool, verdicts, real: dgs.select(verdicts.difficulty.numpy(), IPC, real),
        "PSR": lambda pool, verdicts, real: psr.select(pool, IPC, alpha=alpha, beta=beta, gamma=gamma),
    }
    seconds, peaks = dict.fromkeys(methods, 0.0), []
    for label in range(args.classes):
        pool, real = candidates(label, args.classes), np.random.default_rng(label).beta(0.3, 1, REAL)
        verdicts = Verdicts(**judge(pool.logits, [label] * POOL))
        for name, select in methods.items():
            started = time.perf_counter()
            select(pool, verdicts, real)
            seconds[name] += time.perf_counter() - started
        peaks.append(peak())
    print(f"{args.classes} classes, {torch.get_num_threads()} threads:", end=" ")
    print(", ".join(f"{name} {spent:.1f} s" for name, spent in seconds.items()))
    print(f"peak memory: {peaks[min(9, len(peaks) - 1)]:.0f} MiB after ten classes, {peaks[-1]:.0f} MiB after all")


if __name__ == "__main__":
    main()
