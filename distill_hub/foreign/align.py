"""A set that was made elsewhere, brought into the order of its source's classes."""

import hashlib
from dataclasses import dataclass

import numpy as np
import torch

from distill_hub.artifact.schema import hash_row, one_hot
from distill_hub.config import InputError
from distill_hub.data.sources import Source
from distill_hub.foreign.contents import ForeignSet
from distill_hub.foreign.read import label_order


@dataclass(frozen=True)
class Aligned:
    """Images class by class, labels 0 .. C - 1 in the order of the source's classes, of which the set may have C only."""

    images: torch.Tensor  # uint8 (N, 3, S, S)
    labels: np.ndarray  # int64 (N,)
    places: list[int]  # position in `Source.classes` of each of the C classes, ascending
    soft_labels: np.ndarray | None  # float32 (N, C) probabilities; None when the set has none

    @property
    def probabilities(self) -> np.ndarray:
        """Soft labels (N, C): the set's own, else one-hot."""
        return one_hot(self.labels, len(self.places)) if self.soft_labels is None else self.soft_labels

    @property
    def content_sha256(self) -> str:
        """The content hash that the set has in the artifact format."""
        digest = hashlib.sha256()
        for image, label, soft_label in zip(self.images, self.labels, self.probabilities, strict=True):
            hash_row(digest, image.permute(1, 2, 0).contiguous().numpy(), label, soft_label)
        return digest.hexdigest()


def align(foreign: ForeignSet, source: Source, classes: str | None) -> Aligned:
    """Find the class of each label by name, and sort images, labels and the columns of soft labels accordingly.

    Soft labels of classes without images are left out, and the others scaled to sum to 1.

    Args:
        foreign: The set as it was read.
        source: The real images.
        classes: See `label_order`.

    Raises:
        InputError: See `label_order`; or when a soft label is 0 for every class that has images.
    """
    place_of = label_order(foreign, source, classes)  # (K,)
    places = np.unique(place_of[foreign.labels])
    labels = np.searchsorted(places, place_of[foreign.labels])
    rows = np.argsort(labels, kind="stable")
    soft_labels = foreign.soft_labels
    if soft_labels is not None:
        value_of = {int(place_of[value]): int(value) for value in np.unique(foreign.labels)}
        soft_labels = soft_labels[rows][:, [value_of[int(place)] for place in places]]
        if len(places) < foreign.soft_labels.shape[1]:
            sums = soft_labels.sum(1, keepdims=True)
            if sums.min() == 0:
                raise InputError("distilled set", foreign.location, "soft labels give all to classes that have no images")
            soft_labels = soft_labels / sums
    ordered = bool((rows == np.arange(len(rows))).all())  # a large set is not copied for nothing
    images = foreign.images if ordered else foreign.images[torch.from_numpy(rows)]
    return Aligned(images, labels[rows], places.tolist(), soft_labels)
