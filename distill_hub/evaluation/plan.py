"""The end of a dry run: what packaging, stored views and students would take."""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Mapping
from types import SimpleNamespace

import torch

from distill_hub.artifact.describe import rows, soft_labels
from distill_hub.artifact.package import encode_image
from distill_hub.artifact.views import predicted_bytes
from distill_hub.evaluation.dry_run import DryRun
from distill_hub.evaluation.ranking import REAL
from distill_hub.evaluation.scores import Trial, settings_of, trials_of
from distill_hub.evaluation.settings import Settings, is_mirrored
from distill_hub.evaluation.start import Setup, view_epochs
from distill_hub.evaluation.subject import Subject
from distill_hub.evaluation.train import TrainingSet, train_students
from distill_hub.evaluation.views import draw_views
from distill_hub.run import Stage

SAMPLE = 32  # images that are encoded, to see how long it takes and how large they are


def expect_rest(setup: Setup, stage: Stage, baselines: Mapping[str, Callable[[int], TrainingSet]]) -> None:
    """Add to a plan what `package_and_score` would do.

    Args:
        setup: See there, as the others.
        stage: The set; the images of the first chunk stand for all.
        baselines: Further sets that would be scored.
    """
    run, config, labels = setup.run, setup.config, setup.labels
    count, classes = len(labels), len(setup.source.classes)
    sample = list(itertools.islice(rows(stage, labels), SAMPLE))
    seconds, encoded = run.timed(lambda: [encode_image(row["image"], config.image_format) for row in sample])
    size = count * (sum(map(len, encoded)) // len(encoded) + 4 * classes)  # images, and soft labels in float32
    run.expect("package", count, seconds * count / len(sample), size, is_published=True)

    images = stage.rows(0, count, "images")["images"]
    rules = setup.protocol
    own = TrainingSet(images, torch.tensor(labels), soft_labels(stage) if rules.labels == "soft" else None)
    if epochs := view_epochs(config, classes):
        mirrored = is_mirrored(setup.source.class_names)
        how = {"epochs": epochs, "mirrored": mirrored, "seed": config.seed}
        _, facts = draw_views(run, images, setup.teacher, setup.teacher_record, **how)
        run.expect("store views", epochs, 0.0, predicted_bytes(count, epochs, classes, facts.batch_size), is_published=True)
        own = dataclasses.replace(own, views=SimpleNamespace(record=facts))
    subject = Subject(own, setup.test, "", setup.teacher, setup.teacher_record)
    for student in rules.students(config.students, setup.image_size):
        trials = trials_of(subject, settings_of(subject, rules, student), baselines)
        expect_students(run, subject, student, trials, config.repeats, compiled=config.compile)


def expect_students(
    run: DryRun, subject: Subject, student: str, trials: Mapping[str, Trial], repeats: int, *, compiled: bool
) -> None:
    """Add students to a plan: one of each kind is trained for an epoch, and looks at the test split once.

    Args:
        run: The dry run.
        subject: The set.
        student: Name for `networks.build`.
        trials: The set and its baselines; see `trials_of`.
        repeats: Students per trial.
        compiled: Compile them.
    """
    groups: dict[tuple[Settings, bool], list[Trial]] = {}  # those that take the same time
    for name, trial in trials.items():
        groups.setdefault((trial.settings, name == REAL), []).append(trial)
    total = 0.0
    for (settings, _), group in groups.items():
        # Where the labels come with stored views, there are none yet; the teacher says them.
        labels = "teacher" if settings.labels == "views" else settings.labels
        data = dataclasses.replace(group[0].make(0), views=None).at(settings.image_size, run.device)
        images = subject.test.images(settings.image_size, settings.test_resize).to(run.device)
        test = images, subject.test.labels.to(run.device)

        def train(looks: tuple[int, ...], *, data=data, test=test, settings=settings, labels=labels) -> None:
            short = dataclasses.replace(settings, epochs=1, looks=looks, labels=labels)
            how = {"teacher": subject.teacher, "dtype": run.dtype, "compiled": compiled}
            train_students(student, [data], test, len(subject.test.classes), short, [0], **how)

        epoch, with_look = (run.timed(functools.partial(train, looks))[0] for looks in ((), (1,)))
        seconds = settings.epochs * epoch + len(settings.looks) * max(0.0, with_look - epoch)
        total += len(group) * repeats * seconds
    jobs = len(trials) * repeats
    share = run.shared(jobs)
    run.expect(f"evaluate {student}", jobs, total * share / jobs, chunks=share)
