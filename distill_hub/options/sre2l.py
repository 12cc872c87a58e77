"""Options of SRe2L."""

from dataclasses import dataclass

from distill_hub.config import option
from distill_hub.kinds import PositiveInt
from distill_hub.options.recovery import StatisticsOptions


@dataclass(frozen=True)
class Sre2lConfig(StatisticsOptions):
    """SRe2L: align batches of different classes with the teacher's BatchNorm statistics."""

    recover_batch_size: PositiveInt = option(100, "most images of a batch, one per class")
