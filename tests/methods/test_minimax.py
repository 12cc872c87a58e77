"""Minimax's memories and criteria against queues in plain Python and loops over classes and pairs, in float64."""

from collections import Counter, deque
from itertools import product

import pytest
import torch

from distill_hub.methods.minimax import Memory, criteria
from distill_hub.running.seeds import cpu_generator

FORMS = ("minimax", "mean")


class Queues:
    """One queue per class: what `Memory` must do."""

    def __init__(self, classes, size):
        self.of = [deque(maxlen=size) for _ in range(classes)]

    def add(self, labels, latents):
        for label, latent in zip(labels.tolist(), latents.detach().clone(), strict=True):
            self.of[label].append(latent)


def cosine(a, b):
    return (a * b).sum() / ((a * a).sum() * (b * b).sum()).sqrt()


def plain_cosine(predicted, labels, queues, form, worst):
    """Return, class by class of the batch, the cosine that Eq. 3 or 4 optimises; None where nothing is remembered."""
    result = []
    for label in sorted(set(labels.tolist())):
        own = [latent for latent, other in zip(predicted, labels.tolist(), strict=True) if other == label]
        remembered = list(queues.of[label])
        if not remembered:
            result.append(None)
        elif form == "minimax":
            result.append(worst(torch.stack([cosine(latent, entry) for latent in own for entry in remembered])))
        else:
            centre = sum(remembered) / len(remembered)
            result.append(sum(cosine(latent, centre) for latent in own) / len(own))
    return result


def plain_criteria(predicted, labels, real, generated):
    """Return {form: L_r} and {form: L_d}."""
    nothing = 0 * predicted.sum()  # a number with a gradient
    near, far = {}, {}
    for form in FORMS:
        values = plain_cosine(predicted, labels, real, form, torch.min)
        near[form] = nothing + sum(0 if value is None else 1 - value for value in values) / len(values)
        values = plain_cosine(predicted, labels, generated, form, torch.max)
        far[form] = nothing + sum(0 if value is None else value for value in values) / len(values)
    return near, far


def assert_same(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-10)


def test_random_steps_equal_loops_in_value_and_gradient():
    draw = cpu_generator(0)

    def integer(low, high):
        return int(torch.randint(low, high + 1, (), generator=draw))

    met = Counter()
    for _ in range(40):
        classes, size, dimensions = integer(1, 6), integer(1, 9), integer(1, 20)
        real, generated = (Memory(classes, size, dimensions, dtype=torch.float64) for _ in range(2))
        plain_real, plain_generated = (Queues(classes, size) for _ in range(2))
        for _ in range(4):
            count = integer(1, 12)
            labels = torch.randint(classes, (count,), generator=draw)
            latents, predicted = torch.randn(2, count, dimensions, generator=draw, dtype=torch.float64)
            predicted = (3 * predicted + latents.mean()).requires_grad_()
            near, far = plain_criteria(predicted, labels, plain_real, plain_generated)
            for values in (near, far):
                for form, value in values.items():
                    values[form] = value, torch.autograd.grad(value, predicted, retain_graph=True)[0]
            for representativeness, diversity in product(FORMS, FORMS):
                losses = criteria(
                    predicted, labels, real, generated, representativeness=representativeness, diversity=diversity
                )
                for loss, (value, gradient) in zip(losses, (near[representativeness], far[diversity]), strict=True):
                    assert_same(loss, value)
                    assert_same(torch.autograd.grad(loss, predicted, retain_graph=True)[0], gradient)
            known = [bool(plain_real.of[label]) for label in set(labels.tolist())]
            met["a new class beside a known one"] += len(set(known)) == 2
            met["part of a memory filled"] += any(0 < len(queue) < size for queue in plain_real.of)
            met["several of a known class"] += any(known) and count > len(known)
            met["a full memory overflows"] += any(len(plain_real.of[label]) == size for label in labels.tolist())
            met["more of a class than fit"] += int(torch.bincount(labels).max()) > size
            for memory, queues, new in ((real, plain_real, latents), (generated, plain_generated, predicted)):
                memory.add(labels, new)
                queues.add(labels, new)
    assert len(met) == 5 and min(met.values()) >= 10, met


def test_hand_computed():
    """Two images of class 0, one of class 1, and one of class 2, of which nothing is remembered."""
    labels = torch.tensor([0, 1, 0, 2])
    predicted = torch.tensor([[30.0, 40.0], [0.0, 2.0], [1.0, 0.0], [5.0, 5.0]], dtype=torch.float64)
    real, generated = (Memory(4, 3, 2, dtype=torch.float64) for _ in range(2))
    real.add(torch.tensor([0, 0, 1]), torch.tensor([[3.0, 4.0], [3.0, -4.0], [3.0, 4.0]]))
    generated.add(torch.tensor([0, 0, 1]), torch.tensor([[-4.0, 3.0], [-4.0, -3.0], [-8.0, 6.0]]))
    # Class 0, real: cosines 1 and -7/25 of the first image, 0.6 and 0.6 of the second; of the mean (3, 0) 0.6 and 1.
    # Class 1, real: 0.8.  Class 0, generated: 0 and -24/25, -0.8 and -0.8; of the mean (-4, 0) -0.6 and -1.  Class 1: 0.6.
    near = {"minimax": (1.28 + 0.2 + 0) / 3, "mean": (0.2 + 0.2 + 0) / 3}
    far = {"minimax": (0 + 0.6 + 0) / 3, "mean": (-0.8 + 0.6 + 0) / 3}
    for one, other in product(FORMS, FORMS):
        losses = criteria(predicted, labels, real, generated, representativeness=one, diversity=other)
        assert [loss.item() for loss in losses] == pytest.approx([near[one], far[other]], abs=1e-15)
    default = criteria(predicted, labels, real, generated)
    assert [loss.item() for loss in default] == pytest.approx([near["minimax"], far["minimax"]], abs=1e-15)


@pytest.mark.parametrize(("representativeness", "diversity"), product(FORMS, FORMS))
def test_gradients_equal_finite_differences(representativeness, diversity):
    draw = cpu_generator(1)
    real, generated = (Memory(3, 4, 5, dtype=torch.float64) for _ in range(2))
    for memory in (real, generated):
        memory.add(torch.tensor([0, 0, 1, 0]), torch.randn(4, 5, generator=draw, dtype=torch.float64))
    predicted = torch.randn(5, 5, generator=draw, dtype=torch.float64).requires_grad_()
    labels = torch.tensor([0, 1, 2, 0, 1])

    def losses(predicted):
        return criteria(predicted, labels, real, generated, representativeness=representativeness, diversity=diversity)

    assert torch.autograd.gradcheck(losses, predicted, atol=1e-8, rtol=1e-6)


def remembered(memory, label):
    entries, filled = memory.of(torch.tensor([label]))
    return sorted(entries[filled].flatten().tolist())


def test_the_oldest_go_first():
    memory = Memory(2, 3, 1)
    memory.add(torch.tensor([0, 1, 0]), torch.tensor([[1.0], [2.0], [3.0]]))
    assert (remembered(memory, 0), remembered(memory, 1)) == ([1, 3], [2])
    memory.add(torch.tensor([0, 0]), torch.tensor([[4.0], [5.0]]))
    assert (remembered(memory, 0), remembered(memory, 1)) == ([3, 4, 5], [2])
    memory.add(torch.tensor([0, 0, 1, 0, 0, 0]), torch.tensor([[6.0], [7.0], [8.0], [9.0], [10.0], [11.0]]))
    assert (remembered(memory, 0), remembered(memory, 1)) == ([9, 10, 11], [2, 8])
    memory.add(torch.tensor([0]), torch.tensor([[12.0]]))
    assert remembered(memory, 0) == [10, 11, 12]


@pytest.mark.parametrize("size", [1, 2, 3, 5, 9])
def test_every_memory_is_a_queue(size):
    draw, classes, step = cpu_generator(size), 4, 0
    memory, queues = Memory(classes, size, 1), Queues(classes, size)
    for count in torch.randint(13, (60,), generator=draw).tolist():  # an empty batch among them
        labels = torch.randint(classes, (count,), generator=draw)
        latents = torch.arange(step, step + count)[:, None].float()
        step += count
        memory.add(labels, latents)
        queues.add(labels, latents)
        for label in range(classes):
            assert remembered(memory, label) == sorted(float(entry) for entry in queues.of[label])


def test_no_gradient_reaches_the_memories():
    draw = cpu_generator(2)
    before = torch.randn(4, 5, generator=draw).requires_grad_()
    real, generated = Memory(2, 3, 5), Memory(2, 3, 5)
    labels = torch.tensor([0, 1, 1, 0])
    for memory in (real, generated):
        memory.add(labels, before * 2)
        assert not memory.entries.requires_grad
    predicted = torch.randn(4, 5, generator=draw).requires_grad_()
    loss = sum(criteria(predicted, labels, real, generated))
    gradient, none = torch.autograd.grad(loss, [predicted, before], allow_unused=True)
    assert gradient.abs().sum() > 0
    assert none is None


def test_a_memory_is_a_copy():
    memory, latents = Memory(1, 2, 1), torch.tensor([[1.0], [2.0]])
    memory.add(torch.tensor([0, 0]), latents)
    latents.zero_()
    assert remembered(memory, 0) == [1, 2]


@pytest.mark.parametrize(("representativeness", "diversity"), product(FORMS, FORMS))
def test_classes_never_seen_give_exactly_nothing(representativeness, diversity):
    draw = cpu_generator(3)
    real, generated = Memory(5, 3, 4), Memory(5, 3, 4)
    for memory in (real, generated):
        memory.add(torch.tensor([4]), torch.ones(1, 4))  # another class is known
    predicted = torch.randn(6, 4, generator=draw).requires_grad_()
    labels = torch.tensor([0, 1, 1, 2, 0, 1])
    losses = criteria(predicted, labels, real, generated, representativeness=representativeness, diversity=diversity)
    for loss in losses:
        assert loss.item() == 0
        (gradient,) = torch.autograd.grad(loss, predicted)
        assert torch.equal(gradient, torch.zeros(6, 4))
