"""What methods that match cannot do, refused before a teacher or a generator is fitted for them."""

from distill_hub.config import InputError
from distill_hub.data.sources import Source, check_ipc
from distill_hub.matching.experts import refuse_mixed_precision
from distill_hub.matching.networks import resolve
from distill_hub.matching.pixels import refuse_half_precision
from distill_hub.options.experts import ExpertOptions
from distill_hub.options.idc import IdcConfig
from distill_hub.options.igd import IgdConfig
from distill_hub.options.matching import NetworkOptions
from distill_hub.options.mgd3 import Mgd3Config
from distill_hub.options.mtt import MttConfig
from distill_hub.options.shared import SetOptions
from distill_hub.running.run import Run


def check_matching(config: SetOptions, source: Source, size: int) -> None:
    """Refuse networks that nothing can be matched in, empty windows, and too few real images.

    Args:
        config: The recipe's settings.
        source: The real images.
        size: Side of the images in pixels, at most.

    Raises:
        InputError: See `matching.networks.resolve` and `MttConfig.at`; or naming the smallest class.
    """
    if isinstance(config, (NetworkOptions, ExpertOptions)):
        resolve(config.network, len(source.classes), size)
    if isinstance(config, MttConfig):
        config.at(size)
    if isinstance(config, Mgd3Config) and config.pca:
        check_ipc(source, config.pca, "pca")
    if isinstance(config, IdcConfig) and config.start == "mix":
        needed, rows = config.ipc * (config.tiles(size) or 1) ** 2, source.train.by_class
        fewest = min(range(len(rows)), key=lambda label: len(rows[label]))
        if needed > len(rows[fewest]):
            has = f"class {source.class_names[fewest]!r} has {len(rows[fewest])} images"
            raise InputError(
                "ipc", config.ipc, f"{has}, and {needed} are needed to start from; take fewer tiles, or --start noise"
            )


def check_precision(config: SetOptions, run: Run) -> None:
    """Refuse a precision in which the gradients of pixels vanish, or trajectories go elsewhere; see `check_matching`."""
    if isinstance(config, NetworkOptions):
        refuse_half_precision(run.dtype)
    if isinstance(config, (ExpertOptions, IgdConfig)):
        refuse_mixed_precision(run)
