"""Which images the pictures show, and that they are few."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from distill_hub.artifact.records import EvaluationRecord, Score
from distill_hub.classifiers import Classifier
from distill_hub.data.sources import load_source
from distill_hub.making import pictures
from distill_hub.running.run import Run

POOL, IPC = 5, 2


@pytest.fixture(scope="module")
def setup():
    source = load_source("digits")
    torch.manual_seed(0)
    network = nn.Sequential(nn.AvgPool2d(4), nn.Flatten(), nn.Linear(48, 10))  # embeds by the mean of 4 x 4 pixels
    teacher = Classifier(
        network, id="t", architecture="t", classes=source.classes, class_names=source.class_names, image_size=16
    )
    return SimpleNamespace(source=source, teacher=teacher, image_size=16, config=SimpleNamespace(ipc=IPC, seed=0))


@pytest.fixture(scope="module")
def stages(tmp_path_factory):
    """A pool whose images say which row they are, every second of it chosen, and made brighter by 7."""
    run = Run(tmp_path_factory.mktemp("run"), {})
    image = torch.ones(3, 16, 16, dtype=torch.uint8)

    pool = run.map("pool", range(10 * POOL), lambda rows: {"images": torch.stack([r * image for r in rows])}, chunk_size=7)
    chosen = [label * POOL + place for label in range(10) for place in (3, 1)]
    refined = run.map("refine", chosen, lambda rows: {"images": torch.stack([(r + 7) * image for r in rows])}, chunk_size=3)
    return pool, chosen, refined


def test_the_first_image_of_each_class_before_and_after(setup, stages, monkeypatch):
    shown = []
    monkeypatch.setattr(pictures, "refinement_grid", lambda *what, rows: shown.append((*what, rows)))
    pictures.refinement(setup, *stages)("file.png")
    ((before, after, names, path, rows),) = shown
    assert before.shape == after.shape == (10, 16, 16, 3)
    assert before[:, 0, 0, 0].tolist() == [label * POOL + 3 for label in range(10)]
    assert (after == before + 7).all() and names == list("0123456789") and path == "file.png"
    assert rows == ("before", "after")


def test_some_classes_with_their_real_images_pool_and_set(setup, stages, monkeypatch):
    shown = []
    monkeypatch.setattr(pictures, "embedding_map", lambda *what: shown.append(what))
    pool, _, refined = stages
    for _ in range(2):
        pictures.embedding(setup, pool, refined)("file.png")
    (kinds, names, _), (again, _, _) = shown
    assert names == ["0", "2", "4", "5", "7", "9"] and list(kinds) == ["real", "pool", "this set"]
    train, teacher = setup.source.train, setup.teacher
    for place, name in enumerate(names):
        pixels = train.pixels(np.flatnonzero(train.labels == int(name)), 16)
        known = {row.numpy().tobytes() for row in teacher.embed(pixels.float() / 255)}
        own = [row.tobytes() for row in kinds["real"][place]]
        assert len(own) == min(len(pixels), pictures.REAL) and set(own) <= known
        first = int(name) * POOL
        for kind, values in (("pool", range(first, first + POOL)), ("this set", (first + 3 + 7, first + 1 + 7))):
            images = torch.tensor(values).view(-1, 1, 1, 1) * torch.ones(3, 16, 16)
            np.testing.assert_allclose(kinds[kind][place], teacher.embed(images / 255), atol=1e-6)
    for kind, arrays in kinds.items():
        assert all((a == b).all() for a, b in zip(arrays, again[kind], strict=True))


def test_a_class_may_have_one_real_image(setup, stages, monkeypatch):
    shown = []
    monkeypatch.setattr(pictures, "embedding_map", lambda kinds, *_: shown.append(kinds["real"]))
    monkeypatch.setattr(pictures, "REAL", 1)
    pictures.embedding(setup, stages[0], stages[2])("file.png")
    assert [own.shape for own in shown[0]] == [(1, 48)] * 6


def record(curve, student="convnet-3"):
    score = Score(last=[0.5], best=[0.6], best_epoch=[2], curve=curve)
    return EvaluationRecord.model_construct(student=student, score=score, baselines={}, settings={"looks": [1, 2, 3]})


def test_learning_curves_are_shown_of_students_with_several_looks(monkeypatch):
    shown = []
    monkeypatch.setattr(pictures, "learning_curves", lambda *what: shown.append(what))
    assert pictures.curves([record(None)]) == {}
    found = pictures.curves([record(None), record([[0.1, 0.6, 0.5]], "resnet-18")])
    found["curves"]("file.png")
    ((panels, looks, _),) = shown
    assert list(panels) == ["resnet-18"] and looks == {"resnet-18": [1, 2, 3]}
    assert panels["resnet-18"]["this set"].tolist() == [[0.1, 0.6, 0.5]]


@pytest.mark.parametrize("curve", [[[0.6, 0.4]], [[0.7, 0.5]], [[0.5]], [[0.6, 0.5]] * 2])
def test_a_curve_that_contradicts_its_score_is_refused(curve):
    assert record([[0.6, 0.5]]).score.curve == [[0.6, 0.5]]
    with pytest.raises(ValueError, match="a curve must end at the last accuracy"):
        record(curve)
