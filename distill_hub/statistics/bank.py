"""What a teacher's features of real images are like, class by class: means and (co)variances, measured once and kept.

DEDA (Stage I, Eq. 3-5) and LPLD align distilled images with them. `class_statistics` are exact; LPLD's released code
has others, see `statistics.moving`.
"""

import dataclasses
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
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
from distill_hub.disk.files import atomic_write
from distill_hub.running.run import Run
from distill_hub.statistics.features import Features, captured, feature_layers, full
from distill_hub.statistics.moving import MovingAverage, averages, moving_statistics

RECORD = "bank.json"  # written last: a bank without it is not finished
FEW = 64  # classes: of fewer, the batches of one are measured by several processes; of so many a class is one process's


class Moments:
    """Mean and covariance of vectors that come in batches, in float64 (Chan, Golub and LeVeque, 1979).

    No large sums of squares are subtracted from each other, so it is as exact as two passes over the data.
    """

    def __init__(self):
        self.count, self.mean, self.scatter = 0, 0.0, 0.0

    def add(self, vectors: torch.Tensor) -> None:
        """Take in a batch (B, D)."""
        vectors = vectors.double()
        mean = vectors.mean(0)
        centred = vectors - mean
        self.merge(len(vectors), mean, centred.T @ centred)

    def merge(self, count: int, mean: torch.Tensor, scatter: torch.Tensor) -> None:
        """Take in what is known of a part of the vectors: of their scatter all, (D, D), or the diagonal alone, (D,)."""
        shift, total = mean - self.mean, self.count + count
        between = torch.outer(shift, shift) if scatter.ndim == 2 else shift.square()
        self.scatter = self.scatter + scatter + between * (self.count * count / total)
        self.mean = self.mean + shift * (count / total)
        self.count = total

    @property
    def variance(self) -> torch.Tensor:
        """Variance (D,) with 1 / N."""
        return (self.scatter if self.scatter.ndim == 1 else self.scatter.diagonal()) / self.count

    @property
    def covariance(self) -> torch.Tensor:
        """Covariance (D, D) with 1 / N (DEDA, Eq. 5), symmetric to the last bit, which a product of matrices need not be."""
        return (self.scatter + self.scatter.T) / (2 * self.count)


@torch.inference_mode()
def moments_of(
    teacher: Classifier, batches: Iterator[torch.Tensor], layers: Sequence[nn.Module], at: Features, *, covariance: bool
) -> dict[str, torch.Tensor]:
    """Measure the features of some images of one class.

    Args:
        teacher: The classifier.
        batches: The images, uint8 (B, 3, S, S).
        layers: Of the teacher.
        at: Where at them.
        covariance: Whether covariances are wanted.

    Returns:
        For `class_statistics`, float64: their number, `count`; and for layer i of the spatially pooled features the mean
        and the scatter, or its diagonal, and the sum of the variances within images.
    """
    pooled, within = [Moments() for _ in layers], [0.0 for _ in layers]
    with captured(layers, at, lambda maps: torch.var_mean(full(maps), (2, 3), correction=0)) as found:
        for batch in batches:
            teacher(batch.to(teacher.device).float() / 255)
            for place, (variance, mean) in enumerate(found):
                pooled[place].add(mean)
                within[place] += variance.double().sum(0)
    found = {"count": torch.tensor(pooled[0].count)}
    for place, (among, inside) in enumerate(zip(pooled, within, strict=True)):
        scatter = among.scatter if covariance else among.scatter.diagonal()
        found |= {f"{place}.mean": among.mean, f"{place}.scatter": scatter.contiguous(), f"{place}.within": inside}
    return found


def class_statistics(parts: Iterable[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Return the statistics of a class from what `moments_of` says of its images, part by part in their order.

    Returns:
        For layer i, float32: `i.mean` (D,); `i.variance` (D,), over images and positions, as BatchNorm has it; and
        `i.covariance` (D, D) of the spatially pooled features (DEDA, Eq. 3-5). Variances are those of the population.
    """
    pooled: dict[str, Moments] = defaultdict(Moments)
    within: dict[str, Any] = defaultdict(float)
    for part in parts:
        for place in (name.removesuffix(".mean") for name in part if name.endswith(".mean")):
            pooled[place].merge(int(part["count"]), part[f"{place}.mean"], part[f"{place}.scatter"])
            within[place] += part[f"{place}.within"]
    statistics = {}
    for place, among in pooled.items():
        statistics[f"{place}.mean"] = among.mean.float()
        # The law of total variance: maps of one layer all have the same number of positions.
        statistics[f"{place}.variance"] = (within[place] / among.count + among.variance).float()
        if among.scatter.ndim == 2:
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
    """Open a bank, measuring the training images first when there is none: the stage 'measure statistics', one pass.

    What is measured of a class's batches is put together in their order, so that the bank is the same for any number of
    processes.

    Args:
        run: Spreads the batches over its processes.
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

    own = list(layers.values())

    def starts(label: int) -> range:
        return range(0, len(source.train.by_class[label]), batch_size)

    def measure(label: int, some: slice) -> dict[str, torch.Tensor]:
        rows = source.train.by_class[label]
        batches = (source.train.pixels(rows[i : i + batch_size], image_size) for i in starts(label)[some])
        return moments_of(teacher, batches, own, at, covariance=covariance)

    def measure_moving(label: int, some: slice) -> dict[str, torch.Tensor]:
        how = {"image_size": image_size, "batch_size": batch_size}
        return moving_statistics(teacher, source, label, own, at, moving, some, **how)

    if moving:
        keep_by_class(run, folder, record, lambda c: len(moving.parts(source, c, batch_size)), measure_moving, averages)
    else:
        keep_by_class(run, folder, record, lambda c: len(starts(c)), measure, class_statistics)
    return Bank(folder, range(len(layers)), teacher.device)


def keep_by_class(
    run: Run,
    folder: Path,
    record: Mapping[str, Any],
    batches: Callable[[int], int],
    measure: Callable[[int, slice], dict[str, torch.Tensor]],
    put_together: Callable[[Iterable[dict[str, torch.Tensor]]], dict[str, torch.Tensor]],
    *,
    stage: str = "statistics",
) -> None:
    """Measure every class, unless a folder holds what is wanted, and keep a file for each.

    Args:
        run: Spreads the batches of few classes, or many classes, over its processes.
        folder: Of the bank.
        record: What is measured of what, ready for JSON; `classes` names them.
        batches: From a class to the number of batches that it is measured in.
        measure: From a class and which of its batches to what is known of them.
        put_together: From that, batch by batch or of all at once, to the statistics of the class.
        stage: Name of the stage.

    Raises:
        InputError: When the folder holds something else.
    """
    if not run.agree((folder / RECORD).exists()):
        classes = range(len(record["classes"]))
        parts = [batches(label) if len(classes) < FEW else 1 for label in classes]
        items = [(label, part, parts[label]) for label in classes for part in range(parts[label])]

        def measure_part(chunk: Sequence[tuple[int, int, int]]) -> dict[str, torch.Tensor]:
            ((label, part, of),) = chunk
            return {name: tensor[None] for name, tensor in measure(label, slice(part, None, of)).items()}

        how = {"made_from": record, "whole": True, "lower": "a smaller --image_size"}
        # Of another name than where older versions measured a class at a time: the two do not compare.
        measuring = f"measure {stage}"
        measured = run.map(measuring, items, measure_part, chunk_size=1, **how)

        def keep() -> None:
            rows = iter(range(len(items)))
            for label in classes:
                own = (measured.rows(row, row + 1) for row in islice(rows, parts[label]))
                found = ({name: tensor[0] for name, tensor in part.items()} for part in own)
                atomic_write(_file(folder, label), save(put_together(found)))
            run.leave_stage(folder)
            atomic_write(folder / RECORD, json.dumps(record, indent=2).encode())
            run.drop(measuring)

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
