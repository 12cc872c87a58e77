"""The DiT adapter against diffusers' own pipeline, hand-written samplers, and its promises about seeds."""

import math

import pytest
import torch
from helpers import make_pipeline

from distill_hub.config import InputError
from distill_hub.data.classes import SourceClass, match_classes
from distill_hub.generators.dit import DiTGenerator
from distill_hub.running.seeds import cpu_generator


def test_reads_names_null_class_and_sizes(pipeline_folder):
    generator = DiTGenerator.from_pretrained(str(pipeline_folder))
    assert generator.class_names == ["zero", "one", "two"]
    assert generator.null_class == 3
    assert generator.image_size == 16
    assert generator.latent_shape == (4, 8, 8)
    assert not generator.transformer.training
    assert not any(p.requires_grad for p in [*generator.transformer.parameters(), *generator.vae.parameters()])


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


def test_noise_and_its_prediction():
    generator = DiTGenerator(make_pipeline(learned_variance=True))
    latents, noise = torch.randn(2, 2, 4, 8, 8, generator=cpu_generator(0))
    noisy = generator.add_noise(latents, noise, torch.tensor([0, 999]))
    alpha_bar = math.prod(1 - (1e-4 + (0.02 - 1e-4) * i / 999) for i in range(1000))
    torch.testing.assert_close(noisy[0], latents[0] * (1 - 1e-4) ** 0.5 + noise[0] * 1e-2)
    torch.testing.assert_close(noisy[1], latents[1] * alpha_bar**0.5 + noise[1] * (1 - alpha_bar) ** 0.5)
    predicted = generator.predict_noise(noisy, torch.tensor([0, 999]), torch.tensor([0, 3]))
    assert predicted.shape == latents.shape
    assert predicted.dtype == torch.float32


def test_images_are_in_range_and_scaled_by_the_vae_config():
    pipeline = make_pipeline()
    generator = DiTGenerator(pipeline)
    images = torch.rand(2, 3, 16, 16, generator=cpu_generator(0))
    latents = generator.encode(images)
    torch.testing.assert_close(latents, pipeline.vae.encode(images * 2 - 1).latent_dist.mean * 0.7)
    decoded = generator.decode(latents)
    assert decoded.shape == images.shape
    assert decoded.min() >= 0 and decoded.max() <= 1
    torch.testing.assert_close(decoded, (pipeline.vae.decode(latents / 0.7).sample / 2 + 0.5).clamp(0, 1))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_keeps_latents_in_float32(pipeline_folder, dtype):
    half = DiTGenerator.from_pretrained(str(pipeline_folder), dtype=dtype, steps=3)
    assert half.transformer.dtype == dtype
    assert half.vae.dtype == torch.float32
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
