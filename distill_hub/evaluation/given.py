"""A set that is scored again, of this format or another."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from distill_hub.artifact.manifest import FreePixelsRecord, Manifest
from distill_hub.data.sources import Source
from distill_hub.kinds import local_name
from distill_hub.running.mapped import map_rows
from distill_hub.running.run import Run
from distill_hub.running.stages import key_of
from distill_hub.training.subject import HeldOut
from distill_hub.training.train import TrainingSet
from distill_hub.views.files import Views


@dataclass(frozen=True)
class Given:
    """A set of any format, as it is stored."""

    images: torch.Tensor  # (N, 3, S, S), uint8, or of a set with free pixels these, float16
    labels: np.ndarray  # int64 (N,), 0 .. C - 1
    soft_labels: np.ndarray | None  # float32 (N, C)
    places: list[int]  # position in the source's list of each of the C classes
    content_sha256: str
    manifest: Manifest | None = None
    views: Views | None = None
    folder: Path | None = None  # where its files lie; None: of a set of another format
    location: str = ""  # as the user named it
    revision: str | None = None  # commit on the Hub

    @property
    def name(self) -> str:
        """What records of students call it."""
        return self.manifest.name if self.manifest else local_name(self.location)

    @property
    def free_pixels(self) -> FreePixelsRecord | None:
        """What the manifest says of pixels that are not those of a picture; None: they are."""
        return self.manifest.free_pixels if self.manifest else None

    def shown(self, run: Run, name: str, real: Source, *, in_order: bool) -> tuple[TrainingSet, HeldOut]:
        """Return the set as its students see it, and what they are tested on. Call it on every process.

        Args:
            run: Maps what is not as it is stored.
            name: Of the set, for its stages.
            real: The real dataset.
            in_order: Class by class in the source's order, so that no order of its own can move a number; else as it is
                stored, with its views, which name rows and classes.
        """
        columns = np.argsort(self.places) if in_order else np.arange(len(self.places))
        labels = np.argsort(columns)[self.labels]
        rows = np.argsort(labels, kind="stable") if in_order else np.arange(len(labels))
        images, soft = self.images, self.soft_labels
        made_from = {"set": self.content_sha256, "rows": key_of(rows.tolist()), "columns": columns.tolist()}

        def part(start: int, stop: int) -> torch.Tensor:
            chosen = images[torch.from_numpy(rows[start:stop])]
            return chosen.float() if self.free_pixels else chosen

        def soft_part(start: int, stop: int) -> torch.Tensor:
            return torch.from_numpy(soft[np.ix_(rows[start:stop], columns)])

        moved, mixed = (bool((order != np.arange(len(order))).any()) for order in (rows, columns))
        shown = map_rows(run, name, part, len(rows), made_from=made_from) if moved or self.free_pixels else images
        if soft is not None and (moved or mixed):
            soft_labels = map_rows(run, f"{name}, soft labels", soft_part, len(rows), made_from=made_from)
        else:
            soft_labels = None if soft is None else torch.from_numpy(soft)
        own = TrainingSet(shown, torch.from_numpy(labels[rows]), soft_labels, None if in_order else self.views)
        tiles = self.manifest.tiles if self.manifest else None
        places = [self.places[column] for column in columns]
        return own.decoded(run, f"{name}, tiles", tiles, made_from), HeldOut(real, places)
