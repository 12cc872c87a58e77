"""DiT: plain samples of a class-conditional diffusion transformer, the baseline of the generative methods.

    distill-hub make dit  # handwritten digits, offline, on a CPU
    distill-hub make dit --source imagenette --ipc 50

This is the recipe cao2 without its two stages.
"""

from pathlib import Path

from distill_hub.config import launch
from distill_hub.options.dit import DitConfig


def main(config: DitConfig) -> Path | None:
    """Draw IPC samples of every class, label, package and score them."""
    from distill_hub.generators.dit import FACTS
    from distill_hub.making.finish import package_and_score
    from distill_hub.making.start import set_up_generator

    setup = set_up_generator(config, "dit")
    samples = setup.draw(config.ipc)
    return package_and_score(setup, samples, setup.manifest(FACTS))


if __name__ == "__main__":
    launch(main, DitConfig, __doc__)
