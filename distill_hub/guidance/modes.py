"""Modes: what the real images of a class cluster around, as latents of a generator."""

import warnings

import torch

from distill_hub.config import InputError
from distill_hub.data.sources import Source
from distill_hub.generators.base import Generator


@torch.inference_mode()
def posteriors(generator: Generator, source: Source, label: int, batch_size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Encode the training images of one class, as they are: none is mirrored.

    Args:
        generator: Encodes, by its `posterior`.
        source: The real images.
        label: Position of the class.
        batch_size: Images per forward pass.

    Returns:
        Mean and standard deviation of their latents, each float32 (N, channels, h, w) on the CPU, in the order of the
        training split. A class of 1,300 images at 256 px takes 43 MB.
    """
    rows, parts = source.train.by_class[label], []
    for start in range(0, len(rows), batch_size):
        images = source.train.pixels(rows[start : start + batch_size], generator.image_size).to(generator.device)
        parts.append([part.float().cpu() for part in generator.posterior(images.float() / 255)])
    mean, std = (torch.cat(part) for part in zip(*parts, strict=True))
    return mean, std


def centres(
    latents: torch.Tensor, count: int, seed: int, *, nearest: bool = False, components: int | None = None
) -> torch.Tensor:
    """Return the centres of K-means clusters of latents, or the latents nearest to them.

    The clustering is scikit-learn's (k-means++, one start, Lloyd's algorithm), on one thread: with several the order of its
    sums, and so its last bits, are left to chance.

    Args:
        latents: float32 (N, channels, h, w).
        count: Number of clusters, K, at most N.
        seed: Of the start.
        nearest: Return of each centre the latent nearest to it: a real image's.
        components: Principal components that are clustered in place of the latents, at most N and channels·h·w; with
            `nearest` alone. None: the latents are.

    Returns:
        float32 (K, channels, h, w).

    Raises:
        InputError: For more components than there are.
    """
    from sklearn.cluster import KMeans
    from sklearn.decomposition import PCA
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits

    points, random_state = latents.flatten(1).numpy(), seed % 2**32
    if components is not None and components > (most := min(points.shape)):
        raise InputError("pca", components, f"a class has {len(points)} images; valid: at most {most}")
    with warnings.catch_warnings(), threadpool_limits(1):
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct images than clusters: some centres are alike
        if components is not None:
            points = PCA(components, random_state=random_state).fit_transform(points)
        found = torch.from_numpy(KMeans(count, n_init=1, random_state=random_state).fit(points).cluster_centers_)
    if not nearest:
        return found.view(count, *latents.shape[1:])
    distances = torch.cdist(found, torch.from_numpy(points), compute_mode="donot_use_mm_for_euclid_dist")
    return latents[distances.argmin(1)]
