"""Training of students: augmentation by hand, determinism, schedule, and that it learns."""

import dataclasses

import pytest
import torch

from distill_hub.config import InputError
from distill_hub.evaluation.protocols import QUICK, protocol
from distill_hub.evaluation.train import accuracy, shift, train_student
from distill_hub.run import cpu_generator


def test_shift_moves_each_image_by_its_own_offset():
    images = torch.arange(3 * 2 * 5 * 5, dtype=torch.uint8).reshape(3, 2, 5, 5) + 1  # no zero in it
    seen = set()
    for seed in range(60):
        moved = shift(images, 1, cpu_generator(seed))
        assert moved.shape == images.shape and moved.dtype == torch.uint8
        for before, after in zip(images, moved, strict=True):
            fits = []
            for down in (-1, 0, 1):
                for right in (-1, 0, 1):
                    expected = torch.zeros_like(before)
                    rows = [(y, y - down) for y in range(5) if 0 <= y - down < 5]
                    columns = [(x, x - right) for x in range(5) if 0 <= x - right < 5]
                    for y, from_y in rows:
                        for x, from_x in columns:
                            expected[:, y, x] = before[:, from_y, from_x]
                    if torch.equal(after, expected):
                        fits.append((down, right))
            assert len(fits) == 1
            seen.add(fits[0])
    assert len(seen) == 9  # every offset is drawn


def test_shift_by_nothing_is_the_image():
    images = torch.rand(2, 3, 4, 4)
    assert shift(images, 0, cpu_generator(0)) is images


def stripes(count: int, seed: int):
    """Two classes: bright left half, bright right half, in noise."""
    draw = cpu_generator(seed)
    labels = torch.arange(count) % 2
    images = torch.randint(0, 80, (count, 3, 16, 16), generator=draw, dtype=torch.uint8)
    for image, label in zip(images, labels, strict=True):
        image[:, :, 8 * label : 8 * label + 8] += 100
    return images, labels


SHORT = dataclasses.replace(QUICK, steps=20, looks=4, batch_size=8)


def test_a_student_learns_and_depends_on_its_seed_alone():
    train, test = stripes(20, 0), stripes(50, 1)
    first, again, other = (train_student("convnet-2", train, test, 2, SHORT, seed) for seed in (0, 0, 1))
    assert first.last > 0.9
    assert first.best >= first.last
    assert first.best_step in (5, 10, 15, 20)
    assert not first.model.training
    assert accuracy(first.model, *test) == first.last
    weights = [torch.cat([p.detach().flatten() for p in t.model.parameters()]) for t in (first, again, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_a_set_smaller_than_a_batch_is_used_whole():
    train, test = stripes(4, 0), stripes(50, 1)
    assert train_student("convnet-2", train, test, 2, SHORT, 0).last > 0.8


def test_accuracy_counts():
    class Brightness(torch.nn.Module):
        def forward(self, images):
            bright = images.mean((1, 2, 3)) > 0
            return torch.nn.functional.one_hot(bright.long(), 2).float()

    images = torch.cat([torch.zeros(3, 3, 4, 4), torch.full((2, 3, 4, 4), 255)]).to(torch.uint8)
    assert accuracy(Brightness(), images, torch.tensor([0, 0, 1, 1, 0]), batch_size=2) == 3 / 5


def test_protocols_by_name_and_version():
    assert protocol("quick") is QUICK
    assert not QUICK.standard
    with pytest.raises(InputError, match="did you mean 'quick'"):
        protocol("quik")
    with pytest.raises(InputError, match="knows version 1"):
        protocol("quick", 2)
