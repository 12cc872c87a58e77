"""Fixtures that write a foreign set."""

import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from foreign_files import LABELS, PIXELS, PLANES, VALUES
from PIL import Image as PILImage
from safetensors.torch import save_file
from source_files import encode


@pytest.fixture
def table(tmp_path):
    """Write a parquet file with the images, the labels and more columns."""

    def write(name="train-00000-of-00001.parquet", *, image=None, label=None, **more):
        columns = {
            "image": pa.array([{"bytes": encode(p), "path": None} for p in PIXELS]) if image is None else image,
            "label": pa.array(LABELS) if label is None else label,
            **more,
        }
        path = tmp_path / "set" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({key: value for key, value in columns.items() if value is not False}), path)
        return tmp_path / "set"

    return write


@pytest.fixture
def image_folder(tmp_path):
    def write(files, root="set"):
        for name, pixels in files.items():
            (tmp_path / root / name).parent.mkdir(parents=True, exist_ok=True)
            PILImage.fromarray(pixels).save(tmp_path / root / name)
        return tmp_path / root

    return write


@pytest.fixture
def archive(tmp_path):
    def write(files):
        with zipfile.ZipFile(tmp_path / "set.zip", "w", zipfile.ZIP_DEFLATED) as file:
            for name, data in files.items():
                file.writestr(name, data)
        return tmp_path / "set.zip"

    return write


@pytest.fixture
def save(tmp_path):
    """Save tensors in one of the formats; return the path to read."""

    def write(kind, images=PLANES, labels=VALUES, **more):
        content = {"images": images, "labels": labels, **more}
        path = tmp_path / f"set.{kind.split()[0]}"
        if kind == "pt tuple":
            torch.save(tuple(content.values()), path)
        elif kind in ("pt", "pth"):
            torch.save(content, path)
        elif kind == "safetensors":
            save_file({key: value.contiguous() for key, value in content.items()}, path)
        elif kind == "npz":
            np.savez_compressed(path, **{key: value.numpy() for key, value in content.items()})
        else:
            (tmp_path / "pair").mkdir(exist_ok=True)
            for key, value in content.items():
                file = tmp_path / "pair" / f"{key}_best.{kind.split()[1]}"
                torch.save(value, file) if file.suffix == ".pt" else np.save(file, value.numpy())
            path = tmp_path / "pair"
        return path

    return write
