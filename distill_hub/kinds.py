"""What an option takes, by the type of its field."""

import math
import numbers
import operator
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

from distill_hub.text import printable

PositiveInt = Annotated[int, (">", 0), ("<=", 10**9)]
NonNegativeInt = Annotated[int, (">=", 0), ("<=", 2**63 - 1)]  # a seed, among others
Pixels = Annotated[int, (">", 0), ("<=", 4096)]  # side of an image
PositiveFloat = Annotated[float, (">", 0)]
NonNegativeFloat = Annotated[float, (">=", 0)]
Fraction = Annotated[float, (">=", 0), ("<=", 1)]
Location = Annotated[str, os.path.expanduser]  # a path, or the name of what lies elsewhere
_LONGEST_PLACEHOLDER = 60
_SIGNS = {">": operator.gt, ">=": operator.ge, "<=": operator.le}
_FILES = (
    ".arrow .bin .bmp .csv .gif .jfif .jpeg .jpg .json .jsonl .md .npy .npz .parquet .pickle .pkl .png .pt .pth "
    ".safetensors .tar .tif .tiff .txt .webp .yaml .yml .zip"
).split()


def is_path(name: str) -> bool:
    """Whether a name that may be a path or an id on the Hub is meant as a path, judged by its look alone."""
    return (
        name.startswith((".", "/", "~")) or name.endswith("/") or name.count("/") > 1 or "\\" in name or is_file_name(name)
    )


def is_file_name(name: str) -> bool:
    """Whether a name ends as those of files that are read here."""
    return os.path.splitext(name)[1].lower() in _FILES


def local_name(name: str) -> str:
    """Return what a location is called where others read it: what lies on this machine by its last part alone."""
    if not (is_path(name) or os.path.exists(name)):
        return name
    return printable(os.path.basename(os.path.abspath(name))) or "images"


def local_names(names: str) -> str:
    """Return the same of several that stand in one word, separated by commas, as teachers that label together do."""
    if os.path.exists(names):  # a single one, whose name may have a comma
        return local_name(names)
    return ",".join(local_name(name.strip()) for name in names.split(","))


class Kind:
    """What a field takes: text, a number within bounds, a path, or one of a few words; perhaps null, perhaps several."""

    def __init__(self, annotation: Any):
        self.many = get_origin(annotation) is list
        self.nullable = type(None) in get_args(annotation)
        if self.many or self.nullable:
            (annotation,) = (arg for arg in get_args(annotation) if arg is not type(None))
        self.base: Any = annotation
        self.choices: Sequence[str] = ()
        self.bounds: Sequence[tuple[str, float]] = ()
        self.is_location = False
        if annotation is bool:
            self.choices = ("true", "false")
        elif get_origin(annotation) is Literal:
            self.base, self.choices = str, get_args(annotation)
        elif get_origin(annotation) is Annotated:
            self.base, *more = get_args(annotation)
            self.bounds = [bound for bound in more if isinstance(bound, tuple)]
            self.is_location = os.path.expanduser in more
        self.is_location |= self.base is Path

    def read(self, value: Any) -> Any:
        """Return what a value means. One from Python means the same as its text on a command line.

        Raises:
            ValueError: When it is not of this kind.
        """
        if self.nullable and value in (None, "null"):
            return None
        if not isinstance(value, (str, os.PathLike, numbers.Real)) or value == "":
            raise ValueError
        text = str(value).lower() if bool in (type(value), self.base) else str(value)
        if "\0" in text:
            raise ValueError
        text = os.path.expanduser(text) if self.is_location else text
        if self.choices and text not in self.choices:
            raise ValueError
        meant = text == "true" if self.base is bool else self.base(text)
        if (self.base is float and math.isinf(meant)) or not all(_SIGNS[sign](meant, bound) for sign, bound in self.bounds):
            raise ValueError
        return meant

    @property
    def valid(self) -> str:
        """What may be given, in words."""
        noun = {str: "a word", int: "an integer", float: "a finite number", Path: "a path"}.get(self.base, "")
        bounds = " and ".join(f"{sign} {bound}" for sign, bound in self.bounds)
        return (", ".join(map(repr, self.choices)) or f"{noun} {bounds}".rstrip()) + " or null" * self.nullable

    @property
    def placeholder(self) -> str:
        """What stands for a value in ``--help``; words that a narrow terminal has no line for are in the help text."""
        words = f"{{{','.join(self.choices)}}}"
        if self.choices and len(words) <= _LONGEST_PLACEHOLDER:
            return words
        return {int: "N", float: "X", Path: "PATH"}.get(self.base, "NAME")
