"""Distilled sets side by side, by their manifests and evaluation records; no image is downloaded.

Two accuracies compare when the students were trained by the same version of a protocol, are the same network, learned labels
of the same teacher where one gives them, and were tested on the same classes of the same source. Rows are grouped by that.
"""

import dataclasses
import itertools
import os
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from distill_hub.artifact.find import find, read_description, signed
from distill_hub.artifact.findings import failures, outside_the_literature
from distill_hub.artifact.names import source_name
from distill_hub.artifact.records import EvaluationRecord, Score
from distill_hub.comparing.rows import Coreset, DescribedSet, Row
from distill_hub.config import InputError
from distill_hub.text import printable

SEEN: dict[str, Callable[[Row], Any]] = {  # of one protocol, where it hangs on what the source is said to be
    "some students saw mirrored images, others did not": lambda row: (
        augmentation.get("flip") if isinstance(augmentation := row.record.settings.get("augmentation"), dict) else None
    ),
    # Whitened images have no other normalisation.
    "students saw images of different normalisations": lambda row: (
        None if row.set.is_whitened else row.record.settings.get("mean")
    ),
}


@dataclass(frozen=True)
class Group:
    """Rows whose accuracies compare: by images per class, and of as many best first."""

    source: str  # what its students were tested on
    training: str  # how they were trained: protocol, network, and who gave the labels
    rows: tuple[Row, ...]

    @property
    def title(self) -> str:
        """What the group is called where its source is not said before."""
        return f"{self.source} · {self.training}"

    @property
    def notes(self) -> list[str]:
        """What does not compare within the group after all."""
        notes = []
        if len(self.rows) == 1:
            notes.append("There is nothing here to compare it with.")
        if len(self.sizes) > 1:
            notes.append("Accuracies compare at the same number of images per class (IPC) only.")
        for labels in same_content(row.set for row in self.rows):
            notes.append(f"The same images and labels under several names: {_and(map(printable, labels))}.")
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
    def outside_the_literature(self) -> str | None:
        """That the protocol is one of nobody else, where it is."""
        return outside_the_literature(self.rows[0].record)

    @property
    def failures(self) -> list[str]:
        """Collapsed students and sets below random images, each with its set, or all that share such students."""
        labels: dict[str, list[str]] = {}
        for row in self.rows:
            for line in failures(row.record, row.set.manifest):
                labels.setdefault(line, []).append(row.set.label)
        return [f"{', '.join(dict.fromkeys(whose))}: {line}" for line, whose in labels.items()]

    @property
    def warnings(self) -> list[str]:
        """What nobody may overlook."""
        return [line for line in (self.outside_the_literature, *self.failures) if line]

    @cached_property
    def best_coresets(self) -> dict[str, Coreset]:
        """The best coreset of each number of images per class, in words, that has one."""
        return {row.size: row.best_coreset for row in self.rows if row.best_coreset}

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
    """Call sets that share a name by where they lie, and number those that share that, too.

    Where folders share a name, all folders are called by the ends of their paths: a table that calls some by their names and
    others by their places is hard to read, and where on a machine they lie is nobody's business.
    """
    names, taken, result = Counter(own.manifest.name for own in sets), Counter(), []
    folders = [own for own in sets if own.found.folder]
    shared = any(names[own.manifest.name] > 1 for own in folders)
    ends = _ends([own.found.location for own in folders]) if shared else {}
    for own in sets:
        place = own.found.location
        label = printable(ends.get(place, place)) if place in ends or names[own.manifest.name] > 1 else own.label
        taken[label] += 1
        result.append(dataclasses.replace(own, label=label if taken[label] == 1 else f"{label} ({taken[label]})"))
    return result


def _ends(folders: Sequence[str]) -> dict[str, str]:
    """Return the ends of paths, no longer than tells them apart."""
    paths = {folder: Path(os.path.abspath(folder)).parts[1:] for folder in folders}
    for length in itertools.count(1):
        ends = {folder: "/".join(parts[-length:]) for folder, parts in paths.items()}
        if len(set(ends.values())) == len(set(paths.values())):
            return ends


def compare(sets: Sequence[DescribedSet]) -> list[Group]:
    """Group the records of sets by what compares; groups in the order of the sets, their rows as `Group` says."""
    by_key: dict[tuple, list[Row]] = {}
    for own in sets:
        for record in own.records:
            row = Row(own, record)
            by_key.setdefault(row.key, []).append(row)
    tests = {_tested(rows[0]): source_name(rows[0].set.manifest.source) for rows in by_key.values()}
    shared = Counter(tests.values())  # names of several sources
    groups = []
    for rows in by_key.values():
        name = source_name(rows[0].set.manifest.source)
        source = printable(name if shared[name] == 1 else f"{name} ({_tested(rows[0])})")
        ranked = sorted(_with_rivals(rows), key=lambda row: (row.set.manifest.ipc, row.size, -row.record.score.mean))
        groups.append(Group(source, _training(rows[0]), tuple(ranked)))
    return groups


def _with_rivals(rows: Sequence[Row]) -> list[Row]:
    """Give each row the best coreset of its size among all of them, and the author's claim.

    Where an author claims several, it is that for the same seeds, else the one with most of them.
    """
    best: dict[str, Coreset] = {}
    for row in rows:
        for coreset in row.coresets:
            if row.size not in best or coreset.score.mean > best[row.size].score.mean:
                best[row.size] = coreset
    claims: dict[str, list[EvaluationRecord]] = {}
    for row in rows:
        if row.record.submitted_by is None:
            claims.setdefault(row.set.label, []).append(row.record)

    def claim(row: Row) -> EvaluationRecord | None:
        own = claims.get(row.set.label, ()) if row.record.submitted_by else ()
        return max(own, key=lambda record: (record.seeds == row.record.seeds, len(record.seeds)), default=None)

    return [dataclasses.replace(row, best_coreset=best.get(row.size), claim=claim(row)) for row in rows]


def same_content(sets: Iterable[DescribedSet]) -> list[list[str]]:
    """Return the labels of sets that hold the same images and labels, where several do."""
    by_content: dict[str, dict[str, None]] = {}
    for own in sets:
        by_content.setdefault(own.manifest.content_sha256, {})[own.label] = None
    return [list(labels) for labels in by_content.values() if len(labels) > 1]


def _training(row: Row) -> str:
    parts = [row.record.protocol_label, row.record.student]
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
