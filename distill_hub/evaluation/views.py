"""Making stored views: every image of every epoch as a student will see it, labelled by the teacher (FKD, SRe2L)."""

import dataclasses
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from distill_hub.artifact.manifest import Manifest, ModelRecord, ViewsFacts
from distill_hub.augmentation.augment import augment, batch_of, draw
from distill_hub.classifiers import Classifier
from distill_hub.config import InputError
from distill_hub.running.console import size_text
from distill_hub.running.run import Run, Stage
from distill_hub.training.post_training import FKD_EPOCHS, fkd_batch_size, fkd_views
from distill_hub.training.protocols import Protocol, protocol
from distill_hub.training.train import epoch_generator
from distill_hub.views.files import write_views

WRITTEN_BY_DEFAULT = 64 * 2**20  # bytes: more is made on request
CHUNK_ROWS = 2000  # views per chunk of work; at least one epoch


def predicted_bytes(images: int, epochs: int, classes: int, batch_size: int = 100) -> int:
    """Estimate the size of stored views, in bytes: mostly the logits, 2 bytes each.

    A row's other columns take about 14 bytes once they are compressed, and a batch's headers about 1,000.
    """
    return epochs * (images * (2 * classes + 14) + -(-images // batch_size) * 1000)


def epochs_of_views(asked: int | None, rules: Protocol, images: int, classes: int) -> int:
    """Return for how many epochs a set gets views.

    Args:
        asked: As many; None: those of `fkd` where they are small, else none.
        rules: The protocol that its students are trained by.
        images: Number of images that students see.
        classes: Number of classes.

    Raises:
        InputError: When the students need more.
    """
    size = predicted_bytes(images, FKD_EPOCHS, classes, fkd_batch_size(images, classes))
    default = FKD_EPOCHS if size <= WRITTEN_BY_DEFAULT else 0
    epochs = default if asked is None else asked
    if rules.resolved(views=epochs > 0).labels == "views" and epochs < FKD_EPOCHS:
        valid = f"{rules.name} trains for {FKD_EPOCHS} epochs: pass --view_epochs {FKD_EPOCHS}"
        raise InputError("view_epochs", asked, valid)
    return epochs


def draw_views(
    run: Run,
    images: torch.Tensor,
    teacher: Classifier,
    record: ModelRecord,
    *,
    epochs: int,
    mirrored: bool,
    seed: int,
    batch_size: int | None = None,
) -> tuple[Stage, ViewsFacts]:
    """Draw and label the views of all epochs, spread over processes, each finished chunk kept.

    Args:
        run: The run.
        images: The set, uint8 (N, 3, S, S).
        teacher: Labels the views.
        record: What is known of it.
        epochs: How many; each holds every image once.
        mirrored: Whether half of the views are mirrored.
        seed: Of the views. Above 64 px a student of this seed under `sre2l` sees the same ones.
        batch_size: Images that are mixed among each other; default: the protocol's.
    """
    count, classes = len(images), len(teacher.columns)
    batch_size = min(batch_size or fkd_batch_size(count, classes), count)
    stored = images.shape[-1]
    rules, size = fkd_views(mirrored), min(224, stored)
    size_then = size_text(predicted_bytes(count, epochs, classes, batch_size))
    run.say(f"Stored views: {epochs} epochs of {count:,} images with {classes:,} logits each will take about {size_then}")
    pixels = images.to(run.device)

    @torch.inference_mode()
    def label(chunk: Sequence[int]) -> dict[str, torch.Tensor]:
        drawn = []
        for epoch in chunk:
            epoch_draws = draw(rules, count, batch_size, size, epoch_generator(seed, epoch), stored_size=stored)
            logits = []
            for start in range(0, count, batch_size):
                batch = {
                    key: value.to(run.device) for key, value in batch_of(epoch_draws, start, start + batch_size).items()
                }
                views = augment(pixels[batch["order"]], batch, (0.0,) * 3, (1.0,) * 3, size)  # in [0, 1]
                with torch.autocast(run.device.type, run.dtype, enabled=run.dtype is not torch.float32):
                    logits.append(teacher.logits(views).half().cpu())
            drawn.append({**epoch_draws, "logits": torch.cat(logits)})
        return {key: torch.stack([one[key] for one in drawn]) for key in drawn[0]}

    made_from = {
        "images": hashlib.sha256(images.contiguous().numpy()).hexdigest(), "teacher": record.sha256,
        "columns": teacher.columns, "rules": dataclasses.asdict(rules), "seed": seed, "batch_size": batch_size,
        "version": protocol("fkd").version,
    }  # fmt: skip
    chunk_size = max(1, CHUNK_ROWS // count)
    stage = run.map("views", range(epochs), label, chunk_size=chunk_size, made_from=made_from, lower="a smaller teacher")
    facts = ViewsFacts(
        epochs=epochs, batch_size=batch_size, image_size=size, crop_scale=rules.crop_scale, flip=rules.flip,
        mix_alpha=rules.mix_alpha, teacher=record, seed=seed,
    )  # fmt: skip
    return stage, facts


def store_views(folder: Path, manifest: Manifest, stage: Stage, facts: ViewsFacts) -> Manifest:
    """Write drawn views into the artifact folder; see `views.files.write_views`."""

    def batches() -> Iterator[dict[str, np.ndarray]]:
        for epoch in range(facts.epochs):
            rows = {key: tensor[0].numpy() for key, tensor in stage.rows(epoch, epoch + 1).items()}
            order = rows["order"].astype(np.int32)
            flip = rows.get("flip", np.zeros(len(order), dtype=bool))
            partner = order[rows["partner"]]
            columns = {**rows, "image": order, "partner": partner, "flip": flip, "epoch": np.full_like(order, epoch)}
            for start in range(0, len(order), facts.batch_size):
                yield {key: column[start : start + facts.batch_size] for key, column in columns.items() if key != "order"}

    return write_views(folder, manifest, batches(), facts)
