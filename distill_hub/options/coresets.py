"""Options of the coresets: herding, K-Center, and those of `recipes/coreset.py`."""

from dataclasses import dataclass
from typing import Literal

from distill_hub.config import InputError, option
from distill_hub.coresets.names import BY_DIFFICULTY, OF_EMBEDDINGS, CoresetMethod, Difficulty, check_dynamics
from distill_hub.kinds import Fraction, Location, PositiveInt
from distill_hub.networks.names import check_network, check_one_teacher
from distill_hub.options.shared import PixelOptions

_ONE_NETWORK = "real images are chosen by one network's embeddings"


@dataclass(frozen=True)
class EmbedOptions:
    """Embeddings of the real images."""

    embed_batch_size: PositiveInt = option(256, "real images that the teacher embeds at a time")


@dataclass(frozen=True)
class EmbeddingCoresetConfig(EmbedOptions, PixelOptions):
    """Coreset: real images, chosen by the teacher's embeddings."""

    def check_settings(self) -> None:
        """Refuse several teachers."""
        check_one_teacher(self.teacher, _ONE_NETWORK)


@dataclass(frozen=True)
class DynamicsOptions:
    """Training dynamics: what networks say of every training image while they are trained."""

    dynamics: Location = option(
        "auto",
        "classifiers that fit_classifier --dynamics trained on this source: a folder or Hub id, several by commas; auto: "
        "train networks, once, and keep what they say in the user's cache",
        common=True,
    )
    dynamics_revision: str | None = option(None, "branch, tag or commit of the classifier on the Hub")
    dynamics_network: str = option("auto", "network of auto; auto: the convnet-D-bn that suits the image size")
    dynamics_epochs: PositiveInt = option(20, "epochs of auto", common=True)
    dynamics_count: PositiveInt = option(1, "networks of auto, over which difficulties are averaged; EL2N's paper: 10")

    def check_settings(self) -> None:
        """Refuse dynamics and a network that do not exist."""
        check_dynamics(self.dynamics)
        check_network(self.dynamics_network, "dynamics_network")


@dataclass(frozen=True)
class CoresetConfig(DynamicsOptions, EmbedOptions, PixelOptions):
    """Coreset: real images, chosen class by class."""

    method: CoresetMethod = option(
        "ccs",
        "ccs: of all difficulties but the largest; el2n, forgetting, aum: by difficulty; facility-location, kmeans: by the "
        "teacher's embeddings",
        common=True,
    )
    keep: Literal["hardest", "easiest"] = option(
        "hardest",
        "which images el2n, forgetting and aum keep: the hardest, as in the papers, or the easiest, which teach more where "
        "few are kept",
        common=True,
    )
    difficulty: Difficulty = option("aum", "what ccs takes for difficulty")
    cut: Fraction = option(
        0.3, "share of the images that ccs drops first, the hardest; 0.3 is the paper's where a tenth of CIFAR-10 is kept"
    )
    strata: PositiveInt = option(50, "parts of even width that ccs cuts the range of difficulties into")
    el2n_epochs: PositiveInt = option(10, "first epochs that EL2N takes in: its error is that of the last of them")

    def check_settings(self) -> None:
        """Refuse several teachers where one embeds, and the easiest of what is not chosen by difficulty alone."""
        if self.method in OF_EMBEDDINGS:
            check_one_teacher(self.teacher, _ONE_NETWORK)
        if self.keep == "easiest" and self.method not in BY_DIFFICULTY:
            raise InputError("keep", self.keep, f"{self.method} keeps neither end; leave the option out")
