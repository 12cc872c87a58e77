"""MGD3: samples that are guided towards modes of the real images (Chan-Santiago et al., ICML 2025).

    distill-hub make mgd3  # handwritten digits, offline, on a CPU
    distill-hub make mgd3 --scheduler ddim --guidance_strength 0.3
    distill-hub make mgd3 --multi_gpu --source imagenette --ipc 50 --guidance_scale 4
    distill-hub make mgd3 --num_processes 2

Nothing is trained. The plain samples beside the set are drawn from the same noise. The same command again resumes an
interrupted run. The set is the same, bit for bit, for any number of processes.
"""

from pathlib import Path

from distill_hub.config import launch
from distill_hub.options.mgd3 import Mgd3Config


def main(config: Mgd3Config) -> Path | None:
    """Find modes, draw plain samples and guided ones, label, package and score."""
    from distill_hub.guidance import mgd3
    from distill_hub.guidance.modes import centres
    from distill_hub.making.finish import package_and_score
    from distill_hub.making.generated import set_up_generator
    from distill_hub.making.guided import distances, draw_guided, find_modes
    from distill_hub.making.pictures import guidance

    setup = set_up_generator(config, "mgd3")

    # Mode discovery: as many modes of a class as it gets images.
    def find(mean, std, seed):
        return centres(mean, config.ipc, seed, nearest=config.modes == "nearest", components=config.pca)

    modes = find_modes(setup, find, {"modes": config.modes, "pca": config.pca})

    # Mode guidance and stop guidance: image j of a class goes towards its mode j, for half of the steps.
    def towards(own):
        return {"guide": mgd3.Towards(own, config.guidance_strength, config.stop_fraction, setup.config.pulls_the_mean)}

    plain = setup.draw(config.ipc, keep=["latents"])
    guided = draw_guided(setup, plain, modes, towards)

    notes = {"distance_to_the_modes": distances(modes, plain=plain, guided=guided)}
    pictures = {"guidance": guidance(setup, plain, guided)}
    return package_and_score(setup, guided, setup.manifest(mgd3.FACTS, notes), pool=plain, pictures=pictures)


if __name__ == "__main__":
    launch(main, Mgd3Config, __doc__)
