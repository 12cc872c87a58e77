"""Distillation without a generator side by side: coresets, RDED, SRe2L and its successors, matching. By hand.

    python recipes/fit_classifier.py --source cifar10 --network resnet-18-bn --output_dir outputs/teacher
    python tests/bench/pixels.py --folder outputs/pixels --source cifar10 --teacher outputs/teacher --student resnet-18-bn

Every set is made by its recipe, once per seed, and trains one student of that seed; the teacher labels every batch. The same
command goes on where it was stopped. --sets picks rows of the table, --words go to every recipe that optimises pixels.
"""

import argparse
import dataclasses
import runpy
import statistics
import unittest.mock
from pathlib import Path

import torch

from distill_hub import load_distilled
from distill_hub.artifact.manifest import ModelRecord
from distill_hub.classifiers import Classifier
from distill_hub.data.sources import load_source
from distill_hub.evaluation.scores import Trial, measure, settings_of
from distill_hub.running.console import show
from distill_hub.running.run import Run
from distill_hub.teachers.open import open_teacher
from distill_hub.training.protocols import protocol
from distill_hub.training.subject import HeldOut, Subject, student_rate
from distill_hub.training.train import TrainingSet

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
    "DWA": ("dwa", "--statistics_weight", "0.05"),
    "G-VBSM": ("gvbsm", "--statistics_weight", "0.01"),
    "EDC": ("edc", "--statistics_weight", "0.01", "--recover_learning_rate", "0.05", "--smallest_crop", "0.5"),
    "DM": ("dm",),
    "DC": ("dc", "--augment", "none"),
    "DSA": ("dc",),
    "IDC-1": ("idc", "--factor", "1"),
    "IDC": ("idc", "--factor", "2"),
    "MTT": ("mtt",),
}
SEVERAL = ("gvbsm", "edc")  # recipes with several networks
CHOSEN = ("random_real", "herding", "kcenter", "rded")  # recipes that optimise nothing, to which --words do not go


def make(args: argparse.Namespace, name: str, seed: int) -> Path:
    """Run a recipe, with the cheapest scores, unless its set is there; return its folder."""
    recipe, *own = SETS[name]
    folder = (
        args.folder
        / f"{name.replace(': ', '-').replace(', ', '-').replace(' ', '-').replace('.', '').lower()}-ipc{args.ipc}-seed{seed}"
    )
    if not (folder / "README.md").is_file():
        teacher = args.networks or args.teacher if recipe in SEVERAL else args.teacher
        words = ["--source", args.source, "--teacher", teacher, "--ipc", str(args.ipc), "--seed", str(seed)]
        words += ["--normalization", args.normalization] if args.normalization else []
        words += ["--repeats", "1", "--students", "convnet-1-w16", "--view_epochs", "0", "--output_dir", str(folder)]
        words += [*args.words, *own] if recipe not in CHOSEN else own
        words += ["--classes_at_a_time", "10"] if recipe in ("lpld", "deda") else []
        with unittest.mock.patch("sys.argv", [recipe, *words]):
            runpy.run_path(str(RECIPES / f"{recipe}.py"), run_name="__main__")
    return folder


def score(
    run: Run, args: argparse.Namespace, test: HeldOut, teacher: tuple[Classifier, ModelRecord], name: str, seed: int
) -> float:
    """Return the test accuracy in % of the student of a seed, after its last epoch."""
    made = load_distilled(make(args, name, seed))
    pixels, labels, _ = made.decoded()
    own = TrainingSet(torch.from_numpy(pixels), torch.from_numpy(labels))
    read = {"student_rate": student_rate(made.manifest), "tiles": made.manifest.tiles}
    subject = Subject(own, test, made.manifest.content_sha256, *teacher, **read)
    rules = protocol(args.protocol).resolved(views=False)
    settings = settings_of(subject, rules, args.student)
    settings = dataclasses.replace(settings, looks=(settings.epochs,))  # the best of many is not asked for
    how = {"stage": f"{name}, IPC {args.ipc}, {args.student}, {args.protocol}, seed {seed}"}
    how["made_from"] = {"set": made.manifest.content_sha256, "teacher": teacher[1].sha256}
    trials = {"own": Trial(lambda _: subject.own, settings)}
    return 100 * measure(run, subject, rules, args.student, [seed], trials, **how).score.last[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="holds everything")
    parser.add_argument("--source", required=True)
    parser.add_argument("--normalization", help="of the source; see the recipes")
    parser.add_argument("--teacher", required=True, help="folder of recipes/fit_classifier.py")
    parser.add_argument("--networks", help="folders of recipes/fit_classifier.py, by commas, for G-VBSM and EDC")
    parser.add_argument("--student", required=True)
    parser.add_argument("--protocol", default="sre2l")
    parser.add_argument("--ipc", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=3, help="seeds 0, 1, ...")
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=SETS)
    parser.add_argument("--words", nargs=argparse.REMAINDER, default=[], help="last: options of the recipes")
    args = parser.parse_args()
    run = Run(args.folder / "students", {"source": args.source, "teacher": args.teacher})
    test = HeldOut(load_source(args.source, normalization=args.normalization))
    named = {"teacher_revision": None, "teacher_epochs": None, "seed": 0}
    teacher, record = open_teacher(run, test, None, teacher=args.teacher, **named)
    show(f"teacher: {record.architecture}, {100 * record.test_accuracy:.1f} %")
    for name in args.sets:
        lasts = []
        for seed in range(args.seeds):
            lasts.append(score(run, args, test, (teacher, record), name, seed))
            deviation = f" ± {statistics.stdev(lasts):.1f}" if seed else ""
            each = ", ".join(f"{last:.2f}" for last in lasts)
            show(f"| {name} | {args.protocol} | {args.ipc} | {statistics.mean(lasts):.1f}{deviation} | {each} |")


if __name__ == "__main__":
    main()
