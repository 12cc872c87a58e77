import hashlib
import json
import re
import struct

import numpy as np
import pyarrow as pa
import pytest
from datasets import Dataset

from distill_hub.artifact.schema import check_labels, check_rows, features, hash_row
from distill_hub.publishing.card import cards_folder


def table(names, **changes):
    """Two valid rows per class, as a Dataset, with some columns replaced."""
    n = 2 * len(names)
    columns = {
        "image": [{"bytes": b"\x89PNG\r\n\x1a\n, and never decoded here", "path": None}] * n,
        "label": np.repeat(np.arange(len(names)), 2),
        "soft_label": [np.full(len(names), 1 / len(names), dtype=np.float32)] * n,
        "confidence": np.ones(n, dtype=np.float32),
        "seed": np.arange(n),
    }
    return Dataset(pa.Table.from_pydict({**columns, **changes}, schema=features(names).arrow_schema))


def test_hash_is_the_documented_bytes():
    pixels, digest = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3), hashlib.sha256()
    hash_row(digest, pixels, 1, np.array([0.25, 0.75]))
    expected = struct.pack("<qq", 2, 3) + bytes(range(18)) + struct.pack("<q", 1) + struct.pack("<ff", 0.25, 0.75)
    assert digest.hexdigest() == hashlib.sha256(expected).hexdigest()


def test_snippet_in_format_md_gives_the_hash_of_the_manifest(artifact, python):
    text = (cards_folder() / "FORMAT.md").read_text(encoding="utf-8")
    (snippet,) = [
        code for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "hashlib" in code and '"views"' not in code
    ]
    assert "distill_hub" not in snippet
    printed = python(snippet.replace("org/digits-ipc10-cao2", str(artifact))).strip()
    assert printed == json.loads((artifact / "manifest.json").read_text())["content_sha256"]


def test_format_md_lists_every_column(names):
    text = (cards_folder() / "FORMAT.md").read_text(encoding="utf-8")
    columns = text[text.index("## Columns") : text.index("## The label contract")]
    assert re.findall(r"^\| `(\w+)`", columns, re.MULTILINE) == list(features(names, 8))


def test_check_rows_accepts_what_it_should(names):
    labels, soft_labels = check_rows(table(names), names)
    assert labels.dtype == np.int64 and labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert soft_labels.dtype == np.float32 and (soft_labels == np.full((6, 3), 1 / 3, np.float32)).all()
    check_rows(table(names, image=[{"bytes": b"RIFF....WEBPVP8L", "path": None}] * 6), names)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"label": [0, 0, 1, 1, 2, None]}, "'label' has empty cells"),
        ({"soft_label": [[0.5, 0.5, 0.5]] * 6}, "sum to 1"),
        ({"soft_label": [[1.5, -0.5, 0.0]] * 6}, "sum to 1"),
        ({"soft_label": [[1.0, 0.0, 0.0]] * 5 + [[float("nan")] * 3]}, "finite"),
        ({"soft_label": [[1.0, 0.0, 0.0]] * 5 + [[1.0, 0.0, None]]}, "finite"),
        ({"image": [{"bytes": None, "path": "/etc/hostname"}] * 6}, "stored in the file itself"),
        ({"image": [{"bytes": b"", "path": None}] * 6}, "PNG or WebP"),
        ({"image": [{"bytes": b"RIFF....WAVE", "path": None}] * 6}, "PNG or WebP"),
    ],
)
def test_check_rows_refuses(names, changes, message):
    with pytest.raises(ValueError, match=message):
        check_rows(table(names, **changes), names)


def test_check_rows_refuses_another_class_order(names):
    with pytest.raises(ValueError, match="column 'label'"):
        check_rows(table(names), names[::-1])


def test_rows_that_were_sliced_are_read_from_where_they_start(names):
    soft = np.eye(3, dtype=np.float32)[[0, 1, 2, 2, 1, 0]]
    whole = table(names, soft_label=list(soft))
    labels, soft_labels = check_rows(Dataset(whole.data.table.slice(3, 2)), names)
    assert labels.tolist() == [1, 2] and (soft_labels == soft[3:5]).all()


def test_no_rows_have_no_fault(names):
    labels, soft_labels = check_rows(Dataset(table(names).data.table.slice(0, 0)), names)
    assert labels.shape == (0,) and soft_labels.shape == (0, 3)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 0, 1, 1, 2, 3], r"labels must lie in \[0, 3\)"),
        ([0, 0, 1, 1, 2, -1], r"labels must lie in \[0, 3\)"),
        ([0, 0, 0, 1, 2, 2], r"2 images per class, but there are \{'tench': 3"),
    ],
)
def test_labels_of_other_classes_or_counts_are_refused(names, labels, message):
    check_labels(np.array([0, 0, 1, 1, 2, 2]), names, [2, 2, 2])
    with pytest.raises(ValueError, match=message):
        check_labels(np.array(labels), names, [2, 2, 2])
