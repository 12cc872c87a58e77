"""Fitting a small generator: an ordinary pipeline folder, the same weights twice, and nothing lost half way."""

import json
import os
import shutil
from types import SimpleNamespace

import pytest
import torch
from diffusers import DiTPipeline
from helpers import run_here

from distill_hub.artifact.describe import generator_record, read_cost
from distill_hub.config import InputError
from distill_hub.data.sources import load_source
from distill_hub.generating import fit
from distill_hub.generating.kinds import FITTED_KINDS
from distill_hub.generating.open import locate, open_generator, resolve
from distill_hub.generators.dit import DiTGenerator
from distill_hub.running.machine import start_accelerator

TINY = {"vae_width": 8, "vae_steps": 6, "dit_width": 32, "dit_layers": 1, "dit_steps": 6, "batch_size": 8}


@pytest.fixture(scope="module")
def digits():
    return load_source("digits")


@pytest.fixture(scope="module")
def folder(digits, tmp_path_factory):
    start_accelerator()  # as a run does, which takes as many threads as there are cores: their number is in the weights
    folder = tmp_path_factory.mktemp("fit") / "pipeline"
    fit.fit_generator(digits, folder, **TINY)
    return folder


def test_diffusers_loads_it_and_we_sample_the_same_from_it(folder):
    pipeline = DiTPipeline.from_pretrained(folder, use_safetensors=True)
    assert pipeline.transformer.config.num_embeds_ada_norm == 10
    assert pipeline.scheduler.config.num_train_timesteps == 1000
    ours = DiTGenerator.from_pretrained(str(folder), steps=3)
    assert ours.class_names == list("0123456789")
    plain = DiTGenerator(pipeline, steps=3)
    assert torch.equal(ours.sample([0, 9], [1, 2]), plain.sample([0, 9], [1, 2]))
    assert json.loads((folder / "model_index.json").read_text())["id2label"]["3"] == "3"


def test_the_recipe_fits_once_and_then_says_where_it_is(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("DISTILL_HUB_CACHE", str(tmp_path))
    words = [word for name, value in TINY.items() for word in (f"--fit_{name}", str(value))]
    run_here("recipes/fit_generator.py", *words)
    (fitted,) = tmp_path.glob("digits-generator-*")
    before = (fitted / "model_index.json").stat().st_mtime_ns
    capsys.readouterr()
    run_here("recipes/fit_generator.py", *words)
    assert f"The generator is in {fitted} already" in capsys.readouterr().out.replace("\n", " ")
    assert (fitted / "model_index.json").stat().st_mtime_ns == before
    assert [path.name for path in tmp_path.iterdir()] == [fitted.name]


def test_a_run_that_was_killed_at_its_very_end_leaves_nothing_for_good(digits, tmp_path, monkeypatch, capsys):
    target = tmp_path / "pipeline"
    with monkeypatch.context() as killed:
        killed.setattr(fit.os, "replace", lambda a, b: (os.rename(a, b), 1 / 0) if b == target else os.rename(a, b))
        with pytest.raises(ZeroDivisionError):
            fit.fit_generator(digits, target, **TINY)
    assert [path.name for path in tmp_path.iterdir()] == ["pipeline"]
    (tmp_path / "pipeline.lock").touch()  # nobody holds it
    with pytest.raises(SystemExit):
        run_here("recipes/fit_generator.py", "--output_dir", str(target))
    assert "it exists; pass --overwrite" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["pipeline"]


def test_the_same_settings_give_the_same_weights(digits, folder, tmp_path):
    fit.fit_generator(digits, tmp_path / "again", **TINY)
    fit.fit_generator(digits, tmp_path / "other", **TINY, seed=1)
    first, again, other = (
        DiTGenerator.from_pretrained(str(f), steps=2) for f in (folder, tmp_path / "again", tmp_path / "other")
    )
    assert torch.equal(first.sample([4], [7]), again.sample([4], [7]))
    assert not torch.equal(first.sample([4], [7]), other.sample([4], [7]))


def test_latents_have_about_unit_scale(digits, folder):
    generator = DiTGenerator.from_pretrained(str(folder))
    images = digits.train.pixels(range(200), 16).float() / 255
    with torch.no_grad():
        posterior = generator.autoencoder.vae.encode(images * 2 - 1).latent_dist
    scale = generator.autoencoder.vae.config.scaling_factor
    total = ((posterior.mean.var() + posterior.std.square().mean()).sqrt() * scale).item()
    assert 0.8 < total < 1.25


def test_stopped_between_the_two_models_the_autoencoder_is_kept(digits, folder, tmp_path, monkeypatch):
    target = tmp_path / "pipeline"
    with monkeypatch.context() as stopped:
        stopped.setattr(fit, "_fit_network", lambda *arguments: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            fit.fit_generator(digits, target, **TINY)
    assert not target.exists()
    (kept,) = tmp_path.glob("*.partial/autoencoder")
    spent = read_cost(kept).core_seconds
    with monkeypatch.context() as resumed:
        resumed.setattr(fit, "_fit_vae", lambda *arguments: pytest.fail("it was fitted again"))
        fit.fit_generator(digits, target, **TINY)
    assert [path.name for path in tmp_path.iterdir()] == ["pipeline"]
    resumed, whole = (DiTGenerator.from_pretrained(str(f), steps=2) for f in (target, folder))
    assert torch.equal(resumed.sample([4], [7]), whole.sample([4], [7]))
    for name in (file.relative_to(target) for file in target.rglob("*") if file.is_file()):
        assert name.name == "cost.json" or (target / name).read_bytes() == (folder / name).read_bytes(), name
    # What the interrupted attempt took for the autoencoder is in it.
    costs = [read_cost(place) for place in (target, folder)]
    assert all(cost.seconds > 0 and cost.core_seconds > 0 and cost.gpu_seconds == 0 for cost in costs)
    assert spent > 0 and costs[0].core_seconds >= spent


@pytest.mark.parametrize(
    ("settings", "field"),
    [({"image_size": 20}, "fit_image_size"), ({"image_size": 8}, "fit_image_size"), ({"dit_width": 40}, "fit_dit_width")],
)
def test_sizes_that_do_not_fit_are_refused(digits, tmp_path, settings, field):
    with pytest.raises(InputError, match=f"^{field}: "):
        fit.fit_generator(digits, tmp_path / "x", **{**TINY, **settings})
    assert not list(tmp_path.iterdir())


class TestOpening:
    """What a generator's folder says that it is, before anything of it is loaded."""

    def open(self, digits, generator, timestep_features="auto"):
        run = SimpleNamespace(device="cpu", dtype=torch.float32)
        how = {"scheduler": "ddim", "sample_steps": 7, "guidance_scale": 1.5, "timestep_features": timestep_features}
        found = locate(digits, str(generator), None)
        given = {**how, "guided_channels": 3, "vae": None, "vae_revision": None, "compile_set": False}
        return open_generator(run, digits, found, resolve(found, given), fit={})

    def test_the_settings_reach_the_generator(self, digits, folder):
        generator, id = self.open(digits, folder)
        assert id == str(folder) and type(generator) is DiTGenerator
        assert (generator.diffusion.steps, generator.guidance_scale, generator.facts.timestep_features) == (
            7,
            1.5,
            "diffusers",
        )
        assert generator.guided_channels == 3
        assert generator.facts.folder == folder and generator.facts.name == "DiT"
        assert self.open(digits, folder, "dit")[0].facts.timestep_features == "dit"

    @pytest.mark.parametrize("generator", ["auto", *FITTED_KINDS])
    def test_one_that_is_fitted_has_no_revision(self, digits, generator):
        with pytest.raises(InputError, match=r"^generator_revision: 'main' .* a generator that is fitted has none"):
            locate(digits, generator, "main")

    def test_another_kind_is_refused_by_name(self, digits, folder, tmp_path):
        shutil.copytree(folder, tmp_path / "other")
        index = tmp_path / "other" / "model_index.json"
        index.write_text(index.read_text().replace("DiTPipeline", "FluxPipeline"))
        with pytest.raises(InputError, match=r"^generator: '.*other'.* is a FluxPipeline; valid: DiTPipeline or .*$"):
            self.open(digits, tmp_path / "other")

    @pytest.mark.parametrize(
        ("index", "said"),
        [
            (None, "there is no model_index.json in it"),
            ("{", "model_index.json must hold a JSON object"),
            ("[]", "model_index.json must hold a JSON object"),
            ("[" * 100_000, "model_index.json must hold a JSON object"),
            ("{}", "a model_index.json that names a DiTPipeline or "),
            ('{"_class_name": ["DiTPipeline"]}', "a model_index.json that names a DiTPipeline or "),
        ],
    )
    def test_nor_what_says_nothing(self, digits, tmp_path, index, said):
        if index:
            (tmp_path / "model_index.json").write_text(index)
        with pytest.raises(InputError, match=r"^generator: ") as caught:
            self.open(digits, tmp_path)
        assert said in str(caught.value) and len(str(caught.value)) < 400

    @pytest.mark.parametrize(
        ("card", "license"),
        [
            (None, None),
            ("# Plain\n", None),
            ("---\ntags: [fish]\n---\n", None),
            ("---\nlicense: cc-by-nc-4.0\n---\n# Fish\n", "cc-by-nc-4.0"),
            ("---\nlicense: other\nlicense_name: terms-of-fish\n---\n", "terms-of-fish"),
        ],
    )
    def test_a_licence_that_its_card_states_gets_into_the_record(self, digits, folder, tmp_path, card, license):
        shutil.copytree(folder, tmp_path / "other")
        if card:
            (tmp_path / "other" / "README.md").write_text(card)
        generator, id = self.open(digits, tmp_path / "other")
        assert generator_record(generator, id).license == license

    @pytest.mark.parametrize("yaml", ["- a\n- b", "license: [mit"])
    def test_a_broken_card_is_refused_in_one_line(self, digits, folder, tmp_path, yaml):
        shutil.copytree(folder, tmp_path / "other")
        (tmp_path / "other" / "README.md").write_text(f"---\n{yaml}\n---\n")
        with pytest.raises(InputError, match=r"^generator: .*YAML .* README.md") as error:
            self.open(digits, tmp_path / "other")
        assert "\n" not in str(error.value)

    @pytest.mark.parametrize("content", ["{", "{}", "[]"])
    def test_so_is_a_broken_record_of_a_fine_tuning(self, digits, folder, tmp_path, content):
        shutil.copytree(folder, tmp_path / "other")
        (tmp_path / "other" / "tuning.json").write_text(content)
        with pytest.raises(InputError, match=r"^generator: .*tuning.json does not say"):
            self.open(digits, tmp_path / "other")
