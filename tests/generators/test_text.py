"""Stable Diffusion here against diffusers' own pipelines and networks in float64, on tiny ones in the real layout."""

import dataclasses
import json
import shutil
from fnmatch import fnmatch

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from safetensors.torch import load_file, save_file
from tiny_text import LENGTH, make_text_pipeline

from distill_hub.config import InputError
from distill_hub.data.classes import SourceClass
from distill_hub.generators import pipeline as files
from distill_hub.generators import text
from distill_hub.generators.text_pipeline import load_text_pipeline
from distill_hub.running.seeds import cpu_generator

CLASSES = [SourceClass("cat", 0), SourceClass("photograph", 1), SourceClass("dog", 2)]
ALPHA = np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)  # ᾱ_t, of Stable Diffusion
XL = pytest.mark.parametrize("xl", [False, True])


def load(folder, *, dtype=torch.float32, **options):
    how = {"revision": None, "device": "cpu", "dtype": dtype, "classes": CLASSES}
    return text.load(str(folder), **how, **{**text.DEFAULTS, "sample_steps": 4, **options})


@XL
@pytest.mark.parametrize(("scale", "negative"), [(7.5, ""), (3.0, "a bad dog"), (1.0, "")])
def test_it_draws_what_diffusers_draws(text_folders, tmp_path, xl, scale, negative):
    """By DDIM with the spacing that begins at pure noise. Without a negative prompt XL is told zeros, as it is there."""
    pipeline = make_text_pipeline(tmp_path, xl=xl)
    pipeline.set_progress_bar_config(disable=True)
    spacing = {"timestep_spacing": "trailing", "set_alpha_to_one": True, "clip_sample": False}
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, **spacing)
    generator = load(text_folders[xl], guidance_scale=scale, negative_prompt=negative)
    assert (generator.image_size, generator.latent_shape, generator.class_names) == (
        16,
        (4, 8, 8),
        ["cat", "photograph", "dog"],
    )
    latents = torch.stack([torch.randn(4, 8, 8, generator=cpu_generator(seed)) for seed in (5, 6)])
    found = generator.sample([2, 0], [5, 6])
    expected = pipeline(
        ["a photo of a dog", "a photo of a cat"], negative_prompt=[negative] * 2 if negative else None, latents=latents,
        num_inference_steps=4, guidance_scale=scale, output_type="latent", height=16, width=16,
    ).images  # fmt: skip
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())
    other = generator.sample([0, 0], [5, 6])
    assert (other[0] - found[0]).norm() / found[0].norm() > 0.001 and torch.allclose(
        other[1], found[1], rtol=1e-3, atol=1e-3
    )


def embedded(pipeline, prompt, xl):
    """What the networks of a pipeline are told of a prompt, from their own outputs in double precision."""
    words, more = [], {}
    for number in ("", "_2") if xl else ("",):
        tokenizer, encoder = getattr(pipeline, f"tokenizer{number}"), getattr(pipeline, f"text_encoder{number}").double()
        ids = tokenizer([prompt], padding="max_length", max_length=LENGTH, return_tensors="pt").input_ids
        output = encoder(ids, output_hidden_states=True)
        words.append(output.hidden_states[-2] if xl else output.last_hidden_state)
        if number:
            more = {"text_embeds": output.text_embeds, "time_ids": torch.tensor([[16, 16, 0, 0, 16, 16]])}
    return {"encoder_hidden_states": torch.cat(words, -1), **({"added_cond_kwargs": more} if xl else {})}


@XL
def test_the_residual_is_what_the_network_predicts_of_the_noise_minus_the_noise(text_folders, tmp_path, xl):
    """With streams of its own: an image's noise first, then its timestep; no class is the negative prompt."""
    generator = load(text_folders[xl], negative_prompt="bad", prompt_template="{}")
    pipeline = make_text_pipeline(tmp_path, xl=xl)
    unet = pipeline.unet.double()
    latents = torch.randn(3, 4, 8, 8, generator=cpu_generator(0)).requires_grad_(True)
    corruption = generator.corruption([cpu_generator(seed) for seed in (5, 6, 7)], most=0.5)
    residual = generator.residual(latents, corruption, [0, 2, None])
    assert residual.shape == (3, 256) and residual.dtype == torch.float32
    for place, (seed, prompt) in enumerate(((5, "cat"), (6, "dog"), (7, "bad"))):
        draw = cpu_generator(seed)
        noise, t = torch.randn(4, 8, 8, generator=draw).double(), torch.randint(1, 500, (), generator=draw)
        z = latents[place].detach().double().requires_grad_(True)
        noisy = ALPHA[t] ** 0.5 * z + (1 - ALPHA[t]) ** 0.5 * noise
        expected = unet(noisy[None], t, **embedded(pipeline, prompt, xl)).sample[0] - noise
        torch.testing.assert_close(residual[place].view(4, 8, 8).double(), expected, atol=1e-4, rtol=1e-4)
        (slope,) = torch.autograd.grad(expected.square().sum(), z)
        (found,) = torch.autograd.grad(residual[place].square().sum(), latents, retain_graph=True)
        torch.testing.assert_close(found[place].double(), slope, rtol=1e-3, atol=1e-4 * slope.abs().max().item())
    assert all(parameter.grad is None for parameter in generator.unet.parameters())


@pytest.mark.parametrize("scheduler", ["ddpm", "ddim", "dpm-solver++"])
def test_a_sample_depends_on_its_own_seed_and_class_alone(text_folders, scheduler):
    generator = load(text_folders[True], scheduler=scheduler, guidance_scale=2.0)
    together = generator.sample([0, 1, None, 1], [7, 8, 9, 8])
    for place, alone in ((1, generator.sample([1], [8])), (2, generator.sample([None], [9]))):
        assert (together[place] - alone[0]).norm() / alone.norm() < 1e-5
    assert torch.equal(together[1], together[3])


def test_guides_and_starts_reach_the_sampler(text_folders):
    generator, target = load(text_folders[False]), torch.randn(2, 4, 8, 8, generator=cpu_generator(1))

    class There:
        needs_graph = True

        def __call__(self, state):
            assert state.noisy.requires_grad and state.x0.grad_fn is not None
            return (target - state.x0).detach()

    found = generator.sample([0, 1], [5, 6], guide=There())
    torch.testing.assert_close(found, target, atol=1e-3, rtol=1e-3)
    near, far = (generator.sample([0, 1], [5, 6], start=target, strength=strength) for strength in (0.25, 1.0))
    assert (near - target).norm() < 0.5 * (far - target).norm()


def test_images_are_in_range_and_scaled_by_the_vae_config(text_folders, tmp_path):
    generator, vae = load(text_folders[False]), make_text_pipeline(tmp_path).vae
    images = torch.rand(2, 3, 16, 16, generator=cpu_generator(0))
    mean, std = generator.posterior(images)
    posterior = vae.encode(images * 2 - 1).latent_dist
    torch.testing.assert_close(mean, posterior.mean * 0.7)
    torch.testing.assert_close(std, posterior.std * 0.7)
    decoded = generator.decode(mean)
    torch.testing.assert_close(decoded, (vae.decode(mean / 0.7).sample / 2 + 0.5).clamp(0, 1))


@XL
def test_half_precision_keeps_latents_and_vae_in_float32(text_folders, xl):
    half, full = (load(text_folders[xl], dtype=dtype, guidance_scale=2.0) for dtype in (torch.bfloat16, torch.float32))
    assert half.unet.dtype == torch.bfloat16 and half.autoencoder.vae.dtype == torch.float32
    ours, exact = half.sample([0, 1], [1, 2]), full.sample([0, 1], [1, 2])
    assert ours.dtype == torch.float32 and (ours - exact).norm() / exact.norm() < 0.05


def test_the_record_has_what_it_was_told(text_folders):
    facts = load(text_folders[False], negative_prompt="bad").facts
    assert facts.prompts == ("a photo of a cat", "a photo of a photograph", "a photo of a dog", "bad")
    assert (facts.name, facts.architecture, facts.license) == ("Stable Diffusion", "UNet2DConditionModel", None)
    assert load(text_folders[True]).facts.name == "Stable Diffusion XL"


@pytest.mark.parametrize(
    ("place", "card", "license"),
    [
        ("stable-diffusion-v1-5", None, "creativeml-openrail-m"),
        ("Stable-Diffusion-XL-base-1.0", None, "openrail++"),
        ("stable-diffusion-v1-5", "mit", "mit"),
        ("mine", None, None),
    ],
)
def test_the_licence_is_the_folder_s_or_that_of_the_model_it_is_a_copy_of(text_folders, tmp_path, place, card, license):
    folder = shutil.copytree(text_folders[False], tmp_path / place)
    if card:
        (folder / "README.md").write_text(f"---\nlicense: {card}\n---\n")
    assert load(folder).facts.license == license


def test_many_prompts_are_embedded_as_one_alone(text_folders):
    parts = load_text_pipeline(str(text_folders[True]), None, torch.float32)
    names = [f"thing {place}" for place in range(70)]
    one = text.TextGenerator(parts, names, names, steps=2)
    other = text.TextGenerator(parts, names[66:67], names[66:67], steps=2)
    assert torch.allclose(one.sample([66], [3]), other.sample([0], [3]), rtol=1e-4, atol=1e-3)


def test_a_prompt_that_is_too_long_is_not_cut(text_folders):
    with pytest.raises(InputError, match=r"prompts: .* it has \d+ tokens; the text encoder reads 24"):
        load(text_folders[False], prompt_template="a photo of a very long prompt: {}")
    with pytest.raises(InputError, match=r"negative_prompt: .* tokens"):
        load(text_folders[False], negative_prompt="a cartoon, an anime, a painting")


def test_older_names_of_the_text_encoder_s_weights_are_known(text_folders, tmp_path):
    folder = shutil.copytree(text_folders[False], tmp_path / "model")
    file = folder / "text_encoder" / "model.safetensors"
    renamed = {f"text_model.{name.removeprefix('text_model.')}": tensor for name, tensor in load_file(file).items()}
    renamed["text_model.embeddings.position_ids"] = torch.arange(24)[None]
    save_file(renamed, file, metadata={"format": "pt"})
    assert torch.equal(load(folder).sample([0], [1]), load(text_folders[False]).sample([0], [1]))


# Folders that a stranger wrote.


def edit(file, **changes):
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def refused(folder, **options):
    with pytest.raises(InputError) as caught:
        load(folder, **options)
    said = str(caught.value)
    assert caught.value.field == "generator" and said.isprintable() and len(said) < 600
    return said


@pytest.mark.parametrize(
    ("xl", "file", "changes", "words"),
    [
        (False, "model_index.json", {"_class_name": ["owned", "Owned"]}, "_class_name"),
        (False, "model_index.json", {"_class_name": "StableDiffusion3Pipeline"}, "_class_name"),
        (False, "model_index.json", {"unet": ["owned", "Owned"]}, "unet.0"),
        (False, "model_index.json", {"text_encoder": ["transformers", "T5EncoderModel"]}, "text_encoder.1"),
        (False, "model_index.json", {"tokenizer": ["owned", "CLIPTokenizer"]}, "tokenizer.0"),
        (False, "model_index.json", {"_class_name": "StableDiffusionXLPipeline"}, "text_encoder_2 and tokenizer_2"),
        (True, "model_index.json", {"text_encoder": [None, None]}, "text_encoder.0"),  # XL's refiner
        (True, "model_index.json", {"_class_name": "StableDiffusionPipeline"}, "cross_attention_dim is 40"),
        (False, "scheduler/scheduler_config.json", {"prediction_type": "v_prediction"}, "prediction_type 'v_prediction'"),
        (False, "vae/config.json", {"latent_channels": 8}, "in_channels is 4, vae/config.json, latent_channels 8"),
        (False, "vae/config.json", {"shift_factor": 0.1}, "shift_factor"),
        (False, "unet/config.json", {"in_channels": 9}, "in_channels is 9, vae/config.json, latent_channels 4"),
        (False, "unet/config.json", {"sample_size": 10**9}, "sample_size"),
        (False, "unet/config.json", {"time_cond_proj_dim": 256}, "time_cond_proj_dim"),
        (False, "unet/config.json", {"addition_embed_type": "text_time"}, "addition_embed_type is text_time"),
        (True, "unet/config.json", {"addition_embed_type": None}, "addition_embed_type is None"),
        (True, "unet/config.json", {"addition_time_embed_dim": 16}, "projection_class_embeddings_input_dim is 60"),
        (True, "text_encoder_2/config.json", {"max_position_embeddings": 20}, "max_position_embeddings is 24"),
        (False, "text_encoder/config.json", {"model_type": "bert"}, "model_type"),
        (False, "text_encoder/config.json", {"intermediate_size": 65_000}, "more than its weights"),
        (False, "text_encoder/config.json", {"vocab_size": 150}, "has a token 192; the text encoder beside it"),
        (False, "text_encoder/config.json", {"quantization_config": {}}, "quantization_config"),
    ],
)  # fmt: skip
def test_configurations_that_are_not_known_or_do_not_fit(text_folders, tmp_path, xl, file, changes, words):
    folder = shutil.copytree(text_folders[xl], tmp_path / "model")
    edit(folder / file, **changes)
    assert words in refused(folder)


@pytest.mark.parametrize(
    ("part", "stem"), [("unet", "diffusion_pytorch_model"), ("vae", "diffusion_pytorch_model"), ("text_encoder", "model")]
)
def test_weights_that_are_missing_pickled_or_others(text_folders, tmp_path, part, stem):
    folder = shutil.copytree(text_folders[False], tmp_path / "model")
    file = folder / part / f"{stem}.safetensors"
    whole = load_file(file)
    key = next(key for key, tensor in whole.items() if tensor.ndim > 1)
    for content in (
        {k: v for k, v in whole.items() if k != key},
        {**whole, key: torch.zeros(3, 5)},
        {**whole, "odd": whole[key]},
    ):
        save_file({k: v.clone() for k, v in content.items()}, file, metadata={"format": "pt"})
        refused(folder)
    file.unlink()
    torch.save(whole, folder / part / "pytorch_model.bin")
    said = refused(folder)
    assert f"there is no {part}/{stem}.safetensors; pytorch_model.bin is a pickle, which is not opened" in said


@pytest.mark.parametrize("file", ["vocab.json", "merges.txt"])
def test_a_tokenizer_that_is_missing_or_broken(text_folders, tmp_path, file):
    folder = shutil.copytree(text_folders[False], tmp_path / "model")
    (folder / "tokenizer" / file).write_text("{")
    assert "tokenizer/ must hold a CLIPTokenizer" in refused(folder)
    (folder / "tokenizer" / file).unlink()
    assert f"there is no tokenizer/{file}" in refused(folder)


def test_a_tokenizer_as_transformers_saves_it_today(text_folders, tmp_path):
    make_text_pipeline(tmp_path / "made").save_pretrained(tmp_path / "model")
    assert not (tmp_path / "model" / "tokenizer" / "vocab.json").exists()
    assert torch.equal(load(tmp_path / "model").sample([0], [1]), load(text_folders[False]).sample([0], [1]))


def test_code_in_the_folder_does_not_run(text_folders, tmp_path):
    folder = shutil.copytree(text_folders[False], tmp_path / "model")
    code = f"open({str(folder / 'ran')!r}, 'w')\nclass Owned: pass\n"
    for place in ("owned.py", "pipeline.py", "unet/owned.py", "tokenizer/owned.py", "text_encoder/owned.py"):
        (folder / place).write_text(code)
    map = {"AutoModel": "owned.Owned", "AutoConfig": "owned.Owned", "AutoTokenizer": ["owned.Owned", None]}
    edit(
        folder / "model_index.json", safety_checker=["owned", "Owned"], scheduler=["owned", "Owned"], custom_pipeline="owned"
    )
    for file in ("unet/config.json", "text_encoder/config.json", "tokenizer/tokenizer_config.json"):
        edit(folder / file, auto_map=map)
    load(folder)
    assert not (folder / "ran").exists()


def test_of_the_hub_no_more_is_fetched_than_is_read(text_folders, monkeypatch):
    asked = {}

    def download(name, revision, allow_patterns):
        asked.update(name=name, revision=revision, patterns=allow_patterns)
        return text_folders[True]

    monkeypatch.setattr(files, "snapshot_download", download)
    how = {"revision": "main", "device": "cpu", "dtype": torch.float32, "classes": CLASSES}
    generator = text.load("org/model", **how, **text.DEFAULTS)
    assert (asked["name"], asked["revision"], generator.facts.revision) == ("org/model", "main", text_folders[True].name)

    def fetched(file):
        return any(fnmatch(file, pattern) for pattern in asked["patterns"])

    assert all(fetched(str(file.relative_to(text_folders[True]))) for file in text_folders[True].rglob("*.*"))
    never = ["unet/diffusion_pytorch_model.bin", "unet/diffusion_pytorch_model.fp16.safetensors", "text_encoder/model.onnx"]
    never += ["v1-5-pruned.safetensors", "safety_checker/model.safetensors", "pipeline.py", "text_encoder/pytorch_model.bin"]
    assert not any(fetched(file) for file in never)


def test_another_vae_decodes(text_folders, tmp_path):
    vae = make_text_pipeline(tmp_path).vae
    with torch.no_grad():
        for parameter in vae.decoder.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=cpu_generator(1))
    vae.save_pretrained(tmp_path / "vae")
    plain, other = load(text_folders[False]), load(text_folders[False], vae=str(tmp_path / "vae"))
    latents = torch.randn(1, 4, 8, 8, generator=cpu_generator(0))
    assert not torch.allclose(plain.decode(latents), other.decode(latents), atol=0.01)
    assert other.facts.decoder.id == str(tmp_path / "vae")
    edit(tmp_path / "vae" / "config.json", scaling_factor=0.1)
    with pytest.raises(InputError, match=r"vae: .*scaling_factor"):
        load(text_folders[False], vae=str(tmp_path / "vae"))
    assert dataclasses.replace(other.facts, decoder=None, modules=()) == dataclasses.replace(plain.facts, modules=())
