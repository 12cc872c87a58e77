"""Options of DM."""

from dataclasses import dataclass
from typing import Literal

from distill_hub.config import option
from distill_hub.kinds import PositiveFloat, PositiveInt
from distill_hub.options.matching import MatchingOptions, SpaceOptions
from distill_hub.options.shared import PixelOptions


@dataclass(frozen=True)
class DmConfig(SpaceOptions, MatchingOptions, PixelOptions):
    """DM: distribution matching."""

    start: Literal["real", "noise"] = option("real", "what the images start from: real ones at random, or normal noise")
    match_steps: PositiveInt | None = option(
        None, "steps, each in a network of its own; default: 20,000 as in the paper, up to 16 px 100", common=True
    )
    match_learning_rate: PositiveFloat | None = option(
        None, "SGD learning rate on normalised pixels; default, as in the paper: 1, from IPC 100 on 10"
    )
    real_batch_size: PositiveInt | None = option(
        None, "real images of a class in every step; default: 256 as in the paper, up to 16 px 64"
    )
