"""Options of the methods that match what networks make of real and of distilled images."""

from dataclasses import dataclass
from typing import Literal

from distill_hub.config import option
from distill_hub.networks.names import check_network
from distill_hub.options.shared import PixelOptions


@dataclass(frozen=True)
class NetworkOptions:
    """The networks that real and distilled images are matched in."""

    network: str = option(
        "auto", "network to match in; auto: the ConvNet that suits the image size, up to 16 px half as wide", common=True
    )
    augment: Literal["dsa", "none"] = option(
        "dsa", "dsa: in every step real and distilled images of a class get the same random operation"
    )

    def check_settings(self) -> None:
        """Refuse a network that does not exist."""
        check_network(self.network, "network")


@dataclass(frozen=True)
class MatchingOptions(NetworkOptions, PixelOptions):
    """Matching: pixels are optimised until networks make of them what they make of real images."""

    start: Literal["real", "noise"] = option("real", "what the images start from: real ones at random, or normal noise")


@dataclass(frozen=True)
class SpaceOptions:
    """The space of the pixels."""

    pixels: Literal["clamped", "free", "zca"] = option(
        "clamped",
        "clamped: to black and white after every step, so that the images are the set; free: by nothing, as in the papers' "
        "codes; zca: nor is anything, and images are whitened, up to 64 px. The last two add a column that students are "
        "trained on, beside pictures of it",
    )
