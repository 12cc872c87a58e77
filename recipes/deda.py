"""DEDA: images whose features have their class's means and covariances, spread out in the last layer (Li et al., 2025).

    distill-hub make deda                                          # handwritten digits, offline, on a CPU
    distill-hub make fit_classifier --source cifar10 --network resnet-18-bn --output_dir outputs/cifar10-teacher
    distill-hub make deda --source cifar10 --teacher outputs/cifar10-teacher --protocol sre2l
    distill-hub make deda --gamma 0 --lambda_var 0 --lambda_cov 0  # means alone (Tab. 4)
    distill-hub make deda --num_processes 2

The same command again resumes an interrupted run.
"""

from pathlib import Path

from distill_hub.config import launch
from distill_hub.options.deda import DedaConfig


def main(config: DedaConfig) -> Path | None:
    """Measure the classes' Gaussians, recover images, label, package and score."""
    import torch

    from distill_hub.making.finish import package_and_score
    from distill_hub.making.start import set_up
    from distill_hub.methods.losses import loss_note
    from distill_hub.recovery import deda
    from distill_hub.recovery.recover import Objective, recover_set
    from distill_hub.statistics.bank import open_bank

    setup = set_up(config, "deda", batch_norm=True)
    run, teacher, names, size = setup.run, setup.teacher, setup.source.class_names, setup.image_size

    # Stage I: the Gaussian of every class and layer.
    measured = {"image_size": size, "at": config.features, "covariance": config.gamma > 0, "folder": config.bank}
    bank = open_bank(run, setup.source, teacher, setup.teacher_record.sha256, **measured)

    # Stage II: the images, class by class; classes that are optimised side by side do not depend on each other.
    def objectives(labels: torch.Tensor) -> list[Objective]:
        weights = {"gamma": config.gamma, "lambda_var": config.lambda_var, "lambda_cov": config.lambda_cov}
        how = {"at": config.features, "reduction": config.reduction}
        return [deda.objective(teacher, labels, len(labels) // config.ipc, bank, **weights, **how)]

    items = [(label, index) for label in range(len(names)) for index in range(config.ipc)]
    batch = {"chunk_size": config.classes_at_a_time * config.ipc, "size": size, "mirrored": setup.source.mirrored}
    batch |= {"made_from": setup.made_from, "lower": "a smaller --classes_at_a_time or --ipc"}
    recovered = recover_set(run, teacher, names, items, objectives, config, **batch)
    return package_and_score(setup, recovered, setup.manifest(deda.FACTS, loss_note(recovered)))


if __name__ == "__main__":
    launch(main, DedaConfig, __doc__)
