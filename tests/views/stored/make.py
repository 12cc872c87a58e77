"""Make the two sets of this folder, and what a student sees of them, by loops that share nothing with any reader.

    python tests/views/stored/make.py

`full` has views as large as its images, of two epochs with a shorter batch each; `kept` smaller ones, pruned, with the two
largest of three logits. Some crops are no whole numbers of pixels. `expected.npz` has views and targets of all batches.
"""

import itertools
import math
import shutil
from datetime import datetime, timezone
from fractions import Fraction
from pathlib import Path

import numpy as np

from distill_hub.artifact.find import find
from distill_hub.artifact.manifest import ClassRecord, Manifest, MethodRecord, ModelRecord, ViewsFacts
from distill_hub.artifact.package import write_artifact
from distill_hub.artifact.source import SourceRecord
from distill_hub.publishing.card import render_card
from distill_hub.views.files import write_views

HERE = Path(__file__).parent
NAMES, SIDE, TEMPERATURE = ["a", "b", "c"], 8, 4
TEACHER = ModelRecord(id="noise", architecture="none", sha256="0" * 64)
EXTENTS = {
    "full": {"epochs": 2, "batch_size": 4, "image_size": 8},
    "kept": {"epochs": 3, "batch_size": 2, "image_size": 5, "label_share": 0.5, "top_k": 2},
}


def weight(pixel: int, place: int, start: float, extent: float, size: int) -> float:
    """Return how much a stored pixel weighs in one of the view, before weights are brought to the sum 1."""
    centre = start + (place + 0.5) / size * extent
    if size < SIDE:
        inside = start < pixel + 0.5 < start + extent
        return max(0.0, 1 - abs(pixel + 0.5 - centre) / max(1.0, extent / size)) if inside else 0.0
    centre = min(max(centre, start + 0.5), start + extent - 0.5)
    return max(0.0, 1 - abs(pixel + 0.5 - centre))


def mean(image, crop, row: int, column: int, size: int) -> list[float]:
    """Return the colour of one pixel of a crop that is brought to `size` pixels a side."""
    top, left, height, width = (float(share) * SIDE for share in crop)
    colour, total = [0.0] * 3, 0.0
    for y, x in itertools.product(range(SIDE), range(SIDE)):
        own = weight(y, row, top, height, size) * weight(x, column, left, width, size)
        total += own
        colour = [c + own * int(value) / 255 for c, value in zip(colour, image[y, x], strict=True)]
    return [c / total for c in colour]


def finished(images, batch, size: int) -> np.ndarray:
    """Return the views of a batch, (B, size, size, 3): of every pixel, whose it is, and its colour there."""
    rows = {int(index): row for row, index in enumerate(batch["image_index"])}
    views = np.zeros((len(rows), size, size, 3))
    for row, y, x in itertools.product(range(len(rows)), range(size), range(size)):
        top, left, bottom, right = batch["box"][row]
        shown = rows[int(batch["partner_index"][row])] if top <= y < bottom and left <= x < right else row
        column = size - 1 - x if batch["flip"][shown] else x
        views[row, y, x] = mean(images[batch["image_index"][shown]], batch["crop"][shown], y, column, size)
    return views


def targets(batch) -> np.ndarray:
    """Return the softmax of what is stored, (B, C)."""
    found = np.zeros((len(batch["logits"]), len(NAMES)))
    for row, logits in enumerate(batch["logits"].astype(float).tolist()):
        powers = [math.exp(logit / TEMPERATURE) for logit in logits]
        for place, power in enumerate(powers):
            found[row, batch["class_index"][row][place] if "class_index" in batch else place] = power / sum(powers)
    return found


def batches(rng, facts: ViewsFacts, images: int):
    """Draw batches; every third crop is no whole number of pixels."""
    side, stored = facts.image_size, facts.batches(images)
    for index in range(stored):
        epoch, place = divmod(index, facts.per_epoch(images))
        if place == 0:
            order = rng.permutation(images)
        own = order[place * facts.batch_size :][: facts.batch_size]
        extent = rng.integers(3, SIDE + 1, (len(own), 2))
        crop = np.concatenate([rng.integers(0, SIDE - extent + 1), extent], 1) / SIDE
        crop[own % 3 == 0] = rng.uniform([0, 0, 0.4, 0.4], [0.3, 0.3, 0.7, 0.7])
        top, left = rng.integers(0, side // 2, 2)
        bottom, right = rng.integers(side // 2, side + 1, 2)
        logits = np.float16(rng.normal(0, 4, (len(own), len(NAMES))))
        batch = {
            "epoch": np.full(len(own), epoch),
            "image_index": own,
            "crop": np.float32(crop),
            "flip": rng.random(len(own)) < 0.5,
            "partner_index": rng.permutation(own),
            "box": np.tile([top, left, bottom, right], (len(own), 1)),
            "share": np.full(len(own), float(1 - Fraction(int((bottom - top) * (right - left)), side**2))),
        }
        if facts.top_k:
            batch["class_index"] = np.argsort(-logits, axis=1, kind="stable")[:, : facts.top_k].astype(np.uint16)
            logits = np.take_along_axis(logits, batch["class_index"].astype(int), axis=1)
        yield {**batch, "logits": logits}


def make(name: str, extent: dict) -> dict[str, np.ndarray]:
    """Write one set; return what a student sees of it."""
    rng, folder = np.random.default_rng(len(name) + extent["epochs"]), HERE / name
    shutil.rmtree(folder, ignore_errors=True)
    images = rng.integers(0, 256, (6, SIDE, SIDE, 3), dtype=np.uint8)
    labels = [0, 0, 1, 1, 2, 2]
    rows = [
        {"image": image, "label": label, "soft_label": np.eye(3)[label], "confidence": 1.0, "seed": 0}
        for image, label in zip(images, labels, strict=True)
    ]
    source = SourceRecord(
        name="noise", fingerprint="0" * 64, train_split="train", test_split="test", image_column="image",
        label_column="label", train_images=6, test_images=6,
    )  # fmt: skip
    facts = ViewsFacts(format=2, crop_scale=(0.08, 1.0), flip=True, mix_alpha=1.0, teacher=TEACHER, seed=0, **extent)
    manifest = Manifest(
        name=f"noise-ipc2-{name}", method=MethodRecord(name=name, title=name, config={}), source=source,
        classes=[ClassRecord(name=own, source_index=i) for i, own in enumerate(NAMES)], teacher=TEACHER, ipc=2,
        image_size=SIDE, seed=0, stages=[], content_sha256="0" * 64, created=datetime(2026, 1, 1, tzinfo=timezone.utc),
    )  # fmt: skip
    manifest = write_artifact(
        folder, rows, lambda content: manifest.model_copy(update={"content_sha256": content}), class_names=NAMES
    )
    drawn = list(batches(rng, facts, len(images)))
    manifest = write_views(folder, manifest, drawn, facts)
    card = render_card(manifest, (), location=name, files=find(folder).files)
    (folder / "README.md").write_text(card[: card.index("\n---\n") + 5], encoding="utf-8")  # what load_dataset reads
    shutil.rmtree(folder / ".run")
    return {
        f"{name}_images": images,
        f"{name}_views": np.concatenate([finished(images, batch, facts.image_size) for batch in drawn]),
        f"{name}_targets": np.concatenate([targets(batch) for batch in drawn]),
    }


if __name__ == "__main__":
    expected = {}
    for name, extent in EXTENTS.items():
        expected |= make(name, extent)
    np.savez_compressed(HERE / "expected.npz", **expected)
