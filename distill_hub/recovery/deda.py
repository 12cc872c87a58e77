"""DEDA: Diversity-Enhanced Distribution Alignment for Dataset Distillation (Li et al., ICCV 2025).

Stage I, the Gaussian of every class and layer, is `statistics.bank`; stage II, the optimisation, is SRe2L's `recover` with
the losses below. There is no released code, and the paper leaves open two things:

- What the features of a layer are. Its one hint, maps of 64 x 56 x 56 in the first layer of ResNet-18 at 224 px, fits what
  the first stage returns. With a ResNet-18 on CIFAR-10 the covariances help, as in its ablation, for what the BatchNorm
  layers see, the default, and not for the stages; what L_Var and L_Cov add was too little to be told from nothing:
  tests/bench/results/2026-11-29-deda-layers.md.
- What ||.||^2 of a D x D difference is in Eq. 6. Summed up as it stands, with gamma 50, it took a small network most of what
  the means had gained; divided by D it did no harm. Both are in tests/bench/results/2026-11-21-pixels.md.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import nn

from distill_hub.classifiers import Classifier
from distill_hub.recovery.recover import Objective
from distill_hub.recovery.sre2l import grouped_cross_entropy
from distill_hub.statistics.bank import Bank
from distill_hub.statistics.features import Features, captured, feature_layers, full

FACTS = {
    "name": "deda",
    "title": "DEDA: Diversity-Enhanced Distribution Alignment for Dataset Distillation",
    "paper": "https://iccv.thecvf.com/virtual/2025/poster/1515",
    "bibtex": """@inproceedings{li2025diversity,
  title = {Diversity-Enhanced Distribution Alignment for Dataset Distillation},
  author = {Li, Hongcheng and Zhou, Yucan and Gu, Xiaoyan and Li, Bo and Wang, Weiping},
  booktitle = {International Conference on Computer Vision},
  year = {2025},
}""",
}
Reduction = Literal["dimension", "sum", "mean", "relative"]
STABILIZER = 1e-4  # added to variances before their root, as VICReg has it: the root of 0 has no gradient


def centred(features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return mean (G, D) of features (G, M, D) and their difference from it."""
    mean = features.mean(1, keepdim=True)
    return mean[:, 0], features - mean


def covariance(differences: torch.Tensor) -> torch.Tensor:
    """Return covariances (G, D, D), with 1 / M, of differences (G, M, D) from the mean (Eq. 5)."""
    return differences.transpose(1, 2) @ differences / differences.shape[1]


def gaussian_alignment(
    features: torch.Tensor,
    mean: torch.Tensor,
    wanted: torch.Tensor | None,
    gamma: float = 50.0,
    reduction: Reduction = "dimension",
) -> torch.Tensor:
    """Return one layer's term of L_GDA (Eq. 6), (G,).

    Args:
        features: Pooled, of G groups of M images each, (G, M, D).
        mean: Of the real images, (G, D).
        wanted: Their covariance, (G, D, D); None with gamma 0.
        gamma: Weight of the covariances.
        reduction: Of the squared difference of covariances: 'sum' over the D^2 entries; that divided by D, 'dimension'; its
            'mean'; or 'relative', its sum divided by that of the squared real covariance. The paper does not say which.
    """
    own, differences = centred(features)
    loss = (own - mean).square().sum(1)
    if gamma:
        distance = (covariance(differences) - wanted).square().sum((1, 2))
        size = wanted.shape[-1]
        scale = {"sum": 1, "dimension": size, "mean": size**2}.get(reduction)
        loss = loss + gamma * distance / (wanted.square().sum((1, 2)) if scale is None else scale)
    return loss


def variance_loss(features: torch.Tensor) -> torch.Tensor:
    """Return L_Var (Eq. 7), (G,): how far the standard deviations of the last features (G, M, D) are below 1."""
    variances = centred(features)[1].square().mean(1)
    return (1 - (variances + STABILIZER).sqrt()).relu().mean(1)


def covariance_loss(features: torch.Tensor) -> torch.Tensor:
    """Return L_Cov (Eq. 8), (G,): the mean square of the covariances between different last features (G, M, D)."""
    entries = covariance(centred(features)[1])
    size = entries.shape[-1]
    off_diagonal = ~torch.eye(size, dtype=torch.bool, device=entries.device)
    return (entries * off_diagonal).square().sum((1, 2)) / (size * (size - 1))


def objective(
    teacher: Classifier,
    labels: torch.Tensor,
    groups: int,
    bank: Bank,
    *,
    at: Features = "inputs",
    gamma: float = 50.0,
    lambda_var: float = 0.2,
    lambda_cov: float = 4.0,
    reduction: Reduction = "dimension",
) -> Objective:
    """Return DEDA's objective (Eq. 9): L_CE + L_GDA + lambda_1 L_Var + lambda_2 L_Cov, for groups of one class each.

    Args:
        teacher: See `feature_layers`. Its last features, layer L, are those that its last linear layer sees.
        labels: int64 (B,), group by group.
        groups: G.
        bank: Of the teacher's features at the same place of the same layers.
        at: What layers 1 .. L - 1 are; see `feature_layers`.
        gamma: See `gaussian_alignment`.
        lambda_var: lambda_1.
        lambda_cov: lambda_2.
        reduction: See `gaussian_alignment`.

    Raises:
        InputError: For a teacher without such layers.
    """
    layers: Sequence[nn.Module] = list(feature_layers(teacher, at).values())
    classes = labels.view(groups, -1)[:, 0].tolist()
    wanted = bank.read(classes, "mean", *(["covariance"] if gamma else []))

    def pooled(maps: torch.Tensor) -> torch.Tensor:
        return full(maps).mean((2, 3)).unflatten(0, (groups, -1))

    def loss(images: torch.Tensor) -> torch.Tensor:
        with captured(layers, at, pooled) as found:
            logits, last = teacher(images)
        with torch.autocast(images.device.type, enabled=False):
            total = grouped_cross_entropy(logits, labels, groups)
            for features, (mean, *rest) in zip(found, wanted, strict=True):
                total = total + gaussian_alignment(features, mean, rest[0] if rest else None, gamma, reduction)
            last = full(last).unflatten(0, (groups, -1))
            if lambda_var:
                total = total + lambda_var * variance_loss(last)
            if lambda_cov:
                total = total + lambda_cov * covariance_loss(last)
        return total

    return loss
