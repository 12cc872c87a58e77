"""Text-to-image generators in recipes, end to end: plain samples and CaO2 of digits by prompts, from a tiny pipeline."""

import json
import re
import shutil

import pytest
from helpers import refused, run_here, unscored

from distill_hub import load_distilled

FAST = ["--teacher_epochs", "1", "--sample_steps", "2", "--ipc", "1", "--students", "convnet-1-w16", "--view_epochs", "0"]


@pytest.fixture
def make(text_folders, tmp_path, monkeypatch):
    """Make a set, in one folder of each recipe. Random weights draw no digits, which would be refused as it should."""
    monkeypatch.setattr("distill_hub.making.finish.refuse_chance", lambda *_, **__: 0.5)

    def make(recipe, *words):
        place = ["--generator", str(text_folders[False]), "--output_dir", str(tmp_path / recipe), *FAST]
        with unscored():
            run_here(f"recipes/{recipe}.py", *place, *words)
        return load_distilled(tmp_path / recipe).manifest

    return make


def test_plain_samples_are_drawn_by_prompts_on_record(make, tmp_path):
    table = tmp_path / "prompts.yaml"
    table.write_text("3: a photo of a three\n")
    first = make("plain", "--prompts", str(table))
    assert first.name == "digits-ipc1-text" and first.method.title.startswith("Latent diffusion, plain samples")
    assert [c.prompt for c in first.classes[2:5]] == ["a photo of a 2", "a photo of a three", "a photo of a 4"]
    assert [c.generator_index for c in first.classes] == list(range(10))
    assert first.generator.architecture == "UNet2DConditionModel" and first.method.config["prompts"] == "prompts.yaml"
    assert (first.method.config["scheduler"], first.method.config["guidance_scale"]) == ("ddim", 7.5)
    card = (tmp_path / "plain" / "README.md").read_text()
    assert "a photo of a three |" in card
    table.write_text("3: a photo of a dog\n")  # under the same name
    second = make("plain", "--prompts", str(table), "--overwrite")
    assert second.classes[3].prompt == "a photo of a dog" and second.content_sha256 != first.content_sha256
    assert make("plain", "--prompt_template", "{}", "--overwrite").classes[3].prompt == "3"


def test_cao2_refines_without_a_class_by_the_negative_prompt(make):
    words = ["--pool_factor", "2", "--refine_steps", "1", "--condition", "null"]
    sets = [make("cao2", *words, *more) for more in ([], ["--negative_prompt", "bad", "--overwrite"])]
    assert sets[0].name == "digits-ipc1-cao2-text" and sets[0].content_sha256 != sets[1].content_sha256


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--guided_channels", "3"], "guided_channels: 3 .* of the kind text has none"),
        (["--prompt_template", "x"], "prompt_template"),
        (["--prompts", "nowhere.yaml"], "prompts: 'nowhere.yaml' .*YAML or JSON"),
    ],
)
def test_bad_input_in_one_line(capfd, text_folders, tmp_path, words, said):
    place = ["--generator", str(text_folders[False]), "--output_dir", str(tmp_path / "set"), *FAST]
    line = refused(capfd, "recipes/plain.py", *place, *words)
    assert re.search(said, line), line


def test_no_other_generator_takes_prompts(capfd, tmp_path):
    line = refused(capfd, "recipes/plain.py", "--negative_prompt", "bad", "--output_dir", str(tmp_path / "set"))
    assert "negative_prompt: 'bad' cannot be used; a generator of the kind dit has none" in line


def test_a_pickle_is_refused_before_a_teacher_is_fitted(capfd, text_folders, tmp_path):
    folder = shutil.copytree(text_folders[False], tmp_path / "model")
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    line = refused(capfd, "recipes/plain.py", "--generator", str(folder), "--output_dir", str(tmp_path / "set"), *FAST)
    assert "there is no unet/diffusion_pytorch_model.safetensors; diffusion_pytorch_model.bin is a pickle" in line
    index = folder / "model_index.json"
    index.write_text(json.dumps({**json.loads(index.read_text()), "_class_name": "StableDiffusion3Pipeline"}))
    line = refused(capfd, "recipes/plain.py", "--generator", str(folder), "--output_dir", str(tmp_path / "set"), *FAST)
    assert "it is a StableDiffusion3Pipeline; valid: DiTPipeline or" in line
