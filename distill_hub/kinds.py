"""What an option takes, by the type of its field."""

import math
import numbers
import operator
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

PositiveInt = Annotated[int, (">", 0)]
NonNegativeInt = Annotated[int, (">=", 0)]
PositiveFloat = Annotated[float, (">", 0)]
NonNegativeFloat = Annotated[float, (">=", 0)]
Fraction = Annotated[float, (">=", 0), ("<=", 1)]
_SIGNS = {">": operator.gt, ">=": operator.ge, "<=": operator.le}


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
        if annotation is bool:
            self.choices = ("true", "false")
        elif get_origin(annotation) is Literal:
            self.base, self.choices = str, get_args(annotation)
        elif get_origin(annotation) is Annotated:
            self.base, *self.bounds = get_args(annotation)

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
        if self.choices and text not in self.choices:
            raise ValueError
        if self.base is Path:
            try:
                return Path(text).expanduser()
            except RuntimeError as error:  # the home of nobody
                raise ValueError from error
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
        """What stands for a value in ``--help``."""
        return (
            f"{{{','.join(self.choices)}}}" if self.choices else {int: "N", float: "X", Path: "PATH"}.get(self.base, "NAME")
        )
