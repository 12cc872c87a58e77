"""What one attack is: an input that a stranger or an accident made, the words that meet it, and what is right."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

LINE = 600  # characters that one line of an error may have


@dataclass(frozen=True)
class Outcome:
    """How the command ended."""

    code: int
    output: str  # of both streams
    seconds: float
    memory: int  # bytes, the most it held
    folder: Path  # in which it ran


Right = Callable[[Outcome], str | None]


def refused(outcome: Outcome) -> str | None:
    """Say what is wrong, if anything, where exit code 2 and one line are right."""
    lines = [line for line in outcome.output.splitlines() if line.startswith("error")]
    if outcome.code != 2 or len(lines) != 1:
        return f"exit code {outcome.code}, {len(lines)} lines of error"
    if len(lines[0]) > LINE or not lines[0].isprintable():
        return f"a line of {len(lines[0])} characters"
    return unharmed(outcome)


def used(outcome: Outcome) -> str | None:
    """Say what is wrong, if anything, where the input is to be used."""
    return f"exit code {outcome.code}" if outcome.code else unharmed(outcome)


def either(outcome: Outcome) -> str | None:
    """Say what is wrong, if anything, where input may be used or refused, but nothing else may happen."""
    return used(outcome) if outcome.code == 0 else refused(outcome)


def unharmed(outcome: Outcome) -> str | None:
    """Say what no attack may reach: a traceback, the memory, a file called `owned`."""
    if "Traceback" in outcome.output:
        return "a traceback"
    if outcome.memory > 3e9:
        return f"{outcome.memory / 1e9:.1f} GB of memory"
    return "it ran what it was given" if list(outcome.folder.rglob("owned*")) else None


@dataclass(frozen=True)
class Attack:
    """One input.

    Args:
        kind: Of input, e.g. 'foreign: tensors'; results are counted by it.
        name: What is wrong with it.
        build: Writes it into an empty folder, in which the command will run, and returns the words behind `distill-hub`.
        right: Says what is wrong with an outcome, if anything.
    """

    kind: str
    name: str
    build: Callable[[Path], list[str]]
    right: Right = refused
