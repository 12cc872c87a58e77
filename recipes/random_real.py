"""Random real images: the baseline of all others (not `random.py`, which Python would take for its own module).

    distill-hub make random_real  # handwritten digits, offline, on a CPU
    distill-hub make random_real --source imagewoof --image_size 256 --ipc 50
    distill-hub make random_real --num_processes 2

With the same seed, a smaller set is a part of a larger one.
"""

from pathlib import Path

from distill_hub.config import launch
from distill_hub.options.shared import PixelOptions


def main(config: PixelOptions) -> Path | None:
    """Draw images of every class, label, package and score them."""
    from distill_hub.coresets.facts import RANDOM
    from distill_hub.coresets.select import draw
    from distill_hub.making.by_class import choose_by_class
    from distill_hub.making.finish import package_and_score
    from distill_hub.making.start import set_up
    from distill_hub.running.seeds import draw_seed

    setup = set_up(config, RANDOM["name"])
    source = setup.source

    def choose(label):
        count = len(source.train.by_class[label])
        return draw(count, config.ipc, draw_seed(config.seed, "random", source.classes[label].name))

    stage = choose_by_class(setup, choose)
    return package_and_score(setup, stage, setup.manifest(RANDOM))


if __name__ == "__main__":
    launch(main, PixelOptions, __doc__)
