"""Options of the coresets: herding and K-Center."""

from dataclasses import dataclass

from distill_hub.config import option
from distill_hub.kinds import PositiveInt
from distill_hub.networks.names import check_one_teacher
from distill_hub.options.shared import PixelOptions


@dataclass(frozen=True)
class CoresetConfig(PixelOptions):
    """Coreset: real images, chosen by the teacher's embeddings."""

    embed_batch_size: PositiveInt = option(256, "real images that the teacher embeds at a time")

    def check_settings(self) -> None:
        """Refuse several teachers."""
        check_one_teacher(self.teacher, "real images are chosen by one network's embeddings")
