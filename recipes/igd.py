"""IGD: samples pull a network's weights where real images do, and keep away from each other (Chen et al., ICLR 2025).

    distill-hub make igd  # handwritten digits, offline, on a CPU
    distill-hub make igd --refine_steps 100 --protocol kd  # and Pool-Select-Refine's refinement after it
    distill-hub make igd --source imagewoof --ipc 50 --guidance_scale 4
    distill-hub make igd --num_processes 2

The generator is not trained; a small network is, on the real images. The same command again resumes an interrupted run. The
set is the same, bit for bit, for any number of processes.
"""

from pathlib import Path

from distill_hub.config import launch
from distill_hub.options.igd import IgdConfig


def main(config: IgdConfig) -> Path | None:
    """Train a surrogate, draw guided samples, refine on request, label, package and score."""
    from distill_hub.guidance import igd
    from distill_hub.making.finish import package_and_score
    from distill_hub.making.generated import set_up_generator
    from distill_hub.making.influence import Surrogate, draw_guided, notes_of
    from distill_hub.making.pictures import guidance, refinement
    from distill_hub.methods import psr

    setup = set_up_generator(config, "igd", kinds=("dit", "text"))
    pool = setup.draw(config.ipc, keep=["latents"])
    guided, epochs = draw_guided(setup, Surrogate(setup), pool)
    notes, pictures, stage = notes_of(setup, guided, epochs), {"guidance": guidance(setup, pool, guided)}, guided
    if config.refine_steps:
        made_from = {**setup.made_from, "guided": guided.sha256}
        stage = psr.refine_set(
            setup.run, setup.generator, setup.teacher, guided, range(len(guided)), setup.labels, setup.class_ids, config,
            config.seed, made_from,
        )  # fmt: skip
        notes |= psr.loss_notes(stage, config)
        pictures["refinement"] = refinement(setup, guided, range(len(guided)), stage)
    return package_and_score(setup, stage, setup.manifest(igd.FACTS, notes), pool=pool, pictures=pictures)


if __name__ == "__main__":
    launch(main, IgdConfig, __doc__)
