"""The losses of G-VBSM and EDC, against NumPy in float64."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small_net import make_teacher
from torch import nn

from distill_hub.data.classes import SourceClass
from distill_hub.recovery import gvbsm
from distill_hub.statistics.convolutions import Measured, layers_of

CLASSES = [SourceClass(name, place, None) for place, name in enumerate(("ant", "bee", "cat"))]
LABELS = torch.tensor([0, 0, 2, 2, 2])
SIZES = [(3, 16), (4, 16), (4,), (6,)]  # channels and 4 x 4 patches of what the layers see: two convolutions, two norms


def images_of(seed: int) -> torch.Tensor:
    return torch.rand(len(LABELS), 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


class Real(Measured):
    """Statistics as real images might have them, in memory."""

    def of(self, labels):
        assert labels == LABELS.tolist()
        return drawn(2)


def drawn(seed: int) -> list[tuple[torch.Tensor, ...]]:
    """Statistics of the four layers: mean and variance of channels, and of patches."""
    rng = np.random.default_rng(seed)
    return [tuple(torch.from_numpy(rng.random(size)) for size in sizes for _ in range(2)) for sizes in SIZES]


@pytest.fixture
def real() -> Measured:
    teacher = make_teacher(CLASSES, dtype=torch.float64)
    return Real(teacher, layers_of(teacher, 16), drawn(1), ())


def seen(teacher, images: torch.Tensor) -> tuple[list[list[np.ndarray]], np.ndarray]:
    """Statistics of what the layers see, patch by patch, and the logits."""
    mean, std = (np.reshape(value, (1, 3, 1, 1)) for value in (teacher.mean, teacher.std))
    values, found = torch.from_numpy((images.numpy() - mean) / std), {nn.Conv2d: [], nn.BatchNorm2d: []}
    for module in teacher.model:
        maps = values.numpy()
        if isinstance(module, nn.Conv2d | nn.BatchNorm2d):
            own = [maps.mean((0, 2, 3)), maps.var((0, 2, 3))]
            if isinstance(module, nn.Conv2d):
                cells = [maps[:, :, i : i + 4, j : j + 4] for i in range(0, 16, 4) for j in range(0, 16, 4)]
                own += [np.array([cell.mean() for cell in cells]), np.array([cell.var() for cell in cells])]
            found[type(module)].append(own)
        values = module(values)
    return found[nn.Conv2d] + found[nn.BatchNorm2d], values.numpy()


def cross_entropy(logits: np.ndarray) -> float:
    return float(np.mean(np.log(np.exp(logits).sum(1)) - logits[range(len(LABELS)), LABELS.numpy()]))


@pytest.mark.parametrize("class_share", [0.0, 0.5, 1.0])
def test_it_aligns_moving_averages_that_start_with_the_first_batch(real, class_share):
    how = {"weight": 0.3, "first_layer_weight": 7.0, "decay": 0.8, "densification_weight": 0.0}
    objective = gvbsm.objective(real, LABELS, **how, class_share=class_share)
    averages = None
    for step in range(3):
        own, logits = seen(real.teacher, images_of(step))
        averages = averages or own
        averages = [
            [0.8 * old + 0.2 * new for old, new in zip(*pair, strict=True)] for pair in zip(averages, own, strict=True)
        ]
        expected = cross_entropy(logits)
        for share, goals in ((1 - class_share, real.whole), (class_share, drawn(2))):
            for place, (layer, goal) in enumerate(zip(averages, goals, strict=True)):
                distance = sum(math.dist(mean, aim) for mean, aim in zip(layer, goal, strict=True))
                expected += 0.3 * share * (7 if place == 0 else 1) * distance
        assert objective(images_of(step)).tolist() == [pytest.approx(expected, rel=1e-9)]


def test_the_gradient_is_that_of_the_averages_distance_through_the_batch(real):
    """Of ||goal - average||: its unit vector, not scaled by the batch's share of the average."""
    own = torch.tensor([[3.0, 1.0]], dtype=torch.float64, requires_grad=True)
    average, goal = torch.tensor([[2.0, 2.0]], dtype=torch.float64), torch.tensor([5.0, 6.0], dtype=torch.float64)
    loss = gvbsm.alignment_loss({1: (own,)}, {1: (average,)}, [(0.5, [(), (goal,)])], [10.0, 2.0])
    assert float(loss.detach()) == pytest.approx(5.0)  # .5 * 2 * ||(3, 4)||
    (gradient,) = torch.autograd.grad(loss, own)
    assert gradient.tolist() == [pytest.approx([-0.6, -0.8])]


def test_without_an_average_it_is_the_batchs_own_distance_and_has_its_gradient(real):
    objective = gvbsm.objective(real, LABELS, decay=0.0, densification_weight=0.0)
    assert torch.autograd.gradcheck(objective, images_of(0).requires_grad_(), fast_mode=True, atol=1e-6)


def test_convolutions_are_left_out_by_chance_and_norms_never(real):
    objective = gvbsm.objective(real, LABELS, drop_rate=0.5, decay=0.0, densification_weight=0.0, weight=1.0, seed=3)
    own, logits = seen(real.teacher, images_of(0))
    parts = [
        (10 if place == 0 else 1) * sum(math.dist(mean, aim) for mean, aim in zip(layer, goal, strict=True))
        for place, (layer, goal) in enumerate(zip(own, real.whole, strict=True))
    ]
    always = cross_entropy(logits) + parts[2] + parts[3]
    outcomes = {frozenset(kept): always + sum(parts[place] for place in kept) for kept in ((), (0,), (1,), (0, 1))}
    found = [float(objective(images_of(0))) for _ in range(40)]
    met = [next(kept for kept, value in outcomes.items() if math.isclose(one, value, rel_tol=1e-9)) for one in found]
    assert set(met) == set(outcomes) and 10 < sum(0 in kept for kept in met) < 30


def test_densification_compares_the_spectra_of_classes_at_32_pixels():
    images = images_of(5) * 0.1
    expected = 0.0
    for label in (0, 2):
        own = images[label == LABELS].numpy().repeat(2, 2).repeat(2, 3).reshape(int((label == LABELS).sum()), -1)
        values = np.linalg.eigvals(own @ own.T).real
        sharp, soft = (np.exp(v - v.max()) / np.exp(v - v.max()).sum() for v in (values, values / 4))
        expected += float((soft * np.log(soft / sharp)).sum())
    assert expected > 0.01
    assert float(gvbsm.densification_loss(images, LABELS)) == pytest.approx(expected, rel=1e-8)

    point = images.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(gvbsm.densification_loss(point, LABELS), point)
    direction, step = torch.rand(images.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1)), 1e-5

    def against_fixed(moved: torch.Tensor) -> float:  # the first argument of the divergence has no gradient
        total = 0.0
        for label in (0, 2):
            fixed, own = (F.adaptive_avg_pool2d(x[label == LABELS], 32).flatten(1) for x in (images, moved))
            soft = (torch.linalg.eigvalsh(fixed @ fixed.T) / 4).softmax(0)
            total -= float((soft * torch.linalg.eigvalsh(own @ own.T).log_softmax(0)).sum())
        return total

    numeric = (against_fixed(images + step * direction) - against_fixed(images - step * direction)) / (2 * step)
    assert float((gradient * direction).sum()) == pytest.approx(numeric, rel=1e-5)


def test_the_objective_adds_the_densification_of_normalised_images(real):
    images = images_of(0) * 0.02 + torch.tensor(real.teacher.mean).view(3, 1, 1)
    with_it, without = (float(gvbsm.objective(real, LABELS, densification_weight=weight)(images)) for weight in (2.0, 0.0))
    normalized = (images - torch.tensor(real.teacher.mean).view(3, 1, 1)) / torch.tensor(real.teacher.std).view(3, 1, 1)
    expected = 2 * float(gvbsm.densification_loss(normalized, LABELS))
    assert expected > 1e-3 and with_it - without == pytest.approx(expected, rel=1e-4)
