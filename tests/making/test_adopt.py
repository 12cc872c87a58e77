"""Sets made elsewhere become artifacts: the same pixels and classes, and no claim that is not known."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import load_dataset
from hub_client import Client
from hub_server import HubServer
from huggingface_hub import DatasetCard
from processes import run_python
from safetensors.torch import save_file

from distill_hub import InputError, evaluate, load_distilled
from distill_hub.commands.adopt import run as adopt
from distill_hub.commands.info import run as show_info
from distill_hub.options.commands import AdoptConfig, InfoConfig

ORDER = [3, 7, 5, 9, 0, 2, 8, 1, 6, 4]  # the digit that each label stands for; none for its own
REPO = "org/digits-ipc5-dm"
HOW = {"source": "digits", "protocol": "quick", "students": "convnet-2-w16", "repeats": 1}
MEAN, STD = "0.485,0.456,0.406", "0.229,0.224,0.225"


def adopted_from(location, output_dir, **options):
    return adopt(
        AdoptConfig(**{"source": "digits", "method": "DM", "location": str(location), "output_dir": output_dir} | options)
    )


def tree(folder):
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


def manifest_of(folder):
    return json.loads((folder / "manifest.json").read_text())


@pytest.fixture(scope="module")
def adopted(image_folder, tmp_path_factory):
    return adopted_from(image_folder, tmp_path_factory.mktemp("adopted") / "set")


@pytest.fixture
def tensors(pixels, tmp_path):
    """Return a function that saves images (10, 5, ...) of labels in order, or a part of them, as tensors."""

    def save(rows=slice(None), labels=None):
        labels = np.repeat(np.arange(10), 5) if labels is None else labels
        np.savez(tmp_path / "tensors.npz", images=pixels.reshape(50, 16, 16, 3)[rows], labels=labels[rows])
        return tmp_path / "tensors.npz"

    return save


def save_as(kind, folder, pixels, image_folder):
    """Save the set in one of the formats; return its location and the options that it needs."""
    folder.mkdir()
    planes = torch.from_numpy(pixels.reshape(50, 16, 16, 3)).permute(0, 3, 1, 2).contiguous()
    values, labels = planes.float() / 255, torch.arange(10).repeat_interleave(5)
    mean, std = (torch.tensor([float(part) for part in text.split(",")]).view(3, 1, 1) for text in (MEAN, STD))
    if kind == "image folder":
        return image_folder, {}
    if kind == "zip":
        return shutil.make_archive(str(folder / "set"), "zip", image_folder), {}
    if kind == "pair of .pt":
        torch.save(values, folder / "images_best.pt")
        torch.save(labels, folder / "labels_best.pt")
    elif kind == "pair of .npy":
        np.save(folder / "images.npy", planes.numpy())
        np.save(folder / "labels.npy", labels.numpy())
    elif kind == "safetensors":
        save_file({"images": values, "labels": labels}, folder / "set.safetensors")
        folder = folder / "set.safetensors"
    else:
        torch.save({"images": (values - mean) / std, "labels": labels}, folder / "set.pt")
        return folder / "set.pt", {"classes": "digits", "mean": MEAN, "std": STD}
    return folder, {"classes": "digits"}


KINDS = ["image folder", "zip", "pair of .pt", "pair of .npy", "safetensors", "normalised"]


@pytest.mark.parametrize("kind", KINDS)
def test_pixels_and_classes_are_those_of_the_original(kind, pixels, image_folder, tmp_path):
    location, options = save_as(kind, tmp_path / "original", pixels, image_folder)
    adopted = load_distilled(adopted_from(location, tmp_path / "out", **options))
    data = adopted.dataset
    assert np.array_equal(np.stack([np.asarray(image) for image in data["image"]]).reshape(pixels.shape), pixels)
    assert data["label"][:] == np.repeat(np.arange(10), 5).tolist()
    assert data.features["label"].names == list("0123456789")
    assert np.array_equal(data["soft_label"][:], np.eye(10)[data["label"]])
    assert set(data["confidence"]) == {1.0} and set(data["seed"]) == {-1}
    assert adopted.manifest.method.notes["adopted_from"] == Path(location).name


def test_the_manifest_claims_nothing_that_is_not_known(adopted):
    manifest = load_distilled(adopted).manifest
    assert (manifest.name, manifest.origin, manifest.soft_labels) == ("digits-ipc5-dm", "external", "one-hot")
    assert manifest.method.config == {} and manifest.stages == []
    unknown = (manifest.seed, manifest.environment, manifest.license, manifest.generator, manifest.teacher)
    assert unknown == (None,) * 5 and manifest.method.paper is manifest.method.bibtex is None
    assert all(c.generator_index is c.teacher_index is None for c in manifest.classes)


def test_the_card_says_so_and_can_be_read(adopted, tmp_path):
    card = DatasetCard.load(adopted / "README.md")
    assert "made elsewhere" in card.text and "None" not in card.content
    assert card.data.license is None and card.data.dataset_info["features"][1]["name"] == "label"
    data = load_dataset(str(adopted), split="train", cache_dir=str(tmp_path))
    assert len(data) == 50 and data.features["label"].names == list("0123456789")


def test_soft_labels_of_the_author_come_in_the_sources_order(parquet, tmp_path):
    soft_labels = np.full((10, 10), 0.02, dtype=np.float32)  # of each label value, columns in the set's order
    soft_labels[range(10), range(10)] = 0.8
    soft_labels[range(10), np.roll(range(10), -1)] = 0.04
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "x.parquet").write_bytes(parquet(ORDER, names=[str(d) for d in ORDER], soft_labels=soft_labels))
    adopted = load_distilled(adopted_from(tmp_path / "set", tmp_path / "out"))
    assert adopted.manifest.soft_labels == "author" and adopted.manifest.teacher is None
    expected = np.empty_like(soft_labels)
    expected[np.ix_(ORDER, ORDER)] = soft_labels
    np.testing.assert_allclose(adopted.dataset["soft_label"][:], expected.repeat(5, axis=0), atol=1e-6)
    np.testing.assert_allclose(adopted.dataset["confidence"][:], 0.8, atol=1e-6)


def test_a_teacher_labels_the_images_or_finds_that_labels_are_wrong(tensors, tmp_path):
    options = {"classes": "digits", "teacher": "auto", "teacher_epochs": 2}
    adopted = load_distilled(adopted_from(tensors(), tmp_path / "out", **options))
    assert adopted.manifest.soft_labels == "teacher" and adopted.manifest.teacher.id == "fitted on digits"
    assert 0.5 < adopted.manifest.teacher.test_accuracy < 1
    assert [c.teacher_index for c in adopted.manifest.classes] == list(range(10))
    soft_labels = np.asarray(adopted.dataset["soft_label"])
    assert np.mean(soft_labels.argmax(1) == adopted.dataset["label"]) > 0.5
    assert np.allclose(soft_labels[range(50), adopted.dataset["label"]], adopted.dataset["confidence"])
    with pytest.raises(InputError, match=r"^teacher: .* agree with the labels on .* least: 0 \("):
        adopted_from(tensors(), tmp_path / "rolled", **options | {"classes": "1,2,3,4,5,6,7,8,9,0"})
    assert not (tmp_path / "rolled" / "manifest.json").exists()


@pytest.mark.parametrize("accuracy", [0.5, None])
def test_what_is_known_of_a_teacher_is_shown(accuracy, adopted, tmp_path, capsys):
    manifest = manifest_of(adopted)
    manifest["teacher"] = {"id": "org/net", "architecture": "Net", "sha256": "0" * 64, "test_accuracy": accuracy}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    show_info(InfoConfig(str(tmp_path)))
    (line,) = (line.rstrip() for line in capsys.readouterr().out.splitlines() if line.startswith("teacher"))
    assert line.endswith("org/net (Net), 50.0% on the test split" if accuracy else "org/net (Net)")


REFUSED = {
    "no source": ({}, {"source": None}, "source", "pass --source"),
    "no classes": ({}, {"classes": None}, "classes", "pass --classes"),
    "a method that is no name": ({}, {"method": "d/m"}, "method", "the name of what made the set"),
    "a paper that is no URL": ({}, {"paper": "CVPR 2023"}, "paper", "a URL is needed"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_a_set_of_the_source_is_refused_before_anything_is_written(case, tensors, tmp_path):
    selection, options, field, words = REFUSED[case]
    with pytest.raises(InputError) as caught:
        adopted_from(tensors(**selection), tmp_path / "out", **{"classes": "digits"} | options)
    assert caught.value.field == field and words in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_soft_labels_that_contradict_the_labels_are_refused_before_anything_is_written(parquet, tmp_path):
    soft_labels = np.roll(np.eye(10, dtype=np.float32), 1, axis=1)
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "x.parquet").write_bytes(parquet(range(10), soft_labels=soft_labels))
    with pytest.raises(InputError, match=r"agree with the labels on 0\.0%"):
        adopted_from(tmp_path / "set", tmp_path / "out", classes="digits")
    assert not (tmp_path / "out").exists()


def test_a_folder_of_other_files_and_a_set_in_this_format_are_refused(adopted, image_folder, tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match=r"^output_dir: .* not a run's"):
        adopted_from(image_folder, tmp_path)
    with pytest.raises(InputError, match="in the artifact format already"):
        adopted_from(adopted, tmp_path / "out")
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.txt"]


def test_an_adopted_set_scores_as_the_original(adopted, image_folder, tmp_path, remembered):
    # The set knows its source by itself.
    own = {name: value for name, value in HOW.items() if name != "source"}
    (original,), (found,) = evaluate(image_folder, **HOW), evaluate(adopted, **own)
    assert found.measured.score == original.measured.score and found.measured.baselines == original.measured.baselines
    assert found.measured.content_sha256 == original.measured.content_sha256 == manifest_of(adopted)["content_sha256"]
    # With a record, something is claimed: it is measured again, and needs no baseline.
    folder = shutil.copytree(adopted, tmp_path / "copy")
    (folder / "evaluations").mkdir()
    (folder / "evaluations" / found.measured.file_name).write_text(found.measured.to_json())
    (again,) = evaluate(folder)
    assert again.claimed == found.measured and again.agrees and again.measured.baselines == {}


def test_an_adopted_set_is_published_and_loaded(image_folder, tmp_path):
    with HubServer() as hub:
        hub.add_user("alice", orgs=["org"])
        hub.add_token("hf_alice", "alice")
        alice = Client(hub, tmp_path / "alice", "hf_alice")
        given = {"location": str(image_folder), "source": "digits", "method": "dm", "push_to_hub": REPO}
        folder = Path(alice.result("adopt", str(tmp_path / "out"), **given))
        loaded = alice.result("load", REPO)
        alice.stop()
        assert loaded["content"] == manifest_of(folder)["content_sha256"]
        published = hub.repos[REPO].tree()
    for name in ("README.md", "manifest.json"):
        assert str(tmp_path).encode() not in published[name] and str(image_folder.parent).encode() not in published[name]


def test_the_command_names_the_set_and_no_path_of_this_machine(image_folder, tmp_path):
    words = ["--source", "digits", "--method", "DM", "--title", "Distribution Matching", "--license", "mit"]
    words += ["--paper", "https://arxiv.org/abs/2110.04181", "--image_format", "webp"]
    done = run_python("-m", "distill_hub.cli", "adopt", str(image_folder), *words, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "outputs/digits-ipc5-dm" in done.stdout
    folder = tmp_path / "outputs" / "digits-ipc5-dm"
    manifest = load_distilled(folder).manifest
    assert (manifest.method.name, manifest.method.title, manifest.license) == ("dm", "Distribution Matching", "mit")
    texts = [(folder / name).read_text() for name in ("README.md", "manifest.json")]
    assert "[Distribution Matching](https://arxiv.org/abs/2110.04181)" in texts[0] and "license: mit" in texts[0]
    assert not [text for text in texts if str(tmp_path) in text or str(image_folder.parent) in text]


def test_another_set_takes_the_place_of_one_that_can_be_adopted_again(adopted, image_folder, tmp_path, capsys):
    first, second = (shutil.copytree(image_folder, tmp_path / name) for name in ("first", "second"))
    out = adopted_from(first, tmp_path / "out")
    before = manifest_of(out)["content_sha256"]
    shutil.copy(second / "0" / "0.png", second / "0" / "1.png")
    adopted_from(second, out)
    assert f"adopted from {first}, which is there still; it is replaced" in capsys.readouterr().out.replace("\n", " ")
    assert manifest_of(out)["content_sha256"] not in (before, None)


@pytest.mark.parametrize("added", ["card", "record", "origin"])
def test_no_other_set_takes_the_place_of_one_that_would_be_lost(added, image_folder, make_evaluation, tmp_path):
    first, second = (shutil.copytree(image_folder, tmp_path / name) for name in ("first", "second"))
    out = adopted_from(first, tmp_path / "out")
    shutil.copy(second / "0" / "0.png", second / "0" / "1.png")
    if added == "card":
        (out / "README.md").write_text((out / "README.md").read_text() + "\nUse it with care.\n")
    elif added == "record":
        record = make_evaluation(manifest_of(out)["content_sha256"])
        (out / "evaluations").mkdir()
        (out / "evaluations" / record.file_name).write_text(record.to_json())
    else:
        shutil.rmtree(first)
    before = tree(out)
    with pytest.raises(InputError, match=r"^(location|set_sha256): .*--overwrite"):
        adopted_from(second, out)
    assert tree(out) == before
    assert adopted_from(second, out, overwrite=True) == out


def test_what_a_set_has_and_was_not_read_is_named(image_folder, tmp_path, capsys):
    folder = shutil.copytree(image_folder, tmp_path / "set")
    (folder / "0" / "more.heic").write_bytes(b"x")
    notes = manifest_of(adopted_from(folder, tmp_path / "out"))["method"]["notes"]
    assert (notes["unused_files"], notes["unused_files_are"]) == (1, ["0/more.heic"])
    assert "Not used, 1 of its files: 0/more.heic" in capsys.readouterr().out


def test_a_set_of_an_unknown_method_says_so(image_folder, tmp_path):
    folder = adopted_from(image_folder, tmp_path / "out", method=None)
    manifest = manifest_of(folder)
    assert (manifest["name"], manifest["method"]["name"]) == ("digits-ipc5-unknown", "unknown")
    assert "- **Made** elsewhere with an unknown method, and" in (folder / "README.md").read_text()


def test_fewer_classes_and_uneven_ones_are_adopted_and_scored(tensors, image_folder, tmp_path, remembered, capsys):
    rows = np.r_[0:3, 20:25, 45:50]  # three images of 0, five of 4 and of 9
    folder = adopted_from(tensors(rows), tmp_path / "out", classes="digits")
    manifest = load_distilled(folder).manifest
    assert manifest.class_names == ["0", "4", "9"] and (manifest.ipc, manifest.class_images) == (4, [3, 5, 5])
    assert (manifest.rows, manifest.counts, manifest.ipc_text) == (13, [3, 5, 5], "3 to 5")
    assert "13 synthetic images that stand in" in (folder / "README.md").read_text()
    show_info(InfoConfig(str(folder)))
    assert "3 to 5 per class" in capsys.readouterr().out
    own = {name: value for name, value in HOW.items() if name != "source"}
    (original,), (found,) = evaluate(tmp_path / "tensors.npz", classes="digits", **HOW), evaluate(folder, **own)
    assert found.measured.score == original.measured.score and found.measured.baselines == original.measured.baselines
    assert found.measured.content_sha256 == original.measured.content_sha256 == manifest.content_sha256


def test_an_even_set_says_nothing_of_uneven_ones(adopted):
    assert "class_images" not in manifest_of(adopted)


@pytest.mark.parametrize("counts", [[5] * 10, [5] * 9, [5] * 9 + [0], [50] * 9 + [5], [5] * 9 + [6.5]])
def test_numbers_per_class_that_cannot_be(adopted, tmp_path, counts):
    folder = shutil.copytree(adopted, tmp_path / "copy")
    (folder / "manifest.json").write_text(json.dumps({**manifest_of(folder), "class_images": counts}))
    with pytest.raises(InputError, match=r"^manifest\.json"):
        load_distilled(folder)
