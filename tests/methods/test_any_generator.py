"""The methods on a generator that is no DiT: a velocity in closed form, with a mask, and nothing beyond the protocol."""

from dataclasses import dataclass

import pytest
import torch

from distill_hub.generators.base import GeneratorFacts
from distill_hub.methods import cao2, psr
from distill_hub.methods.candidates import draw_pool, pool_of
from distill_hub.running.run import Run
from distill_hub.running.seeds import cpu_generator, draw_seed

SHAPE = (2, 3, 3)


@dataclass(frozen=True)
class Cut:
    """Half of the latent's elements, and how far they are on the way from z to ε."""

    noise: torch.Tensor
    level: torch.Tensor
    mask: torch.Tensor
    elements: torch.Tensor


class Toy:
    """A flow whose network says v(z_s, c) = a_c·z_s, with a_c = 2, 3, 5 and without condition 7; it sees masked elements."""

    latent_shape, image_size, class_names, device = SHAPE, 3, ["ant", "bee", "cow"], torch.device("cpu")
    facts = GeneratorFacts(name="Toy", method={}, architecture="Toy", modules=())

    def sample(self, class_ids, seeds, *, guide=None, start=None, strength=1.0):
        drawn = [torch.randn(SHAPE, generator=cpu_generator(seed)) for seed in seeds]
        return torch.stack([z + c for z, c in zip(drawn, class_ids, strict=True)])

    def decode(self, latents):
        return torch.cat([latents, latents[:, :1]], 1).sigmoid()

    def posterior(self, images):
        raise AssertionError("no method that is tested here encodes")

    def corruption(self, draws, *, most=None, noise=None):
        fresh = torch.stack([torch.randn(SHAPE, generator=d) for d in draws]) if noise is None else noise
        level = torch.cat([torch.rand(1, generator=d) for d in draws]) * (1.0 if most is None else most)
        mask = torch.stack([torch.rand(SHAPE, generator=d) < 0.5 for d in draws])
        return Cut(fresh, level.view(-1, 1, 1, 1), mask, mask.flatten(1).sum(1))

    def residual(self, latents, corruption, class_ids):
        slope = torch.tensor([7.0 if c is None else (2.0, 3.0, 5.0)[c] for c in class_ids]).view(-1, 1, 1, 1)
        noisy = (1 - corruption.level) * latents + corruption.level * corruption.noise
        return ((slope * noisy - (corruption.noise - latents)) * corruption.mask).flatten(1)


class Teacher:
    """Three numbers of an image, as logits and embedding."""

    columns = 0, 1, 2

    def outputs(self, images):
        return self.logits(images), images.mean((2, 3))

    def logits(self, images):
        return 4 * images.mean((2, 3))


@pytest.fixture
def latents():
    return torch.randn(3, *SHAPE, generator=cpu_generator(0))


def test_cao2_descends_its_objective(latents):
    """One step of Adam is η·sign of the gradient, written out: 2/n·Σ r·∂r + λ·sign(r_max)·∂r_max, n of the mask."""
    classes, seeds = [0, 2, None], [5, 6, 7]
    refined, losses = cao2.refine(Toy(), latents, classes, seeds, steps=1, max_timestep_fraction=0.25, weight=10.0)
    for i, (slope, seed) in enumerate(zip((2.0, 5.0, 7.0), seeds, strict=True)):
        draw = cpu_generator(seed)
        noise = torch.randn(SHAPE, generator=draw)
        level = 0.25 * torch.rand(1, generator=draw)
        mask = (torch.rand(SHAPE, generator=draw) < 0.5).float()
        r = (slope * ((1 - level) * latents[i] + level * noise) - noise + latents[i]) * mask
        inner = (slope * (1 - level) + 1) * mask  # ∂r/∂z
        largest = (r.abs() == r.abs().max()).float()
        gradient = (2 / mask.sum() * r + 10.0 * r.sign() * largest) * inner
        torch.testing.assert_close(losses[i, 0], (r**2).sum() / mask.sum() + 10 * r.abs().max())
        torch.testing.assert_close(refined[i], latents[i] - 6e-4 * gradient.sign(), atol=2e-7, rtol=0)
        assert torch.equal(refined[i][mask == 0], latents[i][mask == 0])


def test_psr_descends_its_objective(latents):
    targets, confidence = torch.full((3, 3), 1 / 3), torch.tensor([0.5, 0.5, 0.5])
    how = {"steps": 2, "kl_steps": 0, "learning_rate": 0.01}
    refined, losses = psr.refine(Toy(), Teacher(), latents, [0, 1, 2], targets, confidence, [5, 6, 7], **how)
    for i, slope in enumerate((2.0, 3.0, 5.0)):
        z, draw = latents[i].clone(), cpu_generator(5 + i)
        for step in range(2):
            noise, level = torch.randn(SHAPE, generator=draw), torch.rand(1, generator=draw)
            mask = (torch.rand(SHAPE, generator=draw) < 0.5).float()
            r = (slope * ((1 - level) * z + level * noise) - noise + z) * mask
            torch.testing.assert_close(losses[i, step, 0], (r**2).sum())
            z = z - 0.01 * 2 * r * (slope * (1 - level) + 1)
        torch.testing.assert_close(refined[i], z, atol=1e-5, rtol=1e-5)
    with_labels, terms = psr.refine(
        Toy(), Teacher(), latents, [0, 1, 2], targets, confidence, [5, 6, 7], **{**how, "kl_steps": 1}
    )
    assert (terms[:, 1, 1] > 0).all() and not torch.equal(with_labels, refined)


def test_the_mean_of_psr_is_over_what_the_network_was_asked(latents):
    targets, confidence = torch.full((3, 3), 1 / 3), torch.full((3,), 0.5)
    how = {"steps": 1, "kl_steps": 0, "learning_rate": 0.01}
    given = Toy(), Teacher(), latents, [0, 1, 2], targets, confidence, [5, 6, 7]
    (by_sum, sums), (by_mean, means) = (psr.refine(*given, **how, reduction=reduction) for reduction in ("sum", "mean"))
    elements = Toy().corruption([cpu_generator(seed) for seed in (5, 6, 7)]).elements
    torch.testing.assert_close(means[:, 0, 0] * elements, sums[:, 0, 0])
    torch.testing.assert_close((by_mean - latents) * elements.view(-1, 1, 1, 1), by_sum - latents, atol=1e-5, rtol=1e-4)


def test_a_pool_is_drawn_and_decoded(tmp_path):
    given = Toy(), Teacher(), ["cow", "ant"], [2, 0], 4
    pool = draw_pool(Run(tmp_path, {}), *given, seed=1, batch_size=3, keep=["latents", "embeddings"])
    for label, (name, offset) in enumerate((("cow", 2), ("ant", 0))):
        found, own = pool_of(pool, label, 4), pool.rows(4 * label, 4 * label + 4)
        for index in range(4):
            seed = draw_seed(1, "pool", name, index)
            z = torch.randn(SHAPE, generator=cpu_generator(seed)) + offset
            assert int(found.seeds[index]) == seed and torch.equal(own["latents"][index], z)
            assert torch.equal(own["images"][index, :2], (z.sigmoid() * 255).round().to(torch.uint8))
    assert found.embeddings.equal(own["embeddings"])
    less = draw_pool(Run(tmp_path / "less", {}), *given, seed=1, batch_size=3)
    assert less.rows(0, 1).keys() == own.keys() - {"latents", "embeddings"}
