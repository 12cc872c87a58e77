"""MAR against its network, sampler and loss written out here: one image at a time, token by token, in double precision."""

import json
import math
import shutil
from collections import Counter
from dataclasses import dataclass

import pytest
import torch
from diffusers import AutoencoderKL, DDPMScheduler
from helpers import make_pipeline
from safetensors.torch import load_file, save_file
from scipy.stats import truncnorm
from torch.distributions import Normal, kl_divergence

from distill_hub.config import InputError
from distill_hub.generators import mar
from distill_hub.generators.mar_schedule import masked_counts, respaced, training_share
from distill_hub.methods import cao2
from distill_hub.networks.mar import MAR
from distill_hub.running.seeds import cpu_generator

L, D = 16, 16  # tokens of 2x2 latents with 4 channels, 8x8 in all
CLASSES, SEEDS = [0, 2, None], [11, 12, 13]
HOW = {"sample_steps": 5, "head_steps": 6, "guidance_scale": 2.5, "head_temperature": 0.9}
CLOSE = {"atol": 2e-4, "rtol": 2e-4}  # a timestep's sinusoids have the digits of float32
LINEAR = {"beta_schedule": "linear"}


def make_network() -> MAR:
    torch.manual_seed(0)
    network = mar.build((4, 8, 8), 3, 32, 3)  # one block sees tokens, two see places
    for name, parameter in network.named_parameters():
        torch.nn.init.normal_(parameter, mean=float("norm" in name and "weight" in name), std=0.1)
    return network


def make_generator(**settings) -> mar.MARGenerator:
    return mar.MARGenerator(make_network(), make_pipeline().vae, LINEAR, **{**HOW, **settings})


class Reference:
    """The network for one image."""

    def __init__(self):
        self.state = {name: tensor.detach().double() for name, tensor in make_network().state_dict().items()}

    def linear(self, name, x):
        return x @ self.state[f"{name}.weight"].T + self.state[f"{name}.bias"]

    def norm(self, name, x):
        x = (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + 1e-6).sqrt()
        weight = self.state.get(f"{name}.weight")
        return x if weight is None else x * weight + self.state[f"{name}.bias"]

    def block(self, name, x):
        q, k, v = self.linear(f"{name}.attn.qkv", self.norm(f"{name}.norm1", x)).chunk(3, 1)  # one head of 32
        attended = (q @ k.T / math.sqrt(32)).softmax(1) @ v
        x = x + self.linear(f"{name}.attn.proj", attended)
        h = self.linear(f"{name}.mlp.fc1", self.norm(f"{name}.norm2", x))
        return x + self.linear(f"{name}.mlp.fc2", h * (1 + torch.erf(h / math.sqrt(2))) / 2)

    def condition(self, tokens, masked, embedding):
        """Condition of every place, (L, 32), of tokens (L, D), those in the set `masked` left out."""
        state, seen = self.state, [place for place in range(L) if place not in masked]
        places = state["encoder_pos_embed_learned"][0]
        rows = [embedding + places[i] for i in range(4)]
        rows += [self.linear("z_proj", tokens[place]) + places[4 + place] for place in seen]
        x = self.norm("z_proj_ln", torch.stack(rows))
        x = self.linear("decoder_embed", self.norm("encoder_norm", self.block("encoder_blocks.0", x)))
        full = state["mask_token"][0].repeat(4 + L, 1)
        full[:4] = x[:4]
        for row, place in enumerate(seen):
            full[4 + place] = x[4 + row]
        full = full + state["decoder_pos_embed_learned"][0]
        for place in range(2):
            full = self.block(f"decoder_blocks.{place}", full)
        return self.norm("decoder_norm", full)[4:] + state["diffusion_pos_embed_learned"][0]

    def head(self, x, t, z):
        """Noise and fraction of the log variance of a token, (D,) each."""
        angles = torch.tensor([t * 10_000 ** (-i / 128) for i in range(128)], dtype=torch.float64)
        silu = torch.nn.functional.silu
        net = "diffloss.net"
        features = torch.cat([angles.cos(), angles.sin()])
        y = self.linear(f"{net}.time_embed.mlp.2", silu(self.linear(f"{net}.time_embed.mlp.0", features)))
        y = y + self.linear(f"{net}.cond_embed", z)
        x = self.linear(f"{net}.input_proj", x)
        for place in range(3):
            name = f"{net}.res_blocks.{place}"
            shift, scale, gate = self.linear(f"{name}.adaLN_modulation.1", silu(y)).chunk(3)
            h = self.norm(f"{name}.in_ln", x) * (1 + scale) + shift
            x = x + gate * self.linear(f"{name}.mlp.2", silu(self.linear(f"{name}.mlp.0", h)))
        shift, scale = self.linear(f"{net}.final_layer.adaLN_modulation.1", silu(y)).chunk(2)
        x = self.norm(f"{net}.final_layer.norm_final", x) * (1 + scale) + shift
        return self.linear(f"{net}.final_layer.linear", x).chunk(2)

    def embedding(self, class_id):
        return self.state["fake_latent"][0] if class_id is None else self.state["class_emb.weight"][class_id]


def cut(latents):
    """Tokens (L, D) of a latent (4, 8, 8), by loops."""
    return torch.stack(
        [
            torch.stack([latents[c, 2 * row + i, 2 * column + j] for c in range(4) for i in range(2) for j in range(2)])
            for row in range(4)
            for column in range(4)
        ]
    )


def pasted(tokens):
    """Undo `cut`."""
    latents = torch.zeros(4, 8, 8, dtype=tokens.dtype)
    for place, token in enumerate(tokens):
        row, column = 2 * (place // 4), 2 * (place % 4)
        latents[:, row : row + 2, column : column + 2] = token.view(4, 2, 2)
    return latents


ALPHA = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)  # ᾱ_t
TARGET = torch.randn(3, 4, 8, 8, generator=cpu_generator(99))


def reference_sample(class_id, seed, *, pull=0.0, target=None, start=None, left=L):
    """A latent: Alg. of Sec. 3.4, each token by DDPM with the variance of Nichol and Dhariwal's Eq. 15."""
    net, draw = Reference(), cpu_generator(seed)
    used = [round(i * 999 / 5) for i in range(6)]
    order = torch.randperm(L, generator=draw).tolist()
    tokens = torch.zeros(L, D, dtype=torch.float64) if start is None else cut(start.double())
    goal = None if target is None else cut(target.double())
    for step in range(1, 6):
        after = math.floor(L * math.cos(math.pi / 2 * step / 5)) if step < 5 else 0
        if after >= left:
            continue
        masked = set(order[:left])
        own, none = (net.condition(tokens, masked, net.embedding(c)) for c in (class_id, None))
        weight = 1 + 1.5 * (L - max(after, 1)) / L
        noise = torch.randn(6, left - after, D, generator=draw).double()
        drawn = {}
        for row, place in enumerate(order[after:left]):
            x = noise[0, row]
            for count, i in enumerate(reversed(range(6))):
                t, here, before = used[i], ALPHA[used[i]], ALPHA[used[i - 1]] if i else torch.tensor(1.0).double()
                predicted, fraction = net.head(x, t, own[place])
                without, _ = net.head(x, t, none[place])
                predicted = without + weight * (predicted - without)
                x0 = (x - (1 - here).sqrt() * predicted) / here.sqrt()
                if goal is not None:
                    x0 = x0 + pull * (goal[place] - x0)
                beta = 1 - here / before
                mean = before.sqrt() * beta / (1 - here) * x0 + (1 - beta).sqrt() * (1 - before) / (1 - here) * x
                if i:
                    share, small = (fraction + 1) / 2, beta * (1 - before) / (1 - here)
                    sigma = torch.exp((share * beta.log() + (1 - share) * small.log()) / 2)
                    mean = mean + 0.9 * sigma * noise[count + 1, row]
                x = mean
            drawn[place] = x
        for place, token in drawn.items():
            tokens[place] = token
        left = after
    return pasted(tokens)


@dataclass
class Pull:
    """Towards the target, by a share of what is left of the way."""

    share: float = 0.3
    needs_graph: bool = False

    def __call__(self, state):
        assert (state.of, state.noisy.shape, state.sigma.shape) == (6, (3, 4, 8, 8), (3, 4, 8, 8))
        return self.share * (TARGET - state.x0)


def test_samples_are_those_of_the_reference():
    actual = make_generator().sample(CLASSES, SEEDS)
    expected = torch.stack([reference_sample(c, seed) for c, seed in zip(CLASSES, SEEDS, strict=True)])
    torch.testing.assert_close(actual.double(), expected, **CLOSE)


def test_a_guide_moves_the_tokens_that_are_drawn():
    generator = make_generator()
    actual = generator.sample(CLASSES, SEEDS, guide=Pull())
    expected = [
        reference_sample(c, seed, pull=0.3, target=target) for c, seed, target in zip(CLASSES, SEEDS, TARGET, strict=True)
    ]
    torch.testing.assert_close(actual.double(), torch.stack(expected), **CLOSE)
    plain = generator.sample(CLASSES, SEEDS)
    assert torch.equal(generator.sample(CLASSES, SEEDS, guide=Pull(0.0)), plain)
    assert (actual - TARGET).square().mean() < 0.7 * (plain - TARGET).square().mean()
    with pytest.raises(InputError, match="no gradients go through its sampler"):
        generator.sample(CLASSES, SEEDS, guide=Pull(needs_graph=True))


def test_a_start_keeps_its_other_tokens():
    actual = make_generator().sample(CLASSES, SEEDS, start=TARGET, strength=0.3)
    for place, (c, seed) in enumerate(zip(CLASSES, SEEDS, strict=True)):
        expected = reference_sample(c, seed, start=TARGET[place], left=5)  # of 16
        torch.testing.assert_close(actual[place].double(), expected, **CLOSE)
        kept = (cut(actual[place]) == cut(TARGET[place])).all(1)
        assert kept.sum() == 11
    with pytest.raises(ValueError, match="strength"):
        make_generator().sample(CLASSES, SEEDS, strength=0.5)


@pytest.mark.parametrize("strength", [1.0, 0.5])
@pytest.mark.parametrize("settings", [{}, {"guidance_scale": 1.0}, {"sample_steps": 64}])
def test_a_batch_is_one_image_at_a_time(settings, strength):
    generator = make_generator(**settings)

    def drawn(rows):
        start = TARGET[rows] if strength < 1 else None
        return generator.sample([CLASSES[i] for i in rows], [SEEDS[i] for i in rows], start=start, strength=strength)

    together = drawn([0, 1, 2])
    assert torch.equal(drawn([0, 1, 2]), together)
    alone, spread = torch.cat([drawn([row]) for row in range(3)]), together.std()  # far above 1 with random weights
    torch.testing.assert_close(together / spread, alone / spread, atol=1e-5, rtol=0)


def test_how_many_tokens_are_masked_after_each_step():
    assert list(masked_counts(16, 8)) == [15, 14, 13, 11, 8, 6, 3, 0]
    assert list(masked_counts(16, 1)) == [0]
    assert list(masked_counts(4, 64)) == [3, 2, 1, 0]
    for steps in (32, 64, 256):
        left = list(masked_counts(256, steps))
        drawn = [before - after for before, after in zip([256, *left], left, strict=False)]
        assert len(left) == steps and sum(drawn) == 256 and min(drawn) >= 1 and left[-1] == 0
        free = [(after, step) for step, after in enumerate(left[:-1], 1) if after != left[step - 2] - 1]
        assert all(after == math.floor(256 * math.cos(math.pi / 2 * step / steps)) for after, step in free)


def test_the_heads_steps_are_those_of_diffusers_sampler():
    """With the cosine schedule of the published weights: mean and standard deviation of the next token."""
    schedule = DDPMScheduler(**mar.COSINE, clip_sample=False, variance_type="learned_range", timestep_spacing="linspace")
    schedule.alphas_cumprod = (1 - schedule.betas.double()).cumprod(0)
    schedule.one = torch.ones((), dtype=torch.float64)
    schedule.set_timesteps(100)
    x, predicted, fraction = torch.randn(3, 1, 5, 1, 1, generator=cpu_generator(0), dtype=torch.float64)
    steps = list(respaced(schedule.betas, 100))
    assert [step.timestep for step in steps] == schedule.timesteps.tolist()
    share = (fraction.tanh() + 1) / 2
    for step in steps:
        output = torch.cat([predicted, fraction.tanh()], 1)
        expected = schedule.step(output, step.timestep, x, generator=cpu_generator(7)).prev_sample
        x0 = (x - step.level * predicted) / step.signal
        mean = step.clean * x0 + step.keep * x
        noise = torch.randn(x.shape, generator=cpu_generator(7), dtype=torch.float64) * (step.timestep > 0)
        sigma = torch.exp((share * step.largest + (1 - share) * step.smallest) / 2)
        torch.testing.assert_close(mean + sigma * noise, expected, rtol=1e-6, atol=1e-6)


def test_the_cosine_is_that_of_the_paper():
    alpha = [step.signal**2 for step in respaced(DDPMScheduler(**mar.COSINE).betas, 1000)][::-1]
    curve = [math.cos((i / 1000 + 0.008) / 1.008 * math.pi / 2) ** 2 for i in range(1001)]
    for t in (0, 1, 10, 500, 998):
        assert alpha[t] == pytest.approx(curve[t + 1] / curve[0], rel=1e-5)
    assert alpha[999] / alpha[998] == pytest.approx(0.001, rel=1e-4)  # β is cut at 0.999


@pytest.mark.parametrize(("schedule", "factor"), [(mar.COSINE, 316), (LINEAR, 0.2)])
def test_the_first_step_multiplies_an_error_of_the_noise_as_is_said(schedule, factor):
    betas = DDPMScheduler(**schedule).betas
    alpha = (1 - betas.double()).cumprod(0)
    first = next(respaced(betas, 100))
    beta = 1 - alpha[999] / alpha[989]
    written = (alpha[989] / alpha[999]).sqrt() * beta / (1 - alpha[999]).sqrt()
    assert first.clean * first.level / first.signal == pytest.approx(float(written), rel=1e-9)
    assert float(written) == pytest.approx(factor, rel=0.01)


def test_training_masks_as_the_papers_distribution():
    u = torch.linspace(0, 0.999, 7, dtype=torch.float64)
    expected = truncnorm((0.7 - 1) / 0.25, 0, loc=1, scale=0.25).ppf(u.numpy())
    torch.testing.assert_close(training_share(u), torch.from_numpy(expected))
    shares = [mar.levels(cpu_generator(seed), 3) for seed in range(200)]
    assert all(0.7 <= share[0] <= 1 and (share == share[0]).all() for share in shares)
    assert torch.stack(shares).mean() == pytest.approx(truncnorm(-1.2, 0, loc=1, scale=0.25).mean(), abs=0.02)


def test_corruptions_mask_at_most_that_share():
    generator = make_generator()

    def drawn(count, **how):
        return generator.corruption([cpu_generator(seed) for seed in range(count)], **how)

    found = drawn(400, most=0.25)
    counts = Counter(found.masked.sum(1).tolist())
    assert counts.keys() == {1, 2, 3, 4} and min(counts.values()) > 70  # each as often
    assert torch.equal(found.elements, D * found.masked.sum(1))
    assert (drawn(50).masked.sum(1) >= 12).all()  # .7 of 16, rounded up
    few = drawn(3, most=0.25)
    assert torch.equal(few.masked, found.masked[:3]) and torch.equal(few.noise, found.noise[:3])
    given = drawn(3, most=0.25, noise=TARGET)
    assert torch.equal(given.noise, TARGET)


def test_residuals_are_those_of_the_reference():
    generator, net = make_generator(), Reference()
    corruption = generator.corruption([cpu_generator(seed) for seed in (1, 2, 5)], most=0.6)
    assert len(set(corruption.elements.tolist())) == 3
    latents = TARGET.clone().requires_grad_()
    residual = generator.residual(latents, corruption, CLASSES)
    (gradient,) = torch.autograd.grad(residual.square().sum(), latents)
    for row, c in enumerate(CLASSES):
        own = TARGET[row].double().requires_grad_()
        tokens, noise = cut(own), cut(corruption.noise[row].double())
        masked = {place for place in range(L) if corruption.masked[row, place]}
        z = net.condition(tokens, masked, torch.zeros(32).double() if c is None else net.embedding(c))
        expected = torch.zeros(L, D, dtype=torch.float64)
        for place in masked:
            t = int(corruption.timesteps[row, place])
            noisy = ALPHA[t].sqrt() * tokens[place] + (1 - ALPHA[t]).sqrt() * noise[place]
            expected[place] = net.head(noisy, t, z[place])[0] - noise[place]
        torch.testing.assert_close(residual[row].double(), pasted(expected).flatten(), **CLOSE)
        (wanted,) = torch.autograd.grad(expected.square().sum(), own)
        torch.testing.assert_close(gradient[row].double(), wanted, atol=1e-3, rtol=1e-3)
        assert (cut(gradient[row]).abs().sum(1) > 0).all()  # of visible tokens and of masked ones
        assert (residual[row] != 0).sum() == corruption.elements[row]


def test_cao2_refines_a_batch_as_one_image_at_a_time():
    generator, how = make_generator(), {"steps": 5, "learning_rate": 1e-3}
    refined, losses = cao2.refine(generator, TARGET, CLASSES, SEEDS, **how)
    for row, (c, seed) in enumerate(zip(CLASSES, SEEDS, strict=True)):
        alone, own = cao2.refine(generator, TARGET[row : row + 1], [c], [seed], **how)
        torch.testing.assert_close(refined[row], alone[0], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(losses[row], own[0], atol=1e-5, rtol=1e-5)
    draw = cpu_generator(SEEDS[0])
    noise = torch.randn(1, 4, 8, 8, generator=draw)
    corruption = generator.corruption([draw], most=0.25, noise=noise)
    error = generator.residual(TARGET[:1], corruption, [0])
    masked = error[error != 0]
    torch.testing.assert_close(losses[0, 0], masked.square().mean() + 10 * masked.abs().max())


def test_the_loss_is_the_references():
    """Of every masked token, four times: the noise's mean square and the bound's bits (see `objective`)."""
    network, net = make_network(), Reference()
    latents, noise = TARGET, torch.randn(3, 4, 8, 8, generator=cpu_generator(5))
    share = torch.full((3,), 0.8, dtype=torch.float64)
    actual = mar.loss(network, latents, noise, share, torch.tensor([0, 3, 1]), cpu_generator(6))  # 3: no class
    actual.backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
    draw = cpu_generator(6)
    masked = torch.rand(3, L, generator=draw).argsort(1) < 13  # .8 of 16, rounded up
    others = torch.randn(3, 39, D, generator=draw).double()
    timesteps = torch.randint(1000, (4 * 39,), generator=draw).view(4, 39)
    assert timesteps.min() > 0
    terms, row = [], 0
    for image, c in enumerate((0, None, 1)):
        tokens, own = cut(latents[image].double()), cut(noise[image].double())
        places = [place for place in range(L) if masked[image, place]]
        z = net.condition(tokens, set(places), net.embedding(c))
        for place in places:
            for repeat in range(4):
                t, clean = int(timesteps[repeat, row]), tokens[place]
                epsilon = own[place] if repeat == 0 else others[repeat - 1, row]
                noisy = ALPHA[t].sqrt() * clean + (1 - ALPHA[t]).sqrt() * epsilon
                predicted, fraction = net.head(noisy, t, z[place])
                guess = (noisy - (1 - ALPHA[t]).sqrt() * predicted) / ALPHA[t].sqrt()
                beta = 1 - ALPHA[t] / ALPHA[t - 1]
                small = beta * (1 - ALPHA[t - 1]) / (1 - ALPHA[t])
                scale = beta.sqrt() ** ((1 + fraction) / 2) * small.sqrt() ** ((1 - fraction) / 2)

                def posterior(x0, scale, t=t, noisy=noisy, beta=beta):
                    keep = (1 - beta).sqrt() * (1 - ALPHA[t - 1]) / (1 - ALPHA[t])
                    return Normal(ALPHA[t - 1].sqrt() * beta / (1 - ALPHA[t]) * x0 + keep * noisy, scale)

                bits = kl_divergence(posterior(clean, small.sqrt()), posterior(guess, scale)).mean() / math.log(2)
                terms.append((predicted - epsilon).square().mean() + bits)
            row += 1
    torch.testing.assert_close(actual.double(), torch.stack(terms).mean(), rtol=1e-4, atol=0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A generator as `fit` leaves it."""
    folder = tmp_path_factory.mktemp("mar")
    mar.save(make_network(), make_pipeline().vae, folder)
    index = folder / "model_index.json"
    named = {**json.loads(index.read_text()), "id2label": {"0": "zero", "1": "one", "2": "two"}}
    index.write_text(json.dumps(named))
    return folder


def loaded(folder, **settings):
    return mar.load(str(folder), classes=(), revision=None, device="cpu", dtype=torch.float32, **settings)


def test_a_folder_holds_all_of_it(folder):
    found, made = loaded(folder, **HOW), make_generator()
    assert torch.equal(found.sample(CLASSES, SEEDS), made.sample(CLASSES, SEEDS))
    assert (found.latent_shape, found.image_size, found.class_names) == ((4, 8, 8), 16, ["zero", "one", "two"])
    assert found.facts.name == "MAR" and not any(parameter.requires_grad for parameter in found.network.parameters())
    images = found.decode(found.sample([0], [1]))
    assert images.shape == (1, 3, 16, 16) and found.posterior(images)[0].shape == (1, 4, 8, 8)


@pytest.mark.parametrize(
    ("break_it", "line"),
    [
        (lambda folder: rename(folder), "there is no transformer/diffusion_pytorch_model.safetensors.*is a pickle"),
        (lambda folder: forget(folder, "mask_token"), "its weights lack mask_token"),
        (lambda folder: forget(folder, "diffloss.net.cond_embed.bias"), "its weights lack diffloss.net.cond_embed.bias"),
        (lambda folder: edit(folder, "transformer/config.json", in_channels=16), "in_channels 16, .* latent_channels 4"),
        (lambda folder: edit(folder, "transformer/config.json", heads=5), "width 32 must be a multiple of heads 5"),
        (lambda folder: edit(folder, "transformer/config.json", width=None), "transformer/config.json, width None"),
        (lambda folder: edit(folder, "transformer/config.json", buffer_size=0), "buffer_size 0"),
        (lambda folder: edit(folder, "transformer/config.json", num_classes=4), "3 names for the 4 classes"),
        (lambda folder: edit(folder, "model_index.json", transformer=["mar", "MARModel"]), "model_index.json, transformer"),
    ],
)
def test_a_broken_folder_is_refused(folder, tmp_path, break_it, line):
    shutil.copytree(folder, tmp_path / "broken")
    break_it(tmp_path / "broken")
    with pytest.raises(InputError, match=line) as error:
        loaded(tmp_path / "broken")
    assert error.value.field == "generator" and "\n" not in str(error.value)


def rename(folder):
    weights = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))


def forget(folder, name):
    weights = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    state = load_file(weights)
    del state[name]
    save_file(state, weights, {"format": "pt"})


def edit(folder, file, **values):
    path = folder / file
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.mark.parametrize("steps", [1, 1001])
def test_head_steps_that_there_are_not_are_refused(folder, steps):
    with pytest.raises(InputError, match="2 to 1000"):
        loaded(folder, head_steps=steps)


def test_another_decoder(folder, tmp_path):
    other = make_pipeline().vae
    torch.nn.init.zeros_(other.decoder.conv_out.weight)
    other.save_pretrained(tmp_path / "vae")
    assert isinstance(other, AutoencoderKL)
    found = loaded(folder, vae=str(tmp_path / "vae"))
    images = found.decode(TARGET)
    assert (images == images[:, :, :1, :1]).all() and found.facts.decoder is not None
