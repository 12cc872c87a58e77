"""The size of what is fitted to photos: the images' own, the one that is named, or one that is chosen, said and recorded."""

import numpy as np
import PIL.Image
import pytest
import torch
from helpers import RECIPES, run_here, unscored

from distill_hub import load_distilled
from distill_hub.config import from_values
from distill_hub.data import size as module
from distill_hub.data.size import with_size
from distill_hub.data.sources import load_source


def photos(folder, *shapes):
    """Write 8 photos of two classes, of the given widths and heights, one after the other."""
    for number in range(8):
        file = folder / "train" / "ab"[number % 2] / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        width, height = shapes[number % len(shapes)]
        pixels = np.random.default_rng(number).integers(100, size=(height, width, 3), dtype=np.uint8)
        pixels[..., number % 2] += 150  # a is red, b green
        PIL.Image.fromarray(pixels).save(file)
    return load_source(str(folder), test_fraction=0.5)


class OnAGpu:
    device = torch.device("cuda")
    is_main_process = True


@pytest.mark.parametrize(
    ("shapes", "on_cpu", "on_gpu"),
    [
        ([(300, 400), (64, 500)], 64, 128),  # medians of the shorter sides: 182
        ([(256, 300), (300, 256)], 64, 256),
        ([(900, 700)], 64, 256),
        ([(600, 600)], 64, 256),  # they agree, on more than a fit can do
        ([(63, 80)], 32, 32),
        ([(28, 28)], 32, 32),  # they agree, on no multiple of 16
        ([(24, 30)], 32, 32),
        ([(20, 30)], 16, 16),
        ([(48, 48)], None, None),
        ([(128, 128)], None, None),
    ],
)
def test_the_largest_that_the_median_allows(tmp_path, monkeypatch, capsys, shapes, on_cpu, on_gpu):
    source = photos(tmp_path, *shapes)
    config = from_values(RECIPES["cao2"], {"source": str(tmp_path)})
    for expected in (on_cpu, on_gpu):
        assert with_size(config, source, "fit_image_size").fit_image_size == expected
        said = capsys.readouterr().out
        assert said.count("\n") == (0 if expected is None else 1)
        assert expected is None or (f"squares of {expected} px" in said and "--fit_image_size names another" in said)
        monkeypatch.setattr(module, "start_accelerator", OnAGpu)
    named = from_values(RECIPES["cao2"], {"fit_image_size": 96})
    assert with_size(named, source, "fit_image_size") is named and not capsys.readouterr().out


def test_an_image_size_that_needs_no_generator_may_be_any(tmp_path):
    source = photos(tmp_path, (28, 28))
    config = from_values(RECIPES["random_real"], {})
    assert with_size(config, source, "image_size") is config


def test_photos_of_several_sizes_become_a_set_that_says_its_size(tmp_path, capsys):
    photos(tmp_path / "photos", (50, 70), (40, 33))
    with unscored():
        run_here(
            "recipes/random_real.py", f"--source={tmp_path / 'photos'}", "--test_fraction=0.5", "--ipc=1",
            f"--output_dir={tmp_path / 'set'}", "--students=convnet-1-w16", "--teacher_epochs=40", "--view_epochs=0",
        )  # fmt: skip
    manifest = load_distilled(tmp_path / "set").manifest
    assert manifest.image_size == 32 and manifest.method.config["image_size"] == 32
    assert "squares of 32 px" in capsys.readouterr().out
