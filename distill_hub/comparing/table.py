"""A comparison as tables: their columns, what these say, and what stands below."""

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from rich import box
from rich.table import Table
from rich.text import Text

from distill_hub.artifact.cost import is_whole, total_cost
from distill_hub.artifact.records import OWN, RANDOM
from distill_hub.comparing.compare import Group
from distill_hub.comparing.rows import AUTHOR, DescribedSet, Row
from distill_hub.running.console import loud
from distill_hub.text import printable

NOTHING = "-"


@dataclass(frozen=True)
class Cell:
    """What a table shows, and what it is sorted by."""

    text: str = NOTHING
    value: float | str | None = None  # None: always last
    mark: str = ""  # what nobody may overlook of it


def _number(value: float | None, form: str, text: str | None = None) -> Cell:
    return Cell() if value is None else Cell(text or form.format(value), value)


def _p(value: float | None) -> Cell:
    return _number(value, "{:.3f}", "<0.001" if value is not None and value < 0.001 else None)


def _accuracy(row: Row) -> Cell:
    score = row.record.score
    text = score.percent() if len(score.last) > 1 else f"{100 * score.mean:.1f} ± {NOTHING}"
    return Cell(text, score.mean, "collapsed" if OWN in row.collapsed else "")


def _over_random(row: Row) -> Cell:
    return dataclasses.replace(_points(row.difference), mark="baseline collapsed" if RANDOM in row.collapsed else "")


def _over_coreset(row: Row) -> Cell:
    best = row.best_coreset
    if best and best.score is row.record.score:
        return Cell("the best", 0)
    return dataclasses.replace(_points(row.over_coreset), mark="coreset collapsed" if best and best.is_collapsed else "")


def _over_claim(row: Row) -> Cell:
    beside = row.over_claim
    if beside is None:
        return Cell()
    # The deviation of one seed is not known.
    differs = not beside.agrees and min(len(beside.measured.seeds), len(beside.claimed.seeds)) > 1
    return dataclasses.replace(_points(beside.difference), mark="not as claimed" if differs else "")


def _memory(row: Row) -> Cell:
    peak = row.set.peak_memory
    return Cell(f"{peak[1] / 1e9:.1f} {peak[0]}", peak[1]) if peak else Cell()


def _points(difference: float | None) -> Cell:
    return _number(None if difference is None else 100 * difference, "{:+.1f}")


def _megabytes(row: Row, of: Literal["images", "labels", "both"]) -> Cell:
    size = getattr(row.record.bytes, of) if row.record.bytes else None
    return _number(None if size is None else size / 1e6, "{:.3f}")


def _minutes(row: Row, of: str) -> Cell:
    seconds = total_cost(row.set.cost)[of]
    if seconds is None:
        return Cell()
    return Cell(f"{seconds / 60:,.2f}{'' if is_whole(row.set.cost) else '+'}", seconds / 60)


ACCURACY = "last, %"
WORDS = {"set": 28, "by": 13}  # the columns that hold no numbers, and how wide they may be in a terminal
COLUMNS: dict[str, Callable[[Row], Cell]] = {
    "set": lambda row: Cell(row.set.label, row.set.label),
    ACCURACY: _accuracy,
    "IPC": lambda row: Cell(row.size, row.set.manifest.ipc),
    "vs. random": _over_random,
    "p": lambda row: _p(row.p_value),
    "vs. coreset": _over_coreset,
    "vs. claim": _over_claim,
    "by": lambda row: Cell(row.by, row.by),
    "seeds": lambda row: _number(len(row.record.seeds), "{}"),
    "best look": lambda row: _number(100 * row.record.score.best_mean, "{:.1f}"),
    "all real": lambda row: _number(row.real and 100 * row.real, "{:.1f}"),
    "LRS": lambda row: _number(row.record.dd_ranking and row.record.dd_ranking.lrs, "{:.3f}"),
    "ARS": lambda row: _number(row.record.dd_ranking and row.record.dd_ranking.ars, "{:.3f}"),
    "images, MB": lambda row: _megabytes(row, "images"),
    "labels, MB": lambda row: _megabytes(row, "labels"),
    "both, MB": lambda row: _megabytes(row, "both"),
    "% per MB": lambda row: _number(row.record.percent_per_mb, "{:.1f}"),
    "data, MB": lambda row: _number(row.set.data_bytes / 1e6, "{:.2f}"),
    "time, min": lambda row: _minutes(row, "seconds"),
    "cores, min": lambda row: _minutes(row, "core_seconds"),
    "GPUs, min": lambda row: _minutes(row, "gpu_seconds"),
    "memory, GB": _memory,
}
# A terminal has no room for more; the page and the JSON file have them all.
BRIEF = {
    *("set", ACCURACY, "IPC", "by", "vs. random", "p", "vs. coreset", "vs. claim", "seeds", "all real", "LRS", "ARS"),
    *("both, MB", "% per MB", "data, MB", "time, min"),
}
MARK = "!"  # in the terminal, for what a cell's mark says
EXPLANATIONS = {
    "by": f"{AUTHOR} is the claim of the set's author; any other name an account on the Hub that measured, which its own "
    "commit shows or, where it says unconfirmed, the record alone",
    "IPC": "images per class",
    ACCURACY: "test accuracy after the last epoch, mean ± sample standard deviation over seeds",
    "best look": "mean of each student's best look at the test split, which is biased upwards",
    "all real": "mean accuracy of the same student, trained in the same epochs on all real images with hard labels",
    "vs. random": "points above as many random real images under the same protocol",
    "vs. coreset": "points above the best coreset at as many images per class, the highest mean among coresets of the table "
    "and those measured beside its sets; the best of several is a little too high by chance",
    "vs. claim": "points above what the author claims for the same students; marked where both have two seeds or more and "
    "the means are apart by more than two standard errors of their difference",
    "p": "two-sided, of Welch's t-test between the set's students and those of random real images; - with fewer than two "
    "seeds. The students are the samples: those of the set share the set and differ in their seed, those of random real "
    "images have images of their own, too. So it says nothing of another set by the same method, and is corrected neither "
    "for the number of rows nor for the choice of the best of several sets",
    "LRS": "DD-Ranking's label-robust score",
    "ARS": "its augmentation-robust score",
    "images, MB": "of the images that students saw, as they are stored, in 10^6 bytes",
    "labels, MB": "of the labels that they learned: hard, soft or stored views; -: a teacher gave them during training",
    "% per MB": "test accuracy after the last epoch, by images and labels together",
    "data, MB": "size of the files in data/, where a record does not say what students were trained on",
    "time, min": "of making the set, summed over processes, and of fitting its generator, teacher and experts, in the same "
    "run or before; +: the cost of a part, such as a model from elsewhere, is not on record and not in it",
    "cores, min": "CPU time (user and system) of the same, all threads of all processes",
    "GPUs, min": "time that processes held a GPU for the same",
    "memory, GB": "largest peak of one process, and of what: cpu, or cuda for a GPU",
}


def columns(group: Group) -> dict[str, Callable[[Row], Cell]]:
    """Return the columns of a group's table: those that all rows leave empty are not among them."""
    costs, ranked = [total_cost(row.set.cost) for row in group.rows], any(row.record.dd_ranking for row in group.rows)
    shown = {
        "by": any(row.record.submitted_by for row in group.rows),
        "images, MB": any(row.record.bytes for row in group.rows),
        **dict.fromkeys(("labels, MB", "both, MB", "% per MB"), any(row.record.percent_per_mb for row in group.rows)),
        "data, MB": not all(row.record.bytes for row in group.rows),
        "vs. coreset": bool(group.best_coresets),
        "vs. claim": any(row.claim for row in group.rows),
        "all real": any(row.real is not None for row in group.rows),
        "LRS": ranked,
        "ARS": ranked,
        "cores, min": any(cost["core_seconds"] is not None for cost in costs),
        "GPUs, min": any(cost["gpu_seconds"] for cost in costs),
    }
    return {title: cell for title, cell in COLUMNS.items() if shown.get(title, True)}


def explanations(tables: Iterable[Iterable[str]]) -> dict[str, str]:
    """Return what the columns of some tables say, in the order of the columns."""
    shown = set(itertools.chain.from_iterable(tables))
    return {title: EXPLANATIONS[title] for title in COLUMNS if title in shown and title in EXPLANATIONS}


def group_table(group: Group) -> Table:
    """Return a group as a table for the terminal, with the columns of `BRIEF`."""
    best = [f"Best coreset at IPC {size}: {one.whose}, {one.score.percent()}" for size, one in group.best_coresets.items()]
    notes = Text("\n").join(map(Text, map(printable, [*best, *group.notes])))
    table = Table(
        title=Text(group.title, style="bold"),
        caption=Text("\n").join(part for part in (loud(group.warnings), notes) if part),
        title_justify="left",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        collapse_padding=True,
    )
    shown = {title: cell for title, cell in columns(group).items() if title in BRIEF}
    for title in shown:
        # A long name folds; a number that did would be another one.
        words = title in WORDS
        head, _, unit = title.rpartition(" ")
        how = {"max_width": WORDS[title]} if words else {"justify": "right", "no_wrap": True}
        table.add_column(f"{head}\n{unit}".strip(), overflow="fold", **how)
    for row, after in itertools.zip_longest(group.rows, group.rows[1:]):
        cells = [cell(row) for cell in shown.values()]
        texts = (Text(f"{cell.text} {MARK}" if cell.mark else cell.text) for cell in cells)
        table.add_row(*texts, end_section=after is not None and after.size != row.size)
    return table


def explain(sets: Sequence[DescribedSet], groups: Sequence[Group]) -> Text:
    """Return what stands below the tables: what compares, what the columns say, and the sets that are in none."""
    lines = []
    if groups:
        lines.append("Numbers compare within a table only.")
        tables = [columns(group) for group in groups]
        lines += [f"{title}: {text}" for title, text in explanations(tables).items() if title in BRIEF]
        if any(cell(row).mark for group in groups for row in group.rows for cell in columns(group).values()):
            lines.append(f"{MARK}: students collapsed, or a measurement is not as claimed")
    if unmeasured := [own.label for own in sets if not own.records]:
        lines.append(f"No evaluation record of its present content: {', '.join(unmeasured)}")
    return Text("\n".join(lines))
