"""Training of students and fitted teachers: images stay on the device as uint8, augmentation runs there, in batches."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from distill_hub.classifiers import IMAGENET_MEAN, IMAGENET_STD, build, normalize
from distill_hub.evaluation.protocols import Protocol
from distill_hub.run import cpu_generator, draw_seed, progress


@dataclass(frozen=True)
class Training:
    """A trained network and its test accuracies, as fractions."""

    model: nn.Module
    last: float
    best: float
    best_step: int


def shift(images: torch.Tensor, most: int, generator: torch.Generator) -> torch.Tensor:
    """Move each image (B, C, S, S) by its own whole pixels, up to `most` each way; what is uncovered becomes 0."""
    if most == 0:
        return images
    batch, _, side, _ = images.shape
    offsets = torch.randint(0, 2 * most + 1, (2, batch, 1), generator=generator).to(images.device)
    padded = F.pad(images, (most,) * 4)  # (B, C, S + 2m, S + 2m)
    rows, columns = offsets + torch.arange(side, device=images.device)  # (B, S) each
    batch_index = torch.arange(batch, device=images.device).view(-1, 1, 1)
    return padded[batch_index, :, rows.unsqueeze(2), columns.unsqueeze(1)].permute(0, 3, 1, 2)


@torch.inference_mode()
def accuracy(model: nn.Module, images: torch.Tensor, labels: torch.Tensor, batch_size: int = 500) -> float:
    """Return the fraction of uint8 images (N, 3, S, S) that a student classifies right."""
    model.eval()
    hits = sum(
        (model(_prepare(batch)).argmax(1) == target).sum()
        for batch, target in zip(images.split(batch_size), labels.split(batch_size), strict=True)
    )
    model.train()
    return int(hits) / len(labels)


def _prepare(images: torch.Tensor) -> torch.Tensor:
    return normalize(images.float() / 255, IMAGENET_MEAN, IMAGENET_STD)


def train_student(
    student: str,
    train: tuple[torch.Tensor, torch.Tensor],
    test: tuple[torch.Tensor, torch.Tensor],
    num_classes: int,
    protocol: Protocol,
    seed: int,
    *,
    title: str = "",
) -> Training:
    """Train a network from scratch by a protocol and look at the test split as often as the protocol says.

    Args:
        student: Name for `build`.
        train: uint8 images (N, 3, S, S) and int64 labels (N,), on the device to train on.
        test: The same for the test split.
        num_classes: Number of classes.
        protocol: Optimiser, schedule, augmentation.
        seed: Of initial weights, batches and augmentation.
        title: Of a progress bar over the steps; none without it.
    """
    (images, labels), device = train, train[0].device
    torch.manual_seed(draw_seed(seed, "student weights"))
    model = build(student, num_classes, images.shape[-1]).to(device).train()
    generator = cpu_generator(draw_seed(seed, "student batches"))
    optimizer = torch.optim.SGD(
        model.parameters(), protocol.learning_rate, momentum=protocol.momentum, weight_decay=protocol.weight_decay
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, protocol.steps)
    most = round(protocol.shift * images.shape[-1])
    looks = {round((look + 1) * protocol.steps / protocol.looks) for look in range(protocol.looks)}
    order = torch.empty(0, dtype=torch.int64)
    last = best = 0.0
    best_step = 0
    for step in progress(range(1, protocol.steps + 1), title, unit="step", disable=not title):
        while len(order) < min(protocol.batch_size, len(images)):  # the next epoch's order follows on the last one's
            order = torch.cat([order, torch.randperm(len(images), generator=generator)])
        rows, order = order[: protocol.batch_size].to(device), order[protocol.batch_size :]
        loss = F.cross_entropy(model(_prepare(shift(images[rows], most, generator))), labels[rows])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        if step in looks:
            last = accuracy(model, *test)
            if last > best:
                best, best_step = last, step
    return Training(model.eval(), last, best, best_step)
