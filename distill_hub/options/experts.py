"""Options of expert trajectories."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from distill_hub.config import InputError, option
from distill_hub.disk.files import check_folder
from distill_hub.kinds import NonNegativeFloat, NonNegativeInt, Pixels, PositiveFloat, PositiveInt
from distill_hub.networks.names import check_network, student_name
from distill_hub.options.shared import DRY_RUN_HELP, SourceOptions

SMALL = 16  # px: up to here the defaults are those of handwritten digits, above the papers' for CIFAR-10
_Options = TypeVar("_Options", bound="ExpertOptions")


@dataclass(frozen=True)
class ExpertOptions:
    """Experts: networks trained on the real images, whose weights are kept epoch by epoch."""

    network: str = option(
        "auto",
        "of the experts and of the students that follow them: convnet-3, convnet-3-w64, ..., without BatchNorm; auto: the "
        "ConvNet that suits the image size, up to 16 px 32 channels wide",
        common=True,
    )
    expert_count: PositiveInt | None = option(None, "experts; default: 100, up to 16 px 4", common=True)
    expert_epochs: PositiveInt | None = option(None, "epochs of each; default: 50, up to 16 px 8", common=True)
    expert_batch_size: PositiveInt | None = option(None, "images per step; default: 256, up to 16 px 64")
    expert_learning_rate: PositiveFloat | None = option(
        None, "of SGD without momentum and weight decay; default: 0.01, up to 16 px 0.05"
    )
    expert_optimizer: Literal["sgd", "gsam"] = option(
        "sgd", "sgd (MTT, TESLA), or gsam: flat minima, at twice the cost (FTD, DATM)"
    )
    flat_radius: PositiveFloat = option(0.01, "rho of GSAM, in proportion to each weight")
    flat_share: NonNegativeFloat = option(0.3, "alpha of GSAM: of what is at right angles to the gradient nearby")

    def check_settings(self) -> None:
        """Refuse a network that does not exist, or has running statistics."""
        check_network(self.network, "network")
        if self.network.endswith("-bn"):
            raise InputError("network", self.network, "students follow weights alone: a network without BatchNorm is needed")


@dataclass(frozen=True)
class ExpertsConfig(ExpertOptions, SourceOptions):
    """The experts."""

    keep_epochs: PositiveInt | None = option(
        None,
        "last epoch of those whose weights are all kept, beside the last of the training; matching reads up to the last "
        "start plus the epochs that it leads over; default: all",
        common=True,
    )
    whiten: bool = option(False, "whiten the images (ZCA), up to 64 px, for sets that are matched with --pixels zca")
    image_size: Pixels | None = option(
        None, "side of the square images in pixels; default: the source's own, else chosen and said", common=True
    )
    seed: NonNegativeInt = option(0, "seed of every random draw", common=True)
    output_dir: Path | None = option(None, "folder; default outputs/<source>-<network>-experts", identity=False, common=True)
    overwrite: bool = option(
        False, "replace what the folder holds; finished stages that still fit are used", identity=False, common=True
    )
    dry_run: bool = option(False, DRY_RUN_HELP, identity=False, common=True)

    def check_settings(self) -> None:
        """Refuse a folder that cannot be written to."""
        check_folder(self.output_dir or Path("outputs"))


def with_defaults(config: _Options, size: int) -> _Options:
    """Return settings in which no default depends on the image size any more, a side in pixels."""
    small = size <= SMALL
    network = student_name(config.network, size) + "-w32" * (small and config.network == "auto")
    defaults: dict[str, Any] = {
        "expert_count": 4 if small else 100,
        "expert_epochs": 8 if small else 50,
        "expert_batch_size": 64 if small else 256,
        "expert_learning_rate": 0.05 if small else 0.01,
    }
    missing = {name: value for name, value in defaults.items() if getattr(config, name) is None}
    return dataclasses.replace(config, network=network, **missing)
