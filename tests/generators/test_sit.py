"""A SiT against samplers written out here, one image at a time, in double precision and in the time of the released code."""

import json
import math
import shutil
from types import SimpleNamespace

import pytest
import torch
from helpers import make_pipeline
from torch import nn

from distill_hub.config import InputError
from distill_hub.generators import sit
from distill_hub.generators.sit import SiTGenerator
from distill_hub.running.seeds import cpu_generator

CLASSES, SEEDS, SHAPE = [0, 2], [11, 12], (4, 8, 8)
TARGET, START = (torch.randn(2, *SHAPE, generator=cpu_generator(seed)) for seed in (99, 7))

LOADED = {"classes": [], "revision": None, "device": "cpu", "dtype": torch.float32, **sit.DEFAULTS}


def make(scheduler="heun", steps=5, *, learned_variance=False, **settings):
    pipeline = make_pipeline(learned_variance=learned_variance)
    return SiTGenerator(
        pipeline.transformer, pipeline.vae, scheduler=scheduler, steps=steps, **{"guidance_scale": 2.5, **settings}
    )


class Reference:
    """The released code's model: data minus noise at time t = 1−s, of one image, guided in its first channels."""

    def __init__(self, guidance=2.5, channels=4, *, learned_variance=False):
        self.network = make_pipeline(learned_variance=learned_variance).transformer.double()
        for block in self.network.transformer_blocks:
            block.norm1.emb.time_proj.downscale_freq_shift = 0
        self.guidance, self.channels = guidance, channels

    def plain(self, z, t, class_id):
        time = torch.tensor([t], dtype=torch.float64)
        return self.network(z[None], timestep=time, class_labels=torch.tensor([class_id])).sample[0, :4]

    def __call__(self, z, t, class_id):
        conditional, empty = self.plain(z, t, class_id), self.plain(z, t, 3)
        guided = empty + self.guidance * (conditional - empty)
        return torch.cat([guided[: self.channels], conditional[self.channels :]])


@torch.no_grad()
def sampled(scheduler, steps, predict, *, share=0.0, start=None, left=None):
    """From t = 0, noise, to t = 1, data; a share of the way to the target is added to the data that each step expects."""
    results, left = [], left or steps
    for place, (class_id, seed) in enumerate(zip(CLASSES, SEEDS, strict=True)):
        draw = cpu_generator(seed)
        z, dt = torch.randn(SHAPE, generator=draw).double(), 1 / steps
        t = (steps - left) * dt
        if start is not None:
            z = t * start[place].double() + (1 - t) * z
        for step in range(steps - left, steps):
            t, last = step * dt, step == steps - 1
            u = predict(z, t, class_id)
            data = z + (1 - t) * u
            pull = share * (TARGET[place].double() - data) / (1 - t)
            if last:
                z = z + dt * (u + pull)
            elif scheduler == "heun":
                ahead = z + dt * (u + pull)
                z = z + dt / 2 * (u + pull + predict(ahead, t + dt, class_id) + pull)
            elif scheduler == "euler":
                z = z + dt * (u + pull)
            else:
                score = -(z - t * (u + pull)) / (1 - t)  # −ε̂/σ, with σ = 1−t
                z = z + dt * (u + pull + (1 - t) * score)
                z = z + math.sqrt(2 * (1 - t) * dt) * torch.randn(SHAPE, generator=draw).double()
        results.append(z)
    return torch.stack(results)


class Pull:
    def __init__(self, share=0.3, needs_graph=False):
        self.share, self.needs_graph, self.seen = share, needs_graph, []

    def __call__(self, state):
        self.seen.append(state)
        return self.share * (TARGET - state.x0)


class Nothing:
    needs_graph = False

    def __call__(self, state):
        return None


@pytest.mark.parametrize("scheduler", sit.SCHEDULERS)
@pytest.mark.parametrize(("learned_variance", "channels"), [(False, 4), (True, 3)])
def test_samplers(scheduler, learned_variance, channels):
    generator = make(scheduler, learned_variance=learned_variance, guided_channels=channels)
    expected = sampled(scheduler, 5, Reference(channels=channels, learned_variance=learned_variance))
    actual = generator.sample(CLASSES, SEEDS)
    torch.testing.assert_close(actual.double(), expected, atol=1e-4, rtol=1e-4)
    assert not actual.requires_grad


def test_without_guidance_and_without_a_class():
    predict = Reference()
    expected = sampled("euler", 4, lambda z, t, _: predict.plain(z, t, 3))
    actual = make("euler", 4, guidance_scale=1.0).sample([None, None], SEEDS)
    torch.testing.assert_close(actual.double(), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("scheduler", sit.SCHEDULERS)
def test_an_image_does_not_depend_on_its_batch(scheduler):
    generator = make(scheduler)
    together = generator.sample([0, 1, None, 2], [1, 2, 3, 4])
    for place, (class_id, seed) in enumerate(zip([0, 1, None, 2], [1, 2, 3, 4], strict=True)):
        torch.testing.assert_close(generator.sample([class_id], [seed])[0], together[place], atol=1e-5, rtol=1e-5)


class Gauss(nn.Module):
    """The velocity, in the released code's sign and time, of data that are normal with a standard deviation of 0.5."""

    config = SimpleNamespace(in_channels=4, sample_size=8, num_embeds_ada_norm=3)
    dtype = torch.float32

    def forward(self, z, timestep, class_labels):
        t = timestep.view(-1, 1, 1, 1)
        u = (0.25 * t - (1 - t)) / (0.25 * t**2 + (1 - t) ** 2) * z
        return SimpleNamespace(sample=u)


@pytest.mark.parametrize("scheduler", sit.SCHEDULERS)
def test_samples_are_spread_as_the_data(scheduler):
    """What no sampler of a wrong sign, time or amount of noise does."""
    generator = SiTGenerator(Gauss(), make_pipeline().vae, scheduler=scheduler, steps=100, guidance_scale=1.0)
    drawn = generator.sample([0] * 64, range(64))
    assert drawn.mean().item() == pytest.approx(0, abs=0.015)
    assert drawn.std().item() == pytest.approx(0.5, abs=0.02)


# Guides.


@pytest.mark.parametrize("share", [0.3, 1.0])
@pytest.mark.parametrize("scheduler", sit.SCHEDULERS)
def test_a_guide_moves_x0(scheduler, share):
    generator, guide = make(scheduler), Pull(share)
    actual = generator.sample(CLASSES, SEEDS, guide=guide)
    expected = sampled(scheduler, 5, Reference(), share=share)
    torch.testing.assert_close(actual.double(), expected, atol=2e-4, rtol=2e-4)
    assert [(state.step, state.of) for state in guide.seen] == [(step, 5) for step in range(5)]
    assert [state.level for state in guide.seen] == pytest.approx([1, 0.8, 0.6, 0.4, 0.2])
    if share == 1:
        torch.testing.assert_close(actual, TARGET, atol=1e-4, rtol=1e-4)  # with all of the way made


def test_the_state_of_the_ode_has_no_noise_and_x0_is_what_the_velocity_implies():
    generator, guide, predict = make("euler"), Pull(0.2), Reference()
    generator.sample(CLASSES, SEEDS, guide=guide)
    for state in guide.seen:
        assert state.sigma is None and state.weight is None
        for place, class_id in enumerate(CLASSES):
            z = state.noisy[place].double()
            x0 = z + state.level * predict(z, 1 - state.level, class_id)
            torch.testing.assert_close(state.x0[place].double(), x0, atol=1e-4, rtol=1e-4)


def test_a_pull_on_the_mean_of_the_sde_is_a_shift_by_it_over_the_weight():
    """What the next latents gain by a small shift, over the shift, is the weight; their noise is σ's."""

    class Once:
        needs_graph = False

        def __init__(self, size):
            self.size, self.seen = size, []

        def __call__(self, state):
            self.seen.append(state)
            return torch.full_like(state.x0, self.size) if state.step == 2 else None

    still, moved = Once(0.0), Once(0.1)
    for guide in (still, moved):
        make("sde").sample(CLASSES, SEEDS, guide=guide)
    gained = (moved.seen[3].noisy - still.seen[3].noisy) / 0.1
    torch.testing.assert_close(gained, torch.full_like(gained, still.seen[2].weight), atol=1e-4, rtol=1e-4)
    assert still.seen[2].sigma.item() == pytest.approx(math.sqrt(2 * 0.6 * 0.2))
    assert still.seen[4].weight == 1 and not still.seen[4].sigma.any()


@pytest.mark.parametrize("needs_graph", [False, True])
@pytest.mark.parametrize("scheduler", sit.SCHEDULERS)
def test_a_guide_that_does_nothing_changes_no_bit(scheduler, needs_graph):
    generator = make(scheduler)
    plain = generator.sample(CLASSES, SEEDS)
    assert torch.equal(generator.sample(CLASSES, SEEDS, guide=Pull(0.0, needs_graph)), plain)
    assert torch.equal(generator.sample(CLASSES, SEEDS, guide=Nothing()), plain)


def test_a_guide_may_ask_for_gradients_through_the_network():
    """∂‖x̂_0‖²/∂z of the second step, through the network in double precision."""
    generator, predict, found = make("heun", 4), Reference(), []

    class Smaller:
        needs_graph = True

        def __call__(self, state):
            (gradient,) = torch.autograd.grad(state.x0.square().sum(), state.noisy)
            found.append((state.noisy.detach().clone(), gradient))
            return -0.1 * gradient

    assert not generator.sample(CLASSES, SEEDS, guide=Smaller()).requires_grad
    noisy, gradient = found[1]
    for place, class_id in enumerate(CLASSES):
        z = noisy[place].double().requires_grad_(True)
        (expected,) = torch.autograd.grad((z + 0.75 * predict(z, 0.25, class_id)).square().sum(), z)
        torch.testing.assert_close(gradient[place].double(), expected, rtol=1e-3, atol=1e-3 * expected.abs().max().item())
    assert all(parameter.grad is None for parameter in generator.transformer.parameters())


# Starts.


@pytest.mark.parametrize(("strength", "left"), [(1.0, 10), (0.7, 7), (0.01, 1)])
@pytest.mark.parametrize("scheduler", sit.SCHEDULERS)
def test_a_start_is_noised_for_its_share_of_the_steps(scheduler, strength, left):
    actual = make(scheduler, 10).sample(CLASSES, SEEDS, start=START, strength=strength)
    expected = sampled(scheduler, 10, Reference(), start=START, left=left)
    torch.testing.assert_close(actual.double(), expected, atol=2e-4, rtol=2e-4)


@pytest.mark.parametrize(("start", "strength"), [(START, 0.0), (START, 1.1), (None, 0.5)])
def test_other_strengths_are_refused(start, strength):
    with pytest.raises(ValueError, match="strength"):
        make().sample(CLASSES, SEEDS, start=start, strength=strength)


# What refinements ask for.


@pytest.mark.parametrize("most", [None, 0.25])
def test_the_residual_is_the_error_of_the_velocity(most):
    generator, predict = make(learned_variance=True), Reference(learned_variance=True)
    latents = START.clone().requires_grad_(True)
    residual = generator.residual(latents, generator.corruption([cpu_generator(5), cpu_generator(6)], most=most), [1, None])
    for place, (seed, class_id) in enumerate([(5, 1), (6, 3)]):
        draw = cpu_generator(seed)
        noise = torch.randn(SHAPE, generator=draw).double()
        s = torch.rand((), generator=draw).item() * (most or 1)
        z = START[place].double()
        expected = -predict.plain((1 - s) * z + s * noise, 1 - s, class_id) - (noise - z)
        torch.testing.assert_close(residual[place].double(), expected.flatten(), atol=1e-4, rtol=1e-4)
    residual.square().sum().backward()
    assert latents.grad.abs().sum() > 0


def test_a_noise_that_is_given_is_taken_and_levels_stay_below_the_most():
    generator = make()
    draws = [cpu_generator(seed) for seed in range(200)]
    noise = torch.randn(200, *SHAPE, generator=cpu_generator(1))
    corruption = generator.corruption(draws, most=0.3, noise=noise)
    assert torch.equal(corruption.noise, noise)
    assert corruption.levels.max() < 0.3 and corruption.levels.max() > 0.28 and corruption.levels.min() < 0.02


# A small one of one's own.


def test_the_loss_is_that_of_the_residual(tmp_path):
    torch.manual_seed(0)
    network = sit.build(SHAPE, 3, 32, 1)
    levels = sit.levels(cpu_generator(4), 2)
    assert torch.equal(levels, torch.rand(2, generator=cpu_generator(4)))

    def loss():
        return sit.loss(network, START, TARGET, levels, torch.tensor([1, 3]), cpu_generator(0))

    torch.testing.assert_close(loss(), (TARGET - START).square().mean())  # its output starts as zero
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.1)
    generator = SiTGenerator(network, make_pipeline().vae)
    corruption = sit._Mixing(TARGET, levels)
    with torch.no_grad():
        torch.testing.assert_close(loss(), generator.residual(START, corruption, [1, None]).square().mean())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sit")
    pipeline = make_pipeline()
    sit.save(pipeline.transformer, pipeline.vae, folder)
    return folder


def test_what_is_saved_is_loaded(folder):
    index = json.loads((folder / "model_index.json").read_text())
    assert index["_class_name"] in sit.PIPELINES and index["transformer"] == ["diffusers", "DiTTransformer2DModel"]
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    loaded = sit.load(str(folder), **{**LOADED, "sample_steps": 3, "guidance_scale": 2.5})
    assert torch.equal(loaded.sample(CLASSES, SEEDS), make(steps=3).sample(CLASSES, SEEDS))
    assert (loaded.image_size, loaded.latent_shape, loaded.facts.license) == (16, SHAPE, "mit")
    assert loaded.decode(START).shape == (2, 3, 16, 16)
    images = loaded.decode(START)
    mean, std = loaded.posterior(images)
    expected = make_pipeline().vae.encode(images * 2 - 1).latent_dist
    torch.testing.assert_close(mean, expected.mean * 0.7)
    torch.testing.assert_close(std, expected.std * 0.7)


def test_a_schedule_of_other_steps_is_refused(folder, tmp_path):
    other = shutil.copytree(folder, tmp_path / "other")
    file = other / "scheduler" / "scheduler_config.json"
    for change in ({"shift": 3.0}, {"shift": "x"}, {"use_dynamic_shifting": True}):
        file.write_text(json.dumps(change))
        with pytest.raises(InputError, match=rf"scheduler_config.json, {next(iter(change))}"):
            sit.load(str(other), **LOADED)


def test_more_guided_channels_than_there_are(folder):
    with pytest.raises(InputError, match="4 latent channels"):
        sit.load(str(folder), **{**LOADED, "guided_channels": 5})
