"""DEDA's losses against plain loops in float64, their gradients, and what they lead to."""

import numpy as np
import pytest
import torch
from small_net import make_teacher

from distill_hub.config import InputError, check_settings
from distill_hub.data.classes import SourceClass
from distill_hub.options.deda import DedaConfig
from distill_hub.recovery import deda
from distill_hub.recovery.sre2l import grouped_cross_entropy

CLASSES = [SourceClass(name, place, None) for place, name in enumerate(("ant", "bee", "cat"))]


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def covariance(features: np.ndarray) -> np.ndarray:
    """Eq. 5, a vector at a time."""
    mean = sum(features) / len(features)
    return sum(np.outer(vector - mean, vector - mean) for vector in features) / len(features)


FEATURES, MEAN, ROOT = normal(2, 5, 4), normal(2, 4, seed=1), normal(2, 4, 4, seed=2)
COVARIANCE = ROOT @ ROOT.transpose(1, 2)


@pytest.mark.parametrize(("reduction", "scale"), [("sum", 1), ("dimension", 4), ("mean", 16), ("relative", None)])
def test_alignment_is_eq_6(reduction, scale):
    found = deda.gaussian_alignment(FEATURES, MEAN, COVARIANCE, 3.0, reduction)
    for group in range(2):
        features, wanted = FEATURES[group].numpy(), COVARIANCE[group].numpy()
        difference = covariance(features) - wanted
        squares = sum(entry**2 for row in difference for entry in row) / (scale or sum((wanted**2).ravel()))
        expected = sum((features.mean(0) - MEAN[group].numpy()) ** 2) + 3.0 * squares
        assert float(found[group]) == pytest.approx(expected, rel=1e-12)
    leaf = FEATURES.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: deda.gaussian_alignment(x, MEAN, COVARIANCE, 3.0, reduction), leaf)


def test_without_gamma_the_means_alone_count():
    found = deda.gaussian_alignment(FEATURES, MEAN, None, 0.0)
    torch.testing.assert_close(found, ((FEATURES.mean(1) - MEAN) ** 2).sum(1))


def test_variance_loss_is_eq_7():
    features = FEATURES.clone()
    features[:, :, 1] *= 30  # beyond 1: no loss
    features[:, :, 2] = 0.25  # no variance at all
    found = deda.variance_loss(features)
    for group in range(2):
        deviations = np.sqrt(np.diag(covariance(features[group].numpy())) + 1e-4)
        assert deviations[1] > 1 and deviations[2] == 0.01
        assert float(found[group]) == pytest.approx(sum(max(0.0, 1 - d) for d in deviations) / 4, rel=1e-12)
    assert torch.autograd.gradcheck(deda.variance_loss, features.requires_grad_())


def test_covariance_loss_is_eq_8():
    found = deda.covariance_loss(FEATURES)
    for group in range(2):
        entries = covariance(FEATURES[group].numpy())
        expected = sum(entries[i, j] ** 2 for i in range(4) for j in range(4) if i != j) / (4 * 3)
        assert float(found[group]) == pytest.approx(expected, rel=1e-12)
    assert torch.autograd.gradcheck(deda.covariance_loss, FEATURES.clone().requires_grad_())


def test_by_hand():
    # Two points: mean (1, 0), covariance [[1, 2], [2, 4]].
    features = torch.tensor([[[0.0, -2.0], [2.0, 2.0]]], dtype=torch.float64)
    goal = torch.zeros(1, 2), torch.tensor([[[1.0, 0.0], [0.0, 2.0]]])
    assert deda.gaussian_alignment(features, *goal, 0.5, "sum").tolist() == [1 + 0.5 * (4 + 4 + 4)]
    assert deda.gaussian_alignment(features, *goal, 0.5).tolist() == [1 + 0.5 * (4 + 4 + 4) / 2]
    assert deda.gaussian_alignment(features, *goal, 0.5, "relative").tolist() == [1 + 0.5 * 12 / 5]
    assert deda.covariance_loss(features).tolist() == [4.0]
    assert deda.variance_loss(features).tolist() == [0.0]


def test_points_become_a_sample_of_the_gaussian():
    real = normal(2000, 3, seed=4) @ torch.tensor([[1.0, 0.6, 0.0], [0.0, 0.5, -0.3], [0.0, 0.0, 0.2]]).double() + 2
    mean, wanted = real.mean(0)[None], torch.from_numpy(covariance(real.numpy()))[None]
    points = normal(1, 40, 3, seed=5).requires_grad_()
    optimizer = torch.optim.LBFGS([points], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        total = deda.gaussian_alignment(points, mean, wanted).sum()
        total.backward()
        return total

    optimizer.step(loss)
    found = points.detach()[0].numpy()
    np.testing.assert_allclose(found.mean(0), mean[0], atol=1e-3)
    np.testing.assert_allclose(covariance(found), wanted[0], atol=1e-3)


class MemoryBank:
    """A bank in memory, and what was read of it."""

    def __init__(self):
        self.asked = []
        self.layers = [
            {"mean": normal(3, size, seed=size), "covariance": torch.eye(size, dtype=torch.float64).repeat(3, 1, 1)}
            for size in (4, 6)
        ]

    def read(self, labels, *names):
        self.asked.append((list(labels), names))
        return [tuple(layer[name][labels] for name in names) for layer in self.layers]


def features_of(teacher, images: torch.Tensor, at: str) -> list[torch.Tensor]:
    values, found = normalised(teacher, images), []
    for module in teacher.model:
        is_norm = isinstance(module, torch.nn.BatchNorm2d)
        if is_norm and at == "inputs":
            found.append(values.mean((2, 3)))
        values = module(values)
        if is_norm and at == "outputs":
            found.append(values.mean((2, 3)))
        if isinstance(module, torch.nn.Flatten):
            found.append(values)
    return [*found, values]


def normalised(teacher, images: torch.Tensor) -> torch.Tensor:
    mean, std = (torch.tensor(value, dtype=torch.float64).view(3, 1, 1) for value in (teacher.mean, teacher.std))
    return (images - mean) / std


@pytest.mark.parametrize("at", ["inputs", "outputs"])
@pytest.mark.parametrize(
    ("gamma", "lambda_var", "lambda_cov"),
    [(50.0, 0.2, 4.0), (0.0, 0.0, 0.0), (7.0, 0.0, 0.0), (0.0, 0.3, 0.0), (2.0, 0.0, 5.0)],
)
def test_the_objective_is_eq_9(at, gamma, lambda_var, lambda_cov):
    teacher, bank, labels = make_teacher(CLASSES, dtype=torch.float64), MemoryBank(), torch.tensor([2] * 3 + [0] * 3)
    images = torch.rand(6, 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(9))
    weights = {"gamma": gamma, "lambda_var": lambda_var, "lambda_cov": lambda_cov}
    objective = deda.objective(teacher, labels, 2, bank, at=at, **weights)
    assert bank.asked == [([2, 0], ("mean", "covariance") if gamma else ("mean",))]
    *layers, last, logits = features_of(teacher, images, at)
    expected = grouped_cross_entropy(logits, labels, 2)
    for features, layer in zip(layers, bank.layers, strict=True):
        args = features.unflatten(0, (2, 3)), layer["mean"][[2, 0]], layer["covariance"][[2, 0]]
        expected = expected + deda.gaussian_alignment(*args, gamma)
    last = last.unflatten(0, (2, 3))
    expected = expected + lambda_var * deda.variance_loss(last) + lambda_cov * deda.covariance_loss(last)
    torch.testing.assert_close(objective(images), expected, rtol=1e-10, atol=1e-10)
    assert torch.autograd.gradcheck(objective, images.clone().requires_grad_(), fast_mode=True, atol=1e-5)


def test_one_image_per_class_has_no_covariance():
    for words in ({}, {"gamma": 0.0, "lambda_cov": 0.0}):
        with pytest.raises(InputError, match="ipc: 1 cannot be used; one image has no covariance"):
            check_settings(DedaConfig(ipc=1, **words))
    check_settings(DedaConfig(ipc=1, gamma=0.0, lambda_var=0.0, lambda_cov=0.0))
    check_settings(DedaConfig(ipc=2))
