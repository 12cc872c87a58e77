"""SRe2L: Squeeze, Recover and Relabel (Yin, Xing and Shen, NeurIPS 2023), and LPLD, the same class by class.

Pixels are optimised until a trained network sees in them what it has seen in real images; see `recovery.recover`. SRe2L
(Sec. 3.2) aligns the statistics of a batch, in which each image shows another class, with the running statistics of the
BatchNorm layers; LPLD (Xiao and He, NeurIPS 2024, Sec. 4) those of a batch of one class with that class's own, see
`statistics.bank`. CDA (Yin and Shen, TMLR 2024) is SRe2L with a schedule of crops; see `recovery.recover.Views`.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch.linalg import vector_norm

from distill_hub.classifiers import Classifier
from distill_hub.recovery.recover import Objective
from distill_hub.statistics.bank import Bank
from distill_hub.statistics.features import batch_norms, captured, channel_moments, full

FACTS = {
    "name": "sre2l",
    "title": "SRe2L: Squeeze, Recover and Relabel",
    "paper": "https://arxiv.org/abs/2306.13092",
    "bibtex": """@inproceedings{yin2023squeeze,
  title = {Squeeze, Recover and Relabel: Dataset Condensation at {ImageNet} Scale From A New Perspective},
  author = {Yin, Zeyuan and Xing, Eric and Shen, Zhiqiang},
  booktitle = {Advances in Neural Information Processing Systems},
  year = {2023},
}""",
}
CDA = {
    "name": "cda",
    "title": "CDA: Dataset Distillation via Curriculum Data Synthesis in Large Data Era",
    "paper": "https://arxiv.org/abs/2311.18838",
    "bibtex": """@article{yin2024dataset,
  title = {Dataset Distillation via Curriculum Data Synthesis in Large Data Era},
  author = {Yin, Zeyuan and Shen, Zhiqiang},
  journal = {Transactions on Machine Learning Research},
  year = {2024},
}""",
}
LPLD = {
    "name": "lpld",
    "title": "LPLD: Are Large-scale Soft Labels Necessary for Large-scale Dataset Distillation?",
    "paper": "https://arxiv.org/abs/2410.15919",
    "bibtex": """@inproceedings{xiao2024large,
  title = {Are Large-scale Soft Labels Necessary for Large-scale Dataset Distillation?},
  author = {Xiao, Lingao and He, Yang},
  booktitle = {Advances in Neural Information Processing Systems},
  year = {2024},
}""",
}


def grouped_cross_entropy(logits: torch.Tensor, labels: torch.Tensor, groups: int) -> torch.Tensor:
    """Return the mean cross-entropy of each of G groups of consecutive images, (G,).

    Args:
        logits: (B, C).
        labels: int64 (B,).
        groups: G, a divisor of B.
    """
    return F.cross_entropy(full(logits), labels.to(logits.device), reduction="none").unflatten(0, (groups, -1)).mean(1)


def statistics_loss(
    found: Sequence[tuple[torch.Tensor, torch.Tensor]],
    wanted: Sequence[tuple[torch.Tensor, torch.Tensor]],
    first_layer_weight: float,
    variance_weight: float = 1.0,
) -> torch.Tensor:
    """Sum the distances of variances and means over layers (SRe2L, Eq. 7-8), (G,).

    Args:
        found: Per layer: variance and mean of the images' features, (G, D) each.
        wanted: Per layer: variance and mean to come near to, (G, D) or (D,) each.
        first_layer_weight: Of the first layer; the others weigh 1.
        variance_weight: Of the distances of variances; those of means weigh 1.
    """
    total = 0.0
    for place, (own, goal) in enumerate(zip(found, wanted, strict=True)):
        variance, mean = (vector_norm(a - b, dim=1) for a, b in zip(own, goal, strict=True))
        distance = variance_weight * variance + mean
        total = total + distance * (first_layer_weight if place == 0 else 1.0)
    return total


def statistics_objective(
    teacher: Classifier,
    labels: torch.Tensor,
    groups: int,
    *,
    bank: Bank | None = None,
    weight: float = 0.01,
    first_layer_weight: float = 10.0,
    variance_weight: float = 1.0,
) -> Objective:
    """Return SRe2L's objective, or with a bank LPLD's: cross-entropy + weight * `statistics_loss`.

    Args:
        teacher: A network with BatchNorm.
        labels: int64 (B,), group by group.
        groups: G: images whose statistics are taken together. SRe2L: one group of different classes; LPLD: one per class.
        bank: Statistics of the classes; None: the running statistics, of all classes.
        weight: r_bn: alpha_BN in the paper.
        first_layer_weight: See `statistics_loss`.
        variance_weight: See there.

    Raises:
        InputError: For a teacher without BatchNorm.
    """
    layers = list(batch_norms(teacher).values())
    if bank is None:
        wanted = [(layer.running_var, layer.running_mean) for layer in layers]
    else:
        wanted = bank.read(labels.view(groups, -1)[:, 0].tolist(), "variance", "mean")

    def statistics(maps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mean, variance = channel_moments(maps, groups)
        return variance, mean

    def objective(images: torch.Tensor) -> torch.Tensor:
        with captured(layers, "inputs", statistics) as found:
            logits = teacher.logits(images)
        with torch.autocast(images.device.type, enabled=False):
            distance = statistics_loss(found, wanted, first_layer_weight, variance_weight)
            return grouped_cross_entropy(logits, labels, groups) + weight * distance

    return objective
