"""Options of the methods that match what networks make of real and of distilled images."""

from dataclasses import dataclass
from typing import Literal

from distill_hub.config import option
from distill_hub.networks.names import check_network
from distill_hub.options.shared import PixelOptions


@dataclass(frozen=True)
class MatchingOptions(PixelOptions):
    """Matching: pixels are optimised until networks make of them what they make of real images."""

    network: str = option(
        "auto", "network to match in; auto: the ConvNet that suits the image size, up to 16 px half as wide", common=True
    )
    start: Literal["real", "noise"] = option("real", "what the images start from: real ones at random, or normal noise")
    augment: Literal["dsa", "none"] = option(
        "dsa", "dsa: in every step real and distilled images of a class get the same random operation"
    )

    def check_settings(self) -> None:
        """Refuse a network that does not exist."""
        check_network(self.network, "network")
