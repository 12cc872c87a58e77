"""GLaD: a generator's latents are matched in place of pixels (Cazenavette et al., 2023).

    distill-hub make glad --ipc 1  # handwritten digits, offline, on a CPU
    distill-hub make glad --under dc
    distill-hub make glad --refine_steps 100 --protocol kd  # and Pool-Select-Refine's refinement after it
    distill-hub make glad --source imagewoof --ipc 10 --decode_batch_size 2
    distill-hub make glad --num_processes 2

The latents are those of the generator's VAE, not of StyleGAN-XL, whose weights are pickles. The same command again resumes
an interrupted run. The set is the same, bit for bit, for any number of processes.
"""

from pathlib import Path

from distill_hub.config import launch
from distill_hub.options.glad import GladConfig


def main(config: GladConfig) -> Path | None:
    """Encode real images, match what their latents decode to, label, refine on request, package and score."""
    from distill_hub.making.finish import package_and_score
    from distill_hub.making.generated import set_up_generator
    from distill_hub.making.matched import match_latents_by_class
    from distill_hub.matching import glad
    from distill_hub.methods import psr
    from distill_hub.methods.losses import loss_note

    setup = set_up_generator(config, "glad")
    rules = glad.rules_of(config, setup.image_size, setup.source, setup.run.dtype)
    stage = match_latents_by_class(setup, rules)
    notes = {**loss_note(stage), "differs_from_the_paper": glad.DIFFERS}
    if config.refine_steps:
        made_from = {**setup.made_from, "matched": stage.sha256}
        stage = psr.refine_set(
            setup.run, setup.generator, setup.teacher, stage, range(len(stage)), setup.labels, setup.class_ids, config,
            config.seed, made_from,
        )  # fmt: skip
        notes |= psr.loss_notes(stage, config)
    return package_and_score(setup, stage, setup.manifest(glad.FACTS, notes))


if __name__ == "__main__":
    launch(main, GladConfig, __doc__)
