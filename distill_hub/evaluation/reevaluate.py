"""Scoring a published set again: by its own record where it has one, and sets made elsewhere, too."""

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import filelock
import numpy as np
import torch

from distill_hub.artifact.load import Artifact, find, load_artifact, read_artifact
from distill_hub.artifact.records import EvaluationRecord
from distill_hub.classes import SourceClass, match_classes
from distill_hub.classifiers import check_student, student_name
from distill_hub.config import InputError
from distill_hub.evaluation.contract import refuse_chance
from distill_hub.evaluation.protocols import Protocol
from distill_hub.evaluation.protocols import protocol as protocol_named
from distill_hub.evaluation.scores import Labelled, random_real, record_scores, score_sets
from distill_hub.foreign.align import align
from distill_hub.foreign.read import read_foreign
from distill_hub.run import Run, cache_dir, start_accelerator
from distill_hub.sources import KNOWN, Source, load_source


@dataclass(frozen=True)
class Comparison:
    """A record measured now, and the author's claim for the same protocol, student and seeds, if there is one."""

    measured: EvaluationRecord
    claimed: EvaluationRecord | None = None

    @property
    def difference(self) -> float | None:
        """Measured minus claimed mean accuracy, as a fraction."""
        return self.measured.score.mean - self.claimed.score.mean if self.claimed else None

    @property
    def agrees(self) -> bool | None:
        """Whether the means lie within two standard errors of their difference; for single seeds: are equal."""
        if self.claimed is None:
            return None
        error = sum(r.score.std**2 / len(r.seeds) for r in (self.claimed, self.measured)) ** 0.5
        return abs(self.difference) <= 2 * error


class DistilledSet(Artifact):
    """A distilled set whose data are what its manifest says, and which can be scored."""

    def evaluate(
        self,
        *,
        source: str | None = None,
        source_revision: str | None = None,
        image_column: str | None = None,
        label_column: str | None = None,
        test_split: str | None = None,
        test_fraction: float = 0.0,
        protocol: str | None = None,
        student: str | None = None,
        repeats: int | None = None,
    ) -> list[Comparison]:
        """Train students on the set as its records say, or as you say, and compare with what its author claims.

        Args:
            source: The real dataset, where it lies now; default: where the manifest says.
            source_revision: Of `source`; default: the recorded commit.
            image_column: Of `source`; default: as recorded.
            label_column: Of `source`; default: as recorded.
            test_split: Of `source`; default: as recorded.
            test_fraction: Of `source`; default: as recorded.
            protocol: Instead of the recorded ones.
            student: Instead of the recorded ones.
            repeats: Students per set, with seeds 0, 1, ...; default 3 where protocol or student is given.

        Returns:
            One comparison per record of the author, or the one asked for.

        Raises:
            InputError: When the set cannot be trusted, or its classes do not fit the source's.
        """
        manifest = self.manifest
        labels, soft = np.asarray(self.dataset["label"]), np.asarray(self.dataset["soft_label"])
        refuse_chance("distilled set", self.location, soft.argmax(1), labels, manifest.class_names, "its soft labels")
        claims = [record for record in self.evaluations if record.submitted_by is None]
        jobs = _jobs(self.location, claims, manifest.image_size, len(manifest.classes), protocol, student, repeats)
        known = manifest.source
        if source is None and known.name not in KNOWN and known.hub_id is None and self.revision:
            valid = f"the set was made from a folder of its author's ({known.name}); pass --source with the real dataset"
            raise InputError("source", None, valid)
        real = load_source(
            source or known.name,
            source_revision=source_revision or (None if source else known.revision),
            image_column=image_column or known.image_column,
            label_column=label_column or known.label_column,
            test_split=test_split or (None if known.test_fraction else known.test_split),
            test_fraction=test_fraction or known.test_fraction,
        )
        own = [SourceClass(c.name, c.source_index, c.wnid) for c in manifest.classes]
        places = match_classes(own, real.class_names, "source", real.name)
        images = [np.asarray(image.convert("RGB")) for image in self.dataset["image"]]
        pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()
        return _measure((pixels, torch.from_numpy(labels)), real, places, jobs, manifest.content_sha256)


def load_distilled(location: str | Path, revision: str | None = None) -> DistilledSet:
    """Load a distilled set and check it: format, columns, counts, and every pixel and label against the manifest.

    Args:
        location: The artifact folder, or NAMESPACE/NAME on the Hub.
        revision: Branch, tag or commit on the Hub; default main.

    Returns:
        The set: `dataset` (columns of `artifact.schema.features`), `manifest`, `evaluations`, and `evaluate()`.

    Raises:
        InputError: When there is no such set, its format is newer, a file is damaged or missing, or the data are not what
            the manifest says.
        HubError: When the Hub fails.
    """
    return _scorable(load_artifact(location, revision))


def _scorable(artifact: Artifact) -> DistilledSet:
    return DistilledSet(**{f.name: getattr(artifact, f.name) for f in dataclasses.fields(artifact)})


def evaluate(
    location: str | Path,
    *,
    revision: str | None = None,
    source: str | None = None,
    source_revision: str | None = None,
    test_split: str | None = None,
    test_fraction: float = 0.0,
    image_column: str | None = None,
    label_column: str | None = None,
    protocol: str | None = None,
    student: str | None = None,
    repeats: int | None = None,
    **layout: str | int | None,
) -> list[Comparison]:
    """Score any published set: one in this format by its own records, another one by what you say of it.

    Args:
        location: Folder, or NAMESPACE/NAME on the Hub.
        revision: Branch, tag or commit on the Hub. The commit it stands for is looked up first, so no cache can answer.
        source: The real dataset; needed for a set that was made elsewhere.
        source_revision: Of `source`.
        test_split: Of `source`.
        test_fraction: Of `source`.
        image_column: Of the set; of `source` for a set in this format.
        label_column: Of the set; of `source` for a set in this format.
        protocol: How students are trained; needed where the set has no record.
        student: Default: as recorded, or the ConvNet that suits the image size.
        repeats: Students per set.
        **layout: `classes`, `data_dir`, `image_size`, `mean`, `std` of a set made elsewhere; see `foreign.read`.

    Returns:
        One comparison per record of the set's author, or the one asked for; without a record, nothing is claimed.

    Raises:
        InputError: When set or source cannot be used, or the order of the classes is not on record.
        HubError: When the Hub fails.
    """
    real = {"source_revision": source_revision, "test_split": test_split, "test_fraction": test_fraction}
    columns = {"image_column": image_column, "label_column": label_column}
    training = {"protocol": protocol, "student": student, "repeats": repeats}
    with start_accelerator().main_process_first():
        found = find(location, revision)
        commit = found.remote.commit if found.remote else None
        if not found.is_artifact:
            classes = layout.pop("classes", None)
            foreign = read_foreign(str(location), revision=commit, **columns, **layout)
    if found.is_artifact:
        for name, value in layout.items():
            if value is not None:
                raise InputError(name, value, f"{location} says it itself; leave the option out")
        return _scorable(read_artifact(found)).evaluate(source=source, **real, **columns, **training)
    if source is None:
        raise InputError("source", None, "the set does not say which real dataset it stands for; pass --source")
    jobs = _jobs(foreign.location, (), foreign.images.shape[-1], len(np.unique(foreign.labels)), **training)
    real = load_source(source, **real)
    own = align(foreign, real, classes)
    names = [real.class_names[place] for place in own.places]
    if own.soft_labels is not None:
        refuse_chance("distilled set", foreign.location, own.soft_labels.argmax(1), own.labels, names, "its soft labels")
    return _measure((own.images, torch.from_numpy(own.labels)), real, own.places, jobs, own.content_sha256)


Job = tuple[Protocol, str, Sequence[int], EvaluationRecord | None]  # rules, student, seeds, claim


def _jobs(
    location: str,
    claims: Sequence[EvaluationRecord],
    size: int,
    num_classes: int,
    protocol: str | None,
    student: str | None,
    repeats: int | None,
) -> list[Job]:
    if claims and protocol is student is repeats is None:
        jobs = [(protocol_named(c.protocol, c.protocol_version), c.student, c.seeds, c) for c in claims]
    elif claims or protocol:
        rules = protocol_named(protocol or claims[0].protocol)
        name = student_name(student, size) if student else (claims[0].student if claims else student_name("auto", size))
        seeds = list(range(repeats or 3))
        same = [c for c in claims if (c.protocol, c.protocol_version, c.student) == (rules.name, rules.version, name)]
        jobs = [(rules, name, seeds, same[0] if same else None)]
    else:
        raise InputError(
            "protocol", None, f"{location} holds no evaluation record that says protocol and student; pass --protocol"
        )
    for _, name, _, _ in jobs:
        check_student(name, num_classes, size)
    return jobs


def _measure(train: Labelled, real: Source, places: Sequence[int], jobs: Sequence[Job], content: str) -> list[Comparison]:
    """Train the students of all jobs, spread over processes; an interrupted call goes on where it stopped.

    Args:
        train: The set, its labels 0 .. C - 1.
        real: Where the test images come from.
        places: Position of each of the C classes in the source; test images of other classes are left out.
        jobs: What to train.
        content: Content hash of the set.

    Raises:
        InputError: When the source has fewer images of a class than the set, and a random baseline is needed; or when the
            same is measured already.
    """
    size, classes = train[0].shape[-1], len(places)
    label_of = np.full(len(real.classes), -1)
    label_of[places] = np.arange(classes)
    rows = np.flatnonzero(label_of[real.test.labels] >= 0)
    test = (real.test.pixels(rows, size), torch.from_numpy(label_of[real.test.labels[rows]]))
    per_class = np.zeros(len(real.classes), dtype=np.int64)
    per_class[places] = torch.bincount(train[1], minlength=classes).numpy()
    real_images = np.bincount(real.train.labels, minlength=len(real.classes))
    if any(claim is None for *_, claim in jobs) and (per_class > real_images).any():
        short = int((real_images - per_class).argmin())
        valid = f"class {real.class_names[short]!r} has {real_images[short]} images to train on, the set {per_class[short]}"
        raise InputError("source", real.name, f"{valid}: no random baseline is as large")

    baseline = random_real(real, per_class, size, label_of)
    settings = {
        "content_sha256": content,
        "source": [real.name, real.revision, hashlib.sha256(real.test.labels.tobytes()).hexdigest()],
        "jobs": [[dataclasses.asdict(rules), student, list(seeds), claim is None] for rules, student, seeds, claim in jobs],
        "mixed_precision": start_accelerator().mixed_precision,
        "torch": torch.__version__,
    }
    key = hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:16]
    folder = cache_dir() / "evaluations" / key
    lock = folder.with_name(f"{key}.lock")
    with ExitStack() as stack:
        if start_accelerator().is_main_process:
            folder.parent.mkdir(parents=True, exist_ok=True)
            try:
                stack.enter_context(filelock.FileLock(lock, timeout=0))
            except filelock.Timeout as error:
                raise InputError("evaluation", str(folder), "it is running already; wait for it to end") from error
        run = Run(folder, settings)
        comparisons = []
        for place, (rules, student, seeds, claim) in enumerate(jobs):
            # Where nothing is claimed, random real images give the number its meaning.
            sets = {"this set": lambda seed: train} | ({} if claim else {"random real": baseline})
            stage = f"{place + 1} of {len(jobs)}, {student}".replace("/", "-")
            scores = score_sets(run, sets, test, classes, student, rules, seeds, stage)
            record = record_scores(
                run, scores, student, rules, seeds, content_sha256=content, source_revision=real.revision, stage=stage
            )
            comparisons.append(Comparison(record, claim))
        run.accelerator.wait_for_everyone()
        if run.is_main:
            shutil.rmtree(folder)  # the next call measures anew
            lock.unlink(missing_ok=True)  # nobody waits for it: whoever finds it held is refused
    return comparisons
