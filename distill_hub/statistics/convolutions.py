"""What the layers of a network see of real images, per channel and per patch: what G-VBSM and EDC align.

G-VBSM (Shao et al., CVPR 2024) looks at what every convolution sees, beside the BatchNorm layers; EDC (Shao et al., NeurIPS
2024) also at the statistics of single classes. Both are measured here in one pass, class by class: those of all images are
the mixture of the classes'. Where the released codes depart from what is done here:

- there, the variance of all images is the mean of those within batches, and that of a class the mean of those within
  images, without what lies between them; here both are variances, by the law of total variance;
- EDC's saves a class's means of patches as their variances, and the other way round.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from distill_hub.augmentation.augment import augment, batch_of, draw, usual_augmentation
from distill_hub.classifiers import Classifier
from distill_hub.config import InputError
from distill_hub.data.sources import Source, fit_folder
from distill_hub.running.run import Run
from distill_hub.running.seeds import cpu_generator, draw_seed
from distill_hub.statistics.bank import RECORD, Bank, keep_by_class
from distill_hub.statistics.features import captured, channel_moments, full

CHANNELS, PATCHES = ("mean", "variance"), ("patch_mean", "patch_variance")

# Of every layer, the convolutions before the BatchNorm layers: means and variances of the channels, (D,) each, and of what
# convolutions see also those of the patches, (P,) each.
Statistics = list[tuple[torch.Tensor, ...]]


def patch_size(image_size: int) -> int:
    """Return the side of a patch in pixels of a feature map, as in the released codes: 4 up to 64 px, else 16."""
    return 4 if image_size <= 64 else 16


def patch_moments(maps: torch.Tensor, groups: int, patch: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return mean and variance of what lies in each patch of maps (B, D, H, W), over images, channels and pixels.

    Maps whose sides are no multiples of a patch's are enlarged to the next ones, bilinearly.

    Args:
        maps: Of G groups of images, one after the other.
        groups: G.
        patch: Side of a patch in pixels of the map.

    Returns:
        (G, P) each, the patches row by row.
    """
    maps, sides = full(maps), [math.ceil(side / patch) * patch for side in maps.shape[2:]]
    if sides != list(maps.shape[2:]):
        maps = F.interpolate(maps, sides, mode="bilinear", align_corners=False)
    variance, mean = torch.var_mean(maps.unflatten(0, (groups, -1)), (1, 2), correction=0)  # of each pixel, (G, H, W)
    variance, mean = (values.unflatten(2, (-1, patch)).unflatten(1, (-1, patch)) for values in (variance, mean))
    among, mean = torch.var_mean(mean, (2, 4), correction=0)  # the law of total variance, as below
    return mean.flatten(1), (variance.mean((2, 4)) + among).flatten(1)


def mixture(counts: Sequence[float], means: torch.Tensor, variances: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return mean and variance (D,) of K parts taken together, by the law of total variance, in float64.

    Args:
        counts: How many images each part has.
        means: Of the parts, (K, D).
        variances: Of the parts, those of the population, (K, D).
    """
    shares = torch.tensor(counts, dtype=torch.float64, device=means.device) / sum(counts)
    means = means.double()
    mean = shares @ means
    return mean, shares @ (variances.double() + (means - mean).square())


def _mixtures(counts: Sequence[float], layer: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """Return the `mixture` of means and variances of channels, and of patches where there are any."""
    pairs = zip(layer[::2], layer[1::2], strict=True)
    return tuple(value for means, variances in pairs for value in mixture(counts, means, variances))


@dataclass(frozen=True)
class Layers:
    """The layers of a network whose inputs are looked at."""

    convolutions: Mapping[str, nn.Conv2d]
    norms: Mapping[str, nn.BatchNorm2d]  # with running statistics
    patch: int  # see `patch_size`

    def of_convolution(self, maps: torch.Tensor, groups: int = 1) -> tuple[torch.Tensor, ...]:
        """Return channel and patch moments of what a convolution sees."""
        return *channel_moments(maps, groups), *patch_moments(maps, groups, self.patch)


def layers_of(teacher: Classifier, image_size: int) -> Layers:
    """Return all convolutions of a network and those of its BatchNorm layers that have running statistics.

    Raises:
        InputError: When there is no convolution.
    """
    modules = dict(teacher.model.named_modules())
    convolutions = {name: module for name, module in modules.items() if isinstance(module, nn.Conv2d)}
    if not convolutions:
        raise InputError("teacher", teacher.id, f"a network with convolutions is needed, {teacher.architecture} has none")
    norms = {name: m for name, m in modules.items() if isinstance(m, nn.BatchNorm2d) and m.track_running_stats}
    return Layers(convolutions, norms, patch_size(image_size))


@torch.inference_mode()
def batch_statistics(teacher: Classifier, batches: Iterator[torch.Tensor], layers: Layers) -> dict[str, torch.Tensor]:
    """Measure what layers see of some images of one class.

    Args:
        teacher: The network.
        batches: The images, (B, 3, S, S) in [0, 1], on its device.
        layers: Of the network.

    Returns:
        For `class_statistics`, float64: of each of K batches the number of images, `count` (K,), and for layer i `i.mean`
        and `i.variance` (K, D), and of convolutions `i.patch_mean` and `i.patch_variance` (K, P).
    """
    counts, parts = [], []
    convolutions, norms = list(layers.convolutions.values()), list(layers.norms.values())
    for images in batches:
        size = len(images)
        with (
            captured(convolutions, "inputs", lambda maps: layers.of_convolution(maps, len(maps))) as seen,
            captured(norms, "inputs", lambda maps: channel_moments(maps, len(maps))) as normalized,
        ):
            teacher(images)
        counts.append(size)
        parts.append([_mixtures([1] * size, layer) for layer in (*seen, *normalized)])
    result = {"count": torch.tensor(counts)}
    for place, batches_of_layer in enumerate(zip(*parts, strict=True)):
        for name, values in zip((*CHANNELS, *PATCHES), zip(*batches_of_layer, strict=True), strict=False):
            result[f"{place}.{name}"] = torch.stack(values)
    return result


def class_statistics(parts: Iterable[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Return what layers see of one class, from what `batch_statistics` says of its images, in their order.

    Returns:
        For layer i, float32: `i.mean` and `i.variance` (D,), and of convolutions `i.patch_mean` and `i.patch_variance` (P,).
    """
    found = list(parts)
    joined = {name: torch.cat([part[name] for part in found]) for name in found[0]}
    counts, result = joined.pop("count").tolist(), {}
    for name, means in joined.items():
        if name.endswith("mean"):
            variance = name.removesuffix("mean") + "variance"
            result[name], result[variance] = (value.float() for value in mixture(counts, means, joined[variance]))
    return result


@dataclass(frozen=True)
class Measured:
    """Statistics of one network on real images."""

    teacher: Classifier
    layers: Layers
    whole: Statistics  # of all images; of BatchNorm layers the running ones
    banks: tuple[Bank, Bank]  # of convolutions and BatchNorm layers, class by class

    def of(self, labels: Sequence[int]) -> Statistics:
        """Return the statistics of real images with these labels: each class counts as often as it occurs."""
        classes, counts = np.unique(labels, return_counts=True)
        return _read(self.banks, classes.tolist(), counts.tolist())


def _read(banks: tuple[Bank, Bank], classes: Sequence[int], counts: Sequence[int]) -> Statistics:
    found = [*banks[0].read(classes, *CHANNELS, *PATCHES), *banks[1].read(classes, *CHANNELS)]
    return [tuple(value.float() for value in _mixtures(counts, layer)) for layer in found]


def measure(
    run: Run,
    source: Source,
    teacher: Classifier,
    teacher_sha256: str,
    *,
    image_size: int,
    seed: int,
    batch_size: int = 128,
) -> Measured:
    """Measure a network's statistics on the training images, or read them from the user's cache: a stage of one pass.

    Each image is seen once as networks are usually trained on it, and as in the released codes: up to 64 px in a padded
    crop, above in a RandomResizedCrop, and half of them mirrored. What is measured of a class's batches is put together in
    their order, so that the numbers are the same for any number of processes.

    Args:
        run: Spreads the batches over its processes.
        source: The real images.
        teacher: The network.
        teacher_sha256: Of its weights.
        image_size: Side in pixels at which the images are measured.
        seed: Of crops and flips.
        batch_size: Images per forward pass.

    Raises:
        InputError: For a network without convolutions, or when what lies in the cache is of something else, or broken.
    """
    layers, size = layers_of(teacher, image_size), image_size
    rules = usual_augmentation(size, source.mirrored)
    record = {
        "teacher_sha256": teacher_sha256,
        "source_fingerprint": source.fingerprint,
        "classes": source.class_names,
        "image_size": size,
        "patch": layers.patch,
        "flip": rules.flip,
        "seed": seed,
        "layers": [*layers.convolutions, *layers.norms],
    }
    folder = fit_folder(source, "statistics", teacher_sha256, size, "convolutions", seed, rules.flip)
    folder = run.cached(folder / RECORD).parent

    def starts(label: int) -> range:
        return range(0, len(source.train.by_class[label]), batch_size)

    def of_batches(label: int, some: slice) -> dict[str, torch.Tensor]:
        rows = source.train.by_class[label]
        generator = cpu_generator(draw_seed(seed, "convolution statistics", source.class_names[label]))
        draws = draw(rules, len(rows), len(rows), size, generator)

        def batches() -> Iterator[torch.Tensor]:
            for start in starts(label)[some]:
                images = source.train.pixels(rows[start : start + batch_size], size).to(teacher.device)
                yield augment(images, batch_of(draws, start, start + batch_size), (0, 0, 0), (1, 1, 1))

        return batch_statistics(teacher, batches(), layers)

    stage = f"statistics {teacher.architecture}".replace("/", "-")
    keep_by_class(run, folder, record, lambda label: len(starts(label)), of_batches, class_statistics, stage=stage)
    first, last = len(layers.convolutions), len(layers.convolutions) + len(layers.norms)
    banks = Bank(folder, range(first), teacher.device), Bank(folder, range(first, last), teacher.device)
    counts = np.bincount(source.train.labels, minlength=len(source.classes)).tolist()
    whole = _read(banks, range(len(counts)), counts)[:first]
    whole += [(norm.running_mean, norm.running_var) for norm in layers.norms.values()]
    return Measured(teacher, layers, whole, banks)
