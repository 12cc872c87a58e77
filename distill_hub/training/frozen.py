"""Linear probes: of a trained network, whose weights stay as they are, a new last layer is trained on its features.

That is how sets for pretrained networks are scored (Cazenavette, Torralba and Sitzmann, 2025, arXiv 2511.16674; code
GeorgeCazenavette/linear-gradient-matching 593aab1, src/distillation/eval.py). Taken: Adam without weight decay, batches of
at most 100, a learning rate of 0.001 for 256 images and in proportion for fewer, a cosine to 0. Not taken: new crops of
every batch, here each image's features are computed once, as it is; the best of many looks at the test split.
"""

import os
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import nn

from distill_hub.artifact.describe import weights_sha256
from distill_hub.artifact.manifest import ModelRecord
from distill_hub.artifact.names import public_name
from distill_hub.augmentation.augment import Augmentation
from distill_hub.classifiers import classified_at_a_time, find_head, prepare, read_network, unit_batches
from distill_hub.config import InputError
from distill_hub.disk.files import slug
from distill_hub.running.console import progress
from distill_hub.running.seeds import draw_seed
from distill_hub.training.settings import Settings, Task, learning_rate
from distill_hub.training.train import Training, TrainingSet, epoch_generator


def frozen(task: Task) -> Settings:
    """Return the settings of a linear probe."""
    batch_size, size = min(100, task.images), min(224, task.image_size)
    return Settings(
        epochs=1000,
        batch_size=batch_size,
        optimizer="adamw",  # which without weight decay is Adam
        learning_rate=0.001 * batch_size / 256,
        weight_decay=0.0,
        decay_all=True,
        schedule="cosine",
        augmentation=Augmentation(),
        image_size=size,
        test_resize=size,
        looks=(1000,),
        frozen=True,
        non_standard="linear probes of the literature see new crops of every image, and report the best of many looks",
    )


def recorded_name(student: str) -> str:
    """Return what records call a student: a trained network in a folder not by its place."""
    return slug(student) if os.path.isdir(student) else student


class Backbone:
    """A trained network without its last layer.

    Args:
        name: 'timm/NAME' with published weights, be it a classifier or not; the folder of a classifier, or its Hub id.
        device: Where to run.
        known: What is on record of it, whose weights it must have; None: nothing is.

    Raises:
        InputError: When it cannot be loaded, or has other weights.
    """

    def __init__(self, name: str, device: torch.device, known: ModelRecord | None = None):
        revision, network, features = known and known.revision, None, {}
        try:
            if name.startswith("timm/"):
                from distill_hub.networks.of_timm import pretrained

                network = pretrained(name, revision, headless=True)
            has_head = network is None
            network = read_network(name, revision) if network is None else network
            self.model = network["model"].to(device).eval().requires_grad_(False)
            if has_head:
                head = find_head(self.model, len(network["class_names"]), name)
                head.register_forward_pre_hook(lambda _, inputs: features.update(seen=inputs[0]))
        except InputError as error:  # which takes every trained network for a teacher
            raise InputError("students", error.value, error.valid) from error
        size = network["image_size"]
        mean, std = (list(network[key]) * (3 // len(network[key])) for key in ("mean", "std"))
        self._how = {"image_size": size, "resize": network.get("resize") or size, "mean": mean, "std": std}
        self._how |= {"interpolation": network.get("interpolation", "bilinear"), "grey": network.get("grey", False)}
        self._device, self._seen, self._test = device, features if has_head else None, None
        self.student = recorded_name(name)
        self.record = ModelRecord(
            id=public_name(name),
            architecture=network["architecture"],
            revision=network.get("revision"),
            sha256=weights_sha256(self.model),
            license=network.get("license"),
        )
        if known and known.sha256 != self.record.sha256:
            valid = f"its weights hash to {self.record.sha256}, the record has {known.sha256}; another name measures it anew"
            raise InputError("students", name, valid)

    @torch.no_grad()
    def features(self, images: torch.Tensor) -> torch.Tensor:
        """Return what the last layer sees of images, uint8 (N, 3, S, S): float32 (N, D), on its device."""
        found = []
        for batch in unit_batches(images, classified_at_a_time(self._how["image_size"]), self._device):
            output = self.model(prepare(batch, **self._how))
            found.append((output if self._seen is None else self._seen["seen"]).flatten(1).float())
        return torch.cat(found)

    def of_test(self, images: torch.Tensor) -> torch.Tensor:
        """Return the features of the test images, computed once for all students; see `features`."""
        if self._test is None or self._test[0] is not images:
            self._test = images, self.features(images)
        return self._test[1]


def train_heads(
    backbone: Backbone,
    sets: Sequence[TrainingSet],
    test: tuple[torch.Tensor, torch.Tensor],
    num_classes: int,
    settings: Settings,
    seeds: Sequence[int],
    *,
    title: str = "",
    log: Callable[[int, dict[str, float]], None] | None = None,
) -> list[Training]:
    """Train a last layer for each set, and look at the test split at the end; see `train.train_students`.

    Args:
        backbone: The trained network.
        sets: What each is trained on: its images, and its labels as classes.
        test: Images, uint8 (M, 3, S, S), and int64 labels (M,).
        num_classes: Number of classes.
        settings: See `frozen`.
        seeds: Of each layer's initial weights and batches.
        title: Of a progress bar over the epochs; none without it.
        log: See `train_students`.
    """
    trained = []
    for own, seed in zip(sets, seeds, strict=True):
        features = backbone.features(own.images)
        labels = own.labels.to(features.device)
        torch.manual_seed(draw_seed(seed, "student weights"))
        head = nn.Linear(features.shape[1], num_classes).to(features.device)
        optimizer = torch.optim.AdamW(head.parameters(), settings.learning_rate, weight_decay=settings.weight_decay)
        for epoch in progress(range(settings.epochs), title, unit="epoch", disable=not title):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(settings, epoch)
            order = torch.randperm(len(labels), generator=epoch_generator(seed, epoch)).to(labels.device)
            for rows in order.split(settings.batch_size):
                loss = F.cross_entropy(head(features[rows]), labels[rows])
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
        images, known = test
        with torch.no_grad():
            predicted = head(backbone.of_test(images)).argmax(1)
        reached = (predicted == known.to(predicted.device)).double().mean().item()
        if log:
            log(settings.epochs, {"loss": loss.item(), "accuracy": reached})
        trained.append(Training(head.eval(), reached, reached, settings.epochs, (reached,)))
    return trained
