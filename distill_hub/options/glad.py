"""Options of GLaD."""

from dataclasses import dataclass
from typing import Literal

from distill_hub.config import option
from distill_hub.kinds import NonNegativeInt, PositiveFloat, PositiveInt
from distill_hub.options.matching import MatchingOptions
from distill_hub.options.psr import RefineOptions
from distill_hub.options.shared import SampleOptions


@dataclass(frozen=True)
class GladConfig(RefineOptions, MatchingOptions, SampleOptions):
    """GLaD: the latents of a generator are matched in place of pixels."""

    under: Literal["dm", "dc"] = option(
        "dm", "what matches the decoded images: dm, distribution matching; dc, gradient matching", common=True
    )
    match_steps: PositiveInt | None = option(
        None, "steps, each in a network of its own; default: 1,000 as in the paper, up to 16 px 100", common=True
    )
    latent_learning_rate: PositiveFloat | None = option(
        None,
        "SGD learning rate on latents; default: 10, under dc 1, as in the released code on feature maps, up to 16 px 0.3",
        common=True,
    )
    real_batch_size: PositiveInt | None = option(
        None, "real images of a class in every step; default: 256 as in the paper, up to 16 px 64"
    )
    decode_batch_size: PositiveInt = option(10, "latents that are decoded at a time, with their gradients")
    refine_steps: NonNegativeInt = option(
        0, "steps per image of Pool-Select-Refine's refinement after the matching, as in its Table 6; 0: none"
    )
