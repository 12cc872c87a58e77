"""Coresets: real images, chosen class by class. The baselines that tables of dataset distillation begin with.

Embeddings are taken as the classifier gives them; iCaRL (Rebuffi et al., CVPR 2017), from where the field has its herding,
scales them to length 1 first. Distances are Euclidean, in float64. Of equally good images the one with the lower index is
taken.
"""

import warnings
from collections.abc import Callable, Sequence
from itertools import accumulate

import torch
import torch.nn.functional as F

from distill_hub.classifiers import Classifier
from distill_hub.config import InputError
from distill_hub.data.sources import Source
from distill_hub.running.run import Run
from distill_hub.running.seeds import cpu_generator

RANDOM = {"name": "random", "title": "random selection of real images"}
HERDING = {
    "name": "herding",
    "title": "Herding",
    "paper": "https://doi.org/10.1145/1553374.1553517",
    "bibtex": """@inproceedings{welling2009herding,
  title = {Herding Dynamical Weights to Learn},
  author = {Welling, Max},
  booktitle = {International Conference on Machine Learning},
  year = {2009},
}""",
}
K_CENTER = {
    "name": "kcenter",
    "title": "K-Center",
    "paper": "https://arxiv.org/abs/1708.00489",
    "bibtex": """@inproceedings{sener2018active,
  title = {Active Learning for Convolutional Neural Networks: A Core-Set Approach},
  author = {Sener, Ozan and Savarese, Silvio},
  booktitle = {International Conference on Learning Representations},
  year = {2018},
}""",
}


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


def embed(
    run: Run, source: Source, teacher: Classifier, teacher_sha256: str, *, image_size: int, batch_size: int
) -> Callable[[int], torch.Tensor]:
    """Embed the training images, each class in batches of its own: the stage 'embed'. Each image is decoded once.

    Args:
        run: Spreads the batches over its processes.
        source: The real images.
        teacher: The classifier.
        teacher_sha256: Of its weights.
        image_size: Side in pixels of the set; the real images are embedded at it, too.
        batch_size: Images per forward pass.

    Returns:
        From the position of a class to the embeddings of its images, float32 (N, D) on the CPU, in the order of the training
        split.
    """
    train, counts = source.train, [len(rows) for rows in source.train.by_class]
    batches = [range(0, count, batch_size) for count in counts]
    items = [(label, start) for label, starts in enumerate(batches) for start in starts]
    longest = min(batch_size, max(counts))

    @torch.inference_mode()
    def of_batch(chunk: Sequence[tuple[int, int]]) -> dict[str, torch.Tensor]:
        ((label, start),) = chunk
        pixels = train.pixels(train.by_class[label][start : start + batch_size], image_size).to(teacher.device)
        found = teacher.embed(pixels.float() / 255).float().cpu()
        return {"embeddings": F.pad(found, (0, 0, 0, longest - len(found)))[None]}

    of = {"source": source.fingerprint, "teacher_sha256": teacher_sha256, "size": image_size, "batch_size": batch_size}
    how = {"made_from": of, "whole": True, "lower": "a smaller --embed_batch_size"}
    embedded = run.map("embed", items, of_batch, chunk_size=1, **how)
    ends = list(accumulate(map(len, batches)))

    def of_class(label: int) -> torch.Tensor:
        rows = embedded.rows(ends[label] - len(batches[label]), ends[label])["embeddings"]  # only the last batch is padded
        return rows.flatten(0, 1)[: counts[label]]

    return of_class


def _check(ipc: int, count: int) -> None:
    if ipc > count:
        raise InputError("ipc", ipc, f"the class has {count} images")
