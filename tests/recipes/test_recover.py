"""recipes/sre2l.py, dwa.py, lpld.py and deda.py end to end; the loop and the losses are tested in tests/recovery."""

import json
import runpy

import numpy as np
import pytest
import torch
from helpers import fitted_teacher, refused, run_here, unscored
from processes import ROOT

from distill_hub import load_distilled
from distill_hub.artifact.cost import own_stages
from distill_hub.classifiers import load_classifier
from distill_hub.data.sources import load_source
from distill_hub.options.sre2l import Sre2lConfig
from distill_hub.running.seeds import draw_seed

SMALL = ["--ipc", "2", "--teacher_epochs", "4", "--students", "convnet-1-w16", "--repeats", "1", "--view_epochs", "0"]
WORDS = [*SMALL, "--recover_steps", "100", "--smallest_crop", "1"]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> str:
    folder = str(tmp_path_factory.mktemp("teacher") / "classifier")
    run_here("recipes/fit_classifier.py", "--network", "convnet-2-w32-bn", "--epochs", "10", "--output_dir", folder)
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory, teacher):
    """A set of each recipe, and the bank of the last; the first fits its own teacher."""
    folder = tmp_path_factory.mktemp("recovered")
    run_here("recipes/sre2l.py", *WORDS, "--recover_batch_size", "4", "--output_dir", str(folder / "sre2l"))
    words = ("--teacher", teacher, "--classes_at_a_time", "4", "--output_dir", str(folder / "lpld"))
    run_here("recipes/lpld.py", *WORDS, *words)
    words = ("--teacher", teacher, "--bank", str(folder / "bank"), "--output_dir", str(folder / "deda"))
    run_here("recipes/deda.py", *WORDS, *words)
    return folder


@pytest.mark.parametrize("method", ["sre2l", "lpld", "deda"])
def test_the_set_says_what_it_is(made, method):
    found = load_distilled(made / method)
    manifest, rows = found.manifest, found.dataset
    assert manifest.name == f"digits-ipc2-{method}" and manifest.method.name == method
    assert manifest.generator is None and {known.generator_index for known in manifest.classes} == {None}
    assert manifest.teacher.architecture == ("convnet-2-bn" if method == "sre2l" else "convnet-2-w32-bn")
    assert manifest.teacher.test_accuracy > 0.9
    first, last = manifest.method.notes["mean_loss_of_first_and_last_tenth"]
    assert last < first
    assert rows["label"][:] == [label for label in range(10) for _ in range(2)]
    # SRe2L makes them index by index, and these are class by class.
    assert rows["seed"][:] == [draw_seed(0, "recover", str(label), index) for label in range(10) for index in range(2)]
    assert np.mean(np.argmax(rows["soft_label"][:], 1) == rows["label"][:]) > 0.5
    assert [record.baselines.keys() for record in found.evaluations] == [{"random real"}]
    assert "generator" not in (made / method / "README.md").read_text().lower()


@pytest.mark.parametrize(("schedule", "method"), [("fixed", "sre2l"), ("step", "cda")])
def test_sre2l_with_a_schedule_of_crops_is_another_method(monkeypatch, schedule, method):
    def stop(_, name, **how):
        raise LookupError(name)

    monkeypatch.setattr("distill_hub.making.start.set_up", stop)
    with pytest.raises(LookupError, match=f"^{method}$"):
        runpy.run_path(str(ROOT / "recipes" / "sre2l.py"))["main"](Sre2lConfig(crop_schedule=schedule))


def test_a_dry_run_of_dwa_moves_the_weights_once(teacher, monkeypatch, tmp_path):
    """All of its steps would be multiplied with the iterations that are left out, ten times as many as they are."""

    def stop(*_, steps, **how):
        raise LookupError(steps)

    monkeypatch.setattr("distill_hub.recovery.dwa.objective", stop)
    for words, steps in ((["--dry_run"], 1), ([], 12)):
        with pytest.raises(LookupError, match=f"^{steps}$"):
            run_here("recipes/dwa.py", *WORDS, "--teacher", str(teacher), *words, "--output_dir", str(tmp_path / "set"))


def test_dwa_starts_from_real_images_and_leaves_the_teacher_as_it_is(teacher, tmp_path):
    words = ("--teacher", teacher, "--recover_batch_size", "4", "--recover_steps", "3", "--recover_learning_rate", "1e-5")
    with unscored():
        run_here("recipes/dwa.py", *WORDS, *words, "--rho", "0.5", "--output_dir", str(tmp_path / "set"))
    found, real = load_distilled(tmp_path / "set"), load_source("digits")
    assert (found.manifest.name, found.manifest.method.name) == ("digits-ipc2-dwa", "dwa")
    assert found.manifest.method.config["variance_weight"] == 11
    classifier = load_classifier(teacher, real.classes)
    soft = classifier.soft_labels(torch.from_numpy(found.pixels))
    np.testing.assert_allclose(found.soft_labels, soft, atol=1e-5)  # not those of a network that was moved
    for label in range(10):
        images = real.train.pixels(real.train.by_class[label], 16).int()
        near = [(images - torch.from_numpy(own).int()).abs().amax((1, 2, 3)).min() for own in found.pixels[2 * label :][:2]]
        assert max(near) <= 1  # 3 steps of such a length go nowhere
        assert not np.array_equal(*found.pixels[2 * label :][:2])


def test_a_bank_is_measured_once(made, teacher, tmp_path):
    words = ("--teacher", teacher, "--bank", str(made / "bank"), "--seed", "1", "--output_dir", str(tmp_path / "set"))
    with unscored():
        run_here("recipes/deda.py", *WORDS, *words, "--recover_steps", "10")
    assert not (tmp_path / "set" / ".run" / "measure statistics").exists()
    # A set costs the same whether it was measured in its run or before.
    measured, found = (
        [stage for stage in own_stages(load_distilled(place).manifest) if "statistics" in stage.name]
        for place in (made / "deda", tmp_path / "set")
    )
    assert (
        [stage.name for stage in measured] == ["measure statistics"] and measured == found and measured[0].core_seconds > 0
    )


def test_lplds_released_statistics_are_an_option(teacher, tmp_path):
    words = ("--teacher", teacher, "--class_statistics", "moving", "--moving_batch_size", "32", "--fit_seed", "5")
    with unscored():
        run_here(
            "recipes/lpld.py", *WORDS, *words, "--recover_steps", "2", "--bank", str(tmp_path / "bank"),
            "--output_dir", str(tmp_path / "set"),
        )  # fmt: skip
    record = json.loads((tmp_path / "bank" / "bank.json").read_text())
    assert record["moving_average"] == {"batch_size": 32, "seed": 5, "flip": False}  # digits are not mirrored


def test_a_bank_of_another_teacher_is_refused(made, tmp_path, capfd):
    words = ("--bank", str(made / "bank"), "--output_dir", str(tmp_path / "set"))
    line = refused(capfd, "recipes/deda.py", *WORDS, *words)
    assert "bank" in line and "teacher_sha256" in line and "name another folder" in line


@pytest.fixture(scope="module")
def without_batch_norm(tmp_path_factory) -> str:
    """A teacher with instance norm, which is what other recipes fit."""
    folder = tmp_path_factory.mktemp("random") / "set"
    with unscored():
        run_here("recipes/random_real.py", *SMALL, "--output_dir", str(folder))
    return str(fitted_teacher(folder))


@pytest.mark.parametrize("recipe", ["sre2l", "lpld", "deda"])
def test_a_teacher_without_batchnorm_is_refused(without_batch_norm, tmp_path, capfd, recipe):
    words = (*WORDS, "--teacher", without_batch_norm, "--output_dir", str(tmp_path / "set"))
    line = refused(capfd, f"recipes/{recipe}.py", *words)
    assert "teacher" in line and "BatchNorm" in line and "convnet-2 has none" in line


def test_one_image_per_class_is_refused_where_covariances_count(tmp_path, capfd):
    line = refused(capfd, "recipes/deda.py", "--ipc", "1", "--output_dir", str(tmp_path / "set"))
    assert "ipc: 1" in line and "no covariance" in line
    assert not (tmp_path / "set").exists()
