"""Options of difficulty-guided sampling."""

from dataclasses import dataclass
from typing import Literal

from distill_hub.config import option
from distill_hub.kinds import Fraction, PositiveInt
from distill_hub.options.shared import SampleOptions, SelectorOptions


@dataclass(frozen=True)
class DgsConfig(SelectorOptions, SampleOptions):
    """Difficulty-guided sampling: keep samples that are as difficult as the real images."""

    pool_factor: PositiveInt = option(5, "pool of pool_factor * IPC candidates per class", common=True)
    distribution: Literal["scale", "hill", "ground", "slope", "cliff"] = option(
        "scale",
        "difficulties wanted: those of the real images, or a shape of the paper, for IPC 10, 20 and 50 (Tab. 3)",
        common=True,
    )
    transform: Literal["log", "none"] = option(
        "log", "of the difficulties, before they are compared; none: as they are (Fig. 2, upper row)"
    )
    similarity_weight: Fraction = option(
        0.5, "lambda in Eq. 9: 1 keeps the pool's own distribution of difficulties, 0 makes it uniform"
    )
    threshold_range: Literal["pool", "ipc"] = option(
        "pool",
        "thresholds of the transform are searched below half of the pool (paper; the authors' runs of ImageNette and "
        "ImageIDC) or of IPC (released code's program; their runs of ImageWoof)",
    )
