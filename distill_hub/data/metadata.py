"""Labels of a folder's images that stand in a file beside them, as `datasets` reads them: metadata.csv, .jsonl, .parquet."""

import csv
import json
import os
import posixpath
import re
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from distill_hub.config import InputError
from distill_hub.data.rows import LABEL_COLUMNS
from distill_hub.data.split_names import is_split_word
from distill_hub.text import few, reason

_LARGEST = 2**30  # bytes of one file


def read_labels(
    source: str, root: str, files: Sequence[str], label_column: str | None, *, needed: bool
) -> tuple[str, dict[str, Any]] | None:
    """Read the labels of a folder's images.

    Args:
        source: What the user calls it.
        root: Folder.
        files: The metadata files, as paths from it.
        label_column: The column; default: the only one that is named like labels.
        needed: Whether there are no other labels; else files without such a column are passed over.

    Returns:
        The column, and the label of each image by its path from the folder, None where a row has none. None: the files
        hold no labels.

    Raises:
        InputError: For a file that cannot be read, lacks a column that is needed, or contradicts another.
    """
    labels: dict[str, Any] = {}
    found = None
    for file in files:
        rows = _read(source, os.path.join(root, file), file)
        columns = list(dict.fromkeys(name for row in rows for name in row))
        named = [name for name in ([label_column] if label_column else LABEL_COLUMNS) if name in columns]
        if "file_name" not in columns or len(named) != 1:
            if not needed:
                continue
            field = "label_column" if "file_name" in columns else "source"
            valid = f"{file} needs the column file_name, and one of labels, named with --label_column; it has "
            raise InputError(field, label_column if field == "label_column" else source, valid + few(columns, 20))
        if found not in (None, named[0]):
            raise InputError("label_column", None, f"the metadata files have {found} and {named[0]}; name one")
        (found,) = named
        folder = posixpath.dirname(file)
        for row, label in zip(rows, _labels([row.get(found) for row in rows], found, file), strict=True):
            path = posixpath.normpath(posixpath.join(folder, str(row.get("file_name")).replace("\\", "/")))
            if labels.setdefault(path, label) != label:
                raise InputError("source", source, f"{file} gives {path!r} two labels, {labels[path]!r} and {label!r}")
    return (found, labels) if found else None


def refuse_contradiction(field: str, name: str, labels: Mapping[str, Any]) -> None:
    """Refuse metadata that call an image (path to label) otherwise than its folder does, where that is called like a class.

    Raises:
        InputError: Naming the image.
    """
    texts = {label for label in labels.values() if isinstance(label, str)}
    for path, label in labels.items():
        folder = posixpath.basename(posixpath.dirname(path))
        if isinstance(label, str) and folder in texts - {label} and not is_split_word(folder):
            valid = f"{path!r} lies in a folder of the class {folder!r}, and its metadata call it {label!r}"
            raise InputError(field, name, valid)


def _read(source: str, full: str, file: str) -> list[dict[str, Any]]:
    try:
        if os.stat(full).st_size > _LARGEST:
            raise ValueError(f"it is larger than {_LARGEST // 2**20} MiB")
        if file.lower().endswith(".parquet"):
            return pq.read_table(full).to_pylist()
        with open(full, encoding="utf-8-sig", newline="") as opened:
            if file.lower().endswith(".csv"):
                return [{k: v for k, v in row.items() if k is not None} for row in csv.DictReader(opened, strict=True)]
            rows = [json.loads(line) for line in opened if line.strip()]
    except (OSError, ValueError, csv.Error, pa.ArrowException, RecursionError) as error:
        raise InputError("source", source, f"{file} cannot be read ({reason(error)})") from error
    if not all(isinstance(row, dict) for row in rows):
        raise InputError("source", source, f"{file} must hold one JSON object in each line")
    return rows


def _labels(values: list[Any], column: str, file: str) -> list[Any]:
    """Return labels of one kind: integers where all are written so, else texts."""
    values = [None if value in (None, "") else value for value in values]
    there = [value for value in values if value is not None]
    if all(isinstance(value, (str, int)) for value in there):  # bool is an int
        texts = [str(value) for value in there]
        if all(re.fullmatch(r"0|-?[1-9]\d{0,17}", text) for text in texts):
            return [None if value is None else int(value) for value in values]
        return [None if value is None else str(value) for value in values]
    other = next(value for value in there if not isinstance(value, (str, int)))
    valid = f"{file} holds {type(other).__name__} values there; one label for each image is needed, a text or an integer"
    raise InputError("label_column", column, valid)
