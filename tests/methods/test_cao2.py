"""CaO2's two stages: selection by hand-computed indices, refinement against one image at a time in plain code."""

import pytest
import torch
from helpers import make_pipeline

from distill_hub.config import InputError
from distill_hub.generators.dit import DiTGenerator
from distill_hub.methods import cao2
from distill_hub.methods.judging import Verdicts, judge
from distill_hub.running.seeds import cpu_generator

# Probabilities of three classes for six candidates of class 1.
PROBABILITIES = torch.tensor(
    [
        [0.1, 0.8, 0.1],  # 0: right, 0.8
        [0.5, 0.4, 0.1],  # 1: wrong, 0.4
        [0.2, 0.5, 0.3],  # 2: right, 0.5
        [0.0, 0.9, 0.1],  # 3: right, 0.9
        [0.8, 0.1, 0.1],  # 4: wrong, 0.1
        [0.3, 0.3, 0.4],  # 5: wrong, 0.3
    ]
)


def candidates(probabilities=PROBABILITIES, label=1):
    logits = probabilities.clamp(min=1e-6).log() + 5  # they are defined up to a constant
    return Verdicts(**judge(logits, [label] * len(logits)))


@pytest.mark.parametrize(
    ("order", "ipc", "expected"),
    [
        ("most_confident", 1, [3]),
        ("most_confident", 2, [3, 0]),
        ("most_confident", 3, [3, 0, 2]),
        ("least_confident", 1, [2]),
        ("least_confident", 2, [2, 0]),
        ("least_confident", 3, [2, 0, 3]),
        ("auto", 2, [3, 0]),
    ],
)
def test_selection_of_correct_candidates(order, ipc, expected):
    assert cao2.select(candidates(), ipc, order=order).tolist() == expected


def test_auto_takes_easy_samples_below_ipc_50_and_hard_ones_from_there():
    assert cao2.resolve_order("auto", 49) == "most_confident"
    assert cao2.resolve_order("auto", 50) == "least_confident"
    assert cao2.resolve_order("most_confident", 50) == "most_confident"
    right = torch.linspace(0.51, 0.99, 60)
    pool = candidates(torch.stack([1 - right, right], 1))
    assert cao2.select(pool, 50).tolist() == list(range(50))
    assert cao2.select(pool, 49).tolist() == list(range(59, 10, -1))


def test_the_other_strategies_of_the_ablation():
    assert cao2.select(candidates(), 3, order="correct").tolist() == [0, 2, 3]
    assert cao2.select(candidates(), 6, order="correct", fill="most_confident").tolist() == [0, 2, 3, 4, 1, 5]
    assert cao2.select(candidates(), 4, order="random").tolist() == [0, 1, 2, 3]
    errors = [sum((p - (k == 1)) ** 2 for k, p in enumerate(row)) ** 0.5 for row in PROBABILITIES.tolist()]
    torch.testing.assert_close(candidates().el2n, torch.tensor(errors, dtype=torch.float64), atol=1e-5, rtol=0)
    expected = sorted(range(6), key=lambda index: errors[index])
    assert expected == [3, 0, 2, 1, 5, 4]
    assert cao2.select(candidates(), 6, order="el2n").tolist() == expected
    # One that is a little surer errs more where it takes the rest for one class.
    pool = candidates(torch.tensor([[0.38, 0.62, 0.0], [0.2, 0.6, 0.2]]))
    assert cao2.select(pool, 2, order="el2n").tolist() == [1, 0]
    assert cao2.select(pool, 2, order="most_confident").tolist() == [0, 1]


@pytest.mark.parametrize("order", ["most_confident", "least_confident"])
def test_shortage_is_filled_with_those_of_the_rest_that_are_most_surely_anything(order):
    """Candidate 4 is surely of class 0 (0.8), 1 less so (0.5), and 5 is of class 2 (0.4)."""
    first = [3, 0, 2] if order == "most_confident" else [2, 0, 3]
    assert cao2.select(candidates(), 5, order=order, fill="most_confident").tolist() == [*first, 4, 1]
    assert cao2.select(candidates(), 6, order=order, fill="most_confident").tolist() == [*first, 4, 1, 5]


def test_shortage_is_filled_at_random_by_seed():
    drawn = {tuple(cao2.select(candidates(), 4, seed=seed).tolist()) for seed in range(40)}
    assert drawn == {(3, 0, 2, 1), (3, 0, 2, 4), (3, 0, 2, 5)}
    assert torch.equal(cao2.select(candidates(), 5, seed=7), cao2.select(candidates(), 5, seed=7))
    assert sorted(cao2.select(candidates(), 6, seed=1).tolist()) == list(range(6))


def test_equal_confidences_keep_the_order_of_drawing():
    pool = candidates(torch.tensor([[0.2, 0.8]] * 5))
    assert cao2.select(pool, 3, order="most_confident").tolist() == [0, 1, 2]
    assert cao2.select(pool, 3, order="least_confident").tolist() == [0, 1, 2]


def test_no_correct_candidate_at_all():
    pool = candidates(PROBABILITIES, label=2)  # only candidate 5 is predicted as class 2
    assert cao2.select(pool, 2, fill="most_confident").tolist() == [5, 3]


def test_more_than_the_pool_is_refused():
    with pytest.raises(InputError, match=r"^ipc: 7 .* 6 candidates .* pool_factor"):
        cao2.select(candidates(), 7)


@pytest.fixture(scope="module")
def generator():
    return DiTGenerator(make_pipeline())


@pytest.fixture(scope="module")
def latents():
    return torch.randn(4, 4, 8, 8, generator=cpu_generator(1))


CLASSES, SEEDS = [0, 2, 1, 3], [10, 11, 12, 13]


def plain_refine(latent, class_id, seed, steps, norm, weight):
    """One image, straight from Eq. 4: autograd on the latent, Adam (Kingma and Ba, Alg. 1) written out, float32."""
    transformer = make_pipeline().transformer
    alpha_bar = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000), 0)
    draw = cpu_generator(seed)
    noise = torch.randn(4, 8, 8, generator=draw)
    timesteps = torch.randint(1, 250, (steps,), generator=draw)
    z, m, v, trace = latent.clone(), 0.0, 0.0, []
    for step, t in enumerate(timesteps, start=1):
        z = z.detach().requires_grad_(True)
        noisy = alpha_bar[t].sqrt() * z + (1 - alpha_bar[t]).sqrt() * noise
        predicted = transformer(noisy[None], timestep=t[None], class_labels=torch.tensor([class_id])).sample[0]
        error = (predicted - noise).flatten()
        penalty = {
            "linf": lambda e: e.abs().max(),
            "l1": lambda e: e.abs().sum(),
            "l2": lambda e: (e**2).sum().sqrt(),
            "none": lambda e: 0.0 * e.sum(),
        }[norm](error)
        loss = (error**2).mean() + weight * penalty
        trace.append(loss.item())
        (gradient,) = torch.autograd.grad(loss, z)
        m = 0.9 * m + 0.1 * gradient
        v = 0.999 * v + 0.001 * gradient**2
        z = z.detach() - 6e-4 * (m / (1 - 0.9**step)) / ((v / (1 - 0.999**step)).sqrt() + 1e-8)
    return z.detach(), torch.tensor(trace)


@pytest.mark.parametrize("norm", ["linf", "l1", "l2", "none"])
def test_a_batch_equals_one_image_at_a_time(generator, latents, norm):
    refined, losses = cao2.refine(generator, latents, CLASSES, SEEDS, steps=12, regularization=norm)
    for i in range(4):
        alone, trace = plain_refine(latents[i], CLASSES[i], SEEDS[i], 12, norm, 10.0)
        torch.testing.assert_close(refined[i], alone, atol=1e-5, rtol=0)
        torch.testing.assert_close(losses[i], trace, atol=1e-3, rtol=1e-4)
    assert (refined - latents).abs().max() > 1e-3


def test_no_steps_leave_the_latents_as_they_are(generator, latents):
    refined, losses = cao2.refine(generator, latents, CLASSES, SEEDS, steps=0)
    assert torch.equal(refined, latents)
    assert losses.shape == (4, 0)


def test_the_null_condition_differs_from_the_class(generator, latents):
    with_class, _ = cao2.refine(generator, latents, CLASSES, SEEDS, steps=3)
    with_null, _ = cao2.refine(generator, latents, [None] * 4, SEEDS, steps=3)
    assert not torch.allclose(with_class[0], with_null[0], atol=1e-6)
    assert torch.equal(with_class[3], with_null[3])  # whose class was the null class before


def test_the_generator_stays_as_it_was_and_gets_no_gradients(generator, latents):
    before = {name: p.clone() for name, p in generator.transformer.named_parameters()}
    start = latents.clone()
    cao2.refine(generator, latents, CLASSES, SEEDS, steps=3)
    assert torch.equal(latents, start)
    for name, parameter in generator.transformer.named_parameters():
        assert parameter.grad is None
        assert torch.equal(parameter, before[name])


def test_timesteps_stay_below_the_fraction_and_vary(generator, latents, monkeypatch):
    seen, forward = [], generator.transformer.forward
    monkeypatch.setattr(generator.transformer, "forward", lambda z, **k: seen.append(k["timestep"]) or forward(z, **k))
    cao2.refine(generator, latents, CLASSES, SEEDS, steps=200, max_timestep_fraction=0.01)
    drawn = torch.stack(seen)  # (steps, B)
    assert set(drawn.flatten().tolist()) == set(range(1, 10))
    assert not torch.equal(drawn[:, 0], drawn[:, 1])


def test_the_loss_falls(latents):
    """With a fixed timestep the objective itself is seen, not its noise."""
    generator = DiTGenerator(make_pipeline())
    _, losses = cao2.refine(
        generator, latents, CLASSES, SEEDS, steps=40, learning_rate=5e-3, max_timestep_fraction=0.002
    )  # t is 1 in every step
    assert (losses[:, -1] < losses[:, 0]).all()
    _, noisy = cao2.refine(generator, latents, CLASSES, SEEDS, steps=100, learning_rate=5e-3)
    assert noisy[:, -20:].mean() < noisy[:, :20].mean()
