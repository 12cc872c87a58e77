r"""Accuracy against bytes: stored views of a set, all of them, pruned, and the largest logits alone. By hand.

    distill-hub make fit_classifier --source cifar10 --network convnet-4-w32-bn --epochs 20 --output_dir outputs/teacher
    distill-hub make lpld --source cifar10 --teacher outputs/teacher --view_epochs 0 --output_dir outputs/lpld
    distill-hub make random_real --source cifar10 --teacher outputs/teacher --view_epochs 0 --output_dir outputs/random
    python tests/bench/labels.py --folder outputs/labels --source cifar10 --teacher outputs/teacher \
        --student convnet-4-w32-bn --sets outputs/lpld outputs/random

Every set gets each kind of views in a copy of its folder, and students of a few seeds are trained on them. The same command
goes on where it was stopped, and ends with the table and the plot.
"""

import argparse
import dataclasses
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from distill_hub.artifact.find import find
from distill_hub.artifact.load import read_artifact
from distill_hub.data.sources import load_source
from distill_hub.evaluation.scores import Trial, measure, settings_of
from distill_hub.running.console import show
from distill_hub.running.run import Run
from distill_hub.training.protocols import protocol
from distill_hub.training.subject import HeldOut, Subject
from distill_hub.training.train import TrainingSet
from distill_hub.views.files import open_views

VIEWS = {  # row of the table: words of `relabel`, and the protocol
    "all": ([], "lpld"),
    "10x fewer": (["--label_share", "0.1"], "lpld"),
    "40x fewer": (["--label_share", "0.025"], "lpld"),
    "all, lpqld": ([], "lpqld"),
    "10x fewer, lpqld": (["--label_share", "0.1"], "lpqld"),
    "40x fewer, lpqld": (["--label_share", "0.025"], "lpqld"),
    "top 1, lpqld": (["--top_k", "1"], "lpqld"),
    "top 2, lpqld": (["--top_k", "2"], "lpqld"),
    "top 5, lpqld": (["--top_k", "5"], "lpqld"),
    "top 2, 10x fewer, lpqld": (["--top_k", "2", "--label_share", "0.1"], "lpqld"),
}


def labelled(args: argparse.Namespace, source: Path, words: list[str]) -> Path:
    """Return a copy of a set with such views, made unless it is there."""
    folder = args.folder / "-".join([source.name, *(word.strip("-") for word in words)])
    if not (folder / "views").is_dir():
        shutil.copytree(source, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns(".run", "views"))
        named = ["--source", args.source, "--teacher", args.teacher, "--batch_size", str(args.batch_size)]
        subprocess.run([sys.executable, "-m", "distill_hub.cli", "relabel", folder, *named, *words], check=True)
    return folder


def score(run: Run, args: argparse.Namespace, real: HeldOut, folder: Path, name: str) -> tuple[int, list[float]]:
    """Return the bytes of a set's views, and the test accuracies in % of its students after their last epoch."""
    found = find(folder)
    made = read_artifact(found, rows=False, pixels=True)
    views = open_views(found, made.manifest)
    stored = TrainingSet(torch.from_numpy(made.pixels), torch.from_numpy(made.labels), views=views)
    subject, rules = Subject(stored, real, made.manifest.content_sha256), protocol(name).resolved(views=True)
    settings = settings_of(subject, rules, args.student)
    settings = dataclasses.replace(settings, looks=(settings.epochs,))  # the best of many is not asked for
    how = {"stage": f"{folder.name}, {args.student}, {name}", "made_from": {"views": views.record.sha256}}
    record = measure(
        run, subject, rules, args.student, range(args.seeds), {"own": Trial(lambda _: subject.own, settings)}, **how
    )
    size = sum(path.stat().st_size for path in (folder / "views").iterdir())
    return size, [100 * last for last in record.score.last]


def plot(path: Path, rows: dict[str, dict[str, tuple[int, list[float]]]]) -> None:
    """Draw accuracy against bytes, a panel per set."""
    figure = Figure(figsize=(4.2 * len(rows), 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(rows), sharey=True, squeeze=False)[0]
    for panel, (name, own) in zip(panels, rows.items(), strict=True):
        for title, (size, lasts) in own.items():
            colour, marker = ("#D55E00", "s") if title.endswith("lpqld") else ("#0072B2", "o")
            spread = statistics.stdev(lasts) if len(lasts) > 1 else 0
            panel.errorbar(size / 1000, statistics.mean(lasts), spread, marker=marker, color=colour, capsize=2)
            place = {"xytext": (5, -2), "ha": "left"} if title.endswith("lpqld") else {"xytext": (-5, -2), "ha": "right"}
            at = size / 1000, statistics.mean(lasts)
            panel.annotate(title.removesuffix(", lpqld"), at, textcoords="offset points", fontsize=6, **place)
        panel.set_xscale("log")
        panel.set_xlim(20, 8000)
        panel.set_title(f"{name}: lpld (circles), lpqld (squares)", fontsize=9, loc="left")
        panel.set_xlabel("bytes of the stored views, kB", fontsize=8)
        panel.tick_params(labelsize=8)
    panels[0].set_ylabel("test accuracy, %", fontsize=8)
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="holds everything")
    parser.add_argument("--source", required=True)
    parser.add_argument("--teacher", required=True)
    parser.add_argument("--student", required=True)
    parser.add_argument("--sets", nargs="+", type=Path, required=True)
    parser.add_argument("--batch_size", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=3, help="seeds 0, 1, ...")
    args = parser.parse_args()
    run = Run(args.folder / "students", {"source": args.source, "teacher": args.teacher})
    real, rows = HeldOut(load_source(args.source)), {}
    for source in args.sets:
        rows[source.name] = {}
        for title, (words, name) in VIEWS.items():
            size, lasts = score(run, args, real, labelled(args, source, words), name)
            rows[source.name][title] = size, lasts
            deviation = f" ± {statistics.stdev(lasts):.1f}" if len(lasts) > 1 else ""
            each = ", ".join(f"{last:.2f}" for last in lasts)
            show(f"| {source.name} | {title} | {size:,} | {statistics.mean(lasts):.1f}{deviation} | {each} |")
    plot(args.folder / "labels.png", rows)


if __name__ == "__main__":
    main()
