"""Options of D4M."""

from dataclasses import dataclass
from typing import Annotated

from distill_hub.config import option
from distill_hub.kinds import PositiveInt
from distill_hub.options.shared import SampleOptions


@dataclass(frozen=True)
class D4mConfig(SampleOptions):
    """D4M: prototypes of the real images, noised and denoised again."""

    strength: Annotated[float, (">", 0), ("<=", 1)] = option(
        0.7,
        "share of the denoising steps that a prototype is noised for, or of its tokens that a MAR draws anew (code: 0.7)",
        common=True,
    )
    km_expand: PositiveInt = option(
        1, "a mini-batch of the clustering holds km_expand * IPC latents (released script, ImageNet-1K at IPC 10: 1)"
    )
    encode_batch_size: PositiveInt = option(64, "real images that are encoded at a time")
