"""A set that is scored again, of this format or another."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from distill_hub.artifact.manifest import FreePixelsRecord, Manifest
from distill_hub.data.sources import Source
from distill_hub.training.subject import HeldOut
from distill_hub.training.train import TrainingSet
from distill_hub.views.files import Views


@dataclass(frozen=True)
class Given:
    """A set of any format, as it is stored."""

    images: torch.Tensor  # (N, 3, S, S), uint8, or of a set with free pixels these, float32
    labels: np.ndarray  # int64 (N,), 0 .. C - 1
    soft_labels: np.ndarray | None  # float32 (N, C)
    places: list[int]  # position in the source's list of each of the C classes
    content_sha256: str
    manifest: Manifest | None = None
    views: Views | None = None
    folder: Path | None = None  # where its files lie; None: of a set of another format

    @property
    def free_pixels(self) -> FreePixelsRecord | None:
        """What the manifest says of pixels that are not those of a picture; None: they are."""
        return self.manifest.free_pixels if self.manifest else None

    def stored(self, real: Source) -> tuple[TrainingSet, HeldOut]:
        """Return the set as it is, with its views, and what its students are tested on."""
        soft_labels = None if self.soft_labels is None else torch.from_numpy(self.soft_labels)
        own = TrainingSet(self.images, torch.from_numpy(self.labels), soft_labels, self.views)
        return own, HeldOut(real, self.places)

    def sorted(self, real: Source) -> tuple[TrainingSet, HeldOut]:
        """Return the set class by class in the source's order, so that no order of its own can move a number."""
        columns = np.argsort(self.places)
        labels = np.argsort(columns)[self.labels]
        rows = np.argsort(labels, kind="stable")
        ordered = bool((rows == np.arange(len(rows))).all())  # a large set is not copied for nothing
        images = self.images if ordered else self.images[torch.from_numpy(rows)]
        soft_labels = None if self.soft_labels is None else torch.from_numpy(self.soft_labels[np.ix_(rows, columns)])
        own = TrainingSet(images, torch.from_numpy(labels[rows]), soft_labels)
        return own, HeldOut(real, [self.places[column] for column in columns])
