"""What a teacher's features of real images are like, class by class: means and (co)variances, measured once and kept.

DEDA (Stage I, Eq. 3-5) and LPLD align distilled images with them. `class_statistics` are exact; LPLD's released code
has others, see `statistics.moving`.
"""

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from distill_hub.classifiers import Classifier
from distill_hub.config import InputError
from distill_hub.data.sources import Source, fit_folder
from distill_hub.running.files import atomic_write
from distill_hub.running.run import Run
from distill_hub.statistics.features import Features, captured, feature_layers, full
from distill_hub.statistics.moving import MovingAverage, moving_statistics

RECORD = "bank.json"  # written last: a bank without it is not finished


class Moments:
    """Mean and covariance of vectors that come in batches, in float64 (Chan, Golub and LeVeque, 1979).

    No large sums of squares are subtracted from each other, so it is as exact as two passes over the data.
    """

    def __init__(self):
        self.count, self.mean, self.scatter = 0, 0.0, 0.0

    def add(self, vectors: torch.Tensor) -> None:
        """Take in a batch (B, D)."""
        vectors = vectors.double()
        count, mean = len(vectors), vectors.mean(0)
        centred, shift = vectors - mean, mean - self.mean
        total = self.count + count
        self.scatter = self.scatter + centred.T @ centred + torch.outer(shift, shift) * (self.count * count / total)
        self.mean = self.mean + shift * (count / total)
        self.count = total

    @property
    def covariance(self) -> torch.Tensor:
        """Covariance (D, D) with 1 / N (DEDA, Eq. 5), symmetric to the last bit, which a product of matrices need not be."""
        return (self.scatter + self.scatter.T) / (2 * self.count)


@torch.inference_mode()
def class_statistics(
    teacher: Classifier, batches: Iterator[torch.Tensor], layers: Sequence[nn.Module], at: Features, *, covariance: bool
) -> dict[str, torch.Tensor]:
    """Measure the features of one class.

    Args:
        teacher: The classifier.
        batches: Its images, uint8 (B, 3, S, S).
        layers: Of the teacher.
        at: Where at them.
        covariance: Whether to return covariances.

    Returns:
        For layer i, float32: `i.mean` (D,); `i.variance` (D,), over images and positions, as BatchNorm has it; and
        `i.covariance` (D, D) of the spatially pooled features (DEDA, Eq. 3-5). Variances are those of the population.
    """
    pooled, within = [Moments() for _ in layers], [0.0 for _ in layers]
    with captured(layers, at, lambda maps: torch.var_mean(full(maps), (2, 3), correction=0)) as found:
        for batch in batches:
            teacher(batch.to(teacher.device).float() / 255)
            for place, (variance, mean) in enumerate(found):
                pooled[place].add(mean)
                within[place] += variance.double().sum(0)
    statistics = {}
    for place, (among, inside) in enumerate(zip(pooled, within, strict=True)):
        statistics[f"{place}.mean"] = among.mean.float()
        # The law of total variance: maps of one layer all have the same number of positions.
        statistics[f"{place}.variance"] = (inside / among.count + among.covariance.diagonal()).float()
        if covariance:
            statistics[f"{place}.covariance"] = among.covariance.float()
    return statistics


@dataclass(frozen=True)
class Bank:
    """Statistics of every class, one file each, read as they are needed."""

    folder: Path
    layers: Sequence[int]  # by their numbers in the files
    device: torch.device

    def read(self, labels: Sequence[int], *names: str) -> list[tuple[torch.Tensor, ...]]:
        """Read classes.

        Args:
            labels: K classes.
            names: Of `mean`, `variance`, `covariance`; nothing else is read.

        Returns:
            For every layer, a tensor (K, ...) per name.

        Raises:
            InputError: When a file is missing or broken.
        """
        try:
            files = [safe_open(_file(self.folder, label), "pt") for label in labels]
            return [
                tuple(torch.stack([file.get_tensor(f"{i}.{name}") for file in files]).to(self.device) for name in names)
                for i in self.layers
            ]
        except (OSError, SafetensorError) as error:
            raise InputError("bank", str(self.folder), f"it is damaged ({error}); remove it to measure again") from error


def _file(folder: Path, label: int) -> Path:
    return folder / f"class-{label:05d}.safetensors"


def open_bank(
    run: Run,
    source: Source,
    teacher: Classifier,
    teacher_sha256: str,
    *,
    image_size: int,
    at: Features = "inputs",
    covariance: bool = True,
    moving: MovingAverage | None = None,
    folder: Path | None = None,
    batch_size: int = 128,
) -> Bank:
    """Open a bank, measuring the training images first when there is none: the stage 'statistics', one pass.

    A class is measured by one process, image by image in the same order, so that the bank is the same for any number of
    processes, and no process holds more than one class.

    Args:
        run: Spreads the classes over its processes.
        source: The real images.
        teacher: The classifier; see `feature_layers`.
        teacher_sha256: Of its weights.
        image_size: Side in pixels at which the images are measured.
        at: Whose features: see `feature_layers`, and `captured` for the BatchNorm layers' inputs and outputs.
        covariance: Whether covariances are kept: for ResNet-18 7 MB per class. A moving average has none.
        moving: Of the released moving averages; None: exact statistics.
        folder: Of the bank; default: in the user's cache, one per source, teacher, image size and moving average.
        batch_size: Images per forward pass.

    Raises:
        InputError: When the teacher has no such layers, a class has one image while covariances are wanted, or the bank in
            `folder` is of something else.
    """
    layers = feature_layers(teacher, at)
    record = {
        "teacher_sha256": teacher_sha256,
        "source_fingerprint": source.fingerprint,
        "classes": source.class_names,
        "image_size": image_size,
        "at": at,
        "covariance": covariance,
        "moving_average": moving and dataclasses.asdict(moving),
        "layers": list(layers),
    }
    counts = np.bincount(source.train.labels, minlength=len(source.classes))
    if covariance and counts.min() < 2:
        valid = f"class {source.class_names[int(counts.argmin())]!r} has one image: its covariance is not defined"
        raise InputError("source", source.name, valid)
    pass_of = [record["moving_average"]] if moving else []
    folder = folder or fit_folder(source, "statistics", teacher_sha256, image_size, at, covariance, *pass_of)
    folder = run.cached(folder / RECORD).parent

    def measure(chunk: Sequence[int]) -> dict[str, torch.Tensor]:
        own, sizes = list(layers.values()), {"image_size": image_size, "batch_size": batch_size}
        if moving:
            found = moving_statistics(teacher, source, chunk[0], own, at, moving, **sizes)
        else:
            rows = source.train.by_class[chunk[0]]
            batches = (source.train.pixels(rows[i : i + batch_size], image_size) for i in range(0, len(rows), batch_size))
            found = class_statistics(teacher, batches, own, at, covariance=covariance)
        return {name: tensor[None] for name, tensor in found.items()}

    keep_by_class(run, folder, record, measure)
    return Bank(folder, range(len(layers)), teacher.device)


def keep_by_class(
    run: Run,
    folder: Path,
    record: Mapping[str, Any],
    measure: Callable[[Sequence[int]], dict[str, torch.Tensor]],
    *,
    stage: str = "statistics",
) -> None:
    """Measure every class, unless a folder holds what is wanted, and keep a file for each.

    Args:
        run: Spreads the classes over its processes.
        folder: Of the bank.
        record: What is measured of what, ready for JSON; `classes` names them.
        measure: From one class to tensors with one row each.
        stage: Name of the stage.

    Raises:
        InputError: When the folder holds something else.
    """
    if not run.agree((folder / RECORD).exists()):
        measured = run.map(stage, range(len(record["classes"])), measure, chunk_size=1, made_from=record)

        def keep() -> None:
            for label in range(len(measured)):
                found = {name: tensor[0] for name, tensor in measured.rows(label, label + 1).items()}
                atomic_write(_file(folder, label), save(found))
            run.leave_stage(folder)
            atomic_write(folder / RECORD, json.dumps(record, indent=2).encode())
            run.drop(stage)

        run.on_main(f"keep {stage}", keep, makes=folder / RECORD)
    else:
        run.count_stage(folder)
    _refuse_other(folder, record)


def _refuse_other(folder: Path, record: Mapping[str, Any]) -> None:
    """Refuse a bank that was measured with something else: its numbers would mean nothing here."""
    try:
        found = json.loads((folder / RECORD).read_bytes())
    except ValueError as error:
        raise InputError("bank", str(folder), f"{RECORD} is broken ({error}); remove the folder to measure again") from error
    for name, value in record.items():
        serves = name == "covariance" and not value  # one with covariances has all that is asked for
        if found.get(name) != value and not serves:
            valid = f"its {name} is {found.get(name)!r}, this run's is {value!r}; name another folder"
            raise InputError("bank", str(folder), valid)
