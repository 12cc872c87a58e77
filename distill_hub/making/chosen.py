"""Sets that are chosen, class by class, from a pool of candidates."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from distill_hub.making.generated import GeneratorSetup
from distill_hub.running.run import Stage

CLASSES_AT_A_TIME = 8  # of which a process chooses; a class takes too short a time to be written down by itself


def choose_from_pool(
    setup: GeneratorSetup,
    pool: Stage,
    choose: Callable[[int], Mapping[str, torch.Tensor]],
    made_from: Mapping[str, Any] | None = None,
) -> tuple[list[int], dict[str, torch.Tensor]]:
    """Choose candidates of every class: the stage 'choose'. A process reads the pool of its own classes alone.

    Args:
        setup: What the recipe works with.
        pool: As many candidates of every class.
        choose: From the position of a class to `indices`, int64 (IPC,), among its candidates, and what else is to be known
            of it, of the same shapes for all classes.
        made_from: What it depends on beside the pool and what `Setup.made_from` has.

    Returns:
        Rows of the pool, in the order of the set; and what else is known, (C, ...) each.
    """
    count = len(setup.source.classes)

    def of_classes(labels: Sequence[int]) -> dict[str, torch.Tensor]:
        found = [choose(label) for label in labels]
        return {name: torch.stack([one[name] for one in found]) for name in found[0]}

    how = {"made_from": {**setup.made_from, "pool": pool.sha256, **(made_from or {})}, "chunk_size": CLASSES_AT_A_TIME}
    chosen = setup.run.map("choose", range(count), of_classes, **how)
    found = chosen.rows(0, count)
    firsts = torch.arange(0, len(pool), len(pool) // count)
    return (firsts[:, None] + found.pop("indices")).flatten().tolist(), found
