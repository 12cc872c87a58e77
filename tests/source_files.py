"""Sources of images that are told apart by their red values, and what loading one must give."""

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, Features, Image
from PIL import Image as PILImage

from distill_hub.config import InputError
from distill_hub.data.sources import load_source


def encode(image, kind="PNG", **options):
    """Return an image of Pillow, or pixels, as a file."""
    buffer = io.BytesIO()
    (image if isinstance(image, PILImage.Image) else PILImage.fromarray(image)).save(buffer, kind, **options)
    return buffer.getvalue()


def picture(value):
    """Return one colour as PNG."""
    return encode(np.full((8, 8, 3), (value, 0, 7), np.uint8))


def cells(first=0, count=4):
    return [{"bytes": picture(first + row), "path": None} for row in range(count)]


def table(file, labels, images=None, **more):
    """Write a parquet file without anything but Arrow's own types."""
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"image": cells() if images is None else images, "label": labels, **more}), file)


def stored(names, first=0):
    """Return a parquet file as `datasets` writes it: four images of two classes."""
    features = Features({"image": Image(decode=False), "label": ClassLabel(names=list(names))})
    buffer = io.BytesIO()
    Dataset.from_dict({"image": cells(first), "label": [0, 1, 0, 1]}, features=features).to_parquet(buffer)
    return buffer.getvalue()


def reds(split):
    return split.pixels(None, 8)[:, 0, 0, 0].tolist()


def refusal(source, **options):
    with pytest.raises(InputError) as caught:
        load_source(str(source), **options)
    assert "\n" not in str(caught.value)
    return caught.value


def refused(source, **options):
    return str(refusal(source, **options))
