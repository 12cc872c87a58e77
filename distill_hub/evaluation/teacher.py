"""A small teacher fitted to a source, for sources without a pretrained one."""

import dataclasses
import math
from pathlib import Path

import torch

from distill_hub.artifact.manifest import ModelRecord
from distill_hub.classifiers import (
    IMAGENET_TEACHER,
    Classifier,
    load_classifier,
    save_convnet,
    student_name,
    weights_sha256,
)
from distill_hub.evaluation.contract import refuse_chance
from distill_hub.evaluation.protocols import QUICK
from distill_hub.evaluation.train import train_student
from distill_hub.run import Run
from distill_hub.sources import Source, fit_folder


def open_teacher(
    run: Run,
    source: Source,
    test: torch.Tensor,
    *,
    teacher: str,
    teacher_revision: str | None,
    teacher_epochs: int | None,
    seed: int,
) -> tuple[Classifier, ModelRecord]:
    """Load the teacher of a run, fitting a small one first when there is none for the source, and measure it.

    Args:
        run: The run; its main process fits while the others wait.
        source: Real images and classes.
        test: The source's test images, uint8 (N, 3, S, S).
        teacher: Name for `load_classifier`; 'auto': `IMAGENET_TEACHER` when all classes have a wnid, else a fitted one.
        teacher_revision: Branch, tag or commit on the Hub.
        teacher_epochs: Epochs of the fit.
        seed: Of the fit.

    Raises:
        InputError: When the teacher cannot be loaded, does not know a class, or is near chance on the test split: then its
            class order is not the source's, and nothing it says can be trusted.
    """
    name = id = teacher
    if teacher == "auto" and source.has_wnids:
        name = id = IMAGENET_TEACHER
    elif teacher == "auto":
        size = test.shape[-1]
        folder = fit_folder(source, "teacher", size, teacher_epochs, seed)
        run.on_main(
            "fit teacher",
            lambda: _fit(source, test, folder, teacher_epochs, seed, run.device),
            makes=folder / "config.json",
        )
        name, id = str(folder), f"fitted on {source.name}"
    classifier = load_classifier(name, source.classes, revision=teacher_revision, device=run.device)
    predicted = classifier.predict(test).numpy()
    accuracy = refuse_chance(
        "teacher", id, predicted, source.test.labels, source.class_names, "its predictions on the test split"
    )
    record = ModelRecord(
        id=id,
        architecture=classifier.architecture,
        revision=classifier.revision,
        sha256=weights_sha256(classifier.model),
        license=classifier.license,
        test_accuracy=accuracy,
    )
    return classifier, record


def _fit(source: Source, test: torch.Tensor, folder: Path, epochs: int | None, seed: int, device: torch.device) -> None:
    """Train a ConvNet on the whole training split; by default 10 epochs, or as many as 600 optimiser steps take."""
    steps_per_epoch = math.ceil(len(source.train) / QUICK.batch_size)
    epochs = epochs or max(10, math.ceil(600 / steps_per_epoch))
    # The test split is looked at once, after the last step: a teacher is not chosen by it.
    protocol = dataclasses.replace(QUICK, name="teacher", steps=epochs * steps_per_epoch, looks=1)
    size = test.shape[-1]
    train = (source.train.pixels(None, size).to(device), torch.from_numpy(source.train.labels).to(device))
    held_out = (test.to(device), torch.from_numpy(source.test.labels).to(device))
    name = student_name("auto", size)
    model = train_student(name, train, held_out, len(source.classes), protocol, seed, title="fit teacher").model
    save_convnet(model, folder, name, source.class_names, size)
