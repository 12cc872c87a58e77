"""K-Center: real images that leave none of their class far away (Sener and Savarese, 2018).

    distill-hub make kcenter  # handwritten digits, offline, on a CPU
    distill-hub make kcenter --source cifar10 --teacher path/to/classifier --ipc 50
    distill-hub make kcenter --num_processes 2

The embeddings are the teacher's: what its last layer sees.
"""

from pathlib import Path

from distill_hub.config import launch
from distill_hub.options.coresets import CoresetConfig


def main(config: CoresetConfig) -> Path | None:
    """Choose the images of every class that cover it, label, package and score them."""
    from distill_hub.making.by_class import choose_by_embedding
    from distill_hub.making.finish import package_and_score
    from distill_hub.making.start import set_up
    from distill_hub.methods import coresets

    setup = set_up(config, coresets.K_CENTER["name"])
    stage = choose_by_embedding(setup, coresets.k_center)
    return package_and_score(setup, stage, setup.manifest(coresets.K_CENTER))


if __name__ == "__main__":
    launch(main, CoresetConfig, __doc__)
