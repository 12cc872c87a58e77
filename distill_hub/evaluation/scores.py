"""Scores of a set and of its baselines: students spread over processes, kept as they finish."""

import dataclasses
import functools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from rich.table import Table
from torch import nn

from distill_hub.artifact.base import now, package_record
from distill_hub.artifact.findings import warnings
from distill_hub.artifact.manifest import EnvironmentRecord, Manifest, ModelRecord
from distill_hub.artifact.records import OWN, RANDOM, REAL, EvaluationRecord, Score
from distill_hub.artifact.sizes import data_bytes
from distill_hub.config import InputError
from distill_hub.data.known import NORMALIZATIONS
from distill_hub.evaluation.coresets import ONLY_RANDOM, Baselines, coresets_as_large
from distill_hub.feed import placed
from distill_hub.networks.build import check_student
from distill_hub.networks.names import other_network, other_protocol
from distill_hub.running.console import loud
from distill_hub.running.mapped import map_rows
from distill_hub.running.run import Run
from distill_hub.running.stages import Stage, key_of
from distill_hub.teams.team import Team, at_work
from distill_hub.training.frozen import Backbone, train_heads
from distill_hub.training.protocols import Protocol
from distill_hub.training.settings import Settings, Task
from distill_hub.training.subject import Subject
from distill_hub.training.train import TrainingSet, resized, train_students
from distill_hub.views.files import Views

WEIGHTS = "weights."  # before the names of tensors of students that are kept
_NUMBERS = ("accuracies", "best_epoch", "curve", "processes")  # of every student


@dataclass(frozen=True)
class Trial:
    """A set to train on, by seed, and how."""

    make: Callable[[int], TrainingSet]  # called on every process
    settings: Settings
    made_from: str | None = None  # what its images depend on that nothing else of the run says


def refuse_pictures(rules: Protocol) -> None:
    """Refuse a protocol whose labels are of pictures for a set of free pixels, which its students see in their place.

    Raises:
        InputError: For labels of stored views, and those that a teacher gives online.
    """
    if rules.frozen:
        raise InputError("protocol", rules.name, "a trained network sees pictures, and free pixels are none; choose another")
    if rules.labels not in ("hard", "soft"):
        valid = "a teacher labels pictures, and free pixels are none; choose a protocol with hard or soft labels"
        raise InputError("protocol", rules.name, valid)


def refuse_missing(rules: Protocol, views: Views | None, *, has_teacher: bool, has_soft_labels: bool) -> None:
    """Refuse a protocol that needs what a set does not hold.

    Raises:
        InputError: When a teacher, soft labels or views are needed and not there, or there are fewer views than epochs.
    """
    if rules.labels == "teacher" and not has_teacher:
        raise InputError("teacher", None, f"{rules.name} trains on what a teacher says of every batch; pass --teacher")
    if rules.labels == "soft" and not has_soft_labels:
        raise InputError("protocol", rules.name, "the set holds no soft labels; choose one with hard labels or a teacher")
    if rules.labels == "views":
        make = "with the set in a folder, distill-hub relabel makes them"
        if views is None:
            raise InputError("protocol", rules.name, f"the set holds no stored views; {make}")
        needed = rules.view_epochs(views.record.image_size)
        if views.record.epochs < needed:
            raise InputError("views", f"{views.record.epochs} epochs", f"{rules.name} trains for {needed} epochs; {make}")


def settings_of(subject: Subject, rules: Protocol, student: str, images: int | None = None) -> Settings:
    """Return the settings of a training.

    Args:
        subject: The set.
        rules: The protocol.
        student: Name for `networks.build`.
        images: How many there are to train on; default: as many as the set shows.

    Raises:
        InputError: When the last batch of an epoch is one image, and the student cannot be trained on one.
    """
    own, source = subject.own, subject.test.source
    images = images or len(own.images)
    views = own.views.record if rules.labels == "views" else None
    settings = rules.settings(
        Task(
            images=images,
            classes=len(subject.test.classes),
            image_size=views.image_size if views else own.images.shape[-1],
            mirrored=source.mirrored,
            normalization=NORMALIZATIONS[source.normalization],
            student=student,
            teacher=subject.teacher_record.architecture if subject.teacher_record else None,
            views_batch_size=views.batch_size if views else None,
            label_temperature=subject.label_temperature,
            student_rate=subject.student_rate,
        )
    )
    if subject.zca:  # which has taken mean and deviation away
        settings = dataclasses.replace(settings, mean=(0.0,) * 3, std=(1.0,) * 3)
    if images % settings.batch_size == 1 and not settings.frozen:
        check_student(student, len(subject.test.classes), settings.image_size, batch_size=1)
    return settings


def trials_of(
    run: Run,
    subject: Subject,
    rules: Protocol,
    student: str,
    others: Mapping[str, Callable[[], TrainingSet]] | None,
    baselines: Baselines = ONLY_RANDOM,
) -> dict[str, Trial]:
    """Return what is trained on: this set first, other sets, and real images, which give the number its meaning.

    Of a set of tiles, real images are as many as it stores, and are trained on as the protocol does it with so many; a
    learning rate that a set brings is for its own images alone.

    Where the set's labels come from stored views, other sets of as many images are seen through the same views, in the same
    order, and a teacher labels these as they are needed, with as many logits as are stored. Beside a set of tiles they are
    fewer, and their views are drawn anew. Without a teacher there is nothing to compare with.

    Args:
        run: Decodes and scales images, all processes together.
        subject: The set.
        rules: The protocol.
        student: Name for `networks.build`.
        others: Further sets, with soft labels where the settings ask for them; None: nothing to compare with, not even
            real images.
        baselines: Which real images: random ones, and coresets by their names.

    Raises:
        InputError: When a class of the source has fewer images than the set; see also `settings_of` and `coresets_as_large`.
    """
    settings = settings_of(subject, rules, student)
    size = settings.start_size(subject.own.images.shape[-1])  # real images wait at the set's own size, too
    views = subject.own.views if settings.labels == "views" else None
    own = _at(run, subject.name, dataclasses.replace(subject.own, views=views), size, {"set": subject.content_sha256})
    trials = {OWN: Trial(lambda seed: own, settings)}
    if others is None:
        return trials
    settings = settings_of(subject, rules, student, len(subject.stored_labels)).for_others
    taught = subject.teacher is not None
    if views:
        if not taught:
            return trials
        settings, views = dataclasses.replace(settings, labels="teacher"), None if subject.tiles else views
    trials |= {name: Trial(_seen(run, subject, name, make, views, size), settings) for name, make in others.items()}
    soft, called = settings.labels == "soft", "{}"
    if soft and not taught:
        soft, called, settings = False, "{}, hard labels", settings.hard
    coresets = coresets_as_large(run, subject, baselines, size, soft=soft)
    for name in baselines.names:
        draw = coresets[name].draw if name in coresets else subject.random_real(run, size, soft=soft)
        made_from = coresets[name].made_from if name in coresets else None
        make = functools.partial(_with_views, draw, views)
        trials[called.format(name if name in coresets else RANDOM)] = Trial(make, settings, made_from)
    return trials


def _with_views(draw: Callable[[int], TrainingSet], views: Views | None, seed: int) -> TrainingSet:
    return dataclasses.replace(draw(seed), views=views)


def _seen(
    run: Run, subject: Subject, name: str, make: Callable[[], TrainingSet], views: Views | None, size: int
) -> Callable[[int], TrainingSet]:
    """Return another set as the students of this one see it, mapped once: it is the same for all seeds."""
    stage = name.replace("/", "-")
    seen = functools.cache(lambda: dataclasses.replace(subject.seen(run, stage, _at(run, stage, make(), size)), views=views))
    return lambda seed: seen()


def _at(run: Run, stage: str, made: TrainingSet, size: int, made_from: Mapping[str, Any] | None = None) -> TrainingSet:
    """Scale a set's images to `size` pixels, all processes together."""
    images = made.images
    if images.shape[-1] == size:
        return made
    how = {"made_from": made_from}
    scaled = map_rows(run, f"{stage}, {size} px", lambda a, b: resized(images[a:b], size), len(images), **how)
    return dataclasses.replace(made, images=scaled)


def measure(
    run: Run,
    subject: Subject,
    rules: Protocol,
    student: str,
    seeds: Sequence[int],
    trials: Mapping[str, Trial],
    *,
    together: bool = False,
    compiled: bool = False,
    stage: str = "evaluate",
    made_from: Mapping[str, Any] | None = None,
    keep: Callable[[EvaluationRecord, Stage], None] | None = None,
    known: ModelRecord | None = None,
) -> EvaluationRecord:
    """Train one student per trial and seed, spread over the processes of a run, and record how they did.

    Where there are fewer students to train than processes, these train them together, in teams.

    Args:
        run: Keeps every finished student's accuracies.
        subject: The set.
        rules: The protocol.
        student: Name for `networks.build`, or for `training.frozen.Backbone`.
        seeds: One student each.
        trials: The set, first, and its baselines; see `trials_of`.
        together: Train the students of all seeds side by side in one process.
        compiled: Compile the students.
        stage: Name of the run's stage.
        made_from: What the trials' images and labels depend on, see `Run.key`; None: all settings of the run.
        known: What is on record of a trained network as student, which it must be; None: nothing is.
        keep: What the main process does with the record and the finished stage, whose first items are then the students of
            the set, one per seed, and hold their weights, too: `WEIGHTS` and the name of each.
    """
    packages = {
        "protocol_package": package_record(other_protocol(rules.name)),
        "student_package": package_record(other_network(student)),
    }
    own, *baselines = trials
    settings, test = trials[own].settings, subject.test  # how test images are cut is the same for all trials
    backbone = Backbone(student, run.device, known) if settings.frozen else None
    others = {name: package.model_dump() for name, package in packages.items() if package}
    others |= {"backbone": backbone.record.sha256} if backbone else {}
    # With its rules, each by itself: a trial that is added leaves the finished ones as they are.
    rules_of = {
        name: key_of(
            dataclasses.asdict(trial.settings) | others | ({"made_from": trial.made_from} if trial.made_from else {})
        )
        for name, trial in trials.items()
    }
    if REAL in trials:
        run.say(tell_real(subject, trials[REAL].settings, len(seeds)))
    jobs = [(name, seed, rules_of[name]) for name in trials for seed in seeds]
    test.prepare(run, settings.image_size, settings.test_resize)

    if made_from is not None:
        made_from = {**made_from, "student": student, "compiled": compiled}
    spread = {"chunk_size": len(seeds) if together else 1, "made_from": made_from}
    todo = run.unfinished(stage, jobs, **spread)
    sets = {(name, seed): trials[name].make(seed) for name, seed, _ in todo}  # by all processes together

    @functools.cache
    def held_out() -> tuple[torch.Tensor, torch.Tensor]:
        return placed(subject.test_images(settings), run.device), test.labels.to(run.device)

    def train(chunk: Sequence[tuple[str, int, str]], team: Team | None = None) -> dict[str, torch.Tensor]:
        name, own_seeds = chunk[0][0], [seed for _, seed, _ in chunk]
        chosen = [sets[name, seed].at(trials[name].settings, run.device) for seed in own_seeds]
        of, steps = ", ".join(map(str, own_seeds)), trials[name].settings.epochs

        def log(epoch: int, values: dict[str, float]) -> None:
            run.trackers.log(f"{stage}/{name}, seed {of}", epoch, steps, values)

        with at_work(team, len(chosen[0].images), trials[name].settings.batch_size) as (team, processes):
            if not processes:
                return {}
            what = chosen, held_out(), len(test.classes), trials[name].settings, own_seeds
            told = {"title": f"{name}, seed {of}" if run.is_main else "", "log": log if run.trackers.are_open else None}
            if backbone:
                trainings = train_heads(backbone, *what, **told)
            else:
                how = {"teacher": subject.teacher, "dtype": run.dtype, "compiled": compiled, "team": team}
                trainings = train_students(student, *what, **how, **told)
        looks = torch.tensor([[training.last, training.best] for training in trainings], dtype=torch.float64)
        return {
            "accuracies": looks,
            "best_epoch": torch.tensor([training.best_epoch for training in trainings]),
            "curve": torch.tensor([training.curve for training in trainings], dtype=torch.float64),
            "processes": torch.tensor([processes] * len(own_seeds)),
            **(_weights([training.model for training in trainings]) if keep and name == own else {}),
        }

    done = run.map(stage, jobs, train, **spread, teams=not (together or backbone), lower="a smaller network in --students")
    scores, processes = {}, 1
    for place, name in enumerate(trials):
        part = done.rows(place * len(seeds), (place + 1) * len(seeds), *_NUMBERS)
        last, best = part["accuracies"].T.tolist()
        processes = max(processes, *part["processes"].tolist())
        known = trials[name].settings.looks == settings.looks  # the record has those of the set
        curve = part["curve"].tolist() if known else None
        scores[name] = Score(last=last, best=best, best_epoch=part["best_epoch"].tolist(), curve=curve)
    record = EvaluationRecord(
        protocol=rules.name,
        protocol_version=rules.version,
        standard=settings.non_standard is None,
        settings=json.loads(json.dumps(dataclasses.asdict(settings))),  # as a reader of the record sees it
        student=backbone.student if backbone else student,
        backbone=backbone.record if backbone else None,
        **packages,
        seeds=list(seeds),
        score=scores[own],
        baselines={name: scores[name] for name in baselines},
        teacher=subject.teacher_record if settings.labels == "teacher" else None,
        views_sha256=subject.own.views.record.sha256 if settings.labels == "views" else None,
        bytes=data_bytes(subject.folder, settings.labels) if subject.folder else None,
        test_images=len(test.labels),
        chance=int(test.labels.bincount().max()) / len(test.labels),
        source_revision=subject.test.source.revision,
        content_sha256=subject.content_sha256,
        environment=EnvironmentRecord(**run.environment()),
        processes_per_student=processes if processes > 1 else None,
        seconds=next(known["seconds"] for known in run.stages if known["name"] == stage),
        date=now(),
    )
    if keep:
        run.on_main(f"{stage}, keep", lambda: keep(record, done))
    return record


def _weights(models: Sequence[nn.Module]) -> dict[str, torch.Tensor]:
    """Return the weights of some students, a row for each, as the results of a stage."""
    states = [model.state_dict() for model in models]
    return {f"{WEIGHTS}{name}": torch.stack([state[name].cpu() for state in states]).contiguous() for name in states[0]}


def tell_real(subject: Subject, settings: Settings, students: int) -> str:
    """Say what training on all real images takes, in steps, before it starts."""
    own, real = (
        settings.epochs * -(-count // settings.batch_size) for count in (len(subject.own.images), len(subject.real_rows))
    )
    more = f"{students} more {'student' if students == 1 else 'students'}, of {real:,} steps each"
    return f"{REAL}: {more} where the set's own take {own:,}; --dry_run says how long"


def score_table(records: Sequence[EvaluationRecord], ipc: int) -> Table:
    """Show records: last-epoch accuracy first, best of all looks beside it; below, what nobody may overlook."""
    table = Table(
        "protocol",
        "student",
        f"{ipc} image{'s' * (ipc != 1)} per class",
        "last, mean ± std",
        "best of test",
        title=f"Test accuracy in %, {len(records[0].seeds)} seed{'s' * (len(records[0].seeds) > 1)}",
        caption=loud(warnings(records)),
        caption_justify="left",
    )
    for record in records:
        for name, score in record.scores.items():
            first = (record.protocol_label, record.student) if name == OWN else ("", "")
            table.add_row(*first, name, score.percent(), f"{100 * score.best_mean:.1f}")
    return table


def in_words(record: EvaluationRecord, manifest: Manifest) -> str:
    """Return a record as a sentence for a paper: what was trained on what, how, and how many times."""
    seeds = f"mean ± standard deviation of {len(record.seeds)} students" if len(record.seeds) > 1 else "one student"
    random = record.baselines.get(RANDOM)
    beside = f"; as many random real images: {random.percent()} %" if random else ""
    return (
        f"{manifest.name}: {record.student} reaches {record.score.percent()} % under {record.protocol_label}, at the end of "
        f"its training, {seeds}{beside}. Content sha256 {manifest.content_sha256[:16]}, "
        f"distill-hub {record.environment.packages['distill-hub']}."
    )
