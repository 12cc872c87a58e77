"""Training of a teacher: what a step does, killed and resumed, one process and two, and the folder that is left."""

import dataclasses
import functools
import json
import threading

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from datasets import Dataset, Features
from datasets import Image as ImageFeature
from helpers import refused, run_here
from huggingface_hub import ModelCard
from PIL import Image
from processes import run_python
from safetensors.torch import load_file
from torch import nn

from distill_hub.artifact.describe import weights_sha256
from distill_hub.augmentation.augment import Augmentation, draw, usual_augmentation
from distill_hub.classifiers import load_classifier
from distill_hub.config import InputError, resolved
from distill_hub.coresets.dynamics import aum, read_dynamics
from distill_hub.coresets.names import DYNAMICS
from distill_hub.data.size import with_size
from distill_hub.feed import ahead
from distill_hub.networks.build import build
from distill_hub.options.fit_classifier import FitClassifierConfig
from distill_hub.running.run import Run
from distill_hub.running.seeds import cpu_generator, draw_seed
from distill_hub.teachers import fit as module
from distill_hub.teachers.fit import Fit, classifier_task, fit_classifier, rate
from distill_hub.teachers.open import open_teacher
from distill_hub.training.subject import HeldOut

SMALL = {"network": "convnet-1-bn", "image_size": 8, "epochs": 4, "batch_size": 64}
WORDS = ["--network", "convnet-1", "--image_size", "8", "--epochs", "1", "--learning_rate", "0.01"]


def first_images(source, count):
    """The same source with less to train on."""
    train = source.train
    some = dataclasses.replace(train, dataset=train.dataset.select(range(count)), labels=train.labels[:count])
    return dataclasses.replace(source, train=some)


def fit_in(folder, source, **settings):
    """Train as the recipe does; return the run."""
    return fit_classifier(source, FitClassifierConfig(**{**SMALL, **settings}, output_dir=folder))


def prepared(folder, source, **settings):
    config = FitClassifierConfig(**{**SMALL, **settings})
    fit = Fit(Run(folder, resolved(config)), source, classifier_task(config, source), config)
    fit.load_images()
    return fit


@pytest.fixture(scope="module")
def finished(tmp_path_factory, digits):
    """The folder of a trained convnet-1-bn, and the run that made it."""
    folder = tmp_path_factory.mktemp("classifier") / "digits"
    return folder, fit_in(folder, digits)


def record_of(folder):
    return json.loads((folder / "config.json").read_text())["distill_hub"]


# What a step does


@pytest.mark.parametrize("epochs", [40, 10])
def test_the_first_two_steps_are_those_of_a_loop_written_by_hand(tmp_path, digits, epochs):
    """With 40 epochs of 1 step both are part of the warm-up, of 2 steps; with 10 there is none."""
    source = first_images(digits, 40)
    fit = prepared(tmp_path / "c", source, epochs=epochs, batch_size=32, seed=5, weight_decay=0.01, dynamics=True)
    losses = [fit.update(step, fit.batch(step)).item() for step in range(2)]

    rates = [0.1 / 3, 0.2 / 3] if epochs == 40 else [0.1, 0.1 * (1 + np.cos(np.pi / 10)) / 2]
    torch.manual_seed(draw_seed(5, "classifier weights"))
    # Rounding is that of the layout, and large where a filter sees next to nothing.
    network = build("convnet-1-bn", 10, 8).train().to(memory_format=torch.channels_last)
    pixels = torch.stack(
        [torch.from_numpy(np.array(source.train.image(i).convert("RGB").resize((8, 8), 2))) for i in range(40)]
    )
    pixels = F.pad(pixels.permute(0, 3, 1, 2).float() / 255, (1, 1, 1, 1))  # black, an eighth of 8 px
    mean, std = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]]).view(2, 3, 1, 1)
    momentum = [torch.zeros_like(p) for p in network.parameters()]
    for step, expected in enumerate(losses):
        draws = draw(Augmentation(pad=0.125), 40, 32, 8, cpu_generator(draw_seed(5, "classifier epoch", step)))
        order, shift = draws["order"][:32], draws["shift"][:32] + 1
        crops = [pixels[i, :, top : top + 8, left : left + 8] for i, (top, left) in zip(order, shift, strict=True)]
        images = ((torch.stack(crops) - mean) / std).contiguous(memory_format=torch.channels_last)
        logits, labels = network(images), torch.from_numpy(source.train.labels)[order]
        loss = F.cross_entropy(logits, labels)
        assert loss.item() == pytest.approx(expected, abs=1e-5)
        gradients = torch.autograd.grad(loss, list(network.parameters()))
        with torch.no_grad():
            for weight, gradient, buffer in zip(network.parameters(), gradients, momentum, strict=True):
                buffer.mul_(0.9).add_(gradient + 0.01 * weight)
                weight -= rates[step] * buffer
    for name, tensor in network.state_dict().items():
        torch.testing.assert_close(fit.network.state_dict()[name], tensor, rtol=0, atol=1e-6)
    fit.recorder.end_epoch(1)  # what was said in the second one
    errors = (logits.softmax(1) - F.one_hot(labels, 10)).norm(dim=1).detach()
    torch.testing.assert_close(fit.recorder.state["error"][1, order], errors, rtol=0, atol=1e-5)


def test_the_learning_rate_warms_up_and_falls_to_0():
    rates = [rate(step, 1000, 5) for step in range(1001)]
    assert rates[0] == pytest.approx(1 / 26) and rates[24] == pytest.approx(25 / 26)  # 5 epochs of 5 steps
    assert rates[25] == 1.0 and rates[1000] == 0.0 and rates[512] == pytest.approx(0.5, abs=0.001)
    assert [rate(step, 60, 20) for step in range(4)] == pytest.approx([0.25, 0.5, 0.75, 1.0])  # 5 % of 60 steps
    assert rate(0, 10, 1) == 1.0


def test_augmentation_follows_image_size_and_what_may_be_mirrored(digits):
    def rules(size, mirrored=False):
        task = classifier_task(FitClassifierConfig(network="convnet-1-bn", image_size=size), digits)
        return usual_augmentation(task.image_size, mirrored)

    assert rules(64) == Augmentation(pad=0.125) and rules(64, mirrored=True) == Augmentation(pad=0.125, flip=True)
    assert rules(65, mirrored=True) == Augmentation(crop_scale=(0.08, 1.0), flip=True)


def test_the_network_suits_the_image_size_by_default(digits):
    task = classifier_task(FitClassifierConfig(), digits)
    assert (task.student, task.image_size, task.images) == ("convnet-2-bn", 16, 1297)


# Killed and resumed, one process and two


class Killed(Exception):
    pass


def test_killed_and_resumed_gives_the_same_weights(tmp_path, digits, monkeypatch):
    """With BatchNorm and dropout; the kill comes in the middle of the epoch after a checkpoint."""

    def with_dropout(*what):
        network = build(*what)
        network.features.append(nn.Dropout(0.5))
        return network

    monkeypatch.setattr(module, "build", with_dropout)
    source = first_images(digits, 70)
    settings = {"epochs": 4, "batch_size": 16, "checkpoint_epochs": 2, "dynamics": True}
    fit_in(tmp_path / "whole", source, **settings)
    update = Fit.update

    def until_step_11(self, step, batch):
        if step == 10:
            raise Killed
        return update(self, step, batch)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Fit, "update", until_step_11)
        fit_in(tmp_path / "killed", source, **settings)
    assert (tmp_path / "killed" / ".run" / "fit" / "checkpoint.safetensors").is_file()
    steps = []
    monkeypatch.setattr(Fit, "update", lambda self, step, batch: steps.append(step) or update(self, step, batch))
    fit_in(tmp_path / "killed", source, **settings)
    assert steps == list(range(8, 16))
    for file in ("model.safetensors", DYNAMICS):
        whole, resumed = (load_file(tmp_path / name / file) for name in ("whole", "killed"))
        assert all(torch.equal(resumed[name], tensor) for name, tensor in whole.items())
    assert ((whole["error"] < 0).sum(1) == 70 - 64).all() and len(whole["margin"]) == 4
    dynamics = read_dynamics(source, str(tmp_path / "killed"))
    assert dynamics.difficulty("aum", 4).equal(-aum(whole["margin"], whole["error"]))
    assert record_of(tmp_path / "killed")["test_accuracy"] == record_of(tmp_path / "whole")["test_accuracy"]


def test_a_checkpoint_that_an_older_version_left_is_gone_on_from_and_its_cost_stays_unknown(tmp_path, digits):
    fit, resumed = (prepared(tmp_path, digits) for _ in range(2))
    fit.epoch, fit.cost = 1, {"seconds": 1.5}  # all that it wrote
    fit.save()
    resumed.resume()
    assert resumed.epoch == 1 and resumed.cost == {"seconds": 1.5, "core_seconds": None, "gpu_seconds": None}


def test_the_loss_scale_of_half_precision_is_kept(tmp_path, digits):
    """Scaled by powers of two, which round nothing away, a training is the same as without."""
    source, settings = first_images(digits, 64), {"epochs": 3, "batch_size": 16}  # 12 steps

    def steps(scaler, start, stop, folder):
        config = FitClassifierConfig(**{**SMALL, **settings})
        run = Run(tmp_path / folder, resolved(config))
        run.accelerator.scaler = scaler
        fit = Fit(run, source, classifier_task(config, source), config)
        fit.load_images()
        fit.resume()
        for step in range(start, stop):
            fit.update(step, fit.batch(step))
        fit.epoch = stop // 4
        fit.save()
        return fit.network.state_dict()

    whole = steps(None, 0, 12, "whole")
    first, second = (torch.amp.GradScaler("cpu", init_scale=2.0**8, growth_interval=5) for _ in range(2))
    steps(first, 0, 4, "scaled")
    resumed = steps(second, 4, 12, "scaled")
    assert second.get_scale() == 2.0**10 and second.state_dict()["_growth_tracker"] == 2  # grown in steps 5 and 10
    assert all(torch.equal(resumed[name], tensor) for name, tensor in whole.items())


def test_a_run_on_other_images_begins_anew_and_says_so(tmp_path, digits, monkeypatch, capsys):
    def killed(fit, step, batch):
        if step == 2 * fit.per_epoch:
            raise Killed
        return update(fit, step, batch)

    update, first = Fit.update, first_images(digits, 70)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Fit, "update", killed)
        fit_in(tmp_path / "c", first, checkpoint_epochs=1)
    assert (tmp_path / "c" / ".run" / "fit" / "checkpoint.safetensors").exists()
    capsys.readouterr()
    other = first_images(digits, 71)
    run = fit_in(tmp_path / "c", other)
    told = " ".join(capsys.readouterr().out.split())
    assert "Going on in" in told and "with other settings: other training images" in told
    fit_in(tmp_path / "undisturbed", other)
    weights = [load_file(tmp_path / name / "model.safetensors") for name in ("c", "undisturbed")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0]) and not run.stages[0]["reused"]


def test_two_processes_do_what_one_does(tmp_path):
    words = [*WORDS, "--dynamics", "--output_dir"]
    result = run_python("recipes/fit_classifier.py", *words, str(tmp_path / "two"), world=2)
    assert result.returncode == 0, result.stderr[-3000:]
    run_here("recipes/fit_classifier.py", *words, str(tmp_path / "one"))
    one, two = (load_file(tmp_path / name / DYNAMICS) for name in ("one", "two"))
    assert all(torch.allclose(two[name], tensor, rtol=0, atol=1e-3) for name, tensor in one.items())
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    torch.manual_seed(draw_seed(0, "classifier weights"))
    untrained = build("convnet-1", 10, 8).state_dict()
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=0, atol=1e-4)
    assert max((one[name] - untrained[name]).abs().max() for name in one) > 0.005
    assert record_of(tmp_path / "two")["environment"]["processes"] == 2


# The folder


def test_it_learns_and_says_how_well(finished, digits):
    folder, run = finished
    record = record_of(folder)
    classifier = load_classifier(str(folder), digits.classes)
    predicted = classifier.predict(digits.test.pixels(None, 8))
    assert record["test_accuracy"] == (predicted.numpy() == digits.test.labels).mean() > 0.8
    assert record["source"]["fingerprint"] == digits.fingerprint and record["classes"] == digits.class_names
    assert record["steps"] == 4 * (1297 // 64) and record["environment"]["packages"].keys() >= {"torch", "timm"}
    expected = {"epochs": 4, "batch_size": 64, "learning_rate": 0.1, "weight_decay": 5e-4, "seed": 0, "flip": False}
    assert expected.items() <= record["settings"].items()
    assert record.keys().isdisjoint({"pretrained", "trained_on", "test_resize"})  # which older versions do not know
    stages = {stage["name"]: stage["items"] for stage in run.stages}
    assert stages == {"decode": 1297, "fit": 80, "test and save": 1}


def test_nothing_is_left_that_only_resuming_needs(finished):
    folder, run = finished
    run.end()
    assert {path.name for path in folder.iterdir()} == {".run", "README.md", "config.json", "cost.json", "model.safetensors"}
    assert [path.name for path in (folder / ".run").iterdir()] == ["config.json"]


def test_logits_are_those_of_the_weights_in_any_order_of_classes(finished, digits):
    folder, _ = finished
    network = build("convnet-1-bn", 10, 8).eval()
    network.load_state_dict(load_file(folder / "model.safetensors"))
    images = torch.rand(5, 3, 8, 8, generator=cpu_generator(0))
    mean, std = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]]).view(2, 3, 1, 1)
    logits = network((images - mean) / std)
    order = [3, 1, 4, 0, 5, 9, 2, 6, 8, 7]
    for places in (list(range(10)), order):
        loaded = load_classifier(str(folder), [digits.classes[place] for place in places])
        torch.testing.assert_close(loaded.logits(images), logits[:, places], rtol=0, atol=1e-5)


def test_a_source_in_another_order_is_trained_in_that_order(tmp_path, digits, finished):
    """Classes are matched by name: what the permuted source learned is right on the usual one."""
    place = np.array([3, 1, 4, 0, 5, 9, 2, 6, 8, 7])  # of each usual label
    classes = [digits.classes[i] for i in np.argsort(place)]
    splits = {name: getattr(digits, name) for name in ("train", "test")}
    splits = {name: dataclasses.replace(split, labels=place[split.labels]) for name, split in splits.items()}
    fit_in(tmp_path / "c", first_images(dataclasses.replace(digits, classes=classes, **splits), 640), epochs=3)
    predicted = load_classifier(str(tmp_path / "c"), digits.classes).predict(digits.test.pixels(None, 8)).numpy()
    accuracy = (predicted == digits.test.labels).mean()
    assert record_of(tmp_path / "c")["test_accuracy"] == accuracy > 0.5
    assert record_of(tmp_path / "c")["classes"][0] == "3"


def test_a_source_has_its_own_normalisation(tmp_path, digits):
    fit_in(tmp_path / "c", dataclasses.replace(first_images(digits, 64), normalization="cifar"), epochs=1)
    loaded = load_classifier(str(tmp_path / "c"), digits.classes)
    assert (loaded.mean, loaded.std) == ([0.4914, 0.4822, 0.4465], [0.2023, 0.1994, 0.2010])


def test_a_manifest_says_of_it_what_its_folder_says(finished, digits):
    folder, run = finished
    named = {"teacher": str(folder), "teacher_revision": None, "teacher_epochs": None, "seed": 0}
    classifier, record = open_teacher(run, HeldOut(digits), 8, **named)
    assert (record.id, record.architecture) == (folder.name, "convnet-1-bn")
    assert record.test_accuracy == record_of(folder)["test_accuracy"]
    assert record.sha256 == weights_sha256(classifier.model)


def test_a_timm_network_is_loaded_by_timm(tmp_path, digits):
    folder = tmp_path / "c"
    fit_in(folder, first_images(digits, 64), network="timm/test_vit", image_size=32, epochs=1, batch_size=32)
    images = torch.rand(3, 3, 32, 32, generator=cpu_generator(0))
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    data = timm.data.resolve_model_data_config(model)
    assert (data["input_size"], data["mean"], data["crop_pct"]) == ([3, 32, 32], [0.485, 0.456, 0.406], 1.0)
    mean, std = torch.tensor([data["mean"], data["std"]]).view(2, 3, 1, 1)
    with torch.no_grad():
        expected = model((images - mean) / std)
        loaded = load_classifier(str(folder), digits.classes)
        torch.testing.assert_close(loaded.logits(images), expected, rtol=0, atol=1e-5)
    weights = load_file(folder / "model.safetensors")
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in weights.items())
    assert timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=3)(images).shape == (3, 3)
    card = ModelCard.load(folder / "README.md")
    assert card.data.library_name == "timm" and f'timm.create_model("local-dir:{folder.name}", pretrained=True)' in card.text


def test_the_card(finished, digits):
    folder, _ = finished
    card = ModelCard.load(folder / "README.md")
    accuracy = f"{100 * record_of(folder)['test_accuracy']:.2f} %"
    for part in ("convnet-1-bn", accuracy, "7. 7\n", "| `epochs` | `4` |", f"--teacher {folder.name}", "1297 images of 8"):
        assert part in card.text
    assert card.data.library_name == "distill-hub" and "license" not in card.data.to_dict()
    assert card.data.datasets is None and "timm.create_model" not in card.text
    assert "\n\n\n" not in card.content


def test_a_finished_folder_is_left_as_it_is(finished, digits, capsys):
    folder, _ = finished
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir() if path.is_file()}
    fit_in(folder, digits)
    assert f"The classifier in {folder} is finished already" in capsys.readouterr().out
    assert before == {path: path.stat().st_mtime_ns for path in folder.iterdir() if path.is_file()}


# What cannot be used


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["--network", "resnet18-bn"], ["network: 'resnet18-bn'", "did you mean 'resnet-18-bn'"]),
        (["--network", "convnet-5-bn"], ["network: 'convnet-5-bn'", "16 px allow a depth of 4"]),
        (["--network", "timm/dla34", "--image_size", "32"], ["network: 'timm/", "linear layer with 10 outputs"]),
        (["--batch_size", "1298"], ["batch_size: 1298", "1297 training images"]),
        (["--network", "resnet-18-bn", "--image_size", "8", "--batch_size", "1"], ["network: 'resnet-18-bn'", "8 px"]),
    ],
)
def test_a_wrong_word(tmp_path, capfd, words, parts):
    line = refused(capfd, "recipes/fit_classifier.py", *words, "--output_dir", str(tmp_path / "c"))
    assert all(part in line for part in parts), line
    assert [path.name for path in tmp_path.rglob("*") if path.is_file() and path.name != "config.json"] == []


def test_images_of_several_sizes_get_one(digits, capsys):
    images = [Image.new("RGB", (side, 40)) for side in (33, 70)]
    both = Dataset.from_dict({"image": images}, features=Features({"image": ImageFeature(decode=False)}))
    source = dataclasses.replace(digits, train=dataclasses.replace(digits.train, dataset=both, labels=np.array([0, 1])))
    assert classifier_task(with_size(FitClassifierConfig(), source, "image_size"), source).image_size == 32
    assert "squares of 32 px" in capsys.readouterr().out
    assert classifier_task(FitClassifierConfig(image_size=9), source).student == "convnet-1-bn"


def test_a_folder_of_something_else_or_of_other_settings(finished, digits, tmp_path):
    (tmp_path / "thesis.txt").write_text("words")
    with pytest.raises(InputError, match=r"output_dir: .* not a run's"):
        fit_in(tmp_path, digits)
    with pytest.raises(InputError, match=r"seed: 1 cannot be used; .* was made with 0"):
        fit_in(finished[0], digits, seed=1)


def test_a_loss_that_is_not_finite_stops_the_training_and_keeps_the_checkpoint(tmp_path, digits, monkeypatch):
    source, update = first_images(digits, 64), Fit.update

    def broken_at_step_4(self, step, batch):
        return update(self, step, batch) * (float("nan") if step == 3 else 1.0)

    monkeypatch.setattr(Fit, "update", broken_at_step_4)
    folder = tmp_path / "c"
    with pytest.raises(InputError) as caught:
        fit_in(folder, source, batch_size=32, epochs=3, checkpoint_epochs=1)
    line = str(caught.value)
    assert line.startswith("loss: nan") and "in step 4 of 6; the checkpoint of epoch 1 is kept" in line and "\n" not in line
    assert "network.features.0.weight" in load_file(folder / ".run" / "fit" / "checkpoint.safetensors")
    assert not (folder / "config.json").exists()


def test_weights_that_are_not_finite_stop_it_too(tmp_path, digits):
    with pytest.raises(InputError, match=r"trained weights: nan .* step 1 of 1; there is no checkpoint yet"):
        fit_in(tmp_path / "c", first_images(digits, 64), epochs=1, learning_rate=3e38, weight_decay=3e38)


def test_images_that_do_not_fit_on_the_disk_are_refused(tmp_path, digits, monkeypatch):
    usage = functools.partial(dataclasses.make_dataclass("Usage", ["free"]), 249_023)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda folder: usage())
    with pytest.raises(InputError, match=r"image_size: 8 .* 1297 decoded images need 0.00 GB in .*, 0.00 GB are free"):
        fit_in(tmp_path / "c", digits)  # 1297 * 3 * 8 * 8 = 249,024 bytes
    monkeypatch.setattr(module.shutil, "disk_usage", lambda folder: usage.func(249_024))
    prepared(tmp_path / "d", digits)


def test_batches_that_a_thread_gathers_give_the_same_weights(finished, tmp_path, digits, monkeypatch):
    gather, threads = Fit.batch, set()

    def watched(self, step):
        threads.add(threading.current_thread())
        return gather(self, step)

    monkeypatch.setattr(Fit, "batch", watched)
    monkeypatch.setattr(module, "ahead", lambda function, items, by_thread: ahead(function, items, by_thread=True))
    fit_in(tmp_path / "c", digits)
    one, other = (load_file(folder / "model.safetensors") for folder in (finished[0], tmp_path / "c"))
    assert threading.current_thread() not in threads and len(threads) == 1
    assert all(other[name].equal(tensor) for name, tensor in one.items())
