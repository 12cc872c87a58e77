"""Options of CaO2."""

from dataclasses import dataclass
from typing import Literal

from distill_hub.config import option
from distill_hub.kinds import Fraction, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from distill_hub.options.shared import SampleOptions, SelectorOptions


@dataclass(frozen=True)
class Cao2Config(SelectorOptions, SampleOptions):
    """CaO2: objective-guided selection, then condition-aware latent optimisation."""

    pool_factor: PositiveInt = option(
        4,
        "pool of pool_factor * IPC candidates per class (paper: 2 or 4; released scripts: 4 ImageWoof and ImageNet-1K, 2 "
        "ImageNette and ImageNet-100)",
        common=True,
    )
    order: Literal["auto", "most_confident", "least_confident", "correct", "random", "el2n"] = option(
        "auto",
        "which correct candidates to keep; auto: most confident below IPC 50, least confident from 50 on; correct: any. Or, "
        "correct or not: random: any; el2n: the easiest by EL2N (Fig. 3c)",
    )
    fill: Literal["random", "most_confident"] = option(
        "random",
        "how a class short of correct candidates is filled (paper: random; released code: most_confident, by the largest "
        "probability of any class)",
    )
    condition: Literal["true", "null"] = option(
        "true",
        "condition of the optimisation: the class (easy tasks) or the null class (ImageWoof, ImageNet-1K), Eq. 5",
        common=True,
    )
    regularization: Literal["linf", "l1", "l2", "none"] = option("linf", "norm in Eq. 4")
    regularization_weight: NonNegativeFloat = option(10.0, "lambda in Eq. 4")
    max_timestep_fraction: Fraction = option(
        0.25,
        "timesteps are drawn from [1, fraction * T) (released scripts: 0.25, ImageNet-100 0.125), a SiT's times from "
        "[0, fraction), a MAR's shares of masked tokens from (0, fraction]",
    )
    refine_steps: NonNegativeInt = option(100, "optimiser steps per image; 0 skips the stage", common=True)
    refine_learning_rate: PositiveFloat | None = option(
        None, "Adam learning rate on the latents; default: 6e-4, and 1e-4 on a MAR, as in the paper"
    )
    refine_batch_size: PositiveInt = option(64, "latents per chunk of work, across classes")
