"""DM: images whose mean embedding in random networks is that of the real images of their class (Zhao and Bilen, 2023).

    distill-hub make dm --ipc 1  # handwritten digits, offline, on a CPU
    distill-hub make dm --source cifar10 --protocol dsa-hard
    distill-hub make dm --source imagewoof --image_size 224 --networks trained --protocol idc-hard
    distill-hub make dm --num_processes 2

The same command again resumes an interrupted run. The set is the same, bit for bit, for any number of processes.
"""

from pathlib import Path

from distill_hub.config import launch
from distill_hub.options.dm import DmConfig


def main(config: DmConfig) -> Path | None:
    """Match the images of every class with real ones, label, package and score them."""
    from distill_hub.making.finish import package_and_score
    from distill_hub.making.matched import match_by_class
    from distill_hub.making.start import set_up
    from distill_hub.making.trained import match_in_trained
    from distill_hub.matching import dm, idc
    from distill_hub.methods.losses import loss_note

    setup = set_up(config, "dm" if config.networks == "random" else "dm-trained")
    space, how = setup.space(), (config, setup.image_size, setup.source)
    if config.networks == "random":
        rules = dm.rules_of(*how, space, setup.run.dtype)
        stage = match_by_class(setup, rules.steps, dm.match, rules, space)
    else:
        stage = match_in_trained(setup, idc.rules_for_features(*how, setup.run.dtype), idc.feature_distance)
    return package_and_score(setup, stage, setup.manifest(dm.FACTS, loss_note(stage)), space=space)


if __name__ == "__main__":
    launch(main, DmConfig, __doc__)
