"""Options of EDC."""

from dataclasses import dataclass
from typing import Literal

from distill_hub.config import option
from distill_hub.kinds import Fraction, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from distill_hub.options.rded import CropOptions
from distill_hub.options.recovery import NetworksOptions


@dataclass(frozen=True)
class EdcConfig(CropOptions, NetworksOptions):
    """EDC: align RDED's images with what the convolutions of several networks see of all images and of each class."""

    recover_steps: PositiveInt = option(
        300, "iterations (released scripts: 1,000 for ImageNet-1K, 2,000 for CIFAR-100 and Tiny-ImageNet)", common=True
    )
    recover_learning_rate: PositiveFloat = option(0.05, "Adam learning rate on normalised pixels; falls to 0 along a cosine")
    smallest_crop: Fraction = option(0.5, "least area of the random crops, as a share of the image's; 1: no crops")
    flips: Literal["yes", "no"] = option("yes", "mirror half of the views, where a mirrored image still shows its class")
    largest_roll: NonNegativeInt = option(0, "most pixels that the images are rolled by; EDC's code rolls none")
    statistics_weight: NonNegativeFloat | None = option(
        None, "of the alignment; default as released: 0.01 up to 64 px, else the 0.1 of ImageNet-1K", common=True
    )
    ema_decay: Fraction = option(0.8, "alpha, of the moving averages of a batch's statistics", common=True)
    class_share: Fraction = option(
        0.5, "share of the statistics of the batch's classes in what is aligned with; the rest is those of all images"
    )
