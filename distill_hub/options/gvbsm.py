"""Options of G-VBSM."""

from dataclasses import dataclass

from distill_hub.config import option
from distill_hub.kinds import Fraction, NonNegativeFloat, PositiveFloat
from distill_hub.options.recovery import NetworksOptions


@dataclass(frozen=True)
class GvbsmConfig(NetworksOptions):
    """G-VBSM: align with what the convolutions of several networks see of all real images."""

    recover_learning_rate: PositiveFloat = option(
        0.05, "Adam learning rate on normalised pixels; falls to 0 along a cosine (released scripts: 0.1 for ImageNet-1K)"
    )
    statistics_weight: NonNegativeFloat = option(0.01, "of the alignment", common=True)
    ema_decay: Fraction | None = option(
        None,
        "alpha, of the moving averages of a batch's statistics; default as released: 0.8 up to 64 px, else 0.4",
        common=True,
    )
    drop_rate: Fraction | None = option(
        None, "beta_dr: chance that a convolution is left out of a step; default as released: 0.4 up to 64 px, else 0"
    )
    densification_weight: NonNegativeFloat = option(1.0, "of the data densification, which spreads the images of a class")
