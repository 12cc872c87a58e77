"""MTT: images on which students go where experts went on real ones (Cazenavette et al., 2022); TESLA, FTD and DATM.

    distill-hub make mtt --ipc 1  # handwritten digits, offline, on a CPU
    distill-hub make experts --source cifar10 --keep_epochs 22
    distill-hub make mtt --source cifar10 --experts outputs/cifar10-convnet-3-experts --protocol dsa-hard
    distill-hub make mtt --gradient truncated
    distill-hub make mtt --learn_labels --window_start 2 --window_end 50 --protocol dsa-soft

The same command again resumes an interrupted run, at the step it had come to.
"""

import dataclasses
from pathlib import Path

from distill_hub.config import launch
from distill_hub.options.mtt import MttConfig


def main(config: MttConfig) -> Path | None:
    """Open experts or train them, match their trajectories, label, package and score."""
    from distill_hub.making.experts import open_experts
    from distill_hub.making.finish import package_and_score
    from distill_hub.making.start import set_up
    from distill_hub.matching import mtt

    facts = mtt.facts_of(config)
    setup = set_up(config, facts["name"])
    setup = dataclasses.replace(setup, config=config.at(setup.image_size))
    space = setup.space()
    experts = open_experts(setup, space)
    stage = mtt.match_set(
        setup.run, setup.source, space, setup.teacher, experts.record.network, experts.weights, len(experts.record.experts),
        experts.record.epochs, setup.config, size=setup.image_size,
        made_from={**setup.made_from, "experts_sha256": experts.record.sha256},
    )  # fmt: skip
    manifest = setup.manifest(facts, mtt.notes_of(stage, setup.labels, config))
    whose = "learned" if config.learn_labels else "teacher"
    manifest = manifest.model_copy(update={"experts": experts.facts, "soft_labels": whose})
    return package_and_score(setup, stage, manifest, space=space)


if __name__ == "__main__":
    launch(main, MttConfig, __doc__)
