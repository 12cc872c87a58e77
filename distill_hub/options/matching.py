"""Options of the methods that match what networks make of real and of distilled images."""

from dataclasses import dataclass
from typing import Literal

from distill_hub.config import option
from distill_hub.networks.names import check_network


@dataclass(frozen=True)
class NetworkOptions:
    """The network that images are matched in."""

    network: str = option(
        "auto", "network to match in; auto: the ConvNet that suits the image size, up to 16 px half as wide", common=True
    )

    def check_settings(self) -> None:
        """Refuse a network that does not exist."""
        check_network(self.network, "network")


@dataclass(frozen=True)
class MatchingOptions(NetworkOptions):
    """Matching: images are optimised until networks make of them what they make of real ones."""

    augment: Literal["dsa", "none"] = option(
        "dsa", "dsa: in every step real and distilled images of a class get the same random operation"
    )


@dataclass(frozen=True)
class SpaceOptions:
    """The space of the pixels."""

    pixels: Literal["clamped", "free", "zca"] = option(
        "clamped",
        "clamped: to black and white after every step, so that the images are the set; free: by nothing, as in the papers' "
        "codes; zca: nor is anything, and images are whitened, up to 64 px. The last two add a column that students are "
        "trained on, beside pictures of it",
    )
