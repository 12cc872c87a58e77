"""What is trained for a score, how it is kept, and what is said of it. The students are pretended."""

import dataclasses
import functools
import io
import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from distill_hub import InputError, evaluate
from distill_hub.artifact.manifest import Manifest, MethodRecord, ModelRecord
from distill_hub.artifact.records import REAL, EvaluationRecord
from distill_hub.augmentation.augment import Augmentation
from distill_hub.data.split import Split
from distill_hub.evaluation import ranking, scores
from distill_hub.evaluation.metrics import mmd
from distill_hub.evaluation.scores import measure, score_table, settings_of, trials_of
from distill_hub.running.dry_run import DryRun
from distill_hub.running.run import Run
from distill_hub.training import subject as subject_module
from distill_hub.training.protocols import protocol
from distill_hub.training.settings import learning_rate
from distill_hub.training.subject import HeldOut, Subject
from distill_hub.training.train import Training, TrainingSet

RECORD = ModelRecord(id="a teacher", architecture="convnet-1", sha256="1" * 64)


VIEWS = SimpleNamespace(record=SimpleNamespace(image_size=16, batch_size=30, epochs=300, sha256="3" * 64))


class Pretender:
    """A classifier whose probabilities and embeddings are known."""

    device = torch.device("cpu")

    def soft_labels(self, images):
        return torch.full((len(images), 10), 0.1)

    def embeddings(self, images):
        return (images.float() / 255).mean((2, 3))


@pytest.fixture
def make_subject(digits):
    def make(places=None, taught=False, per_class=3):
        test = HeldOut(digits, places)
        rows = np.concatenate([np.flatnonzero(digits.train.labels == place)[:per_class] for place in test.places])
        labels = torch.arange(len(test.places)).repeat_interleave(per_class)
        soft_labels = torch.full((len(rows), len(test.places)), 0.1)
        own = TrainingSet(digits.train.pixels(rows, 16), labels, soft_labels, VIEWS)
        teacher = {"teacher": Pretender(), "teacher_record": RECORD} if taught else {}
        return Subject(own, test, "0" * 64, **teacher)

    return make


def test_held_out_images_of_some_classes_in_another_order(digits):
    test = HeldOut(digits, [7, 2])
    assert [c.name for c in test.classes] == ["7", "2"]
    images = test.images(16)
    sevens = digits.test.pixels(np.flatnonzero(digits.test.labels == 7), 16)
    assert torch.equal(images[test.labels == 0], sevens)
    assert len(images) == int(np.isin(digits.test.labels, [2, 7]).sum())
    assert test.images(16) is images  # decoded once
    assert test.images(16, 18).shape == images.shape and not torch.equal(test.images(16, 18), images)


def test_many_held_out_images_are_decoded_once_for_all_runs(digits, tmp_path, monkeypatch):
    """A dry run decodes a part of them, unless they are there, and keeps nothing."""
    monkeypatch.setenv("DISTILL_HUB_CACHE", str(tmp_path / "cache"))
    plain = HeldOut(digits, [7, 2])
    assert plain.prepare(Run(tmp_path / "run", {}), 16) and not (tmp_path / "cache").exists()
    expected = plain.images(16, 18)
    monkeypatch.setattr(subject_module, "_MANY", 1)
    monkeypatch.setattr(subject_module, "AT_A_TIME", 30)
    part = HeldOut(digits, [7, 2])
    assert not part.prepare(DryRun(tmp_path / "run", {}), 16, 18) and not (tmp_path / "cache").exists()
    assert part.images(16, 18)[:30].equal(expected[:30]) and not part.images(16, 18)[30:].any()
    first, run = HeldOut(digits, [7, 2]), Run(tmp_path / "run", {})
    assert first.prepare(run, 16, 18) and first.images(16, 18).equal(expected)
    run.end()
    assert not (tmp_path / "run" / ".run" / "decode test images, 16 px").exists()
    monkeypatch.setattr(Split, "image", lambda split, row: pytest.fail("it is there"))
    for later in (Run(tmp_path / "run", {}), DryRun(tmp_path / "run", {})):
        again = HeldOut(digits, [7, 2])
        assert again.prepare(later, 16, 18) and again.images(16, 18).equal(expected)


def test_a_class_without_test_images_is_refused(digits):
    kept = np.flatnonzero(digits.test.labels != 4)
    test = dataclasses.replace(digits.test, dataset=digits.test.dataset.select(kept), labels=digits.test.labels[kept])
    with pytest.raises(InputError, match="split 'test' holds no image of 4"):
        HeldOut(dataclasses.replace(digits, test=test))


def test_random_real_images_are_as_many_and_fixed_by_the_seed(make_subject, digits, run):
    subject = make_subject([7, 2])
    draw = subject.random_real(run, 16, soft=False)
    first, again, other = draw(0), draw(0), draw(1)
    assert torch.equal(first.images, again.images) and not torch.equal(first.images, other.images)
    assert torch.bincount(first.labels).tolist() == [3, 3] and first.soft_labels is None
    sevens = {image.numpy().tobytes() for image in digits.train.pixels(np.flatnonzero(digits.train.labels == 7), 16)}
    assert all(image.numpy().tobytes() in sevens for image in first.images[first.labels == 0])


@pytest.fixture
def run(tmp_path_factory):
    return Run(tmp_path_factory.mktemp("run") / "run", {})


def trials(run, subject, name):
    rules = protocol(name)
    return trials_of(run, subject, rules, rules.students("auto", 16)[0], {})


def test_what_a_set_is_compared_with(make_subject, run):
    alone, taught = make_subject(), make_subject(taught=True)
    for name in ("quick", "idc-hard"):
        assert list(trials(run, alone, name)) == ["this set", "random real"]
    # Soft labels of random images need a teacher; without one they have hard labels, and are called so.
    hard = trials(run, alone, "kd")["random real, hard labels"]
    assert (hard.settings.labels, hard.settings.temperature_squared) == ("hard", False)
    soft = trials(run, taught, "kd")["random real"]
    assert soft.settings.labels == "soft" and soft.make(0).soft_labels.shape == (30, 10)
    for name in ("rded-soft", "sre2l"):
        found = trials(run, taught, name)
        assert list(found) == ["this set", "random real"]
        assert found["random real"].settings == found["this set"].settings
    online = trials(run, taught, "fkd")
    assert online["this set"].settings.labels == "views" and online["random real"].settings.labels == "teacher"
    # As many other images are seen through the same views; other labels have none.
    assert online["this set"].make(0).views is online["random real"].make(0).views is VIEWS
    assert all(trial.make(0).views is None for name in ("kd", "sre2l") for trial in trials(run, taught, name).values())
    # Beside a set of tiles they are fewer, and have views of their own.
    tiles = trials(run, dataclasses.replace(taught, tiles=2), "fkd")
    assert [trial.make(0).views for trial in tiles.values()] == [VIEWS, None]
    assert list(trials(run, alone, "fkd")) == ["this set"]


def test_a_learning_rate_that_a_set_brings_is_for_its_own_images_alone(make_subject, run):
    subject = dataclasses.replace(make_subject(), student_rate=0.02)
    found = trials(run, subject, "dsa-hard")
    rates = {name: learning_rate(trial.settings, 0) for name, trial in found.items()}
    assert rates == {"this set": 0.02, "random real": 0.01}
    real = ranking.real_trial(run, subject, found["this set"].settings)
    assert learning_rate(real.settings, 0) == 0.01 and real.settings.epochs == 1000


def test_random_real_images_have_the_size_of_the_set_where_its_images_are_cropped_as_they_are_stored(make_subject, run):
    subject, smaller = make_subject(taught=True), functools.partial(dataclasses.replace, image_size=12)
    for name, size in (("rded-soft", 16), ("sre2l", 12), ("idc-hard", 12)):
        known = protocol(name)  # here of a set of 16 px
        rules = dataclasses.replace(known, settings=lambda task, known=known: smaller(known.settings(task)))
        found = trials_of(run, subject, rules, "convnet-2", {})
        assert {trial.make(0).images.shape[-1] for trial in found.values()} == {size}
        real = ranking.ranking_trials(run, subject, found, None)["all real images, hard labels"]
        assert real.make(0).images.shape[-1] == size


def test_other_sets_are_made_and_scaled_once_for_all_seeds(make_subject, run):
    subject, rules = make_subject(), protocol("quick")
    smaller = dataclasses.replace(subject.own, images=subject.own.images[..., :8, :8])
    found = trials_of(run, subject, rules, "convnet-1", {"plain samples": lambda: smaller})["plain samples"]
    first, second = found.make(0), found.make(1)
    assert first.images.shape[-1] == 16 and first is second
    assert [stage["name"] for stage in run.stages] == ["plain samples, 16 px"]


@pytest.fixture
def pretended(monkeypatch, tmp_path_factory):
    """Students that reach what is written in `accuracy`, by (labels, augmented, number of images) and seed."""
    calls, accuracy = [], {}

    def train(student, sets, test, classes, settings, seeds, *, title, **rest):
        calls.append((student, list(seeds), title))
        key = settings.labels, settings.augmentation != Augmentation(), len(sets[0].images)
        reached = accuracy.get(key, 0.5)
        top = reached + 0.1
        return [Training(None, end, top, 7, (top, end)) for end in (reached + seed / 100 for seed in seeds)]

    monkeypatch.setattr(scores, "train_students", train)
    # The tests' common cache may hold the same evaluation of a test beside this one, which would be refused.
    monkeypatch.setenv("DISTILL_HUB_CACHE", str(tmp_path_factory.mktemp("cache")))
    return calls, accuracy


def test_every_student_and_seed_is_kept(make_subject, pretended, tmp_path, run):
    calls, _ = pretended
    subject, rules = make_subject(), protocol("idc-hard")
    both = trials(run, subject, "idc-hard")
    first = measure(Run(tmp_path, {}), subject, rules, "convnet-2", range(2), both)
    assert [(seeds, title) for _, seeds, title in calls] == [
        ([0], "this set, seed 0"), ([1], "this set, seed 1"), ([0], "random real, seed 0"), ([1], "random real, seed 1"),
    ]  # fmt: skip
    again = measure(Run(tmp_path, {}), subject, rules, "convnet-2", range(2), both)
    assert len(calls) == 4 and again.score == first.score
    assert first.score.last == [0.5, 0.51] and first.score.best == [0.6, 0.6] and first.score.best_epoch == [7, 7]
    assert first.score.curve == [[0.6, 0.5], [0.6, 0.51]]
    assert first.score.std == pytest.approx(0.01 / math.sqrt(2))  # of a sample
    assert list(first.baselines) == ["random real"] and first.standard and first.teacher is None
    assert (first.test_images, first.chance) == (len(subject.test.labels), np.bincount(subject.test.labels).max() / 500)
    assert first.settings["augmentation"]["siamese"] is True and first.settings["looks"] == [1000]
    assert EvaluationRecord.model_validate_json(first.to_json()) == first


def test_seeds_side_by_side_are_one_piece_of_work(make_subject, pretended, tmp_path, run):
    calls, _ = pretended
    subject = make_subject()
    both = trials(run, subject, "quick")
    record = measure(Run(tmp_path, {}), subject, protocol("quick"), "convnet-2", range(3), both, together=True)
    assert [seeds for _, seeds, _ in calls] == [[0, 1, 2]] * 2
    assert record.score.last == pytest.approx([0.5, 0.51, 0.52]) and not record.standard


def test_trackers_are_told_which_student_it_is(make_subject, tmp_path, run, monkeypatch):
    def train(*_, log, **__):
        log(3, {"loss": 2.0})
        return [Training(None, 0.5, 0.5, 1, (0.5,))]

    monkeypatch.setattr(scores, "train_students", train)
    here, told = Run(tmp_path, {}), []
    here.trackers = SimpleNamespace(are_open=True, log=lambda *own: told.append(own))
    subject = make_subject()
    measure(
        here, subject, protocol("quick"), "convnet-2", range(1), trials(run, subject, "quick"), stage="evaluate convnet-2"
    )
    epochs = settings_of(subject, protocol("quick"), "convnet-2").epochs
    assert told == [(f"evaluate convnet-2/{name}, seed 0", 3, epochs, {"loss": 2.0}) for name in ("this set", "random real")]


def test_a_record_says_who_labelled_the_batches(make_subject, pretended, tmp_path, run):
    subject, rules = make_subject(taught=True), protocol("rded-soft")
    record = measure(Run(tmp_path, {}), subject, rules, "resnet-18-bn", range(1), trials(run, subject, "rded-soft"))
    assert record.teacher == RECORD and record.settings["schedule"] == "half-cosine"
    other = record.model_copy(update={"teacher": RECORD.model_copy(update={"sha256": "2" * 64})})
    assert record.measures_the_same(record) and not record.measures_the_same(other)


def test_the_table_shows_last_before_best_and_marks_what_is_not_of_the_literature(make_subject, pretended, tmp_path, run):
    from rich.console import Console

    subject = make_subject()
    records = [
        measure(Run(tmp_path / name, {}), subject, protocol(name), "convnet-2", range(2), trials(run, subject, name))
        for name in ("quick", "idc-hard")
    ]
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(score_table(records, 3))
    rows = [line for line in console.export_text(clear=False).splitlines() if "this set" in line]
    assert "quick v2 (NON-STANDARD)" in rows[0] and "idc-hard v2 " in rows[1] and "NON-STANDARD" not in rows[1]
    assert rows[0].index("50.5 ± 0.7") < rows[0].index("60.0")
    below = " ".join(console.export_text().split())
    why = "quick v2 with convnet-2 is NOT of the literature: it is for smoke runs, and no paper has numbers of it"
    assert below.count(why) == 1


def test_dd_ranking_from_fractions(make_subject, pretended, tmp_path, run):
    _, accuracy = pretended
    subject, rules = make_subject(taught=True), protocol("kd")
    together = ranking.ranking_trials(run, subject, trials(run, subject, "kd"), None)
    assert list(together) == [
        "this set", "random real", "this set, no augmentation", "random real, no augmentation",
        "this set, hard labels", "all real images, hard labels",
    ]  # fmt: skip
    assert len(together["all real images, hard labels"].make(0).images) == 1297
    accuracy |= {
        ("soft", True, 30): 0.6, ("soft", False, 30): 0.5, ("hard", True, 30): 0.4, ("hard", True, 1297): 0.9,
    }  # fmt: skip
    record = measure(Run(tmp_path, {}), subject, rules, "convnet-2", [0], together)
    found = ranking.rank(record, None)
    # This set and random real images are alike here: IOR = 0, HLR = 0.9 - 0.4, alpha = -0.25; beta = 0.
    assert found.lrs == pytest.approx((math.exp(-0.25) - math.exp(-1)) / (math.e - math.exp(-1)))
    assert found.ars == pytest.approx((1 - math.exp(-1)) / (math.e - math.exp(-1)))
    assert found.real_accuracy == pytest.approx(0.9)
    known = ranking.ranking_trials(run, subject, trials(run, subject, "kd"), 0.95)
    assert "all real images, hard labels" not in known


def test_all_real_data_are_trained_on_beside_the_set_and_nothing_else_anew(make_subject, pretended, tmp_path, run):
    calls, accuracy = pretended
    accuracy[("hard", True, 1297)] = 0.9
    subject, rules = make_subject(), protocol("idc-hard")
    both, how = trials(run, subject, "idc-hard"), {"made_from": {"set": "0"}}
    first = measure(Run(tmp_path, {}), subject, rules, "convnet-2", range(2), both, **how)
    del calls[:]
    settings = both["this set"].settings
    more = {**both, REAL: ranking.real_trial(run, subject, settings)}
    second = measure(Run(tmp_path, {}), subject, rules, "convnet-2", range(2), more, **how)
    assert [title for _, _, title in calls] == [f"{REAL}, seed 0", f"{REAL}, seed 1"]
    assert second.scores[REAL].last == [0.9, 0.91] and second.score == first.score
    assert list(second.baselines) == ["random real", "all real images, hard labels"]
    # 1,000 epochs in batches of 64: 30 images are one step each, 1,297 are 21.
    told = scores.tell_real(subject, settings, 2)
    assert "2 more students, of 21,000 steps each where the set's own take 1,000" in told
    assert more[REAL].make(0) is more[REAL].make(1)  # decoded once


def test_a_set_is_scored_beside_all_real_data_where_that_is_asked_for(make_set, pretended, tmp_path, capsys):
    folder = make_set(tmp_path, list(range(10)))
    (pair,) = evaluate(folder, full_data=True)  # a claim brings its other baselines
    assert list(pair.measured.baselines) == [REAL] and "1 more student, of" in " ".join(capsys.readouterr().out.split())
    (pair,) = evaluate(folder, students="convnet-1", repeats=1, full_data=True)
    assert list(pair.measured.baselines) == ["random real", REAL]


def test_dd_ranking_where_it_cannot_be_had(make_subject, run):
    with pytest.raises(InputError, match="pass --teacher"):
        ranking.ranking_trials(run, make_subject(), trials(run, make_subject(), "kd"), None)
    with pytest.raises(InputError, match="without augmentation"):
        ranking.ranking_trials(run, make_subject(taught=True), trials(run, make_subject(taught=True), "fkd"), None)


def test_distance_to_the_real_images_of_the_sets_classes(make_subject, digits, run):
    subject = make_subject([7, 2], taught=True)
    rows = np.flatnonzero(np.isin(digits.train.labels, [2, 7]))
    real = digits.train.pixels(rows, 16).float().mean((2, 3)) / 255
    own = subject.own.images.float().mean((2, 3)) / 255
    assert ranking.distance_to_real(run, subject) == pytest.approx(mmd(own, real), rel=1e-5)


def test_students_asked_for_and_students_on_record(make_set, pretended, tmp_path):
    folder = make_set(tmp_path, list(range(10)))
    pairs = evaluate(folder, students="convnet-2,convnet-1,resnet-10", repeats=1)
    assert [pair.measured.student for pair in pairs] == ["convnet-2", "convnet-1", "resnet-10"]
    assert [pair.claimed is not None for pair in pairs] == [True, False, False]  # the record is of convnet-2
    assert ["random real" in pair.measured.baselines for pair in pairs] == [False, True, True]
    (pair,) = evaluate(folder)
    assert pair.measured.student == "convnet-2" and pair.measured.seeds == [0]
    (pair,) = evaluate(folder, protocol="idc-hard")
    assert (pair.measured.student, pair.measured.seeds, pair.claimed) == ("convnet-2", [0, 1, 2], None)


@pytest.fixture
def made_by(make_set, tmp_path):
    """A set of a method by its name and settings; the content is always the same."""

    def make(name, notes=None, **config):
        folder = make_set(tmp_path / "set", list(range(10)))
        method = MethodRecord(name=name, title=name, config=config, notes=notes or {})
        manifest = Manifest.read(folder / "manifest.json").model_copy(update={"method": method})
        (folder / "manifest.json").write_text(manifest.to_json())
        return folder

    return make


def test_kd_takes_the_temperature_of_the_sets_own_method(made_by, pretended):
    def trained_at(*method, **config):
        (pair,) = evaluate(made_by(*method, **config), protocol="kd", students="convnet-2", repeats=1)
        return pair.measured.settings["temperature"]

    assert (trained_at("psr", temperature=4.0), trained_at("psr", temperature=2)) == (4, 2)
    assert trained_at("psr") == trained_at("other", temperature=4.0) == 1.5
    with pytest.raises(InputError, match=r"^manifest\.json: method\.config\.temperature: 'hot' .* number > 0"):
        trained_at("psr", temperature="hot")


def test_dsa_hard_takes_the_learning_rate_that_a_set_has_learned(made_by, pretended):
    def trained_at(notes):
        (pair,) = evaluate(made_by("mtt", notes=notes), protocol="dsa-hard", students="convnet-2", repeats=1)
        return pair.measured.settings["learned_rate"]

    assert (trained_at({"student_lr": 0.0237}), trained_at({})) == (0.0237, None)
    for wrong in (-0.1, 0, "fast", [0.1]):
        with pytest.raises(InputError, match=r"^manifest\.json: method\.notes\.student_lr: .* number > 0"):
            trained_at({"student_lr": wrong})


def test_what_was_trained_at_one_temperature_is_not_taken_for_another(made_by, pretended):
    calls, _ = pretended

    def fail(_):
        raise KeyboardInterrupt

    for temperature, trained in ((4.0, 2), (2.0, 4), (4.0, 4)):  # a set and its baseline each
        with pytest.raises(KeyboardInterrupt):  # what is not delivered is kept
            evaluate(made_by("psr", temperature=temperature), protocol="kd", students="convnet-2", repeats=1, deliver=fail)
        assert len(calls) == trained


@pytest.mark.parametrize(
    ("how", "field", "words"),
    [
        ({"protocol": "idc-hart"}, "protocol", "did you mean 'idc-hard'"),
        ({"students": "convnett-3"}, "students", "convnet-D"),
        ({"students": "convnet-2,resnet-1"}, "students", "resnet-10"),
        ({"students": "convnet-9"}, "students", "16 px allow a depth of 4"),
        ({"protocol": "rded-soft", "students": "resnet-18"}, "students", "resnet-18-bn"),
        ({"protocol": "sre2l"}, "teacher", "pass --teacher"),
        ({"protocol": "sre2l", "teacher": "timm/resnet_18"}, "teacher", "did you mean 'timm/resnet18"),
        ({"students": "resnet-18-bn", "seeds_together": True}, "seeds_together", "BatchNorm"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(make_set, tmp_path, monkeypatch, how, field, words):
    monkeypatch.setenv("DISTILL_HUB_CACHE", str(tmp_path / "cache"))
    folder = make_set(tmp_path / "set", list(range(10)))
    before = sorted(path.name for path in folder.rglob("*"))
    with pytest.raises(InputError) as caught:
        evaluate(folder, **how)
    assert caught.value.field == field and words in str(caught.value) and "\n" not in str(caught.value)
    assert sorted(path.name for path in folder.rglob("*")) == before
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file() and path.suffix != ".lock"]


def test_a_last_batch_of_one_image_that_a_student_cannot_take(make_subject):
    subject, rules = make_subject(list(range(7)), per_class=3), protocol("quick")  # 21 images
    one = dataclasses.replace(subject.own, images=torch.zeros(51, 3, 32, 32, dtype=torch.uint8))
    with pytest.raises(InputError, match=r"^students: 'mobilenet-v2'.*more than 1 value"):
        settings_of(dataclasses.replace(subject, own=one), rules, "mobilenet-v2")
    assert settings_of(dataclasses.replace(subject, own=one), rules, "convnet-2").batch_size == 50


def test_records_are_plain_json(make_subject, pretended, tmp_path, run):
    subject = make_subject(taught=True)
    record = measure(Run(tmp_path, {}), subject, protocol("kd"), "convnet-2", range(1), trials(run, subject, "kd"))
    assert json.loads(record.to_json())["settings"]["temperature"] == 1.5
