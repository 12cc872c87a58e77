"""Herding: real images whose mean embedding is that of their class (Welling, 2009).

    distill-hub make herding  # handwritten digits, offline, on a CPU
    distill-hub make herding --source cifar10 --teacher path/to/classifier --ipc 50
    distill-hub make herding --num_processes 2

The embeddings are the teacher's: what its last layer sees.
"""

from pathlib import Path

from distill_hub.config import launch
from distill_hub.options.coresets import CoresetConfig


def main(config: CoresetConfig) -> Path | None:
    """Choose the images of every class that keep its mean, label, package and score them."""
    from distill_hub.making.by_class import choose_by_embedding
    from distill_hub.making.finish import package_and_score
    from distill_hub.making.start import set_up
    from distill_hub.methods import coresets

    setup = set_up(config, coresets.HERDING["name"])
    stage = choose_by_embedding(setup, coresets.herding)
    return package_and_score(setup, stage, setup.manifest(coresets.HERDING))


if __name__ == "__main__":
    launch(main, CoresetConfig, __doc__)
