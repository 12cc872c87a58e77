"""Prototypes against means that are computed here, from the samples that the seed gives."""

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_limits

from distill_hub.guidance.d4m import prototypes
from distill_hub.running.seeds import cpu_generator

SHAPE = (2, 3, 3)


def drawn(mean: torch.Tensor, std: torch.Tensor, seed: int) -> torch.Tensor:
    """Samples of the posteriors, in double precision; the seed gives an order first."""
    draw = cpu_generator(seed)
    torch.randperm(len(mean), generator=draw)
    return mean.double() + std.double() * torch.randn(mean.shape, generator=draw).double()


@pytest.mark.parametrize(("count", "batch_size"), [(12, 4), (14, 4), (3, 100), (1, 1)])
def test_one_prototype_is_the_mean_of_all_samples_whatever_is_left_for_the_last_batch(count, batch_size):
    mean, std = torch.randn(count, *SHAPE, generator=cpu_generator(0)), torch.full((count, *SHAPE), 0.5)
    (found,) = prototypes(mean, std, 1, seed=4, batch_size=batch_size)
    torch.testing.assert_close(found.double(), drawn(mean, std, 4).mean(0), atol=1e-5, rtol=1e-5)
    assert (found - mean.mean(0)).abs().max() > 1e-3  # samples, not means


def test_prototypes_of_separate_clusters_are_their_means():
    """30 latents in mini-batches of 12, 12 and 6, each of which is assigned as it will be in the end."""
    middles = torch.tensor([-100.0, 0.0, 100.0]).view(3, 1, 1, 1) + torch.zeros(3, *SHAPE)
    mean = middles.repeat(10, 1, 1, 1) + torch.randn(30, *SHAPE, generator=cpu_generator(0))
    std = torch.full(mean.shape, 0.5)
    found = prototypes(mean, std, 3, seed=4, batch_size=12).flatten(1).double().numpy()
    expected = drawn(mean, std, 4).view(10, 3, -1).mean(0).numpy()
    np.testing.assert_allclose(found[found[:, 0].argsort()], expected, atol=1e-4)


def test_the_seed_gives_the_prototypes_whatever_the_number_of_threads():
    mean, results = torch.randn(1200, *SHAPE, generator=cpu_generator(0)), []
    for threads, seed in ((1, 1), (2, 1), (1, 2)):
        with threadpool_limits(threads):
            results.append(prototypes(mean, 0.1 * mean.abs(), 5, seed, batch_size=600))
    assert torch.equal(results[0], results[1]) and not torch.equal(results[0], results[2])
