"""Which stored batches a student sees, and which labels their logits stand for."""

import itertools

import numpy as np
import pytest
import torch

from distill_hub.artifact.manifest import ViewsRecord
from distill_hub.views.replay import order, probabilities, strongest, view_draws

IMAGES = 43


@pytest.fixture
def make_record(facts):
    """Of the views of 43 images in batches of 4: in an epoch 11, or 10 whole ones."""

    def make(**fields):
        how = facts.model_copy(update={"format": 2, "epochs": 300, "batch_size": 4, **fields})
        return ViewsRecord(**dict(how), rows=how.views(IMAGES), sha256="0" * 64)

    return make


def test_full_views_are_replayed_as_they_were_stored(make_record):
    record = make_record()
    for seed in (0, 5):
        epochs = [order(record, IMAGES, seed, epoch) for epoch in range(300)]
        assert list(itertools.chain(*epochs)) == list(range(300 * 11)) and {len(epoch) for epoch in epochs} == {11}


def test_pruned_views_are_drawn_with_replacement_by_seed_and_epoch(make_record):
    record = make_record(label_share=0.01)  # 30 of 3,000 whole batches
    epochs = [order(record, IMAGES, 0, epoch) for epoch in range(300)]
    assert {len(epoch) for epoch in epochs} == {10}  # the steps of an epoch of whole batches
    counts = np.bincount(list(itertools.chain(*epochs)), minlength=30)
    # 3,000 draws from 30: 100 each, with a standard deviation of 9.8.
    assert len(counts) == 30 and counts.min() > 50 and counts.max() < 150
    # Ten of thirty, drawn independently, are distinct in 18 % of the epochs.
    distinct = sum(len(set(epoch)) == 10 for epoch in epochs)
    assert distinct / 300 == pytest.approx(np.prod(1 - np.arange(10) / 30), abs=0.07)
    torch.manual_seed(1)  # nothing but seed and epoch decides, in whatever process and after whatever epochs
    assert [order(record, IMAGES, 0, epoch) for epoch in (299, 7)] == [epochs[299], epochs[7]]
    assert order(record, IMAGES, 1, 7) != epochs[7] != epochs[8]


def test_labels_of_the_largest_logits_are_their_softmax_and_nothing_elsewhere():
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 5, (6, 9)).astype(np.float16)
    classes = np.argsort(-logits.astype(np.float64), axis=1, kind="stable")[:, :3]
    kept = np.take_along_axis(logits, classes, 1)
    for temperature in (20.0, 2.0):
        expected = np.zeros((6, 9))
        for row in range(6):
            powers = np.exp(kept[row].astype(np.float64) / temperature)
            for place, label in enumerate(classes[row]):
                expected[row, label] = powers[place] / powers.sum()
        found = probabilities(torch.from_numpy(kept), torch.from_numpy(classes), 9, temperature)
        assert found.dtype is torch.float32 and np.abs(found.numpy() - expected).max() < 1e-6
        assert ((found > 0).sum(1) == 3).all() and found.sum(1).numpy() == pytest.approx(1)
        # What a teacher says is cut in the same way.
        values, index = strongest(torch.from_numpy(logits).float(), 3)
        assert torch.equal(probabilities(values, index, 9, temperature), found)
    whole = np.exp(logits.astype(np.float64) / 4)
    found = probabilities(*strongest(torch.from_numpy(logits), None), 9, 4.0)
    assert np.abs(found.numpy() - whole / whole.sum(1, keepdims=True)).max() < 1e-6


def test_the_classes_of_the_largest_logits_come_with_a_batch(make_views):
    batch = next(make_views())
    batch = {**batch, "class_index": np.array([[2, 0], [1, 2], [0, 1], [2, 1]], dtype=np.uint16)}
    batch = {{"image": "image_index", "partner": "partner_index"}.get(name, name): own for name, own in batch.items()}
    draws = view_draws(batch)
    assert draws["class_index"].dtype is torch.int64 and draws["class_index"][1].tolist() == [1, 2]
    assert "class_index" not in view_draws({name: own for name, own in batch.items() if name != "class_index"})
    images = batch["image_index"]
    assert [images[row] for row in draws["partner"]] == batch["partner_index"].tolist()
