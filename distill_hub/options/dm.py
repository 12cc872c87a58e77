"""Options of DM."""

from dataclasses import dataclass
from typing import Literal

from distill_hub.config import InputError, option
from distill_hub.kinds import PositiveFloat, PositiveInt
from distill_hub.options.matching import MatchingOptions, SpaceOptions
from distill_hub.options.shared import PixelOptions


@dataclass(frozen=True)
class DmConfig(SpaceOptions, MatchingOptions, PixelOptions):
    """DM: distribution matching."""

    networks: Literal["random", "trained"] = option(
        "random",
        "random: fresh ones in every step, never trained; trained: on real images meanwhile, as in the tables of ImageNet's "
        "subsets, in IDC's loop and with its steps, rates, real batches and augmentation",
        common=True,
    )
    start: Literal["real", "noise"] = option("real", "what the images start from: real ones at random, or normal noise")
    match_steps: PositiveInt | None = option(
        None,
        "steps, each in a network of its own; default: 20,000 as in the paper, up to 16 px 100; with --networks trained "
        "those in each, see idc",
        common=True,
    )
    match_learning_rate: PositiveFloat | None = option(
        None,
        "SGD learning rate on normalised pixels; default, as in the paper: 1, from IPC 100 on 10; with --networks trained "
        "on pixels in [0, 1], see idc",
    )
    real_batch_size: PositiveInt | None = option(
        None,
        "real images of a class in every step; default: 256 as in the paper, up to 16 px 64; with --networks trained "
        "see idc",
    )

    def check_settings(self) -> None:
        """Refuse what IDC's loop does not have."""
        if self.networks == "trained":
            for name, value in (("augment", "dsa"), ("pixels", "clamped"), ("start", "real")):
                if getattr(self, name) != value:
                    valid = f"--networks trained is IDC's loop, which has its own; valid beside it: {value}"
                    raise InputError(name, getattr(self, name), valid)
