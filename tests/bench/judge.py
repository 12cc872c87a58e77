"""Coresets, RDED and distilled sets under the same student, with hard and with soft labels: one table. By hand.

    distill-hub make fit_classifier --source cifar10 --network resnet-18-bn --output_dir outputs/teacher
    python tests/bench/judge.py --folder outputs/judge --source cifar10 --teacher outputs/teacher --student convnet-3-bn

Every set is made by its recipe, once, and trains a student for each seed; random real images are drawn anew for each.
The same command goes on where it was stopped. A set that is in --folder already, as NAME-ipcN, is scored as it is. The
records are written into the sets, and `distill-hub leaderboard` makes a page of them:

    distill-hub leaderboard outputs/judge/*-ipc* --html outputs/judge.html
"""

import argparse
import subprocess
import sys
from pathlib import Path

import torch

from distill_hub import load_distilled
from distill_hub.artifact.records import OWN, RANDOM, EvaluationRecord, Score
from distill_hub.artifact.sizes import data_bytes
from distill_hub.data.sources import load_source
from distill_hub.disk.files import atomic_write
from distill_hub.evaluation.scores import Trial, measure, settings_of
from distill_hub.running.console import show
from distill_hub.running.run import Run
from distill_hub.teachers.open import open_teacher
from distill_hub.training.protocols import Protocol, protocol
from distill_hub.training.subject import HeldOut, Subject, student_rate
from distill_hub.training.train import TrainingSet

SETS = {  # recipe and its words
    "random": ("random_real",),
    "herding": ("herding",),
    "kcenter": ("kcenter",),
    "el2n": ("coreset", "--method", "el2n"),
    "el2n-easiest": ("coreset", "--method", "el2n", "--keep", "easiest"),
    "forgetting": ("coreset", "--method", "forgetting"),
    "forgetting-easiest": ("coreset", "--method", "forgetting", "--keep", "easiest"),
    "aum": ("coreset", "--method", "aum"),
    "aum-easiest": ("coreset", "--method", "aum", "--keep", "easiest"),
    "ccs": ("coreset", "--method", "ccs"),
    "facility-location": ("coreset", "--method", "facility-location"),
    "kmeans": ("coreset", "--method", "kmeans"),
    "rded": ("rded",),
    "dm": ("dm", "--match_steps", "150", "--match_learning_rate", "10"),
    "dwa": (
        "dwa",
        "--statistics_weight",
        "0.05",
        "--recover_steps",
        "500",
        "--recover_learning_rate",
        "0.1",
        "--smallest_crop",
        "1",
    ),
}


def make(args: argparse.Namespace, name: str, ipc: int) -> Path:
    """Run a recipe, without scores, unless its set is there; return its folder."""
    folder = args.folder / f"{name}-ipc{ipc}"
    if not (folder / "README.md").is_file():
        recipe, *own = SETS[name]
        words = [
            "--source",
            args.source,
            "--teacher",
            args.teacher,
            "--ipc",
            str(ipc),
            "--score",
            "no",
            "--view_epochs",
            "0",
        ]
        words += ["--normalization", args.normalization] if args.normalization else []
        words += ["--dynamics", args.dynamics] if args.dynamics and recipe == "coreset" else []
        command = [sys.executable, "-m", "distill_hub.cli", "make", recipe, *words, *own, "--output_dir", str(folder)]
        subprocess.run(command, check=True)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="holds everything")
    parser.add_argument("--source", required=True)
    parser.add_argument("--normalization", help="of the source; see the recipes")
    parser.add_argument("--teacher", required=True, help="folder of recipes/fit_classifier.py")
    parser.add_argument(
        "--dynamics", help="folder of recipes/fit_classifier.py that recorded them; default: the recipe's own"
    )
    parser.add_argument("--student", required=True)
    parser.add_argument("--protocols", nargs="+", default=["dsa-hard", "rded-soft"])
    parser.add_argument("--ipc", type=int, nargs="+", default=[10, 50])
    parser.add_argument("--seeds", type=int, default=3, help="seeds 0, 1, ...")
    parser.add_argument("--sets", nargs="+", default=list(SETS))
    args = parser.parse_args()
    run = Run(args.folder / "students", {"source": args.source, "teacher": args.teacher})
    test, seeds = HeldOut(load_source(args.source, normalization=args.normalization)), range(args.seeds)
    named = {"teacher_revision": None, "teacher_epochs": None, "seed": 0}
    teacher = open_teacher(run, test, None, teacher=args.teacher, **named)

    def subject_of(name: str, ipc: int) -> Subject:
        folder = make(args, name, ipc)
        made = load_distilled(str(folder))
        pixels, labels, _ = made.decoded()
        own = TrainingSet(torch.from_numpy(pixels), torch.from_numpy(labels))
        read = {"student_rate": student_rate(made.manifest), "tiles": made.manifest.tiles}
        return Subject(own, test, made.manifest.content_sha256, *teacher, **read, folder=folder, name=folder.name)

    def students(subject: Subject, rules: Protocol, name: str, trial: Trial) -> EvaluationRecord:
        stage = f"{name}, {args.student}, {rules.name}".replace("/", "-")
        made_from = {"set": subject.content_sha256, "teacher": teacher[1].sha256}
        return measure(run, subject, rules, args.student, seeds, {OWN: trial}, stage=stage, made_from=made_from)

    def drawn(rules: Protocol, ipc: int) -> Score:
        subject = subject_of("random", ipc)
        draw = subject.random_real(run, subject.own.images.shape[-1], soft=rules.labels == "soft")
        trial = Trial(draw, settings_of(subject, rules, args.student))
        return students(subject, rules, f"drawn-ipc{ipc}", trial).score

    for ipc in args.ipc:
        for rules in map(protocol, args.protocols):
            random = drawn(rules, ipc)
            show(f"{rules.name}, IPC {ipc}, {RANDOM}: {random.percent()}")
            for name in args.sets:
                subject = subject_of(name, ipc)
                trial = Trial(lambda seed, own=subject.own: own, settings_of(subject, rules, args.student))
                record = students(subject, rules, subject.name, trial)
                record = record.model_copy(
                    update={"baselines": {RANDOM: random}, "bytes": data_bytes(subject.folder, trial.settings.labels)}
                )
                file = subject.folder / "evaluations" / f"{rules.name}-{args.student}.json"
                atomic_write(file, record.to_json().encode())
                show(f"{rules.name}, IPC {ipc}, {name}: {record.score.percent()} ({record.score.last})")


if __name__ == "__main__":
    main()
