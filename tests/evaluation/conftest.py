"""Real digits, 5 per class, as others would publish a set; and students that are trained once for all tests."""

import hashlib
import io

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Image, List, Value
from PIL import Image as PILImage

from distill_hub.evaluation import scores
from distill_hub.sources import load_source

STUDENTS = {}


@pytest.fixture(scope="session")
def digits():
    return load_source("digits")


@pytest.fixture(scope="session")
def pixels(digits):
    """uint8 (10, 5, 16, 16, 3), class by class."""
    chosen = digits.train.draw_per_class(5, seed=0)
    return digits.train.pixels(chosen, 16).permute(0, 2, 3, 1).numpy().reshape(10, 5, 16, 16, 3)


@pytest.fixture(scope="session")
def image_folder(pixels, tmp_path_factory):
    folder = tmp_path_factory.mktemp("made-elsewhere") / "pictures"
    for name, images in enumerate(pixels):
        (folder / str(name)).mkdir(parents=True)
        for place, image in enumerate(images):
            PILImage.fromarray(image).save(folder / str(name) / f"{place}.png")
    return folder


@pytest.fixture(scope="session")
def parquet(pixels):
    """Return a function to a set as parquet: images that take turns between classes, and labels in any class order."""

    def build(order, *, names=None, soft_labels=None):
        columns = {"image": [PILImage.fromarray(image) for image in pixels[order].swapaxes(0, 1).reshape(-1, 16, 16, 3)]}
        columns["class_id"] = np.tile(np.arange(len(order)), 5)
        features = {"image": Image(), "class_id": ClassLabel(names=names) if names else Value("int64")}
        if soft_labels is not None:  # of each label value
            columns["soft_label"] = list(soft_labels[columns["class_id"]])
            features["soft_label"] = List(Value("float32"))
        buffer = io.BytesIO()
        Dataset.from_dict(columns, Features(features)).to_parquet(buffer)
        return buffer.getvalue()

    return build


@pytest.fixture
def remembered(monkeypatch):
    """Train the same student on the same images once. A set that is read otherwise in the least is trained on anew."""

    def train(student, images, test, *rest):
        digest = hashlib.sha256(repr((student, rest)).encode())
        for tensor in (*images, *test):
            digest.update(f"{tensor.shape} {tensor.dtype}".encode() + tensor.cpu().contiguous().numpy().tobytes())
        key = digest.hexdigest()
        if key not in STUDENTS:
            STUDENTS[key] = train_student(student, images, test, *rest)
        return STUDENTS[key]

    train_student = scores.train_student
    monkeypatch.setattr(scores, "train_student", train)
