"""Experts: training on a vector of weights is what torch.optim does to a network; GSAM's gradient by hand; kept epochs."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from distill_hub.augmentation.augment import Augmentation, augment, batch_of, draw
from distill_hub.augmentation.dsa import operations
from distill_hub.matching.experts import Flat, flat_gradient, logits_of, train_expert
from distill_hub.networks.build import ConvNet
from distill_hub.options.experts import ExpertsConfig, with_defaults
from distill_hub.running.seeds import cpu_generator, draw_seed

NORMALIZATION = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)
SETTINGS = ExpertsConfig(expert_batch_size=4, expert_learning_rate=0.1)
KEPT = [0, 1, 3]  # of 3 epochs


def network():
    torch.manual_seed(0)
    return ConvNet(3, depth=2, image_size=8, width=4)


@pytest.fixture(scope="module")
def real():
    generator = cpu_generator(1)
    return torch.randint(256, (10, 3, 8, 8), dtype=torch.uint8, generator=generator), torch.arange(10) % 3


def trained(real, todo, settings=SETTINGS, state=None):
    flat = Flat(network())
    state = state or {"weights": flat.own, "trajectory": flat.own.repeat(len(KEPT), 1)}
    how = {"mirrored": True, "normalization": NORMALIZATION, "seed": 5}
    train_expert(state, todo, flat, *real, settings, KEPT, **how)
    return state


def test_a_flat_network_is_the_network():
    own, images = network(), torch.randn(2, 3, 8, 8)
    flat = Flat(own)
    torch.testing.assert_close(flat(flat.own, images), own(images), rtol=0, atol=0)
    assert torch.equal(flat.own[: 4 * 3 * 9].view(4, 3, 3, 3), own.features[0].weight)


def test_an_expert_is_trained_as_torch_trains_a_network(real):
    images, labels = real
    own, kept = network(), []
    optimizer = torch.optim.SGD(own.parameters(), lr=0.1)
    kept.append(Flat(own).own)
    for epoch in range(3):
        generator = cpu_generator(draw_seed(5, "expert epoch", epoch))
        draws = draw(Augmentation(dsa=operations(True)), 10, 4, 8, generator)
        for start, stop in ((0, 4), (4, 8), (8, 10)):  # the last batch is what is left
            part = batch_of(draws, start, stop)
            loss = F.cross_entropy(own(augment(images[part["order"]], part, *NORMALIZATION)), labels[part["order"]])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        if epoch + 1 in KEPT:
            kept.append(Flat(own).own)
    state = trained(real, range(9))
    torch.testing.assert_close(state["trajectory"], torch.stack(kept), rtol=1e-5, atol=1e-7)
    assert torch.equal(state["trajectory"][-1], state["weights"])
    assert not torch.equal(state["trajectory"][1], state["trajectory"][2])


def test_one_that_was_cut_short_goes_on_to_the_same_bits(real):
    whole = trained(real, range(9))
    state = trained(real, range(5))
    trained(real, range(5, 9), state=state)
    assert all(torch.equal(whole[name], state[name]) for name in whole)


def test_flat_experts_take_other_steps(real):
    gsam = ExpertsConfig(expert_batch_size=4, expert_learning_rate=0.1, expert_optimizer="gsam")
    flat, sharp = trained(real, range(9), gsam), trained(real, range(9))
    distance = (flat["weights"] - sharp["weights"]).norm() / (sharp["weights"] - sharp["trajectory"][0]).norm()
    assert 0.01 < distance < 1


def test_gsam_by_hand():
    """Zhuang et al., Alg. 1 with ASAM's neighbourhood, on a quadratic form, with NumPy and the angle between gradients."""
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(6, 6))
    hessian, weights, radius, share = matrix @ matrix.T, rng.normal(size=6), 0.3, 0.4
    here = hessian @ weights
    norm = np.sqrt(sum((abs(w) * g) ** 2 for w, g in zip(weights, here, strict=True)))
    there = hessian @ np.array([w + radius * w**2 * g / norm for w, g in zip(weights, here, strict=True)])
    lengths = np.linalg.norm(here), np.linalg.norm(there)
    cosine = here @ there / (lengths[0] * lengths[1])
    across = here - lengths[0] * cosine * there / lengths[1]
    tensor = torch.from_numpy(hessian)
    found = flat_gradient(lambda w: tensor @ w, torch.from_numpy(weights), radius, share)
    np.testing.assert_allclose(found.numpy(), there - share * across, rtol=1e-10)
    assert abs(across @ there) < 1e-9 * lengths[0] * lengths[1]


def test_logits_are_those_of_the_network_in_parts(real):
    own = network()
    expected = own(augment(real[0], {}, *NORMALIZATION))
    found = logits_of(Flat(own), Flat(own).own, real[0], NORMALIZATION, batch_size=4)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_defaults_follow_the_image_size_and_what_is_given_stays():
    small, large = (with_defaults(ExpertsConfig(expert_epochs=3), size) for size in (16, 32))
    assert (small.network, small.expert_count, small.expert_epochs) == ("convnet-2-w32", 4, 3)
    assert (large.network, large.expert_count, large.expert_batch_size, large.expert_learning_rate) == (
        "convnet-3", 100, 256, 0.01,
    )  # fmt: skip
    assert with_defaults(ExpertsConfig(network="convnet-1"), 16).network == "convnet-1"
