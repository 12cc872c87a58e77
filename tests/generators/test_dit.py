"""The DiT adapter against diffusers' own pipeline, hand-written samplers, and its promises about seeds."""

import math

import pytest
import torch
from diffusers import DDPMScheduler, DiTPipeline
from diffusers.pipelines import pipeline_utils
from helpers import make_pipeline

from distill_hub.config import InputError
from distill_hub.data.classes import SourceClass, match_classes
from distill_hub.generators.dit import DiTGenerator
from distill_hub.running.seeds import cpu_generator


def test_reads_names_and_sizes(pipeline_folder):
    generator = DiTGenerator.from_pretrained(str(pipeline_folder))
    assert generator.class_names == ["zero", "one", "two"]
    assert generator.image_size == 16
    assert generator.latent_shape == (4, 8, 8)
    assert not generator.transformer.training
    assert not any(p.requires_grad for p in [*generator.transformer.parameters(), *generator.autoencoder.vae.parameters()])


def test_loading_one_with_names_warns_of_nothing(pipeline_folder, monkeypatch):
    said = []
    monkeypatch.setattr(pipeline_utils.logger, "warning", said.append)
    DiTGenerator.from_pretrained(str(pipeline_folder))
    assert not said
    DiTPipeline.from_pretrained(pipeline_folder)
    assert len(said) == 1 and "id2label" in said[0]  # what would be said


def test_saved_and_loaded_pipeline_samples_the_same(pipeline_folder):
    fresh = DiTGenerator(make_pipeline(), steps=4)
    loaded = DiTGenerator.from_pretrained(str(pipeline_folder), steps=4)
    assert torch.equal(fresh.sample([0, 2], [5, 6]), loaded.sample([0, 2], [5, 6]))


def test_a_pipeline_without_names_samples_but_matches_no_class(tmp_path):
    make_pipeline().save_pretrained(tmp_path)
    generator = DiTGenerator.from_pretrained(str(tmp_path), steps=2)
    assert generator.sample([0], [1]).shape == (1, 4, 8, 8)
    with pytest.raises(InputError, match="class names are not known"):
        match_classes([SourceClass("0", 0)], generator.class_names, "generator", str(tmp_path))


def reference_ddpm(pipeline, class_ids, seeds, steps, guidance):
    """Ancestral sampling after Ho et al. (2020), Alg. 2, on respaced betas, with guidance, one image at a time, float64."""
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    alpha_bar = torch.cumprod(1 - betas, 0)
    used = [round(i * 999 / (steps - 1)) for i in range(steps)]
    transformer = pipeline.transformer.double()
    results = []
    for class_id, seed in zip(class_ids, seeds, strict=True):
        draw = cpu_generator(seed)
        z = torch.randn(4, 8, 8, generator=draw).double()[None]
        for place in reversed(range(steps)):
            t = torch.tensor([used[place]])
            previous = alpha_bar[used[place - 1]] if place else torch.tensor(1.0, dtype=torch.float64)
            here = alpha_bar[used[place]]
            beta = 1 - here / previous
            with torch.no_grad():
                output = transformer(z, timestep=t, class_labels=torch.tensor([class_id])).sample
                empty = transformer(z, timestep=t, class_labels=torch.tensor([3])).sample[:, :4]
            noise = empty + guidance * (output[:, :4] - empty)
            mean = (z - beta / (1 - here).sqrt() * noise) / (1 - beta).sqrt()
            small = beta * (1 - previous) / (1 - here)
            if output.shape[1] == 8:  # Nichol and Dhariwal (2021), Eq. 15
                share = (output[:, 4:] + 1) / 2
                variance = torch.exp(share * beta.log() + (1 - share) * small.clamp(min=1e-20).log())
            else:
                variance = small
            z = mean
            if place:
                z = z + variance**0.5 * torch.randn(1, 4, 8, 8, generator=draw).double()
        results.append(z)
    return torch.cat(results)


@pytest.mark.parametrize("learned_variance", [False, True])
def test_ddpm_equals_a_plain_reference(learned_variance):
    generator = DiTGenerator(make_pipeline(learned_variance=learned_variance), steps=6, guidance_scale=2.5)
    expected = reference_ddpm(make_pipeline(learned_variance=learned_variance), [0, 2], [11, 12], 6, 2.5)
    torch.testing.assert_close(generator.sample([0, 2], [11, 12]).double(), expected, atol=2e-4, rtol=2e-4)


def test_ddim_equals_a_plain_reference():
    steps, guidance = 5, 3.0
    generator = DiTGenerator(make_pipeline(), scheduler="ddim", steps=steps, guidance_scale=guidance)
    pipeline = make_pipeline()
    alpha_bar = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)
    z = torch.randn(4, 8, 8, generator=cpu_generator(3)).double()[None]
    transformer = pipeline.transformer.double()
    for t in [999, 799, 599, 399, 199]:
        with torch.no_grad():
            conditional, empty = (
                transformer(z, timestep=torch.tensor([t]), class_labels=torch.tensor([c])).sample for c in (1, 3)
            )
        noise = empty + guidance * (conditional - empty)
        # diffusers takes alpha_bar_0 for the last step (set_alpha_to_one is the default: 1).
        before = alpha_bar[t - 200] if t > 200 else torch.tensor(1.0, dtype=torch.float64)
        clean = (z - (1 - alpha_bar[t]).sqrt() * noise) / alpha_bar[t].sqrt()
        z = before.sqrt() * clean + (1 - before).sqrt() * noise
    torch.testing.assert_close(generator.sample([1], [3]).double(), z, atol=2e-4, rtol=2e-4)


@pytest.mark.parametrize("scheduler", ["ddpm", "ddim", "dpm-solver++"])
def test_a_sample_depends_on_its_own_seed_alone(scheduler):
    generator = DiTGenerator(make_pipeline(), scheduler=scheduler, steps=5)
    together = generator.sample([0, 1, 2, 1], [7, 8, 9, 8])
    alone = generator.sample([1], [8])
    assert together.isfinite().all()
    assert (together[1] - alone[0]).norm() / alone.norm() < 1e-5
    assert torch.equal(together[1], together[3])
    assert not torch.allclose(together[0], together[2])


def test_guidance_one_is_the_conditional_model_alone():
    pipeline = make_pipeline()
    expected = reference_ddpm(make_pipeline(), [1], [4], 4, 1.0)
    actual = DiTGenerator(pipeline, steps=4, guidance_scale=1.0).sample([1], [4])
    torch.testing.assert_close(actual.double(), expected, atol=2e-4, rtol=2e-4)


def test_the_residual_is_what_the_network_predicts_of_the_noise_minus_the_noise():
    """With streams of its own: an image's noise first, then its timestep; None is the row behind the last class."""
    generator = DiTGenerator(make_pipeline(learned_variance=True))
    transformer = make_pipeline(learned_variance=True).transformer
    latents = torch.randn(3, 4, 8, 8, generator=cpu_generator(0)).requires_grad_(True)
    residual = generator.residual(latents, generator.corruption([cpu_generator(seed) for seed in (5, 6, 7)]), [0, 2, None])
    assert residual.shape == (3, 4 * 8 * 8) and residual.dtype == torch.float32
    alpha_bar = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)
    assert alpha_bar[0].item() == pytest.approx(1 - 1e-4)
    assert alpha_bar[999].item() == pytest.approx(math.prod(1 - (1e-4 + (0.02 - 1e-4) * i / 999) for i in range(1000)))
    for place, (seed, row) in enumerate(((5, 0), (6, 2), (7, 3))):
        draw = cpu_generator(seed)
        noise, t = torch.randn(4, 8, 8, generator=draw), torch.randint(1000, (1,), generator=draw)
        z = latents[place].detach().clone().requires_grad_(True)
        noisy = (alpha_bar[t].sqrt() * z + (1 - alpha_bar[t]).sqrt() * noise).float()[None]
        output = transformer(noisy, timestep=t, class_labels=torch.tensor([row])).sample[0, :4]
        torch.testing.assert_close(residual[place].view(4, 8, 8), output - noise, atol=1e-5, rtol=1e-5)
        (expected,) = torch.autograd.grad((output - noise).square().sum(), z)
        (gradient,) = torch.autograd.grad(residual[place].square().sum(), latents, retain_graph=True)
        torch.testing.assert_close(gradient[place], expected, atol=1e-5, rtol=1e-4)


def test_corruptions_stay_in_their_range_and_take_the_noise_that_is_given():
    """Of 20 timesteps: all of them, or from 1 on and below a share; what is seen is the network's own argument."""
    pipeline = make_pipeline()
    pipeline.scheduler = DDPMScheduler(num_train_timesteps=20, clip_sample=False)
    generator, seen = DiTGenerator(pipeline), []
    generator.transformer.register_forward_pre_hook(
        lambda _, args, kwargs: seen.extend(kwargs["timestep"].tolist()), with_kwargs=True
    )
    latents, noise = torch.randn(2, 40, 4, 8, 8, generator=cpu_generator(0))
    for most, low, high in ((None, 0, 20), (1.0, 1, 20), (0.25, 1, 5), (0.01, 1, 2)):
        seen.clear()
        draws = [cpu_generator(seed) for seed in range(40)]
        for _ in range(8):
            generator.residual(latents, generator.corruption(draws, most=most), [0] * 40)
        assert set(seen) == set(range(low, high))
    given, other = (generator.corruption([cpu_generator(i) for i in range(40)], noise=n) for n in (noise, -noise))
    one, minus = (generator.residual(latents, c, [0] * 40) for c in (given, other))
    assert not torch.allclose(one, minus)
    again = generator.corruption([cpu_generator(i) for i in range(40)], noise=noise)
    assert torch.equal(generator.residual(latents, again, [0] * 40), one)


def test_no_condition_is_the_row_behind_the_last_class():
    generator = DiTGenerator(make_pipeline(), steps=3)
    assert torch.equal(generator.sample([None, 1], [4, 5]), generator.sample([3, 1], [4, 5]))
    assert not torch.allclose(generator.sample([None], [4]), generator.sample([0], [4]), atol=1e-4)


def test_images_are_in_range_and_scaled_by_the_vae_config():
    pipeline = make_pipeline()
    generator = DiTGenerator(pipeline)
    images = torch.rand(2, 3, 16, 16, generator=cpu_generator(0))
    latents, _ = generator.posterior(images)
    torch.testing.assert_close(latents, pipeline.vae.encode(images * 2 - 1).latent_dist.mean * 0.7)
    decoded = generator.decode(latents)
    assert decoded.shape == images.shape
    assert decoded.min() >= 0 and decoded.max() <= 1
    torch.testing.assert_close(decoded, (pipeline.vae.decode(latents / 0.7).sample / 2 + 0.5).clamp(0, 1))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_keeps_latents_in_float32(pipeline_folder, dtype):
    half = DiTGenerator.from_pretrained(str(pipeline_folder), dtype=dtype, steps=3)
    assert half.transformer.dtype == dtype
    assert half.autoencoder.vae.dtype == torch.float32
    full = DiTGenerator.from_pretrained(str(pipeline_folder), steps=3)
    ours, exact = half.sample([0, 1], [1, 2]), full.sample([0, 1], [1, 2])
    assert ours.dtype == torch.float32
    assert (ours - exact).norm() / exact.norm() < 0.05


def test_truncated_weights_and_missing_folders_are_refused_in_one_line(tmp_path):
    make_pipeline().save_pretrained(tmp_path)
    weights = tmp_path / "transformer" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(InputError, match=r"^generator: .*safetensors") as error:
        DiTGenerator.from_pretrained(str(tmp_path))
    assert "\n" not in str(error.value)
    weights.unlink()
    with pytest.raises(InputError, match=r"^generator: "):
        DiTGenerator.from_pretrained(str(tmp_path))
    with pytest.raises(InputError, match=r"^generator: "):
        DiTGenerator.from_pretrained(str(tmp_path / "nowhere"))
