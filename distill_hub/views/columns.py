"""The columns of stored views: their types, what their values may be, and how a batch is packed and unpacked."""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
from datasets import Features, List, Value

from distill_hub.artifact.manifest import ViewsFacts

_TOLERANCE = 1e-6  # of fractions in float32
_IN_FORMAT_1 = {"image_index": "image", "partner_index": "partner"}  # everything else is called as it is now


def view_dtype(classes: int, top_k: int | None = None) -> np.dtype:
    """Return the columns of `views/`, packed: a row's bytes, little-endian and without gaps, are what the hash covers.

    Args:
        classes: Number of classes, C.
        top_k: Number of logits that are stored of a view, k; None: all.
    """
    own = [] if top_k is None else [("class_index", "<u2", (top_k,))]  # class of each logit
    return np.dtype(
        [
            ("epoch", "<i4"),  # from 0
            ("image_index", "<i4"),  # row of the default configuration
            ("crop", "<f4", (4,)),  # top, left, height, width, as fractions of the side
            ("flip", "?"),  # whether the crop is mirrored
            ("partner_index", "<i4"),  # row of the default configuration; its view of this epoch is pasted in
            ("box", "<i4", (4,)),  # top, left, bottom, right of what is pasted, in pixels of the finished view
            ("share", "<f4"),  # of the area, what the box leaves
            *own,
            ("logits", "<f2", (top_k or classes,)),  # the teacher's, of the finished view: in label order, or largest first
        ]
    )


def view_features(facts: ViewsFacts, classes: int) -> Features:
    """Return the columns of `views/` as `datasets` knows them, named as the format of these views has it."""

    def feature(kind: np.dtype) -> Value | List:
        value = Value(kind.base.name)
        return List(value, length=kind.shape[0]) if kind.shape else value

    columns = view_dtype(classes, facts.top_k)
    return Features({stored_name(name, facts): feature(columns[name]) for name in columns.names})


def stored_name(name: str, facts: ViewsFacts) -> str:
    """Return what a column is called in the files."""
    return _IN_FORMAT_1.get(name, name) if facts.format == 1 else name


def packed(batch: Mapping[str, np.ndarray], facts: ViewsFacts, classes: int) -> np.ndarray:
    """Return columns (B, ...) as rows of `view_dtype`, (B,).

    Raises:
        ValueError: For a column that is missing, unknown, or of another shape.
        TypeError: When a column holds numbers of another kind.
    """
    columns = view_dtype(classes, facts.top_k)
    if set(batch) != set(columns.names):
        raise ValueError(f"a batch needs the columns {', '.join(columns.names)}, not {', '.join(batch)}")
    rows = np.empty(len(batch["image_index"]), columns)
    for name in columns.names:
        values = np.asarray(batch[name])
        if values.shape != rows[name].shape:
            raise ValueError(f"{name} must have shape {rows[name].shape}, not {values.shape}")
        with np.errstate(over="ignore"):  # infinite logits are refused with all others
            np.copyto(rows[name], values, casting="same_kind")
    return rows


def unpacked(table: pa.Table, facts: ViewsFacts, classes: int) -> np.ndarray:
    """Return a row group as rows of `view_dtype`, (B,).

    Raises:
        ValueError: For an empty cell.
    """
    rows = np.empty(table.num_rows, view_dtype(classes, facts.top_k))
    for name in rows.dtype.names:
        stored = stored_name(name, facts)
        column = table.column(stored).combine_chunks()
        values = column.flatten() if pa.types.is_fixed_size_list(column.type) else column
        if column.null_count or values.null_count:
            raise ValueError(f"column {stored!r} has empty cells")
        rows[name] = values.to_numpy(zero_copy_only=False).reshape(rows[name].shape)
    return rows


def as_table(rows: np.ndarray, schema: pa.Schema) -> pa.Table:
    """Return rows of `view_dtype` as a table whose schema has the same columns."""

    def column(values: np.ndarray) -> pa.Array:
        flat = pa.array(values.ravel())
        return flat if values.ndim == 1 else pa.FixedSizeListArray.from_arrays(flat, values.shape[1])

    return pa.table([column(rows[name]) for name in rows.dtype.names], schema=schema)


def fault(rows: np.ndarray, epoch: int, side: int, classes: int) -> str | None:
    """Say what is wrong with a batch, rows of `view_dtype`; None: nothing.

    Args:
        rows: The batch.
        epoch: That it is of.
        side: Of the views, in pixels.
        classes: Number of classes.
    """
    crop, box, logits = rows["crop"].astype(np.float64), rows["box"].astype(np.int64), rows["logits"].astype(np.float32)
    heights, widths = box[:, 2] - box[:, 0], box[:, 3] - box[:, 1]
    share = 1 - heights * widths / side**2
    # Each of these is false for a number that is none.
    rules = {
        "a row is of another epoch": rows["epoch"] == epoch,
        "crops must lie inside the image": (crop[:, :2] >= 0)
        & (crop[:, 2:] > 0)
        & (crop[:, :2] + crop[:, 2:] <= 1 + _TOLERANCE),
        "partners must be images of the same batch": np.isin(rows["partner_index"], rows["image_index"]),
        "boxes must lie inside the image": (box >= 0).all(1) & (box <= side).all(1) & (heights >= 0) & (widths >= 0),
        "share must be what the box leaves of the area": np.abs(rows["share"] - share) <= _TOLERANCE,
        "logits must be finite": np.isfinite(logits),
    }
    if "class_index" in rows.dtype.names:
        chosen = np.sort(rows["class_index"].astype(np.int64), axis=1)
        rules["classes must be of the set, and each there once"] = (chosen[:, -1] < classes) & (np.diff(chosen) > 0).all(1)
        rules["the largest logits must come first"] = logits[:, 1:] <= logits[:, :-1]
    return next((reason for reason, holds in rules.items() if not holds.all()), None)
