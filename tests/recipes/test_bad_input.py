"""What a user can get wrong: one line with field, value and what would be valid, exit code 2, nothing touched."""

import json
from pathlib import Path

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features
from datasets import Image as ImageFeature
from helpers import make_pipeline, refused
from PIL import Image


@pytest.fixture
def start(monkeypatch, capfd, tmp_path):
    """Start a recipe in an empty folder; return the line it ends with."""

    def run(recipe: str, *words: str) -> str:
        monkeypatch.chdir(tmp_path)
        return refused(capfd, f"recipes/{recipe}", *words)

    return run


def photos(folder: Path, *, per_class: int = 4) -> Path:
    random = np.random.default_rng(0)
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            (folder / split / name).mkdir(parents=True)
            for i in range(per_class):
                pixels = random.integers(0, 256, (16, 16, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{i}.png")
    return folder


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["--source", "imagewof"], ["source", "imagewof", "did you mean 'imagewoof'"]),
        (["--source", "./no/folder"], ["source", "./no/folder", "no such folder"]),
        (["--ipc", "0"], ["ipc", "'0'", "> 0"]),
        (["--ipc", "1000"], ["ipc", "1000", "images"]),
        (["--ipcs", "3"], ["--ipcs", "did you mean '--ipc'"]),
        (["--image_column", "img"], ["image_column", "img", "image, label"]),
        (["--label_column", "digit"], ["label_column", "digit", "image, label"]),
        (["--test_split", "validation"], ["test_split", "validation", "train"]),
        (["--fit_image_size", "20"], ["fit_image_size", "20", "multiple of 16"]),
        (["--generator", "./nothing"], ["generator", "./nothing", "a pipeline"]),
        (["--protocol", "idc-hart"], ["protocol", "idc-hart", "did you mean 'idc-hard'"]),
        (["--students", "convnet-2,resnett-18"], ["students", "resnett-18", "did you mean 'resnet-18'"]),
        (["--protocol", "rded-soft", "--students", "resnet-18"], ["students", "resnet-18", "resnet-18-bn"]),
        (["--protocol", "fkd", "--view_epochs", "10"], ["view_epochs", "10", "300"]),
        (["--label_share", "1.5"], ["label_share", "1.5", "<= 1"]),
        (["--top_k", "10"], ["top_k", "10", "a view has 10 logits"]),
    ],
)
def test_a_wrong_word(start, words, parts, tmp_path):
    line = start("cao2.py", *words)
    assert all(part in line for part in parts), line
    left = [path for path in tmp_path.rglob("*") if path.is_file() and path.name != "config.json"]
    assert not left


def test_classes_the_generator_does_not_know(start, pipeline_folder):
    line = start("cao2.py", "--generator", str(pipeline_folder))
    assert "generator" in line and "3 classes" in line and "0, 1, 2, 3, 4 and 5 more" in line


def test_a_truncated_generator(start, tmp_path):
    make_pipeline(10).save_pretrained(tmp_path / "pipeline")
    weights = tmp_path / "pipeline" / "vae" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    line = start("plain.py", "--generator", str(tmp_path / "pipeline"))
    assert "generator" in line and "safetensors" in line


def test_a_folder_without_images(start, tmp_path):
    (tmp_path / "empty").mkdir()
    assert "it holds no images" in start("cao2.py", "--source", str(tmp_path / "empty"))
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("no image\n")
    assert "it holds no images" in (line := start("cao2.py", "--source", str(tmp_path / "texts"))) and "(a.txt)" in line


def test_a_corrupt_image(start, tmp_path):
    folder, features = tmp_path / "tables", Features({"image": ImageFeature(), "label": ClassLabel(names=["cat", "dog"])})
    folder.mkdir()
    image = (photos(tmp_path / "photos") / "train" / "dog" / "2.png").read_bytes()
    for split in ("train", "test"):  # of a table: from a folder it would be left out
        cells = [{"bytes": image[:40] if row == 6 else image, "path": None} for row in range(8)]
        dataset = Dataset.from_dict({"image": cells, "label": [0, 1] * 4}, features=features)
        dataset.to_parquet(folder / f"{split}.parquet")
    line = start("fit_generator.py", "--source", str(folder), "--output_dir", "generator", "--fit_image_size", "16")
    assert "source" in line and str(folder) in line and "row 6" in line and "train" in line
    assert not (tmp_path / "generator").exists()


def test_a_parquet_folder_without_labels(start, tmp_path):
    images = [Image.fromarray(np.zeros((16, 16, 3), dtype=np.uint8))] * 2
    (tmp_path / "data").mkdir()
    Dataset.from_dict({"picture": images}, features=Features({"picture": ImageFeature()})).to_parquet(
        tmp_path / "data" / "train.parquet"
    )
    line = start("cao2.py", "--source", str(tmp_path / "data"))
    assert "label_column" in line and "picture" in line


def test_no_test_split(start, tmp_path):
    features = Features({"image": ImageFeature(), "label": ClassLabel(names=["a", "b"])})
    images = [Image.fromarray(np.zeros((16, 16, 3), dtype=np.uint8))] * 4
    (tmp_path / "data").mkdir()
    Dataset.from_dict({"image": images, "label": [0, 1, 0, 1]}, features=features).to_parquet(
        tmp_path / "data" / "train.parquet"
    )
    line = start("cao2.py", "--source", str(tmp_path / "data"), "--ipc", "1")
    assert "--test_split" in line and "--test_fraction" in line


def test_a_folder_of_another_run_and_a_folder_of_something_else(start, tmp_path):
    out = tmp_path / "out"
    (out / ".run" / "pool").mkdir(parents=True)
    (out / ".run" / "config.json").write_text(json.dumps({"ipc": 20}))
    (out / ".run" / "pool" / "000000.json").write_text("{}")
    line = start("cao2.py", "--output_dir", str(out))
    assert str(out) in line and "--overwrite" in line
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("words")
    for words in ([], ["--overwrite"]):
        assert "not a run's" in start("cao2.py", "--output_dir", str(tmp_path / "thesis"), *words)
    assert (tmp_path / "thesis" / "chapter.txt").read_text() == "words"
    assert (out / ".run" / "pool" / "000000.json").read_text() == "{}"
