"""Options of LPLD."""

from dataclasses import dataclass
from typing import Literal

from distill_hub.config import option
from distill_hub.kinds import PositiveInt
from distill_hub.options.recovery import ClassOptions, StatisticsOptions


@dataclass(frozen=True)
class LpldConfig(ClassOptions, StatisticsOptions):
    """LPLD: align batches of one class with that class's BatchNorm statistics."""

    class_statistics: Literal["exact", "moving"] = option(
        "exact",
        "of all images of a class; or as released, moving averages over batches of crops, which are about those of the last "
        "ten batches with an image of the class (drawn with fit_seed)",
        common=True,
    )
    moving_batch_size: PositiveInt = option(
        64, "images of all classes per batch of the moving averages (released scripts: 64 ImageNet-1K, 256 Tiny-ImageNet)"
    )
