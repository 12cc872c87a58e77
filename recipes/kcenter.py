"""K-Center: real images that leave none of their class far away (Sener and Savarese, 2018).

    distill-hub make kcenter  # handwritten digits, offline, on a CPU
    distill-hub make kcenter --source cifar10 --teacher path/to/classifier --ipc 50
    distill-hub make kcenter --num_processes 2

The embeddings are the teacher's: what its last layer sees.
"""

from pathlib import Path

from distill_hub.config import launch
from distill_hub.options.coresets import EmbeddingCoresetConfig


def main(config: EmbeddingCoresetConfig) -> Path | None:
    """Choose the images of every class that cover it, label, package and score them."""
    from distill_hub.coresets.facts import K_CENTER
    from distill_hub.coresets.select import k_center
    from distill_hub.making.by_class import choose_by_embedding
    from distill_hub.making.finish import package_and_score
    from distill_hub.making.start import set_up

    setup = set_up(config, K_CENTER["name"])
    stage = choose_by_embedding(setup, k_center)
    return package_and_score(setup, stage, setup.manifest(K_CENTER))


if __name__ == "__main__":
    launch(main, EmbeddingCoresetConfig, __doc__)
