"""The end of a dry run: what packaging, stored views and students would take."""

import dataclasses
import hashlib
import itertools
from collections.abc import Callable, Mapping
from types import SimpleNamespace

import torch

from distill_hub.artifact.package import ROW_GROUP_ROWS
from distill_hub.artifact.records import OWN, REAL
from distill_hub.artifact.rows import encode_images, images_of, rows, soft_labels
from distill_hub.artifact.schema import hash_row
from distill_hub.coresets.names import split_baselines
from distill_hub.evaluation.coresets import Baselines
from distill_hub.evaluation.plan import expect_students
from distill_hub.evaluation.ranking import real_trial
from distill_hub.evaluation.scores import Trial, trials_of
from distill_hub.evaluation.views import draw_views, predicted_bytes
from distill_hub.making.start import Setup
from distill_hub.matching.space import Space
from distill_hub.running.mapped import map_rows
from distill_hub.running.run import Stage
from distill_hub.training.subject import Subject
from distill_hub.training.train import TrainingSet


def shown_set(setup: Setup, stage: Stage, images: torch.Tensor, space: Space | None) -> TrainingSet:
    """Return what students see of a set: its images or their tiles, uint8, or its free pixels, float32; mapped.

    Args:
        setup: What the recipe works with.
        stage: The set.
        images: See `images_of`.
        space: Of the set's pixels.
    """
    run, made_from = setup.run, {"set": stage.sha256}
    if space and space.free:
        images = map_rows(
            run, "free pixels", lambda a, b: stage.rows(a, b, "pixels")["pixels"].float(), len(stage), made_from=made_from
        )
    soft = soft_labels(run, stage) if setup.protocol.labels == "soft" else None
    return TrainingSet(images, torch.tensor(setup.labels), soft).decoded(run, "tiles", setup.tiles, made_from)


def expect_rest(
    setup: Setup, stage: Stage, baselines: Mapping[str, Callable[[], TrainingSet]], space: Space | None = None
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
    images = images_of(run, stage)
    encoded = encode_images(run, images, config.image_format, {})

    def package() -> list[int]:
        """Read and hash a row group, which takes longest."""
        digest, sizes = hashlib.sha256(), []
        for row in itertools.islice(rows(stage, images, encoded, labels), ROW_GROUP_ROWS):
            hash_row(digest, row["image"], row["label"], row["soft_label"])
            sizes.append(len(row["encoded"]))
        return sizes

    seconds, sizes = run.timed(package)
    free = 2 * 3 * setup.image_size**2 if space and space.free else 0
    size = count * (sum(sizes) // len(sizes) + 4 * classes + free)  # images, and soft labels in float32
    run.expect("package", count, seconds * count / len(sizes), size, is_published=True)

    rules, own = setup.protocol, shown_set(setup, stage, images, space)
    if how := setup.views:
        _, facts = draw_views(run, own.images, setup.teacher, setup.teacher_record, **how)
        views_size = predicted_bytes(facts, setup.shown, classes)
        run.expect("store views", facts.epochs, 0.0, views_size, is_published=True)
        own = dataclasses.replace(own, views=SimpleNamespace(record=facts))
    zca = space.zca if space else None
    subject = Subject(own, setup.test, "", setup.teacher, setup.teacher_record, tiles=setup.tiles, zca=zca)
    for student in rules.students(config.students, setup.image_size) if config.score == "yes" else ():
        trials = trials_for(setup, subject, student, baselines)
        expect_students(run, subject, student, trials, config.repeats, compiled=config.compile)


def trials_for(
    setup: Setup, subject: Subject, student: str, baselines: Mapping[str, Callable[[], TrainingSet]]
) -> dict[str, Trial]:
    """Return what a student is trained on; see `trials_of`. All real images are among it where that is asked for."""
    beside = Baselines(split_baselines(setup.config.baselines), setup.config.baseline_dynamics)
    trials = trials_of(setup.run, subject, setup.protocol, student, baselines, beside)
    real = {REAL: real_trial(setup.run, subject, trials[OWN].settings)} if setup.config.full_data else {}
    return {**trials, **real}
