"""RDED: the most realistic crops of real images, tiled into new ones (Sun et al., CVPR 2024).

    distill-hub make rded  # handwritten digits, offline, on a CPU
    distill-hub make rded --source imagewoof --image_size 224 --protocol rded-soft
    distill-hub make rded --num_processes 2

The same command again resumes an interrupted run. The set is the same, bit for bit, for any number of processes.
"""

from pathlib import Path

from distill_hub.config import launch
from distill_hub.options.rded import RdedConfig


def main(config: RdedConfig) -> Path | None:
    """Crop, select and tile the images of every class, label, package and score them."""
    from distill_hub.making.by_class import make_by_class
    from distill_hub.making.finish import package_and_score
    from distill_hub.making.start import set_up
    from distill_hub.methods import rded

    setup = set_up(config, rded.FACTS["name"])
    how = {
        "image_size": setup.image_size,
        "factor": rded.resolve_factor(config.factor, setup.image_size),
        "images_per_class": config.images_per_class,
    }
    rded.check(setup.source, ipc=config.ipc, **how)
    how |= {"num_crops": config.num_crops, "seed": config.seed}
    stage = make_by_class(setup, lambda label: rded.distill_class(setup.source, setup.teacher, label, config.ipc, **how))
    return package_and_score(setup, stage, setup.manifest(rded.FACTS, {"factor": how["factor"]}))


if __name__ == "__main__":
    launch(main, RdedConfig, __doc__)
