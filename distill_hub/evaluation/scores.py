"""Scores of a set and of its baselines: (set, seed) jobs spread over processes, kept as they finish."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from rich.table import Table

from distill_hub.artifact.manifest import EnvironmentRecord, now
from distill_hub.artifact.records import EvaluationRecord, Score
from distill_hub.evaluation.protocols import Protocol
from distill_hub.evaluation.train import train_student
from distill_hub.run import Run, draw_seed
from distill_hub.sources import Source

Labelled = tuple[torch.Tensor, torch.Tensor]  # uint8 images (N, 3, S, S) and int64 labels (N,)


def random_real(
    source: Source, per_class: int | np.ndarray, size: int, label_of: Sequence[int]
) -> Callable[[int], Labelled]:
    """Return the baseline of every score: a function from the seed to randomly drawn training images of the source.

    Args:
        source: The real dataset.
        per_class: Images of each of its classes.
        size: Side in pixels.
        label_of: The label that stands for each of its classes.
    """

    def draw(seed: int) -> Labelled:
        chosen = source.train.draw_per_class(per_class, draw_seed(seed, "random real"))
        return source.train.pixels(chosen, size), torch.from_numpy(np.asarray(label_of)[source.train.labels[chosen]])

    return draw


def score_sets(
    run: Run,
    sets: Mapping[str, Callable[[int], Labelled]],
    test: Labelled,
    num_classes: int,
    student: str,
    protocol: Protocol,
    seeds: Sequence[int],
    stage: str = "evaluate",
) -> dict[str, Score]:
    """Train one student per set and seed.

    Args:
        run: Keeps every finished student's accuracies.
        sets: Name to a function from the seed to the training set; a random baseline draws anew for every seed.
        test: The test split.
        num_classes: Number of classes.
        student: Name for `classifiers.build`.
        protocol: How students are trained.
        seeds: One student each.
        stage: Name of the run's stage.
    """
    jobs = [(name, seed) for name in sets for seed in seeds]
    test = tuple(tensor.to(run.device) for tensor in test)

    def train(chunk: Sequence[tuple[str, int]]) -> dict[str, torch.Tensor]:
        ((name, seed),) = chunk
        images, labels = (tensor.to(run.device) for tensor in sets[name](seed))
        result = train_student(student, (images, labels), test, num_classes, protocol, seed)
        accuracies = torch.tensor([[result.last, result.best]], dtype=torch.float64)
        return {"accuracies": accuracies, "best_step": torch.tensor([result.best_step])}

    done = run.map(stage, jobs, train, chunk_size=1)
    scores = {}
    for place, name in enumerate(sets):
        part = done.rows(place * len(seeds), (place + 1) * len(seeds))
        last, best = part["accuracies"].T.tolist()
        scores[name] = Score(last=last, best=best, best_step=part["best_step"].tolist())
    return scores


def record_scores(
    run: Run,
    scores: Mapping[str, Score],
    student: str,
    protocol: Protocol,
    seeds: Sequence[int],
    *,
    content_sha256: str,
    source_revision: str | None,
    stage: str = "evaluate",
) -> EvaluationRecord:
    """Make the record of a set's scores; the first of them is the set's, the others are its baselines.

    Call it on every process, with what `score_sets` was given.
    """
    own, *baselines = scores
    seconds = next(known["seconds"] for known in run.stages if known["name"] == stage)
    return EvaluationRecord(
        protocol=protocol.name,
        protocol_version=protocol.version,
        standard=protocol.standard,
        student=student,
        seeds=list(seeds),
        score=scores[own],
        baselines={name: scores[name] for name in baselines},
        source_revision=source_revision,
        content_sha256=content_sha256,
        environment=EnvironmentRecord(**run.environment()),
        seconds=seconds,
        date=now(),
    )


def score_table(record: EvaluationRecord, ipc: int) -> Table:
    """Show a record: last-epoch accuracy first, best of all looks at the test split beside it."""
    note = "" if record.standard else " (non-standard: compare within this table only)"
    table = Table(
        f"{ipc} images per class",
        "last, mean ± std",
        "best of test",
        title=f"Test accuracy in %, {record.student}, protocol {record.protocol} v{record.protocol_version}{note}, "
        f"{len(record.seeds)} seeds",
    )
    for name, score in {"this set": record.score, **record.baselines}.items():
        table.add_row(name, score.percent(), f"{100 * score.best_mean:.1f}")
    return table
