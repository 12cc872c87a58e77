"""The side of the images that something is fitted to, where neither a user nor the images themselves say it."""

import dataclasses
from typing import TypeVar

from distill_hub.config import Dataclass
from distill_hub.data.images import SIDES, chosen_side, side_for
from distill_hub.data.sources import Source
from distill_hub.running.console import show
from distill_hub.running.machine import start_accelerator

MOST_ON_A_CPU = 64  # px
_Settings = TypeVar("_Settings", bound=Dataclass)


def with_size(config: _Settings, source: Source, field: str) -> _Settings:
    """Return the settings of a fit with a size in them; one that is chosen here is said on the main process.

    The source's own, where its images agree, is left to the fit unless it is more than `SIDES` go to, or no multiple of 16
    where a generator needs one. Else it is `side_for` the median shorter side.

    Args:
        config: The settings.
        source: The images.
        field: The option: 'fit_image_size' of a generator, or 'image_size'.
    """
    own, step = source.image_size, 16 if field == "fit_image_size" else 1
    if getattr(config, field) or (own and own <= SIDES[-1] and own % step == 0):
        return config
    accelerator, median = start_accelerator(), source.median_side
    allowed = side_for(median)
    size = min(allowed, MOST_ON_A_CPU) if accelerator.device.type == "cpu" else allowed
    if accelerator.is_main_process:
        show(chosen_side(size, median, field, ", the most on a CPU" if size < allowed else ""))
    return dataclasses.replace(config, **{field: size})
