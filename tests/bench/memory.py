"""Memory of evaluating a large set: 1,000 classes, IPC 50, 224 px. No image is worth its while, so none is real.

    python tests/bench/memory.py

Writes such a set (7.5 GB of pixels) to a temporary folder, loads it as `distill-hub evaluate` does, and trains for a few
batches; what is resident at its peak beyond the pixels and labels is what the engine needs for itself.
"""

import argparse
import dataclasses
import datetime
import itertools
import resource
import tempfile
from pathlib import Path

import numpy as np
import torch

from distill_hub.artifact.load import load_artifact
from distill_hub.artifact.manifest import ClassRecord, Manifest, MethodRecord
from distill_hub.artifact.package import write_artifact
from distill_hub.artifact.source import SourceRecord
from distill_hub.data.known import NORMALIZATIONS
from distill_hub.running.machine import start_accelerator
from distill_hub.training import train
from distill_hub.training.protocols import protocol
from distill_hub.training.settings import Task


def peak() -> float:
    """Return the peak of resident memory so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def write(folder: Path, names: list[str], ipc: int, size: int) -> None:
    soft = np.full(len(names), 1 / len(names), dtype=np.float32)
    grey = np.random.default_rng(0).integers(0, 256, len(names) * ipc, dtype=np.uint8)
    rows = (
        {"image": np.full((size, size, 3), level), "label": i // ipc, "soft_label": soft, "confidence": 0.0, "seed": 0}
        for i, level in enumerate(grey)
    )
    source = SourceRecord(name="none", fingerprint="0", train_split="train", test_split="test", image_column="image",
                          label_column="label", train_images=1, test_images=1)  # fmt: skip
    write_artifact(
        folder,
        rows,
        lambda content: Manifest(
            name="large",
            method=MethodRecord(name="none", title="none", config={}),
            source=source,
            classes=[ClassRecord(name=name, source_index=i) for i, name in enumerate(names)],
            ipc=ipc,
            image_size=size,
            stages=[],
            content_sha256=content,
            created=datetime.datetime.now(datetime.timezone.utc),
        ),
        class_names=names,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--ipc", type=int, default=50)
    parser.add_argument("--image_size", type=int, default=224)
    parser.add_argument("--batches", type=int, default=2)
    args = parser.parse_args()
    names = [f"class-{i}" for i in range(args.classes)]
    accelerator = start_accelerator()
    batches = train._batches
    train._batches = lambda *rest: itertools.islice(batches(*rest), args.batches)
    settings = protocol("idc-hard").settings(
        Task(args.classes * args.ipc, args.classes, args.image_size, True, NORMALIZATIONS["imagenet"], "resnet-18")
    )
    settings = dataclasses.replace(settings, epochs=1, looks=())

    def steps(own: train.TrainingSet) -> None:
        train.train_students("resnet-18", [own], None, args.classes, settings, [0])

    batch = torch.zeros(settings.batch_size, 3, args.image_size, args.image_size, dtype=torch.uint8)
    steps(train.TrainingSet(batch, torch.zeros(len(batch), dtype=torch.int64)))  # libraries, weights and one batch
    alone = peak()
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), names, args.ipc, args.image_size)
        written = peak()
        artifact = load_artifact(folder, rows=False, pixels=True)
    loaded = peak()
    own = train.TrainingSet(torch.from_numpy(artifact.pixels), torch.from_numpy(artifact.labels))
    steps(own.at(settings, accelerator.device))
    held = (artifact.pixels.nbytes + artifact.labels.nbytes + artifact.soft_labels.nbytes) / 1e6
    print(f"pixels and labels {held:.0f} MB; peak with one batch and no set {alone:.0f} MB, after writing {written:.0f} MB,")
    print(f"after loading {loaded:.0f} MB, after training {peak():.0f} MB: {peak() - held - alone:.0f} MB beyond the sum")


if __name__ == "__main__":
    main()
