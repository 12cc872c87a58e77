"""What is said of a set beside its accuracy: DD-Ranking's scores, and how far its embeddings lie from the real ones."""

import math

import torch

from distill_hub.config import InputError


def label_robust_score(*, real_hard: float, own_hard: float, own: float, random: float, weight: float = 0.5) -> float:
    """Return DD-Ranking's label-robust score (LRS): how good a set is once the help of soft labels is discounted.

    Li et al. (2025, arXiv:2505.13300): hard label recovery HLR = `real_hard` - `own_hard`, improvement over random
    IOR = `own` - `random`, α = w·IOR - (1 - w)·HLR, LRS = (e^α - e^-1) / (e - e^-1).

    The definition is over accuracies and knows no repeats: give the mean over seeds of each. The `ddranking` package (0.2.0)
    averages the scores of its repeats instead, which is slightly more (e^α is convex). What it prints is not the score
    defined above, and must not be compared with it:

    - It puts percentages into e^α. α = -20 points then gives -0.157, the lowest value there is, and +10 points give 9371;
      as fractions they give 0.192 and 0.314.
    - For hard labels it keeps every score twice. Mean and (population) standard deviation are the same, but its table
      of results then has columns of two lengths, and writing it fails.
    - Its accuracies are the best of all looks at the test split. The learning rate is chosen on the test split, too:
      always for `random`, and for `own_hard` of sets with soft labels; for `own` where none is given.
    - `real_hard` may come from a table of two entries (ResNet-18: ImageNet-1k 56.5 %, Tiny ImageNet 46.4 %).
    - CutMix and mixup mix images but neither hard nor stored soft labels. Seeds come from the clock.

    Args:
        real_hard: Test accuracy after training on the whole real training split with hard labels; as all accuracies here, a
            fraction in [0, 1].
        own_hard: After training on the set with hard labels.
        own: After training on the set as its protocol says, with hard or soft labels.
        random: After training by that same protocol on as many randomly drawn real images.
        weight: w in [0, 1], the share of IOR.

    Returns:
        A score in [0, 1]; 1 / (1 + e) ≈ 0.269 for a set that recovers all and improves on nothing (α = 0).

    Raises:
        InputError: For a value outside [0, 1], such as a percentage.
    """
    _check_fractions(real_hard=real_hard, own_hard=own_hard, own=own, random=random, weight=weight)
    return _normalize(weight * (own - random) - (1 - weight) * (real_hard - own_hard))


def augmentation_robust_score(
    *, own: float, random: float, own_plain: float, random_plain: float, weight: float = 0.5
) -> float:
    """Return DD-Ranking's augmentation-robust score (ARS): improvement over random, with and without augmentation.

    Li et al. (2025, arXiv:2505.13300): β = γ·(`own` - `random`) + (1 - γ)·(`own_plain` - `random_plain`),
    ARS = (e^β - e^-1) / (e - e^-1). What `label_robust_score` says of repeats and of the `ddranking` package
    holds here, too, but for `real_hard` and the scores kept twice.

    Args:
        own: Test accuracy after training on the set as its protocol says; as all accuracies here, a fraction in [0, 1].
        random: After training by that same protocol on as many randomly drawn real images.
        own_plain: As `own`, without augmentation.
        random_plain: As `random`, without augmentation.
        weight: γ in [0, 1], the share of the accuracies with augmentation.

    Returns:
        A score in [0, 1]; 1 / (1 + e) ≈ 0.269 for a set as good as random images.

    Raises:
        InputError: For a value outside [0, 1], such as a percentage.
    """
    _check_fractions(own=own, random=random, own_plain=own_plain, random_plain=random_plain, weight=weight)
    return _normalize(weight * (own - random) + (1 - weight) * (own_plain - random_plain))


def _check_fractions(**values: float) -> None:
    for name, value in values.items():
        if not 0 <= value <= 1:
            raise InputError(name, value, "fractions in [0, 1] are needed, not percentages")


def _normalize(difference: float) -> float:
    """Map [-1, 1] to [0, 1]."""
    lowest = math.exp(-1)
    return (math.exp(difference) - lowest) / (math.e - lowest)


@torch.inference_mode()
def mmd(own: torch.Tensor, real: torch.Tensor, chunk_size: int = 256) -> float:
    """Return the squared maximum mean discrepancy between the embeddings of a set and those of the real images.

    Gretton et al. (2012), Eq. 5 before the root: mean k(own, own) + mean k(real, real) - 2 mean k(own, real) over all pairs,
    those of an embedding with itself included, where k(x, y) = exp(-||x - y||² / h) and h is the mean squared distance
    between two different real embeddings.

    This is the biased estimator, on purpose: a student sees exactly this set, which is not a sample of anything, and of two
    finite sets it is the exact distance. It favours larger sets: of N randomly drawn of the M real images one expects
    (1 - mean k(real, real)) / N · (M - N) / (M - 1). Compare sets of one size, and with random real images.

    h does not look at the set, unlike the usual median over the pooled embeddings, so that all sets of a source are measured
    by one kernel; and a mean over all pairs takes one pass, where a median takes all M² distances.

    Minimax Diffusion (Gu et al., 2024, Tab. 2) reports an MMD of 4.0 to 6.7 between the features of a set and of the
    original, by a ResNet-10 trained on the original. The paper leaves open kernel, bandwidth, estimator, scale, and whether
    classes are taken one by one; its repository has no code for it. Those numbers cannot be of this kernel, whose squared
    MMD is below 2: compare within one table only.

    Args:
        own: Embeddings (N, D) of the set, N ≥ 1.
        real: Embeddings (M, D) of the real images, M ≥ 2, from the same network and on the same device. Time grows with M².
        chunk_size: Rows at a time; `chunk_size` · M distances are held at once. The result depends on it by rounding only.

    Returns:
        A value in [0, 2); 0 when both hold the same embeddings in the same proportions.

    Raises:
        InputError: For shapes that do not fit, values that are not finite, or real embeddings that are all equal.
    """
    if own.ndim != 2 or real.ndim != 2 or own.shape[1] != real.shape[1] or len(own) < 1 or len(real) < 2:
        shapes = f"{tuple(own.shape)} and {tuple(real.shape)}"
        raise InputError("embeddings", shapes, "the shapes (N, D) and (M, D) with N >= 1 and M >= 2 are needed")
    if not (own.isfinite().all() and real.isfinite().all()):
        raise InputError("embeddings", "nan or inf", "all values must be finite")
    if (real == real[0]).all():
        raise InputError("real", real[0].tolist()[:3], "all real embeddings are equal, which leaves no scale to measure by")
    own, real = own.double(), real.double()
    # Distances are taken by a matrix product, which loses digits far from the origin.
    centre = real.mean(0)
    own, real = own - centre, real - centre
    h = 2 * float(real.square().sum()) / (len(real) - 1)  # over all pairs, from the variance

    def mean_kernel(a: torch.Tensor, b: torch.Tensor) -> float:
        total = sum(float(torch.cdist(rows, b).square_().div_(-h).exp_().sum()) for rows in a.split(chunk_size))
        return total / (len(a) * len(b))

    # Rounding can leave a zero below zero.
    return max(0.0, mean_kernel(own, own) + mean_kernel(real, real) - 2 * mean_kernel(own, real))
