"""Size of stored views of 1,000 classes as predicted and on the disk, and time and memory of writing and of reading them.

    python tests/bench/label_sizes.py --folder /tmp/label-sizes

As many views as students of ImageNet-1K see at IPC 10 under LPLD: 300 epochs of batches of 128. Logits are noise, so they
compress no better than a teacher's. Every case is written by one process and read by another: both say what they added to
the memory that Python and its packages take, and take seconds of the CPU. Prints a table in Markdown.
"""

import argparse
import json
import resource
import shutil
import subprocess
import sys
import time
from datetime import datetime, timezone
from pathlib import Path

import numpy as np

from distill_hub.artifact.find import find
from distill_hub.artifact.manifest import ClassRecord, Manifest, MethodRecord, ModelRecord, ViewsFacts
from distill_hub.artifact.source import SourceRecord
from distill_hub.evaluation.views import predicted_bytes
from distill_hub.running.console import size_text
from distill_hub.views.files import open_views, write_views
from distill_hub.views.replay import order, view_draws

CLASSES, IPC, EPOCHS, BATCH, SIDE = 1000, 10, 300, 128, 224
CASES = {
    "all logits, 10x pruned": {"label_share": 0.1},
    "all logits, 40x pruned": {"label_share": 0.025},
    "50 largest, all batches": {"top_k": 50},
    "10 largest, all batches": {"top_k": 10},
    "50 largest, 10x pruned": {"top_k": 50, "label_share": 0.1},
    "10 largest, 10x pruned": {"top_k": 10, "label_share": 0.1},
}
TEACHER = ModelRecord(id="noise", architecture="none", sha256="0" * 64)
DIFFERENT = 16  # batches of noise, used in turn: row groups are compressed on their own


def facts_of(case: dict) -> ViewsFacts:
    """Return how the views of a case are drawn."""
    return ViewsFacts(
        format=2, epochs=EPOCHS, batch_size=BATCH, image_size=SIDE, crop_scale=(0.08, 1.0), flip=True, mix_alpha=1.0,
        teacher=TEACHER, seed=0, **case,
    )  # fmt: skip


def manifest() -> Manifest:
    """Describe a set of as many classes and images."""
    source = SourceRecord(
        name="noise", fingerprint="0" * 64, train_split="train", test_split="test", image_column="image",
        label_column="label", train_images=1, test_images=1,
    )  # fmt: skip
    classes = [ClassRecord(name=str(i), source_index=i) for i in range(CLASSES)]
    method = MethodRecord(name="noise", title="noise", config={})
    return Manifest(
        name="noise", method=method, source=source, classes=classes, ipc=IPC, image_size=SIDE, stages=[],
        content_sha256="0" * 64, created=datetime(2026, 1, 1, tzinfo=timezone.utc),
    )  # fmt: skip


def noise(rng: np.random.Generator, top_k: int | None) -> dict[str, np.ndarray]:
    """Return the logits of a batch as they are stored."""
    logits = np.float16(rng.normal(0, 3, (BATCH, CLASSES)))
    if top_k is None:
        return {"logits": logits}
    chosen = np.argsort(-logits, axis=1, kind="stable")[:, :top_k]
    return {"logits": np.take_along_axis(logits, chosen, axis=1), "class_index": chosen.astype(np.uint16)}


def batches(facts: ViewsFacts, images: int):
    """Yield batches as `store_views` does: crops of whole pixels, one box for a batch."""
    rng = np.random.default_rng(0)
    labels = [noise(rng, facts.top_k) for _ in range(DIFFERENT)]
    for index in range(facts.batches(images)):
        epoch, place = divmod(index, facts.per_epoch(images))
        if place == 0:
            shuffled = rng.permutation(images)
        own = shuffled[place * BATCH :][:BATCH]
        extent = rng.integers(60, SIDE + 1, (len(own), 2))
        top, left = rng.integers(0, SIDE // 2, 2)
        bottom, right = rng.integers((top, left), SIDE + 1)
        yield {
            "epoch": np.full(len(own), epoch),
            "image_index": own,
            "crop": np.concatenate([rng.integers(0, SIDE - extent + 1), extent], 1) / SIDE,
            "flip": rng.random(len(own)) < 0.5,
            "partner_index": rng.permutation(own),
            "box": np.tile([top, left, bottom, right], (len(own), 1)),
            "share": np.full(len(own), 1 - (bottom - top) * (right - left) / SIDE**2),
            **{name: values[: len(own)] for name, values in labels[index % DIFFERENT].items()},
        }


def peak() -> int:
    """Return the most memory that this process has had, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def write(folder: Path, case: dict) -> dict[str, float]:
    """Write the views of a case; return seconds of the CPU, bytes on the disk and of memory."""
    facts, whole, before, started = facts_of(case), manifest(), peak(), time.process_time()
    write_views(folder, whole, batches(facts, whole.images), facts)
    seconds = time.process_time() - started
    return {
        "seconds": seconds,
        "bytes": sum(file.stat().st_size for file in (folder / "views").iterdir()),
        "predicted": predicted_bytes(facts, whole.images, CLASSES),
        "memory": peak() - before,
        "rows": facts.views(whole.images),
    }


def read(folder: Path, case: dict) -> dict[str, float]:
    """Open the views of a case, which checks all of them, and read the batches that a student sees in an epoch."""
    before, started = peak(), time.process_time()
    views = open_views(find(folder), Manifest.read(folder / "manifest.json"))
    opened, started = time.process_time() - started, time.process_time()
    drawn = order(views.record, views.images, seed=0, epoch=0)
    for index in drawn:
        view_draws(views.batch(index))
    return {"open": opened, "seconds": time.process_time() - started, "memory": peak() - before, "batches": len(drawn)}


def in_a_process(what: str, folder: Path, name: str) -> dict[str, float]:
    """Run one part in a process of its own."""
    line = [sys.executable, __file__, "--folder", str(folder), "--what", what, "--case", name]
    return json.loads(subprocess.run(line, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def main() -> None:
    """Run all cases, or one part of one."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--what", choices=["write", "read"])
    parser.add_argument("--case", choices=list(CASES))
    given = parser.parse_args()
    if given.what:
        print(json.dumps({"write": write, "read": read}[given.what](given.folder, CASES[given.case])))
        return
    images = CLASSES * IPC
    full = predicted_bytes(facts_of({}), images, CLASSES)
    read_once = f"{images // BATCH} batches, core-s"
    columns = "views", "rows", "predicted", "on disk", "write, core-s", "memory", "open, core-s", read_once, "memory"
    print(f"| {' | '.join(columns)} |")
    print("|---|---|---|---|---|---|---|---|---|")
    print(f"| all logits, all batches | {facts_of({}).views(images):,} | {size_text(full)} | not written | | | | | |")
    for name in CASES:
        shutil.rmtree(given.folder, ignore_errors=True)
        given.folder.mkdir(parents=True)
        wrote, found = in_a_process("write", given.folder, name), in_a_process("read", given.folder, name)
        off = wrote["bytes"] / wrote["predicted"] - 1
        print(
            f"| {name} | {wrote['rows']:,} | {size_text(wrote['predicted'])} | {size_text(wrote['bytes'])} ({off:+.1%}) "
            f"| {wrote['seconds']:.0f} | {size_text(wrote['memory'])} | {found['open']:.1f} "
            f"| {found['seconds']:.2f} | {size_text(found['memory'])} |",
            flush=True,
        )
    shutil.rmtree(given.folder)


if __name__ == "__main__":
    main()
