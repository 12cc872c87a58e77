"""DWA's moved weights and its loss, against separate references in float64."""

import math

import numpy as np
import pytest
import torch
from small_net import make_teacher
from torch import nn

from distill_hub.artifact.describe import weights_sha256
from distill_hub.classifiers import Classifier
from distill_hub.data.classes import SourceClass
from distill_hub.recovery import dwa, sre2l
from distill_hub.recovery.recover import Views, recover

CLASSES = [SourceClass(name, place, None) for place, name in enumerate(("ant", "bee", "cat"))]
LABELS = torch.tensor([2, 0, 1])


def images_of(count: int = 3) -> torch.Tensor:
    return torch.rand(count, 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_weights_go_up_the_cross_entropy_in_steps_of_one_length():
    """By hand, in a network that is a softmax regression on an image's mean colour."""
    model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 3)).double()
    names = [known.name for known in CLASSES]
    teacher = Classifier(model, id="mean", architecture="mean", classes=CLASSES, class_names=names, image_size=16)
    before, images = weights_sha256(model), images_of()
    colours = (images.numpy().mean((2, 3)) - np.array(teacher.mean)) / np.array(teacher.std)
    weight, bias = (value.detach().numpy().copy() for value in (model[2].weight, model[2].bias))
    for _ in range(3):
        slope, offset = np.zeros((3, 3)), np.zeros(3)
        for colour, label in zip(colours, LABELS.tolist(), strict=True):
            scores = [math.exp(sum(weight[c] * colour) + bias[c]) for c in range(3)]
            for c in range(3):
                error = (scores[c] / sum(scores) - (c == label)) / len(colours)
                slope[c] += error * colour
                offset[c] += error
        length = math.sqrt((slope**2).sum() + (offset**2).sum())
        weight, bias = weight + 0.3 / 3 * slope / length, bias + 0.3 / 3 * offset / length
    found = dwa.adjusted(teacher, images, LABELS, 0.3, 3)
    np.testing.assert_allclose(found.model[2].weight.numpy(), weight, rtol=1e-10)
    np.testing.assert_allclose(found.model[2].bias.numpy(), bias, rtol=1e-10)
    assert weights_sha256(model) == before  # and the teacher is as it was


def test_all_parameters_move_and_running_statistics_stay():
    teacher = make_teacher(CLASSES, dtype=torch.float64)
    own = dwa.adjusted(teacher, images_of(), LABELS, 0.02, 4)
    moved = {name for name, one in own.model.state_dict().items() if not torch.equal(one, teacher.model.state_dict()[name])}
    assert moved == {name for name, _ in teacher.model.named_parameters()}
    pairs = zip(own.model.parameters(), teacher.model.parameters(), strict=True)
    assert 0.01 < math.sqrt(sum(float((one - other).square().sum()) for one, other in pairs)) <= 0.02
    assert not any(parameter.requires_grad for parameter in [*own.model.parameters(), *teacher.model.parameters()])
    teacher.model.register_parameter("spare", nn.Parameter(torch.ones(2), requires_grad=False))  # of no layer
    still = dwa.adjusted(teacher, images_of(), LABELS, 0.0, 4)
    assert weights_sha256(still.model) == weights_sha256(teacher.model)


def test_distances_of_variances_have_a_weight_of_their_own():
    rng = np.random.default_rng(0)
    sizes = (4, 6)
    found, wanted = ([[rng.normal(size=(1, size)) for _ in range(2)] for size in sizes] for _ in range(2))
    expected = 0.0
    for place in range(2):
        variance, mean = (math.dist(found[place][of][0], wanted[place][of][0]) for of in range(2))
        expected += (11 * variance + mean) * (7 if place == 0 else 1)
    given = [[tuple(map(torch.from_numpy, layer)) for layer in layers] for layers in (found, wanted)]
    assert sre2l.statistics_loss(*given, 7.0, 11.0).tolist() == pytest.approx([expected])


def test_a_batch_is_optimised_in_the_network_that_its_first_views_have_moved():
    teacher = make_teacher(CLASSES, dtype=torch.float64)
    before, images = weights_sha256(teacher.model), images_of()
    weights = {"weight": 0.3, "first_layer_weight": 7.0, "variance_weight": 2.0}
    loss = dwa.objective(teacher, LABELS, rho=0.5, steps=2, **weights)
    moved = sre2l.statistics_objective(dwa.adjusted(teacher, images, LABELS, 0.5, 2), LABELS, 1, **weights)
    assert (
        loss(images).tolist() == moved(images).tolist() != sre2l.statistics_objective(teacher, LABELS, 1, **weights)(images)
    )
    assert loss(images.flip(3)).tolist() == moved(images.flip(3)).tolist()  # not moved again
    assert weights_sha256(teacher.model) == before
    teacher, start = make_teacher(CLASSES), (images * 255).to(torch.uint8)
    how = {"start": start, "size": 16, "steps": 3, "learning_rate": 0.1, "views_seed": 1, "views": Views(1.0, False, (0, 0))}
    found = [recover(teacher, [dwa.objective(teacher, LABELS, rho=rho)], [1, 2, 3], **how) for rho in (0.5, 0.5, 0.0)]
    assert torch.equal(found[0][0], found[1][0]) and not torch.equal(found[0][1], found[2][1])


def test_weights_that_do_not_move_cost_no_gradients(monkeypatch):
    monkeypatch.delattr(dwa, "adjusted")
    teacher, images = make_teacher(CLASSES, dtype=torch.float64), images_of()
    loss = dwa.objective(teacher, LABELS, rho=0.0, variance_weight=1.0)
    assert loss(images).tolist() == sre2l.statistics_objective(teacher, LABELS, 1)(images).tolist()
