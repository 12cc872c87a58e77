"""Guides and starts against samplers written out here, one image at a time, in double precision."""

from dataclasses import dataclass, field

import pytest
import torch
from helpers import make_pipeline

from distill_hub.generators.base import State
from distill_hub.generators.dit import DiTGenerator
from distill_hub.running.seeds import cpu_generator

ALPHA = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)  # ᾱ_t
CLASSES, SEEDS = [0, 2], [11, 12]
TARGET = torch.randn(2, 4, 8, 8, generator=cpu_generator(99))  # m, another for each image


@dataclass
class Pull:
    """Towards m, by a share of what is left of the way, in some steps alone."""

    share: float = 0.3
    steps: range = range(1000)
    needs_graph: bool = False
    seen: list[State] = field(default_factory=list)

    def __call__(self, state: State) -> torch.Tensor | None:
        self.seen.append(state)
        return self.share * (TARGET - state.x0) if state.step in self.steps else None


class Nothing:
    """No shift, said in one of two ways, and with or without a graph."""

    def __init__(self, zeros: bool, needs_graph: bool):
        self.zeros, self.needs_graph = zeros, needs_graph

    def __call__(self, state: State) -> torch.Tensor | None:
        return torch.zeros_like(state.x0) if self.zeros else None


@pytest.mark.parametrize("needs_graph", [False, True])
@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize("scheduler", ["ddpm", "ddim", "dpm-solver++"])
def test_a_guide_that_does_nothing_changes_no_bit(scheduler, zeros, needs_graph):
    generator = DiTGenerator(make_pipeline(learned_variance=True), scheduler=scheduler, steps=5)
    plain = generator.sample(CLASSES, SEEDS)
    guided = generator.sample(CLASSES, SEEDS, guide=Nothing(zeros, needs_graph))
    assert torch.equal(guided, plain)
    assert not guided.requires_grad


class Reference:
    """What the network predicts, with guidance, for one image in double precision."""

    def __init__(self, guidance, *, learned_variance=False):
        self.transformer = make_pipeline(learned_variance=learned_variance).transformer.double()
        self.guidance = guidance

    @torch.no_grad()
    def __call__(self, z, t, class_id):
        """Noise, and the conditional network's other channels."""
        conditional, empty = (
            self.transformer(z[None], timestep=torch.tensor([t]), class_labels=torch.tensor([c])).sample[0]
            for c in (class_id, 3)
        )
        return empty[:4] + self.guidance * (conditional[:4] - empty[:4]), conditional[4:]


def begin(seed, place, t, start):
    """The stream of an image, and where it begins: noise, or its start noised to t."""
    draw = cpu_generator(seed)
    noise = torch.randn(4, 8, 8, generator=draw).double()
    return draw, noise if start is None else ALPHA[t].sqrt() * start[place].double() + (1 - ALPHA[t]).sqrt() * noise


def ddpm(steps, guidance, *, pull=None, learned_variance=False, start=None, left=None):
    """Ho et al. (2020): the posterior's mean of Eq. 6 and 7, to which `pull` adds what it makes of σ, x̂_0 and its weight."""
    predict, used = (
        Reference(guidance, learned_variance=learned_variance),
        [round(i * 999 / (steps - 1)) for i in range(steps)],
    )
    results = []
    for place, (class_id, seed) in enumerate(zip(CLASSES, SEEDS, strict=True)):
        left = left or steps
        draw, z = begin(seed, place, used[left - 1], start)
        for step in reversed(range(left)):
            t, here = used[step], ALPHA[used[step]]
            before = ALPHA[used[step - 1]] if step else torch.ones((), dtype=torch.float64)
            noise, rest = predict(z, t, class_id)
            x0 = (z - (1 - here).sqrt() * noise) / here.sqrt()
            beta = 1 - here / before
            weight = before.sqrt() * beta / (1 - here)
            small = beta * (1 - before) / (1 - here)
            variance = small
            if learned_variance and step:
                share = (rest + 1) / 2
                variance = torch.exp(share * beta.log() + (1 - share) * small.log())
            mean = weight * x0 + (1 - beta).sqrt() * (1 - before) / (1 - here) * z
            if pull:
                mean = mean + pull(variance.sqrt(), TARGET[place].double() - x0, weight)
            z = mean + variance.sqrt() * torch.randn(4, 8, 8, generator=draw).double() if step else mean
        results.append(z)
    return torch.stack(results)


@pytest.mark.parametrize("learned_variance", [False, True])
def test_ddpm_moves_the_mean_by_the_weight_of_the_shift(learned_variance):
    generator = DiTGenerator(make_pipeline(learned_variance=learned_variance), steps=6, guidance_scale=2.5)
    guide = Pull(0.3)
    expected = ddpm(6, 2.5, pull=lambda sigma, way, weight: weight * 0.3 * way, learned_variance=learned_variance)
    actual = generator.sample(CLASSES, SEEDS, guide=guide)
    torch.testing.assert_close(actual.double(), expected, atol=2e-4, rtol=2e-4)
    assert (actual - generator.sample(CLASSES, SEEDS)).abs().mean() > 0.05
    assert [(state.step, state.of) for state in guide.seen] == [(step, 6) for step in range(6)]


class Mean:
    """A pull of λ·σ_t·(m − x̂_0) on the mean, in the early steps, as Mode-Guided diffusion has it."""

    needs_graph = False

    def __call__(self, state):
        return 0.4 * state.sigma * (TARGET - state.x0) / state.weight


@pytest.mark.parametrize("learned_variance", [False, True])
def test_a_pull_on_the_mean_is_a_shift_by_it_over_the_weight(learned_variance):
    generator = DiTGenerator(make_pipeline(learned_variance=learned_variance), steps=6, guidance_scale=2.5)
    expected = ddpm(6, 2.5, pull=lambda sigma, way, weight: 0.4 * sigma * way, learned_variance=learned_variance)
    torch.testing.assert_close(generator.sample(CLASSES, SEEDS, guide=Mean()).double(), expected, atol=5e-4, rtol=5e-4)


def ddim(steps, guidance, *, share=0.0, start=None, left=None):
    """Song et al. (2021), Eq. 12 with σ = 0: x̂_0 is moved, and the noise follows from it."""
    predict, stride, results = Reference(guidance), 1000 // steps, []
    for place, (class_id, seed) in enumerate(zip(CLASSES, SEEDS, strict=True)):
        used = [1000 - 1 - stride * i for i in range(steps)][steps - (left or steps) :]
        _, z = begin(seed, place, used[0], start)
        for t in used:
            here = ALPHA[t]
            before = ALPHA[t - stride] if t > stride else torch.ones((), dtype=torch.float64)
            noise, _ = predict(z, t, class_id)
            x0 = (z - (1 - here).sqrt() * noise) / here.sqrt()
            x0 = x0 + share * (TARGET[place].double() - x0)
            noise = (z - here.sqrt() * x0) / (1 - here).sqrt()
            z = before.sqrt() * x0 + (1 - before).sqrt() * noise
        results.append(z)
    return torch.stack(results)


@pytest.mark.parametrize("share", [0.3, 1.0])
def test_ddim_moves_x0_and_the_noise_follows(share):
    generator = DiTGenerator(make_pipeline(), scheduler="ddim", steps=5, guidance_scale=3.0)
    actual = generator.sample(CLASSES, SEEDS, guide=Pull(share))
    torch.testing.assert_close(actual.double(), ddim(5, 3.0, share=share), atol=2e-4, rtol=2e-4)
    if share == 1:
        torch.testing.assert_close(actual, TARGET, atol=1e-4, rtol=1e-4)  # with all of the way made


def solver(steps, guidance, *, share=0.0, start=None, left=None):
    """DPM-Solver++ (2M) (Lu et al., 2022, Alg. 2), which begins and, below 15 steps, ends with first order."""
    predict, results = Reference(guidance), []
    used = [round(999 - i * 999 / steps) for i in range(steps)][steps - (left or steps) :]
    for place, (class_id, seed) in enumerate(zip(CLASSES, SEEDS, strict=True)):
        _, z = begin(seed, place, used[0], start)
        last = last_h = None
        for i, t in enumerate(used):
            noise, _ = predict(z, t, class_id)
            x0 = (z - (1 - ALPHA[t]).sqrt() * noise) / ALPHA[t].sqrt()
            x0 = x0 + share * (TARGET[place].double() - x0)
            if i == len(used) - 1:  # to σ = 0
                z = x0
                break
            following = used[i + 1]
            lam, lam_next = (0.5 * (ALPHA[s] / (1 - ALPHA[s])).log() for s in (t, following))
            h = lam_next - lam
            data = x0
            if last is not None:
                r = last_h / h
                data = (1 + 1 / (2 * r)) * x0 - 1 / (2 * r) * last
            sigma, sigma_next = (1 - ALPHA[t]).sqrt(), (1 - ALPHA[following]).sqrt()
            z = sigma_next / sigma * z - ALPHA[following].sqrt() * ((-h).exp() - 1) * data
            last, last_h = x0, h
        results.append(z)
    return torch.stack(results)


@pytest.mark.parametrize("share", [0.0, 0.3])
def test_dpm_solver_takes_the_moved_x0(share):
    generator = DiTGenerator(make_pipeline(), scheduler="dpm-solver++", steps=6, guidance_scale=3.0)
    guide = Pull(share)
    actual = generator.sample(CLASSES, SEEDS, guide=guide)
    torch.testing.assert_close(actual.double(), solver(6, 3.0, share=share), atol=5e-4, rtol=5e-4)
    assert all(state.sigma is None and state.weight is None for state in guide.seen)


def test_a_guide_acts_in_the_steps_it_wants_alone():
    """Not in the last five of eight: what it did not touch goes on as from there without it."""
    generator = DiTGenerator(make_pipeline(), scheduler="ddim", steps=8, guidance_scale=3.0)
    early, late = Pull(0.5, range(3)), Pull(0.5, range(7, 8))
    generator.sample(CLASSES, SEEDS, guide=early)
    generator.sample(CLASSES, SEEDS, guide=late)
    for step in range(8):
        same = torch.equal(early.seen[step].noisy, late.seen[step].noisy)
        assert same == (step == 0)
    plain = Pull(0.0)
    generator.sample(CLASSES, SEEDS, guide=plain)
    assert all(torch.equal(a.noisy, b.noisy) for a, b in zip(late.seen, plain.seen, strict=True))


def test_the_state_is_the_steps_own():
    generator = DiTGenerator(make_pipeline(), steps=6, guidance_scale=2.5)
    guide, predict = Pull(0.2), Reference(2.5)
    generator.sample(CLASSES, SEEDS, guide=guide)
    for state, t in zip(guide.seen, [999, 799, 599, 400, 200, 0], strict=True):
        assert state.level == pytest.approx((1 - ALPHA[t]).sqrt().item(), rel=2e-4)  # float32 holds 1−ᾱ_0 = 1e-4 to this
        for place, class_id in enumerate(CLASSES):
            noise, _ = predict(state.noisy[place].double(), t, class_id)
            x0 = (state.noisy[place] - (1 - ALPHA[t]).sqrt() * noise) / ALPHA[t].sqrt()
            torch.testing.assert_close(state.x0[place].double(), x0, atol=1e-3, rtol=1e-4)
    assert guide.seen[-1].weight == 1 and not guide.seen[-1].sigma.any()


def test_a_guide_may_ask_for_gradients_through_the_network():
    """∂‖x̂_0‖²/∂z_t of the first step, by autograd here and through the network in double precision."""
    generator = DiTGenerator(make_pipeline(), scheduler="ddim", steps=4, guidance_scale=2.5)
    gradients = []

    class Smaller:
        needs_graph = True

        def __call__(self, state):
            (gradient,) = torch.autograd.grad(state.x0.square().sum(), state.noisy)
            gradients.append((state.noisy.detach().clone(), gradient))
            return -0.1 * gradient

    sample = generator.sample(CLASSES, SEEDS, guide=Smaller())
    assert sample.isfinite().all() and not torch.allclose(sample, generator.sample(CLASSES, SEEDS), atol=1e-3)
    transformer, (noisy, found) = make_pipeline().transformer.double(), gradients[1]
    t = 749
    for place, class_id in enumerate(CLASSES):
        z = noisy[place].double().requires_grad_(True)
        conditional, empty = (
            transformer(z[None], timestep=torch.tensor([t]), class_labels=torch.tensor([c])).sample[0] for c in (class_id, 3)
        )
        x0 = (z - (1 - ALPHA[t]).sqrt() * (empty + 2.5 * (conditional - empty))) / ALPHA[t].sqrt()
        (expected,) = torch.autograd.grad(x0.square().sum(), z)
        torch.testing.assert_close(found[place].double(), expected, rtol=1e-3, atol=1e-3 * expected.abs().max().item())
    assert all(parameter.grad is None for parameter in generator.transformer.parameters())


# Starts.

START = torch.randn(2, 4, 8, 8, generator=cpu_generator(7))


@pytest.mark.parametrize(("strength", "left"), [(1.0, 10), (0.7, 7), (0.3, 3), (0.01, 1)])
def test_a_start_is_noised_for_its_share_of_the_steps_and_denoised(strength, left):
    references = {
        "ddpm": ddpm(10, 2.5, start=START, left=left),
        "ddim": ddim(10, 2.5, start=START, left=left),
        "dpm-solver++": solver(10, 2.5, start=START, left=left),
    }
    for scheduler, expected in references.items():
        generator = DiTGenerator(make_pipeline(), scheduler=scheduler, steps=10, guidance_scale=2.5)
        actual = generator.sample(CLASSES, SEEDS, start=START, strength=strength)
        torch.testing.assert_close(actual.double(), expected, atol=5e-4, rtol=5e-4)
    assert torch.equal(START, torch.randn(2, 4, 8, 8, generator=cpu_generator(7)))


def test_the_weaker_the_closer_to_the_start_and_steps_count_on_the_whole_schedule():
    generator = DiTGenerator(make_pipeline(), scheduler="ddim", steps=10, guidance_scale=1.0)
    near, far = (generator.sample(CLASSES, SEEDS, start=START, strength=s) for s in (0.1, 1.0))
    assert (near - START).norm() < 0.5 * (far - START).norm()
    guide = Pull(0.0)
    generator.sample(CLASSES, SEEDS, guide=guide, start=START, strength=0.3)
    assert [(state.step, state.of) for state in guide.seen] == [(7, 10), (8, 10), (9, 10)]


@pytest.mark.parametrize(("start", "strength"), [(START, 0.0), (START, 1.1), (None, 0.5)])
def test_other_strengths_are_refused(start, strength):
    with pytest.raises(ValueError, match="strength"):
        DiTGenerator(make_pipeline(), steps=2).sample(CLASSES, SEEDS, start=start, strength=strength)
