"""The end of a dry run: what packaging, stored views and students would take."""

import dataclasses
import itertools
from collections.abc import Callable, Mapping
from types import SimpleNamespace

import torch

from distill_hub.artifact.describe import rows, soft_labels
from distill_hub.artifact.package import encode_image
from distill_hub.artifact.records import OWN, REAL
from distill_hub.augmentation.tiles import decode
from distill_hub.evaluation.plan import expect_students
from distill_hub.evaluation.ranking import real_trial
from distill_hub.evaluation.scores import Trial, trials_of
from distill_hub.evaluation.views import draw_views, predicted_bytes
from distill_hub.making.start import Setup
from distill_hub.matching.space import Space
from distill_hub.running.run import Stage
from distill_hub.training.subject import Subject
from distill_hub.training.train import TrainingSet

SAMPLE = 32  # images that are encoded, to see how long it takes and how large they are


def seen(images: torch.Tensor, stage: Stage, space: Space | None) -> torch.Tensor:
    """Return what students see of a set: its images, uint8 (N, 3, S, S), or its free pixels, float32."""
    return stage.rows(0, len(stage), "pixels")["pixels"].float() if space and space.free else images


def expect_rest(
    setup: Setup, stage: Stage, baselines: Mapping[str, Callable[[int], TrainingSet]], space: Space | None = None
) -> None:
    """Add to a plan what `package_and_score` would do.

    Args:
        setup: See there, as the others.
        stage: The set; the images of the first chunk stand for all.
        baselines: Further sets that would be scored.
        space: Of the set's pixels.
    """
    run, config, labels = setup.run, setup.config, setup.labels
    count, classes = len(labels), len(setup.source.classes)
    sample = list(itertools.islice(rows(stage, labels), SAMPLE))
    seconds, encoded = run.timed(lambda: [encode_image(row["image"], config.image_format) for row in sample])
    free = 2 * 3 * setup.image_size**2 if space and space.free else 0
    size = count * (sum(map(len, encoded)) // len(encoded) + 4 * classes + free)  # images, and soft labels in float32
    run.expect("package", count, seconds * count / len(sample), size, is_published=True)

    images = stage.rows(0, count, "images")["images"]
    rules = setup.protocol
    soft = soft_labels(stage) if rules.labels == "soft" else None
    own = TrainingSet(seen(images, stage, space), torch.tensor(labels), soft)
    if how := setup.views:
        _, facts = draw_views(run, decode(images, setup.tiles), setup.teacher, setup.teacher_record, **how)
        views_size = predicted_bytes(facts, setup.shown, classes)
        run.expect("store views", facts.epochs, 0.0, views_size, is_published=True)
        own = dataclasses.replace(own, views=SimpleNamespace(record=facts))
    zca = space.zca if space else None
    subject = Subject(own, setup.test, "", setup.teacher, setup.teacher_record, tiles=setup.tiles, zca=zca)
    for student in rules.students(config.students, setup.image_size) if config.score == "yes" else ():
        trials = trials_for(setup, subject, student, baselines)
        expect_students(run, subject, student, trials, config.repeats, compiled=config.compile)


def trials_for(
    setup: Setup, subject: Subject, student: str, baselines: Mapping[str, Callable[[int], TrainingSet]]
) -> dict[str, Trial]:
    """Return what a student is trained on; see `trials_of`. All real images are among it where that is asked for."""
    trials = trials_of(subject, setup.protocol, student, baselines)
    real = {REAL: real_trial(subject, trials[OWN].settings)} if setup.config.full_data else {}
    return {**trials, **real}
