"""recipes/minimax.py end to end: tune, kill, resume, sample; and what becomes of the tuned generator afterwards."""

import io
import json
from contextlib import redirect_stdout
from pathlib import Path

import pytest
import torch
from diffusers import DiTPipeline
from helpers import SMALL, TINY, kill_when, refused, run_here, unscored
from safetensors.torch import load_file

from distill_hub import load_distilled
from distill_hub.generators.dit import DiTGenerator

WORDS = [*SMALL, "--tuning_epochs", "2", "--tuning_batch_size", "32", "--ema_decay", "0.9", "--view_epochs", "0"]  # 80 steps
WORDS = [*WORDS, "--checkpoint_steps", "30", "--repeats", "1"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a finished run, and what it printed."""
    folder = tmp_path_factory.mktemp("minimax") / "set"
    with redirect_stdout(io.StringIO()) as printed:
        run_here("recipes/minimax.py", *WORDS, "--output_dir", str(folder))
    return folder, printed.getvalue()


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return DiTPipeline.from_pretrained(folder / "generator", use_safetensors=True).transformer.state_dict()


def test_the_set_and_its_record(finished):
    folder, printed = finished
    for word in ("encode", "fine-tune", "this set", "plain DiT samples", "random real"):
        assert word in printed
    manifest = load_distilled(folder).manifest
    assert manifest.name == "digits-ipc2-minimax"
    assert manifest.method.name == "minimax" and manifest.method.config["lambda_d"] == 0.008
    tuning = manifest.generator.tuning
    assert manifest.method.config["memory_size"] == tuning.method.config["memory_size"] == 64
    assert tuning.steps == 80 and tuning.method.config["tuning_batch_size"] == 32 and tuning.method.config["seed"] == 0
    assert tuning.base.id == "fitted on digits" and tuning.base.sha256 != manifest.generator.sha256
    assert tuning.method.config.keys().isdisjoint({"ipc", "protocol", "generator"})  # it serves any set
    first, last = tuning.method.notes["mean_losses_of_first_and_last_tenth"]["diffusion"]
    assert first > 0 and last > 0
    assert tuning.method.notes["share_of_untuned_weights_in_the_average"] == round(0.9**80, 4)
    assert tuning.cost.core_seconds > 0 and tuning.cost.seconds >= tuning.seconds
    assert tuning.base.cost.core_seconds > 0 and manifest.teacher.cost.core_seconds > 0  # fitted now, or before
    assert tuning.seconds > 0 and tuning.environment.processes == 1
    assert str(folder.parent) not in (folder / "manifest.json").read_text()
    assert str(folder.parent) not in (folder / "generator" / "tuning.json").read_text()
    card = (folder / "README.md").read_text()
    assert "assets/losses.png" in card and "minimax" in card


def test_nothing_is_left_that_only_resuming_needs(finished):
    folder, _ = finished
    assert {path.name for path in folder.iterdir()} == {
        *(".run", "README.md", "assets", "data", "evaluations", "generator", "manifest.json")
    }
    assert not {"encode", "generator"} & {path.name for path in (folder / ".run").iterdir()}
    assert {path.name for path in (folder / "generator").iterdir()} == {
        *("README.md", "losses.png", "model_index.json", "scheduler", "transformer", "tuning.json", "vae")
    }


def test_the_set_was_sampled_with_what_is_in_the_folder(finished):
    """Plain `from_pretrained` redraws the published pixels from their seeds."""
    folder, _ = finished
    distilled = load_distilled(folder)
    config = distilled.manifest.method.config
    assert config["guidance_scale"] == 4.0
    generator = DiTGenerator.from_pretrained(str(folder / "generator"), steps=10, guidance_scale=4.0)
    for place in (0, 7, 19):
        row = distilled.dataset[place]
        pixels = (generator.decode(generator.sample([row["label"]], [row["seed"]]))[0] * 255).round()
        published = torch.tensor(list(row["image"].getdata())).view(16, 16, 3).permute(2, 0, 1)
        assert (pixels - published).abs().max() <= 1  # one at a time against a batch


def test_killed_while_it_tunes_and_started_again(finished, tmp_path):
    folder = tmp_path / "set"
    words = ["recipes/minimax.py", *WORDS, "--output_dir", str(folder)]
    kill_when((folder / ".run" / "tuning" / "checkpoint.safetensors").is_file, *words)
    assert not (folder / "generator").exists(), "the fine-tuning was over before the kill"
    with unscored():
        run_here(*words)
    expected = weights(finished[0])
    assert all(torch.equal(tensor, expected[name]) for name, tensor in weights(folder).items())
    ours, theirs = (load_distilled(path).manifest for path in (folder, finished[0]))
    assert ours.content_sha256 == theirs.content_sha256
    assert ours.generator.sha256 == theirs.generator.sha256
    (folder / "manifest.json").unlink()  # as if the run had ended before it packaged the set
    with unscored():
        run_here(*words)
    again = load_distilled(folder).manifest
    assert again.content_sha256 == ours.content_sha256
    assert [stage for stage in again.stages if stage.name == "encode"] == [s for s in ours.stages if s.name == "encode"]
    assert {"encode", "fine-tune"} <= {stage.name for stage in again.stages}


def test_going_on_to_more_epochs_keeps_what_is_done_and_the_epoch_before(finished, tmp_path, capsys):
    """One epoch, and then a second in the same folder: the weights of two at once, and of the first by itself."""
    folder = tmp_path / "set"
    words = ["recipes/minimax.py", *WORDS, "--output_dir", str(folder)]
    with unscored():
        run_here(*words, "--tuning_epochs", "1")
        first, seconds = weights(folder), load_distilled(folder).manifest.generator.tuning.seconds
        capsys.readouterr()
        run_here(*words, "--keep_epochs", "1", "--overwrite")
    assert "begins anew" not in capsys.readouterr().out
    for name, tensor in weights(finished[0]).items():
        assert torch.equal(weights(folder)[name], tensor), name
    ours, theirs = (load_distilled(path).manifest for path in (folder, finished[0]))
    assert ours.content_sha256 == theirs.content_sha256 and ours.generator.tuning.seconds > seconds
    kept = DiTGenerator.from_pretrained(str(folder / "generator-epoch-1"))
    assert all(torch.equal(kept.transformer.state_dict()[name], tensor) for name, tensor in first.items())
    record = json.loads((folder / "generator-epoch-1" / "tuning.json").read_bytes())
    assert record["steps"] == 40 and record["method"]["config"]["tuning_epochs"] == 1
    words = [*WORDS, "--tuning_epochs", "1", "--generator", str(folder / "generator-epoch-1")]
    with unscored():
        run_here("recipes/minimax.py", *words, "--output_dir", str(tmp_path / "other"))  # as it is: it had one epoch
    (folder / "manifest.json").unlink()  # as if it had not ended; and then with other settings
    with unscored():
        run_here("recipes/minimax.py", *WORDS, "--tuning_images", "64", "--output_dir", str(folder))
    assert not (folder / "generator-epoch-1").exists()
    assert {stage.name: stage.items for stage in load_distilled(folder).manifest.stages}["encode"] == 640


def test_in_phases_every_class_has_the_weights_of_its_group(finished, tmp_path, capfd):
    folder = tmp_path / "set"
    words = [*WORDS, "--tuning_epochs", "1", "--classes_per_phase", "5", "--tuning_images", "100", "--memory_size", "16"]
    with unscored():
        run_here("recipes/minimax.py", *words, "--keep_epochs", "1", "--output_dir", str(folder))
    generator = folder / "generator"
    phases = load_file(generator / "phases.safetensors")
    assert phases["phase"].tolist() == [0] * 5 + [1] * 5
    moved = [name for name, stacked in phases.items() if name != "phase" and not torch.equal(*stacked)]
    assert len(moved) > 0.9 * (len(phases) - 1)
    for phase in (0, 1):  # neither grows with the classes of the other
        state = load_file(folder / ".run" / f"tuning-{phase}" / "checkpoint.safetensors")
        assert state["memory.real.entries"].shape == (5, 16, 256) and len(state["losses"]) == 500 // 32
    record = load_distilled(folder).manifest.generator
    assert record.tuning.steps == 2 * (500 // 32) and record.tuning.method.config["classes_per_phase"] == 5
    card = (generator / "README.md").read_text()
    assert "fine-tuned anew for every 5 classes" in card and "At most 100 of the training images of each class of" in card
    base = DiTPipeline.from_pretrained(generator, use_safetensors=True).transformer.state_dict()
    assert not any(torch.equal(base[name], tensor) for name, tensor in weights(finished[0]).items() if "bias" in name)

    ours, rows = DiTGenerator.from_pretrained(str(generator), steps=10, guidance_scale=4.0), load_distilled(folder).dataset
    for row in (rows[0], rows[19]):
        pixels = (ours.decode(ours.sample([row["label"]], [row["seed"]]))[0] * 255).round()
        published = torch.tensor(list(row["image"].getdata())).view(16, 16, 3).permute(2, 0, 1)
        assert (pixels - published).abs().max() <= 1
    with unscored():
        run_here("recipes/plain.py", *SMALL, "--generator", str(generator), "--output_dir", str(tmp_path / "plain"))
    assert load_distilled(tmp_path / "plain").manifest.generator == record
    words = [*TINY, "--generator", str(generator), "--condition", "null", "--output_dir", str(tmp_path / "null")]
    assert "condition: 'null' cannot be used; the generator was tuned in groups" in refused(capfd, "recipes/cao2.py", *words)
    assert not (tmp_path / "null" / ".run" / "pool").exists()


def test_cao2_on_the_tuned_generator(finished, tmp_path, capsys):
    folder, _ = finished
    words = [*TINY, "--view_epochs", "0", "--repeats", "1", "--generator", str(folder / "generator")]
    run_here("recipes/cao2.py", *words, "--output_dir", str(tmp_path / "set"))
    assert "plain minimax samples" in capsys.readouterr().out
    manifest, before = load_distilled(tmp_path / "set").manifest, load_distilled(folder).manifest
    assert manifest.name == "digits-ipc2-cao2-minimax"
    assert manifest.method.name == "cao2"
    assert manifest.generator == before.generator


def test_a_tuned_generator_serves_every_ipc(finished, tmp_path, capsys):
    folder, _ = finished
    words = [*WORDS, "--ipc", "3", "--generator", str(folder / "generator"), "--output_dir", str(tmp_path / "set")]
    with unscored():
        run_here("recipes/minimax.py", *words)
    assert "fine-tune" not in capsys.readouterr().out
    manifest = load_distilled(tmp_path / "set").manifest
    assert manifest.name == "digits-ipc3-minimax"
    assert manifest.generator.tuning.steps == 80
    two, three = (load_distilled(path).dataset for path in (folder, tmp_path / "set"))
    assert three["seed"][0:2] == two["seed"][0:2] and three["image"][1].tobytes() == two["image"][1].tobytes()


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["--lambda_d", "0.1"], ["generator", "tuned with lambda_d 0.008, not 0.1", "name the generator it came from"]),
        (["--lambda_r", "0", "--lambda_d", "0"], ["generator", "tuned with minimax"]),
        (["--source", "PHOTOS", "--ipc", "1"], ["generator", "do not give one for: cat, dog"]),
    ],
)
def test_a_generator_that_cannot_be_tuned(finished, tmp_path, capfd, words, parts):
    from PIL import Image

    for name in ("train/cat", "train/dog", "test/cat", "test/dog"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(4):
            Image.new("RGB", (16, 16), (i, 60 * i, 9)).save(tmp_path / "photos" / name / f"{i}.png")
    words = [word.replace("PHOTOS", str(tmp_path / "photos")) for word in words]
    words = [*WORDS, "--generator", str(finished[0] / "generator"), "--output_dir", str(tmp_path / "set"), *words]
    line = refused(capfd, "recipes/minimax.py", *words)
    assert all(part in line for part in parts), line


def test_a_memory_larger_than_a_class_is_refused_before_any_tuning(tmp_path, capfd):
    line = refused(capfd, "recipes/minimax.py", *WORDS, "--memory_size", "500", "--output_dir", str(tmp_path / "set"))
    assert "memory_size: 500" in line and "class" in line and "at most" in line
    assert not (tmp_path / "set" / ".run" / "encode").exists()


def test_a_checkpoint_of_another_config(tmp_path, capfd):
    """The run folder refuses it by the setting that differs; nothing is touched."""
    state = tmp_path / "set" / ".run"
    (state / "encode").mkdir(parents=True)
    (state / "encode" / "000000.json").write_text("{}")
    settings = {"tuning_learning_rate": 0.5}
    (state / "config.json").write_text(json.dumps(settings))
    line = refused(capfd, "recipes/minimax.py", *WORDS, "--output_dir", str(tmp_path / "set"))
    assert "cannot be used" in line and "--overwrite" in line
    assert json.loads((state / "config.json").read_text()) == settings
