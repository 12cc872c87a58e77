"""Opening the space that a recipe's pixels are optimised in, and what the manifest says of it."""

from distill_hub.artifact.manifest import FreePixelsRecord, ZcaRecord
from distill_hub.augmentation.zca import check_side
from distill_hub.config import InputError
from distill_hub.evaluation.scores import refuse_pictures
from distill_hub.evaluation.whitening import fit_zca
from distill_hub.matching.pixels import normalization
from distill_hub.matching.space import Space
from distill_hub.options.matching import SpaceOptions
from distill_hub.options.shared import SetOptions
from distill_hub.running.run import Run
from distill_hub.training.protocols import Protocol
from distill_hub.training.subject import HeldOut


def has_free_pixels(config: SetOptions) -> bool:
    """Tell whether the students of a recipe's set will see pixels that are none of a picture."""
    return isinstance(config, SpaceOptions) and config.pixels != "clamped"


def check_space(config: SetOptions, rules: Protocol, size: int) -> None:
    """Refuse, before any work, what free pixels cannot do.

    Args:
        config: The recipe's settings.
        rules: How the set's students are trained.
        size: Side of the images in pixels.

    Raises:
        InputError: For a protocol whose labels are of pictures, stored views, or images too large to be whitened.
    """
    if not has_free_pixels(config):
        return
    refuse_pictures(rules)
    share = config.label_share if config.label_share < 1 else None
    for name, value in {"view_epochs": config.view_epochs, "label_share": share, "top_k": config.top_k}.items():
        if value:
            raise InputError(name, value, "stored views are of pictures, and free pixels are none; leave it out")
    if config.pixels == "zca":
        check_side(size)


def open_space(run: Run, config: SpaceOptions, test: HeldOut, size: int) -> Space:
    """Open the space that is asked for; whitening is fitted to the real training images. Call it on every process.

    Args:
        run: The run.
        config: Says which.
        test: Of the source's classes.
        size: Side of the images in pixels.

    Raises:
        InputError: See `augmentation.zca.check_side`.
    """
    if config.pixels == "zca":
        return Space((0.0,) * 3, (1.0,) * 3, free=True, zca=fit_zca(run, test, size))
    return Space(*normalization(test.source, size), free=config.pixels == "free")


def free_pixels_record(space: Space | None) -> FreePixelsRecord | None:
    """Return what a manifest says of a set's free pixels; None where the images are the set."""
    if space is None or not space.free:
        return None
    zca = space.zca
    return FreePixelsRecord(zca=zca and ZcaRecord(eps=zca.eps, images=zca.images, sha256=zca.sha256))
