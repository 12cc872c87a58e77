"""SRe2L's post-training and its successors: a teacher's labels of every augmented batch, said online or stored as views."""

import dataclasses
from typing import Literal

from distill_hub.augmentation.augment import Augmentation
from distill_hub.training.settings import Settings, Task


def sre2l(task: Task) -> Settings:
    """SRe2L's post-training (Yin et al., 2023), of DEDA's tables on CIFAR, too: a teacher labels every augmented batch.

    Code: SRe2L 8d00cba for ImageNet and CIFAR, zeyuanyin/tiny-imagenet 275c667 for Tiny-ImageNet. Up to 32 px the CIFAR
    settings, up to 64 px those of Tiny-ImageNet. The batch of 1,024 is that of ImageNet-1K; sets of fewer classes take the
    128 of LPLD and CDA, as 1,024 would exceed many of them. Crops are of the stored file, as its relabelling takes them.
    """
    size, (mean, std) = task.image_size, task.normalization
    if size <= 32:
        return Settings(
            epochs=400,
            batch_size=128,
            optimizer="adamw",
            learning_rate=0.001,
            weight_decay=0.01,
            decay_all=True,
            schedule="cosine",
            augmentation=Augmentation(pad=0.125, flip=task.mirrored, mix="mixup", mix_alpha=0.8),
            image_size=size,
            test_resize=size,
            looks=(*range(1, 400, 10), 400),
            labels="teacher",
            temperature=30.0,
            mean=mean,
            std=std,
        )
    if size <= 64:
        return Settings(
            epochs=100,
            batch_size=256,
            optimizer="sgd",
            learning_rate=0.2,
            weight_decay=1e-4,
            decay_all=True,
            schedule="warmup-cosine",
            augmentation=Augmentation(crop_scale=(0.08, 1.0), flip=task.mirrored),
            image_size=size,
            test_resize=size,
            looks=tuple(range(1, 101)),
            labels="teacher",
            temperature=20.0,
            temperature_squared=True,
            mean=mean,
            std=std,
        )
    return _post_training(task, labels="teacher", batch_size=fkd_batch_size(task.images, task.classes))


def lpld(task: Task) -> Settings:
    """LPLD's post-training (Xiao and He, 2024), of its tables and of DEDA's on Tiny-ImageNet and ImageNet-1K.

    Code: he-y/soft-label-pruning-for-dataset-distillation 63eee18. It is SRe2L's with smaller batches: 128 on ImageNet, so
    23,700 updates at IPC 10 and not 3,000, and 64 on Tiny-ImageNet, where biases and norms do not decay. LPLD has no CIFAR;
    DEDA follows both papers, so there SRe2L: `sre2l`.

    Stored views are replayed, in their own batches, where the set has them; those of small images are FKD's, too, which LPLD
    does not mix. Pruned ones: see `views.replay.order`. Without views a teacher says the labels.
    """
    own, stored = lpld_batch_size(task.images, task.image_size), task.views_batch_size
    if 32 < task.image_size <= 64:
        small = dataclasses.replace(sre2l(task), batch_size=own, decay_all=False, looks=(*range(1, 100, 10), 100))
        reason = "LPLD does not mix its views of images this small, and stored views are mixed"
        views = {"labels": "views", "augmentation": fkd_views(task.mirrored), "crops_stored": True, "non_standard": reason}
        return dataclasses.replace(small, batch_size=stored, **views) if stored else small
    if stored:
        known = _post_training(task, labels="views", batch_size=stored)
        reason = f"LPLD trains in batches of {own}, and these views are stored in batches of {stored}"
        return known if stored == own else dataclasses.replace(known, non_standard=known.non_standard or reason)
    if task.image_size <= 32:
        reason = "LPLD trains on no images this small; what DEDA does there is sre2l"
        return dataclasses.replace(sre2l(task), non_standard=reason)
    return _post_training(task, labels="teacher", batch_size=own)


def lpqld(task: Task) -> Settings:
    """LPQLD's post-training (Xiao and He, 2026): `lpld` on stored views, at temperatures that fall and that students find.

    Code: he-y/soft-label-pruning-quantization-for-dataset-distillation 107c7a5. The labels' temperature of epoch e, from 0,
    is max(2, 20 * 0.7^(e // 30)). A student's own is 1 at first, and after every epoch that of the grid 0.01, 0.02, ..., 1
    with the least divergence of its outputs for the epoch's last batch from the labels. Of views of the k largest logits the
    labels are MR-k, see `views.replay.probabilities`. It looks at the test split every 50 epochs. Not taken: epochs counted
    from 1, so that the first fall comes one epoch early; that an epoch's batches are distinct, where LPLD draws them with
    replacement; the divergence from the log of the labels on Tiny-ImageNet.
    """
    stored = task.views_batch_size or lpld_batch_size(task.images, task.image_size)
    known = lpld(dataclasses.replace(task, views_batch_size=stored))
    looks = (*range(1, known.epochs, 50), known.epochs)
    return dataclasses.replace(known, temperature_steps=(30, 0.7, 2.0), temperature_found=True, looks=looks)


def lpld_batch_size(images: int, image_size: int) -> int:
    """Return the batch size of LPLD's post-training, and of views that are made anew for its students or LPQLD's."""
    return min(64 if 32 < image_size <= 64 else 128, images)


def fkd(task: Task) -> Settings:
    """SRe2L's post-training on stored views (FKD: Shen and Xing, 2022): no teacher, and the same labels for everyone.

    The batches are those the views were made with, as in SRe2L's code; with views in batches of 128 this is LPLD's training.
    There image ids are not stored but derived anew; here every view names its image, and no order of files matters.
    """
    return _post_training(
        task, labels="views", batch_size=task.views_batch_size or fkd_batch_size(task.images, task.classes)
    )


def fkd_batch_size(images: int, classes: int) -> int:
    """Return the batch size of SRe2L's post-training at 224 px, and of all other views that are made anew."""
    return min(1024 if classes == 1000 else 128, images)


FKD_EPOCHS = 300


def fkd_views(mirrored: bool) -> Augmentation:
    """Return how FKD's views are drawn: crops of 8 to 100 % of the area, mirrored or not, mixed by CutMix."""
    return Augmentation(crop_scale=(0.08, 1.0), flip=mirrored, mix="cutmix")


def _post_training(task: Task, *, labels: Literal["teacher", "views"], batch_size: int) -> Settings:
    size = min(224, task.image_size)
    small = "the papers that train so have images of 224 px or more" if size < 224 else None
    return Settings(
        epochs=FKD_EPOCHS,
        batch_size=batch_size,
        optimizer="adamw",
        learning_rate=0.001,
        weight_decay=0.01,
        decay_all=False,
        schedule="cosine",
        augmentation=fkd_views(task.mirrored),
        image_size=size,
        test_resize=size // 7 * 8,
        looks=(*range(1, FKD_EPOCHS, 10), FKD_EPOCHS),
        labels=labels,
        crops_stored=True,
        temperature=20.0,
        non_standard=small,
    )
