"""Options of Pool-Select-Refine."""

from dataclasses import dataclass
from typing import Literal

from distill_hub.config import InputError, option
from distill_hub.kinds import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from distill_hub.options.shared import SampleOptions


@dataclass(frozen=True)
class RefineOptions:
    """Refinement: latents move by the generator's loss and the teacher's soft labels."""

    temperature: PositiveFloat = option(1.5, "tau of the teacher's probabilities")
    refine_steps: NonNegativeInt = option(100, "L, gradient steps per image; 0 skips the refinement", common=True)
    refine_learning_rate: PositiveFloat = option(0.01, "eta, of plain gradient descent on the latents")
    denoising_reduction: Literal["sum", "mean"] = option(
        "sum", "of the squared errors in L_LDM: their sum, as Eq. 3 prints it, or their mean, as its text says"
    )
    kl_steps: NonNegativeInt = option(4, "R, last steps in which the soft label takes part")
    kl_weight: NonNegativeFloat = option(0.5, "lambda in Eq. 10")
    kl_weight_min: NonNegativeFloat = option(0.1, "w_min in Eq. 10, of a candidate the teacher is sure of")
    kl_weight_max: NonNegativeFloat = option(2.0, "w_max in Eq. 10, of one it does not believe")
    refine_batch_size: PositiveInt = option(64, "latents per chunk of work, across classes")

    def check_settings(self) -> None:
        """Refuse weights of which the least is above the largest."""
        if self.kl_weight_min > self.kl_weight_max:
            raise InputError("kl_weight_min", self.kl_weight_min, f"at most kl_weight_max, {self.kl_weight_max}, is needed")


@dataclass(frozen=True)
class PsrConfig(RefineOptions, SampleOptions):
    """Pool-Select-Refine: select reliable, certain and diverse samples, then refine their latents with soft labels."""

    pool_factor: PositiveInt = option(2, "pool of pool_factor * IPC candidates per class", common=True)
    pool_size: PositiveInt | None = option(None, "candidates per class, instead of pool_factor * IPC; at least IPC")
    selection: Literal["score", "kmeans", "kcenter"] = option(
        "score", "what is chosen by: Eq. 8, or what it is compared with, K-Means or K-Center on the teacher's embeddings"
    )
    unfiltered: bool = option(False, "choose from candidates that the teacher takes for another class, too")
    unnormalized: bool = option(False, "take the terms of Eq. 8 as they are, not scaled to [0, 1] over the pool")
    reliability_weight: NonNegativeFloat | None = option(None, "alpha in Eq. 8; default: 3 up to IPC 10, 1, 0.5 from IPC 50")
    entropy_weight: NonNegativeFloat | None = option(None, "beta in Eq. 8; default: 1")
    diversity_weight: NonNegativeFloat | None = option(None, "gamma in Eq. 8; default: 0.5 up to IPC 10, 1, 3 from IPC 50")

    def check_settings(self) -> None:
        """Refuse a pool that is smaller than the set."""
        if self.pool_size is not None and self.pool_size < self.ipc:
            raise InputError("pool_size", self.pool_size, f"at least IPC, {self.ipc}, is needed")
