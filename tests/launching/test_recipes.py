"""Recipes from Python: `distill_hub.make`, and settings as the words of a command line."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import distill_hub
from distill_hub import InputError, load_distilled
from distill_hub.config import parse
from distill_hub.launching.recipes import find_recipe, titles, words
from distill_hub.making import finish
from distill_hub.options.cao2 import Cao2Config
from distill_hub.options.commands import EvaluateConfig
from distill_hub.options.rded import RdedConfig
from distill_hub.training.protocols import Protocol

SETTINGS = {"source": "digits", "ipc": 2, "teacher_epochs": 2, "view_epochs": 0}


@pytest.fixture
def make(monkeypatch, tmp_path):
    """`distill_hub.make` in an empty folder, without students: they are no part of it, and take longest."""
    monkeypatch.setattr(Protocol, "students", lambda *_: [])
    monkeypatch.setattr(finish, "score_table", lambda *_: "")
    monkeypatch.chdir(tmp_path)
    return distill_hub.make


def test_it_returns_the_set_that_it_made(make):
    made = make("random_real", **SETTINGS)
    folder = Path("outputs/digits-ipc2-random")
    assert made.manifest == load_distilled(folder).manifest and made.manifest.name == "digits-ipc2-random"
    assert made.pixels.shape == (20, 3, 16, 16) and list(made.labels) == [label for label in range(10) for _ in range(2)]
    config = made.manifest.method.config
    assert (config["ipc"], config["teacher_epochs"], config["view_epochs"], config["seed"]) == (2, 2, 0, 0)
    # Again: the set that is there, of whose work nothing is redone.
    before = {file: file.stat().st_mtime_ns for file in (folder / ".run").rglob("*.safetensors")}
    again = make("random_real", **SETTINGS)
    assert before and {file: file.stat().st_mtime_ns for file in (folder / ".run").rglob("*.safetensors")} == before
    np.testing.assert_array_equal(again.pixels, made.pixels)
    other = make("random_real", **SETTINGS, seed=1, output_dir=Path("elsewhere"))
    assert other.manifest.seed == 1 and Path("elsewhere/manifest.json").is_file()
    assert other.manifest.content_sha256 != made.manifest.content_sha256


def test_after_ctrl_c_the_same_call_goes_on(make, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(finish, "write_artifact", interrupted)
        make("random_real", **SETTINGS, output_dir="set")
    (first, *_) = chunks = sorted(Path("set/.run/select").glob("*.safetensors"))
    written = first.stat().st_mtime_ns
    assert len(chunks) == 10 and not Path("set/manifest.json").exists()
    made = make("random_real", **SETTINGS, output_dir="set")
    assert len(made.labels) == 20 and first.stat().st_mtime_ns == written


def test_a_dry_run_makes_none(make, capsys):
    assert make("random_real", **SETTINGS, dry_run=True) is None
    assert not list(Path("outputs").rglob("*.json")) and "random" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("recipe", "settings", "parts"),
    [
        ("rdd", {}, ["recipe: 'rdd'", "did you mean 'rded'"]),
        ("fit_generator", {}, ["recipe: 'fit_generator'", "makes no distilled sets"]),
        ("evaluate", {}, ["recipe: 'evaluate'", "makes no distilled sets"]),
        (None, {}, ["recipe: needed", "there are the recipes"]),
        ("rded", {"output_dir": b"q"}, ["output_dir", "b'q'", "a path"]),
        ("rded", {"ipcs": 2}, ["ipcs", "did you mean 'ipc'"]),
        ("rded", {"ipc": 0}, ["ipc", "0", "> 0"]),
        ("rded", {"source": "digit"}, ["source", "digit", "did you mean 'digits'"]),
    ],
)
def test_what_cannot_be_used_is_an_exception_of_one_line(make, recipe, settings, parts):
    with pytest.raises(InputError) as caught:
        make(recipe, **settings)
    assert all(part in str(caught.value) for part in parts) and "\n" not in str(caught.value)
    assert not Path("outputs").exists()


def test_settings_are_read_from_their_words_as_they_were():
    odd = Cao2Config(
        source="two words", label_column="--overwrite", test_fraction=0.1 + 0.2, refine_learning_rate=1e-20,
        overwrite=True, output_dir=Path("a b"), condition="null", teacher="null",
    )  # fmt: skip
    assert parse(Cao2Config, words(odd)) == odd
    assert words(RdedConfig()) == [] and words(RdedConfig(compile=True, factor=2)) == ["--compile", "--factor=2"]
    given = EvaluateConfig(location="a set", mmd=True, mean="0.5,0.5,0.5")
    assert words(given)[0] == "a set" and parse(EvaluateConfig, words(given)) == given


@pytest.mark.parametrize("name", titles())
def test_defaults_need_no_words(name, tmp_path):
    config_class = find_recipe(name).config_class
    (tmp_path / "sit.safetensors").touch()
    weights = {"kind": "sit", "weights": tmp_path / "sit.safetensors"}
    places = {"evaluate": {"location": "set"}, "relabel": {"location": "set"}, "convert": weights}.get(name, {})
    config = config_class(**places)
    assert words(config) == [str(place) for place in places.values()]
    assert parse(config_class, words(config)) == replace(config)
