"""Herding: real images whose mean embedding is that of their class (Welling, 2009).

    distill-hub make herding  # handwritten digits, offline, on a CPU
    distill-hub make herding --source cifar10 --teacher path/to/classifier --ipc 50
    distill-hub make herding --num_processes 2

The embeddings are the teacher's: what its last layer sees.
"""

from pathlib import Path

from distill_hub.config import launch
from distill_hub.options.coresets import EmbeddingCoresetConfig


def main(config: EmbeddingCoresetConfig) -> Path | None:
    """Choose the images of every class that keep its mean, label, package and score them."""
    from distill_hub.coresets.facts import HERDING
    from distill_hub.coresets.select import herding
    from distill_hub.making.by_class import choose_by_embedding
    from distill_hub.making.finish import package_and_score
    from distill_hub.making.start import set_up

    setup = set_up(config, HERDING["name"])
    stage = choose_by_embedding(setup, herding)
    return package_and_score(setup, stage, setup.manifest(HERDING))


if __name__ == "__main__":
    launch(main, EmbeddingCoresetConfig, __doc__)
