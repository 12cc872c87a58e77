"""The space that pixels are optimised in, and what of them is published.

In the papers' codes pixels are free numbers, in normalised or in whitened space. Here they are in the units of an image, 0
black and 1 white, and by default clamped, so that the stored image is the set. Free ones are published as they are,
float16, beside their picture, and so are whitened ones.
"""

from dataclasses import dataclass

import torch

from distill_hub.augmentation.zca import Zca
from distill_hub.config import InputError
from distill_hub.data.known import RGB
from distill_hub.matching.pixels import to_uint8


@dataclass(frozen=True)
class Space:
    """Where pixels live.

    Attributes:
        mean: Of the normalisation that networks see the pixels through, per channel; of whitened ones 0.
        std: Of the same; of whitened ones 1.
        free: Whether nothing bounds them; else to [0, 1].
        zca: Whitens images; None: pixels are in the units of an image.
    """

    mean: RGB
    std: RGB
    free: bool = False
    zca: Zca | None = None

    def of(self, images: torch.Tensor) -> torch.Tensor:
        """Bring images (N, 3, S, S), uint8 or float in [0, 1], into this space: they stay, or are whitened, float32."""
        return self.zca.whiten(images).to(images.device) if self.zca else images

    def published(self, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return what a set holds of pixels (N, 3, S, S), on the CPU: `images`, uint8, and free ones as `pixels`, float16.

        Raises:
            InputError: When free pixels do not fit into half precision.
        """
        if not self.free:
            return {"images": to_uint8(pixels)}
        half = pixels.detach().half()
        if not half.isfinite().all():
            most = float(pixels.detach().abs().max())
            valid = f"a value of {most:.3g} does not fit into half precision; a smaller learning rate, or clamped, is needed"
            raise InputError("pixels", "zca" if self.zca else "free", valid)
        seen = self.zca.restore(half.float()) if self.zca else half.float()
        return {"images": to_uint8(seen), "pixels": half.cpu()}
