"""The recipes end to end, as a user starts them: one process, two, killed and resumed; and what comes out."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from datasets import load_dataset
from helpers import LAUNCH, SMALL, TINY, TORCHRUN, kill_when, run, run_here, unscored
from processes import run_python

from distill_hub import evaluate, load_distilled

CHUNKS = {"pool": 5, "refine": 4, "views": 2, "evaluate convnet-1-w16": 6}  # 60 candidates, 20 images, 150 epochs, 3 x 2


def markers(folder: Path) -> dict[str, int]:
    """Finished chunks and when they were finished; images mapped or encoded for what follows go at the end."""
    gone = {"encode images", *(file.parent.name for file in (folder / ".run").glob("*/array"))}
    found = (file for file in sorted((folder / ".run").rglob("0*.json")) if file.parent.name not in gone)
    return {str(file.relative_to(folder)): file.stat().st_mtime_ns for file in found}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of recipes/cao2.py in one process, and what it printed."""
    folder = tmp_path_factory.mktemp("one") / "set"
    result = run(LAUNCH, "recipes/cao2.py", *TINY, "--output_dir", str(folder))
    assert result.returncode == 0, result.stderr[-3000:]
    return folder, result.stdout


def sha(folder: Path) -> str:
    return json.loads((folder / "manifest.json").read_text())["content_sha256"]


def hashes(folder: Path) -> tuple[str, str, list]:
    """Of the set, of its views, and what its students scored."""
    manifest = json.loads((folder / "manifest.json").read_text())
    (record,) = (json.loads(file.read_text()) for file in (folder / "evaluations").iterdir())
    return manifest["content_sha256"], manifest["views"]["sha256"], [record["score"], record["baselines"]]


def test_it_prints_where_the_set_is_the_times_and_the_scores(finished):
    folder, printed = finished
    assert str(folder) in printed
    for word in ("pool", "refine", "evaluate", "this set", "plain DiT samples", "random real", "±"):
        assert word in printed
    (record,) = (json.loads(file.read_text()) for file in (folder / "evaluations").iterdir())
    own, random = (np.array(score["last"]) * 100 for score in (record["score"], record["baselines"]["random real"]))
    told = " ".join(printed.split())
    assert f"convnet-1-w16 reaches {own.mean():.1f} ± {own.std(ddof=1):.1f} % under quick v2 (NON-STANDARD)" in told
    assert f"of 2 students; as many random real images: {random.mean():.1f} ± {random.std(ddof=1):.1f} %" in told


def test_every_stage_has_its_chunks(finished):
    folder, _ = finished
    for stage, count in CHUNKS.items():
        assert len(list((folder / ".run" / stage).glob("*.safetensors"))) == count


def test_the_artifact_is_whole(finished):
    folder, _ = finished
    distilled = load_distilled(folder)
    manifest = distilled.manifest
    assert manifest.name == "digits-ipc2-cao2"
    assert manifest.method.config["refine_steps"] == 5
    assert manifest.source.train_images == 1297
    assert [c.generator_index for c in manifest.classes] == list(range(10))
    assert manifest.teacher.test_accuracy > 0.5
    assert distilled.dataset["label"][:] == [label for label in range(10) for _ in range(2)]
    (record,) = distilled.evaluations
    assert record.content_sha256 == manifest.content_sha256
    assert set(record.baselines) == {"plain DiT samples", "random real"}
    assert record.baselines["random real"].mean > record.score.mean  # a generator this small knows little
    for file in ("README.md", "data/train-00000-of-00001.parquet"):
        assert (folder / file).is_file()
    card = (folder / "README.md").read_text()
    for name in ("preview", "refinement", "embedding", "curves"):
        assert (folder / "assets" / f"{name}.png").is_file() and f"assets/{name}.png" in card


def test_load_dataset_needs_no_distill_hub(finished):
    folder, _ = finished
    code = f"""
import sys
sys.modules["distill_hub"] = None  # any import of it fails
from datasets import load_dataset
for streaming in (False, True):
    data = load_dataset({str(folder)!r}, split="train", streaming=streaming)
    rows = list(data)
    assert list(data.features) == ["image", "label", "soft_label", "confidence", "seed"], data.features
    assert data.features["label"].names == list("0123456789")
    assert data.features["soft_label"].length == 10 and data.features["soft_label"].feature.dtype == "float32"
    assert len(rows) == 20 and rows[0]["image"].size == (16, 16) and rows[0]["image"].mode == "RGB"
    for row in rows:
        assert abs(sum(row["soft_label"]) - 1) < 1e-5
        assert abs(row["confidence"] - row["soft_label"][row["label"]]) < 1e-7
"""
    done = run_python("-c", code)
    assert done.returncode == 0, done.stderr


def test_seed_redraws_the_candidate(finished):
    """With no refinement the published pixels are the decoded sample of the row's seed."""
    from distill_hub.generators.dit import DiTGenerator

    folder = finished[0].with_name("unrefined")
    with unscored():
        run_here("recipes/plain.py", *SMALL, "--output_dir", str(folder))
    (index,) = Path(os.environ["DISTILL_HUB_CACHE"]).glob("digits-generator-????????????/model_index.json")
    config = load_distilled(folder).manifest.method.config
    generator = DiTGenerator.from_pretrained(
        str(index.parent), steps=config["sample_steps"], guidance_scale=config["guidance_scale"]
    )
    rows = load_dataset(str(folder), split="train")
    for place in (0, 7, 19):
        row = rows[place]
        pixels = generator.decode(generator.sample([row["label"]], [row["seed"]]))[0]
        expected = (pixels * 255).round().permute(1, 2, 0).numpy().astype(int)
        # One at a time against a batch: rounding may differ by one grey level.
        assert np.abs(expected - np.asarray(row["image"]).astype(int)).max() <= 1


def test_two_processes_give_the_same_set(finished, tmp_path):
    """Fits included: the second run starts with an empty cache."""
    cache = str(tmp_path / "cache")
    result = run(TORCHRUN, "recipes/cao2.py", *TINY, "--output_dir", str(tmp_path / "set"), DISTILL_HUB_CACHE=cache)
    assert result.returncode == 0, result.stderr[-3000:]
    assert "fit generator" in result.stdout and "fit teacher" in result.stdout
    assert hashes(tmp_path / "set") == hashes(finished[0])
    one, two = (load_distilled(folder) for folder in (finished[0], tmp_path / "set"))
    assert two.manifest.environment.processes == 2
    for model in ("generator", "teacher"):
        records = [getattr(manifest, model).model_copy(update={"cost": None}) for manifest in (one.manifest, two.manifest)]
        assert records[0] == records[1]
    assert two.evaluations[0].score == one.evaluations[0].score


def test_killed_in_every_stage_and_started_again(finished, tmp_path):
    """SIGKILL after the first finished chunk of each stage; what was finished is kept, and the set is the same."""
    folder = tmp_path / "set"
    words = ["recipes/cao2.py", *TINY, "--output_dir", str(folder)]
    kept = {}
    for stage, count in CHUNKS.items():
        kill_when((folder / ".run" / stage / "000000.json").is_file, *words)
        now = markers(folder)
        assert sum(name.startswith(f".run/{stage}/") for name in now) < count, f"{stage} was over before the kill"
        assert now.items() >= kept.items(), "finished work was redone"
        kept = now
    run_here(*words)
    assert markers(folder).items() >= kept.items()
    assert hashes(folder) == hashes(finished[0])


def test_the_same_command_again_redoes_nothing(finished):
    folder, _ = finished
    before = markers(folder)
    card = (folder / "README.md").read_text(encoding="utf-8")
    (folder / "README.md").write_text(card + "\nA word by its author.\n", encoding="utf-8")
    run_here("recipes/cao2.py", *TINY, "--output_dir", str(folder))
    assert markers(folder) == before
    assert (folder / "README.md").read_text(encoding="utf-8").count("A word by its author.") == 1
    assert len(list((folder / "evaluations").iterdir())) == 1


def test_scoring_again_gives_the_claimed_accuracy(finished):
    (pair,) = evaluate(finished[0])
    assert pair.measured.score == pair.claimed.score
    assert pair.agrees and pair.difference == 0


def test_info_prints_method_and_scores(finished):
    result = run_python("-m", "distill_hub.cli", "info", str(finished[0]))
    assert result.returncode == 0, result.stderr
    for word in ("digits-ipc2-cao2", "CaO2", "10: 0, 1, 2", sha(finished[0]), "random real"):
        assert word in result.stdout
