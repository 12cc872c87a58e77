"""Options of DC and DSA."""

from dataclasses import dataclass
from typing import Literal

from distill_hub.config import option
from distill_hub.kinds import NonNegativeInt, PositiveFloat, PositiveInt
from distill_hub.options.matching import MatchingOptions


@dataclass(frozen=True)
class DcConfig(MatchingOptions):
    """DC and DSA: gradient matching."""

    start: Literal["real", "noise"] | None = option(
        None, "what the images start from; default, as in the papers: normal noise, with --augment dsa real ones at random"
    )
    augment: Literal["dsa", "none"] = option(
        "none", "none: DC; dsa: DSA, real and distilled images of a class get the same random operation in every step",
        common=True,
    )  # fmt: skip
    distance: Literal["rows", "cosine", "squared"] = option(
        "rows", "of two gradients: 1 - cosine, summed over rows of each layer (Eq. 7), or of all as one vector, or squared"
    )
    match_networks: PositiveInt | None = option(
        None, "K, networks that are drawn, one after the other; default: 1,000 as in the papers, up to 16 px X", common=True
    )
    outer_steps: PositiveInt | None = option(
        None, "T, steps of the pixels in each network; default by IPC, as in the papers: from 1 on 1, from 10 on 10, 20 on 20, "
        "..., from 50 on 50",
    )  # fmt: skip
    inner_epochs: NonNegativeInt | None = option(
        None, "epochs that the network learns the distilled images between two of these steps; default by IPC, as in the "
        "papers: from 1 on 1, from 10 on 50, 20 on 25, 30 on 20, 40 on 15, from 50 on 10",
    )  # fmt: skip
    match_learning_rate: PositiveFloat = option(0.1, "SGD learning rate on normalised pixels")
    network_learning_rate: PositiveFloat = option(0.01, "SGD learning rate of the networks on the distilled images")
    real_batch_size: PositiveInt | None = option(
        None, "real images of a class in every step; default: 256 as in the papers, up to 16 px 64"
    )
