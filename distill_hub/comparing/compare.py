"""Distilled sets side by side, by their manifests and evaluation records; no image is downloaded.

Two accuracies compare when the students were trained by the same version of a protocol, are the same network, learned labels
of the same teacher where one gives them, and were tested on the same classes of the same source. Rows are grouped by that.
"""

import dataclasses
import itertools
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from distill_hub.artifact.cost import cost_parts, is_whole, total_cost
from distill_hub.artifact.find import Found, find, folder_bytes, read_description, signed
from distill_hub.artifact.findings import below_random, collapsed, failures, outside_the_literature
from distill_hub.artifact.manifest import CostRecord, Manifest
from distill_hub.artifact.names import model_name, source_name
from distill_hub.artifact.records import RANDOM, REAL, EvaluationRecord, Score
from distill_hub.config import InputError
from distill_hub.text import printable

AUTHOR = "author"
SEEN: dict[str, Callable[["Row"], Any]] = {  # of one protocol, where it hangs on what the source is said to be
    "some students saw mirrored images, others did not": lambda row: (
        augmentation.get("flip") if isinstance(augmentation := row.record.settings.get("augmentation"), dict) else None
    ),
    # Whitened images have no other normalisation.
    "students saw images of different normalisations": lambda row: (
        None if row.set.is_whitened else row.record.settings.get("mean")
    ),
}


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
class Row:
    """One measurement of one set."""

    set: DescribedSet
    record: EvaluationRecord

    @property
    def by(self) -> str:
        """Who measured: the account that sent the record to the Hub, or one that it merely names."""
        name = self.record.submitted_by
        return AUTHOR if name is None else name if self.confirmed else f"{name} (claimed)"

    @property
    def confirmed(self) -> bool:
        """Whether the Hub tells that the record came from the account which it names."""
        return self.record.file_name in self.set.signed

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
    def p_value(self) -> float | None:
        """Two-sided p of Welch's t-test of the set's students against those of random real images.

        Welch (1947): the variances are not assumed to be equal. None with fewer than two seeds, or where no seed differs
        from another, which leaves no scale to measure by.
        """
        own, random = self.record.score, self.random
        if random is None or len(own.last) < 2 or own.std == random.std == 0:
            return None
        from scipy.special import stdtr  # not scipy.stats, which takes longer to load than the rest of `compare` to run

        squares = [(score.std**2 / len(score.last), len(score.last) - 1) for score in (own, random)]
        variance = sum(square for square, _ in squares)  # of the difference of the means
        freedom = variance**2 / sum(square**2 / degrees for square, degrees in squares)
        return float(2 * stdtr(freedom, -abs(self.difference) / variance**0.5))

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
            "below_random_real": below_random(record) is not None if self.random else None,
            "collapsed_seeds": collapsed(record, manifest),
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


@dataclass(frozen=True)
class Group:
    """Rows whose accuracies compare, best first."""

    title: str
    rows: tuple[Row, ...]

    @property
    def notes(self) -> list[str]:
        """What does not compare within the group after all."""
        notes = []
        if len(self.rows) == 1:
            notes.append("There is nothing here to compare it with.")
        if len(self.sizes) > 1:
            notes.append("Accuracies compare at the same number of images per class (IPC) only.")
        sides = {row.record.settings.get("image_size", row.set.manifest.image_size) for row in self.rows}
        if len(sides) > 1:
            notes.append(f"Accuracies: students saw images of {_and(sides)} pixels a side.")
        for what, of in SEEN.items():
            if len({repr(own) for row in self.rows if (own := of(row)) is not None}) > 1:
                notes.append(f"Accuracies: {what}, as was said of the source of each.")
        whitened = {row.set.label for row in self.rows if row.set.is_whitened}
        if whitened and not all(row.set.is_whitened for row in self.rows):
            notes.append(f"Accuracies: students of {_and(map(printable, whitened))} saw whitened images, others did not.")
        if tiled := {row.set.label for row in self.rows if row.set.manifest.tiles}:
            notes.append(f"IPC counts stored images: those of {_and(map(printable, tiled))} hold several tiles each.")
        machines = {
            f"{made.hardware}, {made.processes} process{'es' * (made.processes > 1)}"
            for row in self.rows
            if (made := row.set.manifest.environment)
        }
        if len(machines) > 1:
            notes.append(f"Minutes and memory do not compare: they were taken on {_and(map(printable, machines))}.")
        real = {round(row.record.dd_ranking.real_accuracy, 3) for row in self.rows if row.record.dd_ranking}
        if len(real) > 1:
            notes.append(f"LRS does not compare: accuracies on all real data were {_and(real)}.")
        return notes

    @property
    def warnings(self) -> list[str]:
        """What nobody may overlook: a protocol of nobody else, collapsed students, sets below random images."""
        lines = [outside_the_literature(self.rows[0].record)]
        lines += [f"{row.set.label}: {line}" for row in self.rows for line in failures(row.record, row.set.manifest)]
        return [line for line in lines if line]

    @cached_property
    def sizes(self) -> list[int]:
        """The numbers of images per class that there are."""
        return sorted({row.set.manifest.ipc for row in self.rows})

    def as_json(self) -> dict[str, Any]:
        """Return the group, ready for JSON."""
        row = self.rows[0]
        return {
            "source": source_name(row.set.manifest.source),
            "source_fingerprint": row.set.manifest.source.fingerprint,
            "protocol": row.record.protocol,
            "protocol_version": row.record.protocol_version,
            "standard": row.record.standard,
            "student": row.record.student,
            "labels_by": row.labeller and row.labeller[0],
            "labels_by_sha256": row.labeller and row.labeller[1],
            "warnings": self.warnings,
            "not_comparable": self.notes,
            "rows": [row.as_json() for row in self.rows],
        }


def _and(values: Iterable[Any]) -> str:
    return " and ".join(map(str, sorted(values)))


def read_sets(locations: Sequence[str]) -> list[DescribedSet]:
    """Read manifests and records of sets.

    Args:
        locations: Folders, or ids on the Hub. One named twice is read once.

    Raises:
        InputError: For what is neither, or no set in this format.
        HubError: When the Hub fails.
    """
    return told_apart([read_set(location) for location in dict.fromkeys(locations)])


def read_set(location: str) -> DescribedSet:
    """Read manifest and records of one set; see `read_sets`."""
    found = find(location)
    if not found.is_artifact:
        valid = "it holds no manifest.json; `distill-hub adopt` brings a set made elsewhere into this format"
        raise InputError("distilled set", found.location, valid)
    manifest, records = read_description(found)
    return DescribedSet(manifest.name, found, manifest, records, frozenset(signed(found, records)))


def told_apart(sets: Sequence[DescribedSet]) -> list[DescribedSet]:
    """Call sets that share a name by where they lie."""
    names = Counter(own.manifest.name for own in sets)
    return [
        own if names[own.manifest.name] == 1 else dataclasses.replace(own, label=printable(own.found.location))
        for own in sets
    ]


def compare(sets: Sequence[DescribedSet]) -> list[Group]:
    """Group the records of sets by what compares, best first within a group; groups in the order of the sets."""
    by_key: dict[tuple, list[Row]] = {}
    for own in sets:
        for record in own.records:
            row = Row(own, record)
            by_key.setdefault(row.key, []).append(row)
    titles = [_title(rows[0]) for rows in by_key.values()]
    counts = Counter(titles)
    return [
        Group(
            title if counts[title] == 1 else f"{title} · {_tested(rows[0])}",
            tuple(sorted(rows, key=lambda row: -row.record.score.mean)),
        )
        for title, rows in zip(titles, by_key.values(), strict=True)
    ]


def _title(row: Row) -> str:
    parts = [source_name(row.set.manifest.source), row.record.protocol_label, row.record.student]
    if row.labeller:
        parts.append("{}labels of {} ({:.8})".format("stored " * row.replays, *row.labeller))
    return printable(" · ".join(parts))


def _tested(row: Row) -> str:
    """Tell sources of one name apart."""
    manifest, source = row.set.manifest, row.set.manifest.source
    held_out = f", {source.test_fraction:.0%} held out" if source.test_fraction else ""
    return printable(f"{len(manifest.classes)} classes of {source.identity[:8]}, split {source.test_split}{held_out}")


def pooled(scores: Iterable[Score]) -> tuple[float, float]:
    """Return mean and sample standard deviation of the last accuracies of different scores; 0 for one accuracy."""
    values = list(itertools.chain.from_iterable(dict.fromkeys(tuple(score.last) for score in scores)))
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0
