"""Options of training a classifier."""

from dataclasses import dataclass
from pathlib import Path

from distill_hub.config import InputError, option
from distill_hub.coresets.names import DYNAMICS
from distill_hub.disk.files import check_folder
from distill_hub.kinds import Location, NonNegativeFloat, NonNegativeInt, Pixels, PositiveFloat, PositiveInt
from distill_hub.networks.names import check_network, check_teacher
from distill_hub.options.shared import DRY_RUN_HELP, SourceOptions
from distill_hub.options.tracking import TrackingOptions


@dataclass(frozen=True)
class FitClassifierConfig(TrackingOptions, SourceOptions):
    """The classifier."""

    network: str = option(
        "auto", "resnet-18-bn, ..., or timm/NAME; auto: the convnet-D-bn that suits the image size", common=True
    )
    pretrained: Location | None = option(
        None,
        "start from published weights, with a new last layer: timm/NAME, the Hub id of a classifier of timm's or ours, or a "
        "folder; network, image size and normalisation are then its own; for a few hundred photos",
        common=True,
    )
    pretrained_revision: str | None = option(None, "branch, tag or commit of --pretrained on the Hub")
    image_size: Pixels | None = option(
        None, "side of the square images in pixels; default: the source's own, else chosen and said", common=True
    )
    epochs: PositiveInt = option(100, "passes over the training split", common=True)
    batch_size: PositiveInt = option(128, "images per optimiser step, all processes together")
    learning_rate: PositiveFloat | None = option(
        None,
        "largest learning rate of SGD with momentum 0.9; it warms up and falls to 0; default: 0.1, of --pretrained 0.01",
        common=True,
    )
    weight_decay: NonNegativeFloat = option(5e-4, "of all weights")
    seed: NonNegativeInt = option(0, "seed of every random draw", common=True)
    dynamics: bool = option(
        False,
        f"also write down what the network says of every training image in every epoch, {DYNAMICS}: recipes/coreset.py "
        "chooses by it",
        common=True,
    )
    checkpoint_epochs: PositiveInt = option(5, "epochs between checkpoints", identity=False)
    output_dir: Path | None = option(None, "folder; default outputs/<source>-<network>", identity=False, common=True)
    overwrite: bool = option(
        False, "replace what the folder holds; finished stages that still fit are used", identity=False, common=True
    )
    dry_run: bool = option(False, DRY_RUN_HELP, identity=False, common=True)

    def check_settings(self) -> None:
        """Refuse networks that do not exist, or two of them, and a folder that cannot be written to."""
        check_network(self.network, "network")
        if self.pretrained:
            check_teacher(self.pretrained, "pretrained")
            if self.network != "auto":
                raise InputError("network", self.network, "--pretrained has a network already; leave one of both out")
        elif self.pretrained_revision:
            raise InputError("pretrained_revision", self.pretrained_revision, "no --pretrained is named")
        check_folder(self.output_dir or Path("outputs"))
