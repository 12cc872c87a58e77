"""What is measured of a set: as its own records say, or as somebody asks for it."""

import os
from collections.abc import Sequence
from dataclasses import dataclass

from distill_hub.artifact.records import EvaluationRecord
from distill_hub.config import InputError
from distill_hub.networks.names import other_network, other_protocol
from distill_hub.training.frozen import recorded_name
from distill_hub.training.protocols import Protocol
from distill_hub.training.protocols import protocol as protocol_named


@dataclass(frozen=True)
class Request:
    """How students are trained; None: as the set's records say.

    Args:
        protocol: Name of a protocol; needed where the set has no record.
        students: Names of networks, comma-separated; default: as recorded, or what suits the image size.
        repeats: Students per set, with seeds 0, 1, ...; default 3 where protocol or students are given.
        baselines: Real images that are trained on, too, see `scores.trials_of`, comma-separated; default: random ones where
            there is no claim of the set's author, which brought its own.
        baseline_dynamics: See `Baselines.dynamics`.
        teacher: Name for `load_classifier`, or 'auto' to fit one; for protocols whose labels a teacher gives.
        teacher_revision: Branch, tag or commit of the teacher on the Hub.
        compile: Compile the students.
        seeds_together: Train the students of all seeds side by side in one process.
        dd_ranking: Also train what LRS and ARS compare with; see `evaluation.metrics`.
        real_accuracy: For LRS: accuracy, a fraction, of the student on all real data with hard labels; else it is trained.
        full_data: Also train students on all real images, with hard labels.
        mmd: Also measure the distance of the teacher's embeddings of the set to those of the real images.
        save_students: Folder to keep the trained students in; None: they are measured and forgotten.
        log_with: Experiment trackers, comma-separated; see `Trackers.open`.
        check: Whether each is to be compared with a claim of the set's author.
        dry_run: Print what it would take, and measure nothing.
    """

    protocol: str | None = None
    students: str | None = None
    repeats: int | None = None
    baselines: str | None = None
    baseline_dynamics: str = "auto"
    teacher: str | None = None
    teacher_revision: str | None = None
    compile: bool = False
    seeds_together: bool = False
    dd_ranking: bool = False
    real_accuracy: float | None = None
    full_data: bool = False
    mmd: bool = False
    save_students: str | None = None
    log_with: str | None = None
    check: bool = False
    dry_run: bool = False


@dataclass(frozen=True)
class Job:
    """One record to make."""

    rules: Protocol
    student: str
    seeds: Sequence[int]
    claim: EvaluationRecord | None = None  # the author's, of the same


def _check_packages(claim: EvaluationRecord) -> None:
    """Refuse what a claim was measured with that comes from a package which is not installed here."""
    if claim.protocol_package:
        claim.protocol_package.check("protocols", claim.protocol, other_protocol(claim.protocol))
    if claim.student_package:
        claim.student_package.check("networks", claim.student, other_network(claim.student))


def _check_backbone(claim: EvaluationRecord) -> None:
    """Refuse a claim of a trained network that is in a folder of its author's, and in none of that name here."""
    if claim.backbone and "/" not in claim.student and not os.path.isdir(claim.student):
        valid = "it is a folder of whoever measured it"
        raise InputError(
            "students",
            claim.student,
            f"{valid}; pass --protocol {claim.protocol} --students with the folder that holds the same here",
        )


def other_versions(jobs: Sequence[Job]) -> list[str]:
    """Say which packages of protocols and students are here in other versions than the claims were measured with."""
    lines = {}
    for claim in (job.claim for job in jobs if job.claim):
        pairs = (
            (claim.protocol_package, other_protocol(claim.protocol)),
            (claim.student_package, other_network(claim.student)),
        )
        for then, now in pairs:
            if then and now and then.version != now.version:
                lines[then.name] = f"{then.name}: its author measured with version {then.version}, here is {now.version}"
    return [*lines.values()]


def jobs_of(
    location: str, claims: Sequence[EvaluationRecord], size: int, num_classes: int, views: str | None, how: Request
) -> list[Job]:
    """Return what to measure. What is claimed of views that were replaced since cannot be measured again.

    Args:
        location: Of the set.
        claims: Its author's records; none where it is not in this format.
        size: Side of its images in pixels.
        num_classes: Number of its classes.
        views: Hash of its stored views; None: it has none.
        how: What is asked for.

    Raises:
        InputError: For an unknown protocol or student, one of a package that is not installed, a student that cannot be
            trained on such images, and where a claim is to be checked and there is none.
    """
    here = [claim for claim in claims if claim.views_sha256 in (None, views)]

    def rules_of(claim: EvaluationRecord) -> Protocol:
        _check_packages(claim)
        _check_backbone(claim)
        return protocol_named(claim.protocol, claim.protocol_version).resolved(views=claim.views_sha256 is not None)

    if claims and how.protocol is how.students is how.repeats is None:
        jobs = [Job(rules_of(c), c.student, c.seeds, c if c in here else None) for c in claims]
    else:
        if claims and not how.protocol:
            _check_packages(claims[0])
        rules = protocol_named(how.protocol or (claims[0].protocol if claims else "quick")).resolved(views=bool(views))
        kind = rules.name, rules.version, rules.labels == "views"
        same = {c.student: c for c in here if (c.protocol, c.protocol_version, c.views_sha256 is not None) == kind}
        students = rules.students(how.students or ",".join(same) or "auto", size)
        jobs = [Job(rules, student, range(how.repeats or 3), same.get(recorded_name(student))) for student in students]
    for job in jobs:
        if how.check and job.claim is None:
            made = ", ".join(f"{claim.protocol_label} with {claim.student}" for claim in here) or "nothing"
            of_views = " of the views that it holds now" if len(here) < len(claims) else ""
            raise InputError("check", f"{job.rules.name} with {job.student}", f"{location} claims {made}{of_views}")
        job.rules.check_student(job.student, num_classes, size)
    return jobs
