"""Labels of a folder's images that stand in a file beside them, as `datasets` reads them: metadata.csv, .jsonl, .parquet."""

import csv
import io
import posixpath
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from distill_hub.config import InputError, refusing
from distill_hub.data.rows import LABEL_COLUMNS
from distill_hub.data.split_names import is_split_word
from distill_hub.parsing import read_json
from distill_hub.text import few


def read_labels(
    field: str,
    name: str,
    images: Iterable[str],
    files: Iterable[tuple[str, bytes]],
    option: str,
    column: str | None,
) -> tuple[str, dict[str, dict[str, Any]]] | None:
    """Read the labels of a folder's images.

    Args:
        field: What is refused.
        name: What the user calls it.
        images: Paths from the folder. Where they lie in folders of classes, files without labels are passed over.
        files: Path and content of each metadata file.
        option: That which names the column.
        column: What it names; default: the only one that is named like labels.

    Returns:
        The column and, of each file that holds labels, the label of each image by its path from the folder: a text or an
        integer as it is written there, None where a row has none. None: no file holds labels.

    Raises:
        InputError: For a file that cannot be read, lacks a column that is needed, contradicts another, or calls an image
            otherwise than its folder does, where that is called like a class.
    """
    folders = {posixpath.basename(posixpath.dirname(path)) for path in images}
    needed = column not in (None, "label") or sum(bool(own) and not is_split_word(own) for own in folders) < 2
    found: dict[str, str] = {}  # files by label column
    labels: dict[str, dict[str, Any]] = {}
    known: dict[str, Any] = {}
    for file, data in files:
        with refusing((ValueError, csv.Error, pa.ArrowException), field, name, f"{file} cannot be read"):
            rows = _rows(file, data)
        columns = list(dict.fromkeys(key for row in rows for key in row))
        named = [one for one in ([column] if column else LABEL_COLUMNS) if one in columns]
        if "file_name" not in columns or len(named) != 1:
            if not needed and len(named) < 2:
                continue
            valid = f"{file} needs the column file_name, and one of labels, named with --{option}; it has {few(columns, 20)}"
            raise InputError(*((option, column) if "file_name" in columns else (field, name)), valid)
        found[named[0]] = file
        labels[file] = {}
        for path, label in _by_path(field, name, file, rows, option, named[0]):
            labels[file][path] = label
            if known.setdefault(path, label) != label:
                raise InputError(field, name, f"{file} gives {path!r} two labels, {known[path]!r} and {label!r}")
    if len(found) > 1:
        raise InputError(option, None, f"the metadata files have the columns {few(found)}; name one")
    _refuse_contradiction(field, name, known)
    return (next(iter(found)), labels) if found else None


def _rows(file: str, data: bytes) -> list[dict[str, Any]]:
    if file.lower().endswith(".parquet"):
        return pq.read_table(pa.BufferReader(data)).to_pylist()
    text = data.decode("utf-8-sig")
    if file.lower().endswith(".csv"):
        table = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        return [{key: value for key, value in row.items() if key is not None} for row in table]
    rows = [read_json(line) for line in text.split("\n") if line.strip()]
    if not all(isinstance(row, dict) for row in rows):
        raise ValueError("each line must hold one JSON object")
    return rows


def _by_path(
    field: str, name: str, file: str, rows: Iterable[Mapping[str, Any]], option: str, column: str
) -> Iterator[tuple[str, Any]]:
    for row in rows:
        path, label = row.get("file_name"), row.get(column)
        if not isinstance(path, str):
            raise InputError(field, name, f"{file} needs a text file_name in every row, not {path!r}")
        if not isinstance(label, str | int | None):
            valid = (
                f"{file} holds {type(label).__name__} values there; one label for each image is needed, a text or an integer"
            )
            raise InputError(option, column, valid)
        path = posixpath.normpath(posixpath.join(posixpath.dirname(file), path.replace("\\", "/")))
        yield path, None if label == "" else label


def _refuse_contradiction(field: str, name: str, labels: Mapping[str, Any]) -> None:
    texts = {label for label in labels.values() if isinstance(label, str)}
    for path, label in labels.items():
        folder = posixpath.basename(posixpath.dirname(path))
        if isinstance(label, str) and folder in texts - {label} and not is_split_word(folder):
            valid = f"{path!r} lies in a folder of the class {folder!r}, and its metadata call it {label!r}"
            raise InputError(field, name, valid)


def of_one_kind(labels: Collection[Any]) -> list[Any]:
    """Return labels as integers where all are written so, else as texts; None stays."""
    texts = [None if label is None else str(label) for label in labels]
    whole = all(text is None or re.fullmatch(r"0|-?[1-9]\d{0,17}", text) for text in texts)
    return [None if text is None else int(text) if whole else text for text in texts]
