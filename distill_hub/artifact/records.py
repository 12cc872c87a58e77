"""Results beside the data: one record per (protocol, student), added by whoever ran it."""

import statistics
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field, model_validator

from distill_hub.artifact.base import NAME, Count, Moment, Name, PackageRecord, Record, Seconds
from distill_hub.artifact.manifest import EnvironmentRecord, ModelRecord

Fraction = Annotated[float, Field(ge=0, le=1)]


class Score(Record):
    """Test accuracies of the students trained on one set, one entry per seed, as fractions in [0, 1]."""

    last: list[Fraction] = Field(min_length=1)  # after the last epoch
    best: list[Fraction] = Field(min_length=1)  # best look at the test set: what papers print, biased upwards
    best_epoch: list[Annotated[int, Field(ge=0, le=10**9)]]  # when that was, from 1
    # At every look, those of the settings' `looks`; None in records that do not hold it.
    curve: list[Annotated[list[Fraction], Field(min_length=1)]] | None = None

    @model_validator(mode="after")
    def _curves_agree(self):
        curves = self.curve
        if curves is not None and ([c[-1] for c in curves], [max(c) for c in curves]) != (self.last, self.best):
            raise ValueError("a curve must end at the last accuracy, and its highest point must be the best one")
        return self

    @property
    def mean(self) -> float:
        """Mean last accuracy."""
        return statistics.fmean(self.last)

    @property
    def std(self) -> float:
        """Sample standard deviation (ddof 1) of the last accuracy; 0 for one seed."""
        return statistics.stdev(self.last) if len(self.last) > 1 else 0.0

    @property
    def best_mean(self) -> float:
        """Mean best accuracy."""
        return statistics.fmean(self.best)

    def percent(self) -> str:
        """Return 'mean ± std' of the last accuracy in percent."""
        return f"{100 * self.mean:.1f} ± {100 * self.std:.1f}"


class DDRanking(Record):
    """DD-Ranking's scores (Li et al., 2025), from the record's mean accuracies as fractions."""

    lrs: Fraction  # label-robust score
    ars: Fraction  # augmentation-robust score
    real_accuracy: Fraction  # after training on all real data with hard labels


class DataBytes(Record):
    """What students were trained on takes on the disk, in bytes."""

    images: Count
    labels: Count | None = None  # None: a teacher gave them during training

    @property
    def both(self) -> int | None:
        """Of images and labels; None: the labels are not stored."""
        return None if self.labels is None else self.images + self.labels


OWN = "this set"  # what tables call the set among its baselines
RANDOM = "random real"  # the baseline of every score, where its labels allow one
REAL = "all real images, hard labels"  # what no set of a few images is expected to exceed; trained on request


def protocol_label(name: str, version: int, *, standard: bool) -> str:
    """Return name and version of a protocol, marked when a training by it is not of the literature."""
    return f"{name} v{version}{'' if standard else ' (NON-STANDARD)'}"


class EvaluationRecord(Record):
    """Students trained on a distilled set by a named protocol, and on its baselines."""

    RARE = ("protocol_package", "student_package", "backbone")
    protocol: Name
    protocol_version: int = Field(ge=0, le=10**6)
    standard: bool  # False: not as the literature trains, comparable only with itself
    settings: dict[str, Any] = Field(
        default_factory=dict
    )  # every number of the training, as the protocol gave it for this set
    student: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_./-]*$", max_length=100)
    # Where protocol and student come from; None: distill-hub itself, or timm.
    protocol_package: PackageRecord | None = None
    student_package: PackageRecord | None = None
    backbone: ModelRecord | None = None  # the student, of a protocol that trains a new last layer for a trained network
    seeds: list[Annotated[int, Field(ge=0, lt=2**63)]] = Field(min_length=1)
    score: Score
    baselines: dict[str, Score] = Field(default_factory=dict)  # e.g. "random real", at the same IPC; and other trainings
    dd_ranking: DDRanking | None = None
    mmd: float | None = None  # squared maximum mean discrepancy to the real images in the teacher's embeddings
    teacher: ModelRecord | None = None  # who gave the labels, of a protocol that asks a teacher online
    views_sha256: str | None = None  # of the stored views, of a protocol that replays them
    bytes: DataBytes | None = None  # of the set's images and labels; None: not known, as of a set made elsewhere
    test_images: Annotated[int, Field(gt=0, lt=2**63)] | None = None  # on which every student was tested
    chance: Fraction | None = None  # share of them that shows the most frequent class: what always naming it reaches
    source_revision: str | None = None
    content_sha256: str
    environment: EnvironmentRecord
    # Most that trained one student together, which is the same up to rounding; None: each was trained by one, or unknown.
    processes_per_student: Annotated[int, Field(gt=1, le=1_000_000)] | None = None
    seconds: Seconds
    date: Moment
    # Account on the Hub; None: the author of the set. Another one may have sent the record, see `hub.last_authors`.
    submitted_by: str | None = Field(default=None, pattern=NAME, max_length=100)

    @model_validator(mode="after")
    def _one_score_per_seed(self):
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"every seed counts once, not as in {self.seeds[:20]}")
        for score in (self.score, *self.baselines.values()):
            if not len(score.last) == len(score.best) == len(score.best_epoch) == len(self.seeds):
                raise ValueError(f"every score needs one entry for each of the seeds {self.seeds[:20]}")
        return self

    @property
    def scores(self) -> dict[str, Score]:
        """The score of the set, as `OWN`, and those of its baselines."""
        return {OWN: self.score, **self.baselines}

    @property
    def percent_per_mb(self) -> float | None:
        """Mean accuracy in percent per megabyte (10^6 bytes) of images and labels; None where their size is not known."""
        return 1e8 * self.score.mean / self.bytes.both if self.bytes and self.bytes.both else None

    @property
    def protocol_label(self) -> str:
        """Name and version of the protocol, marked when it is not of the literature; see `findings`."""
        return protocol_label(self.protocol, self.protocol_version, standard=self.standard)

    @property
    def why_non_standard(self) -> str | None:
        """What is not as the literature trains, where the record says it."""
        reason = self.settings.get("non_standard")
        return reason if isinstance(reason, str) else None

    @property
    def teacher_sha256(self) -> str | None:
        """Hash of the teacher's weights."""
        return self.teacher.sha256 if self.teacher else None

    @property
    def file_name(self) -> str:
        """Name of the record's file in `evaluations/`."""
        student = self.student.replace("/", "-")  # timm/resnet18
        who = f"-{self.submitted_by}" if self.submitted_by else ""
        return f"{self.protocol}-{student}-{self.date:%Y%m%dT%H%M%SZ}{who}.json"

    def measures_the_same(self, other: "EvaluationRecord") -> bool:
        """Whether another record is by the same person, of the same content and labels, protocol, student and seeds."""
        fields = (
            "content_sha256", "views_sha256", "teacher_sha256", "protocol", "protocol_version", "student", "seeds",
            "submitted_by",
        )  # fmt: skip
        return all(getattr(self, field) == getattr(other, field) for field in fields)


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
        return abs(self.measured.score.mean - self.claimed.score.mean) <= 2 * error
