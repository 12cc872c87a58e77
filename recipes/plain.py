"""Plain samples of a generator, the baseline of the generative methods.

    distill-hub make plain  # handwritten digits, offline, on a CPU
    distill-hub make plain --source imagenette --ipc 50

The set and its citation are those of the generator: a diffusion transformer (DiT) unless --generator says otherwise. This is
the recipe cao2 without its two stages.
"""

from pathlib import Path

from distill_hub.config import launch
from distill_hub.options.plain import PlainConfig


def main(config: PlainConfig) -> Path | None:
    """Draw IPC samples of every class, label, package and score them."""
    from distill_hub.making.finish import package_and_score
    from distill_hub.making.generated import set_up_generator

    setup = set_up_generator(config, None)
    samples = setup.draw(config.ipc)
    return package_and_score(setup, samples, setup.manifest(setup.generator.facts.method))


if __name__ == "__main__":
    launch(main, PlainConfig, __doc__)
