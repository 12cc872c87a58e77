"""Groups of options of the methods that optimise pixels: SRe2L, LPLD, DEDA, G-VBSM and EDC."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from distill_hub.config import InputError, option
from distill_hub.kinds import Fraction, Location, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from distill_hub.networks.names import check_one_teacher
from distill_hub.options.shared import COMPILE_SET_HELP, PixelOptions


@dataclass(frozen=True)
class RecoverOptions(PixelOptions):
    """Recovery: pixels are optimised."""

    recover_steps: PositiveInt = option(
        1000, "iterations (papers: 1,000 for CIFAR, 4,000 for Tiny-ImageNet and ImageNet-1K)", common=True
    )
    recover_learning_rate: PositiveFloat = option(0.25, "Adam learning rate on normalised pixels; falls to 0 along a cosine")
    smallest_crop: Fraction | None = option(
        None,
        "least area of the random crops, as a share of the image's; 1: no crops; default: 0.08, without --crop_schedule up "
        "to 32 px 1",
    )
    crop_schedule: Literal["fixed", "step", "linear", "cosine"] = option(
        "fixed",
        "how the least area comes down to that (CDA): fixed, it is that from the start; else whole images come first, and "
        "crops from easy to hard, by a step at the --milestone or along a line or cosine that ends there",
    )
    milestone: Fraction = option(1.0, "share of the iterations that the crop schedule takes; from there on it is fixed")
    flips: Literal["yes", "no"] | None = option(
        None, "mirror half of the views, where a mirrored image still shows its class; default: yes, up to 32 px no"
    )
    largest_roll: NonNegativeInt | None = option(
        None,
        "most pixels that the images are rolled by; default, as in the released codes: an eighth of the side up to 32 px, a "
        "sixteenth, both ways, up to 64 px, and a seventh above",
    )
    roll_both_ways: bool = option(False, "roll them up and to the left, too, not only down and to the right")

    def check_settings(self) -> None:
        """Refuse a schedule of crops where there are none, or none would come, and a milestone of no schedule."""
        if self.crop_schedule != "fixed" and self.smallest_crop == 1:
            raise InputError("smallest_crop", 1, f"with --crop_schedule {self.crop_schedule} crops come down to it: below 1")
        if self.crop_schedule == "fixed" and self.milestone != 1:
            raise InputError("milestone", self.milestone, "a --crop_schedule ends there, and none is named")
        if self.crop_schedule == "step" and self.milestone == 1:
            raise InputError("milestone", 1, "with --crop_schedule step crops begin there, and none would come: below 1")


@dataclass(frozen=True)
class CompiledRecovery(RecoverOptions):
    """Recovery that can be compiled: what is minimised is the same in every step."""

    compile_set: bool = option(False, COMPILE_SET_HELP)


@dataclass(frozen=True)
class StatisticsOptions(CompiledRecovery):
    """Alignment with BatchNorm statistics."""

    statistics_weight: NonNegativeFloat = option(
        0.01,
        "r_bn (released scripts: 0.01 for ImageNet-1K and CIFAR-100; for Tiny-ImageNet 1 of SRe2L's, 0.05 of LPLD's; for "
        "ImageNet-21K 0.25)",
        common=True,
    )
    first_layer_weight: NonNegativeFloat = option(10.0, "of the first BatchNorm layer; the others weigh 1")

    def check_settings(self) -> None:
        """Refuse several teachers."""
        check_one_teacher(self.teacher, "images are aligned with one network's statistics")


@dataclass(frozen=True)
class ClassOptions:
    """Statistics of the real images, class by class."""

    bank: Path | None = option(None, "folder they are kept in; default: in the user cache", identity=False)
    classes_at_a_time: PositiveInt = option(
        1, "classes whose images are optimised side by side; more fill a large GPU", common=True
    )


@dataclass(frozen=True)
class NetworksOptions(RecoverOptions):
    """Alignment with the statistics of several networks, which take turns."""

    teacher: Location = option(
        "auto",
        "timm/NAME, a Hub id, or a folder; several by commas, which take turns and whose logits are combined; "
        "auto: for ImageNet timm's ResNet-18, MobileNetV2 and EfficientNet-B0, else fit three small ConvNets",
        common=True,
    )
    recover_batch_size: PositiveInt = option(
        100, "images optimised at a time, class by class (released scripts: 80 for ImageNet-1K, else 100)"
    )
    first_layer_weight: NonNegativeFloat = option(10.0, "of a network's first convolution; the other layers weigh 1")
