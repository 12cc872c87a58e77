"""Sets made one class after the other."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from distill_hub.coresets.embed import embed
from distill_hub.making.start import Setup
from distill_hub.running.run import Stage


def make_by_class(
    setup: Setup,
    make: Callable[[int], dict[str, torch.Tensor]],
    stage: str = "select",
    made_from: Mapping[str, Any] | None = None,
) -> Stage:
    """Make a set, a class per chunk of work, and let the teacher label it.

    Args:
        setup: What the recipe works with.
        make: From the position of a class to images, uint8 (IPC, 3, S, S), their seeds, int64 (IPC,), and what else is to be
            known of each of them.
        stage: Name of the stage.
        made_from: What the images depend on, see `Run.map`; default: all that those of the set do.

    Returns:
        The set, for `package_and_score`.
    """

    def distil(labels: Sequence[int]) -> dict[str, torch.Tensor]:
        made = make(labels[0])
        return {**made, "logits": setup.logits(made["images"])}

    how = {"made_from": made_from or setup.made_from, "whole": True, "lower": "a smaller --image_size"}
    return setup.run.map(stage, setup.labels, distil, chunk_size=setup.config.ipc, **how)


def choose_by_class(
    setup: Setup, choose: Callable[[int], torch.Tensor], made_from: Mapping[str, Any] | None = None
) -> Stage:
    """Make a set of real images as they are; see `make_by_class`. The seed of each is its row in the training split.

    Args:
        setup: What the recipe works with.
        choose: From the position of a class to IPC indices, int64, into its images in the order of the training split.
        made_from: See `make_by_class`.
    """
    train = setup.source.train

    def make(label: int) -> dict[str, torch.Tensor]:
        rows = train.by_class[label][choose(label).numpy()]
        return {"images": train.pixels(rows, setup.image_size), "seeds": torch.from_numpy(rows)}

    return make_by_class(setup, make, made_from=made_from)


def choose_by_embedding(setup: Setup, select: Callable[[torch.Tensor, int], torch.Tensor]) -> Stage:
    """Make a set of real images that are chosen by the teacher's embeddings; see `choose_by_class`.

    Args:
        setup: What the recipe works with, `EmbeddingCoresetConfig` among it.
        select: From the embeddings of a class, (N, D), and IPC to indices, e.g. `coresets.select.herding`.
    """
    how = {"image_size": setup.image_size, "batch_size": setup.config.embed_batch_size}
    embeddings = embed(setup.run, setup.source, setup.teacher, setup.teacher_record.sha256, **how)
    return choose_by_class(setup, lambda label: select(embeddings(label), setup.config.ipc))
