"""SRe2L: images whose features have a trained network's BatchNorm statistics, optimised from noise (Yin et al., 2023).

    distill-hub make sre2l                         # handwritten digits, offline, on a CPU
    distill-hub make sre2l --crop_schedule cosine  # CDA (Yin and Shen, 2024): crops from easy to hard
    distill-hub make fit_classifier --source cifar10 --network resnet-18-bn --output_dir outputs/cifar10-teacher
    distill-hub make sre2l --source cifar10 --teacher outputs/cifar10-teacher --protocol sre2l
    distill-hub make sre2l --num_processes 2

The same command again resumes an interrupted run.
"""

from pathlib import Path

from distill_hub.config import launch
from distill_hub.options.sre2l import Sre2lConfig


def main(config: Sre2lConfig) -> Path | None:
    """Recover images, label, package and score."""
    import torch

    from distill_hub.making.finish import package_and_score
    from distill_hub.making.start import set_up
    from distill_hub.methods.candidates import keep
    from distill_hub.methods.losses import loss_note
    from distill_hub.recovery import sre2l
    from distill_hub.recovery.recover import Objective, recover_set

    facts = sre2l.FACTS if config.crop_schedule == "fixed" else sre2l.CDA
    setup = set_up(config, facts["name"], batch_norm=True)
    names = setup.source.class_names

    def objectives(labels: torch.Tensor) -> list[Objective]:
        weights = {"weight": config.statistics_weight, "first_layer_weight": config.first_layer_weight}
        return [sre2l.statistics_objective(setup.teacher, labels, 1, **weights)]

    # A batch holds each class at most once, so that its statistics can be those of all classes.
    items = [(label, index) for index in range(config.ipc) for label in range(len(names))]
    batch = {
        "chunk_size": min(len(names), config.recover_batch_size),
        "size": setup.image_size,
        "mirrored": setup.source.mirrored,
    }
    batch |= {"made_from": setup.made_from, "lower": "a smaller --recover_batch_size"}
    recovered = recover_set(setup.run, setup.teacher, names, items, objectives, config, **batch)
    by_class = [index * len(names) + label for label in range(len(names)) for index in range(config.ipc)]
    selected = keep(setup.run, recovered, by_class)
    manifest = setup.manifest(facts, loss_note(recovered))
    return package_and_score(setup, selected, manifest)


if __name__ == "__main__":
    launch(main, Sre2lConfig, __doc__)
