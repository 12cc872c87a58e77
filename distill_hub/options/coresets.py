"""Options of the coresets: herding and K-Center."""

from dataclasses import dataclass

from distill_hub.config import option
from distill_hub.kinds import PositiveInt
from distill_hub.options.shared import PixelOptions


@dataclass(frozen=True)
class CoresetConfig(PixelOptions):
    """Coreset: real images, chosen by the teacher's embeddings."""

    embed_batch_size: PositiveInt = option(256, "real images that the teacher embeds at a time")
