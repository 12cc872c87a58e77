"""The teachers of a run: loaded, or small ones fitted to a source without pretrained ones; measured, and on record."""

import dataclasses
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from distill_hub.artifact.base import now
from distill_hub.artifact.classifier import ClassifierRecord
from distill_hub.artifact.describe import ensemble_record, source_record, teacher_record, weights_sha256
from distill_hub.artifact.manifest import Combination, EnvironmentRecord, ModelRecord
from distill_hub.classifiers import (
    IMAGENET_TEACHER,
    IMAGENET_TEACHERS,
    Classifier,
    load_classifier,
    save_network,
)
from distill_hub.config import InputError
from distill_hub.data.known import FITTED, NORMALIZATIONS
from distill_hub.data.sources import Source, fit_folder
from distill_hub.fitting import fit_once
from distill_hub.networks.names import split_teachers, student_name
from distill_hub.publishing.trained import CONFIG
from distill_hub.running.cost import Meter, write_cost
from distill_hub.running.run import Run
from distill_hub.teachers.ensemble import Ensemble
from distill_hub.teams.team import Team, at_work
from distill_hub.training.contract import OTHER_CLASSES, refuse_chance
from distill_hub.training.protocols import protocol
from distill_hub.training.settings import Settings, Task
from distill_hub.training.subject import HeldOut
from distill_hub.training.train import TrainingSet, train_students


def open_teacher(
    run: Run,
    test: HeldOut,
    image_size: int | None,
    *,
    teacher: str,
    teacher_revision: str | None,
    teacher_epochs: int | None,
    seed: int,
    networks: Sequence[str] = ("auto",),
    combination: Combination = "mean",
) -> tuple[Classifier, ModelRecord]:
    """Load the teacher of a run, fitting a small one first when there is none for the source, and measure it.

    Args:
        run: The run, which fits; see `fit_once`.
        test: Test images of the classes that the teacher is to know; its logits come in their order.
        image_size: Side of the images that a fitted teacher is made for, and that it is measured on; None: the side that a
            teacher expects, which a fitted one does not know.
        teacher: Name for `load_classifier`; 'auto': `IMAGENET_TEACHER` when all classes have a wnid, else a fitted one.
            Several by commas make an `Ensemble`.
        teacher_revision: Branch, tag or commit on the Hub; of several one each, see `split_teachers`.
        teacher_epochs: Epochs of the fit; default: see `fit_settings`.
        seed: Of the fit.
        networks: What 'auto' fits: names for `networks.build`; 'auto': the ConvNet that suits the image size. Several make
            an ensemble, which for classes with wnids is that of `IMAGENET_TEACHERS`.
        combination: How the logits of an ensemble are combined; see `ensemble.combine`.

    Raises:
        InputError: When a teacher cannot be loaded, does not know a class, or is near chance on the test split: then its
            class order is not the source's, or it has learned too little, and nothing it says can be trusted.
    """
    if teacher == "auto" and len(networks) > 1 and test.source.has_wnids:
        teacher = ",".join(IMAGENET_TEACHERS)
    known, fit = test.source.has_wnids, {"teacher_epochs": teacher_epochs, "seed": seed, "several": len(networks) > 1}
    opened = [
        _open_one(run, test, image_size, teacher=name, teacher_revision=revision, network=network, **fit)
        for name, revision in split_teachers(teacher, teacher_revision)
        for network in (networks if name == "auto" and not known else ("auto",))
    ]
    return _together(run, test, image_size, opened, combination)


def _open_one(
    run: Run,
    test: HeldOut,
    image_size: int | None,
    *,
    teacher: str,
    teacher_revision: str | None,
    teacher_epochs: int | None,
    seed: int,
    network: str,
    several: bool,
    sha256: str | None = None,
) -> tuple[Classifier, ModelRecord]:
    """Load or fit a single teacher, and measure it; see `open_teacher`. One of several has a stage of its own.

    Raises:
        InputError: When it has other weights than `sha256`, where that is given; and as for `open_teacher`.
    """
    name, id, source, cause = teacher, teacher, test.source, OTHER_CLASSES
    if teacher == "auto" and source.has_wnids:
        name = id = IMAGENET_TEACHER
    elif teacher == "auto" and image_size is None:
        raise InputError("image_size", None, f"the images of {source.name} differ in size; pass --image_size")
    elif teacher == "auto":
        network = student_name(network, image_size)
        settings = fit_settings(source, network, image_size, teacher_epochs)
        config = run.cached(fit_folder(source, "teacher", network, image_size, settings.epochs, seed) / CONFIG)
        environment = EnvironmentRecord(**run.environment())
        fit_once(
            run,
            f"fit teacher {network}" if several else "fit teacher",
            lambda images, team: _fit(run, source, images(), config.parent, network, settings, seed, team, environment),
            source,
            image_size,
            makes=config,
            lower="a smaller image size, or a --teacher that is there,",
        )
        name, id = str(config.parent), FITTED + source.name
        cause = (
            f"it has learned too little from {len(source.train):,} images in {settings.epochs:,} epochs; what helps is a "
            "--teacher that is trained already, more images, or more --teacher_epochs when a set is made"
        )
    classifier = load_classifier(name, test.classes, revision=teacher_revision, device=run.device)
    if sha256 and (found := weights_sha256(classifier.model)) != sha256:
        valid = f"its weights hash to {found}, the record has {sha256}; pass --teacher to use others"
        raise InputError("teacher", name, valid)
    accuracy = None
    if not (run.is_dry and Path(name).is_relative_to(run.output_dir)):  # fitted for a moment, to be timed
        accuracy = _accuracy(run, "teacher", id, classifier, test, image_size, cause)
    return classifier, teacher_record(classifier, id, accuracy)


def _together(
    run: Run,
    test: HeldOut,
    image_size: int | None,
    opened: Sequence[tuple[Classifier, ModelRecord]],
    combination: Combination,
) -> tuple[Classifier, ModelRecord]:
    """Make of several teachers one, and measure it; a single one is left as it is."""
    if len(opened) == 1:
        return opened[0]
    classifiers, records = zip(*opened, strict=True)
    ensemble, accuracy = Ensemble(classifiers, combination), None
    if all(record.test_accuracy is not None for record in records):
        accuracy = _accuracy(run, "teacher", ensemble.id, ensemble, test, image_size, OTHER_CLASSES)
    return ensemble, ensemble_record(records, combination, accuracy)


def open_selector(
    run: Run, test: HeldOut, image_size: int, *, selector: str, selector_revision: str | None, selector_resize: int | None
) -> tuple[Classifier, ModelRecord]:
    """Load a classifier that selects and is not the teacher or sees images otherwise, and measure it as a teacher is.

    Args:
        run: The run.
        test: Test images of the classes that it is to know.
        image_size: Side of the images that it is measured on.
        selector: Name for `load_classifier`.
        selector_revision: Branch, tag or commit on the Hub.
        selector_resize: See `load_classifier`.

    Raises:
        InputError: As for a teacher; or when images would be scaled to less than it sees.
    """
    how = {"revision": selector_revision, "resize": selector_resize, "device": run.device}
    try:
        classifier = load_classifier(selector, test.classes, **how)
    except InputError as error:  # which takes every classifier for a teacher
        raise InputError("selector", error.value, error.valid) from error
    if classifier.resize < classifier.image_size:
        valid = f"the selector sees {classifier.image_size} px: so many at least"
        raise InputError("selector_resize", selector_resize, valid)
    accuracy = _accuracy(run, "selector", selector, classifier, test, image_size, OTHER_CLASSES)
    return classifier, teacher_record(classifier, selector, accuracy)


def _accuracy(
    run: Run, field: str, id: str, classifier: Classifier, test: HeldOut, image_size: int | None, cause: str
) -> float | None:
    """Return the share of the test images that a classifier recognises; refuse one near chance, and blame `cause`.

    None: a dry run did not decode them all.
    """
    size = image_size or classifier.image_size
    if not test.prepare(run, size):
        return None
    predicted = classifier.predict(test.images(size)).numpy()
    names = [c.name for c in test.classes]
    return refuse_chance(field, id, predicted, test.labels.numpy(), names, "its predictions on the test split", cause)


def open_known_teacher(
    run: Run,
    test: HeldOut,
    image_size: int,
    *,
    teacher: str | None,
    teacher_revision: str | None,
    record: ModelRecord | None,
    config: Mapping[str, Any],
) -> tuple[Classifier, ModelRecord]:
    """Open the teacher that is named, or else the one on record, several as they were combined there.

    One on record that was fitted is fitted again; another machine gives it other last bits.

    Args:
        run: See `open_teacher`, as the next two.
        test: Test images.
        image_size: Side in pixels.
        teacher: Name for `open_teacher`; None: as on record.
        teacher_revision: Branch, tag or commit on the Hub of one that is named.
        record: The teacher on record.
        config: Settings of the run that made the set.

    Raises:
        InputError: See `open_teacher`; when there is neither; or when a teacher on record that was not fitted has other
            weights now.
    """
    combination = (record and record.combination) or "mean"
    if teacher:
        named = {"teacher": teacher, "teacher_revision": teacher_revision, "combination": combination}
        return open_teacher(run, test, image_size, **named, teacher_epochs=None, seed=0)
    if record is None:
        raise InputError("teacher", None, "the set does not say who its teacher is; pass --teacher")
    several = record.members is not None
    opened = [_open_recorded(run, test, image_size, member, config, several) for member in record.members or [record]]
    return _together(run, test, image_size, opened, combination)


def _open_recorded(
    run: Run, test: HeldOut, image_size: int, record: ModelRecord, config: Mapping[str, Any], several: bool
) -> tuple[Classifier, ModelRecord]:
    fitted = record.id.startswith(FITTED)
    if not fitted and "/" not in record.id and not os.path.exists(record.id):  # as ids on the Hub and names of timm have it
        raise InputError("teacher", record.id, "it is a folder of whoever made the set; pass --teacher with its place here")
    return _open_one(
        run,
        test,
        image_size,
        teacher="auto" if fitted else record.id,
        teacher_revision=record.revision,
        teacher_epochs=config.get("teacher_epochs"),
        seed=config.get("fit_seed", 0),
        network=record.architecture if fitted else "auto",
        several=several,
        sha256=None if fitted else record.sha256,
    )


def fit_settings(source: Source, network: str, size: int, epochs: int | None = None) -> Settings:
    """Return how a network is trained on the whole training split. The test split is not looked at: it must not choose it.

    Args:
        source: The real dataset.
        network: Name for `networks.build`.
        size: Side of the images in pixels.
        epochs: Default: 10, or as many as a step per image takes where that is more, but at least 200 steps and at most 600.
    """
    count = len(source.train)
    task = Task(count, len(source.classes), size, source.mirrored, NORMALIZATIONS[source.normalization], network)
    settings = protocol("quick").settings(task)
    steps = min(600, max(200, count))
    epochs = epochs or max(10, math.ceil(steps / math.ceil(count / settings.batch_size)))
    return dataclasses.replace(settings, epochs=epochs, looks=())


def _fit(
    run: Run,
    source: Source,
    images: torch.Tensor,
    folder: Path,
    name: str,
    settings: Settings,
    seed: int,
    team: Team | None,
    environment: EnvironmentRecord,
) -> None:
    """Train a network as the settings say; the first member of a team saves it, with what it took and its record."""
    meter, title = Meter(run.device), "fit teacher" if run.is_main else ""
    settings = dataclasses.replace(settings, epochs=run.part(settings.epochs))
    train = TrainingSet(images, torch.from_numpy(source.train.labels)).at(settings, run.device)
    with at_work(team, len(images), settings.batch_size) as (workers, processes):
        if processes:
            (fitted,) = train_students(name, [train], None, len(source.classes), settings, [seed], team=workers, title=title)
    cost = run.summed(meter.read()) if team else meter.read()
    if run.is_main:
        write_cost(folder, cost, run.device, processes=processes)  # before config.json: the folder is complete then
        record = ClassifierRecord(
            network=name,
            source=source_record(source),
            classes=source.class_names,
            image_size=settings.image_size,
            test_accuracy=None,
            settings={**json.loads(json.dumps(dataclasses.asdict(settings))), "seed": seed},
            steps=settings.epochs * math.ceil(len(images) / settings.batch_size),
            seconds=cost["seconds"],
            environment=environment,
            created=now(),
        )
        facts = record.model_dump(mode="json")
        save_network(fitted.model, folder, name, source.class_names, settings.image_size, record=facts)
