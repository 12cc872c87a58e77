"""Linear probes on the features of trained networks: against plain loops, and from the command to the record."""

import dataclasses

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

from distill_hub import InputError, evaluate
from distill_hub.artifact.describe import weights_sha256
from distill_hub.artifact.find import read_records
from distill_hub.artifact.records import EvaluationRecord
from distill_hub.classifiers import save_network
from distill_hub.config import check_settings
from distill_hub.data.known import NORMALIZATIONS
from distill_hub.evaluation.scores import refuse_pictures
from distill_hub.networks import of_timm
from distill_hub.networks.build import build
from distill_hub.networks.names import BACKBONE
from distill_hub.options.commands import EvaluateConfig
from distill_hub.running.seeds import cpu_generator, draw_seed
from distill_hub.training.frozen import Backbone, frozen, train_heads
from distill_hub.training.protocols import PROTOCOLS, protocol
from distill_hub.training.settings import Task
from distill_hub.training.train import TrainingSet, epoch_generator

CPU = torch.device("cpu")


def task(images: int, size: int = 16) -> Task:
    return Task(images, 10, size, True, NORMALIZATIONS["imagenet"], "x")


def save(folder, seed: int, classes: int = 7):
    """A network of other classes than the digits' ten."""
    torch.manual_seed(seed)
    network = build("convnet-1-w16", classes, 8)
    names, normalization = [f"c{place}" for place in range(classes)], {"mean": (0.3,) * 3, "std": (0.2,) * 3}
    save_network(network, folder, "convnet-1-w16", names, 8, **normalization)
    return network


@pytest.fixture
def pictures():
    return torch.randint(0, 256, (30, 3, 16, 16), generator=cpu_generator(1), dtype=torch.uint8)


@pytest.mark.parametrize(("images", "batch_size"), [(10, 10), (100, 100), (5000, 100)])
def test_settings(images, batch_size):
    got = frozen(task(images))
    assert (got.epochs, got.batch_size, got.weight_decay) == (1000, batch_size, 0)
    assert (got.optimizer, got.schedule) == ("adamw", "cosine")
    assert got.learning_rate == pytest.approx(0.001 * batch_size / 256) and got.frozen and got.labels == "hard"
    assert frozen(task(10, 256)).image_size == 224 and protocol("quick").settings(task(10)).frozen is False


def test_features_are_those_that_the_last_layer_sees(tmp_path, pictures):
    network = save(tmp_path / "body", 0)
    small = F.interpolate(pictures.float() / 255, (8, 8), mode="bilinear", antialias=True)
    backbone = Backbone(str(tmp_path / "body"), CPU)
    torch.testing.assert_close(backbone.features(pictures), network.features((small - 0.3) / 0.2))
    assert backbone.record.sha256 == weights_sha256(network) and backbone.record.id == "body" == backbone.student
    assert backbone.of_test(pictures) is backbone.of_test(pictures)


def test_a_network_of_timm_needs_no_classes(monkeypatch, pictures):
    def create(name, *, pretrained, pretrained_cfg_overlay, num_classes):
        assert (name, pretrained, num_classes) == ("resnet18", True, 0)
        torch.manual_seed(0)
        return made.append(real(name, num_classes=0)) or made[0]

    made, real = [], timm.create_model
    monkeypatch.setattr(timm, "is_model_pretrained", lambda name: True)
    monkeypatch.setattr(of_timm, "snapshot_download", lambda place, **_: f"/cache/{place}/snapshots/abc")
    monkeypatch.setattr(timm, "create_model", create)
    backbone = Backbone("timm/resnet18", CPU)
    assert backbone.features(pictures[:2]).shape == (2, 512)
    assert (backbone.student, backbone.record.revision, backbone.record.architecture) == ("timm/resnet18", "abc", "resnet18")
    assert backbone.record.sha256 == weights_sha256(made[0])


def test_a_head_is_trained_as_a_plain_loop_does_it(tmp_path, pictures):
    save(tmp_path / "body", 0)
    backbone, labels = Backbone(str(tmp_path / "body"), CPU), torch.arange(30) % 10
    settings = dataclasses.replace(frozen(task(30)), epochs=40, batch_size=20)
    (trained,) = train_heads(backbone, [TrainingSet(pictures, labels)], (pictures, labels), 10, settings, [3])
    torch.manual_seed(draw_seed(3, "student weights"))
    features, head = backbone.features(pictures), nn.Linear(16 * 4 * 4, 10)
    optimizer = torch.optim.Adam(head.parameters(), settings.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 40)
    for epoch in range(40):
        for rows in torch.randperm(30, generator=epoch_generator(3, epoch)).split(20):
            optimizer.zero_grad()
            F.cross_entropy(head(features[rows]), labels[rows]).backward()
            optimizer.step()
        schedule.step()
    torch.testing.assert_close(trained.model.weight, head.weight, atol=1e-6, rtol=1e-4)
    right = (head(features).argmax(1) == labels).float().mean().item()
    assert trained.last == trained.best == trained.curve[0] == pytest.approx(right)


def test_the_record_names_the_network_and_holds_for_no_other(make_set, tmp_path, monkeypatch):
    monkeypatch.setenv("DISTILL_HUB_CACHE", str(tmp_path / "cache"))
    short = {"epochs": 60, "looks": (60,), "learning_rate": 0.01}
    quicker = dataclasses.replace(protocol("frozen"), settings=lambda task: dataclasses.replace(frozen(task), **short))
    monkeypatch.setitem(PROTOCOLS, "frozen", quicker)
    folder, body, other = make_set(tmp_path / "set", list(range(10))), tmp_path / "body", tmp_path / "other" / "body"
    network = save(body, 0)
    save(other, 1)
    how = {"protocol": "frozen", "repeats": 2}
    (pair,) = evaluate(folder, students=str(body), **how)
    record = pair.measured
    assert (record.student, record.backbone.sha256, record.standard) == ("body", weights_sha256(network), False)
    assert record.settings["frozen"] and record.score.best_epoch == [60, 60] and "random real" in record.baselines
    assert record.score.mean > 0.3  # of random features of five digits each
    assert EvaluationRecord.model_validate_json(record.to_json()) == record

    for file in read_records(folder):
        (folder / file).unlink()
    (folder / "evaluations" / record.file_name).write_text(record.to_json())
    (again,) = evaluate(folder, students=str(body), **how)
    assert again.agrees and again.measured.score == record.score
    with pytest.raises(InputError, match=r"students: .*its weights hash to \w{64}, the record has"):
        evaluate(folder, students=str(other), **how)
    with pytest.raises(
        InputError, match=r"students: 'body' .*a folder of whoever measured it; pass --protocol frozen --students"
    ):
        evaluate(folder)
    (found,) = evaluate(folder, students=str(body), repeats=2)  # by the protocol on record
    assert found.agrees
    with pytest.raises(InputError, match="of the students of frozen only a last layer is trained"):
        evaluate(folder, students=str(body), **how, save_students=str(tmp_path / "students"))


def test_what_is_no_trained_network_is_refused_before_any_work():
    assert protocol("frozen").students("auto", 32) == [BACKBONE]
    check_settings(EvaluateConfig(location="org/set", protocol="frozen", students="timm/resnet18,org/network"))
    check_settings(EvaluateConfig(location="org/set", students="org/network"))  # which protocol, the set's records say
    for name in ("convnet-2", "./nothing"):
        with pytest.raises(InputError, match=f"students: '{name}' .*timm/NAME, a Hub id or a folder"):
            check_settings(EvaluateConfig(location="org/set", protocol="frozen", students=name))


def test_free_pixels_are_no_pictures():
    with pytest.raises(InputError, match=r"protocol: 'frozen' .*sees pictures"):
        refuse_pictures(protocol("frozen"))
