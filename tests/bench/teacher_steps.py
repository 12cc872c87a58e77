"""How many steps a fitted teacher needs: its accuracy on the test split after some of them, and their time. Run by hand.

    python tests/bench/teacher_steps.py --source path/to/tiny-imagenet-10 --images 20,100 --steps 200,600 --size 32

The network and its settings are those of a recipe's own teacher; only the epochs differ. One line per fit, as it ends.
"""

import argparse
import dataclasses
import math
import time

import numpy as np
import torch

from distill_hub.data.sources import load_source
from distill_hub.networks.names import student_name
from distill_hub.running.console import show
from distill_hub.teachers.open import fit_settings
from distill_hub.training.subject import HeldOut
from distill_hub.training.train import TrainingSet, train_students


def numbers(text: str) -> list[int]:
    """Read a list of integers."""
    return [int(part) for part in text.split(",")]


def main() -> None:
    """Fit the teachers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", required=True)
    parser.add_argument("--images", type=numbers, default=[20, 100], help="per class")
    parser.add_argument("--steps", type=numbers, default=[200, 600])
    parser.add_argument("--seeds", type=numbers, default=[0, 1])
    parser.add_argument("--size", type=int, default=32)
    args = parser.parse_args()
    whole = load_source(args.source)
    network = student_name("auto", args.size)
    test = HeldOut(whole)
    seen = (test.images(args.size), test.labels)
    show(f"{network}, {args.size} px, {len(test.labels):,} test images of {len(whole.classes)} classes")
    show("| images per class | steps | epochs | seed | test accuracy % | seconds |\n|---|---|---|---|---|---|")
    for count in args.images:
        per_class = [np.flatnonzero(whole.train.labels == label)[:count] for label in range(len(whole.classes))]
        source = dataclasses.replace(whole, train=whole.train.select(np.concatenate(per_class), "train"))
        data = TrainingSet(source.train.pixels(None, args.size), torch.from_numpy(source.train.labels))
        for steps in args.steps:
            settings = fit_settings(source, network, args.size)
            epochs = math.ceil(steps / math.ceil(len(source.train) / settings.batch_size))
            settings = dataclasses.replace(settings, epochs=epochs, looks=(epochs,))
            for seed in args.seeds:
                started = time.perf_counter()
                (fitted,) = train_students(network, [data], seen, len(source.classes), settings, [seed], title="fit")
                seconds = time.perf_counter() - started
                show(f"| {count} | {steps} | {epochs} | {seed} | {100 * fitted.last:.1f} | {seconds:.0f} |")


if __name__ == "__main__":
    main()
