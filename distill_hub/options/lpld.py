"""Options of LPLD."""

from dataclasses import dataclass

from distill_hub.options.recovery import ClassOptions, StatisticsOptions


@dataclass(frozen=True)
class LpldConfig(ClassOptions, StatisticsOptions):
    """LPLD: align batches of one class with that class's BatchNorm statistics."""
