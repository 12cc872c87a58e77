"""Minimax Diffusion: fine-tune the generator for representative and diverse samples, then sample (Gu et al., CVPR 2024).

    distill-hub make minimax                            # handwritten digits, offline, on a CPU
    distill-hub make minimax --lambda_r 0 --lambda_d 0  # the DiffFit baseline
    distill-hub make minimax --mixed_precision bf16 --config imagewoof/minimax.yaml
    distill-hub make minimax --num_processes 2

The same command again resumes an interrupted run, its fine-tuning from the last checkpoint. The tuned generator is left in
<output>/generator, for `--generator` of this and every other recipe: it serves sets of any number of images per class.
"""

from pathlib import Path

from distill_hub.config import launch
from distill_hub.options.minimax import MinimaxConfig


def main(config: MinimaxConfig) -> Path | None:
    """Fine-tune, sample with the averaged weights, label, package and score."""
    from distill_hub.generators import difffit
    from distill_hub.making.finish import package_and_score
    from distill_hub.making.generated import set_up_generator
    from distill_hub.making.tuned import fine_tune
    from distill_hub.methods import minimax

    facts = minimax.FACTS if config.lambda_r or config.lambda_d else difffit.FACTS
    base = set_up_generator(config, facts["name"], kinds=["dit"])
    setup = fine_tune(base, facts)
    samples = setup.draw(config.ipc)
    baselines = {}
    if setup is not base and config.score == "yes":
        baselines[base.plain] = base.plain_samples(base.draw(config.ipc, "plain"))
    return package_and_score(setup, samples, setup.manifest(facts), baselines=baselines)


if __name__ == "__main__":
    launch(main, MinimaxConfig, __doc__)
