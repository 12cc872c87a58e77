"""What people see in a terminal, or in a log file."""

import copy
import dataclasses
import shutil
import sys
import textwrap
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import takewhile
from typing import Any, ClassVar, Protocol, TypeVar

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text
from tqdm import tqdm

from distill_hub.text import printable

Item = TypeVar("Item")
PAUSE = 30.0  # seconds between two lines of a bar in a log
LONG, SOON = 600.0, 5.0  # seconds that are worth a warning, and after which they can be told
QUICKER = (
    "Quicker: fewer steps or images, a --teacher and --generator that are trained already, or a recipe without a generator "
    "(random_real, herding, rded); --dry_run prints the plan."
)
_LINE = "{desc}: {percentage:.0f} %, {n_fmt} of {total_fmt} [{elapsed}<{remaining}, {rate_fmt}{postfix}]"


class Items(Protocol):
    """What a bar counts."""

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[Any]: ...


def show(text: Any) -> None:
    """Print text or a table, as it stands: nothing in it is markup.

    A table that is wider than the terminal is broken between columns, its first one repeated. A log file has no width: there
    a table may have 160 characters, unless the variable COLUMNS says otherwise.
    """
    console = Console(width=_width_of_output(), markup=False, emoji=False)
    for part in _parts(text, console) if isinstance(text, Table) else [text]:
        console.print(part, highlight=False, soft_wrap=True)


def _width_of_output() -> int:
    return max(40, shutil.get_terminal_size((160, 24)).columns)


def _parts(table: Table, console: Console) -> list[Table]:
    """Break a table between columns into some that are not wider than the console, as far as that can be."""
    first, *rest = table.columns
    groups: list[list[Column]] = [[first]]
    for column in rest:
        if len(groups[-1]) > 1 and _width(table, [*groups[-1], column], console) > console.width:
            groups.append([first])
        groups[-1].append(column)
    return [_with_columns(table, group, place, len(groups)) for place, group in enumerate(groups)]


def _width(table: Table, columns: Sequence[Column], console: Console) -> int:
    part = _with_columns(table, columns, 1, 3)
    return console.measure(part, options=console.options.update(width=10_000)).maximum


def _with_columns(table: Table, columns: Sequence[Column], place: int, count: int) -> Table:
    """Return one of several parts of a table; its title stands above the first of them, its caption below the last."""
    part = copy.copy(table)
    part.columns = [dataclasses.replace(column, _index=index) for index, column in enumerate(columns)]
    part.title = table.title if place == 0 else None
    part.caption = table.caption if place == count - 1 else None
    return part


def loud(lines: Sequence[str]) -> Text:
    """Return lines that stand out below a table, filled to the width; strangers may have written parts of them."""
    width = min(110, _width_of_output())
    return Text("\n".join(textwrap.fill(printable(line), width) for line in lines), style="bold not italic not dim red")


def facts(pairs: Mapping[str, str]) -> str:
    """Return lines of names and values, filled to the terminal's width; no word is broken, least of all a hash."""
    width = _width_of_output()
    indent = max(map(len, pairs)) + 2
    lines = []
    for name, value in pairs.items():
        filled = textwrap.wrap(value, max(20, width - indent), break_long_words=False, break_on_hyphens=False) or [""]
        lines += [f"{name if place == 0 else '':{indent}}{line}" for place, line in enumerate(filled)]
    return "\n".join(lines)


def progress(items: Items, title: str, *, unit: str, done: int = 0, disable: bool = False) -> tqdm:
    """Show a progress bar with rate and time left; in a log file a line at the start, every half minute, and at the end.

    Args:
        items: What is iterated over.
        title: Before the bar.
        unit: What an item is.
        done: Items finished before these.
        disable: Show nothing.
    """
    how = {"total": done + len(items), "unit": unit, "initial": done, "disable": disable}
    if sys.stderr.isatty():
        return _Bar(items, title, **how)
    return _Lines(items, title, **how, mininterval=PAUSE, maxinterval=PAUSE, leave=False, bar_format=_LINE)


class _Bar(tqdm):
    """A bar that says, once, when more than `LONG` is to go: after a few items, or after one that takes its time.

    A bar within others counts what they have still to do, too, as if each of their items took as long.
    """

    said: ClassVar[bool] = False  # by any bar of this process
    at_work: ClassVar[list["_Bar"]] = []  # from the outermost to the innermost
    begun: int = 0  # items

    def __iter__(self) -> Iterator[Any]:
        """Iterate over the items."""
        starts: list[float] = []  # of items; the first may also load and compile
        _Bar.at_work.append(self)
        try:
            for item in super().__iter__():
                starts.append(time.perf_counter())
                self.begun, known, spent = len(starts), len(starts) - 1, starts[-1] - starts[0]
                if not (_Bar.said or self.disable) and spent >= (SOON if known > 1 else 6 * SOON):
                    first = 1 if known > 1 else 0
                    self._say((starts[-1] - starts[first]) / (known - first))
                yield item
        finally:
            _Bar.at_work[:] = [bar for bar in _Bar.at_work if bar is not self]  # bars are equal by their place

    def _say(self, each: float) -> None:
        """Say what is left when an item takes `each` seconds, if that is long."""
        left, whole = (len(self.iterable) - self.begun + 1) * each, len(self.iterable) * each
        for outer in reversed([*takewhile(lambda bar: bar is not self, _Bar.at_work)]):
            left, whole = left + (len(outer.iterable) - outer.begun) * whole, len(outer.iterable) * whole
        if left > LONG:
            _Bar.said = True
            self._tell(f"{_Bar.at_work[0].desc}: about {duration(left)} to go on this machine. {QUICKER}")

    def _tell(self, line: str) -> None:
        self.write(line, file=self.fp)  # above the bars


class _Lines(_Bar):
    """A bar in a log: whole lines one after the other, also of a bar within a bar; nothing moves the cursor."""

    told: int | None = None  # items finished, in the latest line

    def _tell(self, line: str) -> None:
        self.fp.write(f"{line}\n")
        self.fp.flush()

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Write a line, unless it tells nothing new. tqdm asks a last time when the bar is closed, to wipe it."""
        if self.n != self.told:
            self.told = self.n
            self.fp.write(f"{self}\n")
            self.fp.flush()


def duration(seconds: float) -> str:
    """Write a time as people read it."""
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.1f} s"


def size_text(size: int) -> str:
    """Write a size in bytes as people read it."""
    for unit, length in (("GB", 1e9), ("MB", 1e6)):
        if size >= length:
            return f"{size / length:.1f} {unit}"
    return f"{size / 1e3:.0f} kB" if size >= 1e3 else f"{size} bytes"


def memory_text(peaks: Mapping[str, int] | None) -> str:
    """Write peaks of memory, see `machine.watched`: that of the host as it is, that of a GPU with its name."""
    return ", ".join(("" if name == "host" else f"{name} ") + size_text(size) for name, size in (peaks or {}).items())
