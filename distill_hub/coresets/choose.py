"""The rule of a coreset: how the images of a class are chosen by their embeddings, or by how difficult they are."""

from dataclasses import dataclass
from typing import Literal

import torch

from distill_hub.coresets.names import Difficulty
from distill_hub.coresets.select import by_difficulty, ccs, facility_location, herding, k_center, k_means
from distill_hub.running.seeds import cpu_generator


@dataclass(frozen=True)
class Rule:
    """How images are chosen; see `options.coresets.CoresetConfig`, where the defaults are."""

    method: str  # of `names.CORESETS`
    keep: Literal["hardest", "easiest"]
    difficulty: Difficulty
    cut: float
    strata: int
    el2n_epochs: int

    def choose(self, of_class: torch.Tensor, ipc: int, seed: int) -> torch.Tensor:
        """Choose images of one class.

        Args:
            of_class: Embeddings (N, D) for the methods of `names.OF_EMBEDDINGS`, else difficulties (N,).
            ipc: How many.
            seed: Of the starts of K-Means, and the draws of CCS.

        Returns:
            int64 (ipc,), distinct indices.

        Raises:
            InputError: When IPC is larger than N.
        """
        if self.method == "herding":
            return herding(of_class, ipc)
        if self.method == "kcenter":
            return k_center(of_class, ipc)
        if self.method == "facility-location":
            return facility_location(of_class, ipc)
        if self.method == "kmeans":
            return k_means(of_class, ipc, seed)
        if self.method == "ccs":
            return ccs(of_class, ipc, cpu_generator(seed), cut=self.cut, strata=self.strata)
        return by_difficulty(of_class, ipc, hardest=self.keep == "hardest")

    @property
    def score(self) -> Difficulty:
        """What difficulty is, for the methods of `names.OF_DYNAMICS`."""
        return self.difficulty if self.method == "ccs" else self.method
