"""Options of plain samples, and of every method that selects among samples of a generator."""

from dataclasses import dataclass

from distill_hub.config import option
from distill_hub.kinds import PositiveInt
from distill_hub.options.shared import GeneratorFitOptions, GeneratorOptions, SetOptions


@dataclass(frozen=True)
class DitConfig(GeneratorFitOptions, GeneratorOptions, SetOptions):
    """Distillation: plain samples of a class-conditional diffusion transformer."""

    sample_batch_size: PositiveInt = option(64, "samples per chunk of work, across classes")
