import hashlib
import json
import re
import struct

import numpy as np
import PIL.Image
import pyarrow as pa
import pytest
from datasets import Dataset

from distill_hub.artifact.card import cards_folder
from distill_hub.artifact.schema import check_rows, content_sha256, features


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
    pixels = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    row = {"image": PIL.Image.fromarray(pixels), "label": 1, "soft_label": [0.25, 0.75]}
    expected = struct.pack("<qq", 2, 3) + bytes(range(18)) + struct.pack("<q", 1) + struct.pack("<ff", 0.25, 0.75)
    assert content_sha256([row]) == hashlib.sha256(expected).hexdigest()


def test_snippet_in_format_md_gives_the_hash_of_the_manifest(artifact, python):
    text = (cards_folder() / "FORMAT.md").read_text(encoding="utf-8")
    (snippet,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert "distill_hub" not in snippet
    printed = python(snippet.replace("org/digits-ipc10-cao2", str(artifact))).strip()
    assert printed == json.loads((artifact / "manifest.json").read_text())["content_sha256"]


def test_format_md_lists_every_column(names):
    text = (cards_folder() / "FORMAT.md").read_text(encoding="utf-8")
    columns = text[text.index("## Columns") : text.index("## The label contract")]
    assert re.findall(r"^\| `(\w+)`", columns, re.MULTILINE) == list(features(names))


def test_check_rows_accepts_what_it_should(names):
    check_rows(table(names), names, ipc=2)
    check_rows(table(names, image=[{"bytes": b"RIFF....WEBPVP8L", "path": None}] * 6), names, ipc=2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"label": [0, 0, 1, 1, 2, 3]}, r"labels must lie in \[0, 3\)"),
        ({"label": [0, 0, 1, 1, 2, -1]}, r"labels must lie in \[0, 3\)"),
        ({"label": [0, 0, 0, 1, 2, 2]}, r"2 images per class, but there are \{'tench': 3"),
        ({"label": [0, 0, 1, 1, 2, None]}, "'label' has empty cells"),
        ({"soft_label": [[0.5, 0.5, 0.5]] * 6}, "sum to 1"),
        ({"soft_label": [[1.5, -0.5, 0.0]] * 6}, "sum to 1"),
        ({"soft_label": [[1.0, 0.0, 0.0]] * 5 + [[float("nan")] * 3]}, "finite"),
        ({"image": [{"bytes": None, "path": "/etc/hostname"}] * 6}, "stored in the file itself"),
        ({"image": [{"bytes": b"", "path": None}] * 6}, "PNG or WebP"),
        ({"image": [{"bytes": b"RIFF....WAVE", "path": None}] * 6}, "PNG or WebP"),
    ],
)
def test_check_rows_refuses(names, changes, message):
    with pytest.raises(ValueError, match=message):
        check_rows(table(names, **changes), names, ipc=2)


def test_check_rows_refuses_another_class_order(names):
    with pytest.raises(ValueError, match="column 'label'"):
        check_rows(table(names), names[::-1], ipc=2)
