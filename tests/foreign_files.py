"""Foreign sets of the same six images in every format, and what reading one must give."""

import json
import struct
import zlib

import numpy as np
import pyarrow as pa
import pytest
import torch

from distill_hub.config import InputError
from distill_hub.foreign.read import read_foreign

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)
LABELS = np.array([1, 0, 1, 2, 0, 2])
VALUES = torch.from_numpy(LABELS)
NAMES = ["pear", "apple", "fig"]
PLANES = torch.from_numpy(PIXELS).permute(0, 3, 1, 2).contiguous()  # (6, 3, 8, 8)
PROBABILITIES = np.array([[1, 2, 1], [3, 1, 0], [0, 4, 0], [2, 0, 2], [4, 0, 0], [0, 2, 2]], np.float32) / 4
STORED = pa.struct({"bytes": pa.binary(), "path": pa.string()})
LOGITS = np.log(np.array([[1, 2, 1]] * 6, np.float32)) - 1  # probabilities 1/4, 1/2, 1/4


def png_header(width, height):
    """A PNG that only claims its size."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


def refusal(location, **options):
    with pytest.raises(InputError) as caught:
        read_foreign(str(location), **options)
    assert "\n" not in str(caught.value)
    return caught.value


def check(found, *, images=PLANES, labels=LABELS, names=None, soft=None):
    assert found.images.dtype == torch.uint8 and torch.equal(found.images, images)
    assert found.labels.dtype == np.int64 and found.labels.tolist() == list(labels)
    assert found.class_names == names
    if soft is None:
        assert found.soft_labels is None
    else:
        assert found.soft_labels.dtype == np.float32
        np.testing.assert_allclose(found.soft_labels, soft, atol=1e-7)
    json.dumps(found.notes)


def listing(folder):
    return sorted(str(file) for file in folder.rglob("*"))
