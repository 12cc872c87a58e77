"""A generator that was fine-tuned in phases: one network for all classes, and for each group of them its trained weights.

The released code of Minimax Diffusion leaves a whole network per phase. DiffFit trains 1.7 million of DiT-XL/2's 675 million
weights, and those alone are kept of each phase here, beside one network.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from distill_hub.config import InputError, refusing
from distill_hub.generators.known import PHASES

NO_GROUP = "the generator was tuned in groups of classes, and no class says no group; valid: true"
_PHASE_OF = "phase"


class Phases(nn.Module):
    """Which phase a class belongs to, and the weights of each, on the CPU.

    Args:
        phase: (C,) phase of every class of the generator, in [0, P); -1: none.
        weights: (P, ...) of every trained parameter, by its name.
    """

    def __init__(self, phase: torch.Tensor, weights: Mapping[str, torch.Tensor]):
        super().__init__()
        self._names = sorted(weights)
        self._phase_of = phase.tolist()
        self.register_buffer(_PHASE_OF, phase)
        for place, name in enumerate(self._names):
            self.register_buffer(f"weights_{place}", weights[name])

    @property
    def classes(self) -> frozenset[int]:
        """The classes that belong to a phase, by their ids."""
        return frozenset(id for id, phase in enumerate(self._phase_of) if phase >= 0)

    def split(self, class_ids: Sequence[int | None]) -> dict[int, list[int]]:
        """Return the rows of each phase that some classes belong to.

        Raises:
            InputError: Where there is no class, or one that belongs to none.
        """
        rows: dict[int, list[int]] = {}
        for row, id in enumerate(class_ids):
            if id is None:
                raise InputError("condition", "null", NO_GROUP)
            if self._phase_of[id] < 0:
                raise InputError(
                    "source", id, "the generator, tuned in groups of classes, was not tuned on this one of its own"
                )
            rows.setdefault(self._phase_of[id], []).append(row)
        return rows

    def weights(self, phase: int, like: nn.Module) -> dict[str, torch.Tensor]:
        """Return the weights of a phase, by name, where and as precise as those of a network."""
        first = next(like.parameters())
        named = ((name, getattr(self, f"weights_{place}")[phase]) for place, name in enumerate(self._names))
        return {name: weights.to(first.device, first.dtype) for name, weights in named}

    def save(self, folder: Path) -> None:
        """Write them beside the pipeline in a folder."""
        named = {name: getattr(self, f"weights_{place}").contiguous() for place, name in enumerate(self._names)}
        save_file({**named, _PHASE_OF: self.phase}, folder / PHASES)


def read_phases(folder: Path, parameters: Mapping[str, nn.Parameter], classes: int, name: str) -> Phases:
    """Read the phases of a generator.

    Args:
        folder: Of the generator.
        parameters: Those of its network that are tuned, by name; see `difffit.prepare`.
        classes: How many it has.
        name: What the user called it.

    Raises:
        InputError: When they are not those of this network.
    """
    with refusing((OSError, SafetensorError), "generator", name, f"its {PHASES} cannot be read"):
        weights = load_file(folder / PHASES)
    phase = weights.pop(_PHASE_OF, torch.empty(0))
    count = next(iter(weights.values())).shape[:1].numel() if weights else 0
    needed = {key: (count, *parameter.shape) for key, parameter in parameters.items()}
    fits = {key: tuple(tensor.shape) for key, tensor in weights.items()} == needed
    whole = phase.dtype == torch.int64 and phase.shape == (classes,) and bool(((phase >= -1) & (phase < count)).all())
    if not (fits and whole and all(tensor.isfinite().all() for tensor in weights.values())):
        raise InputError("generator", name, f"its {PHASES} holds others than the weights that a fine-tuning trains in it")
    return Phases(phase, weights)
