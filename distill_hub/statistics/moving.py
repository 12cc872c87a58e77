"""The moving averages that LPLD's released code (63eee18) takes for the statistics of a class."""

import functools
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from distill_hub.augmentation.augment import Augmentation, augment, batch_of, draw
from distill_hub.classifiers import Classifier
from distill_hub.data.sources import Source
from distill_hub.running.seeds import cpu_generator, draw_seed
from distill_hub.statistics.features import Features, captured, full

MOMENTUM = 0.1  # of the moving averages
UPDATES = 400  # that count: what came before the last so many weighs 0.9^400, less than 1e-18


@dataclass(frozen=True)
class MovingAverage:
    """One pass over the shuffled training images of all classes, augmented, as LPLD's code makes it."""

    batch_size: int  # images of all classes; those of one class among them make one update of it
    seed: int  # of the order, the crops and the flips
    flip: bool  # whether half of the images are mirrored

    def order(self, source: Source, label: int) -> tuple[np.ndarray, np.ndarray]:
        """Return rows of one class as the pass meets them, those of its last `UPDATES`, and how many each update has."""
        shuffled = _shuffled(len(source.train), self.seed)
        places = np.flatnonzero(source.train.labels[shuffled] == label)
        sizes = np.unique(places // self.batch_size, return_counts=True)[1][-UPDATES:]
        return shuffled[places[-sizes.sum() :]], sizes

    def parts(self, source: Source, label: int, batch_size: int) -> list[np.ndarray]:
        """Return which updates of one class are measured at a time: whole ones, of about so many images."""
        _, sizes = self.order(source, label)
        return np.split(np.arange(len(sizes)), np.flatnonzero(np.diff((sizes.cumsum() - 1) // batch_size)) + 1)


@functools.lru_cache(maxsize=1)  # one pass meets all classes, and a class is measured at a time
def _shuffled(count: int, seed: int) -> np.ndarray:
    """Return so many rows in the order of a pass."""
    return torch.randperm(count, generator=cpu_generator(draw_seed(seed, "moving average"))).numpy()


@torch.inference_mode()
def moving_statistics(
    teacher: Classifier,
    source: Source,
    label: int,
    layers: Sequence[nn.Module],
    at: Features,
    moving: MovingAverage,
    some: slice,
    *,
    image_size: int,
    batch_size: int,
) -> dict[str, torch.Tensor]:
    """Measure the features of one class as LPLD's released code does.

    There a network in evaluation mode sees the training images once, cropped (8 to 100 % of the area) and mirrored. The
    images of a class in a batch update its mean and its variance, that of the population over images and positions, by a
    tenth; they start at 0 and 1. Where a batch has one image of a class, as with 1,000 classes, the "variance" is about the
    mean of the variances within each of the last ten images, without that among them. The scripts take batches of 64 for
    ImageNet-1K, in four processes whose statistics do not meet, and of 256 for Tiny-ImageNet. Here there is one sequence of
    batches, and crops are of the square image at the set's size. No image depends on another, so a class is measured alone.

    Args:
        teacher: The classifier.
        source: The real images.
        label: Position of the class.
        layers: Of the teacher.
        at: Where at them.
        moving: The pass.
        some: Which of its `parts`.
        image_size: Side in pixels at which the images are cropped, and to which the crops are brought.
        batch_size: Images per forward pass, but for updates with more.

    Returns:
        For `averages`, float64: of each part the number of `updates` (P,), and for layer i what these leave of means and
        variances, `i.mean` and `i.variance` (P, D).
    """
    rows, sizes = moving.order(source, label)
    generator = cpu_generator(draw_seed(moving.seed, "moving average", source.class_names[label]))
    draws = draw(Augmentation(crop_scale=(0.08, 1.0), flip=moving.flip), len(rows), len(rows), image_size, generator)
    ends, parts, left = sizes.cumsum(), moving.parts(source, label, batch_size)[some], defaultdict(list)
    with captured(layers, at, lambda maps: torch.var_mean(full(maps), (2, 3), correction=0)) as found:
        for part in parts:
            start, end = ends[part[0]] - sizes[part[0]], ends[part[-1]]
            images = source.train.pixels(rows[start:end], image_size).to(teacher.device)
            teacher(augment(images, batch_of(draws, start, end), (0, 0, 0), (1, 1, 1)))
            counts = torch.from_numpy(sizes[part])
            update = torch.arange(len(part)).repeat_interleave(counts)  # of each image
            shares = (update == torch.arange(len(part))[:, None]).double() / counts[:, None]  # (updates, images)
            weights = MOMENTUM * (1 - MOMENTUM) ** torch.arange(len(part) - 1, -1, -1, dtype=torch.float64)
            for place, (within, own) in enumerate(found):
                within, own = within.double().cpu(), own.double().cpu()
                mean = shares @ own
                variance = shares @ (within + (own - mean[update]).square())  # the law of total variance
                left[f"{place}.mean"].append(weights @ mean)
                left[f"{place}.variance"].append(weights @ variance)
    return {"updates": torch.tensor([len(part) for part in parts]), **{name: torch.stack(own) for name, own in left.items()}}


def averages(parts: Iterable[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Return the moving averages of a class from what `moving_statistics` says of its updates, in their order.

    Returns:
        For layer i, float32: `i.mean` (D,) and `i.variance` (D,).
    """
    found: dict[str, torch.Tensor] = {}
    for part in parts:
        updates = part["updates"].tolist()
        for name, left in part.items():
            if name != "updates":
                average = found.get(name, torch.tensor(float(name.endswith("variance")), dtype=torch.float64))
                for count, own in zip(updates, left, strict=True):
                    average = (1 - MOMENTUM) ** count * average + own
                found[name] = average
    return {name: average.float() for name, average in found.items()}
