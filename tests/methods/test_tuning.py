"""Fine-tuning a generator: only what is meant to trains; processes, forward passes and kills do not change the outcome."""

import json
import math
import re

import pytest
import torch
from helpers import make_pipeline
from processes import run_python
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny_tuning import LABELS, build, outcome

from distill_hub.config import InputError, check_settings
from distill_hub.methods import tuning as tuning_module
from distill_hub.options.minimax import MinimaxConfig


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """One process, one forward pass a step, uninterrupted."""
    tuning = build(tmp_path_factory.mktemp("plain"))
    tuning.train()
    return tuning


def test_what_trains_moves_and_nothing_else(plain):
    before = make_pipeline(learned_variance=True).transformer.state_dict()
    moved = set()
    for name, tensor in plain.transformer.state_dict().items():
        original = before.get(name, torch.ones_like(tensor))  # the scales are new
        if not torch.equal(tensor, original):
            moved.add(name)
    assert moved == plain.parameters.keys()
    assert {name.rsplit(".", 1)[1] for name in moved} == {"bias", "gamma", "weight"}


def test_the_losses_fall_and_are_in_their_ranges(tmp_path):
    tuning = build(tmp_path, tuning_epochs=60, tuning_learning_rate=3e-3)
    tuning.train()
    diffusion, representativeness, diversity = tuning.losses.T
    assert diffusion[-60:].mean() < 0.8 * diffusion[:10].mean()
    assert representativeness.min() >= 0 and representativeness.max() <= 2
    assert diversity.abs().max() <= 1
    assert representativeness[0] == diversity[0] == 0  # no memory yet
    assert (representativeness[1:] > 0).all()


def test_every_epoch_holds_every_image_at_most_once_and_labels_are_dropped(plain, tmp_path):
    tuning = build(tmp_path, label_dropout=0.5, tuning_epochs=40)
    dropped, seen = 0, []
    for step in range(tuning.steps):
        batch = tuning.batch(step)
        null = batch.conditions == 3
        dropped += int(null.sum())
        assert torch.equal(batch.conditions[~null], torch.tensor([2, 0, 1])[batch.labels[~null]])
        seen.append(batch.latents)
    assert abs(dropped / (40 * 40) - 0.5) < 0.06
    for epoch in range(2):
        flat = torch.cat(seen[epoch * 5 : epoch * 5 + 5]).flatten(1)
        assert torch.cdist(flat, flat).fill_diagonal_(99).min() > 10  # 40 different images of 256 numbers each


def test_the_average_is_the_constant_decay_from_the_first_step_on(tmp_path):
    tuning = build(tmp_path)
    name = next(iter(tuning.parameters))
    average = tuning.parameters[name].detach().clone().double()
    for step in range(4):
        tuning.update(tuning.batch(step))
        average = 0.9 * average + 0.1 * tuning.parameters[name].detach().double()
    torch.testing.assert_close(tuning.ema.shadow_params[0].double(), average, rtol=0, atol=1e-6)


def test_killed_and_resumed_is_uninterrupted_bit_for_bit(plain, tmp_path):
    def stop(step):
        if step == 8:
            raise KeyboardInterrupt
        return original(step)

    first = build(tmp_path, checkpoint_steps=3)
    original, first.batch = first.batch, stop
    with pytest.raises(KeyboardInterrupt):
        first.train()
    second = build(tmp_path, checkpoint_steps=3)
    assert second.checkpoint.step == 6
    second.train()
    for name, tensor in outcome(plain).items():
        assert torch.equal(outcome(second)[name], tensor), name
    assert all(second.cost[name] > 0 for name in ("seconds", "core_seconds"))


def test_a_checkpoint_that_an_older_version_left_is_gone_on_from_and_its_cost_stays_unknown(plain, tmp_path):
    first = build(tmp_path, tuning_epochs=1)
    first.train()
    save_file(load_file(first.checkpoint.file), first.checkpoint.file, {"step": "5", "seconds": "1.5"})  # all that it said
    second = build(tmp_path)
    second.train()
    same(second, plain)
    assert second.cost["seconds"] > 1.5 and second.cost["core_seconds"] is second.cost["gpu_seconds"] is None
    assert build(tmp_path).train() == second.cost  # from its own checkpoint, too


def same(one: tuning_module.Tuning, other: tuning_module.Tuning) -> None:
    for name, tensor in outcome(one).items():
        assert torch.equal(outcome(other)[name], tensor), name


def test_a_longer_one_goes_on_from_a_shorter_one_to_the_same_bits(plain, tmp_path):
    """Of 3 epochs at once, 15 steps; and of 1, 2 and 3, each of which takes 5."""
    at_once = build(tmp_path / "at once", tuning_epochs=3)
    at_once.train()
    taken = []
    for epochs in (1, 2, 3):
        tuning = build(tmp_path / "in parts", tuning_epochs=epochs)
        original = tuning.batch
        tuning.batch = lambda step, original=original: taken.append(step) or original(step)
        tuning.train()
        if epochs == 2:
            same(plain, tuning)
    assert taken == list(range(15))
    same(at_once, tuning)


def test_a_group_of_classes_is_tuned_as_if_there_were_no_others(tmp_path):
    """And its checkpoint is that of two classes, not of three."""
    among, alone = (build(tmp_path / str(is_alone), classes=range(1, 3), alone=is_alone) for is_alone in (False, True))
    among.train()
    alone.train()
    same(among, alone)
    assert load_file(among.checkpoint.file)["memory.real.entries"].shape == (2, 4, 256) and among.per_epoch == 30 // 8


def test_what_is_kept_of_an_epoch_is_what_a_fine_tuning_of_so_many_ends_with(plain, tmp_path):
    tuning = build(tmp_path / "4", tuning_epochs=4, keep_epochs="3,2")
    tuning.train()
    assert {file.name for file in tuning.state.glob("epoch-*")} == {f"epoch-{n}.safetensors" for n in (2, 3, 4)}
    kept = tuning_module.averaged(tuning.state, 2)
    assert kept.keys() == plain.parameters.keys()
    assert all(torch.equal(kept[name], weights) for name, weights in plain.parameters.items())
    assert all(
        torch.equal(tuning_module.averaged(tuning.state, 4)[name], weights) for name, weights in tuning.parameters.items()
    )


def test_an_epoch_that_was_not_kept_and_is_over_begins_anew(plain, tmp_path, capsys):
    for changes, told in (
        ({"tuning_epochs": 3}, False),
        ({"tuning_epochs": 4, "keep_epochs": "3"}, False),  # the end of the one before
        ({"tuning_epochs": 5, "keep_epochs": "1"}, True),
        ({"tuning_epochs": 2}, True),
    ):
        tuning = build(tmp_path, **changes)
        tuning.train()
        assert ("begins anew; what is there is past epoch" in capsys.readouterr().out) == told, changes
    same(plain, tuning)
    assert tuning.step == 10
    build(tmp_path, tuning_epochs=1).train()
    assert "begins anew; what is there is past epoch 1, the last one" in capsys.readouterr().out  # its weights were kept


def test_killed_at_the_end_of_a_kept_epoch(plain, tmp_path):
    """Its checkpoint is written, what is kept is not."""
    first = build(tmp_path, tuning_epochs=3, checkpoint_steps=5, keep_epochs="2")
    first._keep = lambda epoch: (_ for _ in ()).throw(KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        first.train()
    second = build(tmp_path, tuning_epochs=3, checkpoint_steps=5)
    second.train()
    third = build(tmp_path, tuning_epochs=3, checkpoint_steps=5, keep_epochs="2")
    third.train()
    assert all(
        torch.equal(tuning_module.averaged(third.state, 2)[name], weights) for name, weights in plain.parameters.items()
    )


@pytest.mark.parametrize("words", ["0", "9", "1,,2", "a", "1.5", "-1", ","])
def test_epochs_that_cannot_be_kept(words):
    with pytest.raises(InputError, match=r"keep_epochs: .*numbers from 1 to 8"):
        check_settings(MinimaxConfig(keep_epochs=words))
    check_settings(MinimaxConfig(keep_epochs="2, 4,8"))
    assert MinimaxConfig(keep_epochs="4, 2,8").epochs_to_save == [2, 4, 8]


def close(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor], tolerance: float = 1e-4) -> None:
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=0, atol=tolerance, msg=lambda text, name=name: f"{name}: {text}")


ABLATION = {"representativeness": "mean", "diversity": "mean", "embedding": "residual"}
SHARED = {"plain": {}, "ablation": ABLATION, "two passes each": {"micro_batch_size": 2}}


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """Outcomes of two processes."""
    folder = tmp_path_factory.mktemp("two")
    result = run_python("tests/tiny_tuning.py", str(folder), json.dumps(SHARED), world=2)
    assert result.returncode == 0, result.stderr[-3000:]
    return {name: load_file(folder / name / "outcome.safetensors") for name in SHARED}


@pytest.mark.parametrize("name", SHARED)
def test_two_processes_do_what_one_does(plain, shared, tmp_path, name):
    one = plain
    if name == "ablation":
        one = build(tmp_path, **ABLATION)
        one.train()
    close(shared[name], {n: t.detach() for n, t in outcome(one).items()})


@pytest.mark.parametrize("changes", [{"micro_batch_size": 4}, {"micro_batch_size": 1}, {"gradient_checkpointing": True}])
def test_forward_passes_and_checkpointing_change_nothing(plain, tmp_path, changes):
    tuning = build(tmp_path, **changes)
    tuning.train()
    close({n: t.detach() for n, t in outcome(tuning).items()}, {n: t.detach() for n, t in outcome(plain).items()})


def test_one_step_against_the_paper_written_out(tmp_path):
    """Alg. 1 in one piece: a single loss of the whole batch, its gradient by autograd."""
    tuning = build(tmp_path, lambda_r=0.3, lambda_d=0.7, learned_variance=False)
    tuning.update(tuning.batch(0))  # fills the memories
    weights = {name: parameter.detach().clone() for name, parameter in tuning.parameters.items()}
    batch = tuning.batch(1)
    alpha = tuning.objective.add_noise(torch.ones(8, 1, 1, 1), torch.zeros(8, 1, 1, 1), batch.timesteps)  # √ᾱ
    sigma = (1 - alpha**2).sqrt()
    noisy = alpha * batch.latents + sigma * batch.noise
    output = tuning.transformer(noisy, timestep=batch.timesteps, class_labels=batch.conditions).sample
    guess = ((noisy - sigma * output) / alpha).flatten(1)
    loss, classes = (output - batch.noise).square().mean(), batch.labels.unique()
    for label in classes.tolist():
        filled = min(int(tuning.real.seen[label]), 4)
        if not filled:
            continue
        own = guess[batch.labels == label]
        pairs = [(z, m) for z in own for m in tuning.real.entries[label, :filled]]
        near = torch.stack([torch.cosine_similarity(z, m, dim=0) for z, m in pairs]).min()
        pairs = [(z, d) for z in own for d in tuning.generated.entries[label, :filled]]
        far = torch.stack([torch.cosine_similarity(z, d, dim=0) for z, d in pairs]).max()
        loss = loss + (0.3 * (1 - near) + 0.7 * far) / len(classes)
    gradients = torch.autograd.grad(loss, list(tuning.parameters.values()))
    taken = {}
    tuning.optimizer.step = lambda: taken.update({n: p.grad.clone() for n, p in tuning.parameters.items()})
    tuning.update(batch)
    for (name, gradient), expected in zip(taken.items(), gradients, strict=True):
        torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}")
    assert weights.keys() == taken.keys()


def test_without_weights_it_is_difffit(tmp_path):
    """No criterion is computed, no memory kept, and a step is the plain diffusion loss's."""
    tuning = build(tmp_path, lambda_r=0.0, lambda_d=0.0, micro_batch_size=4)
    tuning.update(tuning.batch(0))
    assert not tuning.real.seen.any() and not tuning.generated.entries.any()


class TestBadInput:
    def test_a_loss_that_is_not_finite_names_the_step_and_keeps_the_checkpoint(self, tmp_path):
        tuning = build(tmp_path, checkpoint_steps=3)
        original = tuning.update

        def update(batch):
            calls.append(batch)
            return original(batch) * (math.nan if len(calls) == 8 else 1)

        calls = []
        tuning.update = update
        with pytest.raises(InputError) as error:
            tuning.train()
        assert re.search(r"diffusion loss: nan .* in step 8 of 10; the checkpoint of step 6 is kept", str(error.value))
        assert "\n" not in str(error.value)
        with safe_open(tuning.checkpoint.file, "pt") as file:
            assert file.metadata()["step"] == "6"
        assert all(tensor.isfinite().all() for tensor in load_file(tuning.checkpoint.file).values())

    def test_weights_that_are_not_finite_get_into_no_checkpoint(self, tmp_path):
        tuning = build(tmp_path, checkpoint_steps=1)
        original = tuning.optimizer.step

        def step():
            original()
            if tuning.step == 2:
                next(iter(tuning.parameters.values())).data[0] = math.inf

        tuning.optimizer.step = step
        with pytest.raises(InputError, match=r"trained weights: nan .* step 3 of 10; the checkpoint of step 2 is kept"):
            tuning.train()
        assert all(tensor.isfinite().all() for tensor in load_file(tuning.checkpoint.file).values())

    def test_a_checkpoint_of_something_else_is_dropped(self, tmp_path):
        first = build(tmp_path, identity={"generator": "one", "source": "digits"})
        first.save()
        assert build(tmp_path, identity={"generator": "one", "source": "digits"}).checkpoint.file.exists()
        assert not build(tmp_path, identity={"generator": "one", "source": "letters"}).checkpoint.file.exists()
        first.save()
        assert not build(tmp_path, identity={"generator": "one", "source": "digits"}, ema_decay=0.5).checkpoint.file.exists()

    @pytest.mark.parametrize(("named", "counts", "size"), [(None, (70, 65), 64), (None, (70, 32), 32), (16, (70, 32), 16)])
    def test_a_memory_holds_64_or_as_many_as_the_smallest_class(self, named, counts, size):
        labels = torch.tensor([0] * counts[0] + [1] * counts[1])
        settings = tuning_module.TuningOptions(memory_size=named, ema_decay=0.5)
        assert tuning_module.with_memory(settings, labels) == tuning_module.TuningOptions(memory_size=size, ema_decay=0.5)

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"micro_batch_size": 3}, r"micro_batch_size: 3 .* divide the 8 images"),
            ({"memory_size": 16}, r"memory_size: 16 .*class 'zero' has 15 images.*at most 15"),
            ({"tuning_batch_size": 64}, r"tuning_batch_size: 64 .* 45 training images"),
        ],
    )
    def test_settings_that_cannot_be(self, tmp_path, changes, words):
        with pytest.raises(InputError, match=words):
            build(tmp_path, **changes)

    def test_a_batch_that_processes_cannot_share(self):
        class Three:
            mixed_precision, num_processes = "no", 3

        class Half:
            mixed_precision, num_processes = "fp16", 1

        settings = tuning_module.TuningOptions()
        with pytest.raises(InputError, match=r"tuning_batch_size: 8 .*3 processes"):
            tuning_module.check(settings, ["a", "b", "c"], LABELS, Three())
        with pytest.raises(InputError, match=r"fp16.*bf16"):
            tuning_module.check(settings, ["a", "b", "c"], LABELS, Half())
