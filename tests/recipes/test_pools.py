"""recipes/dgs.py and recipes/psr.py end to end; what they select and refine is tested in tests/methods."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import SMALL, fitted_teacher, refused, run_here, unscored
from safetensors.torch import load_file
from torch import nn

from distill_hub import load_distilled
from distill_hub.artifact.cost import own_stages
from distill_hub.classifiers import load_classifier, save_network
from distill_hub.data.sources import load_source
from distill_hub.disk.files import cache_dir

WORDS = [*SMALL, "--view_epochs", "0", "--repeats", "1", "--pool_factor", "4"]


def stages(folder: Path) -> set[str]:
    return {place.name for place in (folder / ".run").iterdir() if place.is_dir()}


def pictures_of(folder: Path) -> set[str]:
    """Names of the pictures that are there; all are shown by the card."""
    names = {file.stem for file in (folder / "assets").glob("*.png")}
    assert all(f"assets/{name}.png" in (folder / "README.md").read_text() for name in names)
    return names


def teacher_of(folder: Path):
    return load_classifier(str(fitted_teacher(folder)), load_source("digits").classes)


@pytest.fixture(scope="module")
def sampled(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dgs") / "set"
    run_here("recipes/dgs.py", *WORDS, "--output_dir", str(folder))
    return folder


def test_dgs_says_what_it_selected_by(sampled):
    manifest = load_distilled(sampled).manifest
    assert manifest.name == "digits-ipc2-dgs" and manifest.method.name == "dgs"
    assert manifest.method.notes["thresholds"].keys() == set(manifest.class_names)
    assert pictures_of(sampled) == {"preview", "difficulty", "embedding", "curves"}
    (record,) = load_distilled(sampled).evaluations
    assert set(record.baselines) == {"plain DiT samples", "random real"}


def test_the_teacher_is_the_selector_and_was_fitted_to_the_classes_of_the_set_alone(sampled, tmp_path):
    """So it makes no difference which classes it judges among; the pool stays as it was drawn."""
    manifest, folder = load_distilled(sampled).manifest, shutil.copytree(sampled, tmp_path / "set")
    assert (manifest.selector.sha256, manifest.selector.judged_over) == (manifest.teacher.sha256, 10)
    assert "judge" not in stages(sampled)
    with unscored():
        run_here("recipes/dgs.py", *WORDS, "--judged_over", "set", "--overwrite", "--output_dir", str(folder))
    assert "judge" in stages(folder)
    again = load_distilled(folder).manifest
    assert again.content_sha256 == manifest.content_sha256
    before, after = (next(s for s in m.stages if s.name == "pool") for m in (manifest, again))
    assert before == after


def test_a_selector_that_knows_more_selects_and_the_teacher_labels(sampled, tmp_path):
    """The teacher's weights, and a class that it takes every image for."""
    network = teacher_of(sampled).model
    head = network.classifier
    more = nn.Linear(head.in_features, 11)
    more.weight.data, more.bias.data = torch.cat([head.weight, head.weight[:1]]), torch.cat([head.bias, torch.tensor([1e4])])
    network.classifier = more
    place, folder = tmp_path / "judge", tmp_path / "set"
    save_network(network, place, "convnet-2", [*map(str, range(10)), "noise"], 16)
    words = ["--selector", str(place), "--refine_steps", "0", "--order", "correct", "--output_dir", str(folder)]
    words += ["--selector_resize", "20"]
    with unscored():
        run_here("recipes/cao2.py", *WORDS, *words)
    manifest = load_distilled(folder).manifest
    assert (manifest.selector.id, manifest.selector.judged_over) == ("judge", 11)
    assert manifest.selector.sha256 != manifest.teacher.sha256 == load_distilled(sampled).manifest.teacher.sha256
    assert (manifest.method.config["selector"], manifest.method.config["selector_resize"]) == ("judge", 20)
    assert manifest.method.notes["correct_candidates_of_short_classes"] == dict.fromkeys(manifest.class_names, 0)
    assert {"pool", "judge"} <= stages(folder)
    assert "- **Selector:** judge" in (folder / "README.md").read_text()


def test_a_revision_of_no_selector_is_refused(tmp_path, capfd):
    words = ("--selector_revision", "main", "--output_dir", str(tmp_path / "set"))
    assert "--teacher_revision" in refused(capfd, "recipes/dgs.py", *words)


def test_real_images_are_measured_once_for_all_runs(sampled, tmp_path):
    assert "difficulty" in stages(sampled)
    with unscored():
        run_here("recipes/dgs.py", *WORDS, "--seed", "1", "--output_dir", str(tmp_path / "set"))
    assert "difficulty" not in stages(tmp_path / "set")
    # A set costs the same whether they were measured in its run or before.
    measured, found = (
        [stage for stage in own_stages(load_distilled(place).manifest) if "difficulty" in stage.name]
        for place in (sampled, tmp_path / "set")
    )
    assert [stage.name for stage in measured] == ["difficulty"] and measured == found and measured[0].core_seconds > 0


def test_what_is_kept_is_the_difficulty_of_every_training_image(sampled):
    kept = [load_file(file)["difficulty"] for file in cache_dir().glob("digits-difficulty-*/difficulty.safetensors")]
    assert len(kept) == 2 and torch.equal(*kept)  # among all classes that the teacher knows, and among those of the set
    kept = kept[0]
    train = load_source("digits").train
    probabilities = teacher_of(sampled).soft_labels(train.pixels(None, 16))
    expected = 1 - probabilities.double()[torch.arange(len(kept)), torch.from_numpy(train.labels)]
    torch.testing.assert_close(kept, expected, rtol=0, atol=1e-5)


def test_a_shape_is_given_for_some_ipc_only(tmp_path, capfd):
    line = refused(capfd, "recipes/dgs.py", *WORDS, "--distribution", "hill", "--output_dir", str(tmp_path / "set"))
    assert "distribution" in line and "10, 20, 50, not 2" in line
    assert not (tmp_path / "set").exists()


@pytest.fixture(scope="module")
def refined(tmp_path_factory):
    folder = tmp_path_factory.mktemp("psr") / "set"
    words = ["--refine_steps", "6", "--kl_steps", "2", "--refine_batch_size", "6"]
    run_here("recipes/psr.py", *WORDS, *words, "--output_dir", str(folder))
    return folder


@pytest.fixture(scope="module")
def selected(tmp_path_factory):
    folder = tmp_path_factory.mktemp("selection") / "set"
    run_here("recipes/psr.py", *WORDS, "--refine_steps", "0", "--output_dir", str(folder))
    return folder


def test_psr_refines_what_its_selection_alone_keeps(refined, selected):
    rows, before = (load_distilled(folder).dataset for folder in (refined, selected))
    assert rows["seed"][:] == before["seed"][:]
    moved = [
        np.abs(np.asarray(a, int) - np.asarray(b, int)).max() for a, b in zip(rows["image"], before["image"], strict=True)
    ]
    assert max(moved) > 0
    shown = {"preview", "embedding", "curves"}
    assert pictures_of(selected) == shown and pictures_of(refined) == {*shown, "refinement"}
    notes = load_distilled(refined).manifest.method.notes
    assert notes["weights"] == [3.0, 1.0, 0.5] and len(notes["mean_divergence_in_its_steps"]) == 2
    assert "mean_divergence_in_its_steps" not in load_distilled(selected).manifest.method.notes


def test_soft_labels_are_those_of_the_images_before_the_refinement(refined, selected):
    rows, before = (load_distilled(folder).dataset for folder in (refined, selected))
    np.testing.assert_array_equal(rows["soft_label"][:], before["soft_label"][:])
    images = torch.stack([torch.from_numpy(np.array(image)).permute(2, 0, 1) for image in before["image"]])
    np.testing.assert_allclose(teacher_of(refined).soft_labels(images), before["soft_label"][:], rtol=0, atol=1e-5)


def test_classes_without_enough_correct_candidates_are_on_record(selected):
    """Of this generator, which has hardly been fitted, the teacher recognises few samples."""
    notes = load_distilled(selected).manifest.method.notes["correct_candidates_of_short_classes"]
    chunks = sorted((selected / ".run" / "pool").glob("*.safetensors"))
    logits = torch.cat([load_file(chunk)["logits"] for chunk in chunks]).view(10, 8, 10)
    correct = (logits.argmax(2) == torch.arange(10)[:, None]).sum(1)
    assert notes == {str(label): int(count) for label, count in enumerate(correct) if count < 2}
    assert json.loads((selected / "manifest.json").read_text())["method"]["notes"]["weights"] == [3.0, 1.0, 0.5]


def test_a_pool_below_the_set_is_refused(tmp_path, capfd):
    for recipe in ("recipes/dgs.py", "recipes/psr.py"):
        assert "pool_factor" in refused(capfd, recipe, *WORDS, "--pool_factor", "0", "--output_dir", str(tmp_path / "set"))


def test_a_pool_that_is_no_multiple_of_ipc(tmp_path, refined):
    """Another selection from 7 candidates per class instead of 8; they and the plain samples are the first of the same."""
    words = ["--pool_size", "7", "--selection", "kmeans", "--unfiltered", "--refine_steps", "0"]
    run_here("recipes/psr.py", *WORDS, *words, "--output_dir", str(tmp_path / "set"))

    def pool(folder):
        chunks = sorted((folder / ".run" / "pool").glob("*.safetensors"))
        return torch.cat([load_file(chunk)["seeds"] for chunk in chunks]).view(10, -1)

    assert torch.equal(pool(tmp_path / "set"), pool(refined)[:, :7])
    found, other = load_distilled(tmp_path / "set"), load_distilled(refined)
    assert set(found.dataset["seed"][:]) <= set(pool(tmp_path / "set").flatten().tolist())
    assert found.manifest.method.notes == {"correct_candidates_of_short_classes": {}}  # no weights, and nobody dropped
    plain = [record.baselines["plain DiT samples"] for distilled in (found, other) for record in distilled.evaluations]
    assert plain[0].last == plain[1].last


def test_a_pool_of_fewer_candidates_than_the_set_is_refused(tmp_path, capfd):
    line = refused(capfd, "recipes/psr.py", "--pool_size", "9", "--output_dir", str(tmp_path / "set"))
    assert "pool_size" in line and "9" in line and "at least IPC, 10" in line
    assert not (tmp_path / "set").exists()


def test_weights_the_wrong_way_round_are_refused(tmp_path, capfd):
    words = ("--kl_weight_min", "3", "--output_dir", str(tmp_path / "set"))
    line = refused(capfd, "recipes/psr.py", *words)
    assert "kl_weight_min" in line and "3.0" in line and "kl_weight_max, 2.0" in line
    assert not (tmp_path / "set").exists()
