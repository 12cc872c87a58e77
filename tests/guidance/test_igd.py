"""Influence and deviation against gradients written out here, one image at a time, in double precision."""

import pytest
import torch
import torch.nn.functional as F
from helpers import make_pipeline
from torch.func import functional_call

from distill_hub.data.classes import SourceClass
from distill_hub.generators import text
from distill_hub.generators.dit import DiTGenerator
from distill_hub.guidance import igd
from distill_hub.matching.experts import Flat
from distill_hub.networks.build import build
from distill_hub.running.seeds import cpu_generator

ALPHA = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)  # ᾱ_t
CLASSES, SEEDS, STEPS = [0, 2], [11, 12], 10
LABELS = torch.tensor([1, 0])  # of the surrogate, which counts otherwise than the generator
K, GAMMA = 40.0, 800.0


def surrogate():
    torch.manual_seed(3)
    return build("convnet-2-w8", 3, 16)


NETWORK = Flat(surrogate())
CHECKPOINTS = torch.stack([NETWORK.own, 1.3 * NETWORK.own])
REAL = torch.randn(2, 2, CHECKPOINTS.shape[1], generator=cpu_generator(5))
MEMORY = torch.randn(2, 3, 4, 8, 8, generator=cpu_generator(6))


def normalized(images):
    return (images - 0.4) / 0.3


def influence(rows=slice(None)):
    return igd.Influence(NETWORK, CHECKPOINTS, REAL[:, rows], LABELS[rows], normalized)


def flat_gradient(place, image, label):
    """∇_θ CE of one image at a checkpoint, from the network itself in double precision."""
    network = surrogate().double()
    shapes = [(name, p.shape) for name, p in network.named_parameters()]
    parts = CHECKPOINTS[place].double().split([shape.numel() for _, shape in shapes])
    named = {name: part.view(shape).requires_grad_() for (name, shape), part in zip(shapes, parts, strict=True)}
    loss = F.cross_entropy(functional_call(network, named, (image[None],)), label[None])
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(named.values()), create_graph=True)])


def cosine(a, b):
    return (a * b).sum() / (a.norm() * b.norm())


def influence_of(image, row):
    """G_I of one image in [0, 1], float64."""
    own = [flat_gradient(place, normalized(image), LABELS[row]) for place in range(2)]
    return sum(cosine(g, REAL[place, row].double()) for place, g in enumerate(own)) / 2


IMAGES = torch.rand(2, 3, 16, 16, generator=cpu_generator(8))


def test_influence_and_its_gradient_are_those_of_each_image_alone():
    value, gradient = influence().of(IMAGES), influence().gradient(IMAGES)
    for row in range(2):
        image = IMAGES[row].double().requires_grad_()
        expected = influence_of(image, row)
        (slope,) = torch.autograd.grad(expected, image)
        assert value[row].item() == pytest.approx(expected.item(), abs=1e-6)
        torch.testing.assert_close(gradient[row].double(), slope, rtol=1e-3, atol=1e-4 * slope.abs().max().item())
        alone = influence(slice(row, row + 1)).gradient(IMAGES[row : row + 1])
        torch.testing.assert_close(alone[0], gradient[row], rtol=1e-4, atol=1e-5 * slope.abs().max().item())


def test_the_real_side_is_the_mean_of_the_images_gradients():
    each = igd.gradients(NETWORK, CHECKPOINTS[0], IMAGES, torch.tensor([2, 2]))
    for size in (1, 2):
        torch.testing.assert_close(
            igd.mean_gradient(NETWORK, CHECKPOINTS[0], IMAGES, 2, batch_size=size), each.mean(0), rtol=1e-4, atol=1e-6
        )


def test_a_checkpoint_counts_when_it_is_unlike_the_last_that_did():
    """Two classes whose gradients turn, by degrees: cos 45 is .707, and 46 degrees from what was chosen is too far."""
    turned = torch.tensor([[0, 0], [45, 45], [46, 46], [80, 80], [92, 92], [92, 184], [92, 92]]).deg2rad()
    cosines = (turned[:, None] - turned).cos().mean(2)  # (7, 7)
    # From 46: 80 and 92 are 34 and 46 away. From 92: a mean of 1 and cos 92 < .7. From that: the same way back.
    assert igd.choose(cosines) == [0, 2, 4, 5, 6]
    assert igd.choose(cosines[:2, :2]) == [0]
    assert igd.choose(cosines[:1, :1]) == [0]


def test_the_nearest_of_the_memory_and_the_way_towards_it():
    latents = torch.randn(2, 4, 8, 8, generator=cpu_generator(9))
    value, gradient = igd.nearest(latents, MEMORY)
    for row in range(2):
        z = latents[row].double().requires_grad_()
        cosines = [cosine(z, other.double()) for other in MEMORY[row]]
        (slope,) = torch.autograd.grad(max(cosines), z)
        assert value[row].item() == pytest.approx(max(cosines).item(), abs=1e-6)
        torch.testing.assert_close(gradient[row].double(), slope, rtol=1e-4, atol=1e-8)


def reference(row, memory):
    """Ancestral sampling (Ho et al., 2020) of one image with guidance 2.5, pulled in the guided steps after the step."""
    pipeline = make_pipeline()
    transformer, vae = pipeline.transformer.double(), pipeline.vae.double()
    draw = cpu_generator(SEEDS[row])
    z = torch.randn(4, 8, 8, generator=draw).double()
    used = [round(i * 999 / (STEPS - 1)) for i in range(STEPS)]
    for step, place in enumerate(reversed(range(STEPS))):
        t, here = used[place], ALPHA[used[place]]
        before = ALPHA[used[place - 1]] if place else torch.ones((), dtype=torch.float64)
        z = z.detach().requires_grad_()
        conditional, empty = (
            transformer(z[None], timestep=torch.tensor([t]), class_labels=torch.tensor([c])).sample[0]
            for c in (CLASSES[row], 3)
        )
        noise = empty + 2.5 * (conditional - empty)
        x0 = (z - (1 - here).sqrt() * noise) / here.sqrt()
        beta = 1 - here / before
        mean = before.sqrt() * beta / (1 - here) * x0 + (1 - beta).sqrt() * (1 - before) / (1 - here) * z
        following = mean.detach()
        if place:
            added = torch.randn(4, 8, 8, generator=draw).double()
            following = following + (beta * (1 - before) / (1 - here)).sqrt() * added
        if step in (1, 2, 3):  # of ten
            image = (vae.decode(x0[None] / 0.7).sample[0] / 2 + 0.5).clamp(0, 1)
            (slope,) = torch.autograd.grad(influence_of(image, row), z)
            size = 0.0015 * (1 - here).sqrt() * noise.detach().square().mean().sqrt() / slope.square().mean().sqrt()
            following = following + K * size * slope
            if len(memory):
                (away,) = torch.autograd.grad(max(cosine(z, m.double()) for m in memory), z)
                following = following - GAMMA * 256 / 4096 * away
        z = following
    return z.detach()


def guide(rows=slice(None), memory=MEMORY, k=K, gamma=GAMMA, decode=None):
    return igd.InfluenceGuide(influence(rows), decode or GENERATOR.decode, memory[rows], k, gamma, range(1, 4))


GENERATOR = DiTGenerator(make_pipeline(), steps=STEPS, guidance_scale=2.5)


@pytest.mark.parametrize("known", [0, 3])
def test_a_guided_sample_is_pulled_after_the_steps(known):
    memory = MEMORY[:, :known]
    guided = GENERATOR.sample(CLASSES, SEEDS, guide=guide(memory=memory))
    expected = torch.stack([reference(row, memory[row]) for row in range(2)])
    moved = (guided - GENERATOR.sample(CLASSES, SEEDS)).abs().mean().item()
    assert moved > 0.01
    torch.testing.assert_close(guided.double(), expected, rtol=1e-3, atol=0.05 * moved)


def test_samples_side_by_side_are_those_of_one_at_a_time():
    together = GENERATOR.sample(CLASSES, SEEDS, guide=guide())
    for row in range(2):
        own = slice(row, row + 1)
        alone = GENERATOR.sample(CLASSES[own], SEEDS[own], guide=guide(own))
        torch.testing.assert_close(alone[0], together[row], rtol=1e-3, atol=1e-4)


def test_a_text_to_image_generator_is_guided_likewise(text_folders):
    how = {"classes": [SourceClass("cat", 0), SourceClass("dog", 1)], "revision": None, "device": "cpu"}
    options = {**text.DEFAULTS, "scheduler": "ddpm", "sample_steps": STEPS}
    generator = text.load(str(text_folders[False]), dtype=torch.float32, **how, **options)
    plain = generator.sample([0, 1], SEEDS)
    together = generator.sample([0, 1], SEEDS, guide=guide(decode=generator.decode))
    moved = (together - plain).square().mean((1, 2, 3)).sqrt()
    assert ((moved > 0.01) & (moved < 1)).all()
    alone = generator.sample([1], SEEDS[1:], guide=guide(slice(1, 2), decode=generator.decode))
    torch.testing.assert_close(alone[0], together[1], rtol=1e-3, atol=1e-3)


def test_without_weights_a_sample_is_the_plain_one_and_no_graph_is_asked_for():
    nothing = guide(k=0.0, gamma=0.0)
    assert not nothing.needs_graph and guide().needs_graph
    assert torch.equal(GENERATOR.sample(CLASSES, SEEDS, guide=nothing), GENERATOR.sample(CLASSES, SEEDS))
    away = GENERATOR.sample(CLASSES, SEEDS, guide=guide(k=0.0))
    assert not torch.equal(away, GENERATOR.sample(CLASSES, SEEDS))
