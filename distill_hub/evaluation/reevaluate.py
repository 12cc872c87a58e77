"""Scoring a published set again, from its own record."""

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from distill_hub.artifact.load import load_distilled
from distill_hub.artifact.manifest import EnvironmentRecord, now
from distill_hub.artifact.records import EvaluationRecord, Score
from distill_hub.classes import SourceClass, match_classes
from distill_hub.config import InputError
from distill_hub.evaluation.contract import refuse_chance
from distill_hub.evaluation.protocols import protocol
from distill_hub.evaluation.train import train_student
from distill_hub.run import environment, progress, start_accelerator
from distill_hub.sources import load_source


@dataclass(frozen=True)
class Comparison:
    """A claimed record and the one measured now under the same protocol, student and seeds."""

    claimed: EvaluationRecord
    measured: EvaluationRecord

    @property
    def difference(self) -> float:
        """Measured minus claimed mean accuracy, as a fraction."""
        return self.measured.score.mean - self.claimed.score.mean

    @property
    def agrees(self) -> bool:
        """Whether the two means lie within two standard errors of their difference."""
        error = sum(r.score.std**2 / len(r.seeds) for r in (self.claimed, self.measured)) ** 0.5
        return abs(self.difference) <= 2 * error


def evaluate(path: str | Path, *, source: str | None = None) -> list[Comparison]:
    """Train students on a distilled set as its records say, and compare.

    Args:
        path: Folder of the set.
        source: The real dataset, where it lies now; default: where the manifest says.

    Returns:
        One comparison per record of the set's author.

    Raises:
        InputError: When the set cannot be trusted, its classes do not fit the source's, or there is nothing to compare with.
    """
    distilled = load_distilled(path)
    manifest = distilled.manifest
    soft_labels = np.asarray(distilled.dataset["soft_label"])  # (N, C)
    labels = np.asarray(distilled.dataset["label"])
    refuse_chance("distilled set", str(path), soft_labels.argmax(1), labels, manifest.class_names, "its soft labels")
    if not distilled.evaluations:
        raise InputError("distilled set", str(path), "it holds no evaluation record that says protocol and student")
    known = manifest.source
    real = load_source(
        source or known.name,
        source_revision=known.revision,
        image_column=known.image_column,
        label_column=known.label_column,
        test_split=None if known.test_fraction else known.test_split,
        test_fraction=known.test_fraction,
    )
    # The test split's labels in the set's order: classes are matched by name, never by position.
    own = [SourceClass(c.name, c.source_index, c.wnid) for c in manifest.classes]
    place = torch.empty(len(real.classes), dtype=torch.int64)
    place[match_classes(own, real.class_names, "source", real.name)] = torch.arange(len(own))
    accelerator = start_accelerator()
    device = accelerator.device
    test = (real.test.pixels(None, manifest.image_size).to(device), place[torch.from_numpy(real.test.labels)].to(device))
    images = [np.asarray(image.convert("RGB")) for image in distilled.dataset["image"]]
    train = (
        torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous().to(device),
        torch.from_numpy(labels).to(device),
    )
    comparisons = []
    for claimed in distilled.evaluations:
        rules = protocol(claimed.protocol, claimed.protocol_version)
        started = time.perf_counter()
        results = [
            train_student(claimed.student, train, test, len(own), rules, seed)
            for seed in progress(claimed.seeds, f"{rules.name} {claimed.student}", unit="student")
        ]
        measured = claimed.model_copy(
            update={
                "score": Score(
                    last=[r.last for r in results], best=[r.best for r in results], best_step=[r.best_step for r in results]
                ),
                "baselines": {},
                "source_revision": real.revision,
                "environment": EnvironmentRecord(**environment(accelerator)),
                "seconds": time.perf_counter() - started,
                "date": now(),
            }
        )
        comparisons.append(Comparison(claimed, measured))
    return comparisons
