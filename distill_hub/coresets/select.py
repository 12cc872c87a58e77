"""Coresets: real images, chosen class by class. The baselines that tables of dataset distillation begin with.

Embeddings are taken as the classifier gives them; iCaRL (Rebuffi et al., CVPR 2017), from where the field has its herding,
scales them to length 1 first. Distances are Euclidean, in float64. Of equally good images the one with the lower index is
taken.
"""

import warnings

import torch
import torch.nn.functional as F

from distill_hub.config import InputError
from distill_hub.running.seeds import cpu_generator


def draw(count: int, ipc: int, seed: int) -> torch.Tensor:
    """Draw images of one class at random; with the same seed, a smaller draw is the beginning of a larger one.

    Args:
        count: Number of images, N.
        ipc: How many to draw.
        seed: Of the draw.

    Returns:
        int64 (ipc,), distinct indices.

    Raises:
        InputError: When IPC is larger than N.
    """
    _check(ipc, count)
    return torch.randperm(count, generator=cpu_generator(seed))[:ipc]


def herding(embeddings: torch.Tensor, ipc: int) -> torch.Tensor:
    """Choose images of one class whose mean is close to the mean of all (Welling, 2009; iCaRL, Alg. 4).

    Step k adds the image that brings the mean of the k chosen ones closest to the class mean μ, each image at most once:
    the image closest to k·μ - s, where s is the sum of those chosen before.

    Args:
        embeddings: float (N, D), of the class's N images.
        ipc: How many to choose.

    Returns:
        int64 (ipc,), distinct indices, in the order of choice.

    Raises:
        InputError: When IPC is larger than N.
    """
    _check(ipc, len(embeddings))
    points = embeddings.double()
    mean = points.mean(0)
    wanted, taken, chosen = mean.clone(), torch.zeros(len(points), dtype=torch.bool), []
    for _ in range(ipc):
        # Not by the matrix product of the expanded square: it gives equal rows other last bits, and ties would be lost.
        distances = (points - wanted).square().sum(1).masked_fill(taken, torch.inf)
        chosen.append(int(distances.argmin()))
        taken[chosen[-1]] = True
        wanted += mean - points[chosen[-1]]
    return torch.tensor(chosen)


def k_center(embeddings: torch.Tensor, ipc: int) -> torch.Tensor:
    """Choose images of one class that leave none far away: greedy farthest point (Sener and Savarese, 2018, Alg. 1).

    The first is the image closest to the class mean, where the paper starts from images that have a label already. Each
    further one is the image farthest from those chosen, that is, from the closest of them.

    Args:
        embeddings: float (N, D), of the class's N images.
        ipc: How many to choose.

    Returns:
        int64 (ipc,), distinct indices, in the order of choice.

    Raises:
        InputError: When IPC is larger than N.
    """
    _check(ipc, len(embeddings))
    points = embeddings.double()
    chosen = [int((points - points.mean(0)).square().sum(1).argmin())]
    distances = torch.full((len(points),), torch.inf, dtype=torch.float64)
    while len(chosen) < ipc:
        latest = chosen[-1]
        distances = distances.minimum((points - points[latest]).square().sum(1))
        distances[latest] = -1  # below the 0 of an image that equals a chosen one
        chosen.append(int(distances.argmax()))
    return torch.tensor(chosen)


def k_means(embeddings: torch.Tensor, ipc: int, seed: int) -> torch.Tensor:
    """Choose of each of IPC clusters the image closest to its mean (Lloyd, 1982, the best of ten starts by k-means++).

    Args:
        embeddings: float (N, D), of the class's N images.
        ipc: How many to choose.
        seed: Of the starts.

    Returns:
        int64 (ipc,), distinct indices, in rising order.

    Raises:
        InputError: When IPC is larger than N.
    """
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    _check(ipc, len(embeddings))
    points = embeddings.double()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct images than clusters
        fit = KMeans(ipc, n_init=10, random_state=seed % 2**32).fit(points.numpy())
    members, means = torch.from_numpy(fit.labels_).long(), torch.from_numpy(fit.cluster_centers_)
    distances = torch.cdist(points, means, compute_mode="donot_use_mm_for_euclid_dist")  # see `herding`
    distances = distances.masked_fill(members[:, None] != torch.arange(ipc), torch.inf)
    # But for rounding, two images that make up a cluster are as close to their mean.
    nearest = (distances <= distances.amin(0) * (1 + 1e-9)).int().argmax(0)
    chosen = torch.zeros(len(points), dtype=torch.bool)
    chosen[nearest[members.unique()]] = True
    repeated = (~chosen).nonzero().flatten()[: ipc - int(chosen.sum())]  # where a cluster is empty, every image has a twin
    chosen[repeated] = True
    return chosen.nonzero().flatten()


def facility_location(embeddings: torch.Tensor, ipc: int) -> torch.Tensor:
    """Choose images of one class to which all are similar: greedy facility location, as in DeepCore (Guo et al., 2022).

    It climbs F(S) = Σ_i max_{j in S} s(i, j), with the similarity s = (1 + cosine) / 2 of two embeddings: every step adds
    the image that raises F most. F is monotone and submodular: the greedy value is at least 1 - 1/e of the best one. O(N²)
    in memory, and in time for each image that is chosen.

    Args:
        embeddings: float (N, D), of the class's N images.
        ipc: How many to choose.

    Returns:
        int64 (ipc,), distinct indices, in the order of choice.

    Raises:
        InputError: When IPC is larger than N.
    """
    _check(ipc, len(embeddings))
    unit = F.normalize(embeddings.double(), dim=1)
    # Multiples of 2^-24, whose sums are exact: how a product is summed, and by how many threads, is not seen in them.
    similarities = ((1 + unit @ unit.T) * 2**23).round().int()
    covered, taken, chosen = torch.zeros(len(unit), dtype=torch.int32), torch.zeros(len(unit), dtype=torch.bool), []
    for _ in range(ipc):
        gains = (similarities - covered).clamp_(min=0).sum(1)  # a similarity is the same both ways
        chosen.append(int(gains.masked_fill(taken, -1).argmax()))
        taken[chosen[-1]] = True
        covered = covered.maximum(similarities[chosen[-1]])
    return torch.tensor(chosen)


def by_difficulty(difficulty: torch.Tensor, ipc: int, *, hardest: bool) -> torch.Tensor:
    """Choose the hardest images of one class, as papers on large coresets do, or the easiest.

    The less is kept, the easier it should be (Sorscher et al., NeurIPS 2022).

    Args:
        difficulty: (N,), larger is harder; see `dynamics.Dynamics.difficulty`.
        ipc: How many to choose.
        hardest: Which end.

    Returns:
        int64 (ipc,), distinct indices, the most extreme first.

    Raises:
        InputError: When IPC is larger than N.
    """
    _check(ipc, len(difficulty))
    return difficulty.sort(descending=hardest, stable=True).indices[:ipc]


def ccs(difficulty: torch.Tensor, ipc: int, generator: torch.Generator, *, cut: float, strata: int) -> torch.Tensor:
    """Choose images of one class of all difficulties but the largest: coverage-centric (CCS; Zheng et al., 2023, Alg. 1).

    The hardest ⌊cut · N⌋ images are dropped, of which many are labelled wrong; fewer where IPC would not be left. The range
    of the others is cut into strata of even width. From the smallest stratum up, each gives an even share of what is still
    to be chosen, drawn at random, or all that it has. The paper's strata are those of all classes together: its coresets are
    not balanced. Of strata with as many images the easier comes first.

    Args:
        difficulty: (N,), larger is harder.
        ipc: How many to choose.
        generator: Of the draws.
        cut: Paper: β, 0 to 0.5, the more the less is kept.
        strata: Paper: k, 50.

    Returns:
        int64 (ipc,), distinct indices, stratum by stratum.

    Raises:
        InputError: When IPC is larger than N.
    """
    _check(ipc, len(difficulty))
    order = difficulty.double().sort(stable=True).indices
    kept = order[: max(ipc, len(order) - int(cut * len(order)))].sort().values
    values = difficulty.double()[kept]
    low, high = values.min(), values.max()
    place = ((values - low) / (high - low).clamp(min=torch.finfo(torch.float64).tiny) * strata).long().clamp(max=strata - 1)
    groups = sorted((group for group in (kept[place == number] for number in range(strata)) if len(group)), key=len)
    chosen, left = [], ipc
    for number, group in enumerate(groups):
        share = min(len(group), left // (len(groups) - number))
        chosen.append(group[torch.randperm(len(group), generator=generator)[:share]])
        left -= share
    return torch.cat(chosen)


def _check(ipc: int, count: int) -> None:
    if ipc > count:
        raise InputError("ipc", ipc, f"the class has {count} images")
