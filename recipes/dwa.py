"""DWA: SRe2L from real images, in a teacher whose weights are moved for each batch (Du et al., 2024).

    distill-hub make dwa  # handwritten digits, offline, on a CPU
    distill-hub make fit_classifier --source cifar10 --network resnet-18-bn --output_dir outputs/cifar10-teacher
    distill-hub make dwa --source cifar10 --teacher outputs/cifar10-teacher --protocol sre2l
    distill-hub make dwa --rho 0  # the weights stay
    distill-hub make dwa --num_processes 2

The same command again resumes an interrupted run.
"""

from pathlib import Path

from distill_hub.config import launch
from distill_hub.options.dwa import DwaConfig


def main(config: DwaConfig) -> Path | None:
    """Draw real images, optimise their pixels batch by batch, label, package and score."""
    import torch

    from distill_hub.coresets.select import draw
    from distill_hub.making.finish import package_and_score
    from distill_hub.making.start import set_up
    from distill_hub.methods.candidates import keep
    from distill_hub.methods.losses import loss_note
    from distill_hub.recovery import dwa
    from distill_hub.recovery.recover import Objective, recover_set
    from distill_hub.running.seeds import draw_seed

    setup = set_up(config, "dwa", batch_norm=True)
    names, train = setup.source.class_names, setup.source.train
    drawn = [
        rows[draw(len(rows), config.ipc, draw_seed(config.seed, "start", name)).numpy()]
        for name, rows in zip(names, train.by_class, strict=True)
    ]

    def start(items: list[tuple[int, int]]) -> torch.Tensor:
        return train.pixels([drawn[label][index] for label, index in items], setup.image_size)

    # A dry run multiplies what a few of the iterations take, and with them the way of the weights, which comes once a batch.
    ascent_steps = 1 if setup.run.is_dry else config.ascent_steps

    def objectives(labels: torch.Tensor) -> list[Objective]:
        weights = {"weight": config.statistics_weight, "first_layer_weight": config.first_layer_weight}
        weights |= {"variance_weight": config.variance_weight, "rho": config.rho, "steps": ascent_steps}
        return [dwa.objective(setup.teacher, labels, **weights)]

    # A batch holds each class at most once, so that its statistics can be those of all classes.
    items = [(label, index) for index in range(config.ipc) for label in range(len(names))]
    batch = {"chunk_size": min(len(names), config.recover_batch_size), "size": setup.image_size, "start": start}
    batch |= {"mirrored": setup.source.mirrored, "made_from": setup.made_from, "lower": "a smaller --recover_batch_size"}
    recovered = recover_set(setup.run, setup.teacher, names, items, objectives, config, **batch)
    by_class = [index * len(names) + label for label in range(len(names)) for index in range(config.ipc)]
    selected = keep(setup.run, recovered, by_class)
    return package_and_score(setup, selected, setup.manifest(dwa.FACTS, loss_note(recovered)))


if __name__ == "__main__":
    launch(main, DwaConfig, __doc__)
