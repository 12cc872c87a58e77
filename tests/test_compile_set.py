"""--compile_set: what makes a set, compiled, gives what it gives uncompiled, up to rounding. No code is generated here."""

import functools

import pytest
import torch
from helpers import make_pipeline
from small_net import make_teacher
from tiny_tuning import build

from distill_hub.config import InputError
from distill_hub.data.classes import SourceClass
from distill_hub.generating.open import Located, resolve
from distill_hub.generators.dit import DiTGenerator
from distill_hub.methods import cao2
from distill_hub.recovery import deda, dwa, recover, sre2l

CLASSES = [SourceClass(name, place, None) for place, name in enumerate(("ant", "bee", "cat"))]
STILL = recover.Views(smallest_crop=1.0, flip=False, rolls=(0, 0))


@pytest.fixture
def graphs(monkeypatch) -> list[int]:
    """What the compiler traces is run as it is: the operations of every graph that it found."""
    found = []

    def run_as_it_is(module, example):
        found.append(sum(node.op.startswith("call") for node in module.graph.nodes))
        return module

    torch.compiler.reset()
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=run_as_it_is))
    yield found
    torch.compiler.reset()


class Bank:
    """Statistics of classes in memory, each of its own."""

    def read(self, labels, *names):
        return [tuple(self.of(name, size)[labels] for name in names) for size in (4, 6)]

    @staticmethod
    def of(name: str, size: int) -> torch.Tensor:
        shape = (3, size, size) if name == "covariance" else (3, size)
        return torch.rand(shape, generator=torch.Generator().manual_seed(size))


@pytest.mark.parametrize("method", ["lpld", "deda", "dwa"])
def test_recovery(method, graphs):
    """Chunk after chunk, each with goals of its own, which no earlier chunk's graph may keep."""
    teacher = make_teacher(CLASSES)

    def objective(labels: torch.Tensor):
        if method == "deda":
            return deda.objective(teacher, labels, 2, Bank())
        if method == "dwa":
            return dwa.objective(teacher, labels[1:3], steps=2)
        return sre2l.statistics_objective(teacher, labels, 2, bank=Bank(), weight=1.0)

    for labels in ([0, 0, 1, 1], [2, 2, 0, 0]):
        seeds = range(2 if method == "dwa" else 4)
        how = {"size": 16, "steps": 3, "learning_rate": 0.1, "views_seed": 0, "views": STILL}
        plain, compiled = (
            recover.recover(teacher, wrapped([objective(torch.tensor(labels))]), seeds, **how)
            for wrapped in (list, recover.compiled)
        )
        torch.testing.assert_close(compiled[1], plain[1])
        assert (compiled[0].int() - plain[0].int()).abs().max() <= 1
    assert max(graphs) > 15  # the network, in one piece


def test_generator(graphs):
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    found = []
    for compiled in (False, True):
        generator = DiTGenerator(make_pipeline(), steps=3, compiled=compiled)
        refined, _ = cao2.refine(generator, latents, [0, None], [1, 2], steps=3)
        found.append((generator.sample([0, 1, 2], [1, 2, 3]), refined))
        assert bool(graphs) == compiled
        assert list(generator.transformer.state_dict()) == list(make_pipeline().transformer.state_dict())
    for plain, compiled in zip(*found, strict=True):
        torch.testing.assert_close(compiled, plain, rtol=1e-4, atol=1e-4)


def test_fine_tuning(graphs, tmp_path):
    plain, compiled = build(tmp_path / "a"), build(tmp_path / "b", compiled=True)
    for step in range(3):  # the criteria begin once the memories hold something
        torch.testing.assert_close(
            compiled.update(compiled.batch(step)), plain.update(plain.batch(step)), rtol=1e-4, atol=1e-5
        )
    assert len(graphs) >= 2


def test_of_a_mar_it_is_refused():
    with pytest.raises(InputError, match=r"^compile_set: True cannot be used; a generator of the kind mar has none"):
        resolve(Located("mar", None), {"compile_set": True})
    assert resolve(Located("mar", "org/mar"), {"compile_set": False}) == {"compile_set": False}
