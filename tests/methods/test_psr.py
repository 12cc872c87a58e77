"""Pool-Select-Refine: selection against a greedy loop in plain Python, refinement against one image at a time by hand."""

import dataclasses
import inspect
import math
import random

import pytest
import torch
from diffusers import DDPMScheduler
from helpers import make_pipeline

from distill_hub.classifiers import Classifier
from distill_hub.config import InputError
from distill_hub.data.classes import SourceClass
from distill_hub.generators.dit import DiTGenerator
from distill_hub.methods import psr
from distill_hub.methods.candidates import Candidates
from distill_hub.networks.build import ConvNet
from distill_hub.options.psr import PsrConfig
from distill_hub.running.seeds import cpu_generator


def candidates(logits, embeddings, label=0):
    n = len(logits)
    logits, embeddings = torch.tensor(logits), torch.tensor(embeddings)
    return Candidates(label, logits, embeddings, torch.arange(n))


# The scores


@pytest.mark.parametrize(
    ("ipc", "expected"),
    [
        *[(ipc, (3, 1, 0.5)) for ipc in (1, 10)],
        *[(ipc, (1, 1, 1)) for ipc in (11, 20, 49)],
        *[(ipc, (0.5, 1, 3)) for ipc in (50, 100)],
    ],
)
def test_weights_by_ipc(ipc, expected):
    assert psr.selection_weights(ipc) == expected


def test_soft_labels_at_a_temperature():
    soft = psr.soft_labels(torch.tensor([[1.5, 0.0, -3.0], [200.0, 0.0, 0.0]]), 1.5)
    total = math.e + 1 + math.exp(-2)
    assert soft.dtype == torch.float64
    torch.testing.assert_close(soft[0].tolist(), [math.e / total, 1 / total, math.exp(-2) / total], rtol=1e-12, atol=0)
    assert soft[1, 1].item() == pytest.approx(math.exp(-200 / 1.5), rel=1e-9)  # far below what float32 resolves beside 1


def test_reliability_and_entropy():
    soft = torch.tensor([[1.0, 0, 0, 0], [0.25] * 4, [0.5, 0.5, 0, 0], [0.5, 0.25, 0.125, 0.125]], dtype=torch.float64)
    assert psr.reliability(soft, 1).tolist() == [0, 0.25, 0.5, 0.25]
    torch.testing.assert_close(psr.entropy(soft).tolist(), [0.0, 1.0, 0.5, 1.75 / 2], rtol=1e-12, atol=0)


def test_weight_of_the_soft_label():
    confidence = torch.tensor([0.0, 0.5, 1.0])
    torch.testing.assert_close(psr.kl_weights(confidence), torch.tensor([1.0, 0.525, 0.05]))
    torch.testing.assert_close(psr.kl_weights(confidence, weight=2, low=1, high=4), torch.tensor([8.0, 5.0, 2.0]))


# Selection


def plain_select(pool, ipc, alpha, beta, gamma, temperature, filtered, normalized):
    """Eq. 1, 6, 7 and 8 for one class, in plain Python."""

    def scaled(values, members):
        if not normalized:
            return {i: values[i] for i in members}
        low, high = min(values[i] for i in members), max(values[i] for i in members)
        return {i: (values[i] - low) / (high - low) if high > low else 0.0 for i in members}

    logits, points, everyone = pool.logits.tolist(), pool.embeddings.tolist(), range(len(pool))
    rel, ent = [], []
    for row in logits:
        exponentials = [math.exp(value / temperature) for value in row]
        q = [value / sum(exponentials) for value in exponentials]
        rel.append(q[pool.label])
        ent.append(-sum(p * math.log(p) for p in q) / math.log(len(q)))
    kept = [i for i in everyone if not filtered or all(value <= logits[i][pool.label] for value in logits[i])]
    chosen = []
    while len(chosen) < min(ipc, len(kept)):
        if not chosen:
            score = {i: rel[i] for i in kept}
        else:
            div = [
                min(sum((a - b) ** 2 for a, b in zip(points[i], points[j], strict=True)) for j in chosen) for i in everyone
            ]
            r, e, d = scaled(rel, kept), scaled(ent, kept), scaled(div, kept)
            score = {i: alpha * r[i] - beta * e[i] + gamma * d[i] for i in kept if i not in chosen}
        chosen.append(max(score, key=lambda i: (score[i], -i)))
    rest = sorted((i for i in everyone if i not in kept), key=lambda i: (-rel[i], i))
    filled = max(0, ipc - len(kept))
    return chosen + rest[:filled], filled


def random_pool(draw, *, ties):
    """A pool of up to 12 candidates; with ties, logits and embeddings are each one of a few."""
    n, classes, label = draw.randint(1, 12), draw.randint(2, 4), draw.randint(0, 1)

    def logits():
        row = [draw.gauss(0, 2) for _ in range(classes)]
        row[label] += draw.choice([0, 3])
        return row

    def point():
        return [float(draw.randint(0, 2)) if ties else draw.gauss(0, 3) for _ in range(2)]

    rows = [logits() for _ in range(3 if ties else n)]
    return candidates([draw.choice(rows) for _ in range(n)] if ties else rows, [point() for _ in range(n)], label)


@pytest.mark.parametrize("ties", [False, True])
def test_selection_equals_a_plain_greedy_loop(ties):
    draw, short, later = random.Random(0), 0, 0
    for _ in range(400):
        pool = random_pool(draw, ties=ties)
        ipc, temperature = draw.randint(1, len(pool)), draw.choice([0.7, 1.5, 4.0])
        alpha, beta, gamma = (draw.choice([0, 0.5, 1, 3]) for _ in range(3))
        how = {"filtered": draw.random() < 0.8, "normalized": draw.random() < 0.7}
        expected, filled = plain_select(pool, ipc, alpha, beta, gamma, temperature, **how)
        weights = {"alpha": alpha, "beta": beta, "gamma": gamma}
        found = psr.select(pool, ipc, **weights, temperature=temperature, **how)
        assert (found.indices.tolist(), found.filled) == (expected, filled)
        assert found.indices.dtype == torch.int64
        short += filled > 0
        later += ipc - filled > 2
    assert short > 50 and later > 100  # both kinds of pool are among them


def test_the_default_temperature_is_the_papers():
    # One rival at a margin of 1, or two at a margin of 1 + τ'·log 2: below τ' the second has the larger probability.
    for threshold, first in ((1.25, 0), (1.75, 1)):
        pool = candidates([[1.0, 0.0, -99.0], [1 + threshold * math.log(2), 0.0, 0.0]], [[0.0]] * 2)
        assert psr.select(pool, 1, alpha=1, beta=1, gamma=1).indices.tolist() == [first]


def line():
    """Five candidates on a line by their probability; the last one is wrong, and far away."""
    probabilities, points = (0.6, 0.9, 0.8, 0.7, 0.1), (0.0, 3.0, 4.0, 9.0, 1000.0)
    return candidates([[math.log(p), math.log(1 - p)] for p in probabilities], [[x] for x in points])


def test_reliability_alone_takes_the_most_reliable():
    assert psr.select(line(), 4, alpha=1, beta=0, gamma=0).indices.tolist() == [1, 2, 3, 0]


def test_entropy_alone_takes_the_most_certain():
    # Entropies 0.39, 0.67, 0.93, 0.88; by reliability the last three would come the other way round.
    probabilities = [[0.9, 0.09, 0.01], [0.6, 0.399, 0.001], [0.62, 0.19, 0.19], [0.61, 0.3, 0.09]]
    pool = candidates([[math.log(p) for p in row] for row in probabilities], [[0.0]] * 4)
    assert psr.select(pool, 4, alpha=0, beta=1, gamma=0, temperature=1).indices.tolist() == [0, 1, 3, 2]


def test_diversity_alone_is_farthest_point_sampling():
    # From 3: 9 is at 6, 0 at 3, 4 at 1.
    assert psr.select(line(), 4, alpha=0, beta=0, gamma=1).indices.tolist() == [1, 3, 0, 2]


def test_diversity_is_measured_from_all_chosen_and_scaled_anew():
    # Reliabilities at τ = 1, scaled over the four right ones: 0, 1, 2/3, 1/3. Squared distances from 3: 9, 0, 1, 36, scaled
    # 1/4, 0, 1/36, 1. So 3 (4/3) comes second; then distances are 9, -, 1, -, scaled 1, -, 1/9: 0 scores 1, 2 scores 7/9.
    # Had they kept their first scale, 0 would score 1/4.
    assert psr.select(line(), 3, alpha=1, beta=0, gamma=1, temperature=1).indices.tolist() == [1, 3, 0]


def test_a_dropped_candidate_does_not_set_the_scale():
    # With candidate 4 in the scale, all distances would be about 0 and reliability alone would decide: [1, 2].
    assert psr.select(line(), 2, alpha=1, beta=0, gamma=1, temperature=1).indices.tolist() == [1, 3]


WEIGHTS = {"alpha": 1, "beta": 1, "gamma": 1}


@pytest.mark.parametrize(
    ("rule", "filtered", "everyone"),
    [
        # Of 0, 3, 4, 9 the mean is 4; from it 9 and 0 are the farthest.
        ("kcenter", True, [2, 3, 0]),
        # With 1000 the mean is 203.2, and 9 the closest to it; then 1000, then 0.
        ("kcenter", False, [3, 4, 0]),
        ("kmeans", True, [0, 1, 3]),  # clusters 0; 3, 4; 9: their sum of squares is 0.5, that of any others more
        ("kmeans", False, [1, 3, 4]),  # 0, 3, 4; 9; 1000: 8.7, and 0; 3, 4, 9; 1000 20.7
    ],
)
def test_selection_by_the_embeddings_alone(rule, filtered, everyone):
    found = psr.select(line(), 3, **WEIGHTS, rule=rule, filtered=filtered)
    assert (found.indices.tolist(), found.filled) == (everyone, 0)


@pytest.mark.parametrize("rule", ["kcenter", "kmeans"])
def test_selection_by_the_embeddings_fills_up_with_dropped_ones(rule):
    logits = [[0.0, 2.0], [0.0, 1.0], [3.0, 0.0], [0.0, 1.0], [1.0, 0.0]]
    found = psr.select(candidates(logits, [[0.0], [1.0], [2.0], [3.0], [2.5]]), 4, **WEIGHTS, rule=rule)
    assert (found.indices.tolist(), found.filled) == ([2, 4, 1, 3], 2)
    nobody = psr.select(candidates([[0.0, 2.0], [0.0, 1.0]], [[0.0]] * 2), 2, **WEIGHTS, rule=rule)
    assert (nobody.indices.tolist(), nobody.filled) == ([1, 0], 2)


def test_equal_candidates_keep_the_order_of_drawing():
    pool = candidates([[1.0, 0.0]] * 5, [[2.0, 7.0]] * 5)
    assert psr.select(pool, 4, alpha=3, beta=1, gamma=0.5).indices.tolist() == [0, 1, 2, 3]


def test_the_most_reliable_dropped_ones_fill_up():
    logits = [[0.0, 2.0], [0.0, 1.0], [3.0, 0.0], [0.0, 1.0], [1.0, 0.0]]
    found = psr.select(candidates(logits, [[0.0]] * 5), 4, alpha=3, beta=1, gamma=0.5)
    assert (found.indices.tolist(), found.filled) == ([2, 4, 1, 3], 2)
    nobody = psr.select(candidates([row[::-1] for row in logits[:2]], [[0.0]] * 2, label=1), 2, alpha=3, beta=1, gamma=0.5)
    assert (nobody.indices.tolist(), nobody.filled) == ([1, 0], 2)


def test_bad_pools_are_refused():
    weights = WEIGHTS
    with pytest.raises(InputError, match=r"^ipc: 6 .* 5 candidates .* pool_factor"):
        psr.select(line(), 6, **weights)
    for broken in (math.nan, math.inf):
        with pytest.raises(InputError, match=r"^teacher: .* finite"):
            psr.soft_labels(torch.tensor([[0.0, broken]]), 1.5)
        with pytest.raises(InputError, match=r"^teacher: .* finite; of class 1 "):
            psr.select(candidates([[0.0, broken]], [[0.0]], label=1), 1, **weights)
        with pytest.raises(InputError, match=r"^teacher: .* finite; of class 1 "):
            psr.select(candidates([[0.0, 1.0]], [[broken]], label=1), 1, **weights)


# Refinement

OWN, ORDER = ["ant", "bee", "cow"], ["cow", "ant", "bee"]  # the network's order, the set's
COLUMNS = [2, 0, 1]
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)
B = 5  # more than are decoded at once
CLASSES, SEEDS = [0, 2, 1, 0, 2], [10, 11, 12, 13, 14]
CONFIDENCE = torch.tensor([0.9, 0.2, 0.5, 1.0, 0.0])
RATE = 5.0  # at the paper's 0.01 the latents would move by less than the tolerances


@pytest.fixture(scope="module")
def generator():
    return DiTGenerator(make_pipeline())


@pytest.fixture(scope="module")
def teacher():
    torch.manual_seed(3)
    classes = [SourceClass(name, index) for index, name in enumerate(ORDER)]
    model = ConvNet(3, 2, 16, width=16)
    torch.nn.init.normal_(model.classifier.weight, std=0.3)
    settings = {"id": "tiny", "architecture": "convnet-2", "image_size": 16, "mean": MEAN, "std": STD}
    return Classifier(model, classes=classes, class_names=OWN, **settings)


@pytest.fixture(scope="module")
def latents():
    return torch.randn(B, 4, 8, 8, generator=cpu_generator(1))


@pytest.fixture(scope="module")
def targets():
    return torch.randn(B, 3, generator=cpu_generator(2), dtype=torch.float64).mul(2).softmax(1)


def call(generator, teacher, latents, targets, images=slice(None), **settings):
    settings = {"learning_rate": RATE, **settings}
    return psr.refine(
        generator, teacher, latents[images], CLASSES[images], targets[images], CONFIDENCE[images], SEEDS[images], **settings
    )


def plain_refine(network, latent, class_id, target, weight, seed, *, steps, kl_steps, temperature, rate):
    """One image, straight from Eq. 3, 9 and 10 on the networks themselves, with none of the code under test."""
    pipeline = make_pipeline()
    alpha_bar = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000), 0)
    draw = cpu_generator(seed)
    z, trace = latent.clone(), []
    for step in range(1, steps + 1):
        noise = torch.randn(4, 8, 8, generator=draw)
        t = torch.randint(1000, (1,), generator=draw)
        z = z.detach().requires_grad_(True)
        noisy = alpha_bar[t].sqrt() * z + (1 - alpha_bar[t]).sqrt() * noise
        predicted = pipeline.transformer(noisy[None], timestep=t, class_labels=torch.tensor([class_id])).sample[0]
        denoising = ((predicted - noise) ** 2).sum()
        divergence = torch.zeros(())
        if step > steps - kl_steps:
            image = ((pipeline.vae.decode(z[None] / 0.7).sample + 1) / 2).clamp(0, 1)
            image = torch.stack([(image[:, c] - MEAN[c]) / STD[c] for c in range(3)], 1)
            scores = (network(image)[0, COLUMNS] / temperature).exp()
            divergence = sum(
                q * (math.log(q) - (s / scores.sum()).log()) for q, s in zip(target.tolist(), scores, strict=True)
            )
        trace.append([denoising.item(), divergence.item()])
        (gradient,) = torch.autograd.grad(denoising + weight * divergence, z)
        z = z.detach() - rate * gradient
    return z.detach(), torch.tensor(trace)


@pytest.mark.parametrize(("steps", "kl_steps"), [(1, 0), (1, 1), (6, 2), (3, 9)])
def test_a_batch_equals_one_image_by_hand(generator, teacher, latents, targets, steps, kl_steps):
    settings = {"steps": steps, "kl_steps": kl_steps, "temperature": 1.5}
    refined, losses = call(generator, teacher, latents, targets, **settings)
    assert losses.shape == (B, steps, 2)
    for i in range(B):
        weight = 0.5 * (0.1 + (1 - CONFIDENCE[i].item()) * 1.9)
        alone, trace = plain_refine(
            teacher.model, latents[i], CLASSES[i], targets[i], weight, SEEDS[i], rate=RATE, **settings
        )
        torch.testing.assert_close(refined[i], alone, atol=1e-5, rtol=0)
        torch.testing.assert_close(losses[i], trace, atol=1e-5, rtol=1e-5)
    assert (refined - latents).abs().amax((1, 2, 3)).min() > 1e-3  # every image moves by far more than the tolerance


def test_the_defaults_are_the_papers():
    paper = {
        "steps": 100,
        "kl_steps": 4,
        "learning_rate": 0.01,
        "reduction": "sum",
        "kl_weight": 0.5,
        "kl_weight_min": 0.1,
        "kl_weight_max": 2.0,
    }
    parameters = inspect.signature(psr.refine).parameters.values()
    assert {p.name: p.default for p in parameters if p.default is not p.empty} == {**paper, "temperature": 1.5}
    config = dataclasses.asdict(PsrConfig())
    renamed = {"steps": "refine_steps", "learning_rate": "refine_learning_rate", "reduction": "denoising_reduction"}
    assert {name: config[renamed.get(name, name)] for name in paper} == paper
    assert config["temperature"] == 1.5


def test_the_settings_reach_the_objective(generator, teacher, latents, targets):
    settings = {"steps": 2, "kl_steps": 1, "temperature": 3.0}
    weights = {"kl_weight": 2.0, "kl_weight_min": 1.0, "kl_weight_max": 4.0}
    refined, losses = call(generator, teacher, latents, targets, slice(1, 2), learning_rate=5.0, **weights, **settings)
    weight = 2.0 * (1.0 + 0.8 * 3.0)
    alone, trace = plain_refine(teacher.model, latents[1], 2, targets[1], weight, 11, rate=5.0, **settings)
    torch.testing.assert_close(refined[0], alone, atol=1e-5, rtol=0)
    torch.testing.assert_close(losses[0], trace, atol=1e-5, rtol=1e-5)


def test_the_mean_of_the_squared_errors_is_the_sum_over_the_elements_of_a_latent(generator, teacher, latents, targets):
    elements = 4 * 8 * 8
    summed, losses = call(generator, teacher, latents, targets, steps=1, kl_steps=0)
    mean, means = call(generator, teacher, latents, targets, steps=1, kl_steps=0, reduction="mean")
    torch.testing.assert_close(means[:, 0, 0] * elements, losses[:, 0, 0])
    torch.testing.assert_close((mean - latents) * elements, summed - latents, atol=1e-4, rtol=1e-3)
    # The soft label's gradient is not scaled.
    with_label, _ = call(generator, teacher, latents, targets, steps=1, kl_steps=1)
    of_the_mean, _ = call(generator, teacher, latents, targets, steps=1, kl_steps=1, reduction="mean")
    torch.testing.assert_close(of_the_mean - mean, with_label - summed, atol=1e-5, rtol=1e-3)


def test_a_batch_equals_one_at_a_time(generator, teacher, latents, targets):
    together, losses = call(generator, teacher, latents, targets, steps=8, kl_steps=3)
    for i in range(B):
        alone, trace = call(generator, teacher, latents, targets, slice(i, i + 1), steps=8, kl_steps=3)
        torch.testing.assert_close(together[i], alone[0], atol=1e-5, rtol=0)
        torch.testing.assert_close(losses[i], trace[0], atol=1e-5, rtol=1e-5)


def test_the_soft_label_takes_part_in_the_last_steps_alone(generator, teacher, latents, targets, monkeypatch):
    decoded, judged = [], []
    decode, judge = generator.decode, teacher.model.forward
    monkeypatch.setattr(generator, "decode", lambda z: decoded.append(len(z)) or decode(z))
    monkeypatch.setattr(teacher.model, "forward", lambda x: judged.append(len(x)) or judge(x))
    without, no_terms = call(generator, teacher, latents, targets, steps=6, kl_steps=0)
    assert decoded == judged == []
    assert (no_terms[:, :, 1] == 0).all() and (no_terms[:, :, 0] > 0).all()
    refined, losses = call(generator, teacher, latents, targets, steps=6, kl_steps=2)
    assert sum(decoded) == sum(judged) == 2 * B
    assert (losses[:, :4, 1] == 0).all() and (losses[:, 4:, 1] > 0).all()
    assert torch.equal(losses[:, :5, 0], no_terms[:, :5, 0])  # the first KL gradient shows in the step after
    assert not torch.equal(losses[:, 5, 0], no_terms[:, 5, 0])
    assert not torch.allclose(refined, without, atol=1e-3)


def test_timesteps_are_drawn_from_the_whole_range_for_each_image(teacher, latents, targets):
    pipeline, seen = make_pipeline(), []
    pipeline.scheduler = DDPMScheduler(num_train_timesteps=6, clip_sample=False)
    generator = DiTGenerator(pipeline)
    generator.transformer.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(kwargs["timestep"]), with_kwargs=True
    )
    call(generator, teacher, latents, targets, slice(0, 2), steps=60, kl_steps=0, learning_rate=0.01)
    drawn = torch.stack(seen)  # (steps, 2)
    assert set(drawn[:, 0].tolist()) == set(drawn[:, 1].tolist()) == set(range(6))
    assert not torch.equal(drawn[:, 0], drawn[:, 1])


def test_the_soft_label_pulls(generator, teacher, latents, targets):
    _, losses = call(generator, teacher, latents, targets, steps=30, kl_steps=30, learning_rate=1.0, kl_weight=10.0)
    sure = CONFIDENCE < 1
    assert (losses[sure, -1, 1] < 0.8 * losses[sure, 0, 1]).all()


def test_no_steps_leave_the_latents_as_they_are(generator, teacher, latents, targets):
    refined, losses = call(generator, teacher, latents, targets, steps=0)
    assert torch.equal(refined, latents)
    assert losses.shape == (B, 0, 2)


def test_the_same_seeds_give_the_same_latents(generator, teacher, latents, targets):
    def refined(seeds):
        settings = {"steps": 5, "kl_steps": 2, "learning_rate": RATE}
        return psr.refine(generator, teacher, latents, CLASSES, targets, CONFIDENCE, seeds, **settings)

    (first, losses), (again, same) = refined(SEEDS), refined(SEEDS)
    assert torch.equal(first, again) and torch.equal(losses, same)
    other, _ = refined([99, *SEEDS[1:]])
    assert not torch.allclose(other[0], first[0], atol=1e-3)
    assert torch.equal(other[1:], first[1:])


def test_what_inference_mode_gave_is_taken(generator, teacher, latents, targets):
    with torch.inference_mode():  # as pools are drawn and judged
        drawn, soft = latents.clone(), targets.float()
    refined, _ = call(generator, teacher, drawn, soft, steps=2, kl_steps=1)
    expected, _ = call(generator, teacher, latents, targets, steps=2, kl_steps=1)
    assert torch.equal(refined, expected)


def test_the_networks_stay_as_they_were_and_get_no_gradients(generator, teacher, latents, targets):
    modules = (generator.transformer, generator.autoencoder.vae, teacher.model)
    before = [[p.clone() for p in module.state_dict().values()] for module in modules]
    start = latents.clone()
    refined, losses = call(generator, teacher, latents, targets, steps=3, kl_steps=2)
    assert torch.equal(latents, start)
    assert not refined.requires_grad and not losses.requires_grad
    for module, tensors in zip(modules, before, strict=True):
        assert all(p.grad is None for p in module.parameters())
        assert all(torch.equal(a, b) for a, b in zip(module.state_dict().values(), tensors, strict=True))


def test_latents_that_diverge_are_refused(generator, teacher, latents, targets):
    with pytest.raises(InputError, match=r"^refine_learning_rate: 1e\+38 .* smaller"):
        call(generator, teacher, latents, targets, steps=9, kl_steps=1, learning_rate=1e38)
