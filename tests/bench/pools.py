"""Selection and refinement side by side on handwritten digits: what is left of one pool trains students. Run by hand.

    python tests/bench/pools.py --folder outputs/pools --generators "DiT=path/to/one,Minimax=path/to/another"

Per generator and seed one pool of 5 x 50 candidates a class is drawn. Every method selects from as much of it as its paper
takes: CaO2 from 4 x IPC, DGS from 5 x IPC, PSR from 2 x IPC; plain samples, a random pool, are the first IPC. A student's
seed is that of the pool. The same command goes on where it was stopped.
"""

import argparse
import dataclasses
from collections.abc import Callable
from pathlib import Path

import torch

from distill_hub.artifact.manifest import ModelRecord
from distill_hub.classifiers import Classifier
from distill_hub.data.classes import match_classes
from distill_hub.data.sources import Source, load_source
from distill_hub.evaluation.scores import Trial, measure, settings_of
from distill_hub.generators.dit import DiTGenerator
from distill_hub.methods import cao2, dgs, psr
from distill_hub.methods.candidates import Candidates, draw_pool, pool_of, render
from distill_hub.methods.judging import Verdicts, judge
from distill_hub.methods.real_difficulty import real_difficulties
from distill_hub.running.console import show
from distill_hub.running.run import Run, Stage
from distill_hub.running.seeds import draw_seed
from distill_hub.teachers.open import open_teacher
from distill_hub.training.protocols import protocol
from distill_hub.training.subject import HeldOut, Subject
from distill_hub.training.train import TrainingSet

IPCS, MOST = (10, 50), 5 * 50  # candidates of a class
PLAIN, CAO2, DGS, SELECTION, PSR = "first IPC", "CaO2's selection", "DGS", "PSR's selection", "PSR"
FACTORS = {PLAIN: 1, CAO2: 4, DGS: 5, SELECTION: 2}
STUDENT = "convnet-2"


def selectors(source: Source, real: list, ipc: int, seed: int) -> dict[str, Callable]:
    """Return functions from one class's candidates to the indices of those selected, by method."""
    alpha, beta, gamma = psr.selection_weights(ipc)

    def fill_seed(candidates) -> int:
        return draw_seed(seed, "select", source.class_names[candidates.label])

    def verdicts(candidates) -> Verdicts:
        return Verdicts(**judge(candidates.logits, [candidates.label] * len(candidates)))

    return {
        PLAIN: lambda candidates: torch.arange(ipc),
        CAO2: lambda candidates: cao2.select(verdicts(candidates), ipc, seed=fill_seed(candidates)),
        DGS: lambda candidates: (
            dgs.select(
                verdicts(candidates).difficulty.numpy(), ipc, real[candidates.label], seed=fill_seed(candidates)
            ).indices
        ),
        SELECTION: lambda candidates: psr.select(candidates, ipc, alpha=alpha, beta=beta, gamma=gamma).indices,
    }


def first(candidates: Candidates, count: int) -> Candidates:
    """Return the first of some candidates."""
    tensors = {name: getattr(candidates, name)[:count] for name in ("logits", "embeddings", "seeds")}
    return Candidates(candidates.label, **tensors)


def refined(run: Run, generator: DiTGenerator, teacher: Classifier, pool: Stage, rows: list[int], stage: str) -> Stage:
    """Refine candidates as recipes/psr.py does; the classes are the generator's own."""

    def refine(chunk):
        found = pool.take(chunk, "latents", "logits", "seeds")
        labels = [row // MOST for row in chunk]
        targets = psr.soft_labels(found["logits"], 1.5)
        seeds = [draw_seed(0, "refine", seed) for seed in found["seeds"].tolist()]
        confidence = targets[range(len(labels)), labels]
        latents, _ = psr.refine(generator, teacher, found["latents"], labels, targets, confidence, seeds)
        return {**render(generator, teacher, latents), "logits": found["logits"]}

    return run.map(stage, rows, refine, chunk_size=50)


def sets_of(run: Run, source: Source, teacher: Classifier, real: list, name: str, location: str, seed: int) -> dict:
    """Return the sets of one generator and seed by method and IPC."""
    generator = DiTGenerator.from_pretrained(location, guidance_scale=4.0, device=run.device)
    ids = match_classes(source.classes, generator.class_names, "generator", location)
    if ids != list(range(len(ids))):
        raise SystemExit(f"{location}: its classes must be those of the digits, in their order")
    stage = f"pool {name} {seed}"
    how = {"seed": seed, "batch_size": 125, "stage": stage, "keep": ["latents", "embeddings"]}
    pool = draw_pool(run, generator, teacher, source.class_names, ids, MOST, **how)
    sets = {}
    for ipc in IPCS:
        labels = torch.arange(len(ids)).repeat_interleave(ipc)
        for method, select in selectors(source, real, ipc, seed).items():
            rows = []
            for label in range(len(ids)):
                candidates = first(pool_of(pool, label, MOST), FACTORS[method] * ipc)
                rows += [label * MOST + index for index in select(candidates).tolist()]
            found = pool.take(rows, "images", "logits")
            sets[method, ipc] = TrainingSet(found["images"], labels, found["logits"].softmax(1))
        again = refined(run, generator, teacher, pool, rows, f"refine {name} {seed} {ipc}").rows(0, len(rows))
        sets[PSR, ipc] = TrainingSet(again["images"], labels, again["logits"].softmax(1))
    return sets


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="holds everything")
    parser.add_argument("--generators", required=True, help="NAME=FOLDER, comma-separated; a {seed} in it is filled in")
    parser.add_argument("--seeds", type=int, default=3)
    columns = [f"{name} {ipc}" for name in ("quick", "kd") for ipc in IPCS]
    parser.add_argument("--columns", nargs="+", default=columns, choices=columns, help="protocol and IPC; kd 50 takes hours")
    parser.add_argument("--epochs", type=int, help="of every student, in place of the protocol's")
    args = parser.parse_args()
    source, run = load_source("digits"), Run(args.folder, {"generators": args.generators})
    test = HeldOut(source)
    named = {"teacher": "auto", "teacher_revision": None, "teacher_epochs": None}
    teacher, record = open_teacher(run, test, source.image_size, **named, seed=0)
    real = real_difficulties(run, source, teacher, record.sha256, over="set", image_size=source.image_size)
    sets = {}
    for pair in args.generators.split(","):
        name, location = pair.split("=", 1)
        for seed in range(args.seeds):
            made = sets_of(run, source, teacher, real, name, location.format(seed=seed), seed)
            sets |= {(name, method, ipc, seed): one for (method, ipc), one in made.items()}
    table = scores(run, test, teacher, record, sets, args)
    columns = list(next(iter(table.values())))
    show("| | " + " | ".join(columns) + " |\n" + "|---" * (len(columns) + 1) + "|")
    for row, cells in table.items():
        show(f"| {row} | " + " | ".join(cells[column] for column in columns) + " |")


def scores(run: Run, test: HeldOut, teacher: Classifier, record: ModelRecord, sets: dict, args: argparse.Namespace) -> dict:
    """Train the students; return accuracies in % by row and column."""
    table = {}
    kinds = list(dict.fromkeys((name, method) for name, method, _, _ in sets))
    for column in args.columns:
        name, ipc = column.split()[0], int(column.split()[1])
        rules, first = protocol(name), sets[(*kinds[0], ipc, 0)]
        subject = Subject(first, test, "0" * 64, teacher, record)
        settings = settings_of(subject, rules, STUDENT)
        stage, note = column, ""
        if args.epochs:
            settings = dataclasses.replace(settings, epochs=args.epochs, looks=(args.epochs,))
            stage, note = f"{column}, {args.epochs} epochs", f", {args.epochs} epochs"
        trials = {
            f"{generator}: {method}": Trial(lambda seed, key=(generator, method, ipc): sets[(*key, seed)], settings)
            for generator, method in kinds
        }
        trials["random real"] = Trial(subject.random_real(run, settings.image_size, soft=name == "kd"), settings)
        found = measure(run, subject, rules, STUDENT, range(args.seeds), trials, stage=stage)
        for row, score in zip(trials, found.scores.values(), strict=True):
            table.setdefault(row, {})[f"{found.protocol_label}, IPC {ipc}{note}"] = score.percent()
    return table


if __name__ == "__main__":
    main()
