"""The side of the images that something is fitted to, where neither a user nor the images themselves say it."""

import dataclasses
from typing import TypeVar

from distill_hub.config import Dataclass
from distill_hub.data.sources import Source
from distill_hub.running.console import show
from distill_hub.running.machine import start_accelerator

SIZES = (32, 64, 128, 256)  # px
MOST_ON_A_CPU = 64
_Settings = TypeVar("_Settings", bound=Dataclass)


def with_size(config: _Settings, source: Source, field: str) -> _Settings:
    """Return the settings of a fit with a size in them; one that is chosen here is said on the main process.

    The source's own, where its images agree, is left to the fit unless it is more than `SIZES` go to, or no multiple of 16
    where a generator needs one. Else it is the largest of `SIZES` that the median shorter side allows, or 16 px below 24.

    Args:
        config: The settings.
        source: The images.
        field: The option: 'fit_image_size' of a generator, or 'image_size'.
    """
    own, step = source.image_size, 16 if field == "fit_image_size" else 1
    if getattr(config, field) or (own and own <= SIZES[-1] and own % step == 0):
        return config
    accelerator, median = start_accelerator(), source.median_side
    allowed = [size for size in SIZES if size <= median] or [SIZES[0] if median >= 24 else 16]
    size = min(allowed[-1], MOST_ON_A_CPU) if accelerator.device.type == "cpu" else allowed[-1]
    if accelerator.is_main_process:
        why = f", the most on a CPU; --{field}" if size < allowed[-1] else f"; --{field}"
        show(f"The images become squares of {size} px (their shorter side has {median} px, median){why} names another size.")
    return dataclasses.replace(config, **{field: size})
