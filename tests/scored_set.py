"""Real digits, 5 per class, as others would publish a set; and students that are trained once for all tests."""

import datetime
import functools
import hashlib
import io

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Image, List, Value
from PIL import Image as PILImage

from distill_hub.artifact.describe import source_record
from distill_hub.artifact.manifest import ClassRecord, EnvironmentRecord, Manifest, MethodRecord
from distill_hub.artifact.package import write_artifact
from distill_hub.artifact.records import EvaluationRecord, Score
from distill_hub.data.sources import load_source
from distill_hub.disk.files import atomic_write
from distill_hub.evaluation import scores

NOW = datetime.datetime(2026, 1, 2, tzinfo=datetime.timezone.utc)
ENVIRONMENT = EnvironmentRecord(
    packages={}, python="3", hardware="CPU", processes=1, mixed_precision="no", peak_memory_bytes={"cpu": 1}
)
IPC = 5
STUDENTS = {}


@pytest.fixture(scope="session")
def digits():
    return load_source("digits")


@pytest.fixture
def make_record():
    """A record by its content and last accuracies."""

    def make(content, values):
        return EvaluationRecord(
            protocol="quick",
            protocol_version=2,
            standard=False,
            student="convnet-2",
            seeds=list(range(len(values))),
            score=Score(last=values, best=values, best_epoch=[1] * len(values)),
            content_sha256=content,
            environment=ENVIRONMENT,
            seconds=1.0,
            date=NOW,
        )

    return make


@pytest.fixture
def make_set(digits, make_record):
    """Package real digits, 5 per class, with the classes in a given order, and a record that claims 99 %."""
    return functools.partial(_make_set, digits, make_record)


def _make_set(digits, make_record, folder, order, *, names=None, soft_order=None, free=None, **fields):
    """Package real digits, 5 per class, with the classes in a given order.

    `names` writes other names over them; `soft_order` shuffles the columns of the soft labels against the labels; `free`
    makes free pixels of an image, uint8 (16, 16, 3), whose picture is then black. Further fields are the manifest's.
    """
    names = names or [digits.class_names[c] for c in order]
    chosen = digits.train.draw_per_class(IPC, seed=0).reshape(10, IPC)
    pixels = digits.train.pixels(chosen.flatten(), 16).permute(0, 2, 3, 1).numpy().reshape(10, IPC, 16, 16, 3)
    rows = []
    for label, source_class in enumerate(order):
        soft = np.full(10, 0.01, dtype=np.float32)
        soft[soft_order[label] if soft_order else label] = 0.91
        rows += [
            {"image": image, "label": label, "soft_label": soft, "confidence": 0.91, "seed": 0}
            for image in pixels[source_class]
        ]
    if free:
        rows = [{**row, "pixels": free(row["image"]), "image": np.zeros_like(row["image"])} for row in rows]

    def manifest(content):
        return Manifest(
            name="digits-ipc5-real",
            method=MethodRecord(name="real", title="Real images", paper="https://example.org", bibtex="", config={}),
            source=source_record(digits),
            classes=[ClassRecord(name=n, source_index=c) for n, c in zip(names, order, strict=True)],
            ipc=IPC,
            image_size=16,
            seed=0,
            stages=[],
            environment=ENVIRONMENT,
            content_sha256=content,
            created=NOW,
            **fields,
        )

    written = write_artifact(folder, rows, manifest, class_names=names, free_side=16 if free else None)
    record = make_record(written.content_sha256, [0.99])
    atomic_write(folder / "evaluations" / record.file_name, record.to_json().encode())
    return folder


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

    def train(student, sets, test, classes, settings, seeds, **rest):
        rest.pop("title")
        assert not rest.pop("teacher") and all(own.views is None for own in sets)
        digest = hashlib.sha256(repr((student, classes, settings, seeds, sorted(rest.items()))).encode())
        tensors = [tensor for own in sets for tensor in (own.images, own.labels, own.soft_labels) if tensor is not None]
        for tensor in (*tensors, *test):
            digest.update(f"{tensor.shape} {tensor.dtype}".encode() + tensor.cpu().contiguous().numpy().tobytes())
        key = digest.hexdigest()
        if key not in STUDENTS:
            STUDENTS[key] = train_students(student, sets, test, classes, settings, seeds, teacher=None, **rest)
        return STUDENTS[key]

    train_students = scores.train_students
    monkeypatch.setattr(scores, "train_students", train)
