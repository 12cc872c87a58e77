"""A distilled set as a dataset of PyTorch, for training loops that are not of this package."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch.utils.data import Dataset, Sampler

from distill_hub.artifact.find import find
from distill_hub.artifact.load import read_artifact
from distill_hub.artifact.manifest import Manifest, ViewsRecord
from distill_hub.augmentation.augment import augment, normalize
from distill_hub.config import InputError
from distill_hub.data.known import NORMALIZATIONS, RGB, known_by_id
from distill_hub.training.train import epoch_generator
from distill_hub.views.files import open_views
from distill_hub.views.replay import order, view_draws

Labels = Literal["hard", "soft", "views"]


class DistilledDataset(Dataset):
    """A distilled set of N images of C classes, checked and decoded once, with the labels that a student is to learn.

    An item is a pair of an image and its label, of which `DataLoader` makes batches. With labels that are

    - hard: a normalised float image (3, S, S), or what `transform` makes of it, and its class;
    - soft: the same, and the teacher's C probabilities;
    - views: a finished stored view, which is cropped, mirrored, mixed with its partner and normalised, and the teacher's C
      logits of it, minus infinity for those that are not stored. An item is a row of the stored views, and needs no other.

    What belongs to the labels is `loss`; the order in which this package trains on the items is that of `sampler`, and with
    views the batches are those of the manifest's `views.batch_size`. A set of tiles is decoded into all of its images.
    Whitened free pixels are not normalised. Test images are normalised by `mean` and `std`, too.

    Args:
        location: The artifact folder, or NAMESPACE/NAME on the Hub.
        labels: See above.
        revision: Branch, tag or commit on the Hub; default main.
        transform: What is done to each image, a PIL image as in torchvision's datasets, in place of the normalisation; to
            free pixels as a float tensor (3, S, S). Not with views, which are finished.
        temperature: At which `loss` compares logits with those of views; 20 is that of SRe2L, LPLD and `fkd`.
        as_dict: Make items of `pixel_values` and `labels`, as transformers' Trainer wants them, and no pairs.

    Attributes:
        images: uint8 (N, 3, S, S); of free pixels float32.
        manifest: What is known of the set.
        classes: Names of the classes, in label order.
        mean: Of the normalisation, per channel.
        std: Of the normalisation, per channel.

    Raises:
        InputError: When the set is missing, damaged or not what its manifest says, holds no views that were asked for, or
            an argument does not fit.
        HubError: When the Hub fails.
    """

    def __init__(
        self,
        location: str | Path,
        labels: Labels = "hard",
        *,
        revision: str | None = None,
        transform: Callable[[Any], Any] | None = None,
        temperature: float = 20.0,
        as_dict: bool = False,
    ):
        if labels not in ("hard", "soft", "views"):
            raise InputError("labels", labels, "hard, soft or views")
        if not temperature > 0:
            raise InputError("temperature", temperature, "a number above 0")
        self.labels, self.transform, self.temperature, self.as_dict = labels, transform, temperature, as_dict
        self._refuse_transform()
        found = find(location, revision)
        artifact = read_artifact(found, rows=False, pixels=True)
        self.manifest, self.classes = artifact.manifest, artifact.manifest.class_names
        self.mean, self.std = _normalization(self.manifest, labels)
        if artifact.free_pixels is None:
            pixels, hard, soft = artifact.decoded()
            self.images = torch.from_numpy(pixels)
        else:
            self.images, hard, soft = torch.from_numpy(artifact.free_pixels).float(), artifact.labels, artifact.soft_labels
        self._targets = torch.from_numpy(soft if labels == "soft" else hard)  # of the images
        self._views = open_views(found, self.manifest) if labels == "views" else None
        self._bounds = _bounds(self.manifest.views, len(self.images)) if self._views else None

    def __len__(self) -> int:
        """Number of items: images, or stored views."""
        return self.manifest.views.rows if self._views else len(self.images)

    def __getitem__(self, item: int) -> Any:
        return self.__getitems__([item])[0]

    def __getitems__(self, items: Sequence[int]) -> list[Any]:
        """Return several items, which `DataLoader` asks for at once: views are augmented together."""
        items = [int(item) for item in items]  # a list of tensors, as of a Subset, would be places in several dimensions
        if any(not 0 <= item < len(self) for item in items):
            raise IndexError(f"there are items 0 to {len(self) - 1}")
        images, labels = self._stored_views(np.asarray(items)) if self._views else self._images(items)
        pairs = zip(images, labels, strict=True)
        return [{"pixel_values": image, "labels": label} for image, label in pairs] if self.as_dict else list(pairs)

    def sampler(self, seed: int = 0) -> "TrainingOrder":
        """Return the items in the order in which a student of this seed sees them; see `TrainingOrder`."""
        return TrainingOrder(len(self.images), self.manifest.views if self._views else None, seed)

    def loss(self, outputs: Any, labels: torch.Tensor, num_items_in_batch: torch.Tensor | int | None = None) -> torch.Tensor:
        """Return the loss that belongs to the labels, a mean over the items.

        It is the cross-entropy to the class or the probabilities; with views KL(p || q) of the probabilities p of the stored
        logits and q of the network's, both at `temperature`, without its square (SRe2L: Yin et al., 2023).

        Args:
            outputs: Logits (B, C), or what a model of transformers returns.
            labels: Of a batch of items, (B,) or (B, C).
            num_items_in_batch: Values of all labels of the step, which transformers' Trainer counts where that spans several
                batches or processes; None: those of this batch.
        """
        logits = getattr(outputs, "logits", outputs).float()
        if self._views:
            own = F.log_softmax(logits / self.temperature, 1)
            total = F.kl_div(own, (labels.float() / self.temperature).softmax(1), reduction="sum")
        else:
            total = F.cross_entropy(logits, labels, reduction="sum")
        values = labels.numel() if num_items_in_batch is None else num_items_in_batch
        return total * (labels.numel() // len(labels)) / values

    def _refuse_transform(self) -> None:
        if self.labels == "views" and self.transform is not None:
            raise InputError("transform", self.transform, "stored views are finished images; leave it out")

    def _images(self, rows: list[int]) -> tuple[Sequence[Any], Sequence[Any]]:
        images, labels = self.images[rows], self._targets[rows]
        targets = labels if self.labels == "soft" else labels.tolist()
        if self.transform is None:
            scaled = images if images.is_floating_point() else images.float() / 255
            return normalize(scaled, self.mean, self.std), targets
        if not images.is_floating_point():
            images = [Image.fromarray(image) for image in images.permute(0, 2, 3, 1).numpy()]
        return [self.transform(image) for image in images], targets

    def _stored_views(self, items: np.ndarray) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        self._refuse_transform()  # timm's loader sets one
        images, logits = [None] * len(items), [None] * len(items)
        batches = np.searchsorted(self._bounds, items, side="right") - 1
        for batch in np.unique(batches):
            (places,) = np.nonzero(batches == batch)
            finished = self._finished(batch, items[places] - self._bounds[batch])
            for place, image, own in zip(places, *finished, strict=True):
                images[place], logits[place] = image, own
        return images, logits

    def _finished(self, batch: int, rows: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Return some rows of a stored batch as students see them, and the logits; their partners are cropped, too."""
        draws = view_draws(self._views.batch(batch))
        both = np.concatenate([rows, draws["partner"][rows].numpy()])
        cropped, places = np.unique(both, return_inverse=True)
        own, partners = torch.from_numpy(places).split(len(rows))
        draws = {name: column[cropped] for name, column in draws.items()}
        # What is cropped as a partner alone is pasted as it is: its own partner, which may not be here, plays no part.
        draws["partner"] = torch.arange(len(cropped)).index_copy(0, own, partners)
        images = augment(self.images[draws["order"]], draws, self.mean, self.std, self.manifest.views.image_size)
        logits = draws["logits"].float()
        if "class_index" in draws:
            none = logits.new_full((len(logits), len(self.classes)), -torch.inf)
            logits = none.scatter(1, draws["class_index"], logits)
        return images[own], logits[own]


class TrainingOrder(Sampler[int]):
    """The items of a distilled set in the order in which students of this package see them, another one in each epoch.

    Images are shuffled. Of stored views an epoch is one of those that are stored, batch by batch, or where they are pruned
    as many batches of the stored ones, drawn with replacement (LPLD: Xiao and He, 2024).

    Args:
        images: Number of images.
        record: Of the stored views; None: of images.
        seed: Of the order.
    """

    def __init__(self, images: int, record: ViewsRecord | None, seed: int = 0):
        self.images, self.record, self.seed, self.epoch = images, record, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, from 0, as of PyTorch's DistributedSampler."""
        self.epoch = epoch

    def __len__(self) -> int:
        """Number of items of an epoch."""
        return _per_epoch(self.record, self.images) if self.record else self.images

    def __iter__(self) -> Iterator[int]:
        """Yield the items of the epoch.

        Raises:
            InputError: When no views are stored of this epoch.
        """
        if self.record is None:
            yield from torch.randperm(self.images, generator=epoch_generator(self.seed, self.epoch)).tolist()
            return
        if not self.record.is_pruned and self.epoch >= self.record.epochs:
            raise InputError("epoch", self.epoch, f"the set holds views of epochs 0 to {self.record.epochs - 1}")
        bounds = _bounds(self.record, self.images).tolist()
        for batch in order(self.record, self.images, self.seed, self.epoch):
            yield from range(bounds[batch], bounds[batch + 1])


def _per_epoch(record: ViewsRecord, images: int) -> int:
    """Return how many views a student sees in an epoch: of pruned ones, whole batches alone."""
    return record.per_epoch(images) * record.batch_size if record.is_pruned else images


def _bounds(record: ViewsRecord, images: int) -> np.ndarray:
    """Return the row at which each stored batch begins, and the number of all rows, (K + 1,)."""
    rows = np.arange(record.rows)
    return np.append(np.flatnonzero(rows % _per_epoch(record, images) % record.batch_size == 0), record.rows)


def _normalization(manifest: Manifest, labels: Labels) -> tuple[RGB, RGB]:
    """Return mean and standard deviation as protocols have them: `fkd` has ImageNet's at every size."""
    if manifest.free_pixels and manifest.free_pixels.zca:
        return (0.0,) * 3, (1.0,) * 3
    known, identity = manifest.source.normalization, known_by_id(manifest.source.hub_id)
    if labels == "views" or manifest.image_size > 64:
        return NORMALIZATIONS["imagenet"]
    return NORMALIZATIONS[known or (identity.normalization if identity else "imagenet")]
