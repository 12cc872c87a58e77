"""Groups of options of the methods that optimise pixels: SRe2L, LPLD and DEDA."""

from dataclasses import dataclass
from pathlib import Path

from distill_hub.config import option
from distill_hub.kinds import Fraction, NonNegativeFloat, PositiveFloat, PositiveInt
from distill_hub.options.shared import PixelOptions


@dataclass(frozen=True)
class RecoverOptions(PixelOptions):
    """Recovery: pixels are optimised, from noise."""

    recover_steps: PositiveInt = option(
        1000, "iterations (papers: 1,000 for CIFAR, 4,000 for Tiny-ImageNet and ImageNet-1K)", common=True
    )
    recover_learning_rate: PositiveFloat = option(0.25, "Adam learning rate on normalised pixels; falls to 0 along a cosine")
    smallest_crop: Fraction = option(0.08, "least area of the random crops, as a share of the image's")


@dataclass(frozen=True)
class StatisticsOptions(RecoverOptions):
    """Alignment with BatchNorm statistics."""

    statistics_weight: NonNegativeFloat = option(
        0.01, "r_bn (released scripts: 0.01 for ImageNet-1K and CIFAR-100, 1 for Tiny-ImageNet)", common=True
    )
    first_layer_weight: NonNegativeFloat = option(10.0, "of the first BatchNorm layer; the others weigh 1")


@dataclass(frozen=True)
class ClassOptions:
    """Statistics of the real images, class by class."""

    bank: Path | None = option(None, "folder they are kept in; default: in the user cache", identity=False)
    classes_at_a_time: PositiveInt = option(
        1, "classes whose images are optimised side by side; more fill a large GPU", common=True
    )
