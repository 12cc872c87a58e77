"""How the network is told its timestep: DiT's formula written out, who gets it, and that others keep their bits."""

import json
import math
import shutil

import pytest
import torch
from diffusers import DiTPipeline
from helpers import make_pipeline

from distill_hub.artifact.describe import generator_record
from distill_hub.artifact.manifest import ModelRecord
from distill_hub.generators.difffit import prepare, save
from distill_hub.generators.dit import DiTGenerator
from distill_hub.generators.known import DIT_LICENSE, TUNING
from distill_hub.running.seeds import cpu_generator

TIMES = torch.tensor([0, 1, 37, 500, 999])


def published(t: torch.Tensor) -> torch.Tensor:
    """timestep_embedding of DiT's released models.py, with dim = 256 and max_period = 10000."""
    half = 128
    freqs = torch.exp(-math.log(10000) * torch.arange(0, half, dtype=torch.float32) / half)
    args = t[:, None].float() * freqs[None]
    return torch.cat([torch.cos(args), torch.sin(args)], dim=-1)


def features(generator: DiTGenerator) -> list[torch.Tensor]:
    """What each block's embedding of the timestep is given when the network runs."""
    seen, blocks = [], generator.transformer.transformer_blocks
    hooks = [b.norm1.emb.time_proj.register_forward_hook(lambda _, args, out: seen.append(out)) for b in blocks]
    generator.transformer(torch.zeros(5, 4, 8, 8), timestep=TIMES, class_labels=torch.zeros(5, dtype=torch.int64))
    for hook in hooks:
        hook.remove()
    return seen


def is_dit(generator: DiTGenerator) -> bool:
    """Whether the features are DiT's, everywhere, or diffusers' own, everywhere."""
    seen = features(generator)
    assert len(seen) == 3  # both blocks, and the first once more for the last layer
    alike = [torch.allclose(one, published(TIMES), rtol=0, atol=1e-6) for one in seen]
    assert all(alike) or not any(alike)
    return alike[0]


@pytest.fixture
def copy(pipeline_folder, tmp_path):
    """Return a function that copies the pipeline to a place."""
    return lambda place: str(shutil.copytree(pipeline_folder, tmp_path / place))


def test_the_two_differ_where_it_is_said_that_they_do(pipeline_folder):
    ours, theirs = (
        features(DiTGenerator.from_pretrained(str(pipeline_folder), timestep_features=name))[0]
        for name in ("dit", "diffusers")
    )
    torch.testing.assert_close(ours, published(TIMES), rtol=0, atol=1e-6)
    assert torch.cosine_similarity(ours, theirs, dim=1)[3].item() == pytest.approx(0.82, abs=0.005)
    i = torch.arange(128)
    args = TIMES[:, None] * torch.exp(-math.log(10000) * i / 127)
    torch.testing.assert_close(theirs, torch.cat([args.cos(), args.sin()], 1), rtol=0, atol=2e-4)


def test_fitted_generators_keep_their_bits(pipeline_folder):
    """Diffusers' own network, untouched, on what the residual hands it."""
    plain = DiTPipeline.from_pretrained(pipeline_folder, use_safetensors=True).transformer.eval()
    loaded = DiTGenerator.from_pretrained(str(pipeline_folder))
    noisy = torch.randn(5, 4, 8, 8, generator=cpu_generator(0))
    classes = torch.tensor([0, 1, 2, 3, 0])
    with torch.no_grad():
        one, other = (n(noisy, timestep=TIMES, class_labels=classes).sample for n in (plain, loaded.transformer))
    assert torch.equal(one, other)
    assert loaded.facts.timestep_features == "diffusers" and not is_dit(loaded)


@pytest.mark.parametrize(
    ("place", "dit"),
    [
        ("facebook/DiT-XL-2-256", True),
        ("models/DiT-XL-2-256", True),
        ("facebook/dit-xl-2-256", True),  # the Hub knows ids in any case
        ("hub/models--facebook--DiT-XL-2-256/snapshots/abc", True),
        ("facebook/DiT-XL-2-512", False),
        ("my-DiT-XL-2-256", False),
    ],
)
def test_the_imagenet_generator_is_told_by_its_name_with_its_licence(copy, place, dit):
    generator = DiTGenerator.from_pretrained(copy(place))
    assert is_dit(generator) == dit
    record = generator_record(generator, "x")
    assert (record.timestep_features, record.license) == (("dit", DIT_LICENSE) if dit else ("diffusers", None))


def test_the_option_wins(copy):
    folder = copy("DiT-XL-2-256")
    other = DiTGenerator.from_pretrained(folder, timestep_features="diffusers")
    assert not is_dit(other) and other.facts.license == DIT_LICENSE
    assert generator_record(other, "x").timestep_features == "diffusers"


@pytest.mark.parametrize(
    ("base", "dit", "license"),
    [
        ({"id": "facebook/DiT-XL-2-256", "timestep_features": "dit", "license": DIT_LICENSE}, True, DIT_LICENSE),
        ({"id": "facebook/DiT-XL-2-256", "timestep_features": "diffusers", "license": DIT_LICENSE}, False, DIT_LICENSE),
        ({"id": "facebook/DiT-XL-2-256", "license": DIT_LICENSE}, False, DIT_LICENSE),  # tuned before there was a choice
        ({"id": "/home/eve/DiT-XL-2-256", "license": None}, False, DIT_LICENSE),
        ({"id": "fitted on fish", "timestep_features": "diffusers", "license": None}, False, None),
    ],
)
def test_a_tuned_generator_is_as_its_base_was_when_it_was_tuned(copy, make_tuning, base, dit, license):
    folder = copy("DiT-XL-2-256")  # whatever its own name says
    fields = make_tuning().base.model_dump() | {"timestep_features": None} | base
    record = json.loads(make_tuning(base=ModelRecord(**fields)).to_json())
    if "timestep_features" not in base:
        del record["base"]["timestep_features"]  # as older versions wrote it
    with open(f"{folder}/{TUNING}", "w") as file:
        json.dump(record, file)
    generator = DiTGenerator.from_pretrained(folder)
    assert is_dit(generator) == dit
    assert generator.facts.license == license
    assert generator_record(generator, folder).license == license


def test_what_difffit_tunes_and_saves_loads_with_the_features_it_was_tuned_with(copy, make_tuning, tmp_path):
    base = DiTGenerator.from_pretrained(copy("DiT-XL-2-256"))
    record = make_tuning(base=generator_record(base, "facebook/DiT-XL-2-256"))
    assert record.base.timestep_features == "dit"
    with torch.no_grad():
        for parameter in prepare(base.transformer).values():
            parameter += 0.1 * torch.randn(parameter.shape, generator=cpu_generator(5))
    noisy = torch.randn(5, 4, 8, 8, generator=cpu_generator(0))
    call = {"timestep": TIMES, "class_labels": torch.tensor([0, 1, 2, 3, 0])}
    tuned = base.transformer(noisy, **call).sample
    save(base.transformer, base.facts.folder, tmp_path / "tuned")
    (tmp_path / "tuned" / TUNING).write_text(record.to_json())
    loaded = DiTGenerator.from_pretrained(str(tmp_path / "tuned"))
    torch.testing.assert_close(loaded.transformer(noisy, **call).sample, tuned, rtol=0, atol=1e-5)
    forgotten = DiTGenerator.from_pretrained(str(tmp_path / "tuned"), timestep_features="diffusers")
    assert (forgotten.transformer(noisy, **call).sample - tuned).abs().max() > 1e-3


def test_half_precision_has_them_too(copy):
    generator = DiTGenerator.from_pretrained(copy("DiT-XL-2-256"), dtype=torch.bfloat16, steps=2)
    proj = generator.transformer.transformer_blocks[1].norm1.emb.time_proj
    torch.testing.assert_close(proj(TIMES), published(TIMES), rtol=0, atol=1e-6)
    assert generator.sample([0], [1]).isfinite().all()


def test_the_same_pipeline_may_serve_both():
    pipeline = make_pipeline()
    assert is_dit(DiTGenerator(pipeline, timestep_features="dit"))
    assert not is_dit(DiTGenerator(pipeline))
