"""Folders of generators that a stranger wrote: refused in one line, file and field named, and nothing of them runs."""

import json
import math
import shutil

import pytest
import torch
from helpers import make_pipeline
from safetensors.torch import load_file, save_file

from distill_hub.config import InputError
from distill_hub.generators.dit import DiTGenerator

INDEX, TRANSFORMER, VAE = "model_index.json", "transformer/config.json", "vae/config.json"
SCHEDULER = "scheduler/scheduler_config.json"
WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def folder(pipeline_folder, tmp_path):
    return shutil.copytree(pipeline_folder, tmp_path / "model")


def edit(file, **changes):
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def refused(folder):
    with pytest.raises(InputError) as caught:
        DiTGenerator.from_pretrained(str(folder))
    said = str(caught.value)
    assert caught.value.field == "generator" and said.isprintable() and len(said) < 600
    return said


@pytest.mark.parametrize("file", [TRANSFORMER, VAE, SCHEDULER])
def test_a_file_of_a_part_is_named_with_the_part(folder, file):
    (folder / file).write_text("null")
    assert f"; {file} must hold a JSON object" in refused(folder)
    (folder / file).unlink()
    assert f"; there is no {file} in it" in refused(folder)


@pytest.mark.parametrize(
    ("file", "field", "values"),
    [
        (INDEX, "id2label", [["a"], "a", 3, {"0": 1, "1": 2, "2": 3}, {"0": ["a"], "1": ["b"], "2": ["c"]}, {"x": "a"}]),
        (INDEX, "id2label", [{"0": "a", "1": "b", "3": "c"}, {"0": "a", "1": "b"}, {}]),
        (INDEX, "vae", [["diffusers", "AutoencoderTiny"], ["os", "system"], "x", None, [], ["diffusers"], {}, [1, 2]]),
        (INDEX, "transformer", [["diffusers", "UNet2DModel"], ["owned", "Owned"], [None, None], 3]),
        (TRANSFORMER, "num_layers", ["x", 0, -1, 2.5, 10**9, None, True]),
        (TRANSFORMER, "sample_size", [0, None, [8], 9, "8", 10**6]),
        (TRANSFORMER, "num_embeds_ada_norm", ["x", None, 0, -3, 5]),
        (TRANSFORMER, "activation_fn", ["none", None, 3]),
        (TRANSFORMER, "quantization_config", ["x", {}, {"quant_method": "bitsandbytes"}]),
        (TRANSFORMER, "norm_type", ["layer_norm"]),
        (TRANSFORMER, "out_channels", [3, 0, "x"]),
        (TRANSFORMER, "in_channels", [8, 0, None]),
        (TRANSFORMER, "norm_eps", [math.nan, 0, "x"]),
        (VAE, "scaling_factor", ["x", None, 0, -1, math.nan, math.inf]),
        (VAE, "shift_factor", [0.1, "x"]),
        (VAE, "latents_mean", [[0.0] * 4, 0]),
        (VAE, "down_block_types", [[], None, "x", ["x", "x"], ["DownEncoderBlock2D"]]),
        (VAE, "block_out_channels", [[], None, [0, 0], [-8, 16], [10**9, 10**9], [8], [9, 16]]),
        (VAE, "norm_num_groups", [0, None, 3, -4]),
        (VAE, "latent_channels", [3, 0]),
        (SCHEDULER, "num_train_timesteps", [0, 1, -5, None, "x", 10**9, 1000.5]),
        (SCHEDULER, "beta_start", [None, 0, 1, -1, "x", math.nan]),
        (SCHEDULER, "beta_schedule", ["x", None, 3]),
        (SCHEDULER, "trained_betas", ["x", [], [0.1], ["x"] * 1000, [2.0] * 1000]),
        (SCHEDULER, "prediction_type", ["v_prediction", "sample", None]),
        (SCHEDULER, "rescale_betas_zero_snr", [True, "x"]),
        (SCHEDULER, "thresholding", [True]),
    ],
)
def test_a_field_that_cannot_be_is_named(folder, file, field, values):
    whole = (folder / file).read_text()
    for value in values:
        edit(folder / file, **{field: value})
        said = refused(folder)
        assert file in said and (field in said or "must be of one length" in said or "multiples" in said), value
        (folder / file).write_text(whole)
    DiTGenerator.from_pretrained(str(folder))


@pytest.mark.parametrize("file", [INDEX, TRANSFORMER, VAE, SCHEDULER])
@pytest.mark.parametrize("text", ["", "null", "[]", '"x"', "3", "{", "[" * 100_000])
def test_a_file_that_is_no_object(folder, file, text):
    (folder / file).write_text(text)
    assert file.rpartition("/")[2] in refused(folder)
    (folder / file).unlink()
    (folder / file).mkdir()
    refused(folder)


@pytest.mark.parametrize("part", ["transformer", "vae"])
def test_weights_that_are_not_those_of_the_configuration(folder, part):
    file = folder / part / WEIGHTS
    whole = load_file(file)
    key = next(key for key, tensor in whole.items() if tensor.ndim == 4)
    broken = {
        "lack": {k: v for k, v in whole.items() if k != key},
        "odd_one": {**whole, "odd_one": torch.zeros(3)},
        "size": {**whole, key: torch.zeros(3, 5)},
        "no numbers": {**whole, key: torch.full_like(whole[key], math.nan)},
    }
    for what, content in broken.items():
        save_file(content, file, metadata={"format": "pt"})
        said = refused(folder)
        assert key in said or what in said
    torch.save(whole, file.with_suffix(".bin"))
    file.unlink()
    assert "diffusion_pytorch_model.bin is a pickle, which is not opened" in refused(folder)
    for index in (
        "x",
        [],
        {"weight_map": "x"},
        {"weight_map": {key: "../../x.safetensors"}},
        {"weight_map": {key: "x.bin"}},
    ):
        file.with_name(f"{WEIGHTS}.index.json").write_text(json.dumps(index))
        assert f"{WEIGHTS}.index.json" in refused(folder)


def test_the_schedule_of_the_folder_is_the_one_that_is_used(folder):
    betas = torch.linspace(0.001, 0.3, 50, dtype=torch.float64).tolist()
    edit(folder / SCHEDULER, trained_betas=betas, num_train_timesteps=50)
    generator = DiTGenerator.from_pretrained(str(folder), steps=5)
    expected = torch.cumprod(1 - torch.tensor(betas), 0)
    torch.testing.assert_close(generator.diffusion.scheduler.alphas_cumprod, expected, rtol=1e-5, atol=1e-7)


def test_older_names_of_the_same_network_are_known(folder):
    before = DiTGenerator.from_pretrained(str(folder), steps=2).sample([1], [3])
    edit(folder / INDEX, transformer=["diffusers", "Transformer2DModel"])
    edit(folder / TRANSFORMER, _class_name="Transformer2DModel", attention_type="default", cross_attention_dim=None)
    assert torch.equal(DiTGenerator.from_pretrained(str(folder), steps=2).sample([1], [3]), before)


def test_code_in_the_folder_does_not_run(folder):
    code = f"open({str(folder / 'ran')!r}, 'w')\nclass Owned: pass\n"
    for file in ("owned.py", "pipeline.py", "transformer/owned.py", "scheduler/owned.py"):
        (folder / file).write_text(code)
    edit(folder / INDEX, scheduler=["owned", "Owned"], safety_checker=["owned", "Owned"], custom_pipeline="owned")
    edit(folder / TRANSFORMER, auto_map={"AutoModel": "owned.Owned"})
    DiTGenerator.from_pretrained(str(folder))
    edit(folder / INDEX, transformer=["owned", "Owned"])
    refused(folder)
    assert not (folder / "ran").exists()


def test_shards_are_read(tmp_path):
    pipeline = make_pipeline()
    pipeline.save_pretrained(tmp_path)
    before = DiTGenerator.from_pretrained(str(tmp_path), steps=2).sample([1], [3])
    (tmp_path / "transformer" / WEIGHTS).unlink()
    pipeline.transformer.save_pretrained(tmp_path / "transformer", max_shard_size="50kB")
    assert len(list((tmp_path / "transformer").glob("*.safetensors"))) > 1
    assert torch.equal(DiTGenerator.from_pretrained(str(tmp_path), steps=2).sample([1], [3]), before)
