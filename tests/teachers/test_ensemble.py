"""Several teachers that label together: how their logits are combined, what is on record, and what needs a single one."""

import dataclasses
import hashlib

import numpy as np
import pytest
import torch
from helpers import RECIPES
from small_net import make_teacher

from distill_hub.artifact.manifest import ModelRecord
from distill_hub.classifiers import save_network
from distill_hub.config import InputError, check_settings
from distill_hub.networks.build import build
from distill_hub.networks.names import split_teachers
from distill_hub.options.commands import EvaluateConfig
from distill_hub.running.run import Run
from distill_hub.teachers.ensemble import Ensemble, combine, members_of, teacher_classes
from distill_hub.teachers.open import open_known_teacher, open_teacher
from distill_hub.training.subject import HeldOut


def test_logits_are_averaged_and_for_norm_as_loud_as_each_other():
    logits = np.random.default_rng(0).normal(0, (1, 5, 0.2), (7, 4, 3)).transpose(2, 0, 1)  # (M, B, C)
    found = {rule: combine(torch.from_numpy(logits), rule).numpy() for rule in ("mean", "norm")}
    for image in range(7):
        norms = [sum(value**2 for value in logits[net, image]) ** 0.5 for net in range(3)]
        for label in range(4):
            own = [logits[net, image, label] for net in range(3)]
            scaled = [value / norm * sum(norms) / 3 for value, norm in zip(own, norms, strict=True)]
            assert found["mean"][image, label] == pytest.approx(sum(own) / 3, rel=1e-12)
            assert found["norm"][image, label] == pytest.approx(sum(scaled) / 3, rel=1e-12)
    assert not combine(torch.zeros(2, 1, 3), "norm").any()  # of nothing there is no direction
    assert combine(torch.ones(2, 1, 3).half(), "mean").dtype is torch.float32


@pytest.fixture
def two(digits):
    """Two networks that see images at sizes of their own."""
    one, other = make_teacher(digits.classes), make_teacher(digits.classes)
    other.model[8].weight.data = other.model[8].weight.data.flip(0)
    other.image_size = other.resize = 12
    return one, other


def test_an_ensemble_answers_as_a_classifier_but_for_what_one_network_alone_has(digits, two):
    ensemble = Ensemble(two, "mean")
    images = torch.randint(256, (5, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    wanted = (two[0].judge(images) + two[1].judge(images)) / 2
    torch.testing.assert_close(ensemble.judge(images, batch_size=2), wanted)
    torch.testing.assert_close(ensemble.soft_labels(images), wanted.softmax(1))
    assert ensemble.predict(images).tolist() == wanted.argmax(1).tolist()
    assert (ensemble.image_size, len(ensemble.columns), members_of(ensemble), members_of(two[0])) == (16, 10, two, two[:1])
    for ask in (ensemble, ensemble.outputs, ensemble.embed):
        with pytest.raises(InputError, match=r"^teacher: .*small,small.* features of one network are asked for: name one"):
            ask(images / 255)


def test_classes_have_an_index_where_all_members_agree_in_theirs(digits, two):
    assert teacher_classes(Ensemble(two, "norm")) == teacher_classes(two[0]) == list(range(10))
    two[1].columns = [1, 0, *range(2, 10)]
    assert teacher_classes(Ensemble(two, "norm")) == [None] * 10


def test_teachers_named_by_commas_are_measured_recorded_and_opened_again(tmp_path, digits, monkeypatch):
    for name, width in (("one", 8), ("two", 16)):
        torch.manual_seed(width)
        network = f"convnet-1-w{width}-bn"
        save_network(build(network, 10, 16), tmp_path / name, network, [str(digit) for digit in range(10)], 16)
    monkeypatch.setattr("distill_hub.teachers.open.refuse_chance", lambda _, id, *rest: len(id) / 1000)
    monkeypatch.chdir(tmp_path)
    run, test = Run(tmp_path / "set", {}), HeldOut(digits)
    how = {"teacher_revision": None, "teacher_epochs": None, "seed": 0}
    teacher, record = open_teacher(run, test, 16, teacher="one, two", combination="norm", **how)
    assert [member.architecture for member in teacher.members] == ["convnet-1-w8-bn", "convnet-1-w16-bn"]
    alone = [open_teacher(run, test, 16, teacher=name, **how)[1] for name in ("one", "two")]
    assert (record.members, record.combination, record.id, record.test_accuracy) == (alone, "norm", "one,two", 0.007)
    said = f"norm\n{alone[0].sha256}\n{alone[1].sha256}"
    assert record.sha256 == hashlib.sha256(said.encode()).hexdigest() not in [member.sha256 for member in alone]
    again = {"teacher": None, "teacher_revision": None, "config": {}}
    opened, found = open_known_teacher(run, test, 16, record=record, **again)
    assert found == record and opened.combination == "norm"
    images = test.images(16)[:4]
    assert torch.equal(opened.judge(images), teacher.judge(images))
    changed = alone[1].model_copy(update={"sha256": "0" * 64})
    with pytest.raises(InputError, match=r"^teacher: .*two.* its weights hash to"):
        open_known_teacher(run, test, 16, record=record.model_copy(update={"members": [alone[0], changed]}), **again)


def test_auto_fits_several_where_a_method_has_several(tmp_path, digits, monkeypatch):
    source = dataclasses.replace(digits, train=digits.train.select(np.arange(60), "train"))
    monkeypatch.setattr("distill_hub.teachers.open.refuse_chance", lambda *_: 0.5)
    how = {"teacher": "auto", "teacher_revision": None, "teacher_epochs": 1, "seed": 0}
    networks = ("convnet-1-w8-bn", "convnet-1-w16-bn")
    run, test = Run(tmp_path / "set", {}), HeldOut(source)
    _, record = open_teacher(run, test, 16, networks=networks, **how)
    assert [member.architecture for member in record.members] == list(networks)
    assert {member.id for member in record.members} == {"fitted on digits"} and record.combination == "mean"
    assert [stage["name"] for stage in run.stages] == [f"fit teacher {network}" for network in networks]
    assert record.cost.seconds == pytest.approx(sum(member.cost.seconds for member in record.members))
    again = {"teacher": None, "teacher_revision": None, "config": {"teacher_epochs": 1}}
    assert open_known_teacher(run, test, 16, record=record, **again)[1] == record


def test_a_record_says_of_members_only_where_there_are_some(full):
    one = full["teacher"]
    assert "members" not in one.model_dump(mode="json") and "combination" not in one.model_dump(mode="json")
    several = {**dict(one), "members": [one, one], "combination": "norm"}
    record = ModelRecord(**several)
    assert ModelRecord.model_validate_json(record.to_json()) == record
    for wrong in ({"combination": None}, {"members": [one]}, {"members": None}, {"members": [one, record]}):
        with pytest.raises(ValueError, match=r"members|at least 2"):
            ModelRecord(**{**several, **wrong})


def test_methods_that_look_into_a_network_refuse_several_before_any_work(tmp_path):
    """Those that ask for logits alone, or for the statistics of several, take them."""

    def takes(config):
        try:
            check_settings(config)
        except InputError as error:
            assert error.field == "teacher" and error.valid.endswith(": name one teacher")
        else:
            return True

    taught = {name: config for name, config in RECIPES.items() if "teacher" in config.__dataclass_fields__}
    recipes = {name: config for name, config in taught.items() if config.__dataclass_fields__["teacher"].default is not None}
    several = {name for name, config in recipes.items() if takes(config(teacher="timm/one,timm/two"))}
    assert several == {"coreset", "dc", "dm", "edc", "gvbsm", "idc", "mtt", "random_real", "rded"}
    measured = EvaluateConfig(location=str(tmp_path), teacher="timm/one,timm/two")
    assert takes(measured) and not takes(dataclasses.replace(measured, mmd=True))


def test_every_teacher_has_a_revision_of_its_own_or_none_has():
    assert split_teachers("auto") == [("auto", None)]
    assert split_teachers("org/a, b", "main,") == [("org/a", "main"), ("b", None)]
    for names, revisions in (("a,b", "main"), ("a", "main,v1"), ("a, a", None)):
        with pytest.raises(InputError, match=r"^teacher"):
            split_teachers(names, revisions)
    for names in ("a,", ",", "a,,b"):
        with pytest.raises(InputError, match=r"^teacher: .* a name is missing"):
            split_teachers(names)


def test_a_folder_by_another_path_is_the_same_teacher(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    for same in (f"{tmp_path}/a/", f"{tmp_path}/b/../a"):
        with pytest.raises(InputError, match=r"^teacher: .* counts once"):
            split_teachers(f"{tmp_path}/a,{same}")
    assert len(split_teachers(f"{tmp_path}/a,{tmp_path}/b,nowhere/a")) == 3
