"""IDC: images, several in one, whose gradients are those of real images of their class (Kim et al., 2022).

    distill-hub make idc --ipc 1  # handwritten digits, offline, on a CPU; 2 x 2 tiles in each image
    distill-hub make idc --ipc 1 --factor 1  # IDC-1: images are what they are
    distill-hub make idc --source cifar10 --protocol idc-hard --sampler dream  # DREAM
    distill-hub make idc --num_processes 2 --classes_at_a_time 5

The same command again resumes an interrupted run. The set is the same, bit for bit, for any number of processes.
"""

from pathlib import Path

from distill_hub.config import launch
from distill_hub.options.idc import IdcConfig


def main(config: IdcConfig) -> Path | None:
    """Match the images of every class with real ones, label, package and score them."""
    from distill_hub.making.finish import package_and_score
    from distill_hub.making.start import set_up
    from distill_hub.making.trained import match_in_trained
    from distill_hub.matching import idc
    from distill_hub.methods.losses import loss_note

    facts = idc.DREAM if config.sampler == "dream" else idc.FACTS
    setup = set_up(config, f"{facts['name']}-1" if config.factor == 1 else facts["name"])
    rules = idc.rules_of(config, setup.image_size, setup.source, setup.tiles, setup.run.dtype)
    objective = idc.gradient_distance(idc.distance_of(config, setup.image_size, setup.source))
    how = {"start": config.start, "classes_at_a_time": config.classes_at_a_time}
    stage = match_in_trained(setup, rules, objective, **how)
    return package_and_score(setup, stage, setup.manifest(facts, loss_note(stage)))


if __name__ == "__main__":
    launch(main, IdcConfig, __doc__)
