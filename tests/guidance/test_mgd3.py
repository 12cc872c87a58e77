"""Mode guidance against samplers written out here, one image at a time, in double precision."""

import pytest
import torch
from helpers import make_pipeline

from distill_hub.generating.kinds import FITTED_KINDS
from distill_hub.generators.base import State
from distill_hub.generators.dit import DEFAULTS, DiTGenerator
from distill_hub.guidance.mgd3 import Towards
from distill_hub.options.mgd3 import Mgd3Config
from distill_hub.running.seeds import cpu_generator

ALPHA = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)  # ᾱ_t
CLASSES, SEEDS, STEPS, CFG = [0, 2], [11, 12], 5, 2.5
MODES = torch.randn(2, 4, 8, 8, generator=cpu_generator(99))


@torch.no_grad()
def sampled(scheduler: str, strength: float, guided: int) -> torch.Tensor:
    """Alg. 1 for DDIM, and the mean of DDPM's step moved by λ·σ_t·(m − x̂_0), in the first `guided` of all steps."""
    transformer, results = make_pipeline().transformer.double(), []
    ddim = scheduler == "ddim"
    used = [999 - (1000 // STEPS) * i if ddim else round(999 - i * 999 / (STEPS - 1)) for i in range(STEPS)]
    for mode, class_id, seed in zip(MODES.double(), CLASSES, SEEDS, strict=True):
        draw = cpu_generator(seed)
        z = torch.randn(4, 8, 8, generator=draw).double()
        for step, t in enumerate(used):
            here = ALPHA[t]
            last = step == STEPS - 1
            following = t - 1000 // STEPS if ddim else (None if last else used[step + 1])
            before = torch.ones(()).double() if following is None or following < 0 else ALPHA[following]
            conditional, empty = (
                transformer(z[None], timestep=torch.tensor([t]), class_labels=torch.tensor([c])).sample[0]
                for c in (class_id, 3)
            )
            noise = empty + CFG * (conditional - empty)
            x0 = (z - (1 - here).sqrt() * noise) / here.sqrt()
            if ddim:
                if step < guided:
                    x0 = x0 + strength * (mode - x0)
                    noise = (z - here.sqrt() * x0) / (1 - here).sqrt()
                z = before.sqrt() * x0 + (1 - before).sqrt() * noise
                continue
            beta = 1 - here / before
            mean = before.sqrt() * beta / (1 - here) * x0 + (1 - beta).sqrt() * (1 - before) / (1 - here) * z
            sigma = (beta * (1 - before) / (1 - here)).sqrt()
            if step < guided:
                mean = mean + strength * sigma * (mode - x0)
            z = mean if last else mean + sigma * torch.randn(4, 8, 8, generator=draw).double()
        results.append(z)
    return torch.stack(results)


@pytest.mark.parametrize(("scheduler", "strength"), [("ddpm", 0.1), ("ddim", 0.1), ("ddim", 0.7)])
@pytest.mark.parametrize(("stop", "guided"), [(0.5, 3), (1.0, 5)])
def test_samples_are_those_of_the_algorithm(scheduler, strength, stop, guided):
    generator = DiTGenerator(make_pipeline(), scheduler=scheduler, steps=STEPS, guidance_scale=CFG)
    actual = generator.sample(CLASSES, SEEDS, guide=Towards(MODES, strength, stop, scheduler == "ddpm"))
    torch.testing.assert_close(actual.double(), sampled(scheduler, strength, guided), atol=5e-4, rtol=5e-4)
    assert (actual - generator.sample(CLASSES, SEEDS)).abs().mean() > 1e-3


def test_more_strength_leads_closer_to_the_modes():
    generator = DiTGenerator(make_pipeline(), scheduler="ddim", steps=STEPS)
    far = [
        float((generator.sample(CLASSES, SEEDS, guide=Towards(MODES, strength, 1.0)) - MODES).square().mean())
        for strength in (0.0, 0.1, 0.5, 1.0)
    ]
    assert far == sorted(far, reverse=True) and far[-1] < 1e-6


def state(step: int, of: int, sigma: float | None = None, weight: float | None = None) -> State:
    x0 = torch.full((2, 4, 8, 8), 3.0)
    return State(step, of, 0.5, x0, x0, None if sigma is None else torch.tensor(sigma), weight)


@pytest.mark.parametrize(
    ("stop", "of", "guided"), [(0.0, 5, []), (0.5, 5, [0, 1, 2]), (0.5, 50, [*range(25)]), (1.0, 3, [0, 1, 2])]
)
def test_guidance_stops(stop, of, guided):
    guide = Towards(MODES, 0.1, stop)
    assert [step for step in range(of) if guide(state(step, of)) is not None] == guided


def test_the_shift_by_hand():
    """λ = 0.1, m = 5, x̂_0 = 3: 0.2 of x̂_0; or with σ = 0.5 a pull of 0.1 on a mean in which x̂_0 weighs 0.25."""
    modes = torch.full((2, 4, 8, 8), 5.0)
    for here in (state(0, 2), state(0, 2, sigma=0.5, weight=0.25)):
        torch.testing.assert_close(Towards(modes, 0.1, 0.5)(here), torch.full((2, 4, 8, 8), 0.2))
    torch.testing.assert_close(Towards(modes, 0.1, 0.5, on_mean=True)(here), torch.full((2, 4, 8, 8), 0.4))


def test_the_defaults_are_the_papers():
    config = Mgd3Config()
    assert (config.guidance_strength, config.stop_fraction, config.modes, config.pca) == (0.1, 0.5, "centre", None)
    assert DEFAULTS["sample_steps"] == 50


@pytest.mark.parametrize("name", FITTED_KINDS)
def test_with_all_of_the_way_made_every_kind_of_generator_ends_at_the_modes(name, tmp_path):
    """Whatever its network, of random weights here, and its sampler, with noise or without."""
    kind = FITTED_KINDS[name]
    settings = {option: 4 for option in ("sample_steps", "head_steps") if option in kind.DEFAULTS}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = kind.build((4, 8, 8), 3, 32, 2)
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
    kind.save(network, make_pipeline().vae, tmp_path)
    where = {"classes": [], "revision": None, "device": torch.device("cpu"), "dtype": torch.float32}
    generator = kind.load(str(tmp_path), **where, **{**kind.DEFAULTS, **settings})
    actual = generator.sample(CLASSES, SEEDS, guide=Towards(MODES, 1.0, 1.0))
    torch.testing.assert_close(actual, MODES, atol=1e-4, rtol=1e-4)
    half = generator.sample(CLASSES, SEEDS, guide=Towards(MODES, 0.5, 1.0))
    assert (half - MODES).square().mean() < (generator.sample(CLASSES, SEEDS) - MODES).square().mean()
