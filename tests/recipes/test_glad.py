"""recipes/glad.py end to end; the gradient through the decoder is tested in tests/matching."""

import json
import shutil

import pytest
import torch
from helpers import SMALL, refused, run_here, unscored
from processes import run_python
from safetensors.torch import load_file

from distill_hub import load_distilled
from distill_hub.data.sources import load_source
from distill_hub.disk.files import cache_dir
from distill_hub.generators.dit import DiTGenerator

WORDS = [*SMALL, "--view_epochs", "0", "--network", "convnet-2-w8", "--match_steps", "8", "--real_batch_size", "16"]
WORDS += ["--decode_batch_size", "1"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("matched") / "glad"
    with unscored():
        run_here("recipes/glad.py", *WORDS, "--output_dir", str(folder))
    return folder


def test_the_images_are_what_the_generator_decodes_and_closer_than_the_start(made):
    found = load_distilled(made)
    manifest, rows = found.manifest, found.dataset
    assert manifest.name == "digits-ipc2-glad" and manifest.generator.architecture == "DiTTransformer2DModel"
    assert "StyleGAN-XL" in manifest.method.notes["differs_from_the_paper"]
    first, last = manifest.method.notes["mean_loss_of_first_and_last_tenth"]
    assert 0 < last < first
    train = load_source("digits").train
    assert [train.labels[row] for row in rows["seed"][:]] == rows["label"][:] == [label for label in range(10) for _ in "ab"]
    (fitted,) = (path for path in cache_dir().glob("digits-generator-*") if path.is_dir())
    generator = DiTGenerator.from_pretrained(str(fitted))
    latents = torch.cat([load_file(file)["latents"] for file in sorted((made / ".run/match").glob("*.safetensors"))])
    with torch.no_grad():
        decoded = (generator.decode(latents) * 255).round().to(torch.uint8)
    assert (decoded.int() - torch.from_numpy(found.pixels).int()).abs().max() <= 1  # batches of other sizes
    started = generator.posterior(train.pixels(list(rows["seed"][:]), 16).float() / 255)[0]
    assert (latents - started).abs().max() > 0.01


def test_two_processes_make_the_same_set(made, tmp_path):
    alone = ["--students", "convnet-1-w4", "--repeats", "1", "--output_dir", str(tmp_path / "two")]
    done = run_python("recipes/glad.py", *WORDS, *alone, world=2)
    assert done.returncode == 0, done.stderr[-3000:]
    one, two = (json.loads((folder / "manifest.json").read_text()) for folder in (made, tmp_path / "two"))
    assert one["content_sha256"] == two["content_sha256"] and two["environment"]["processes"] == 2


def test_pool_select_refine_goes_on_from_the_latents_with_the_labels_of_the_matched_images(made, tmp_path):
    folder = shutil.copytree(made, tmp_path / "refined")
    before = load_distilled(made)
    with unscored():
        run_here(
            "recipes/glad.py", *WORDS, "--refine_steps", "2", "--kl_steps", "1", "--overwrite", "--output_dir", str(folder)
        )
    after = load_distilled(folder)
    assert (before.soft_labels == after.soft_labels).all() and (before.pixels != after.pixels).any()
    first, second = (next(s for s in own.manifest.stages if s.name == "match") for own in (before, after))
    assert first == second  # matched once
    matched = torch.cat([load_file(file)["latents"] for file in sorted((folder / ".run/match").glob("*.safetensors"))])
    refined = torch.cat([load_file(file)["latents"] for file in sorted((folder / ".run/refine").glob("*.safetensors"))])
    assert 0 < (refined - matched).abs().max() < 1
    assert len(after.manifest.method.notes["mean_divergence_in_its_steps"]) == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--ipc", "200"), "ipc: 200 cannot be used; class"),
        (("--network", "resnet-18-bn"), "it has BatchNorm"),
        (("--latent_learning_rate", "1e30"), "latents: nan cannot be used; it became so by step"),
    ],
)
def test_what_cannot_be_matched_is_refused_in_one_line(tmp_path, capfd, words, said):
    assert said in refused(capfd, "recipes/glad.py", *WORDS, *words, "--output_dir", str(tmp_path / "set"))
