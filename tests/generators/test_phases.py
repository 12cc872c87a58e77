"""One network and the weights of each group of classes: as if every group had a generator of its own."""

import json
import shutil

import pytest
import torch
from helpers import make_pipeline
from safetensors.torch import load_file, save_file

from distill_hub.artifact.describe import generator_record
from distill_hub.config import InputError
from distill_hub.generators.difffit import prepare
from distill_hub.generators.dit import DiTGenerator
from distill_hub.generators.known import PHASES
from distill_hub.generators.phases import Phases
from distill_hub.guidance.mgd3 import Towards
from distill_hub.running.seeds import cpu_generator

PHASE = torch.tensor([1, 0, 1])  # of the three classes


def tuned(phase: int) -> dict[str, torch.Tensor]:
    """What a fine-tuning might leave of the weights that it trains."""
    draw = cpu_generator(phase)
    parameters = prepare(make_pipeline(learned_variance=True).transformer)
    return {name: p.detach() + 0.2 * torch.randn(p.shape, generator=draw) for name, p in parameters.items()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("phased") / "generator"
    make_pipeline(learned_variance=True).save_pretrained(place)
    index = place / "model_index.json"
    index.write_text(json.dumps({**json.loads(index.read_text()), "id2label": {"0": "zero", "2": "two", "1": "one"}}))
    both = [tuned(0), tuned(1)]
    Phases(PHASE, {name: torch.stack([weights[name] for weights in both]) for name in both[0]}).save(place)
    return place


def alone(phase: int, **how) -> DiTGenerator:
    """A generator of one phase, its weights written into the network."""
    pipeline = make_pipeline(learned_variance=True)
    for name, parameter in prepare(pipeline.transformer).items():
        parameter.data.copy_(tuned(phase)[name])
    return DiTGenerator(pipeline, **how)


@pytest.fixture(scope="module")
def phased(folder):
    return DiTGenerator.from_pretrained(str(folder), steps=3)


def test_every_class_is_drawn_with_the_weights_of_its_group(phased):
    classes, seeds = [0, 1, 2, 1], [5, 6, 7, 8]
    latents = phased.sample(classes, seeds)
    for row, (c, seed) in enumerate(zip(classes, seeds, strict=True)):
        own, other = (alone(p, steps=3).sample([c], [seed])[0] for p in (int(PHASE[c]), 1 - int(PHASE[c])))
        torch.testing.assert_close(latents[row], own, rtol=1e-4, atol=1e-4)
        assert (latents[row] - other).abs().max() > 0.1
    assert torch.equal(latents[1], phased.sample([1, 1], seeds[1::2])[0])


def test_a_guide_and_a_start_are_those_of_each_image(phased):
    classes, seeds = [0, 1, 2, 1], [5, 6, 7, 8]
    modes, start = (torch.randn(4, 4, 8, 8, generator=cpu_generator(seed)) for seed in (1, 2))
    latents = phased.sample(classes, seeds, guide=Towards(modes, 0.1, 1.0), start=start, strength=0.7)
    for row, (c, seed) in enumerate(zip(classes, seeds, strict=True)):
        one = slice(row, row + 1)
        how = {"guide": Towards(modes[one], 0.1, 1.0), "start": start[one], "strength": 0.7}
        own = alone(int(PHASE[c]), steps=3).sample([c], [seed], **how)
        torch.testing.assert_close(latents[one], own, rtol=1e-4, atol=1e-4)


def test_residuals_and_their_gradients_are_those_of_the_group(phased):
    classes = [0, 1, 2]
    latents = torch.randn(3, 4, 8, 8, generator=cpu_generator(0)).requires_grad_(True)
    corruption = phased.corruption([cpu_generator(seed) for seed in (5, 6, 7)])
    residual = phased.residual(latents, corruption, classes)
    (gradient,) = torch.autograd.grad(residual.square().sum(), latents)
    for row, c in enumerate(classes):
        own = latents[row : row + 1].detach().clone().requires_grad_(True)
        generator = alone(int(PHASE[c]))
        expected = generator.residual(own, generator.corruption([cpu_generator(5 + row)]), [c])
        torch.testing.assert_close(residual[row], expected[0], rtol=1e-4, atol=1e-4)
        (slope,) = torch.autograd.grad(expected.square().sum(), own)
        torch.testing.assert_close(gradient[row], slope[0], rtol=1e-3, atol=1e-3)


def test_the_weights_of_the_phases_are_part_of_its_hash(phased, folder, tmp_path):
    base = generator_record(DiTGenerator(make_pipeline(learned_variance=True)), "x").sha256
    other = shutil.copytree(folder, tmp_path / "other")
    weights = load_file(other / PHASES)
    save_file({**weights, "phase": torch.tensor([0, 0, 1])}, other / PHASES)
    hashes = {base, *(generator_record(g, "x").sha256 for g in (phased, DiTGenerator.from_pretrained(str(other))))}
    assert len(hashes) == 3


def test_it_says_which_classes_it_can_draw(phased, folder, tmp_path):
    assert phased.facts.classes == {0, 1, 2} and alone(0).facts.classes is None
    some = shutil.copytree(folder, tmp_path / "some")
    save_file({**load_file(some / PHASES), "phase": torch.tensor([1, -1, 0])}, some / PHASES)
    assert DiTGenerator.from_pretrained(str(some)).facts.classes == {0, 2}


def test_without_a_class_there_is_no_group(phased):
    corruption = phased.corruption([cpu_generator(0)])
    with pytest.raises(InputError, match=r"condition: 'null' .*groups of classes"):
        phased.residual(torch.zeros(1, 4, 8, 8), corruption, [None])


@pytest.mark.parametrize(
    "change",
    [
        lambda w: w.pop("phase"),
        lambda w: w.update(phase=torch.tensor([0, 2, 0])),
        lambda w: w.update(phase=torch.tensor([0, 1])),
        lambda w: w.update(phase=torch.tensor([0.0, 1.0, 0.0])),
        lambda w: w.pop(next(name for name in w if name != "phase")),
        lambda w: w.update(odd=torch.zeros(2, 3)),
        lambda w: w.update({k: t[..., :1].contiguous() for k, t in w.items() if k.endswith("proj_out_2.bias")}),
        lambda w: w.update({k: t * torch.nan for k, t in w.items() if k.endswith("proj_out_2.bias")}),
        lambda w: [w.pop(name) for name in [*w] if name != "phase"],
    ],
)
def test_weights_that_are_not_those_of_the_network(folder, tmp_path, change):
    other = shutil.copytree(folder, tmp_path / "other")
    weights = load_file(other / PHASES)
    change(weights)
    save_file(weights, other / PHASES)
    with pytest.raises(InputError, match=r"generator: .*its phases\.safetensors"):
        DiTGenerator.from_pretrained(str(other))
    (other / PHASES).write_bytes(b"nothing of the kind")
    with pytest.raises(InputError, match=r"generator: .*its phases\.safetensors cannot be read"):
        DiTGenerator.from_pretrained(str(other))
