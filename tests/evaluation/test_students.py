"""Students that are kept: with their numbers and not before, through kills, as classifiers that load."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from distill_hub.classifiers import load_classifier
from distill_hub.config import InputError
from distill_hub.disk.files import cache_dir
from distill_hub.evaluation import scores
from distill_hub.evaluation.reevaluate import evaluate
from distill_hub.networks.build import build
from distill_hub.publishing.trained import read_classifier
from distill_hub.training.train import Training

ORDER = [3, 1, 4, 0, 5, 9, 2, 6, 8, 7]
HOW = {"protocol": "quick", "students": "convnet-1-w4", "repeats": 2}


class Killed(Exception):
    pass


class Asked(list):
    stop_at = None  # so many students are trained before the kill


def network(seed):
    torch.manual_seed(seed)
    return build("convnet-1-w4", 10, 16)


@pytest.fixture
def titles(monkeypatch, tmp_path):
    """Students that are not trained, of weights that follow from their seed: who was asked for; `stop_at` kills once."""
    asked = Asked()

    def train(student, sets, test, classes, settings, seeds, *, title, **rest):
        if len(asked) == asked.stop_at:
            asked.stop_at = None
            raise Killed
        asked.append(title)
        return [Training(network(seed), 0.5 + seed / 10, 0.9, 7, (0.9, 0.5 + seed / 10)) for seed in seeds]

    monkeypatch.setattr(scores, "train_students", train)
    monkeypatch.setenv("DISTILL_HUB_CACHE", str(tmp_path / "cache"))
    return asked


def kept_in_the_cache():
    """Names of the tensors of every finished piece of work."""
    found = []
    for file in sorted(cache_dir().glob("evaluations/*/.run/1 of 1*/*.safetensors")):
        with safe_open(file, "pt") as opened:
            found.append(set(opened.keys()))
    return found


def test_a_killed_evaluation_still_gives_all_students(make_set, digits, titles, tmp_path, monkeypatch):
    place, folder = make_set(tmp_path / "set", ORDER), tmp_path / "students"
    numbers = {"accuracies", "best_epoch", "curve", "processes"}
    titles.stop_at = 1
    with pytest.raises(Killed):
        evaluate(place, **HOW)
    assert kept_in_the_cache() == [numbers]  # and nothing more, where nobody asks for students
    titles.clear()
    titles.stop_at = 3
    with pytest.raises(Killed):
        evaluate(place, **HOW, save_students=str(folder))
    weights = {f"weights.{name}" for name in network(0).state_dict()}
    assert sorted(kept_in_the_cache(), key=len) == [numbers, numbers, numbers | weights, numbers | weights]
    assert not folder.exists()
    (pair,) = evaluate(place, **HOW, save_students=str(folder))
    assert titles == ["this set, seed 0", "this set, seed 1", "random real, seed 0", "random real, seed 1"]

    places = [folder / f"quick-v2-convnet-1-w4-seed{seed}" for seed in (0, 1)]
    assert sorted(folder.iterdir()) == places
    images = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    for seed, own in enumerate(places):
        stored, expected = load_file(own / "model.safetensors"), network(seed)
        assert all(torch.equal(stored[name], tensor) for name, tensor in expected.state_dict().items())
        loaded, record = load_classifier(str(own), digits.classes), read_classifier(own)
        mean, std = (torch.tensor(record.settings[name]).view(1, 3, 1, 1) for name in ("mean", "std"))
        torch.testing.assert_close(loaded.logits(images), expected((images - mean) / std), rtol=0, atol=1e-5)
        assert (
            record.classes == digits.class_names
            and record.test_accuracy == pair.measured.score.last[seed] == 0.5 + seed / 10
        )
        assert (record.steps, record.trained_on.images, record.trained_on.seed) == (record.settings["epochs"], 50, seed)
        assert record.trained_on.content_sha256 == pair.measured.content_sha256 and record.trained_on.hub_id is None
        assert f'load_classifier("{own.name}", source.classes)' in (own / "README.md").read_text()
    before = {path: path.stat().st_ino for path in folder.rglob("*") if path.is_file()}

    # Another set's students go elsewhere.
    titles.clear()
    other = make_set(tmp_path / "other", sorted(ORDER))
    with pytest.raises(InputError, match=r"save_students: .* quick-v2-convnet-1-w4-seed0 there is of another set"):
        evaluate(other, **HOW, save_students=str(folder))
    manifest = json.loads((other / "manifest.json").read_text())
    assert manifest["content_sha256"] != pair.measured.content_sha256 and titles == []
    assert {path: path.stat().st_ino for path in folder.rglob("*") if path.is_file()} == before


def test_seeds_side_by_side_are_kept_one_by_one(make_set, digits, titles, tmp_path):
    place, folder = make_set(tmp_path / "set", ORDER), tmp_path / "students"
    evaluate(place, **HOW, seeds_together=True, save_students=str(folder))
    assert titles[0] == "this set, seed 0, 1"
    for seed in (0, 1):
        stored = load_file(folder / f"quick-v2-convnet-1-w4-seed{seed}" / "model.safetensors")
        assert all(torch.equal(stored[name], tensor) for name, tensor in network(seed).state_dict().items())


def test_students_of_whitened_images_are_refused_before_any_is_trained(make_set, titles, tmp_path):
    def free(image):
        return (image.transpose(2, 0, 1) / 255).astype("float16")

    whitened = {"zca": {"eps": 0.1, "images": 1297, "sha256": "0" * 64}}
    place = make_set(tmp_path / "set", ORDER, free=free, free_pixels=whitened)
    with pytest.raises(InputError, match=r"save_students: .* see whitened images"):
        evaluate(place, **HOW, save_students=str(tmp_path / "students"))
    assert titles == [] and not (tmp_path / "students").exists()
