"""Distances of gradients, against loops over rows with NumPy in float64."""

import numpy as np
import pytest
import torch

from distill_hub.matching import distances

SHAPES = [(4, 3, 2, 2), (4,), (4,), (5, 7), (5,)]  # a convolution, its bias, a norm's scale, a linear layer and its bias


def gradients(seed: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, dtype=torch.float64, generator=generator) for shape in SHAPES]


def far(a: np.ndarray, b: np.ndarray) -> float:
    return 1 - float(np.dot(a, b)) / (np.sqrt(np.dot(a, a)) * np.sqrt(np.dot(b, b)) + 1e-6)


def test_rows_are_those_of_output_channels_and_vectors_do_not_count():
    real, own = gradients(0), gradients(1)
    expected = sum(
        far(real[layer][row].numpy().ravel(), own[layer][row].numpy().ravel())
        for layer in (0, 3)
        for row in range(SHAPES[layer][0])
    )
    assert float(distances.row_cosine(real, own)) == pytest.approx(expected, rel=1e-12)
    assert expected > 5


def test_the_others_take_all_gradients_as_one_vector():
    real, own = gradients(0), gradients(1)
    a, b = (np.concatenate([part.numpy().ravel() for part in parts]) for parts in (real, own))
    assert float(distances.cosine(real, own)) == pytest.approx(far(a, b), rel=1e-12)
    assert float(distances.squared(real, own)) == pytest.approx(float(((a - b) ** 2).sum()), rel=1e-12)


def test_equal_gradients_have_no_distance_and_none_at_all_has_one_per_row():
    real = gradients(0)
    assert abs(float(distances.row_cosine(real, real))) < 1e-5  # what is added to the denominator
    assert float(distances.row_cosine(real, [10 * part for part in real])) < 1e-5
    assert float(distances.row_cosine(real, [-part for part in real])) == pytest.approx(18, abs=1e-5)  # 2 x (4 + 5) rows
    assert float(distances.row_cosine(real, [torch.zeros_like(part) for part in real])) == 9


@pytest.mark.parametrize("distance", [distances.row_cosine, distances.cosine, distances.squared])
def test_the_gradient_is_that_of_finite_differences(distance):
    real, own = gradients(0), [part.requires_grad_() for part in gradients(1)]
    assert torch.autograd.gradcheck(lambda *parts: distance(real, parts), own)


def test_a_synthetic_gradient_of_zero_gets_a_finite_gradient():
    real, own = gradients(0), [torch.zeros_like(part).requires_grad_() for part in gradients(1)]
    distances.row_cosine(real, own).backward()
    assert all(part.grad is None or part.grad.isfinite().all() for part in own)
