"""Minimax Diffusion: fine-tune the generator for representative and diverse samples, then sample (Gu et al., CVPR 2024).

    accelerate launch recipes/minimax.py                             # handwritten digits, offline, on a CPU
    accelerate launch recipes/minimax.py --lambda_r 0 --lambda_d 0   # the DiffFit baseline
    accelerate launch --mixed_precision bf16 recipes/minimax.py --config recipes/configs/imagewoof/minimax.yaml
    ACCELERATE_USE_CPU=true torchrun --nproc_per_node 2 recipes/minimax.py

The same command again resumes an interrupted run, its fine-tuning from the last checkpoint. The tuned generator is left in
<output>/generator, for `--generator` of this and every other recipe: it serves sets of any number of images per class.
"""

from distill_hub.config import launch
from distill_hub.options import MinimaxConfig


def main(config: MinimaxConfig) -> None:
    """Fine-tune, sample with the averaged weights, label, package and score."""
    from distill_hub.generators import difffit
    from distill_hub.making.finish import package_and_score
    from distill_hub.making.start import set_up_generator
    from distill_hub.making.tuned import fine_tune
    from distill_hub.methods import minimax

    facts = minimax.FACTS if config.lambda_r or config.lambda_d else difffit.FACTS
    base = set_up_generator(config, facts["name"], kind="DiT")
    setup = fine_tune(base, facts)
    samples = setup.draw(config.ipc)
    baselines = {}
    if setup is not base:
        baselines[base.plain] = base.plain_samples(base.draw(config.ipc, "plain"))
    package_and_score(setup, samples, setup.manifest(facts), baselines=baselines)


if __name__ == "__main__":
    launch(main, MinimaxConfig, __doc__)
