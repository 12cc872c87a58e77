"""Clusters of a class's latents, against means and distances written out here."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_limits

from distill_hub.config import InputError
from distill_hub.guidance.modes import centres, posteriors
from distill_hub.running.seeds import cpu_generator

SHAPE = (2, 3, 3)


def blobs(count: int, each: int, spread: float) -> torch.Tensor:
    """`count` clusters of `each` latents, far from each other; latent i belongs to cluster i % count."""
    draw = cpu_generator(3)
    middles = 20 * torch.randn(count, *SHAPE, generator=draw)
    return middles.repeat(each, 1, 1, 1) + spread * torch.randn(count * each, *SHAPE, generator=draw)


def sorted_rows(latents: torch.Tensor) -> np.ndarray:
    rows = latents.flatten(1).double().numpy()
    return rows[rows[:, 0].argsort()]


def test_the_centres_of_separate_clusters_are_their_means():
    latents = blobs(4, 9, 1.0)
    means = latents.view(9, 4, *SHAPE).mean(0)
    np.testing.assert_allclose(sorted_rows(centres(latents, 4, seed=5)), sorted_rows(means), atol=1e-5)


def test_centres_stay_where_they_are_when_they_are_computed_once_more():
    """Lloyd's fixed point: each is the mean of those that are closer to it than to any other."""
    points = torch.randn(200, *SHAPE, generator=cpu_generator(0))
    found = centres(points, 6, seed=1).flatten(1).double().numpy()
    flat = points.flatten(1).double().numpy()
    closest = np.array([np.argmin([((point - centre) ** 2).sum() for centre in found]) for point in flat])
    again = np.stack([flat[closest == cluster].mean(0) for cluster in range(6)])
    np.testing.assert_allclose(again, found, atol=1e-5)


def test_the_nearest_latents_are_real_ones():
    points = torch.randn(60, *SHAPE, generator=cpu_generator(0))
    middles, found = centres(points, 5, seed=1), centres(points, 5, seed=1, nearest=True)
    for middle, own in zip(middles, found, strict=True):
        far = [float((point - middle).square().sum()) for point in points]
        place = int((points == own).flatten(1).all(1).nonzero())
        assert far[place] <= min(far) * (1 + 1e-5)  # two images that make up a cluster are as close


def test_projections_are_clustered_where_that_is_asked_for():
    """Two numbers tell four clusters apart; the others are noise that principal components leave out."""
    draw = cpu_generator(0)
    latents = torch.randn(40, *SHAPE, generator=draw)
    corners = torch.tensor([[1.0, 1], [1, -1], [-1, 1], [-1, -1]]).repeat(10, 1)
    latents[:, 0, 0, :2] = 50 * corners + latents[:, 0, 0, :2]
    flat = latents.flatten(1).double().numpy()
    around = flat - flat.mean(0)
    projections = around @ np.linalg.svd(around, full_matrices=False)[2][:2].T
    expected = []
    for cluster in range(4):
        middle = projections[cluster::4].mean(0)
        expected.append(int(((projections - middle) ** 2).sum(1).argmin()))
    found = centres(latents, 4, seed=0, nearest=True, components=2)
    assert {int((latents == own).flatten(1).all(1).nonzero()) for own in found} == set(expected)


def test_the_number_of_threads_does_not_change_a_bit():
    points = torch.randn(1200, *SHAPE, generator=cpu_generator(0))
    results = []
    for threads in (1, 2, 3):
        with threadpool_limits(threads):
            results.append(centres(points, 20, seed=1))
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])
    assert not torch.equal(results[0], centres(points, 20, seed=2))


@pytest.mark.filterwarnings("error")
def test_fewer_distinct_images_than_clusters():
    points = blobs(2, 3, 0.0)
    found = centres(points, 4, seed=0)
    assert found.shape == (4, *SHAPE)
    for centre in found:
        assert min(float((centre - point).abs().max()) for point in points) < 1e-5


def test_more_components_than_there_are_is_one_line():
    with pytest.raises(InputError, match="pca: 7 cannot be used; a class has 6 images; valid: at most 6"):
        centres(blobs(2, 3, 1.0), 2, seed=0, nearest=True, components=7)


def test_a_class_is_encoded_in_its_order_a_few_at_a_time():
    images = torch.arange(7, dtype=torch.uint8).view(7, 1, 1, 1).expand(7, 3, 2, 2)
    asked = []

    def pixels(rows, size):
        asked.append((list(rows), size))
        return images[list(rows)]

    def posterior(found):
        return 255 * found[:, :1], 255 * found[:, :1] + 10

    source = SimpleNamespace(train=SimpleNamespace(by_class=[np.array([0]), np.array([1, 3, 4, 5, 6])], pixels=pixels))
    generator = SimpleNamespace(image_size=2, device=torch.device("cpu"), posterior=posterior)
    mean, std = posteriors(generator, source, 1, 2)
    torch.testing.assert_close(mean[:, 0, 0, 0], torch.tensor([1.0, 3, 4, 5, 6]))
    torch.testing.assert_close(std, mean + 10)
    assert asked == [([1, 3], 2), ([4, 5], 2), ([6], 2)]
