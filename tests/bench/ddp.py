"""Throughput of one student: of one process with a thread or all cores, and of two that train it together.

    python tests/bench/ddp.py [--student convnet-3 --size 32 --rounds 3]

Images per second of a training in batches of 128, the best of some rounds; each way is started anew.
"""

import argparse
import dataclasses
import os
import subprocess
import sys
import time

import torch

from distill_hub.data.known import NORMALIZATIONS
from distill_hub.running.machine import start_accelerator
from distill_hub.teams.team import at_work, divided
from distill_hub.training.protocols import protocol
from distill_hub.training.settings import Task
from distill_hub.training.train import TrainingSet, train_students

IMAGES, BATCH = 512, 128
TWO = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]


def measure(student: str, size: int, rounds: int, threads: int | None) -> float:
    """Return images per second of the fastest of some epochs on random pixels, with CutMix and hard labels."""
    accelerator = start_accelerator()
    torch.set_num_threads(threads or torch.get_num_threads())
    data = TrainingSet(torch.randint(256, (IMAGES, 3, size, size), dtype=torch.uint8), torch.arange(IMAGES) % 10)
    rules = protocol("idc-hard").settings(Task(IMAGES, 10, size, True, NORMALIZATIONS["imagenet"], student))
    rules = dataclasses.replace(rules, epochs=1, batch_size=BATCH, looks=())
    _, team = divided(1)
    seconds = []
    with at_work(team, IMAGES, BATCH) as (team, _):
        for _ in range(rounds + 1):
            accelerator.wait_for_everyone()
            started = time.perf_counter()
            train_students(student, [data], None, 10, rules, [0], team=team)
            seconds.append(time.perf_counter() - started)
    accelerator.end_training()
    return IMAGES / min(seconds[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--student", default="convnet-3")
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--way", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.way:
        rate = measure(args.student, args.size, args.rounds, 1 if args.way == "one thread" else None)
        if os.environ.get("RANK", "0") == "0":
            print(f"{args.way:<12} {args.student}, {args.size} px: {rate:,.0f} images/s")
        return
    words = ["--student", args.student, "--size", args.size, "--rounds", args.rounds]
    for way, start in {"one thread": [], "all cores": [], "two": TWO}.items():
        command = [sys.executable, *start, __file__, *map(str, words), "--way", way]
        subprocess.run(command, env={**os.environ, "ACCELERATE_USE_CPU": "true"}, check=True)


if __name__ == "__main__":
    main()
