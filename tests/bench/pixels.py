"""Distillation without a generator side by side: coresets, RDED, SRe2L, LPLD, DEDA and its ablations, matching. By hand.

    python recipes/fit_classifier.py --source cifar10 --network resnet-18-bn --output_dir outputs/teacher
    python tests/bench/pixels.py --folder outputs/pixels --source cifar10 --teacher outputs/teacher --student resnet-18-bn

Every set is made by its recipe, once per seed, and trains one student of that seed; the teacher labels every batch. The same
command goes on where it was stopped. --sets picks rows of the table, --words go to every recipe that optimises pixels.
"""

import argparse
import dataclasses
import functools
import runpy
import unittest.mock
from pathlib import Path

import numpy as np
import torch

from distill_hub import load_distilled
from distill_hub.data.sources import load_source
from distill_hub.evaluation.protocols import protocol
from distill_hub.evaluation.scores import Trial, measure, settings_of
from distill_hub.evaluation.subject import HeldOut, Subject
from distill_hub.evaluation.teacher import open_teacher
from distill_hub.evaluation.train import TrainingSet
from distill_hub.running.console import show
from distill_hub.running.run import Run

RECIPES = Path(__file__).parents[2] / "recipes"
SETS = {  # row of the table: recipe and its words
    "random": ("random_real",),
    "herding": ("herding",),
    "k-center": ("kcenter",),
    "RDED": ("rded",),
    "SRe2L": ("sre2l", "--statistics_weight", "0.05"),
    "LPLD": ("lpld", "--statistics_weight", "0.05"),
    "DEDA: means": ("deda", "--gamma", "0", "--lambda_var", "0", "--lambda_cov", "0"),
    "DEDA: means, covariances": ("deda", "--lambda_var", "0", "--lambda_cov", "0"),
    "DEDA: means, covariances, L_Var": ("deda", "--lambda_cov", "0"),
    "DEDA: means, covariances, L_Cov": ("deda", "--lambda_var", "0"),
    "DEDA": ("deda",),
    "DEDA, Eq. 6 with sums": ("deda", "--reduction", "sum"),
    "DM": ("dm",),
}
CHOSEN = ("random_real", "herding", "kcenter", "rded")  # recipes that optimise nothing, to which --words do not go


def make(args: argparse.Namespace, name: str, seed: int) -> TrainingSet:
    """Run a recipe, with the cheapest scores, unless its set is there."""
    recipe, *words = SETS[name]
    folder = (
        args.folder
        / f"{name.replace(': ', '-').replace(', ', '-').replace(' ', '-').replace('.', '').lower()}-ipc{args.ipc}-seed{seed}"
    )
    if not (folder / "README.md").is_file():
        words += ["--source", args.source, "--teacher", args.teacher, "--ipc", str(args.ipc), "--seed", str(seed)]
        words += ["--normalization", args.normalization] if args.normalization else []
        words += ["--repeats", "1", "--students", "convnet-1-w16", "--view_epochs", "0", "--output_dir", str(folder)]
        words += args.words if recipe not in CHOSEN else []
        words += ["--classes_at_a_time", "10"] if recipe in ("lpld", "deda") else []
        with unittest.mock.patch("sys.argv", [recipe, *words]):
            runpy.run_path(str(RECIPES / f"{recipe}.py"), run_name="__main__")
    rows = load_distilled(folder).dataset
    images = torch.stack([torch.from_numpy(np.array(image)).permute(2, 0, 1) for image in rows["image"]])
    return TrainingSet(images, torch.tensor(rows["label"][:]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="holds everything")
    parser.add_argument("--source", required=True)
    parser.add_argument("--normalization", help="of the source; see the recipes")
    parser.add_argument("--teacher", required=True, help="folder of recipes/fit_classifier.py")
    parser.add_argument("--student", required=True)
    parser.add_argument("--protocol", default="sre2l")
    parser.add_argument("--ipc", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=SETS)
    parser.add_argument("--words", nargs=argparse.REMAINDER, default=[], help="last: options of the recipes")
    args = parser.parse_args()
    run = Run(args.folder / "students", {"source": args.source, "teacher": args.teacher})
    test = HeldOut(load_source(args.source, normalization=args.normalization))
    named = {"teacher_revision": None, "teacher_epochs": None, "seed": 0}
    teacher, record = open_teacher(run, test, None, teacher=args.teacher, **named)
    show(f"teacher: {record.architecture}, {100 * record.test_accuracy:.1f} %")
    rules = protocol(args.protocol)
    for name in args.sets:
        made = functools.cache(functools.partial(make, args, name))
        subject = Subject(made(0), test, "0" * 64, teacher, record)
        settings = settings_of(subject, rules, args.student)
        settings = dataclasses.replace(settings, looks=(settings.epochs,))  # the best of many is not asked for
        stage = f"{name}, IPC {args.ipc}, {args.student}, {args.protocol}"
        found = measure(run, subject, rules, args.student, range(args.seeds), {"own": Trial(made, settings)}, stage=stage)
        own = found.score
        each = ", ".join(f"{100 * last:.2f}" for last in own.last)
        show(f"| {name} | {args.protocol} | {args.ipc} | {own.percent()} | {each} |")


if __name__ == "__main__":
    main()
