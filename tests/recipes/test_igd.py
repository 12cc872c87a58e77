"""recipes/igd.py end to end; what guides a sample is tested in tests/guidance."""

import json
import shutil

import pytest
import torch
from helpers import SMALL, refused, run_here, unscored
from processes import run_python
from safetensors.torch import load_file

from distill_hub import load_distilled
from distill_hub.generators.dit import DiTGenerator
from distill_hub.guidance import igd
from distill_hub.running import checkpoint

WORDS = [*SMALL, "--view_epochs", "0", "--ipc", "3", "--network", "convnet-2-w8", "--surrogate_epochs", "3"]
WORDS += ["--deviation_weight", "400"]


def tensors(folder, stage):
    parts = [load_file(file) for file in sorted((folder / ".run" / stage).glob("*.safetensors"))]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("guided") / "igd"
    with unscored():
        run_here("recipes/igd.py", *WORDS, "--output_dir", str(folder))
    return folder


def test_the_set_is_guided_samples_from_the_seeds_of_the_plain_ones(made):
    found = load_distilled(made)
    manifest = found.manifest
    assert manifest.name == "digits-ipc3-igd" and manifest.generator.architecture == "DiTTransformer2DModel"
    assert {file.stem for file in (made / "assets").glob("*.png")} == {"preview", "embedding", "guidance"}
    pool, guided = tensors(made, "pool"), tensors(made, "guided")
    assert found.dataset["seed"][:] == pool["seeds"].tolist() == guided["seeds"].tolist()
    assert (found.pixels == guided["images"].numpy()).all()
    assert ((pool["latents"] - guided["latents"]).abs().amax((1, 2, 3)) > 1e-3).all()
    notes = manifest.method.notes
    assert notes["influence_weight"] == 100
    assert notes["surrogate_epochs_of_checkpoints"][0] == 0 and "DSA" in notes["differs_from_the_paper"]
    influence, close = guided["influence"], guided["nearest"]
    assert notes["mean_influence"] == pytest.approx(dict(zip(("guided", "plain"), influence.mean(0).tolist(), strict=True)))
    gain = influence[:, 0] - influence[:, 1]
    assert gain.mean() > 0.005
    assert not close.view(10, 3, 2)[:, 0].any()
    assert (close[:, 0] - close[:, 1]).mean() < 0
    latents = guided["latents"].view(10, 3, -1).double()
    for label in range(10):
        a, b, c = torch.nn.functional.normalize(latents[label], dim=1)
        assert close.view(10, 3, 2)[label, 1:, 0].tolist() == pytest.approx(
            [float(a @ b), float(max(a @ c, b @ c))], abs=1e-5
        )


def test_two_processes_make_the_same_set(made, tmp_path):
    alone = ["--students", "convnet-1-w4", "--repeats", "1", "--output_dir", str(tmp_path / "two")]
    done = run_python("recipes/igd.py", *WORDS, *alone, world=2)
    assert done.returncode == 0, done.stderr[-3000:]
    one, two = (json.loads((folder / "manifest.json").read_text()) for folder in (made, tmp_path / "two"))
    assert one["content_sha256"] == two["content_sha256"] and two["environment"]["processes"] == 2


class Killed(Exception):
    pass


def test_a_killed_run_goes_on_with_the_next_round_and_a_sample_forgets_what_is_too_long_ago(made, tmp_path, monkeypatch):
    """Killed in the second of two chunks, in its third round; then again from there, but with a memory of one sample."""
    drawn, sample = [], DiTGenerator.sample

    def counted(self, class_ids, seeds, **how):
        drawn.append(how["guide"].memory.shape[1])
        if len(drawn) == 6:
            raise Killed
        return sample(self, class_ids, seeds, **how)

    folder = shutil.copytree(made, tmp_path / "cut")
    shutil.rmtree(folder / ".run/guided")
    words = [*WORDS, "--overwrite", "--output_dir", str(folder)]
    monkeypatch.setattr(checkpoint, "SAVED_AFTER", -1.0)
    monkeypatch.setattr(DiTGenerator, "sample", counted)
    with pytest.raises(Killed), unscored():
        run_here("recipes/igd.py", *words)
    half = shutil.copytree(folder, tmp_path / "short")
    with unscored():
        run_here("recipes/igd.py", *words)
    assert drawn == [0, 1, 2, 0, 1, 2, 2]
    assert load_distilled(folder).manifest.content_sha256 == load_distilled(made).manifest.content_sha256
    monkeypatch.setattr(igd, "MEMORY", 1)
    with unscored():
        run_here("recipes/igd.py", *words[:-1], str(half))
    assert drawn[7:] == [1]
    same = (tensors(half, "guided")["latents"] == tensors(made, "guided")["latents"]).flatten(1).all(1)
    assert same.view(10, 3).tolist() == [[True] * 3] * 5 + [[True, True, False]] * 5


def test_pool_select_refine_goes_on_from_the_guided_samples(made, tmp_path):
    folder = shutil.copytree(made, tmp_path / "refined")
    words = [*WORDS, "--refine_steps", "2", "--kl_steps", "1", "--overwrite", "--output_dir", str(folder)]
    with unscored():
        run_here("recipes/igd.py", *words)
    before, after = load_distilled(made), load_distilled(folder)
    assert (before.soft_labels == after.soft_labels).all() and (before.pixels != after.pixels).any()
    first, second = (next(s for s in own.manifest.stages if s.name == "guided") for own in (before, after))
    assert first == second  # drawn once
    moved = (tensors(folder, "refine")["latents"] - tensors(folder, "guided")["latents"]).abs().amax((1, 2, 3))
    assert (moved > 0).all() and moved.max() < 1
    assert len(after.manifest.method.notes["mean_divergence_in_its_steps"]) == 1
    assert (folder / "assets/guidance.png").read_bytes() == (made / "assets/guidance.png").read_bytes()
    assert "](assets/refinement.png)" in (folder / "README.md").read_text()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--scheduler", "ddim"), "scheduler: 'ddim' cannot be used; the mean of an ancestral step"),
        (("--guide_start", "0.5"), "guide_stop: 0.4 cannot be used; more than guide_start, 0.5"),
        (("--sample_steps", "1"), "sample_steps: 1 cannot be used; none of so few lies between guide_start, 0.08"),
        (("--network", "resnet-18-bn"), "it has BatchNorm"),
        (("--generator", "mar"), "it is of the kind mar; igd needs dit or text"),
    ],
)
def test_nothing_is_fitted_for_what_cannot_be_guided(tmp_path, capfd, monkeypatch, words, said):
    monkeypatch.setenv("DISTILL_HUB_CACHE", str(tmp_path / "cache"))
    assert said in refused(capfd, "recipes/igd.py", *words, "--output_dir", str(tmp_path / "set"))
    assert not any(tmp_path.iterdir())
