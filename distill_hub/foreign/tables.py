"""Foreign sets in parquet files, whoever wrote them: with `datasets`, pandas or anything else."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from distill_hub.config import InputError
from distill_hub.data.rows import LABEL_COLUMNS
from distill_hub.disk.pages import MOST_EXPANSION, SMALL_SET, Column, read_columns, rows_at_a_time
from distill_hub.foreign.contents import (
    MAX_BYTES,
    MAX_ENTRY_BYTES,
    MAX_ROWS,
    ForeignSet,
    check_labels,
    decoded,
    numbered,
    reading,
)
from distill_hub.foreign.labels import LabelKind, hard_labels, probabilities
from distill_hub.foreign.layout import refusal
from distill_hub.parsing import check_file, read_json

_IMAGE_COLUMNS = ("image", "img", "images")
_SOFT_LABELS = ("soft_labels", "soft_label")
_VIEWS = {pa.string_view(): pa.string(), pa.binary_view(): pa.binary()}  # what some programs write in their place
_BATCH = 100  # rows that are read at a time
_MOST_TEXT = 10_000  # characters of a class name
_MOST_CLASSES = 1_000_000
# What the reader raises for a damaged file, or for one made to confuse it.
_PARQUET = (pa.ArrowException, OSError, ValueError, TypeError, AttributeError, KeyError, RecursionError, MemoryError)

NamesOfCard = Callable[[str], list[str] | None]  # of a label column


@dataclass(frozen=True)
class _Tables:
    """Files of the same columns."""

    location: str
    files: Sequence[Path]
    schema: pa.Schema
    rows: int
    described: dict[str, dict]  # what `datasets` wrote of each column

    def named(self, kind: str) -> list[str]:
        """Names of the columns that are said to be of a kind."""
        return [name for name in self.schema.names if self.described.get(name, {}).get("_type") == kind]

    def kind(self, name: str) -> pa.DataType:
        """Type of a column's values, however they are stored."""
        kind = self.schema.field(name).type
        kind = kind.value_type if pa.types.is_dictionary(kind) else kind
        return _VIEWS.get(kind, kind)

    def batches(self, name: str) -> Iterator[pa.Array]:
        """Yield a column some rows at a time; dictionaries are spelled out."""
        with reading(self.location, "parquet", _PARQUET):
            for file in self.files:
                own = read_columns(file, [name])
                with pq.ParquetFile(file, page_checksum_verification=True) as opened:
                    size = rows_at_a_time(own, _BATCH)
                    for batch in opened.iter_batches(size, columns=[name], use_threads=False):
                        column = batch.column(0)
                        column = column.dictionary_decode() if pa.types.is_dictionary(column.type) else column
                        yield column.cast(self.kind(name))

    def sizes(self, name: str) -> list[Column]:
        """Return what the parts of a column unpack to, of each file."""
        with reading(self.location, "parquet", _PARQUET):
            return [column for file in self.files for column in read_columns(file, [name])]


def from_tables(
    location: str,
    files: Sequence[Path],
    names_of_card: NamesOfCard,
    *,
    image_column: str | None,
    label_column: str | None,
    image_size: int | None,
    label_kind: LabelKind | None,
) -> ForeignSet:
    """Read parquet files as one table. See `read_foreign` for the options.

    The columns are taken as they are stored, not as `datasets` decodes them: it would open an image's path.

    Args:
        location: The set.
        files: All of the same columns.
        names_of_card: Returns the class names that the card has for a column.
        image_column: Name of the image column.
        label_column: Name of the label column.
        image_size: Side in pixels.
        label_kind: What soft labels are.
    """
    tables = _open(location, files)
    schema = tables.schema
    shown = tables.named("Image") or [f.name for f in schema if _stores_images(f)]
    image = _column("set_image_column", image_column, shown, schema)
    named = tables.named("ClassLabel") or [name for name in schema.names if names_of_card(name)]
    label = _column("set_label_column", label_column, named or [n for n in LABEL_COLUMNS if n in schema.names], schema)
    labels, class_names = _label_values(tables, label)
    if not _holds_texts(tables.kind(label)):  # whose names are their own
        class_names = _agreed(location, label, class_names, names_of_card(label))
    check_labels(location, labels, tables.rows, class_names)
    notes = {"format": "parquet", "files": [f.name for f in files], "image_column": image, "label_column": label}
    soft_labels, soft = None, _soft_column(tables, (image, label), labels, class_names)
    if soft:
        what = f"column {soft!r}"
        matrix = _matrix(tables, soft, what)
        soft_labels, notes["soft_labels"] = probabilities(location, matrix, labels, what, label_kind)
    elif label_kind is not None:
        raise InputError("label_kind", label_kind, f"{location} has no soft labels")
    stored = sum(file.stat().st_size for file in files)
    images, scaled = decoded(location, lambda: _cells(tables, image), image_size, stored)
    return ForeignSet(location, images, labels, class_names, soft_labels, {**notes, **scaled})


def _open(location: str, files: Sequence[Path]) -> _Tables:
    for file in files:
        with reading(location, file.name, (OSError, ValueError)):
            check_file(file, MAX_BYTES)
    with reading(location, "parquet", _PARQUET):
        for file in files:
            read_columns(file, ())  # a damaged footer ends here, not in PyArrow
        footers = [pq.read_metadata(file) for file in files]
        schemas = [footer.schema.to_arrow_schema() for footer in footers]
        described = [_described(schema) for schema in schemas]
    rows = sum(footer.num_rows for footer in footers)
    size = sum(footer.row_group(i).total_byte_size for footer in footers for i in range(footer.num_row_groups))
    if rows > MAX_ROWS or size > MAX_BYTES:
        raise refusal(location, f"{rows:,} rows of {size:,} bytes are more than {MAX_ROWS:,} rows or {MAX_BYTES:,} bytes")
    same = all(schema.equals(schemas[0]) for schema in schemas) and all(other == described[0] for other in described)
    if not same:
        raise refusal(location, "its parquet files do not agree on columns and class names")
    return _Tables(location, files, schemas[0], rows, described[0])


def _described(schema: pa.Schema) -> dict[str, dict]:
    text = (schema.metadata or {}).get(b"huggingface")
    columns = read_json(text)["info"]["features"] if text else {}
    return {name: kind for name, kind in columns.items() if isinstance(kind, dict)}


def _stores_images(column: pa.Field) -> bool:
    kind = column.type
    return (pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0) or column.name in _IMAGE_COLUMNS


def _lists_numbers(kind: pa.DataType) -> bool:
    lists = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    return lists and (pa.types.is_floating(kind.value_type) or pa.types.is_integer(kind.value_type))


def _lists_floats(kind: pa.DataType) -> bool:
    return _lists_numbers(kind) and pa.types.is_floating(kind.value_type)


def _holds_texts(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _column(option: str, name: str | None, found: Sequence[str], schema: pa.Schema) -> str:
    if name is None and len(found) != 1:
        raise InputError(option, None, f"name one with --{option}; the columns are {', '.join(schema.names)}")
    if name is not None and name not in schema.names:
        raise InputError(option, name, f"the columns are {', '.join(schema.names)}")
    return name or found[0]


def _agreed(location: str, column: str, own: list[str] | None, card: list[str] | None) -> list[str] | None:
    """Return the class names on record, in the file or in the card."""
    if own is None or card is None or own == card:
        return own or card
    value = next((i for i, pair in enumerate(zip(own, card, strict=False)) if pair[0] != pair[1]), min(len(own), len(card)))
    first, second = (names[value] if value < len(names) else "nothing" for names in (own, card))
    raise refusal(
        location, f"its files and its card name the classes of {column!r} differently: {value} is {first!r} and {second!r}"
    )


def _label_values(tables: _Tables, name: str) -> tuple[np.ndarray, list[str] | None]:
    """Return label values (N,) and their names; texts are numbered in natural order."""
    kind = tables.kind(name)
    if _lists_numbers(kind):
        labels = hard_labels(tables.location, _matrix(tables, name, f"column {name!r}"))
        if labels is None:
            raise refusal(tables.location, f"labels must be integers or texts; column {name!r} lists {kind.value_type}")
        return labels, None
    texts = _holds_texts(kind)
    numbers = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
    if not (texts or numbers):
        raise refusal(tables.location, f"labels must be integers or texts; they are {kind}")
    values: list[Any] = []
    for batch in tables.batches(name):
        if batch.null_count:
            raise refusal(tables.location, f"{batch.null_count} rows have no label")
        if texts and len(batch) and pc.max(pc.binary_length(batch)).as_py() > _MOST_TEXT:
            raise refusal(tables.location, f"a label of column {name!r} has more than {_MOST_TEXT:,} characters")
        values += batch.to_pylist()
    if texts:
        return numbered(values)
    with reading(tables.location, "labels", (OverflowError,)):
        as_numbers = np.array(values, dtype=np.float64 if pa.types.is_floating(kind) else np.int64)
    if pa.types.is_floating(kind) and not (np.isfinite(as_numbers).all() and (as_numbers == np.rint(as_numbers)).all()):
        raise refusal(tables.location, f"labels must be integers or texts; they are {kind}, and not whole")
    names = tables.described.get(name, {}).get("names") if name in tables.named("ClassLabel") else None
    if names is not None and not isinstance(names, list):
        raise refusal(tables.location, f"the class names of column {name!r} are no list")
    return as_numbers.astype(np.int64), names


def _soft_column(tables: _Tables, taken: Sequence[str], labels: np.ndarray, class_names: Sequence[str] | None) -> str | None:
    """Return the one column that has a number per class in every row, if there is one."""
    others = [f for f in tables.schema if f.name not in taken]
    found = []
    for column in [f for f in others if f.name in _SOFT_LABELS] or [f for f in others if _lists_floats(f.type)]:
        length = _length(tables, column.name) if _lists_floats(column.type) else None
        if length and labels.max() < length and len(class_names or range(length)) == length:
            found.append(column.name)
        elif column.name in _SOFT_LABELS:
            raise refusal(
                tables.location, f"column {column.name!r} must list a float per class in every row; it is {column.type}"
            )
    if len(found) > 1:
        raise refusal(tables.location, f"several columns may be its soft labels ({', '.join(found)}); call one soft_label")
    return found[0] if found else None


def _length(tables: _Tables, name: str) -> int | None:
    """Return the length that all lists of a column have; None when they differ or one is missing."""
    length, rest = divmod(sum(column.values for column in tables.sizes(name)), max(1, tables.rows))
    if rest or not 0 < length <= _MOST_CLASSES:
        return None
    for batch in tables.batches(name):
        if batch.null_count or pc.unique(pc.list_value_length(batch)).to_pylist() != [length]:
            return None
    return length


def _matrix(tables: _Tables, name: str, what: str) -> np.ndarray:
    """Return lists of numbers, all of one length, as (N, K)."""
    if not (length := _length(tables, name)):
        raise refusal(tables.location, f"{what} must list as many numbers in every row")
    values = [batch.flatten().to_numpy(zero_copy_only=False) for batch in tables.batches(name)]  # an empty cell becomes NaN
    return np.concatenate(values).reshape(-1, length)


def _cells(tables: _Tables, name: str) -> Iterator[tuple[str, bytes]]:
    """Return name and bytes of every image."""
    location, row, seen = tables.location, 0, 0
    most = max(SMALL_SET, MOST_EXPANSION * sum(file.stat().st_size for file in tables.files))
    kind = tables.kind(name)
    inside = kind.field("bytes").type if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0 else kind
    if not (pa.types.is_binary(_VIEWS.get(inside, inside)) or pa.types.is_large_binary(inside)):
        raise refusal(location, f"its image column must hold encoded images; it is {kind}")
    for cells in map(_stored, tables.batches(name)):
        # A path alone would open any file of this machine, or a URL.
        if cells.null_count:
            first = f"among rows {row} to {row + len(cells) - 1}"
            raise refusal(location, f"every image must be stored in the file itself; {cells.null_count} {first} are not")
        if (seen := seen + cells.nbytes) > most:  # one cell for many rows
            raise refusal(location, f"its images unpack to more than {most:,} bytes")
        for cell in cells:
            if (size := cell.as_buffer().size) > MAX_ENTRY_BYTES:
                raise refusal(location, f"the image of row {row} has {size:,} bytes; at most {MAX_ENTRY_BYTES:,} are read")
            yield f"of row {row}", cell.as_py()
            row += 1


def _stored(column: pa.Array) -> pa.Array:
    return pc.struct_field(column, "bytes") if pa.types.is_struct(column.type) else column
