"""What every kind of source is opened as: the rows of a split, and which columns hold images and labels."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from datasets import ClassLabel, Dataset, Features, Image, Value

from distill_hub.config import InputError
from distill_hub.data.file_facts import Facts
from distill_hub.data.folders import LeftOut
from distill_hub.text import few

LABEL_COLUMNS = ("label", "labels", "class_id", "class", "target", "cls", "fine_label")
Choose = Callable[[Sequence[str]], list[str]]  # of the splits that there are, those to open


@dataclass(frozen=True)
class Origin:
    """What tells the rows of a split without reading them."""

    key: str  # of a commit on the Hub, its id, configuration and split; or of the files, their sizes and times
    is_commit: bool


@dataclass(frozen=True)
class Rows:
    """One split.

    Args:
        dataset: The image column alone, not decoded.
        labels: Of each row, as they are stored; None: unlabelled.
        names: Class names that the labels are positions in; None: the labels are the names.
        facts: Of the file that each row names.
        files: Whether a row may name a file: one that was listed here, never one that a table names.
        origin: Of rows that were not made here.
    """

    dataset: Dataset
    labels: list[Any]
    names: list[str] | None = None
    facts: Facts | None = None
    files: bool = False
    origin: Origin | None = None


@dataclass(frozen=True)
class Opened:
    """What a source holds: its rows by split, what of it is not used, and the commit on the Hub."""

    splits: Mapping[str, Rows]
    image_column: str
    label_column: str
    left_out: LeftOut
    commit: str | None = None


def image_column(name: str | None, features: Features) -> str:
    """Find the column of images, by its type.

    Raises:
        InputError: When there is none, or several and none is named.
    """
    if name is not None:
        _refuse_unknown("image_column", name, features)
        if not _holds_images(features[name]):
            raise InputError("image_column", name, f"it holds {_kind(features[name])}; the columns are {few(features, 20)}")
        return name
    found = [column for column, feature in features.items() if isinstance(feature, Image)]
    found = found or [column for column, feature in features.items() if _holds_images(feature)]
    if len(found) != 1:
        raise InputError("image_column", None, f"name one with --image_column; the columns are {few(features, 20)}")
    return found[0]


def label_column(name: str | None, features: Features) -> str:
    """Find the column of labels, by its type or its name.

    Raises:
        InputError: When there is none, several and none is named, or its values cannot be one label for each image.
    """
    if name is not None:
        _refuse_unknown("label_column", name, features)
    else:
        found = [column for column, feature in features.items() if isinstance(feature, ClassLabel)]
        found = found or [column for column in LABEL_COLUMNS if column in features]
        if len(found) != 1:
            raise InputError("label_column", None, f"name one with --label_column; the columns are {few(features, 20)}")
        (name,) = found
    if not holds_labels(features[name]):
        valid = f"it holds {_kind(features[name])}; one label for each image is needed: a class, a text or an integer"
        raise InputError("label_column", name, f"{valid}; the columns are {few(features, 20)}")
    return name


def holds_labels(feature: Any) -> bool:
    """Whether each value of a column can be a label."""
    kinds = ("string", "large_string", "string_view", "bool")
    return isinstance(feature, ClassLabel) or (
        isinstance(feature, Value) and (feature.dtype in kinds or feature.dtype.lstrip("u").startswith("int"))
    )


def _holds_images(feature: Any) -> bool:
    """Whether each value of a column is an encoded image: of that type, or what it is stored as."""
    if isinstance(feature, dict):
        return {"bytes"} <= set(feature) <= {"bytes", "path"} and _holds_images(feature["bytes"])
    kinds = ("binary", "large_binary", "binary_view")
    return isinstance(feature, Image) or (isinstance(feature, Value) and feature.dtype in kinds)


def _refuse_unknown(field: str, name: str, features: Features) -> None:
    if name not in features:
        raise InputError(field, name, f"the columns are {few(features, 20)}")


def _kind(feature: Any) -> str:
    if isinstance(feature, Value):
        return "nothing" if feature.dtype == "null" else f"values of type {feature.dtype}"
    if isinstance(feature, dict):
        return "structs"
    return {"List": "lists", "LargeList": "lists", "Image": "images"}.get(type(feature).__name__, type(feature).__name__)
