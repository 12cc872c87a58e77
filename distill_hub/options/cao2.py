"""Options of CaO2."""

from dataclasses import dataclass
from typing import Literal

from distill_hub.config import option
from distill_hub.kinds import Fraction, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from distill_hub.options.shared import SampleOptions


@dataclass(frozen=True)
class Cao2Config(SampleOptions):
    """CaO2: objective-guided selection, then condition-aware latent optimisation."""

    pool_factor: PositiveInt = option(
        4, "pool of pool_factor * IPC candidates per class (paper: 4 ImageWoof, 2 elsewhere)", common=True
    )
    order: Literal["auto", "most_confident", "least_confident"] = option(
        "auto", "which correct candidates to keep; auto: most confident below IPC 50, least confident from 50 on"
    )
    fill: Literal["random", "most_confident"] = option(
        "random", "how a class short of correct candidates is filled (paper: random; released code: most_confident)"
    )
    condition: Literal["true", "null"] = option(
        "true",
        "condition of the optimisation: the class (easy tasks) or the null class (ImageWoof, ImageNet-1K), Eq. 5",
        common=True,
    )
    regularization: Literal["linf", "l1", "l2", "none"] = option("linf", "norm in Eq. 4")
    regularization_weight: NonNegativeFloat = option(10.0, "lambda in Eq. 4")
    max_timestep_fraction: Fraction = option(0.25, "timesteps are drawn from [1, fraction * T)")
    refine_steps: NonNegativeInt = option(100, "optimiser steps per image; 0 skips the stage", common=True)
    refine_learning_rate: PositiveFloat = option(6e-4, "Adam learning rate on the latents")
    refine_batch_size: PositiveInt = option(64, "latents per chunk of work, across classes")
