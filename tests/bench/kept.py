"""What is kept of a study in cards/results, beside the plan that it was made by: for results_page.py and first_screen.py."""

import dataclasses
import json
import math
import re
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from distill_hub.artifact.names import TITLES, method_title, source_name
from distill_hub.artifact.records import Score
from distill_hub.comparing.compare import compare, read_sets
from distill_hub.comparing.rows import Row, welch_p

RESULTS, PLANS = "cards/results", "tests/bench/plans"
LARGEST_P = 0.05  # of two means that differ
_FOLDER = re.compile(r"(.+)-ipc(\d+)").fullmatch


def studies(root: Path) -> "list[Study]":
    """Return what is kept in a checkout, a study for each source, in the order of their names."""
    folders = (root / RESULTS).glob("*/") if (root / RESULTS).is_dir() else ()
    found = [Study(root, folder) for folder in sorted(folders)]
    return [study for study in found if study.rows]


@dataclasses.dataclass(frozen=True)
class Study:
    """The records of one source.

    Args:
        root: The checkout.
        folder: Holds NAME-ipcN for each set, and models; the plan is called as it is.
    """

    root: Path
    folder: Path

    @cached_property
    def plan(self) -> dict[str, Any]:
        """The plan."""
        return yaml.safe_load((self.root / PLANS / f"{self.folder.name}.yaml").read_text(encoding="utf-8"))

    @cached_property
    def rows(self) -> dict[tuple[str, str, int], Row]:
        """Measurements by table, as TABLE/PROTOCOL, set and images per class; of several of a kind the last."""
        folders = {str(own): match for own in sorted(self.folder.glob("*-ipc*")) if (match := _FOLDER(own.name))}
        measured: dict[tuple, Row] = {}
        for group in compare(read_sets(list(folders))):
            for row in group.rows:
                name, ipc = folders[row.set.found.location].groups()
                key = row.record.student, row.record.protocol, name, int(ipc)
                if key not in measured or measured[key].record.date < row.record.date:
                    measured[key] = row
        return {
            (table, own, ipc): measured[key]
            for table, (student, protocol) in self.tables.items()
            for own in self.sets(table)
            for ipc in self.ipc(table)
            if (key := (student, protocol, own, ipc)) in measured
        }

    @cached_property
    def tables(self) -> dict[str, tuple[str, str]]:
        """Student and protocol of each table, by TABLE/PROTOCOL."""
        tables = self.plan["tables"].items()
        return {f"{name}/{rules}": (table["student"], rules) for name, table in tables for rules in table["protocols"]}

    def sets(self, table: str) -> list[str]:
        """Return the names of a table's sets, measured or not."""
        return self.plan["tables"][table.split("/")[0]]["sets"]

    def ipc(self, table: str) -> list[int]:
        """Return the numbers of images per class of a table, measured or not."""
        return self.plan["tables"][table.split("/")[0]]["ipc"]

    def of(self, table: str) -> list[Row]:
        """Return the measurements of a table."""
        return [row for (name, _, _), row in self.rows.items() if name == table]

    def score(self, table: str, name: str, ipc: int) -> Score | None:
        """Return what students of a set reach; by `random`, that of random real images drawn anew for each of them."""
        if name == "random":
            found = (row.random for (of, _, size), row in self.rows.items() if (of, size) == (table, ipc))
            return next(filter(None, found), None)
        row = self.rows.get((table, name, ipc))
        return row.record.score if row else None

    def first(self, table: str, names: Iterable[str], ipc: int) -> tuple[str, Score] | None:
        """Return the first of some sets that a table has, and what its students reach."""
        return next(((name, score) for name in names if (score := self.score(table, name, ipc))), None)

    def best_coreset(self, table: str, ipc: int) -> Score | None:
        """Return what the best coreset of a table reaches."""
        found = (row.best_coreset for (of, _, size), row in self.rows.items() if (of, size) == (table, ipc))
        return next((best.score for best in found if best), None)

    def all_real(self, student: str) -> float | None:
        """Return the accuracy of a student of all real images, as a fraction."""
        model = self.models.get(f"all-real-{student.replace('/', '-')}")
        return model["test_accuracy"] if model else None

    def unlike_plan(self) -> list[str]:
        """Return what manifests say otherwise than the plan's words, and what does not compare within a table.

        Of words, those that both name; models lie anywhere.
        """
        found = {}
        for (_, name, ipc), row in self.rows.items():
            words, config = self.plan["sets"][name], row.set.manifest.method.config
            for option, value in re.findall(r"--(\w+) (\S+)", words if isinstance(words, str) else words.get(ipc, "")):
                made = config.get(option, value)
                if "{models}" not in value and made not in (value, yaml.safe_load(value)):
                    found[f"{name}-ipc{ipc}: --{option} {value} in the plan, {made} in its manifest"] = None
        for table in self.tables:
            ways = {(row.record.protocol_label, row.record.teacher_sha256, *row.record.seeds) for row in self.of(table)}
            if len(ways) > 1:
                found[f"{table}: students of several protocol versions, teachers or seeds"] = None
        return list(found)

    @cached_property
    def models(self) -> dict[str, dict[str, Any]]:
        """What is on record of the classifiers, by name; see `artifact.classifier.ClassifierRecord`."""
        files = sorted(self.folder.glob("models/*/config.json"))
        read = {file.parent.name: json.loads(file.read_text(encoding="utf-8")) for file in files}
        return {name: facts["distill_hub"] for name, facts in read.items() if "distill_hub" in facts}

    @property
    def title(self) -> str:
        """What a heading calls the source."""
        manifest = next(iter(self.rows.values())).set.manifest
        source = manifest.source
        name = TITLES.get(source.name) or TITLES.get(self.plan["source"]) or source_name(source)
        return f"{name}: {len(manifest.classes)} classes, {source.train_images:,} images of {manifest.image_size} px"

    def names(self, table: str) -> dict[str, str]:
        """Return what the measured sets of a table are called: by method, and by the plan where several share one."""
        methods = {name: method_title(row.set.manifest.method) for (of, name, _), row in self.rows.items() if of == table}
        if "random" in methods:
            methods["random"] = "one random draw"  # whose students share it, unlike those of random real images
        shared = [title for title in methods.values() if list(methods.values()).count(title) > 1]
        return {name: f"{title}, `{name}`" if title in shared else title for name, title in methods.items()}


def difference(one: Score, other: Score) -> tuple[float, float]:
    """Return the difference of two means and its standard error, both as fractions; Welch's: variances may differ."""
    error = math.sqrt(sum(score.std**2 / len(score.last) for score in (one, other)))
    return one.mean - other.mean, error


def verdict(better: Score, worse: Score) -> str:
    """Say whether what a paper finds better is better here: where Welch's t-test tells the two apart."""
    p = welch_p(better, worse)
    if p is None or p >= LARGEST_P:
        return "within the noise"
    return "holds" if better.mean > worse.mean else "does not hold"


def unlike_paper(figure: dict[str, Any], ipc: int, row: Row | None, student: str, protocol: str) -> Iterator[str]:
    """Say what tells a set of ours and its students from a paper's; of the set, from its manifest where that says it."""
    network = figure.get("network", student)
    if network != student:
        yield f"student {student}, the paper's {network}"
    if (theirs := figure.get("protocol", protocol)) != protocol:
        yield f"protocol {protocol}, the paper's {theirs}"
    if row:
        made = row.set.manifest
        for name, value in figure.get("settings", {}).items():
            theirs, ours = value.get(ipc) if isinstance(value, dict) else value, made.method.config.get(name)
            if None not in (theirs, ours) and float(ours) != float(theirs):
                yield f"`{name}` {ours:,g}, the paper's {theirs:,g}"
        matched = made.method.config.get("network", "auto")
        if matched not in ("auto", network):
            yield f"matched in {matched}, the paper's {network}"
        if made.teacher and network.startswith("timm/"):
            right = f", {100 * made.teacher.test_accuracy:.1f} % right" if made.teacher.test_accuracy else ""
            yield f"teacher {made.teacher.architecture}{right}"
    if reason := figure.get("reason"):
        yield reason


def spread(values: Iterable[Any]) -> str:
    """Return distinct values in words, in their order."""
    return "; ".join(dict.fromkeys(map(str, values)))
