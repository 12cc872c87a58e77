"""D4M: prototypes of the real images, noised and denoised again by a generator (Su et al., CVPR 2024).

    distill-hub make d4m  # handwritten digits, offline, on a CPU
    distill-hub make d4m --source imagenette --ipc 10 --protocol fkd
    distill-hub make d4m --num_processes 2

Nothing is trained. The plain samples beside the set have the same noise, and no prototype. The same command again resumes
an interrupted run. The set is the same, bit for bit, for any number of processes.
"""

from pathlib import Path

from distill_hub.config import launch
from distill_hub.options.d4m import D4mConfig


def main(config: D4mConfig) -> Path | None:
    """Find prototypes, noise and denoise them, label, package and score."""
    from distill_hub.guidance import d4m
    from distill_hub.making.finish import package_and_score
    from distill_hub.making.generated import set_up_generator
    from distill_hub.making.guided import distances, draw_guided, find_modes
    from distill_hub.making.pictures import guidance

    setup = set_up_generator(config, "d4m")

    # Prototype learning: as many of a class as it gets images.
    def find(mean, std, seed):
        return d4m.prototypes(mean, std, config.ipc, seed, batch_size=config.km_expand * config.ipc)

    prototypes = find_modes(setup, find, {"km_expand": config.km_expand})

    # Synthesis: image j of a class from its prototype j.
    plain = setup.draw(config.ipc, keep=["latents"])
    made = draw_guided(setup, plain, prototypes, lambda own: {"start": own, "strength": config.strength})

    notes = {"distance_to_the_prototypes": distances(prototypes, plain=plain, guided=made)}
    pictures = {"guidance": guidance(setup, plain, made)}
    return package_and_score(setup, made, setup.manifest(d4m.FACTS, notes), pool=plain, pictures=pictures)


if __name__ == "__main__":
    launch(main, D4mConfig, __doc__)
