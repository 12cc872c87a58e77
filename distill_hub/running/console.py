"""What people see in a terminal, or in a log file."""

import sys
import time
from collections.abc import Collection, Iterator
from typing import Any, ClassVar, TypeVar

from rich.console import Console
from tqdm import tqdm

Item = TypeVar("Item")
PAUSE = 30.0  # seconds between two lines of a bar in a log
LONG, SOON = 600.0, 5.0  # seconds that are worth a warning, and after which they can be told
QUICKER = (
    "Quicker: fewer steps or images, a --teacher and --generator that are trained already, or a recipe without a generator "
    "(random_real, herding, rded); --dry_run prints the plan."
)
_LINE = "{desc}: {percentage:.0f} %, {n_fmt} of {total_fmt} [{elapsed}<{remaining}, {rate_fmt}{postfix}]"


def show(text: Any) -> None:
    """Print text or a table; in a log file, which has no width, a table is not folded at 80 columns."""
    Console(width=None if sys.stdout.isatty() else 160).print(text, highlight=False, soft_wrap=True)


def progress(items: Collection[Item], title: str, *, unit: str, done: int = 0, disable: bool = False) -> tqdm:
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
    """A bar that says, once, when more than `LONG` is to go: after a few items, or after one that takes its time."""

    said: ClassVar[bool] = False  # by any bar of this process

    def __iter__(self) -> Iterator[Any]:
        """Iterate over the items."""
        total, starts = len(self.iterable), []  # of items; the first may also load and compile
        for item in super().__iter__():
            starts.append(time.perf_counter())
            known, spent = len(starts) - 1, starts[-1] - starts[0]
            if not (_Bar.said or self.disable) and spent >= (SOON if known > 1 else 6 * SOON):
                first = 1 if known > 1 else 0
                left = (total - known) * (starts[-1] - starts[first]) / (known - first)
                if left > LONG:
                    _Bar.said = True
                    self.write(f"{self.desc}: about {duration(left)} to go on this machine. {QUICKER}", file=sys.stderr)
            yield item


class _Lines(_Bar):
    """A bar in a log: whole lines one after the other, also of a bar within a bar; nothing moves the cursor."""

    told: int | None = None  # items finished, in the latest line

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Write a line, unless it tells nothing new. tqdm asks a last time when the bar is closed, to wipe it."""
        if self.n != self.told:
            self.told = self.n
            self.fp.write(f"{self}\n")
            self.fp.flush()


def printable(text: str) -> str:
    """Replace what moves a terminal's cursor or turns the direction of a line: a stranger wrote it."""
    return "".join(c if c.isprintable() else "?" for c in text)


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
