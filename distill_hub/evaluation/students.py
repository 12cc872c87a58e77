"""Students that were trained on a set, kept as classifiers: each in a folder that says on what, how, and how well."""

from collections.abc import Sequence
from pathlib import Path

from distill_hub.artifact.base import now
from distill_hub.artifact.classifier import ClassifierRecord, SetRecord
from distill_hub.artifact.describe import source_record
from distill_hub.artifact.records import EvaluationRecord
from distill_hub.classifiers import save_network
from distill_hub.config import InputError
from distill_hub.disk.files import atomic_write, check_folder, folder_name
from distill_hub.evaluation.given import Given
from distill_hub.evaluation.jobs import Job
from distill_hub.evaluation.scores import WEIGHTS
from distill_hub.networks.build import build
from distill_hub.publishing.classifier import classifier_card
from distill_hub.publishing.readme import card_files
from distill_hub.publishing.students import RESULTS, student_results
from distill_hub.publishing.trained import CONFIG, read_classifier, student_name
from distill_hub.running.stages import Chunk, Stage
from distill_hub.training.subject import Subject


def check_places(folder: Path, jobs: Sequence[Job], given: Given) -> None:
    """Refuse to keep students where they would replace others, before any is trained.

    Args:
        folder: Where they go, each to a folder of its own.
        jobs: What is measured.
        given: The set.

    Raises:
        InputError: When two students would be called the same, one of another set lies there, nothing can be written, or
            the set's students see whitened images.
    """
    check_folder(folder, "save_students")
    if frozen := [job.rules.name for job in jobs if job.rules.frozen]:
        valid = f"of the students of {frozen[0]} only a last layer is trained; leave it out"
        raise InputError("save_students", str(folder), valid)
    if given.free_pixels and given.free_pixels.zca:
        valid = "students of this set see whitened images, and the folder of a classifier cannot say so; leave it out"
        raise InputError("save_students", str(folder), valid)
    names = [student_name(job.rules.name, job.rules.version, job.student, seed) for job in jobs for seed in job.seeds]
    for name in names:
        if names.count(name) > 1:
            valid = f"the set's records name {name} twice; ask for one with --protocol and --students"
            raise InputError("save_students", str(folder), valid)
        if (folder / name / CONFIG).exists():
            own = read_classifier(folder / name).trained_on
            if own is None or own.content_sha256 != given.content_sha256:
                raise InputError("save_students", str(folder), f"{name} there is of another set; name another folder")


def save_students(folder: Path, subject: Subject, given: Given, record: EvaluationRecord, done: Stage) -> None:
    """Save the students of a record as folders of classifiers; `config.json` comes last and says that one is complete.

    Args:
        folder: Where they go.
        subject: The set, as they saw it.
        given: The set, as it is stored.
        record: What was measured of them.
        done: The finished stage; its first items are they, with their weights.
    """
    source, settings, images = subject.test.source, record.settings, len(subject.own.images)
    classes, size, views = subject.test.classes, settings["image_size"], subject.own.views
    per_epoch = views.record.per_epoch(images) if record.views_sha256 else -(-images // settings["batch_size"])
    for place, seed in enumerate(record.seeds):
        name = student_name(record.protocol, record.protocol_version, record.student, seed)
        took = Chunk(done.folder, place // done.chunk_size).facts()
        facts = ClassifierRecord(
            network=record.student,
            source=source_record(source),
            classes=[known.name for known in classes],
            image_size=size,
            test_resize=settings["test_resize"] if settings["test_resize"] != size else None,
            test_accuracy=record.score.last[place],
            settings=settings,
            steps=settings["epochs"] * per_epoch,
            seconds=round(took["seconds"] / took["items"], 1),
            environment=record.environment,
            created=now(),
            trained_on=SetRecord(
                name=given.name,
                hub_id=given.location if given.revision else None,
                revision=given.revision,
                content_sha256=record.content_sha256,
                images=images,
                protocol=record.protocol,
                protocol_version=record.protocol_version,
                standard=record.standard,
                seed=seed,
            ),
        )
        model = build(record.student, len(classes), size)
        kept = done.rows(place, place + 1)
        model.load_state_dict({key: kept[f"{WEIGHTS}{key}"][0] for key in model.state_dict()})
        own = folder / name
        files = card_files(classifier_card(facts, location=folder_name(own)), [])
        if results := student_results(facts):
            files[RESULTS] = results
        for file, content in files.items():
            atomic_write(own / file, content)
        save_network(
            model, own, record.student, facts.classes, size, mean=settings["mean"], std=settings["std"],
            resize=facts.test_resize, record=facts.model_dump(mode="json"),
        )  # fmt: skip
