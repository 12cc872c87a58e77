"""Guidance of the first latent channels, and a VAE that decodes in place of the pipeline's own."""

import json
import shutil

import pytest
import torch
from diffusers import AutoencoderKL
from helpers import make_pipeline
from safetensors.torch import save_file

from distill_hub.artifact.describe import generator_record
from distill_hub.config import InputError, check_settings
from distill_hub.generating.open import Located, resolve
from distill_hub.generators.dit import DEFAULTS, DiTGenerator
from distill_hub.options.plain import PlainConfig
from distill_hub.running.seeds import cpu_generator

WEIGHTS = "diffusion_pytorch_model.safetensors"


def sampled_by_hand(guided: int, scale: float, steps: int = 4) -> torch.Tensor:
    """Ancestral sampling (Ho et al., 2020, Alg. 2) of class 2, seed 5; of the first channels alone the noise is guided."""
    transformer = make_pipeline(learned_variance=True).transformer.double()
    alpha_bar = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)
    used, draw = [round(i * 999 / (steps - 1)) for i in range(steps)], cpu_generator(5)
    z = torch.randn(4, 8, 8, generator=draw).double()[None]
    for place in reversed(range(steps)):
        with torch.no_grad():
            t = torch.tensor([used[place]])
            true, null = (transformer(z, timestep=t, class_labels=torch.tensor([c])).sample[0] for c in (2, 3))
        noise = [null[i] + scale * (true[i] - null[i]) if i < guided else true[i] for i in range(4)]
        here, before = alpha_bar[used[place]], alpha_bar[used[place - 1]] if place else torch.tensor(1.0).double()
        beta = 1 - here / before
        mean = (z - beta / (1 - here).sqrt() * torch.stack(noise)) / (1 - beta).sqrt()
        share, small = (true[4:] + 1) / 2, beta * (1 - before) / (1 - here)
        z = mean
        if place:
            spread = torch.exp(0.5 * (share * beta.log() + (1 - share) * small.log()))
            z = mean + spread * torch.randn(1, 4, 8, 8, generator=draw).double()
    return z


@pytest.mark.parametrize("guided", [1, 3, 4])
def test_channels_without_guidance_are_the_conditional_network_s(guided):
    pipeline = make_pipeline(learned_variance=True)
    generator = DiTGenerator(pipeline, steps=4, guidance_scale=3.0, guided_channels=guided)
    expected = sampled_by_hand(guided, 3.0)
    torch.testing.assert_close(generator.sample([2], [5]).double(), expected, atol=2e-4, rtol=2e-4)
    assert guided == 4 or (expected - sampled_by_hand(4, 3.0)).abs().max() > 0.05


def test_all_channels_are_guided_unless_told_otherwise():
    one, other = (DiTGenerator(make_pipeline(), steps=3, guided_channels=n).sample([0], [1]) for n in (None, 4))
    assert torch.equal(one, other)


def test_more_channels_than_there_are():
    with pytest.raises(InputError, match=r"guided_channels: 5 .*4 latent channels; valid: at most 4"):
        DiTGenerator(make_pipeline(), guided_channels=5)


@pytest.fixture
def vae(tmp_path):
    """Another decoder of the pipeline's latents, as a folder of its own with a licence."""
    model = make_pipeline().vae
    with torch.no_grad():
        for parameter in model.decoder.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=cpu_generator(1))
    model.save_pretrained(tmp_path / "other-vae")
    (tmp_path / "other-vae" / "README.md").write_text("---\nlicense: mit\n---\n")
    return tmp_path / "other-vae"


def test_it_changes_pixels_and_neither_latents_nor_posteriors(pipeline_folder, vae):
    plain = DiTGenerator.from_pretrained(str(pipeline_folder), steps=3)
    other = DiTGenerator.from_pretrained(str(pipeline_folder), steps=3, vae=str(vae))
    latents = other.sample([0, 1], [5, 6])
    assert torch.equal(latents, plain.sample([0, 1], [5, 6]))
    model = AutoencoderKL.from_pretrained(vae, use_safetensors=True).eval()
    expected = (model.decode(latents / 0.7).sample / 2 + 0.5).clamp(0, 1)  # 0.7: the pipeline's scaling factor
    torch.testing.assert_close(other.decode(latents), expected, rtol=0, atol=1e-6)
    assert (other.decode(latents) - plain.decode(latents)).abs().max() > 0.01
    for one, two in zip(plain.posterior(expected), other.posterior(expected), strict=True):
        assert torch.equal(one, two)


def test_the_record_names_it_with_its_hash_and_not_its_place(pipeline_folder, vae):
    plain, other = (
        generator_record(DiTGenerator.from_pretrained(str(pipeline_folder), vae=name), str(pipeline_folder))
        for name in (None, str(vae))
    )
    assert plain.vae is None and other.model_copy(update={"vae": None}) == plain
    facts = (other.vae.id, other.vae.architecture, other.vae.revision, other.vae.license)
    assert facts == ("other-vae", "AutoencoderKL", None, "mit")
    model = make_pipeline().vae
    again = DiTGenerator.from_pretrained(str(pipeline_folder), vae=str(pipeline_folder / "vae"))
    same = generator_record(again, "x").vae.sha256
    assert len({plain.sha256, other.vae.sha256, same}) == 3
    model.save_pretrained(vae)
    assert generator_record(DiTGenerator.from_pretrained(str(pipeline_folder), vae=str(vae)), "x").vae.sha256 == same


def refused(pipeline_folder, vae):
    with pytest.raises(InputError) as caught:
        DiTGenerator.from_pretrained(str(pipeline_folder), vae=str(vae))
    said = str(caught.value)
    assert caught.value.field == "vae" and said.isprintable() and len(said) < 600
    return said


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"latent_channels": 8}, "latent_channels is 8, that of the generator's own 4"),
        ({"scaling_factor": 0.5}, "scaling_factor is 0.5, that of the generator's own 0.7"),
        (
            {
                "block_out_channels": [8, 16, 16],
                "down_block_types": ["DownEncoderBlock2D"] * 3,
                "up_block_types": ["UpDecoderBlock2D"] * 3,
            },
            "downscale factor is 4, that of the generator's own 2",
        ),
        ({"_class_name": "AutoencoderTiny"}, "_class_name"),
        ({"shift_factor": 0.1}, "shift_factor"),
    ],
)
def test_one_that_does_not_fit_is_refused_before_weights_are_read(pipeline_folder, vae, changes, words):
    config = vae / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), **changes}))
    (vae / WEIGHTS).write_bytes(b"no weights at all")
    assert words in refused(pipeline_folder, vae)


def test_weights_that_are_missing_others_or_pickled(pipeline_folder, vae):
    save_file({"x": torch.zeros(3)}, vae / WEIGHTS, metadata={"format": "pt"})
    assert "its weights lack" in refused(pipeline_folder, vae)
    torch.save({}, vae / "diffusion_pytorch_model.bin")
    (vae / WEIGHTS).unlink()
    assert "is a pickle, which is not opened" in refused(pipeline_folder, vae)
    shutil.rmtree(vae)
    with pytest.raises(InputError, match=r"vae: .*an AutoencoderKL with config\.json and safetensors weights"):
        check_settings(PlainConfig(vae=str(vae)))


@pytest.mark.parametrize(("settings", "field"), [({"vae": "org/vae"}, "vae"), ({"guided_channels": 5}, "guided_channels")])
def test_a_fitted_generator_is_not_fitted_first_to_refuse_it(settings, field):
    given = dict.fromkeys(DEFAULTS) | settings
    with pytest.raises(InputError) as caught:
        resolve(Located("dit", None), given)
    assert caught.value.field == field


def test_a_revision_of_none_is_refused():
    with pytest.raises(InputError, match=r"vae_revision: 'main' .* no --vae is named"):
        check_settings(PlainConfig(vae_revision="main"))
