"""DC and DSA: images whose gradients in networks are those of the real images (Zhao et al., 2021; Zhao and Bilen, 2021).

    distill-hub make dc --ipc 1  # DSA on handwritten digits, offline, on a CPU
    distill-hub make dc --augment none  # DC: without augmentation, and from noise
    distill-hub make dc --config cifar10/dsa.yaml

The same command again resumes an interrupted run. Classes depend on each other, so that one process distils them all; the
others help with the students.
"""

import dataclasses
from pathlib import Path

from distill_hub.config import launch
from distill_hub.options.dc import DcConfig


def main(config: DcConfig) -> Path | None:
    """Match the images of all classes with real ones, label, package and score them."""
    from distill_hub.making.finish import package_and_score
    from distill_hub.making.matched import match_together
    from distill_hub.making.start import set_up
    from distill_hub.matching import dc
    from distill_hub.methods.losses import loss_note

    facts = dc.DSA if config.augment == "dsa" else dc.DC
    config = dataclasses.replace(config, start=config.start or ("real" if config.augment == "dsa" else "noise"))
    setup = set_up(config, facts["name"])
    space = setup.space()
    rules = dc.rules_of(config, setup.image_size, setup.source, space, setup.run.dtype)
    stage = match_together(setup, rules.steps, dc.match, rules, space)
    return package_and_score(setup, stage, setup.manifest(facts, loss_note(stage)), space=space)


if __name__ == "__main__":
    launch(main, DcConfig, __doc__)
