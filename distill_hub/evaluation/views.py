"""Making stored views: every image of every epoch as a student will see it, labelled by the teacher (FKD, SRe2L)."""

import dataclasses
import functools
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from distill_hub.artifact.manifest import VIEWS_FORMAT, Manifest, ModelRecord, ViewsExtent, ViewsFacts
from distill_hub.augmentation.augment import augment, batch_of, draw
from distill_hub.classifiers import Classifier
from distill_hub.config import InputError
from distill_hub.options.shared import ViewsOptions
from distill_hub.running.console import size_text
from distill_hub.running.run import Run, Stage
from distill_hub.training.post_training import FKD_EPOCHS, fkd_batch_size, fkd_views
from distill_hub.training.protocols import Protocol, protocol
from distill_hub.training.train import epoch_generator
from distill_hub.views.files import write_views
from distill_hub.views.replay import strongest

WRITTEN_BY_DEFAULT = 64 * 2**20  # bytes: more is made on request
CHUNK_ROWS = 2000  # views per chunk of work; at least one item


def predicted_bytes(extent: ViewsExtent, images: int, classes: int) -> int:
    """Estimate the size of stored views, in bytes: mostly the logits.

    Compressed, one of all takes 2 bytes, and one of the largest 3.3 with its class: these need fewer bits than 16, and
    logits that fall compress well. A row's other columns take about 14 bytes, and a batch's headers about 1,000.

    Args:
        extent: How much is stored.
        images: Number of images that students see.
        classes: Number of classes.
    """
    logits = 3.3 * extent.top_k if extent.top_k else 2 * classes
    return round(extent.views(images) * (logits + 14)) + extent.batches(images) * 1000


def check_top_k(top_k: int | None, classes: int) -> None:
    """Refuse a number of logits that cannot be stored of a view.

    Args:
        top_k: As many; None: all.
        classes: Number of classes.

    Raises:
        InputError: When there are not as many, and for so many classes that 16 bits do not number them.
    """
    if top_k is None:
        return
    if top_k >= classes:
        valid = f"a view has {classes:,} logits: choose fewer, or leave it out and all are stored"
        raise InputError("top_k", top_k, valid)
    if classes > 2**16:
        valid = f"a logit's class is stored in 16 bits, which do not number {classes:,} classes; leave it out"
        raise InputError("top_k", top_k, valid)


def epochs_of_views(asked: ViewsOptions, rules: Protocol, images: int, classes: int, image_size: int) -> int:
    """Return for how many epochs a set gets views.

    Where nobody says, those of `fkd` where pruned or cut ones are asked for, or where whole ones are small; else none.

    Args:
        asked: What is asked for.
        rules: The protocol that its students are trained by.
        images: Number of images that students see.
        classes: Number of classes.
        image_size: Side of the set's images in pixels.

    Raises:
        InputError: When the students need more, and for what `check_top_k` refuses.
    """
    check_top_k(asked.top_k, classes)
    epochs = asked.view_epochs
    if epochs is None:
        whole = asked.label_share == 1 and asked.top_k is None
        small = predicted_bytes(_extent(images, classes), images, classes) <= WRITTEN_BY_DEFAULT
        epochs = FKD_EPOCHS if small or not whole else 0
    if rules.resolved(views=epochs > 0).labels == "views" and epochs < (needed := rules.view_epochs(image_size)):
        valid = f"{rules.name} trains for {needed} epochs: pass --view_epochs {needed}"
        raise InputError("view_epochs", asked.view_epochs, valid)
    return epochs


def offer(images: int, classes: int) -> str:
    """Say what views would take that are too large to be stored unasked, and how to ask for them."""
    share, top_k = 0.025, max(1, min(50, classes // 10))  # LPLD's 40-fold pruning; LPQLD's number for 1,000 classes
    whole, pruned, cut, both = (
        size_text(predicted_bytes(_extent(images, classes, **kept), images, classes))
        for kept in ({}, {"label_share": share}, {"top_k": top_k}, {"label_share": share, "top_k": top_k})
    )
    return (
        f"Views are not stored: those of {FKD_EPOCHS} epochs take about {whole} (--view_epochs {FKD_EPOCHS}), "
        f"their first batches {pruned} (--label_share {share}), their largest logits {cut} (--top_k {top_k}), both {both}"
    )


def _extent(images: int, classes: int, **kept: Any) -> ViewsExtent:
    """Return that of views in the protocol's batches."""
    batch_size = fkd_batch_size(images, classes)
    return ViewsExtent(format=VIEWS_FORMAT, epochs=FKD_EPOCHS, batch_size=batch_size, **kept)


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
    label_share: float = 1.0,
    top_k: int | None = None,
) -> tuple[Stage, ViewsFacts]:
    """Draw and label the views of all epochs, or of the first batches, spread over processes, each finished chunk kept.

    Args:
        run: The run.
        images: The set, uint8 (N, 3, S, S).
        teacher: Labels the views.
        record: What is known of it.
        epochs: How many; each holds every image once, but for what is pruned.
        mirrored: Whether half of the views are mirrored.
        seed: Of the views. Above 64 px a student of this seed under `sre2l` sees the same ones.
        batch_size: Images that are mixed among each other; default: the protocol's.
        label_share: Of the batches that are drawn at all, see `ViewsExtent`.
        top_k: Logits that are kept of a view, the largest; None: all.

    Returns:
        The views, as `store_views` takes them, and how they were drawn.
    """
    count, classes = len(images), len(teacher.columns)
    batch_size = min(batch_size or fkd_batch_size(count, classes), count)
    stored = images.shape[-1]
    rules, size = fkd_views(mirrored), min(224, stored)
    facts = ViewsFacts(
        format=VIEWS_FORMAT, epochs=epochs, batch_size=batch_size, label_share=label_share, top_k=top_k,
        image_size=size, crop_scale=rules.crop_scale, flip=rules.flip, mix_alpha=rules.mix_alpha,
        teacher=record, seed=seed,
    )  # fmt: skip
    run.say(_in_words(facts, count, classes))
    pixels, rows, per_epoch = images.to(run.device), _item_rows(facts, count), _items_per_epoch(facts, count)

    @functools.lru_cache(maxsize=1)  # several items are of one epoch
    def drawn(epoch: int) -> dict[str, torch.Tensor]:
        return draw(rules, count, batch_size, size, epoch_generator(seed, epoch), stored_size=stored)

    @torch.inference_mode()
    def label(chunk: Sequence[int]) -> dict[str, torch.Tensor]:
        made = []
        for item in chunk:
            epoch, place = divmod(item, per_epoch)
            draws = batch_of(drawn(epoch), place * rows, (place + 1) * rows)
            logits = []
            for start in range(0, rows, batch_size):
                batch = {key: value.to(run.device) for key, value in batch_of(draws, start, start + batch_size).items()}
                views = augment(pixels[batch["order"]], batch, (0.0,) * 3, (1.0,) * 3, size)  # in [0, 1]
                with torch.autocast(run.device.type, run.dtype, enabled=run.dtype is not torch.float32):
                    logits.append(_kept(teacher.logits(views).half(), top_k))
            made.append({**draws, **{key: torch.cat([one[key] for one in logits]) for key in logits[0]}})
        return {key: torch.stack([one[key] for one in made]) for key in made[0]}

    made_from = {
        "images": hashlib.sha256(images.contiguous().numpy()).hexdigest(), "teacher": record.sha256,
        "columns": teacher.columns, "rules": dataclasses.asdict(rules), "seed": seed, "batch_size": batch_size,
        "pruned": facts.is_pruned, "top_k": top_k, "version": protocol("fkd").version,
    }  # fmt: skip
    items, chunk_size = facts.views(count) // rows, max(1, CHUNK_ROWS // rows)
    stage = run.map("views", range(items), label, chunk_size=chunk_size, made_from=made_from, lower="a smaller teacher")
    return stage, facts


def _item_rows(facts: ViewsFacts, images: int) -> int:
    """Return how many views are one item of work: those of an epoch, or of a batch where not every epoch is whole."""
    return facts.batch_size if facts.is_pruned else images


def _items_per_epoch(facts: ViewsFacts, images: int) -> int:
    return facts.per_epoch(images) if facts.is_pruned else 1


def _in_words(facts: ViewsFacts, images: int, classes: int) -> str:
    """Say what will be stored, and how large it will be."""
    size = size_text(predicted_bytes(facts, images, classes))
    kept = facts.batches(images)
    share = f"{kept:,} batch{'es' * (kept != 1)}, a share of {facts.label_share}, of " if facts.is_pruned else ""
    logits = f"the {facts.top_k:,} largest of {classes:,}" if facts.top_k else f"{classes:,}"
    return (
        f"Stored views: {share}{facts.epochs} epochs of {images:,} images with {logits} logits each will take about {size}"
    )


def _kept(logits: torch.Tensor, top_k: int | None) -> dict[str, torch.Tensor]:
    """Return what is stored of logits (B, C), float16: all, or the k largest and their classes."""
    kept, classes = strongest(logits, top_k)
    return {"logits": kept.cpu()} | ({} if classes is None else {"class_index": classes.int().cpu()})


def store_views(folder: Path, manifest: Manifest, stage: Stage, facts: ViewsFacts) -> Manifest:
    """Write drawn views into the artifact folder; see `views.files.write_views`."""
    per_epoch = _items_per_epoch(facts, manifest.images)

    def batches() -> Iterator[dict[str, np.ndarray]]:
        for item in range(len(stage)):
            rows = {key: tensor[0].numpy() for key, tensor in stage.rows(item, item + 1).items()}
            order = rows.pop("order").astype(np.int32)
            columns = {
                "epoch": np.full_like(order, item // per_epoch), "image_index": order,
                "partner_index": order[rows.pop("partner")], "flip": np.zeros(len(order), dtype=bool), **rows,
            }  # fmt: skip
            if facts.top_k:
                columns["class_index"] = columns["class_index"].astype(np.uint16)
            for start in range(0, len(order), facts.batch_size):
                yield {key: column[start : start + facts.batch_size] for key, column in columns.items()}

    return write_views(folder, manifest, batches(), facts)
