"""What a source is decides over flips and normalisation; what it or its classes are called does not."""

import dataclasses
import os
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from distill_hub.artifact.describe import source_record
from distill_hub.artifact.manifest import ClassRecord
from distill_hub.artifact.source import SourceRecord
from distill_hub.config import InputError
from distill_hub.data.known import KNOWN
from distill_hub.data.sources import load_source
from distill_hub.evaluation.scores import settings_of
from distill_hub.training.protocols import PROTOCOLS, protocol
from distill_hub.training.subject import HeldOut, Subject, real_source
from distill_hub.training.train import TrainingSet

CIFAR = ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))  # as IDC has them
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
NUMBERED, NAMED = ("00000", "00001"), ("cat", "dog")


@pytest.fixture
def photos(tmp_path):
    """Write two training images and a test image of each of two classes, 32 px."""

    def write(name, classes):
        for split, count in (("train", 2), ("test", 1)):
            for label, own in enumerate(classes):
                folder = tmp_path / name / split / own
                folder.mkdir(parents=True)
                for number in range(count):
                    value = 60 * label + 10 * number + (split == "test")
                    Image.fromarray(np.full((32, 32, 3), value, np.uint8)).save(folder / f"{number}.png")
        return str(tmp_path / name)

    return write


def trained(source, name):
    """How a student is trained on four images of such a source."""
    own = TrainingSet(torch.zeros(4, 3, 32, 32, dtype=torch.uint8), torch.tensor([0, 0, 1, 1]))
    rules = protocol(name).resolved(views=True)
    views = SimpleNamespace(record=SimpleNamespace(image_size=32, batch_size=4))
    own = dataclasses.replace(own, views=views if rules.labels == "views" else None)
    return settings_of(Subject(own, HeldOut(source), ""), rules, "resnet-18-bn")


def test_no_name_of_a_class_tells_whether_images_may_be_mirrored(photos, capsys):
    folder = photos("things", NUMBERED)
    assert load_source(folder).mirrored
    assert "if they are digits, pass --mirrored no" in capsys.readouterr().out
    load_source(photos("named", NAMED))
    assert "--mirrored" not in capsys.readouterr().out
    for answer in ("yes", "no"):
        source = load_source(folder, mirrored=answer)
        assert source.mirrored is (answer == "yes")
        for name in set(PROTOCOLS) - {"quick", "frozen"}:
            rules = trained(source, name).augmentation
            assert (rules.flip or "flip" in rules.dsa) is (answer == "yes")


def test_the_same_images_under_two_names_are_trained_on_alike(photos):
    one, other = (load_source(photos(name, NAMED)) for name in ("photos", "cifar10"))
    assert one.mirrored and other.mirrored and one.fingerprint == other.fingerprint
    for name in PROTOCOLS:
        assert trained(one, name) == trained(other, name)
        assert (trained(other, name).mean, trained(other, name).std) == IMAGENET


def test_a_copy_is_normalised_as_is_said(photos):
    source = load_source(photos("copy", NAMED), normalization="cifar")
    for name in ("idc-hard", "kd", "sre2l"):
        assert (trained(source, name).mean, trained(source, name).std) == CIFAR
    for name in ("quick", "rded-soft"):  # ImageNet's on every source
        assert (trained(source, name).mean, trained(source, name).std) == IMAGENET


def test_what_is_said_of_a_known_source_wins(monkeypatch):
    digits = load_source("digits")
    assert (digits.mirrored, digits.normalization) == (False, "imagenet")
    said = load_source("digits", mirrored="yes", normalization="mnist")
    assert (said.mirrored, said.normalization) == (True, "mnist")


def test_digits_alone_are_not_mirrored():
    assert {name for name, known in KNOWN.items() if not known.mirrored} == {"digits", "mnist", "svhn"}


def record(name, **fields):
    """What a manifest says of a source of two classes."""
    plain = {"train_split": "train", "test_split": "test", "image_column": "image", "label_column": "label"}
    return SourceRecord(name=name, fingerprint="0", train_images=4, test_images=2, **plain, **fields)


@pytest.mark.parametrize(
    ("fields", "options", "expected"),
    [
        ({"mirrored": True, "normalization": "svhn"}, {}, (True, "svhn")),
        ({"mirrored": False, "normalization": "cifar"}, {}, (False, "cifar")),
        ({"mirrored": False, "normalization": "cifar"}, {"mirrored": "yes", "normalization": "mnist"}, (True, "mnist")),
        ({"hub_id": "ufldl-stanford/svhn"}, {}, (False, "svhn")),  # a record of an older version: what the dataset is
        ({"hub_id": "uoft-cs/cifar10"}, {}, (True, "cifar")),
        ({"hub_id": "UofT-CS/CIFAR10"}, {}, (True, "cifar")),  # the Hub knows ids in any case
        ({}, {}, (False, "imagenet")),  # of an older version, where classes called by numbers were not mirrored
        ({}, {"mirrored": "yes"}, (True, "imagenet")),
    ],
)
def test_a_set_is_scored_as_its_record_says(photos, fields, options, expected):
    folder = photos("elsewhere", NUMBERED)
    classes = [ClassRecord(name=name, source_index=index) for index, name in enumerate(NUMBERED)]
    manifest = SimpleNamespace(source=record("things", **fields), classes=classes)
    source, _ = real_source(manifest, published=False, source=folder, **options)
    assert (source.mirrored, source.normalization) == expected


@pytest.mark.parametrize("name", ["cifar10", "digits"])
def test_a_folder_called_as_a_known_source_is_asked_for(photos, monkeypatch, name):
    folder = photos(name, NAMED)
    monkeypatch.chdir(os.path.dirname(folder))  # where the name would mean either
    classes = [ClassRecord(name=name, source_index=index) for index, name in enumerate(NAMED)]
    manifest = SimpleNamespace(source=record(name, mirrored=True), classes=classes)
    with pytest.raises(InputError, match="a folder of its author's"):
        real_source(manifest, published=False)
    assert real_source(manifest, published=False, source=folder)[1] == [0, 1]


def test_the_digits_are_no_folder():
    assert not source_record(load_source("digits")).is_folder
