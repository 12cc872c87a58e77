"""LPLD: images whose features have their class's BatchNorm statistics, optimised from noise (Xiao and He, 2024).

    distill-hub make lpld  # handwritten digits, offline, on a CPU
    distill-hub make lpld --source cifar10 --teacher outputs/cifar10-teacher --protocol sre2l

The paper's pruned labels are stored with `--label_share 0.025`, those of its successor LPQLD with `--top_k 50`, too.
"""

from pathlib import Path

from distill_hub.config import launch
from distill_hub.options.lpld import LpldConfig


def main(config: LpldConfig) -> Path | None:
    """Measure the classes' statistics, recover images, label, package and score."""
    import torch

    from distill_hub.making.finish import package_and_score
    from distill_hub.making.start import set_up
    from distill_hub.methods.losses import loss_note
    from distill_hub.recovery import sre2l
    from distill_hub.recovery.recover import Objective, recover_set
    from distill_hub.statistics.bank import open_bank
    from distill_hub.statistics.moving import MovingAverage

    setup = set_up(config, "lpld", batch_norm=True)
    run, teacher, names, size = setup.run, setup.teacher, setup.source.class_names, setup.image_size
    moving = MovingAverage(config.moving_batch_size, config.fit_seed, setup.source.mirrored)
    measured = {"image_size": size, "covariance": False, "folder": config.bank}
    measured |= {"moving": moving if config.class_statistics == "moving" else None}
    bank = open_bank(run, setup.source, teacher, setup.teacher_record.sha256, **measured)

    def objectives(labels: torch.Tensor) -> list[Objective]:
        weights = {"weight": config.statistics_weight, "first_layer_weight": config.first_layer_weight}
        return [sre2l.statistics_objective(teacher, labels, len(labels) // config.ipc, bank=bank, **weights)]

    items = [(label, index) for label in range(len(names)) for index in range(config.ipc)]
    batch = {"chunk_size": config.classes_at_a_time * config.ipc, "size": size, "mirrored": setup.source.mirrored}
    batch |= {"made_from": setup.made_from, "lower": "a smaller --classes_at_a_time or --ipc"}
    recovered = recover_set(run, teacher, names, items, objectives, config, **batch)
    return package_and_score(setup, recovered, setup.manifest(sre2l.LPLD, loss_note(recovered)))


if __name__ == "__main__":
    launch(main, LpldConfig, __doc__)
