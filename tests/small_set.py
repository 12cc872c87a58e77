"""A small distilled set: 3 classes, 2 images each, random 8 x 8 pixels."""

import datetime
import os

import numpy as np
import pytest
from processes import run_python

from distill_hub.artifact.find import find
from distill_hub.artifact.manifest import (
    ClassRecord,
    EnvironmentRecord,
    Manifest,
    MethodRecord,
    ModelRecord,
    StageRecord,
    TuningRecord,
    ViewsFacts,
)
from distill_hub.artifact.package import write_artifact
from distill_hub.artifact.records import EvaluationRecord, Score
from distill_hub.artifact.source import SourceRecord
from distill_hub.publishing.card import render_card
from distill_hub.views.files import write_views

NAMES = ("tench", "Old | English <sheepdog>", "château")
NOW = datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.timezone.utc)
ENVIRONMENT = EnvironmentRecord(
    packages={"torch": "2.9.0"},
    python="3.12.1",
    hardware="1 x CPU",
    processes=1,
    mixed_precision="no",
    peak_memory_bytes={"cpu": 1_300_000_000},
)


@pytest.fixture
def names():
    return NAMES


@pytest.fixture
def make_rows():
    """Rows of a set, class by class; another seed is another content."""

    def make(ipc=2, seed=0, classes=3):
        rng = np.random.default_rng(seed)
        for label in range(classes):
            for _ in range(ipc):
                soft = rng.dirichlet(np.ones(classes)).astype(np.float32)
                yield {
                    "image": rng.integers(0, 256, (8, 8, 3), dtype=np.uint8),
                    "label": label,
                    "soft_label": soft,
                    "confidence": float(soft[label]),
                    "seed": int(rng.integers(2**62)),
                }

    return make


@pytest.fixture
def full():
    """Fields for a manifest in which every optional field has a value."""

    def model(name, **more):
        return ModelRecord(id=name, architecture=f"{name}-net", revision="f" * 40, sha256="1" * 64, license="mit", **more)

    return {
        "generator": model("org/generator"),
        "teacher": model("org/teacher", test_accuracy=0.987),
        "classes": [
            ClassRecord(name=n, wnid=f"n{i:08d}", source_index=10 + i, generator_index=20 + i, teacher_index=30 + i)
            for i, n in enumerate(NAMES)
        ],
        "source": SourceRecord(
            name="fish",
            hub_id="org/fish",
            revision="a" * 40,
            fingerprint="0" * 64,
            train_split="train",
            test_split="validation",
            image_column="image",
            label_column="label",
            test_fraction=0.1,
            train_images=600,
            test_images=150,
            license="cc-by-4.0",
            bibtex="@misc{fish,\n  title = {Fish},\n}\n",
        ),
        "license": "CC-BY-NC-4.0",
        "superseded_by": "org/better",
    }


@pytest.fixture
def make_tuning(full):
    """Records of a fine-tuning, every optional field with a value unless given another."""

    def make(**fields):
        defaults = {
            "method": MethodRecord(
                name="minimax",
                title="Minimax Diffusion",
                paper="https://arxiv.org/abs/2311.15529",
                bibtex="@inproceedings{minimax,\n  title = {Minimax},\n}",
                config={"tuning_epochs": 8, "lambda_r": 0.002, "micro_batch_size": None, "embedding": "x0"},
                notes={"trained_parameters": 1234},
            ),
            "base": full["generator"],
            "source": full["source"],
            "classes": list(NAMES),
            "steps": 600,
            "seconds": 5400.0,
            "environment": ENVIRONMENT,
            "created": NOW,
        }
        return TuningRecord(**{**defaults, **fields})

    return make


@pytest.fixture
def build_manifest():
    """Return a function content hash -> manifest, all optional fields None unless given."""

    def outer(**fields):
        def build(content):
            defaults = {
                "name": "fish-ipc2-cao2",
                "method": MethodRecord(
                    name="cao2",
                    title="CaO2",
                    paper="https://arxiv.org/abs/2506.22637",
                    bibtex="@inproceedings{cao2,\n  title = {CaO2},\n}",
                    config={"ipc": 2, "source_revision": None, "overwrite": False, "order": "a|b"},
                    notes={"shortage": {"tench": 1}},
                ),
                "source": SourceRecord(
                    name="fish",
                    fingerprint="0" * 64,
                    train_split="train",
                    test_split="test",
                    image_column="image",
                    label_column="label",
                    train_images=600,
                    test_images=150,
                ),
                "classes": [ClassRecord(name=n, source_index=i) for i, n in enumerate(NAMES)],
                "ipc": 2,
                "image_size": 8,
                "seed": 0,
                "stages": [StageRecord(name="sample", items=12, seconds=75.0)],
                "environment": ENVIRONMENT,
                "content_sha256": content,
                "created": NOW,
            }
            return Manifest(**{**defaults, **fields})

        return build

    return outer


@pytest.fixture
def make_evaluation():
    def make(content, **fields):
        defaults = {
            "protocol": "quick",
            "protocol_version": 1,
            "standard": False,
            "student": "convnet2",
            "seeds": [0, 1, 2],
            "score": Score(last=[0.5, 0.6, 0.7], best=[0.6, 0.7, 0.8], best_epoch=[3, 4, 5]),
            "baselines": {"random real": Score(last=[0.3, 0.4, 0.5], best=[0.5, 0.5, 0.5], best_epoch=[1, 1, 1])},
            "content_sha256": content,
            "environment": ENVIRONMENT,
            "seconds": 10.0,
            "date": NOW,
        }
        return EvaluationRecord(**{**defaults, **fields})

    return make


@pytest.fixture
def artifact(tmp_path, make_rows, build_manifest, make_evaluation):
    """A complete artifact folder with card and one evaluation."""
    folder = tmp_path / "fish-ipc2-cao2"
    manifest = write_artifact(folder, make_rows(), build_manifest(), class_names=NAMES)
    record = make_evaluation(manifest.content_sha256)
    (folder / "evaluations").mkdir()
    (folder / "evaluations" / record.file_name).write_text(record.to_json())
    card = render_card(manifest, [record], location=str(folder), files=find(folder).files)
    for name in ("README.md", "assets/card.md"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(card, encoding="utf-8")
    return folder


@pytest.fixture
def facts():
    """Of what `make_views` makes when nothing else is asked for."""
    return ViewsFacts(
        format=2,
        epochs=3,
        batch_size=4,
        image_size=16,
        crop_scale=(0.08, 1.0),
        flip=True,
        mix_alpha=1.0,
        teacher=ModelRecord(id="org/labeller", architecture="resnet18", sha256="2" * 64),
        seed=7,
    )


@pytest.fixture
def make_views():
    """Batches of stored views in training order, one box per batch; another seed is another content."""

    def make(images=6, classes=3, epochs=3, batch_size=4, side=16, seed=0):
        rng = np.random.default_rng(seed)
        for epoch in range(epochs):
            order = rng.permutation(images)
            for image in (order[start : start + batch_size] for start in range(0, images, batch_size)):
                count, extent = len(image), rng.integers(1, side + 1, (len(image), 2))
                top, left = rng.integers(0, side, 2)
                bottom, right = rng.integers((top, left), side + 1)
                yield {
                    "epoch": np.full(count, epoch),
                    "image_index": image,
                    "crop": np.concatenate([rng.integers(0, side - extent + 1), extent], 1) / side,
                    "flip": rng.random(count) < 0.5,
                    "partner_index": rng.permutation(image),
                    "box": np.tile([top, left, bottom, right], (count, 1)),
                    "share": np.full(count, 1 - (bottom - top) * (right - left) / side**2),
                    "logits": rng.normal(0, 4, (count, classes)).astype(np.float32),
                }

    return make


@pytest.fixture
def with_views(artifact, make_views, facts):
    """The artifact with stored views, its card written anew; no record."""
    manifest = write_views(artifact, Manifest.read(artifact / "manifest.json"), make_views(), facts)
    card = render_card(manifest, (), location=str(artifact), files=find(artifact).files)
    for name in ("README.md", "assets/card.md"):
        (artifact / name).write_text(card, encoding="utf-8")
    return artifact


@pytest.fixture
def python(tmp_path):
    """Run code in a fresh process, offline, with its own cache; return what it prints."""

    def run(code):
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(tmp_path / "cache")}
        done = run_python("-c", code, environment=environment, folder=tmp_path)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run
