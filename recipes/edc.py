"""EDC: RDED's images, optimised until several networks see all images' and their classes' statistics (Shao et al., 2024).

    distill-hub make edc  # handwritten digits and three small networks, offline, on a CPU
    distill-hub make edc --source cifar10 --teacher outputs/resnet-18,outputs/convnet-3 --recover_steps 2000
    distill-hub make edc --num_processes 2

The same command again resumes an interrupted run.
"""

from pathlib import Path

from distill_hub.config import launch
from distill_hub.options.edc import EdcConfig


def main(config: EdcConfig) -> Path | None:
    """Measure each network's statistics, tile crops of real images, recover from them, label, package and score."""
    import torch

    from distill_hub.config import options
    from distill_hub.making.finish import package_and_score
    from distill_hub.making.start import set_up
    from distill_hub.methods import rded
    from distill_hub.methods.losses import loss_note
    from distill_hub.options.rded import CropOptions
    from distill_hub.recovery import gvbsm
    from distill_hub.recovery.recover import Objective, recover_set
    from distill_hub.statistics.convolutions import measure

    setup = set_up(config, "edc", ensemble="mean")
    names, size = setup.source.class_names, setup.image_size
    crops = {"image_size": size, **options(config, CropOptions), "factor": rded.resolve_factor(config.factor, size)}
    rded.check(setup.source, ipc=config.ipc, **{name: crops[name] for name in ("image_size", "factor", "images_per_class")})
    records = setup.teacher_record.members or [setup.teacher_record]
    measured = [
        measure(setup.run, setup.source, teacher, record.sha256, image_size=size, seed=config.fit_seed)
        for teacher, record in zip(setup.teachers, records, strict=True)
    ]

    # The first network says which crops are the most realistic. Each image starts from one of its own; in the released code
    # from one that is drawn from those of its class, and mirrored or not.
    def tile(labels: list[int]) -> dict[str, torch.Tensor]:
        return rded.distill_class(setup.source, setup.teachers[0], labels[0], config.ipc, **crops, seed=config.seed)

    made_from = {**crops, "seed": config.seed, "source": setup.source.fingerprint, "teacher_sha256": records[0].sha256}
    how = {"chunk_size": config.ipc, "made_from": made_from, "whole": True, "lower": "a smaller --image_size"}
    tiled = setup.run.map("tile", setup.labels, tile, **how)

    weight = (0.01 if size <= 64 else 0.1) if config.statistics_weight is None else config.statistics_weight

    def objectives(labels: torch.Tensor) -> list[Objective]:
        weights = {"weight": weight, "first_layer_weight": config.first_layer_weight}
        how = {"decay": config.ema_decay, "class_share": config.class_share, "densification_weight": 0.0}
        return [gvbsm.objective(own, labels, **weights, **how) for own in measured]

    def start(items: list[tuple[int, int]]) -> torch.Tensor:
        return tiled.take([label * config.ipc + index for label, index in items], "images")["images"]

    items = [(label, index) for label in range(len(names)) for index in range(config.ipc)]
    batch = {"chunk_size": config.recover_batch_size, "size": size, "mirrored": setup.source.mirrored, "start": start}
    batch |= {"made_from": setup.made_from, "lower": "a smaller --recover_batch_size"}
    recovered = recover_set(setup.run, setup.teacher, names, items, objectives, config, **batch)
    notes = {"factor": crops["factor"], **loss_note(recovered)}
    return package_and_score(setup, recovered, setup.manifest(gvbsm.EDC, notes))


if __name__ == "__main__":
    launch(main, EdcConfig, __doc__)
