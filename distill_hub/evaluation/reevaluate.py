"""Scoring a published set again: by its own record where it has one, and sets made elsewhere, too."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from accelerate import PartialState

from distill_hub.artifact.find import Found, find
from distill_hub.artifact.load import Artifact, load_artifact
from distill_hub.artifact.manifest import ModelRecord
from distill_hub.artifact.records import OWN, REAL, Comparison
from distill_hub.config import InputError
from distill_hub.coresets.names import OF_EMBEDDINGS, split_baselines
from distill_hub.data.known import Normalization
from distill_hub.data.sources import Source, load_source
from distill_hub.evaluation.coresets import Baselines
from distill_hub.evaluation.given import Given
from distill_hub.evaluation.jobs import Job, Request, jobs_of, other_versions
from distill_hub.evaluation.plan import expect_students
from distill_hub.evaluation.ranking import distance_to_real, rank, ranking_trials, real_trial
from distill_hub.evaluation.read import read_together, scratch
from distill_hub.evaluation.scores import Trial, measure, refuse_missing, refuse_pictures, trials_of
from distill_hub.evaluation.students import check_places, save_students
from distill_hub.evaluation.whitening import refit_zca
from distill_hub.foreign.align import align
from distill_hub.foreign.labels import LabelKind
from distill_hub.foreign.read import read_foreign
from distill_hub.running.console import show
from distill_hub.running.machine import check_compiler, start_accelerator
from distill_hub.running.run import Run
from distill_hub.running.session import session
from distill_hub.teachers.open import open_known_teacher
from distill_hub.training.contract import OTHER_CLASSES, excuse, refuse_chance
from distill_hub.training.subject import Subject, label_temperature, real_source, student_rate
from distill_hub.views.files import open_views


class DistilledSet(Artifact):
    """A distilled set whose data are what its manifest says, and which can be scored."""

    def evaluate(
        self,
        *,
        source: str | None = None,
        source_revision: str | None = None,
        source_config: str | None = None,
        image_column: str | None = None,
        label_column: str | None = None,
        train_split: str | None = None,
        test_split: str | None = None,
        test_fraction: float = 0.0,
        mirrored: Literal["yes", "no"] | None = None,
        normalization: Normalization | None = None,
        deliver: Callable[[list[Comparison]], None] | None = None,
        **training,
    ) -> list[Comparison]:
        """Train students on the set as its records say, or as you say, and compare with what its author claims.

        Args:
            source: The real dataset, where it lies now; default: where the manifest says.
            source_revision: Of `source`; default: the recorded commit.
            source_config: Of `source`; default: as recorded.
            image_column: Of `source`; default: as recorded.
            label_column: Of `source`; default: as recorded.
            train_split: Of `source`; default: as recorded.
            test_split: Of `source`; default: as recorded.
            test_fraction: Of `source`; default: as recorded.
            mirrored: Whether mirrored images of `source` still show their classes; default: as recorded.
            normalization: Of `source`; default: as recorded.
            deliver: See `evaluate`.
            **training: `protocol`, `students`, `repeats`, ...; see `Request`.

        Returns:
            One comparison per record of the author, or per student asked for.

        Raises:
            InputError: When the set cannot be trusted, or its classes do not fit the source's.
        """
        manifest = self.manifest
        refuse_chance(
            "distilled set",
            self.location,
            self.soft_labels.argmax(1),
            self.labels,
            manifest.class_names,
            "its soft labels",
            excuse(manifest) or OTHER_CLASSES,
            show if excuse(manifest) else None,
        )
        how = Request(**training)
        claims = [record for record in self.evaluations if record.submitted_by is None]
        jobs = jobs_of(
            self.location,
            claims,
            self.pixels.shape[-1],
            len(manifest.classes),
            manifest.views and manifest.views.sha256,
            how,
        )
        real, places = real_source(
            manifest, published=self.revision is not None, source=source, source_revision=source_revision,
            source_config=source_config, image_column=image_column, label_column=label_column, train_split=train_split,
            test_split=test_split, test_fraction=test_fraction, mirrored=mirrored, normalization=normalization,
        )  # fmt: skip
        wanted = any(job.rules.labels == "views" for job in jobs)
        views = open_views(find(self.location, self.revision), manifest) if wanted and manifest.views else None
        images = torch.from_numpy(self.pixels if self.free_pixels is None else self.free_pixels)
        given = Given(
            images, self.labels, self.soft_labels, places, manifest.content_sha256, manifest, views, self.path,
            location=self.location, revision=self.revision,
        )  # fmt: skip
        return _measure(given, real, jobs, how, deliver)


def load_distilled(location: str | Path, revision: str | None = None) -> DistilledSet:
    """Load a distilled set and check it: format, columns, counts, and every pixel and label against the manifest.

    Args:
        location: The artifact folder, or NAMESPACE/NAME on the Hub.
        revision: Branch, tag or commit on the Hub; default main.

    Returns:
        The set: `dataset` (columns of `artifact.schema.features`), the arrays `pixels` (uint8 (N, 3, S, S)), `labels` and
        `soft_labels`, of a set with free pixels also `free_pixels` (float16 (N, 3, S, S)), `manifest`, `evaluations`, and
        `evaluate()`.

    Raises:
        InputError: When there is no such set, its format is newer, a file is damaged or missing, or the data are not what
            the manifest says.
        HubError: When the Hub fails.
    """
    return _scorable(load_artifact(location, revision, pixels=True))


def _scorable(artifact: Artifact) -> DistilledSet:
    return DistilledSet(**{f.name: getattr(artifact, f.name) for f in dataclasses.fields(artifact)})


def evaluate(
    location: str | Path | Found,
    *,
    revision: str | None = None,
    source: str | None = None,
    source_revision: str | None = None,
    source_config: str | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    train_split: str | None = None,
    test_split: str | None = None,
    test_fraction: float = 0.0,
    mirrored: Literal["yes", "no"] | None = None,
    normalization: Normalization | None = None,
    set_image_column: str | None = None,
    set_label_column: str | None = None,
    classes: str | None = None,
    data_dir: str | None = None,
    split: str | None = None,
    index: int | None = None,
    image_size: int | None = None,
    mean: str | None = None,
    std: str | None = None,
    pixel_range: float | None = None,
    max_clipped: float | None = None,
    label_kind: LabelKind | None = None,
    deliver: Callable[[list[Comparison]], None] | None = None,
    **training,
) -> list[Comparison]:
    """Score any published set: one in this format by its own records, another one by what you say of it.

    Args:
        location: Folder, or NAMESPACE/NAME on the Hub; or what `artifact.find.find` found there.
        revision: Branch, tag or commit on the Hub. The commit it stands for is looked up first, so no cache can answer.
        source: The real dataset; needed for a set that was made elsewhere.
        source_revision: Of `source`; default, as of the next eight: for a set in this format, as recorded.
        source_config: Of `source`.
        image_column: Of `source`.
        label_column: Of `source`.
        train_split: Of `source`.
        test_split: Of `source`.
        test_fraction: Of `source`.
        mirrored: Whether mirrored images of `source` still show their classes.
        normalization: Of `source`.
        set_image_column: Of a set made elsewhere, as all that follow down to `label_kind`; see `foreign.read`.
        set_label_column: Its label column.
        classes: Its classes.
        data_dir: Sub-folder.
        split: Which of several.
        index: Which of several in a file.
        image_size: Side in pixels.
        mean: Of normalised tensors.
        std: Of normalised tensors.
        pixel_range: Full brightness in tensors.
        max_clipped: Share of values that may be clipped.
        label_kind: What soft labels are.
        deliver: What the main process does with the result. Where that fails, the same call again trains nothing anew.
        **training: `protocol`, `students`, `repeats`, ...; see `Request`.

    Returns:
        One comparison per record of the set's author, or per student asked for; without a record, nothing is claimed.

    Raises:
        InputError: When set or source cannot be used, or the order of the classes is not on record.
        HubError: When the Hub fails.
    """
    real = {
        "source_revision": source_revision, "source_config": source_config, "image_column": image_column,
        "label_column": label_column, "train_split": train_split, "test_split": test_split, "test_fraction": test_fraction,
        "mirrored": mirrored, "normalization": normalization,
    }  # fmt: skip
    columns = {"set_image_column": set_image_column, "set_label_column": set_label_column}
    pixels = {"image_size": image_size, "mean": mean, "std": std, "pixel_range": pixel_range, "max_clipped": max_clipped}
    layout = {"data_dir": data_dir, "split": split, "index": index, "label_kind": label_kind, **pixels}
    with start_accelerator().main_process_first():
        found = location if isinstance(location, Found) else find(location, revision)
        commit = found.remote.commit if found.remote else None
        if not found.is_artifact:
            foreign = read_foreign(
                found.location, revision=commit, image_column=set_image_column, label_column=set_label_column, **layout
            )
    if found.is_artifact:
        for name, value in {"classes": classes, **columns, **layout}.items():
            if value is not None:
                raise InputError(name, value, f"{found.location} says it itself; leave the option out")
        with scratch() as folder:
            own = _scorable(read_together(found, folder))
            return own.evaluate(source=source, **real, deliver=deliver, **training)
    if source is None:
        raise InputError("source", None, "the set does not say which real dataset it stands for; pass --source")
    how = Request(**training)
    if PartialState().is_main_process:
        for line in foreign.remarks:
            show(line)
    jobs = jobs_of(foreign.location, (), foreign.images.shape[-1], len(np.unique(foreign.labels)), None, how)
    real = load_source(source, **real)
    own = align(foreign, real, classes)
    names = [real.class_names[place] for place in own.places]
    if own.soft_labels is not None:
        refuse_chance("distilled set", foreign.location, own.soft_labels.argmax(1), own.labels, names, "its soft labels")
    place = {"location": foreign.location, "revision": commit}
    given = Given(own.images, own.labels, own.soft_labels, own.places, own.content_sha256, **place)
    return _measure(given, real, jobs, how, deliver)


def _measure(
    given: Given,
    real: Source,
    jobs: Sequence[Job],
    how: Request,
    deliver: Callable[[list[Comparison]], None] | None,
) -> list[Comparison]:
    """Train the students of all jobs, spread over processes; an interrupted call goes on where it stopped.

    Raises:
        InputError: When a protocol needs what the set does not hold; the source has fewer images of a class than the set,
            and a random baseline is needed; or the same is measured already.
    """
    if how.save_students:
        check_places(Path(how.save_students), jobs, given)
    recorded = [_recorded_teacher(given, job) for job in jobs]
    beside = Baselines(split_baselines(how.baselines or "random"), how.baseline_dynamics)
    embeds = any(name in OF_EMBEDDINGS for name in beside.names)
    if how.dd_ranking and "random" not in beside.names:
        raise InputError("baselines", how.baselines, "--dd_ranking compares with random real images; add random")
    taught = [
        job.rules.labels == "teacher" or how.teacher is not None or how.mmd or embeds
        or (how.baselines is not None and job.rules.labels == "views")
        for job in jobs
    ]  # fmt: skip
    for job, record in zip(jobs, recorded, strict=True):
        has_teacher, has_soft_labels = bool(how.teacher or record), given.soft_labels is not None
        if given.free_pixels:
            refuse_pictures(job.rules)
        refuse_missing(job.rules, given.views, has_teacher=has_teacher, has_soft_labels=has_soft_labels)
        beside.check(has_teacher=has_teacher)
    if how.mmd and given.free_pixels:
        raise InputError("command line", "--mmd", "a teacher embeds pictures, and the set's free pixels are none")
    if how.mmd and not how.teacher and any(record and record.members for record in recorded):
        raise InputError("command line", "--mmd", "the teacher on record is several networks; pass a single --teacher")
    temperature, tiles = (label_temperature(given.manifest), given.manifest.tiles) if given.manifest else (None, None)
    rate = student_rate(given.manifest) if given.manifest else None
    settings = {
        "content_sha256": given.content_sha256,
        "read_as": [temperature, tiles],
        "student_rate": rate,
        "views_sha256": given.views.record.sha256 if given.views else None,
        "source": [real.name, real.revision or real.fingerprint, real.test.fingerprint, real.mirrored, real.normalization],
        "jobs": [[job.rules.name, job.rules.version, job.student, list(job.seeds), job.claim is None] for job in jobs],
        "teachers": [record.sha256 if record else None for record in recorded],
        "how": dataclasses.asdict(dataclasses.replace(how, log_with=None)),
    }
    subjects, opened = {}, {}  # by whether views are replayed, which name the set's rows and classes as they are stored
    project = f"evaluate-{given.manifest.name if given.manifest else given.content_sha256[:16]}"
    with session("evaluations", settings, dry_run=how.dry_run, log_with=how.log_with, project=project) as run:
        for line in other_versions(jobs):
            run.say(line)
        if how.compile:
            check_compiler("compile", run.device)
        comparisons = []
        for place, (job, record, wants) in enumerate(zip(jobs, recorded, taught, strict=True)):
            replays = job.rules.labels == "views"
            if replays not in subjects:
                name = "set as stored" if replays else "set"
                own, test = given.shown(run, name, real, in_order=not replays)
                zca = given.free_pixels and given.free_pixels.zca
                fitted = refit_zca(run, zca, test, given.images.shape[-1]) if zca else None
                read = {"label_temperature": temperature, "student_rate": rate, "tiles": tiles, "zca": fitted}
                subjects[replays] = Subject(own, test, given.content_sha256, **read, folder=given.folder, name=name)
            subject = subjects[replays]
            if wants:
                key = replays, record and record.sha256
                if key not in opened:
                    opened[key] = open_known_teacher(
                        run, subject.test, given.images.shape[-1],
                        teacher=how.teacher, teacher_revision=how.teacher_revision,
                        record=record, config=given.manifest.method.config if given.manifest else {},
                    )  # fmt: skip
                classifier, facts = opened[key]
                subject = dataclasses.replace(subject, teacher=classifier, teacher_record=facts)
            trials = _trials(run, subject, job, how, beside)
            if run.is_dry:
                expect_students(run, subject, job.student, trials, len(job.seeds), compiled=how.compile)
            else:
                stage = f"{place + 1} of {len(jobs)}, {job.student}"
                comparisons.append(_compare(run, subject, given, job, trials, how, stage))
        if deliver and not run.is_dry:
            run.on_main("deliver", lambda: deliver(comparisons))
    return comparisons


def _recorded_teacher(given: Given, job: Job) -> ModelRecord | None:
    """Return the teacher that the claim was measured with, or else the set was made with.

    Of one and the same the manifest may know where it was published since.
    """
    of_set = given.manifest.teacher if given.manifest else None
    claimed = job.claim and job.claim.teacher
    return claimed if claimed and not (of_set and of_set.sha256 == claimed.sha256) else of_set


def _trials(run: Run, subject: Subject, job: Job, how: Request, beside: Baselines) -> dict[str, Trial]:
    claimed = job.claim and not how.dd_ranking and how.baselines is None  # a claim brought its baselines
    trials = trials_of(run, subject, job.rules, job.student, None if claimed else {}, beside)
    trials = ranking_trials(run, subject, trials, how.real_accuracy) if how.dd_ranking else trials
    return {**trials, REAL: trials.get(REAL) or real_trial(run, subject, trials[OWN].settings)} if how.full_data else trials


def _compare(
    run: Run, subject: Subject, given: Given, job: Job, trials: Mapping[str, Trial], how: Request, stage: str
) -> Comparison:
    keep = functools.partial(save_students, Path(how.save_students), subject, given) if how.save_students else None
    measured = measure(
        run, subject, job.rules, job.student, job.seeds, trials,
        together=how.seeds_together, compiled=how.compile, stage=stage.replace("/", "-"), keep=keep,
    )  # fmt: skip
    if how.dd_ranking:
        measured = measured.model_copy(update={"dd_ranking": rank(measured, how.real_accuracy)})
    if how.mmd:
        measured = measured.model_copy(update={"mmd": distance_to_real(run, subject)})
    return Comparison(measured, job.claim)
