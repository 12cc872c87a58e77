"""The plot of a group, as numbers that the page's template draws as SVG: one drawing for light and dark, without a library.

Lengths are pixels of a drawing `WIDTH` wide, from the left and from the top; accuracies are in percent.
"""

import itertools
import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from distill_hub.artifact.names import method_title
from distill_hub.artifact.records import OWN, RANDOM, Score
from distill_hub.comparing.compare import Group, pooled
from distill_hub.comparing.rows import Row
from distill_hub.text import printable, shortened

WIDTH = 430
SERIES = ("#2f7fc1", "#c0651a", "#2e8f66", "#a061c4", "#cc4f49", "#1f8a99", "#8f7443")  # on both backgrounds
SHAPES = (  # another number than of colours: a pair comes again after 42 series
    *("M-5,0a5,5 0 1,0 10,0a5,5 0 1,0 -10,0z", "M-4.5,-4.5h9v9h-9z", "M0,-6l6,6l-6,6l-6,-6z"),
    *("M0,-6l6,10h-12z", "M0,6l6,-10h-12z", "M-2,-6h4v4h4v4h-4v4h-4v-4h-4v-4h4z"),
)
MOST_NAMED = len(SERIES)  # methods over images per class that have a colour: of more nobody can follow the lines
MOST_ROWS = 25  # of a plot with a line of text for each
ROW = 36  # height of one of these
LABEL = 15  # height of a line of text


class Axis(NamedTuple):
    """The range of accuracies that is drawn."""

    low: float
    high: float
    ticks: tuple[float, ...]

    def share(self, value: float) -> float:
        """Return how far along the axis an accuracy lies, from 0 to 1; what is beyond an end, at the end."""
        return (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)

    @property
    def note(self) -> str:
        """That a distance from the axis says nothing, where it does not."""
        return f"the axis starts at {self.low:g} %" if self.low else ""


@dataclass(frozen=True)
class Mark:
    """One accuracy."""

    x: float
    y: float
    ends: tuple[float, float]  # of the line of its standard deviation, along the axis
    series: int | None  # None: one of many, without a colour
    is_claim: bool  # filled; hollow: somebody else measured
    is_collapsed: bool
    title: str
    label: str = ""  # above it, from the left


@dataclass(frozen=True)
class Line:
    """What marks are held against."""

    kind: str  # random, coreset or real
    points: tuple[tuple[float, float], ...]
    label: str
    at: tuple[float, float]  # where the label begins
    anchor: str = "start"


@dataclass(frozen=True)
class Plot:
    """What the template draws."""

    height: float
    is_by_size: bool
    frame: tuple[float, float, float, float]  # left, top, right, bottom of where accuracies are
    ticks: tuple[tuple[float, str], ...]  # of accuracies
    sizes: tuple[tuple[float, str], ...]  # of images per class
    marks: tuple[Mark, ...]
    paths: tuple[tuple[int | None, tuple[tuple[float, float], ...]], ...]  # series, and its best mark of each size
    lines: tuple[Line, ...]
    legend: tuple[tuple[int, str], ...]  # series and what it is
    notes: tuple[str, ...]
    alt: str


def plot(group: Group) -> Plot:
    """Return a group's plot: over images per class where these differ, else row by row."""
    return _by_size(group) if len(group.sizes) > 1 else _by_row(group)


def axis(values: Iterable[float], steps: int = 6) -> Axis:
    """Return a range that holds accuracies in percent.

    It starts at 0 unless that would leave less than half of it to their differences.
    """
    values = list(values)
    bottom, top = min(values), max(values)
    start = 0.0 if top - bottom >= top / 2 else bottom
    wide = max(top - start, 1.0)
    step = next(s for s in (0.2, 0.5, 1, 2, 5, 10, 20) if wide / s <= steps)
    first, last = max(0, math.floor(start / step - 0.2)), min(math.ceil(top / step + 0.1), round(100 / step))
    ticks = tuple(round(step * i, 1) for i in range(first, last + 1))
    return Axis(ticks[0], ticks[-1], ticks)


def describe(row: Row) -> str:
    """Say in words what a row measured."""
    beside = f" ({RANDOM} {row.random.percent()})" if row.random else ""
    collapse = ", students collapsed" if OWN in row.collapsed else ""
    return f"{_name(row)}, {row.size} images per class: {row.record.score.percent()}{collapse}{beside}"


def _name(row: Row) -> str:
    return row.set.label + (f", by {row.by}" if row.record.submitted_by else "")


def _spread(score: Score) -> tuple[float, float]:
    return 100 * (score.mean - score.std), 100 * (score.mean + score.std)


def _randoms(rows: Iterable[Row]) -> tuple[float, float] | None:
    """Return mean and deviation of random real images over the rows that have them, in percent."""
    scores = [row.random for row in rows if row.random]
    mean, deviation = pooled(scores) if scores else (None, None)
    return None if mean is None else (100 * mean, 100 * deviation)


def _real(rows: Sequence[Row]) -> float | None:
    known = {row.real for row in rows if row.real is not None}
    return 100 * statistics.fmean(sorted(known)) if known else None


def _fits(real: float | None, values: Sequence[float]) -> bool:
    """Whether all real data can be drawn with the rest without pressing its differences flat."""
    return real is not None and real - max(values) <= max(values) - min(values)


def _notes(rows: Sequence[Row], range_: Axis, real: float | None, is_drawn: bool) -> tuple[str, ...]:
    notes = [range_.note, "lines through marks: ± standard deviation" if any(row.record.score.std for row in rows) else ""]
    if any(row.record.submitted_by for row in rows):
        notes.append("filled: claimed by the author; hollow: measured by others")
    if any(OWN in row.collapsed for row in rows):
        notes.append("crossed out: students collapsed")
    if any(RANDOM in row.collapsed for row in rows):
        notes.append(f"students on {RANDOM} collapsed, too")
    if real is not None and not is_drawn:
        notes.append(f"all real images: {real:.1f} %, beyond the axis")
    return tuple(note for note in notes if note)


def _method(row: Row) -> str:
    return method_title(row.set.manifest.method)


def _best_methods(sizes: Iterable[Sequence[Row]]) -> list[str]:
    """Return the methods that are named where there are many: the best of each size, then the second best, and so on.

    Args:
        sizes: The rows of each, best first.
    """
    ranks = itertools.chain.from_iterable(itertools.zip_longest(*sizes))
    return [*dict.fromkeys(_method(row) for row in ranks if row)][:MOST_NAMED]


def _mark(
    row: Row, place: Callable[[float], float], across: float, series: int | None, by_size: bool, label: str = ""
) -> Mark:
    along = place(100 * row.record.score.mean)
    x, y = (across, along) if by_size else (along, across)
    ends = tuple(map(place, _spread(row.record.score)))
    claim, flat = row.record.submitted_by is None, OWN in row.collapsed
    return Mark(x, y, ends, series, claim, flat, printable(describe(row)), printable(label))


def _by_row(group: Group) -> Plot:
    """One line per row, best first, its name above its mark; what they are held against as lines from top to bottom."""
    rows = group.rows[:MOST_ROWS]
    size = rows[0].size
    random, real, best = _randoms(group.rows), _real(group.rows), group.best_coresets.get(size)
    held = {"random": (random[0], f"{RANDOM} {random[0]:.1f}")} if random else {}
    if best:
        held["coreset"] = (100 * best.score.mean, f"best coreset, {best.name} {100 * best.score.mean:.1f}")
    values = [end for row in rows for end in _spread(row.record.score)] + [value for value, _ in held.values()]
    if drawn := _fits(real, values):
        held["real"] = (real, f"all real {real:.1f}")
    range_ = axis([*values, *([real] if drawn else [])])
    left, right, top = 12.0, WIDTH - 12.0, LABEL * len(held) + 6.0
    bottom = top + ROW * len(rows) + 4

    def place(value: float) -> float:
        return round(left + (right - left) * range_.share(value), 1)

    lines = []
    for i, (kind, (value, label)) in enumerate(held.items()):
        x, y = place(value), LABEL * (i + 1) - 3.0
        is_left = x < WIDTH / 2
        lines.append(
            Line(kind, ((x, y - 9), (x, bottom)), label, (x + (4 if is_left else -4), y), "start" if is_left else "end")
        )
    marks = []
    for i, row in enumerate(rows):
        marks.append(_mark(row, place, top + ROW * i + 26, 0, False, shortened(_name(row), 46)))
    notes = _notes(rows, range_, real, drawn)
    if len(rows) < len(group.rows):
        notes = (f"the best {len(rows)} of {len(group.rows)} rows", *notes)
    return Plot(
        height=bottom + 36,
        is_by_size=False,
        frame=(left, top, right, bottom),
        ticks=tuple((place(tick), f"{tick:g}") for tick in range_.ticks),
        sizes=(),
        marks=tuple(marks),
        paths=(),
        lines=tuple(lines),
        legend=(),
        notes=notes,
        alt=_alt(rows),
    )


def _by_size(group: Group) -> Plot:
    """Accuracy over images per class: a line of marks for each method, and lines for what they are held against.

    Of many methods the best are named, and all others lie in grey behind them.
    """
    sizes = group.sizes
    at = {size: [row for row in group.rows if row.set.manifest.ipc == size] for size in sizes}
    random = {size: found for size, rows in at.items() if (found := _randoms(rows))}
    known = {size: [100 * row.best_coreset.score.mean for row in rows if row.best_coreset] for size, rows in at.items()}
    coreset = {size: max(means) for size, means in known.items() if means}
    real = _real(group.rows)
    values = [end for row in group.rows for end in _spread(row.record.score)]
    values += [*(mean for mean, _ in random.values()), *coreset.values()]
    drawn = _fits(real, values)
    range_ = axis([*values, *([real] if drawn else [])])
    left, right, top, bottom = 36.0, WIDTH - 100.0, 10.0, 260.0
    logs = [math.log(size) for size in sizes]

    def across(size: int) -> float:
        return left + 22 + (right - left - 44) * (math.log(size) - logs[0]) / (logs[-1] - logs[0])

    def place(value: float) -> float:
        return round(bottom - (bottom - top) * range_.share(value), 1)

    names = list(dict.fromkeys(map(_method, group.rows)))
    named = names if len(names) <= MOST_NAMED else _best_methods(at.values())
    width = min(5.0, 32 / len(named))  # between marks of one size, side by side
    marks, paths = [], []
    for name in sorted(names, key=named.__contains__):
        series = named.index(name) if name in named else None
        aside = 0.0 if series is None else width * (series - (len(named) - 1) / 2)
        best = []
        for size, rows in at.items():
            x = round(across(size) + aside, 1)
            own = [_mark(row, place, x, series, True) for row in rows if _method(row) == name]
            best += [(mark.x, mark.y) for mark in own[:1]]
            marks += own
        paths.append((series, tuple(best)))
    held = [
        ("random", RANDOM, {size: mean for size, (mean, _) in random.items()}),
        ("coreset", "best coreset", coreset),
        ("real", "all real", dict.fromkeys(sizes, real) if drawn else {}),
    ]
    lines, taken = [], []
    for kind, label, found in sorted((h for h in held if h[2]), key=lambda h: -list(h[2].values())[-1]):
        points = tuple((round(across(size), 1), place(value)) for size, value in found.items())
        y = max([points[-1][1] + 4, *(other + LABEL for other in taken)])
        taken.append(y)
        lines.append(Line(kind, points, label, (right + 4, y)))
    labels, last = [], -math.inf
    for size in sizes:
        if across(size) - last >= 22:  # else there is no room for it
            last = across(size)
            labels.append((round(last, 1), str(size)))
    return Plot(
        height=bottom + 40,
        is_by_size=True,
        frame=(left, top, right, bottom),
        ticks=tuple((place(tick), f"{tick:g}") for tick in range_.ticks),
        sizes=tuple(labels),
        marks=tuple(marks),
        paths=tuple(paths),
        lines=tuple(lines),
        legend=tuple((series, printable(name)) for series, name in enumerate(named)),
        notes=(*_of_many(len(named), len(names)), *_notes(group.rows, range_, real, drawn)),
        alt=_alt(group.rows),
    )


def _of_many(named: int, methods: int) -> list[str]:
    """Say which methods have a colour, where not all do."""
    if named == methods:
        return []
    others = f"grey: the other {methods - named}, each named when pointed at"
    return [f"in colour: the {named} methods that are best or next to it at some number of images per class; {others}"]


def _alt(rows: Sequence[Row]) -> str:
    shown = "; ".join(map(describe, itertools.islice(rows, MOST_ROWS)))
    return printable(f"Test accuracy after the last epoch in %, mean ± standard deviation. {shown}.")
