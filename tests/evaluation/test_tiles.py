"""Sets of tiles: whatever is done with a set's images is done with what students see. The students are pretended."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from distill_hub import InputError, evaluate, load_distilled
from distill_hub.artifact.find import find
from distill_hub.augmentation.tiles import decode
from distill_hub.evaluation import ranking, scores
from distill_hub.evaluation.scores import trials_of
from distill_hub.publishing.card import render_card
from distill_hub.running.run import Run
from distill_hub.training.protocols import protocol
from distill_hub.training.subject import HeldOut, Subject
from distill_hub.training.train import Training, TrainingSet
from distill_hub.views.files import open_views

ORDER = [3, 1, 4, 0, 5, 9, 2, 6, 8, 7]


@pytest.fixture
def tiled(make_set, tmp_path):
    """Digits, five per class, each said to be four."""
    return make_set(tmp_path / "set", ORDER, tiles=2)


@pytest.fixture
def seen(monkeypatch, tmp_path):
    """What students are trained on, and how: by number of images."""
    found = {}

    def train(student, sets, test, classes, settings, seeds, **rest):
        found[len(sets[0].images)] = sets[0], settings
        return [Training(None, 0.5, 0.5, 1, (0.5,) * len(settings.looks)) for _ in seeds]

    monkeypatch.setattr(scores, "train_students", train)
    monkeypatch.setenv("DISTILL_HUB_CACHE", str(tmp_path / "cache"))
    return found


def test_students_see_every_tile_and_random_images_are_as_many_as_are_stored(tiled, seen):
    (pair,) = evaluate(tiled, protocol="kd", students="convnet-1", repeats=1)
    stored = load_distilled(tiled)
    (own, settings), (random, for_random) = seen[200], seen[50]
    rows = np.argsort(np.array(ORDER)[stored.labels], kind="stable")  # in the source's order, the tiles of a row together
    assert torch.equal(own.images, decode(torch.from_numpy(stored.pixels[rows]), 2))
    assert torch.equal(own.labels, torch.arange(10).repeat_interleave(20))
    expected = stored.soft_labels[np.ix_(rows, np.argsort(ORDER))].repeat(4, 0)
    assert np.array_equal(own.soft_labels.numpy(), expected)
    assert torch.bincount(random.labels).tolist() == [5] * 10
    assert pair.measured.baselines.keys() == {"random real, hard labels"} and settings.hard == for_random


def test_a_baseline_is_trained_as_the_protocol_does_it_with_so_many_images(tiled, seen):
    (pair,) = evaluate(tiled, protocol="quick", students="convnet-1", repeats=1)
    # About 100 steps each: of four batches, and of one.
    assert (seen[200][1].epochs, seen[50][1].epochs) == (25, 100)
    assert pair.measured.score.curve and pair.measured.baselines["random real"].curve is None
    assert pair.measured.settings["epochs"] == 25


def test_its_trials_are_those_of_the_decoded_set(digits, tmp_path):
    rows = digits.train.draw_per_class(2, seed=0)
    stored = TrainingSet(digits.train.pixels(rows, 16), torch.arange(10).repeat_interleave(2))
    run = Run(tmp_path / "run", {})
    own = stored.decoded(run, "tiles", 3, {})
    assert torch.equal(own.images, decode(stored.images, 3)) and torch.equal(own.labels[::9], stored.labels)
    tiled = Subject(own, HeldOut(digits), "0" * 64, tiles=3)
    plain = dataclasses.replace(tiled, tiles=None)
    for name in ("quick", "idc-hard", "idc-hard-100"):
        one, other = (trials_of(run, own, protocol(name), "convnet-2", {}) for own in (tiled, plain))
        assert one["this set"].settings == other["this set"].settings
        assert torch.equal(one["this set"].make(0).images, other["this set"].make(0).images)
        ranked = ranking.ranking_trials(run, tiled, one, 0.9)
        assert ranked["random real, no augmentation"].settings.epochs == one["random real"].settings.epochs
    assert len(tiled.own.images) == 180


def test_the_loader_returns_rows_as_stored_and_what_students_see(tiled, make_set, tmp_path):
    found, plain = load_distilled(tiled), load_distilled(make_set(tmp_path / "plain", ORDER))
    assert found.pixels.shape == (50, 3, 16, 16) and found.manifest.content_sha256 == plain.manifest.content_sha256
    pixels, labels, soft_labels = found.decoded()
    assert pixels.shape == (200, 3, 16, 16) and (labels == found.labels.repeat(4)).all() and len(soft_labels) == 200
    same = zip(plain.decoded(), (plain.pixels, plain.labels, plain.soft_labels), strict=True)
    assert all(np.array_equal(a, b) for a, b in same)
    assert "tiles" not in json.loads((tmp_path / "plain" / "manifest.json").read_text())


def test_its_views_are_of_the_tiles(tiled):
    from distill_hub.artifact.manifest import ModelRecord
    from distill_hub.evaluation.views import draw_views, store_views

    class Teacher:
        columns = tuple(range(10))

        def logits(self, images):
            return images.mean((1, 2, 3))[:, None].expand(-1, 10)

    found = load_distilled(tiled)
    record = ModelRecord(id="x", architecture="x", sha256="1" * 64)
    images = decode(torch.from_numpy(found.pixels), 2)
    run = Run(tiled.parent / "run", {})
    drawn = draw_views(run, images, Teacher(), record, epochs=2, mirrored=False, seed=0)
    manifest = store_views(tiled, found.manifest, *drawn)
    assert manifest.views.rows == 400
    views = open_views(find(tiled), manifest)
    assert sorted(np.concatenate([batch["image_index"] for batch in map(views.batch, range(2, 4))])) == list(range(200))
    card = render_card(manifest, (), location="org/set", files=find(tiled).files)
    assert "made of image `image_index` of the smaller ones: its `crop`" in card


@pytest.mark.parametrize(
    ("tiles", "words"), [(1, "greater than or equal to 2"), (9, "less than or equal"), (7, "cannot hold")]
)
def test_a_manifest_whose_images_cannot_hold_so_many_is_refused(tiled, tiles, words):
    file = tiled / "manifest.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "tiles": tiles}))
    with pytest.raises(InputError, match=words) as caught:
        load_distilled(tiled)
    assert "\n" not in str(caught.value)
