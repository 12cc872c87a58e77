"""Options of DWA."""

from dataclasses import dataclass

from distill_hub.config import option
from distill_hub.kinds import NonNegativeFloat, PositiveInt
from distill_hub.options.sre2l import Sre2lConfig


@dataclass(frozen=True)
class DwaConfig(Sre2lConfig):
    """DWA: the same from real images, in a teacher whose weights are moved for each batch."""

    rho: NonNegativeFloat = option(0.015, "how far the weights are moved; 0 leaves them", common=True)
    ascent_steps: PositiveInt = option(12, "steps of that way (papers: 12 for CIFAR and Tiny-ImageNet, 15 for ImageNet-1K)")
    variance_weight: NonNegativeFloat = option(
        11.0, "r_var, of the distances of variances (papers: 11 for CIFAR and Tiny-ImageNet, 2 for ImageNet-1K)", common=True
    )
