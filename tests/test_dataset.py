"""Distilled sets in other people's loops: items, order and loss are those of the students of this package."""

import json
import pickle
import re
import runpy
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from processes import ROOT
from timm.data import create_dataset
from torch.utils.data import DataLoader, Subset

from distill_hub import DistilledDataset, InputError, load_distilled
from distill_hub.artifact.find import find
from distill_hub.artifact.load import read_artifact
from distill_hub.artifact.manifest import FreePixelsRecord, Manifest, ZcaRecord
from distill_hub.augmentation.augment import Augmentation
from distill_hub.data.known import NORMALIZATIONS
from distill_hub.networks.build import build
from distill_hub.training import train as engine
from distill_hub.training.settings import Settings
from distill_hub.training.train import TrainingSet
from distill_hub.views.files import open_views, write_views


def settings(labels: str, **changes) -> Settings:
    """A training that draws nothing but the order of the images."""
    fixed = {"epochs": 3, "optimizer": "sgd", "learning_rate": 0.1, "weight_decay": 0.0, "decay_all": True}
    sizes = {"batch_size": 4, "image_size": 8, "test_resize": 8, "looks": (3,), "schedule": "cosine"}
    return Settings(**{**fixed, **sizes, "augmentation": Augmentation(), "labels": labels, **changes})


def training_set(folder) -> TrainingSet:
    artifact = read_artifact(find(folder), rows=False, pixels=True)
    return TrainingSet(*map(torch.from_numpy, artifact.decoded()))


@pytest.mark.parametrize("labels", ["hard", "soft"])
def test_an_epoch_has_the_batches_and_the_gradient_of_a_student(artifact, labels):
    dataset, own, rules = DistilledDataset(artifact, labels), training_set(artifact), settings(labels)
    sampler = dataset.sampler(seed=5)
    sampler.set_epoch(2)
    theirs = list(DataLoader(dataset, batch_size=4, sampler=sampler))
    ours = list(engine._batches([own], rules, [5], epoch=2, team=None))
    assert len(theirs) == len(ours) == 2 and len(sampler) == len(dataset) == 6
    model = build("convnet-1-w16", 3, 8)
    for (images, targets), (expected, draws, _) in zip(theirs, ours, strict=True):
        assert torch.equal(images, expected)
        wanted = engine._targets(rules, [own], expected, draws, None, 3, rules.temperature)
        logits = model(images)
        assert torch.allclose(dataset.loss(logits, targets), -(wanted * logits.log_softmax(1)).sum(1).mean(), atol=1e-6)


def test_an_item_is_a_normalised_image_and_its_label(artifact, make_rows):
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    hard, soft = DistilledDataset(artifact), DistilledDataset(artifact, "soft", as_dict=True)
    for place, row in enumerate(make_rows()):
        image, label = hard[place]
        assert np.allclose(image.permute(1, 2, 0), (row["image"] / 255 - mean) / std, atol=1e-5)
        assert label == row["label"] and type(label) is int
        item = soft[place]
        assert torch.equal(item["pixel_values"], image) and np.array_equal(item["labels"], row["soft_label"])
    assert place == len(hard) - 1 and hard.classes == hard.manifest.class_names
    with pytest.raises(IndexError, match="0 to 5"):
        hard[6]


def test_images_are_normalised_as_protocols_do_it(artifact, make_set, tmp_path):
    manifest = json.loads((artifact / "manifest.json").read_text())
    manifest["source"]["normalization"] = "svhn"
    (artifact / "manifest.json").write_text(json.dumps(manifest))
    dataset = DistilledDataset(artifact)
    assert (dataset.mean, dataset.std) == NORMALIZATIONS["svhn"]

    def twos(name, zca):
        def free(image):
            return np.full((3, 16, 16), 2, np.float16)

        return make_set(tmp_path / name, list(range(10)), free=free, free_pixels=FreePixelsRecord(zca=zca))

    expected = (2 - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225])
    assert np.allclose(DistilledDataset(twos("free", None))[3][0][:, 0, 0], expected)
    white = twos("white", ZcaRecord(eps=0.1, images=1, sha256="0" * 64))
    assert torch.equal(DistilledDataset(white)[3][0], torch.full((3, 16, 16), 2.0))
    assert DistilledDataset(white, transform=torch.sum)[3] == (2 * 3 * 16 * 16, 0)


def test_tiles_are_images_of_their_own(make_set, tmp_path):
    folder = make_set(tmp_path / "tiled", list(range(10)), tiles=2)
    dataset = DistilledDataset(folder, "soft", transform=np.asarray)
    seen, _, soft = load_distilled(folder).decoded()
    images, labels = zip(*dataset, strict=True)
    assert np.array_equal(np.stack(images).transpose(0, 3, 1, 2), seen) and np.array_equal(torch.stack(labels), soft)


@pytest.mark.parametrize("labels", ["hard", "soft", "views"])
def test_a_subset_may_be_numbered_by_a_tensor(with_views, labels):
    dataset, places = DistilledDataset(with_views, labels), [4, 1, 5]
    for chosen in (torch.tensor(places), np.array(places)):
        images, targets = zip(*Subset(dataset, chosen).__getitems__([0, 1, 2]), strict=True)
        wanted, labelled = zip(*dataset.__getitems__(places), strict=True)
        assert torch.equal(torch.stack(images), torch.stack(wanted))
        assert torch.equal(*(torch.stack(list(map(torch.as_tensor, own))) for own in (targets, labelled)))


def test_a_transform_sees_the_picture(artifact, make_rows):
    shown = []
    dataset = DistilledDataset(artifact, transform=lambda image: shown.append(image) or len(shown))
    assert dataset.__getitems__([4, 1]) == [(1, 2), (2, 0)]
    rows = list(make_rows())
    assert all(isinstance(image, Image.Image) for image in shown)
    assert np.array_equal(shown[0], rows[4]["image"]) and np.array_equal(shown[1], rows[1]["image"])


@pytest.mark.parametrize("labels", ["soft", "views"])
def test_workers_and_other_processes_have_the_same_items(with_views, labels):
    dataset = DistilledDataset(with_views, labels)
    copy = pickle.loads(pickle.dumps(dataset))
    (alone, *_), (helped, *_) = (list(DataLoader(own, 6, num_workers=n)) for own, n in ((dataset, 0), (copy, 1)))
    assert all(map(torch.equal, alone, helped))


def test_what_trainer_counts_makes_one_mean_of_several_batches(artifact):
    """Of each batch Trainer adds up the losses; they are divided by the number of labels in all of them."""
    generator = torch.Generator().manual_seed(0)
    logits, soft = torch.randn(7, 3, generator=generator), torch.rand(7, 3, generator=generator).softmax(1)
    for labels, targets in {"hard": soft.argmax(1), "soft": soft}.items():
        dataset = DistilledDataset(artifact, labels)
        counted = targets.numel()  # as Trainer does
        parts = [dataset.loss(SimpleNamespace(logits=logits[p]), targets[p], counted) for p in (slice(4), slice(4, 7))]
        assert torch.allclose(sum(parts), dataset.loss(logits, targets)) and parts[0] != parts[1]


def test_refusals_say_what_would_do(artifact):
    with pytest.raises(InputError, match=r"'kl'.*hard, soft or views"):
        DistilledDataset(artifact, "kl")
    with pytest.raises(InputError, match=r"temperature: 0 .*above 0"):
        DistilledDataset(artifact, temperature=0)
    with pytest.raises(InputError, match="no stored views"):
        DistilledDataset(artifact, "views")


def test_replayed_views_are_those_of_a_student_under_fkd(with_views):
    dataset, rules = DistilledDataset(with_views, "views"), settings("views", image_size=16, temperature=20.0)
    own = TrainingSet(
        dataset.images, torch.zeros(6, dtype=torch.int64), views=open_views(find(with_views), dataset.manifest)
    )
    sampler, model = dataset.sampler(), build("convnet-1-w16", 3, 16)
    loader = DataLoader(dataset, batch_size=dataset.manifest.views.batch_size, sampler=sampler)
    for epoch in (2, 0):
        sampler.set_epoch(epoch)
        ours = list(engine._batches([own], rules, [0], epoch, team=None))
        for (images, logits), (expected, draws, _) in zip(loader, ours, strict=True):
            assert torch.equal(images, expected)
            wanted = engine._targets(rules, [own], expected, draws, None, 3, rules.temperature)
            student = (model(images) / 20).log_softmax(1)
            assert torch.allclose(
                dataset.loss(model(images), logits), (wanted * (wanted.log() - student)).sum() / len(images)
            )
    assert len(dataset) == 18 and len(sampler) == 6
    sampler.set_epoch(3)
    with pytest.raises(InputError, match="epochs 0 to 2"):
        next(iter(sampler))


def test_a_stored_view_needs_no_other_item(with_views):
    dataset = DistilledDataset(with_views, "views")
    whole = [item for start in range(0, 18, 6) for item in dataset.__getitems__(range(start, start + 6))]
    generator = torch.Generator().manual_seed(1)
    for items in (torch.randperm(18, generator=generator).tolist(), [7, 7, 0], [17]):
        for (image, logits), item in zip(dataset.__getitems__(items), items, strict=True):
            assert torch.allclose(image, whole[item][0], atol=1e-6) and torch.equal(logits, whole[item][1])


def test_pruned_views_with_the_largest_logits(artifact, make_views, facts):
    pruned = facts.model_copy(update={"label_share": 0.67, "top_k": 2, "epochs": 4})
    stored = [batch for batch in make_views(epochs=4) if len(batch["logits"]) == 4][:2]
    for batch in stored:
        classes = np.argsort(-batch["logits"], 1)[:, :2].astype(np.uint16)
        batch |= {"logits": np.take_along_axis(batch["logits"], classes, 1), "class_index": classes}
    write_views(artifact, Manifest.read(artifact / "manifest.json"), stored, pruned)
    dataset = DistilledDataset(artifact, "views")
    sampler, drawn = dataset.sampler(seed=3), set()
    for epoch in range(20):
        sampler.set_epoch(epoch)
        items = list(sampler)
        assert items in ([0, 1, 2, 3], [4, 5, 6, 7]) and len(sampler) == 4
        drawn.add(items[0])
    assert drawn == {0, 4} and len(dataset) == 8
    _, logits = dataset[5]
    expected = torch.full((3,), -torch.inf)
    expected[stored[1]["class_index"][1]] = torch.from_numpy(stored[1]["logits"][1].astype(np.float16)).float()
    assert torch.equal(logits, expected)
    # The labels are softmax of the two at T, and 0 elsewhere (MR-k of LPQLD).
    kept = np.exp(expected.double().numpy() / 20)
    target = kept / kept.sum()
    student = torch.randn(1, 3, generator=torch.Generator().manual_seed(0))
    log_student = (student / 20).double().log_softmax(1)[0].numpy()
    loss = sum(p * (np.log(p) - q) for p, q in zip(target, log_student, strict=True) if p)
    assert np.isclose(dataset.loss(student, logits[None]).item(), loss, atol=1e-7)


def test_views_are_finished(with_views):
    with pytest.raises(InputError, match="finished images"):
        DistilledDataset(with_views, "views", transform=np.asarray)
    dataset = DistilledDataset(with_views, "views")
    dataset.transform = np.asarray  # as timm's loader does
    with pytest.raises(InputError, match="finished images"):
        dataset[0]


def example(name, *words):
    """Run an example as a user types it, in this process; return its names."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [name, *map(str, words)])
        return runpy.run_path(str(ROOT / "recipes" / "examples" / f"{name}.py"), run_name="__main__")


@pytest.mark.parametrize(("name", "labels"), [("plain_loop", "views"), ("timm_loop", "soft"), ("timm_loop", "views")])
def test_loops_learn_the_labels(with_views, capsys, name, labels):
    example(name, with_views, "--labels", labels, "--epochs", "2")
    losses = [float(line.rsplit(" ", 1)[1]) for line in capsys.readouterr().out.splitlines() if "loss" in line]
    assert len(losses) == 2 and np.isfinite(losses).all()


def test_the_guide_has_a_loop_that_trains(with_views):
    guide = (ROOT / "recipes" / "RUNNING.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", guide, re.DOTALL)
    (code,) = [block for block in blocks if "DistilledDataset" in block]
    names = {}
    exec(code.replace("outputs/digits-ipc10-cao2", str(with_views)), names)
    assert {int(state["step"]) for state in names["optimizer"].state.values()} == {3 * 2}


def test_trainer_replays_the_epochs_in_order(with_views, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(DistilledDataset, "loss", watched(DistilledDataset.loss, seen))
    example("trainer", with_views, "--epochs", "3", "--output_dir", tmp_path / "student")
    dataset = DistilledDataset(with_views, "views")
    assert torch.equal(torch.cat(seen), torch.stack([logits for _, logits in dataset]))
    names = json.loads((tmp_path / "student" / "config.json").read_text())["id2label"]
    assert list(names.values()) == dataset.classes


def watched(loss, seen):
    def watching(self, outputs, labels, num_items_in_batch=None):
        seen.append(labels)
        return loss(self, outputs, labels, num_items_in_batch)

    return watching


def test_timm_reads_the_images_and_classes_of_a_folder(artifact):
    theirs, ours = create_dataset(f"hfds/{artifact}", split="train"), DistilledDataset(artifact, transform=np.asarray)
    for (image, label), (expected, own) in zip(theirs, ours, strict=True):
        assert np.array_equal(image, expected) and label == own
