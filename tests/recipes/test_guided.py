"""recipes/mgd3.py and recipes/d4m.py end to end; modes and guides are tested in tests/guidance."""

import json
import shutil

import numpy as np
import pytest
import torch
from helpers import SMALL, refused, run_here, unscored
from processes import run_python
from safetensors.torch import load_file

from distill_hub import load_distilled
from distill_hub.data.sources import load_source
from distill_hub.disk.files import cache_dir
from distill_hub.generating.kinds import KINDS
from distill_hub.generators.dit import DiTGenerator

WORDS = [*SMALL, "--view_epochs", "0"]
MGD3 = [*WORDS, "--scheduler", "ddim", "--guidance_strength", "0.4", "--stop_fraction", "0.8"]


def stage(folder, name):
    chunks = [load_file(file) for file in sorted((folder / ".run" / name).glob("*.safetensors"))]
    return {key: torch.cat([chunk[key] for chunk in chunks]) for key in chunks[0]}


def sha(folder):
    return json.loads((folder / "manifest.json").read_text())["content_sha256"]


@pytest.fixture(scope="module")
def guided(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mgd3") / "set"
    with unscored():
        run_here("recipes/mgd3.py", *MGD3, "--output_dir", str(folder))
    return folder


@pytest.fixture(scope="module")
def started(tmp_path_factory):
    folder = tmp_path_factory.mktemp("d4m") / "set"
    with unscored():
        run_here("recipes/d4m.py", *WORDS, "--strength", "0.3", "--output_dir", str(folder))
    return folder


def fitted(**how):
    (folder,) = (path for path in cache_dir().glob("digits-generator-*") if path.is_dir())
    return DiTGenerator.from_pretrained(str(folder), steps=10, guidance_scale=2.7, **how)


def test_images_go_to_their_own_modes_from_the_noise_of_plain_samples(guided):
    manifest = load_distilled(guided).manifest
    assert manifest.name == "digits-ipc2-mgd3" and manifest.method.name == "mgd3"
    assert {file.stem for file in (guided / "assets").glob("*.png")} == {"preview", "embedding", "guidance"}
    assert "](assets/guidance.png)" in (guided / "README.md").read_text()
    modes, plain, made = stage(guided, "modes")["modes"], stage(guided, "pool"), stage(guided, "guide")
    assert torch.equal(plain["seeds"], made["seeds"]) and modes.shape == made["latents"].shape
    before, after = ((own["latents"] - modes).square().mean().sqrt() for own in (plain, made))
    noted = manifest.method.notes["distance_to_the_modes"]
    assert noted == {"plain": pytest.approx(float(before), abs=1e-4), "guided": pytest.approx(float(after), abs=1e-4)}
    assert after < 0.8 * before
    swapped = modes.view(10, 2, *modes.shape[1:]).flip(1).flatten(0, 1)
    own, other = ((made["latents"] - m).square().mean() for m in (modes, swapped))
    assert own < 0.95 * other  # each to its own


def test_modes_are_those_of_the_encoded_training_images(guided):
    source, modes = load_source("digits"), stage(guided, "modes")["modes"].view(10, 2, -1).double().numpy()
    with torch.no_grad():
        mean, _ = fitted().posterior(source.train.pixels(source.train.by_class[3], 16).float() / 255)
    points = mean.flatten(1).double().numpy()
    closest = ((points[:, None] - modes[3]) ** 2).sum(2).argmin(1)
    np.testing.assert_allclose(np.stack([points[closest == k].mean(0) for k in (0, 1)]), modes[3], atol=1e-4)


def test_d4m_noises_and_denoises_each_prototype(started):
    found, prototypes, made = load_distilled(started), stage(started, "modes")["modes"], stage(started, "guide")
    assert found.manifest.name == "digits-ipc2-d4m"
    notes = found.manifest.method.notes["distance_to_the_prototypes"]
    assert notes["guided"] < 0.8 * notes["plain"]
    for row in (0, 13):
        alone = fitted().sample([row // 2], [int(made["seeds"][row])], start=prototypes[row : row + 1], strength=0.3)
        torch.testing.assert_close(made["latents"][row : row + 1], alone, atol=1e-4, rtol=1e-4)


def test_d4m_of_a_text_to_image_pipeline(text_folders, tmp_path, monkeypatch):
    """Of one image per class the prototype is the mean of its samples; a prompt takes the place of the class."""
    monkeypatch.setattr("distill_hub.making.finish.refuse_chance", lambda *_, **__: 0.5)  # its weights are random
    folder, place = text_folders[False], tmp_path / "set"
    words = ["--teacher_epochs", "1", "--students", "convnet-1-w16", "--view_epochs", "0", "--ipc", "1"]
    words += ["--sample_steps", "4", "--strength", "0.5", "--prompt_template", "{}"]
    with unscored():
        run_here("recipes/d4m.py", "--generator", str(folder), *words, "--output_dir", str(place))
    manifest, prototypes, made = load_distilled(place).manifest, stage(place, "modes")["modes"], stage(place, "guide")
    assert manifest.name == "digits-ipc1-d4m-text" and manifest.classes[3].prompt == "3"
    kind, source = KINDS["text"], load_source("digits")
    where = {"classes": source.classes, "revision": None, "device": torch.device("cpu"), "dtype": torch.float32}
    generator = kind.load(str(folder), **where, **{**kind.DEFAULTS, "sample_steps": 4, "prompt_template": "{}"})
    alone = generator.sample([3], [int(made["seeds"][3])], start=prototypes[3:4], strength=0.5)
    torch.testing.assert_close(made["latents"][3:4], alone, atol=1e-3, rtol=1e-3)
    with torch.no_grad():
        mean, std = generator.posterior(source.train.pixels(source.train.by_class[3], generator.image_size).float() / 255)
    error = std.square().mean().sqrt() / len(mean) ** 0.5  # of a mean of samples
    assert (prototypes[3] - mean.mean(0)).abs().mean() < 2 * error


def test_two_processes_make_the_same_set(guided, tmp_path):
    alone = ["--students", "convnet-1-w4", "--repeats", "1", "--output_dir", str(tmp_path / "two")]
    done = run_python("recipes/mgd3.py", *MGD3, *alone, world=2)
    assert done.returncode == 0, done.stderr[-3000:]
    assert sha(tmp_path / "two") == sha(guided)
    assert load_distilled(tmp_path / "two").manifest.environment.processes == 2


def test_what_is_lost_is_made_again_and_nothing_else(guided, tmp_path):
    """As after a kill: of modes and guided samples some chunks are there. Another strength keeps modes and plain samples."""
    folder = shutil.copytree(guided, tmp_path / "set")
    for lost in ("modes/000004", "guide/000001"):
        (folder / ".run" / f"{lost}.json").unlink()
    (folder / "manifest.json").unlink()
    times = {file: file.stat().st_mtime_ns for file in (folder / ".run").glob("*/0*.safetensors")}
    with unscored():
        run_here("recipes/mgd3.py", *MGD3, "--output_dir", str(folder))
    assert sha(folder) == sha(guided)
    redone = {f"{file.parent.name}/{file.stem}" for file, time in times.items() if file.stat().st_mtime_ns != time}
    assert redone == {"modes/000004", "guide/000001"}
    times = {file: file.stat().st_mtime_ns for file in times}
    with unscored():
        run_here("recipes/mgd3.py", *MGD3, "--stop_fraction", "0.2", "--overwrite", "--output_dir", str(folder))
    assert sha(folder) != sha(guided)
    assert {file.parent.name for file, time in times.items() if file.stat().st_mtime_ns != time} == {"guide"}


@pytest.mark.parametrize(
    ("recipe", "words", "said"),
    [
        ("mgd3", ["--guidance_strength", "0.2"], "guidance_strength: 0.2 cannot be used; under --scheduler ddpm"),
        ("mgd3", ["--guidance_strength", "1.5", "--scheduler", "ddim"], "guidance_strength: '1.5' cannot be used"),
        ("mgd3", ["--pca", "4"], "pass --modes nearest"),
        ("mgd3", ["--pca", "200", "--modes", "nearest"], "pca: 200 cannot be used; class"),
        ("mgd3", ["--ipc", "200"], "ipc: 200 cannot be used; class"),
        ("d4m", ["--strength", "0"], "strength: '0' cannot be used"),
    ],
)
def test_what_cannot_be_done_is_refused_in_one_line_and_before_work(tmp_path, capfd, recipe, words, said):
    assert said in refused(capfd, f"recipes/{recipe}.py", *WORDS, *words, "--output_dir", str(tmp_path / "set"))
    assert not (tmp_path / "set").exists()
