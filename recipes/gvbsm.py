"""G-VBSM: images in which several networks see the statistics of real ones, optimised from noise (Shao et al., CVPR 2024).

    distill-hub make gvbsm  # handwritten digits and three small networks, offline, on a CPU
    distill-hub make gvbsm --source cifar10 --teacher outputs/resnet-18,outputs/convnet-3 --recover_steps 4000
    distill-hub make gvbsm --num_processes 2

The same command again resumes an interrupted run.
"""

from pathlib import Path

from distill_hub.config import launch
from distill_hub.options.gvbsm import GvbsmConfig


def main(config: GvbsmConfig) -> Path | None:
    """Measure each network's statistics, recover images, label, package and score."""
    import torch

    from distill_hub.making.finish import package_and_score
    from distill_hub.making.start import set_up
    from distill_hub.methods.losses import loss_note
    from distill_hub.recovery import gvbsm
    from distill_hub.recovery.recover import Objective, recover_set
    from distill_hub.running.seeds import draw_seed
    from distill_hub.statistics.convolutions import measure

    setup = set_up(config, "gvbsm", ensemble="norm")
    names, size = setup.source.class_names, setup.image_size
    records = setup.teacher_record.members or [setup.teacher_record]
    measured = [
        measure(setup.run, setup.source, teacher, record.sha256, image_size=size, seed=config.fit_seed)
        for teacher, record in zip(setup.teachers, records, strict=True)
    ]
    small = size <= 64
    how = {
        "weight": config.statistics_weight,
        "first_layer_weight": config.first_layer_weight,
        "decay": (0.8 if small else 0.4) if config.ema_decay is None else config.ema_decay,
        "drop_rate": (0.4 if small else 0.0) if config.drop_rate is None else config.drop_rate,
        "densification_weight": config.densification_weight,
    }

    def objectives(labels: torch.Tensor) -> list[Objective]:
        seeds = [draw_seed(config.seed, "left out", names[int(labels[0])], place) for place in range(len(measured))]
        return [gvbsm.objective(own, labels, **how, seed=seed) for own, seed in zip(measured, seeds, strict=True)]

    items = [(label, index) for label in range(len(names)) for index in range(config.ipc)]
    batch = {"chunk_size": config.recover_batch_size, "size": size, "mirrored": setup.source.mirrored}
    batch |= {"made_from": setup.made_from, "lower": "a smaller --recover_batch_size"}
    recovered = recover_set(setup.run, setup.teacher, names, items, objectives, config, **batch)
    return package_and_score(setup, recovered, setup.manifest(gvbsm.FACTS, loss_note(recovered)))


if __name__ == "__main__":
    launch(main, GvbsmConfig, __doc__)
