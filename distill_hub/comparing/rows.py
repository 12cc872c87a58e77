"""A measurement of a distilled set, and what it is held against: random images, the best coreset, its author's claim."""

import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from distill_hub.artifact.cost import cost_parts, is_whole, total_cost
from distill_hub.artifact.find import Found, folder_bytes
from distill_hub.artifact.findings import below_random, collapsed
from distill_hub.artifact.manifest import CostRecord, Manifest
from distill_hub.artifact.names import CORESETS, model_name
from distill_hub.artifact.records import OWN, RANDOM, REAL, Comparison, EvaluationRecord, Score

AUTHOR = "author"


@dataclass(frozen=True)
class DescribedSet:
    """A set as it describes itself."""

    label: str  # what tables call it
    found: Found
    manifest: Manifest
    records: tuple[EvaluationRecord, ...]
    signed: frozenset[str] = frozenset()  # files of records that came from the account which they name

    @property
    def data_bytes(self) -> int:
        """Size of the files in `data/`."""
        return folder_bytes(self.found.files, "data")

    @property
    def is_whitened(self) -> bool:
        """Whether students of the set see whitened images."""
        return self.manifest.free_pixels is not None and self.manifest.free_pixels.zca is not None

    @cached_property
    def cost(self) -> dict[str, CostRecord | None]:
        """What the set and the models that were fitted for it took, by part; see `artifact.cost`."""
        return cost_parts(self.manifest)

    @property
    def peak_memory(self) -> tuple[str, int] | None:
        """Device and largest peak in bytes of one process: of the GPU where there was one."""
        peaks = self.manifest.environment.peak_memory_bytes if self.manifest.environment else {}
        return next(((device, peaks[device]) for device in ("cuda", "cpu") if device in peaks), None)


@dataclass(frozen=True)
class Coreset:
    """What a choice of real images reached."""

    name: str  # one of `CORESETS`
    score: Score
    set: DescribedSet  # itself, or the one that it was measured beside
    is_baseline: bool
    is_collapsed: bool  # whether a student collapsed

    @property
    def whose(self) -> str:
        """Its name, and where it is on record."""
        return f"{self.name} ({'baseline of ' if self.is_baseline else ''}{self.set.label})"


def welch_p(one: Score, other: Score) -> float | None:
    """Return the two-sided p of Welch's t-test of two means.

    Welch (1947): the variances are not assumed to be equal. None with fewer than two seeds, or where no seed differs from
    another, which leaves no scale to measure by.
    """
    if min(len(one.last), len(other.last)) < 2 or one.std == other.std == 0:
        return None
    from scipy.special import stdtr  # not scipy.stats, which takes longer to load than the rest of `compare` to run

    squares = [(score.std**2 / len(score.last), len(score.last) - 1) for score in (one, other)]
    variance = sum(square for square, _ in squares)  # of the difference of the means
    freedom = variance**2 / sum(square**2 / degrees for square, degrees in squares)
    return float(2 * stdtr(freedom, -abs(one.mean - other.mean) / variance**0.5))


@dataclass(frozen=True)
class Row:
    """One measurement of one set, and what it is held against among the rows that compare with it."""

    set: DescribedSet
    record: EvaluationRecord
    best_coreset: Coreset | None = None  # of as many images per class
    claim: EvaluationRecord | None = None  # of the author, where somebody else measured

    @property
    def by(self) -> str:
        """Who measured: the account that sent the record to the Hub, or one that it merely names."""
        name = self.record.submitted_by
        return AUTHOR if name is None else name if self.confirmed else f"{name} (unconfirmed)"

    @property
    def confirmed(self) -> bool:
        """Whether the Hub tells that the record came from the account which it names."""
        return self.record.file_name in self.set.signed

    @property
    def id(self) -> str:
        """What a link to the row names it by, of the set's place and the record's file: the same on every page."""
        found = self.set.found
        name = f"{found.remote.repo_id if found.remote else self.set.manifest.name}-{self.record.file_name}"
        return re.sub("[^A-Za-z0-9._-]+", "-", name.removesuffix(".json"))

    @property
    def size(self) -> str:
        """Images per class, in words; accuracies compare at the same number only."""
        return self.set.manifest.ipc_text

    @cached_property
    def collapsed(self) -> dict[str, list[int]]:
        """Seeds in which students collapsed, by what they were trained on; see `findings.collapsed`."""
        return collapsed(self.record, self.set.manifest)

    @property
    def coresets(self) -> list[Coreset]:
        """The coresets that the row measured: the set itself where it is one, and baselines."""
        scores, method = self.record.baselines, self.set.manifest.method.name
        own = [Coreset(method, self.record.score, self.set, False, OWN in self.collapsed)] if method in CORESETS else []
        return own + [Coreset(n, scores[n], self.set, True, n in self.collapsed) for n in CORESETS if n in scores]

    @property
    def random(self) -> Score | None:
        """As many random real images under the same protocol, from the same record."""
        return self.record.baselines.get(RANDOM)

    @property
    def real(self) -> float | None:
        """Mean accuracy after training on all real images with hard labels, where it is on record."""
        record = self.record
        trained, ranking = record.baselines.get(REAL), record.dd_ranking
        return trained.mean if trained else ranking.real_accuracy if ranking else None

    @property
    def difference(self) -> float | None:
        """Mean accuracy less that of random real images, a fraction."""
        return self.record.score.mean - self.random.mean if self.random else None

    @property
    def over_coreset(self) -> float | None:
        """Mean accuracy less that of the best coreset, a fraction; 0 where it is that coreset."""
        return self.record.score.mean - self.best_coreset.score.mean if self.best_coreset else None

    @property
    def over_claim(self) -> Comparison | None:
        """The measurement beside what the author claims for the same students."""
        return Comparison(self.record, self.claim) if self.claim else None

    @property
    def p_value(self) -> float | None:
        """See `welch_p`, of the set's students against those of random real images."""
        return welch_p(self.record.score, self.random) if self.random else None

    @property
    def labeller(self) -> tuple[str, str] | None:
        """Who gave the labels that the students learned, and a hash that tells two of a name apart; None: hard labels."""
        manifest, record = self.set.manifest, self.record
        teacher = record.teacher
        if record.views_sha256:
            views = manifest.views
            if views is None or views.sha256 != record.views_sha256:
                return "views that are not there any more", record.views_sha256
            teacher = views.teacher
        elif record.settings.get("labels") == "soft":
            if manifest.soft_labels in ("author", "learned"):
                whose = "its author" if manifest.soft_labels == "author" else "learned with its images"
                return whose, manifest.content_sha256
            teacher = manifest.teacher
        return (model_name(teacher), teacher.sha256) if teacher else None

    @property
    def replays(self) -> bool:
        """Whether the students learned stored views; some protocols can do without them, and then train otherwise."""
        return self.record.views_sha256 is not None

    @property
    def key(self) -> tuple:
        """Equal for rows whose accuracies compare."""
        source, record = self.set.manifest.source, self.record
        classes = frozenset(c.source_index for c in self.set.manifest.classes)
        tested = source.identity, source.test_split, source.test_fraction, classes
        return tested, record.protocol_label, record.student, self.labeller and self.labeller[1], self.replays

    def as_json(self) -> dict[str, Any]:
        """Return the row with unrounded numbers: accuracies as fractions, sizes in bytes, times in seconds."""
        manifest, record = self.set.manifest, self.record
        environment, ranking = manifest.environment, record.dd_ranking
        coreset, claim = self.best_coreset, self.over_claim
        return {
            "location": self.set.found.location,
            "commit": self.set.found.remote.commit if self.set.found.remote else None,
            "name": manifest.name,
            "content_sha256": manifest.content_sha256,
            "method": manifest.method.name,
            "ipc": manifest.ipc,
            "submitted_by": record.submitted_by,
            "submitted_by_confirmed": self.confirmed if record.submitted_by else None,
            "seeds": record.seeds,
            "mean": record.score.mean,
            "std": record.score.std if len(record.seeds) > 1 else None,
            "best_mean": record.score.best_mean,
            "random_real_mean": self.random.mean if self.random else None,
            "all_real_mean": self.real,
            "difference": self.difference,
            "p_value": self.p_value,
            "best_coreset": coreset and {"name": coreset.name, "mean": coreset.score.mean, "set": coreset.set.label},
            "best_coreset_difference": self.over_coreset,
            "claim_difference": claim and claim.difference,
            "agrees_with_claim": claim and claim.agrees,
            "below_random_real": below_random(record) is not None if self.random else None,
            "collapsed_seeds": self.collapsed,
            "lrs": ranking.lrs if ranking else None,
            "ars": ranking.ars if ranking else None,
            "data_bytes": self.set.data_bytes,
            "bytes": {"images": size.images, "labels": size.labels, "both": size.both} if (size := record.bytes) else None,
            "percent_per_mb": record.percent_per_mb,
            **total_cost(self.set.cost),
            "cost_is_whole": is_whole(self.set.cost),
            "cost_parts": {name: part and part.model_dump() for name, part in self.set.cost.items()},
            "peak_memory_bytes": environment.peak_memory_bytes if environment else None,
            "hardware": environment.hardware if environment else None,
        }
