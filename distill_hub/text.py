"""Text for people: of strangers, of errors, and on terminals that know few characters."""

import codecs
import os
import reprlib
import shlex
import sys
from collections.abc import Iterable
from typing import Any

LONGEST = 560  # characters of a line of error
_SPELLED = {"±": "+-", "\u00d7": "x", "\u2212": "-", "\u2013": "-", "—": "-", "…": "...", "·": "-", "²": "^2", "τ": "tau"}
_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = 200


def printable(text: str) -> str:
    """Replace what moves a terminal's cursor or turns the direction of a line: a stranger wrote it."""
    return "".join(c if c.isprintable() else "?" for c in text)


def shortened(text: str, most: int) -> str:
    """Cut text in its middle to at most so many characters: paths and sentences say at their ends what matters."""
    if len(text) <= most:
        return text
    tail = max(0, (most - 5) // 3)
    return f"{text[: most - 5 - tail]} ... {text[len(text) - tail :]}"


def few(names: Iterable[str], most: int = 5, length: int = 60) -> str:
    """Return the first of some names in one line, each of at most `length` characters, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(shortened(name, length) for name in names[:most]) + more or "nothing"


def reason(error: BaseException) -> str:
    """Return what an error says, in one line of at most 200 characters."""
    said = " ".join(str(getattr(error, "strerror", None) or error).split())
    return shortened(said, 200) or type(error).__name__


def typed(place: str | os.PathLike[str]) -> str:
    """Return a path or name as one types it in a shell; what begins with a dash would be taken for an option."""
    text = os.fspath(place)
    return shlex.quote(f"./{text}" if text.startswith("-") else text)


def complaint(field: str, value: Any, valid: str) -> str:
    """Return one printable line on a value that cannot be used: field, value and what would be valid, none of them long.

    Args:
        field: What the value is of.
        value: The value; None: nobody gave one.
        valid: What would be.
    """
    said = "needed" if value is None else f"{shortened(_written(value), 220)} cannot be used"
    start = f"{shortened(' '.join(field.split()), 120)}: {said}; "
    return printable(start + shortened(" ".join(valid.split()), LONGEST - len(start)))


def _written(value: Any) -> str:
    return repr(shortened(value, 300)) if isinstance(value, str) else _REPR.repr(value)


def adapt_streams() -> None:
    """Let this process print any text anywhere: what an encoding lacks is spelled, a closed stream takes all."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # the shell closed it: >&-
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="spelled")


def _spell(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(_SPELLED.get(c, "?") for c in error.object[error.start : error.end]), error.end


codecs.register_error("spelled", _spell)
