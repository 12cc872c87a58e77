"""Replaying stored views: which batches a student sees, what is drawn in them, and which labels their logits stand for."""

from collections.abc import Mapping

import numpy as np
import torch

from distill_hub.artifact.manifest import ViewsRecord
from distill_hub.running.seeds import cpu_generator, draw_seed


def order(record: ViewsRecord, images: int, seed: int, epoch: int) -> list[int]:
    """Return the stored batches that a student sees in an epoch, by their place among all that are stored.

    Full views are replayed as they were stored, whatever the seed. Of pruned ones as many as an epoch has whole batches are
    drawn with replacement (LPLD: Xiao and He, 2024): the number of steps does not fall with the number of labels.

    Args:
        record: Of the views.
        images: N, of the set.
        seed: Of the student.
        epoch: From 0.
    """
    count = record.per_epoch(images)
    if not record.is_pruned:
        return list(range(epoch * count, (epoch + 1) * count))
    generator = cpu_generator(draw_seed(seed, "stored batches", epoch))
    return torch.randint(record.batches(images), (count,), generator=generator).tolist()


def view_draws(view: Mapping[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """Turn a batch of stored views into draws, see `augmentation.augment.draw`: what names images there names rows here."""
    same = ("crop", "flip", "box", "share", "logits")
    draws = {name: torch.from_numpy(np.ascontiguousarray(view[name])) for name in same}
    if "class_index" in view:
        draws["class_index"] = torch.from_numpy(view["class_index"].astype(np.int64))
    rows = np.argsort(view["image_index"])
    partner = rows[np.searchsorted(view["image_index"], view["partner_index"], sorter=rows)]
    return {**draws, "order": torch.from_numpy(view["image_index"].astype(np.int64)), "partner": torch.from_numpy(partner)}


def probabilities(logits: torch.Tensor, class_index: torch.Tensor | None, classes: int, temperature: float) -> torch.Tensor:
    """Return the labels that logits stand for, float32 (B, C).

    Of the k largest logits these are softmax(logits / T), and 0 for all other classes (MR-k of LPQLD: Xiao and He, 2026).

    Args:
        logits: (B, C), or (B, k).
        class_index: Of each of the k logits its class, int64 (B, k); None: there are all, in label order.
        classes: C.
        temperature: T.
    """
    kept = (logits.float() / temperature).softmax(1)
    return kept if class_index is None else kept.new_zeros(len(kept), classes).scatter_(1, class_index, kept)


def strongest(logits: torch.Tensor, count: int | None) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return the largest of logits (B, C), largest first, and their classes, int64; both (B, count), equal ones by class.

    None: all, in label order, and no classes.
    """
    if count is None:
        return logits, None
    largest, classes = logits.sort(dim=1, descending=True, stable=True)
    return largest[:, :count], classes[:, :count]
