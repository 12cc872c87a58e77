"""Coresets as baselines: which images they are, for which sets and labels, and what needs something that is not there."""

import dataclasses

import numpy as np
import pytest
import torch

from distill_hub import InputError, evaluate
from distill_hub.artifact.manifest import ModelRecord
from distill_hub.coresets import select
from distill_hub.coresets.dynamics import write_dynamics
from distill_hub.coresets.names import CORESETS, DYNAMICS
from distill_hub.data.split import Split
from distill_hub.evaluation import scores
from distill_hub.evaluation.coresets import Baselines
from distill_hub.evaluation.scores import measure, trials_of
from distill_hub.running.dry_run import DryRun
from distill_hub.running.run import Run
from distill_hub.running.seeds import cpu_generator, draw_seed
from distill_hub.training.protocols import protocol
from distill_hub.training.subject import HeldOut, Subject
from distill_hub.training.train import Training, TrainingSet

RECORD = ModelRecord(id="a teacher", architecture="convnet-1", sha256="1" * 64)


class Pretender:
    """A classifier that embeds an image as its top left pixels, and is sure of nothing."""

    device = torch.device("cpu")

    def embed(self, images):
        return images[:, 0, :6, :6].flatten(1)

    def soft_labels(self, images):
        return torch.full((len(images), 10), 0.1)


@pytest.fixture(scope="module")
def few(digits):
    """200 images to choose from."""
    return dataclasses.replace(digits, train=digits.train.select(np.arange(200), "train"))


@pytest.fixture
def make_subject(few):
    """A set of the first 7 sevens and the first 3 twos."""

    def make(taught=True):
        counts = ((7, 7), (2, 3))
        rows = np.concatenate([few.train.by_class[place][:count] for place, count in counts])
        labels = torch.arange(len(counts)).repeat_interleave(torch.tensor([count for _, count in counts]))
        own = TrainingSet(few.train.pixels(rows, 16), labels)
        teacher = {"teacher": Pretender(), "teacher_record": RECORD} if taught else {}
        return Subject(own, HeldOut(few, [place for place, _ in counts]), "0" * 64, **teacher)

    return make


@pytest.fixture(scope="module")
def dynamics(few, tmp_path_factory):
    """A classifier's folder with margins that fall from row to row, and other ones."""
    folders = []
    for sign in (1, -1):
        folder = tmp_path_factory.mktemp("classifier")
        margin = sign * torch.arange(len(few.train), 0, -1).float().repeat(3, 1)
        write_dynamics(folder / DYNAMICS, {"margin": margin, "error": margin.sigmoid()}, few, "convnet-1", 16, 0)
        folders.append(str(folder))
    return folders


def drawn(run, subject, name, names, **how):
    rules = protocol(name)
    return trials_of(run, subject, rules, rules.students("auto", 16)[0], {}, Baselines(names, **how))


def rows_of(few, images):
    """Rows of the training split, in the order of the images."""
    known = {image.numpy().tobytes(): row for row, image in enumerate(few.train.pixels(None, 16))}
    return [known[image.numpy().tobytes()] for image in images]


def test_they_are_as_many_of_each_class_and_those_of_the_recipe(make_subject, few, dynamics, tmp_path):
    run, subject = Run(tmp_path / "run", {}), make_subject()
    found = drawn(run, subject, "idc-hard", ("ccs", "random", *(set(CORESETS) - {"ccs"})), dynamics=dynamics[0])
    assert set(found) == {"this set", "random real", *CORESETS} and list(found)[1:3] == ["ccs", "random real"]
    embeddings = {place: Pretender().embed(few.train.pixels(few.train.by_class[place], 16) / 255) for place in (7, 2)}
    rules = {
        "herding": select.herding,
        "kcenter": select.k_center,
        "facility-location": select.facility_location,
        "kmeans": lambda own, count: select.k_means(own, count, draw_seed(0, "kmeans", str(place))),
    }
    for name in CORESETS:
        own = found[name].make(0)
        assert own.labels.tolist() == [0] * 7 + [1] * 3 and own.soft_labels is None
        assert (found[name].make(1).images is own.images) == (name != "ccs")
        for place, images in ((7, own.images[:7]), (2, own.images[7:])):
            rows = few.train.by_class[place]
            count = len(images)
            if name in rules:
                expected = rows[rules[name](embeddings[place], count).numpy()]
            elif name == "ccs":
                margins = torch.arange(len(few.train), 0, -1)[rows]
                seeded = cpu_generator(draw_seed(0, "ccs", str(place)))
                expected = rows[select.ccs(-margins, count, seeded, cut=0.3, strata=50).numpy()]
            else:  # the last have the least margin; none is ever forgotten, and the first have the largest error
                expected = rows[:count] if name in ("forgetting", "el2n") else rows[::-1][:count]
            assert rows_of(few, images) == expected.tolist(), (name, place)
    stages = [stage["name"] for stage in run.stages]
    assert stages.count("embed for baselines") == 1 and "choose ccs, seed 1" in stages


def test_they_have_the_labels_that_random_real_images_have(make_subject, dynamics, tmp_path):
    run, alone, taught = Run(tmp_path / "run", {}), make_subject(taught=False), make_subject()
    soft = TrainingSet(alone.own.images, alone.own.labels, torch.full((10, 2), 0.5))
    found = drawn(run, dataclasses.replace(taught, own=soft), "kd", ("random", "aum"), dynamics=dynamics[0])
    assert found["aum"].settings == found["random real"].settings and found["aum"].make(0).soft_labels.shape == (10, 10)
    hard = drawn(run, dataclasses.replace(alone, own=soft), "kd", ("aum", "random"), dynamics=dynamics[0])
    assert list(hard) == ["this set", "aum, hard labels", "random real, hard labels"]
    assert hard["aum, hard labels"].settings.labels == "hard"
    with pytest.raises(InputError, match="baselines: 'kmeans' cannot be used; it is chosen by a teacher's embeddings"):
        drawn(run, alone, "idc-hard", ("kmeans",))


@pytest.fixture
def pretended(monkeypatch, tmp_path_factory):
    """Titles of students that are pretended; a cache in which no other test evaluates."""
    titles = []

    def train(student, sets, test, classes, settings, seeds, *, title, **rest):
        titles.append(title)
        return [Training(None, 0.5, 0.5, 1, (0.5, 0.5)) for _ in seeds]

    monkeypatch.setattr(scores, "train_students", train)
    monkeypatch.setenv("DISTILL_HUB_CACHE", str(tmp_path_factory.mktemp("cache")))
    return titles


def test_students_are_trained_anew_where_other_images_are_chosen_and_nowhere_else(
    make_subject, dynamics, tmp_path, pretended
):
    subject, rules = make_subject(), protocol("idc-hard")
    for folder in (*dynamics, dynamics[1]):
        run = Run(tmp_path / "run", {})
        both = drawn(run, subject, "idc-hard", ("herding", "aum"), dynamics=folder)
        record = measure(run, subject, rules, "convnet-2", [0], both, made_from={"set": "0"})
    assert pretended == ["this set, seed 0", "herding, seed 0", "aum, seed 0", "aum, seed 0"]
    assert list(record.baselines) == ["herding", "aum"]


def test_a_dry_run_embeds_a_batch_and_trains_on_none_of_it(make_subject, dynamics, tmp_path, monkeypatch):
    """Of a class that has more images than the others, too, whose indices stand for theirs."""
    decoded, decode = [], Split.image
    monkeypatch.setattr(Split, "image", lambda split, row: decoded.append(row) or decode(split, row))
    run, subject = DryRun(tmp_path / "run", {}), make_subject()
    del decoded[:]
    found = drawn(run, subject, "idc-hard", ("herding", "ccs"), dynamics=dynamics[0])
    assert all(len(found[name].make(0).images) == 10 for name in ("herding", "ccs"))
    planned = {estimate.stage: estimate.items for estimate in run.estimates}
    assert planned["embed for baselines"] == 10 and planned["choose herding"] == planned["choose ccs, seed 0"] == 2


@pytest.mark.parametrize(
    ("how", "parts"),
    [
        ({"baselines": "herdin"}, ["baselines: 'herdin'", "did you mean 'herding'"]),
        ({"baselines": "ccs,random,ccs"}, ["every baseline of several counts once"]),
        ({"baselines": "herding"}, ["baselines: 'herding'", "it is chosen by a teacher's embeddings; pass --teacher"]),
        ({"baselines": "herding", "dd_ranking": True}, ["baselines: 'herding'", "add random"]),
    ],
)
def test_what_cannot_be_had_is_refused_in_a_line(make_set, tmp_path, how, parts):
    with pytest.raises(InputError) as caught:
        evaluate(make_set(tmp_path, list(range(10))), **how)
    assert all(part in str(caught.value) for part in parts) and "\n" not in str(caught.value)


def test_a_claim_is_measured_beside_what_is_asked_for(make_set, digits, tmp_path, pretended):
    said = torch.ones(2, len(digits.train))
    write_dynamics(tmp_path / DYNAMICS, {"margin": said, "error": said.clone()}, digits, "convnet-1", 16, 0)
    how = {"baselines": "aum,random", "baseline_dynamics": str(tmp_path)}
    (pair,) = evaluate(make_set(tmp_path / "set", list(range(10))), **how)
    assert pair.claimed and list(pair.measured.baselines) == ["aum", "random real"]
