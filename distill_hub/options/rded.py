"""Options of RDED."""

from dataclasses import dataclass
from typing import Annotated

from distill_hub.config import option
from distill_hub.kinds import PositiveInt
from distill_hub.options.shared import PixelOptions


@dataclass(frozen=True)
class CropOptions:
    """Crops of real images, tiled."""

    images_per_class: PositiveInt = option(
        300,
        "real images that crops are taken from, per class; all where there are fewer; at least factor^2 * IPC",
        common=True,
    )
    num_crops: Annotated[int, (">", 0), ("<=", 1000)] = option(
        5, "random crops per real image, of which the teacher keeps one", common=True
    )
    factor: Annotated[int, (">", 0), ("<=", 64)] | None = option(
        None,
        "a distilled image is tiled from factor x factor crops; default as in the released code: 1 up to 64 px, else 2",
        common=True,
    )


@dataclass(frozen=True)
class RdedConfig(CropOptions, PixelOptions):
    """RDED: the most realistic crops of real images, tiled."""
