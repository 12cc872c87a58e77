"""Options of DC and DSA."""

from dataclasses import dataclass
from typing import Literal

from distill_hub.config import option
from distill_hub.kinds import NonNegativeInt, PositiveFloat, PositiveInt
from distill_hub.options.matching import MatchingOptions, SpaceOptions
from distill_hub.options.shared import PixelOptions


@dataclass(frozen=True)
class DcConfig(SpaceOptions, MatchingOptions, PixelOptions):
    """DSA, or with --augment none DC: gradient matching."""

    start: Literal["real", "noise"] | None = option(
        None, "what the images start from; default, as in the papers: real ones at random, with --augment none normal noise"
    )
    distance: Literal["rows", "cosine", "squared"] = option(
        "rows", "of two gradients: 1 - cosine, summed over the rows of all layers; of all as one vector; or squared"
    )
    match_networks: PositiveInt | None = option(
        None,
        "K, networks that come one after the other; default: 1,000 as in the papers, up to 16 px as many as make 60 steps",
        common=True,
    )
    outer_steps: PositiveInt | None = option(
        None,
        "T, steps of the pixels in each network; default, as in the papers: from IPC 1 on 1, and from 10, 20, 30, 40 and 50 "
        "on as many",
    )
    inner_epochs: NonNegativeInt | None = option(
        None,
        "epochs that the network learns the distilled images between two steps; default, as in the papers: from IPC 1 on 1, "
        "10 on 50, 20 on 25, 30 on 20, 40 on 15, 50 on 10; up to 16 px a tenth of these",
    )
    match_learning_rate: PositiveFloat | None = option(
        None, "SGD learning rate on normalised pixels; default: 0.1 as in the papers, up to 16 px 1"
    )
    network_learning_rate: PositiveFloat = option(0.01, "SGD learning rate of the networks on the distilled images")
    real_batch_size: PositiveInt | None = option(
        None, "real images of a class in every step; default: 256 as in the papers, up to 16 px 64"
    )
