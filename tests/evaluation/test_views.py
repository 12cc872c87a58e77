"""Stored views: drawn and labelled once, they take the teacher's place, and give the same student every time."""

import dataclasses
import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datasets import load_dataset
from torchvision.transforms import functional as tv

from distill_hub import InputError, evaluate
from distill_hub.artifact.find import find
from distill_hub.artifact.load import read_artifact
from distill_hub.artifact.manifest import Manifest, ModelRecord
from distill_hub.classifiers import Classifier, load_classifier, save_network
from distill_hub.cli import main
from distill_hub.data.known import NORMALIZATIONS
from distill_hub.evaluation import jobs, reevaluate, scores, views
from distill_hub.evaluation.views import draw_views, epochs_of_views, store_views
from distill_hub.networks.build import build
from distill_hub.options.shared import ViewsOptions
from distill_hub.running.run import Run
from distill_hub.training.protocols import protocol
from distill_hub.training.settings import Task
from distill_hub.training.train import Training, TrainingSet, train_students
from distill_hub.views.files import open_views

RECORD = ModelRecord(id="a teacher", architecture="convnet-1", sha256="1" * 64)
EPOCHS = 6


@pytest.fixture
def folder(make_set, tmp_path):
    return make_set(tmp_path / "set", list(range(10)))


@pytest.fixture
def teacher(digits):
    torch.manual_seed(1)
    network = build("convnet-1", 10, 16)
    return Classifier(network, id="a teacher", architecture="convnet-1", classes=digits.classes,
                      class_names=digits.class_names, image_size=16)  # fmt: skip


def stored(folder, teacher, state, *, seed=3, batch_size=20, epochs=EPOCHS, **kept):
    """Draw and store views of a set; return them as they are read back, and the set."""
    artifact = read_artifact(find(folder), pixels=True)
    run, images = Run(state, {}), torch.from_numpy(artifact.pixels)
    how = {"epochs": epochs, "mirrored": True, "seed": seed, "batch_size": batch_size, **kept}
    drawn = draw_views(run, images, teacher, RECORD, **how)
    manifest = store_views(folder, Manifest.read(folder / "manifest.json"), *drawn)
    return open_views(find(folder), manifest), artifact


def test_every_view_is_what_its_row_says(folder, teacher, tmp_path):
    found, artifact = stored(folder, teacher, tmp_path / "state")
    assert (found.record.epochs, found.record.batch_size, found.record.image_size) == (EPOCHS, 20, 16)
    assert found.record.teacher == RECORD and found.record.seed == 3
    batches = [found.batch(index) for index in range(found.count)]
    assert [len(batch["image_index"]) for batch in batches] == [20, 20, 10] * EPOCHS
    checked = mixed = 0
    for batch in batches[:4]:
        single = {}
        for row, image in enumerate(batch["image_index"]):
            top, left, height, width = (round(16 * float(value)) for value in batch["crop"][row])
            whole = torch.from_numpy(artifact.pixels[image]).float() / 255
            view = tv.resized_crop(whole, top, left, height, width, [16, 16], antialias=False)
            single[int(image)] = tv.hflip(view) if batch["flip"][row] else view
        for row, image in enumerate(batch["image_index"]):
            view = single[int(image)].clone()
            top, left, bottom, right = batch["box"][row]
            view[:, top:bottom, left:right] = single[int(batch["partner_index"][row])][:, top:bottom, left:right]
            with torch.no_grad():
                logits = teacher.logits(view[None])[0].numpy()
            assert np.abs(logits - batch["logits"][row].astype(np.float32)).max() < 2e-3 * max(1, np.abs(logits).max())
            checked, mixed = checked + 1, mixed + (batch["share"][row] < 1)
    assert checked == 70 and mixed > 30


def test_views_of_a_large_set_are_crops_of_its_images_as_they_are_stored(teacher, tmp_path, monkeypatch):
    images = torch.randint(0, 256, (3, 3, 256, 256), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    shown = []
    monkeypatch.setattr(teacher, "logits", lambda images: shown.append(images) or torch.zeros(len(images), 10))
    stage, facts = draw_views(Run(tmp_path, {}), images, teacher, RECORD, epochs=1, mirrored=False, seed=0)
    rows = {key: tensor[0] for key, tensor in stage.rows(0, 1).items()}
    assert facts.image_size == 224
    single = []
    for image, crop in zip(rows["order"], rows["crop"], strict=True):
        top, left, height, width = (round(256 * share) for share in crop.tolist())
        single.append(tv.resized_crop(images[image] / 255, top, left, height, width, [224, 224], antialias=True))
    for view, own, partner, box in zip(shown[0], single, rows["partner"], rows["box"], strict=True):
        top, left, bottom, right = box
        expected = own.clone()
        expected[:, top:bottom, left:right] = single[partner][:, top:bottom, left:right]
        assert (view - expected).abs().max() < 1e-3


def short(name: str, found, **changes):
    task = Task(50, 10, 65, True, NORMALIZATIONS["imagenet"], "convnet-2-bn", views_batch_size=found.record.batch_size)
    whole = protocol(name).settings(task)
    return dataclasses.replace(whole, epochs=EPOCHS, looks=(EPOCHS,), image_size=16, batch_size=20, **changes)


def weights(model):
    return torch.cat([tensor.detach().flatten().double() for tensor in model.state_dict().values()])


def test_replay_is_exact_and_agrees_with_the_teacher_online(folder, teacher, digits, tmp_path):
    found, artifact = stored(folder, teacher, tmp_path / "state", seed=5)
    data = TrainingSet(torch.from_numpy(artifact.pixels), torch.from_numpy(artifact.labels), views=found)
    test = (digits.test.pixels(range(100), 16), torch.from_numpy(digits.test.labels[:100]))
    rate = {"learning_rate": 1e-4}

    def train(name, own, teacher=None):
        (training,) = train_students("convnet-2-bn", [own], test, 10, short(name, found, **rate), [5], teacher=teacher)
        return training.model

    first, second = train("fkd", data), train("fkd", data)  # no teacher anywhere
    assert torch.equal(weights(first), weights(second))
    # A student of the seed that the views have sees the same views under sre2l; the teacher's logits are then not rounded.
    online = train("sre2l", TrainingSet(data.images, data.labels), teacher)
    seen = (test[0] / 255 - 0.45) / 0.22
    difference = (first(seen) - online(seen)).abs().max()
    untrained = build("convnet-2-bn", 10, 16)
    assert difference < 5e-3 < 0.1 < (untrained(seen) - online(seen)).abs().max()
    other = train_students(
        "convnet-2-bn",
        [TrainingSet(data.images, data.labels)],
        test,
        10,
        short("sre2l", found, **rate),
        [6],
        teacher=teacher,
    )
    assert (first(seen) - other[0].model(seen)).abs().max() > 20 * difference  # another seed's views are others


def test_an_interrupted_relabelling_goes_on_to_the_same_views(folder, teacher, tmp_path, monkeypatch):
    monkeypatch.setattr(views, "CHUNK_ROWS", 100)  # two epochs a chunk
    whole, _ = stored(folder, teacher, tmp_path / "one")
    calls, logits = [], teacher.logits

    def tired(images):
        calls.append(len(images))
        if len(calls) == 8:
            raise KeyboardInterrupt
        return logits(images)

    monkeypatch.setattr(teacher, "logits", tired)
    with pytest.raises(KeyboardInterrupt):
        stored(folder, teacher, tmp_path / "two")
    assert Manifest.read(folder / "manifest.json").views == whole.record  # nothing half-written
    again, _ = stored(folder, teacher, tmp_path / "two")
    assert again.record == whole.record
    assert len(calls) == 8 + (EPOCHS - 2) * 3  # the first chunk, of two epochs with three batches, was kept


def test_views_of_a_small_set_are_made_unasked():
    quick = protocol("quick")
    assert epochs_of_views(ViewsOptions(), quick, 100, 10, 224) == 300  # 0.6 MB of logits
    assert epochs_of_views(ViewsOptions(), quick, 1000, 100, 224) == 300  # 60 MB
    assert epochs_of_views(ViewsOptions(), quick, 10_000, 1000, 224) == 0  # 6 GB
    for asked in ({"label_share": 0.025}, {"top_k": 50}):
        assert epochs_of_views(ViewsOptions(**asked), quick, 10_000, 1000, 224) == 300
        assert epochs_of_views(ViewsOptions(view_epochs=0, **asked), quick, 10_000, 1000, 224) == 0


def test_lpld_needs_all_views_or_none():
    lpld = protocol("lpld")
    assert epochs_of_views(ViewsOptions(), lpld, 10_000, 1000, 224) == 0  # a teacher says its labels
    assert epochs_of_views(ViewsOptions(label_share=0.1), lpld, 10_000, 1000, 224) == 300
    with pytest.raises(InputError, match=r"^view_epochs: 5 cannot be used; lpld trains for 300 epochs"):
        epochs_of_views(ViewsOptions(view_epochs=5), lpld, 100, 10, 224)
    for name in ("lpld", "lpqld"):  # on Tiny-ImageNet
        assert epochs_of_views(ViewsOptions(view_epochs=100), protocol(name), 100, 10, 64) == 100
        with pytest.raises(InputError, match=f"{name} trains for 100 epochs: pass --view_epochs 100$"):
            epochs_of_views(ViewsOptions(view_epochs=99), protocol(name), 100, 10, 64)
        stored = SimpleNamespace(record=SimpleNamespace(epochs=100, image_size=64))
        rules = protocol(name).resolved(views=True)
        assert scores.refuse_missing(rules, stored, has_teacher=False, has_soft_labels=False) is None


def test_as_many_views_as_asked_for_unless_students_need_more():
    assert epochs_of_views(ViewsOptions(view_epochs=7), protocol("sre2l"), 10_000, 1000, 224) == 7
    assert epochs_of_views(ViewsOptions(view_epochs=300), protocol("fkd"), 10_000, 1000, 224) == 300
    for asked, classes in ((299, 10), (0, 10), (None, 1000)):
        said = "needed" if asked is None else f"{asked} cannot be used"
        with pytest.raises(InputError, match=f"^view_epochs: {said}; fkd trains for 300 epochs: pass --view_epochs 300$"):
            epochs_of_views(ViewsOptions(view_epochs=asked), protocol("fkd"), 10 * classes, classes, 224)


def saved_teacher(folder, digits):
    """A teacher that knows its digits, in a folder."""
    data = TrainingSet(digits.train.pixels(None, 16), torch.from_numpy(digits.train.labels))
    rules = protocol("quick").settings(Task(len(data.images), 10, 16, False, NORMALIZATIONS["imagenet"], "convnet-1"))
    (fitted,) = train_students("convnet-1", [data], None, 10, dataclasses.replace(rules, epochs=3, looks=()), [0])
    save_network(fitted.model, folder, "convnet-1", digits.class_names, 16)


def command(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["distill-hub", *map(str, words)])
    main()


def test_the_command_then_fkd_without_the_teacher(folder, digits, tmp_path, monkeypatch, capsys):
    saved_teacher(tmp_path / "teacher", digits)
    command(monkeypatch, "relabel", folder, "--teacher", tmp_path / "teacher", "--epochs", "2", "--top_k", "3")
    printed = capsys.readouterr().out
    assert "students of lpqld need --epochs 300" in printed and "Next" not in printed
    command(monkeypatch, "relabel", folder, "--teacher", tmp_path / "teacher", "--epochs", "300")
    printed = capsys.readouterr().out
    assert "300 epochs of 50 images with 10 logits each will take about" in printed
    assert printed.index("will take about") < printed.index("The views are in")
    assert "views" in (folder / "README.md").read_text()
    rows = load_dataset(str(folder), "views", split="train", cache_dir=str(tmp_path / "cache"))
    assert len(rows) == 15_000 and rows.features["logits"].length == 10
    (tmp_path / "teacher" / "model.safetensors").unlink()

    def refuse(*_, **__):
        raise AssertionError("a teacher was asked for")

    monkeypatch.setattr(reevaluate, "open_known_teacher", refuse)
    how = {"protocol": "fkd", "students": "convnet-1-w16-bn", "repeats": 1}
    first, second = (evaluate(folder, **how)[0].measured for _ in range(2))
    assert first.score == second.score and first.score.mean > 0.3
    assert first.views_sha256 == Manifest.read(folder / "manifest.json").views.sha256
    assert first.teacher is None and first.baselines == {}  # random real images have no stored views
    assert first.settings["labels"] == "views" and first.settings["epochs"] == 300
    capsys.readouterr()
    command(monkeypatch, "evaluate", folder, "--dry_run", "--protocol", "fkd", "--students", "convnet-1-w16-bn")
    assert "evaluate convnet-1-w16-bn" in capsys.readouterr().out


def test_students_learn_the_largest_logits_of_pruned_views(folder, digits, tmp_path):
    saved_teacher(tmp_path / "teacher", digits)
    teacher = load_classifier(str(tmp_path / "teacher"), digits.classes)
    kept = {"label_share": 0.2, "top_k": 3}
    found, _ = stored(folder, teacher, tmp_path / "state", batch_size=50, epochs=300, **kept)
    assert found.count == 60 and found.batch(0)["logits"].shape == (50, 3)
    (pair,) = evaluate(folder, protocol="lpqld", students="convnet-1-w16-bn", repeats=1)
    record = pair.measured
    assert record.score.mean > 0.3 and record.views_sha256 == found.record.sha256
    assert record.settings["temperature_steps"] == [30, 0.7, 2.0] and record.settings["epochs"] == 300
    (shard,) = (folder / "views").iterdir()
    assert record.bytes.labels == shard.stat().st_size and record.percent_per_mb > 0


def test_lpld_learns_stored_views_where_there_are_any(folder, teacher, tmp_path, monkeypatch):
    seen = []

    def train(student, sets, *_, **__):
        seen.append(sets[0].views and sets[0].views.record.label_share)
        return [Training(None, 0.5, 0.5, 1, (0.5,))]

    monkeypatch.setattr(scores, "train_students", train)
    monkeypatch.setenv("DISTILL_HUB_CACHE", str(tmp_path / "cache"))
    how = {"protocol": "lpld", "students": "convnet-1-bn", "repeats": 1}
    with pytest.raises(InputError, match="pass --teacher"):
        evaluate(folder, **how)
    stored(folder, teacher, tmp_path / "state")
    with pytest.raises(InputError, match=r"6 epochs.*lpld trains for 300 epochs"):
        evaluate(folder, **how)
    stored(folder, teacher, tmp_path / "state", epochs=300, batch_size=50, label_share=0.01)
    (pair,) = evaluate(folder, **how)
    assert seen == [0.01] and pair.measured.settings["labels"] == "views" and pair.measured.views_sha256
    # What an author claims is measured as it was, whatever the set holds now.
    claims = [pair.measured, pair.measured.model_copy(update={"views_sha256": None, "teacher": RECORD})]
    held = claims[0].views_sha256
    recorded = jobs.jobs_of("x", claims, 16, 10, held, jobs.Request())
    assert [job.rules.labels for job in recorded] == ["views", "teacher"] and [job.claim for job in recorded] == claims
    for own, claim in ((held, claims[0]), (None, claims[1])):
        (job,) = jobs.jobs_of("x", claims, 16, 10, own, jobs.Request(**how))
        assert job.claim is claim
    # Of views that were replaced nothing is claimed.
    recorded = jobs.jobs_of("x", claims, 16, 10, "0" * 64, jobs.Request())
    assert [job.rules.labels for job in recorded] == ["views", "teacher"]
    assert [job.claim for job in recorded] == [None, claims[1]]
    with pytest.raises(InputError, match=r"claims nothing of the views that it holds now"):
        jobs.jobs_of("x", claims[:1], 16, 10, "0" * 64, jobs.Request(check=True))


def one_line(error) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


def test_what_a_set_lacks_is_refused_before_anything_is_trained(folder, teacher, tmp_path, monkeypatch):
    monkeypatch.setattr(scores, "train_students", None)
    with pytest.raises(InputError, match="the set holds no stored views") as caught:
        evaluate(folder, protocol="fkd")
    assert caught.value.field == "protocol" and "distill-hub relabel" in one_line(caught)
    with pytest.raises(InputError, match="pass --teacher") as caught:
        evaluate(folder, protocol="rded-soft")
    assert caught.value.field == "teacher"
    with pytest.raises(InputError, match=r"timm/NAME, a Hub id or a folder") as caught:
        evaluate(folder, protocol="rded-soft", teacher="timm/resnet1888")
    assert caught.value.field == "teacher" and one_line(caught)
    stored(folder, teacher, tmp_path / "state")
    with pytest.raises(InputError, match=r"6 epochs.*fkd trains for 300 epochs") as caught:
        evaluate(folder, protocol="fkd")
    assert caught.value.field == "views" and one_line(caught)


def test_views_that_were_tampered_with_are_not_replayed(folder, teacher, tmp_path):
    stored(folder, teacher, tmp_path / "state")
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["views"]["sha256"] = "0" * 64
    path.write_text(json.dumps(manifest))
    with pytest.raises(InputError, match="they were altered"):
        evaluate(folder, protocol="fkd")
