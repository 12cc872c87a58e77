"""Options of plain samples: those of every method with a generator, and none of their own."""

from dataclasses import dataclass

from distill_hub.options.shared import SampleOptions


@dataclass(frozen=True)
class PlainConfig(SampleOptions):
    """Distillation: plain samples of a generator."""
