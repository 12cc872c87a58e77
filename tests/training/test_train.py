"""Training of students: against plain loops, alone and side by side, and that it depends on the seed alone."""

import copy
import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.transforms import functional as tv

from distill_hub.artifact.manifest import ModelRecord, ViewsRecord
from distill_hub.augmentation.augment import Augmentation, augment, batch_of, draw, normalize
from distill_hub.classifiers import Classifier
from distill_hub.config import InputError
from distill_hub.data.classes import SourceClass
from distill_hub.data.known import NORMALIZATIONS
from distill_hub.networks.build import build
from distill_hub.running.seeds import cpu_generator, draw_seed
from distill_hub.training import train as engine
from distill_hub.training.protocols import protocol
from distill_hub.training.settings import Settings, Task, learning_rate
from distill_hub.training.train import (
    Students,
    TrainingSet,
    accuracies,
    epoch_generator,
    resized,
    train_students,
)
from distill_hub.views.replay import order, probabilities, view_draws

CLASSES = 3


def stripes(count: int, seed: int, classes: int = CLASSES, size: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    """Images in noise, each with a bright band where its class is."""
    generator = cpu_generator(seed)
    labels = torch.arange(count) % classes
    images = torch.randint(0, 80, (count, 3, size, size), generator=generator, dtype=torch.uint8)
    for image, label in zip(images, labels, strict=True):
        image[:, :, size // classes * label : size // classes * (label + 1)] += 100
    return images, labels


def soft_labels(count: int) -> torch.Tensor:
    return torch.rand(count, CLASSES, generator=cpu_generator(5)).softmax(1)


def training_set(count: int = 14, seed: int = 0) -> TrainingSet:
    return TrainingSet(*stripes(count, seed), soft_labels(count))


def settings(name: str = "idc-hard", **changes) -> Settings:
    """Settings of a protocol on 14 images of 16 pixels, cut short."""
    whole = protocol(name).settings(Task(14, CLASSES, 16, True, NORMALIZATIONS["imagenet"], "convnet-2"))
    return dataclasses.replace(whole, **{"epochs": 3, "batch_size": 5, "looks": (1, 2, 3), **changes})


def linear_teacher() -> Classifier:
    torch.manual_seed(3)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, CLASSES))
    names = [f"class-{i}" for i in range(CLASSES)]
    known = [SourceClass(name, i) for i, name in enumerate(names)]
    return Classifier(network, id="t", architecture="t", classes=known, class_names=names, image_size=16, mean=(0.4,) * 3,
                      std=(0.3,) * 3)  # fmt: skip


def weights(model: nn.Module) -> torch.Tensor:
    return torch.cat([tensor.detach().flatten().double() for tensor in model.state_dict().values()])


def norms(model: nn.Module) -> list[nn.BatchNorm2d]:
    return [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]


def by_hand(student: str, data: TrainingSet, rules: Settings, seed: int, loss_of, after=lambda model: None) -> nn.Module:
    """Train with PyTorch's own schedulers and a loss that is written out; only the augmented images are the engine's.

    The network is handed to `after` before the first step, and after every one.
    """
    torch.manual_seed(draw_seed(seed, "student weights"))
    model = build(student, CLASSES, rules.image_size).train()
    decayed = [p for name, p in model.named_parameters() if rules.decay_all or ("weight" in name and p.ndim > 1)]
    others = [p for p in model.parameters() if not any(p is d for d in decayed)]
    groups = [{"params": decayed, "weight_decay": rules.weight_decay}, {"params": others, "weight_decay": 0.0}]
    if rules.optimizer == "sgd":
        optimizer = torch.optim.SGD(groups, rules.learning_rate, momentum=rules.momentum)
    else:
        optimizer = torch.optim.AdamW(groups, rules.learning_rate)
    after(model)
    for epoch in range(rules.epochs):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(rules, epoch)
        drawn = draw(rules.augmentation, len(data.images), rules.batch_size, rules.image_size, epoch_generator(seed, epoch))
        for start in range(0, len(data.images), rules.batch_size):
            batch = batch_of(drawn, start, start + rules.batch_size)
            images = augment(data.images[batch["order"]], batch, rules.mean, rules.std)
            for _ in range(rules.batchnorm_updates - 1):
                with torch.no_grad():
                    model(images)  # RDED's forward pass for the log
            loss = loss_of(model(images), batch, images)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            after(model)
    return model


def test_hard_labels_by_hand():
    data, rules = training_set(), settings("idc-hard", augmentation=Augmentation(flip=True, mix="cutmix"))

    def loss_of(logits, batch, images):
        labels = data.labels[batch["order"]]
        own = F.cross_entropy(logits, labels, reduction="none")
        other = F.cross_entropy(logits, labels[batch["partner"]], reduction="none")
        return (batch["share"] * own + (1 - batch["share"]) * other).mean()

    (got,) = train_students("convnet-2", [data], stripes(30, 1), CLASSES, rules, [4])
    assert torch.allclose(weights(got.model), weights(by_hand("convnet-2", data, rules, 4, loss_of)), atol=1e-6)


def test_stored_soft_labels_by_hand():
    """Eq. 11 of Pool-Select-Refine: tau^2 times the mean KL divergence at temperature tau."""
    data, rules = training_set(), settings("kd", augmentation=Augmentation())

    def loss_of(logits, batch, images):
        stored = data.soft_labels[batch["order"]]
        teacher = stored ** (1 / 1.5) / (stored ** (1 / 1.5)).sum(1, keepdim=True)
        student = (logits / 1.5).softmax(1)
        return 1.5**2 * (teacher * (teacher.log() - student.log())).sum(1).mean()

    (got,) = train_students("convnet-2", [data], stripes(30, 1), CLASSES, rules, [4])
    assert torch.allclose(weights(got.model), weights(by_hand("convnet-2", data, rules, 4, loss_of)), atol=1e-6)


@pytest.mark.parametrize("name", ["rded-soft", "sre2l"])
def test_a_teacher_labels_what_the_student_sees(name):
    data, teacher = training_set(), linear_teacher()
    rules = settings(name, learning_rate=1e-4)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (rules.mean, rules.std))

    def loss_of(logits, batch, images):
        with torch.no_grad():
            target = teacher.model((images * std + mean - 0.4) / 0.3)  # its own normalisation
        log_student = (logits / rules.temperature).log_softmax(1)
        return F.kl_div(log_student, (target / rules.temperature).softmax(1), reduction="batchmean")

    (got,) = train_students("convnet-2-bn", [data], stripes(30, 1), CLASSES, rules, [4], teacher=teacher)
    assert rules.batchnorm_updates == (2 if name == "rded-soft" else 1)
    hand = by_hand("convnet-2-bn", data, rules, 4, loss_of).eval()
    # Not weight by weight: a bias before a BatchNorm has no gradient but rounding, which AdamW blows up.
    seen = normalize(stripes(30, 1)[0] / 255, rules.mean, rules.std)
    assert torch.allclose(got.model(seen), hand(seen), atol=1e-4)
    variances = [torch.cat([norm.running_var for norm in norms(model)]) for model in (got.model, hand)]
    assert torch.allclose(*variances, rtol=1e-5)


def test_edc_by_hand():
    """EDC's loss in plain loops, and the average of decay 0.99 of all parameters, from the initial ones on."""
    data, teacher, student = training_set(), linear_teacher(), "convnet-2-bn"
    task = Task(14, 100, 16, True, NORMALIZATIONS["imagenet"], student)  # with SGD: AdamW blows up rounding
    rules = dataclasses.replace(protocol("edc").settings(task), epochs=3, batch_size=5, looks=(1, 3), learning_rate=0.001)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (rules.mean, rules.std))
    steps = []

    def loss_of(logits, batch, images):
        labels = data.labels[batch["order"]].tolist()  # what CutMix pastes in does not count
        with torch.no_grad():
            wanted = teacher.model((images * std + mean - 0.4) / 0.3)
        total = 0
        for own, others, label in zip(logits.double(), wanted.double(), labels, strict=True):
            squares = sum((a - b) ** 2 for a, b in zip(own, others, strict=True)) / CLASSES
            total = total + squares + 0.025 * (own.exp().sum().log() - own[label])
        return total / len(labels)

    def after(model):
        steps.append({name: tensor.detach().double().clone() for name, tensor in model.named_parameters()})

    test = stripes(30, 1)
    (got,) = train_students(student, [data], test, CLASSES, rules, [4], teacher=teacher)
    hand = by_hand(student, data, rules, 4, loss_of, after)
    assert len(steps) == 1 + 3 * 3
    average = steps[0]
    for step in steps[1:]:
        average = {name: 0.99 * average[name] + 0.01 * step[name] for name in step}
    assert all(torch.allclose(got.model.get_parameter(name).double(), own, atol=1e-5) for name, own in average.items())
    for norm, reference in zip(norms(got.model), norms(hand), strict=True):  # statistics are not averaged
        assert torch.allclose(norm.running_mean, reference.running_mean, atol=1e-4)
    assert got.last == accuracies(Students([got.model]), *test, rules)[0]


def test_averages_of_students_side_by_side_are_those_of_students_alone():
    rules = settings("edc", optimizer="sgd", learning_rate=0.01, weight_average=0.9)
    sets, test, teacher = [training_set(seed=0), training_set(seed=1)], stripes(30, 9), linear_teacher()
    together = train_students("convnet-2", sets, test, CLASSES, rules, [0, 1], teacher=teacher)
    for own, seed, got in zip(sets, [0, 1], together, strict=True):
        (alone,) = train_students("convnet-2", [own], test, CLASSES, rules, [seed], teacher=teacher)
        assert torch.allclose(weights(got.model), weights(alone.model), atol=1e-5)


@pytest.mark.parametrize("name", ["rded-soft", "sre2l", "fkd", "idc-hard"])
def test_crops_are_taken_from_the_stored_image_where_the_released_code_does_it(name):
    """RDED and SRe2L: torchvision's RandomResizedCrop(224) of the file at its 256 px; IDC scales that to 224 px first."""
    rules = protocol(name).settings(Task(3, 3, 256, True, NORMALIZATIONS["imagenet"], "resnet-18-bn"))
    assert rules.image_size == 224
    rules = dataclasses.replace(rules, labels="hard", batch_size=3)
    kept = ("crop_scale", "patches")
    rules = dataclasses.replace(rules, augmentation=Augmentation(**{k: getattr(rules.augmentation, k) for k in kept}))
    images, labels = stripes(3, 0, size=256)
    images = torch.randint_like(images, 256)  # white noise, of which scaling takes most
    ((got, draws, _),) = engine._batches([TrainingSet(images, labels).at(rules, "cpu")], rules, [5], 0, None)
    first = F.interpolate(images, (224, 224), mode="bilinear", antialias=True) if name == "idc-hard" else images
    side = first.shape[-1]
    for place, row in enumerate(draws["order"].tolist()):
        image = first[row] / 255
        if name == "rded-soft":  # two strips of columns, then two of rows
            for patches, axis in zip(draws["patches"][place], (2, 1), strict=True):
                halves = image.chunk(2, axis)
                image = torch.cat([halves[patch] for patch in patches], axis)
        top, left, height, width = (round(side * share) for share in draws["crop"][place].tolist())
        view = tv.resized_crop(image, top, left, height, width, [224, 224], antialias=True)
        assert (got[place] - tv.normalize(view, rules.mean, rules.std)).abs().max() < 5e-3
    plain = dataclasses.replace(rules, augmentation=Augmentation())
    assert TrainingSet(images, labels).at(plain, "cpu").images.shape[-1] == 224  # without crops there is nothing to scale it


@pytest.mark.parametrize("as_is", [False, True])
def test_a_teacher_sees_the_batch_at_its_own_size_or_at_that_of_its_training(as_is):
    teacher = linear_teacher()
    teacher.image_size = teacher.resize = 24  # larger than the batch of 16 px
    rules = settings("rded-soft", teacher_as_is=as_is, temperature=1.0)
    seen = torch.rand(4, 3, 16, 16, generator=cpu_generator(0))
    found = engine._targets(rules, [training_set()], normalize(seen, rules.mean, rules.std), {}, teacher, CLASSES, 1.0)
    shown = seen if as_is else F.interpolate(seen, (24, 24), mode="bilinear", antialias=True)
    assert torch.allclose(found, teacher.model((shown - 0.4) / 0.3).softmax(1), atol=1e-5)
    other = F.interpolate(seen, (24, 24), mode="bilinear", antialias=True) if as_is else seen
    assert not torch.allclose(found, teacher.model((other - 0.4) / 0.3).softmax(1), atol=1e-5)


def test_biases_and_norms_do_not_decay_where_the_protocol_says_so():
    rules = settings("kd", optimizer="adamw", learning_rate=1e-3, weight_decay=10.0, decay_all=False)
    rules = dataclasses.replace(rules, augmentation=Augmentation())
    data = training_set()

    def loss_of(logits, batch, images):
        stored = (data.soft_labels[batch["order"]].log() / 1.5).softmax(1)
        return 1.5**2 * F.kl_div((logits / 1.5).log_softmax(1), stored, reduction="batchmean")

    (got,) = train_students("convnet-2", [data], stripes(30, 1), CLASSES, rules, [4])
    seen = normalize(stripes(30, 1)[0] / 255, rules.mean, rules.std)
    hand, decayed = (by_hand("convnet-2", data, r, 4, loss_of) for r in (rules, dataclasses.replace(rules, decay_all=True)))
    assert torch.allclose(got.model(seen), hand(seen), atol=1e-3)
    assert not torch.allclose(got.model(seen), decayed(seen), atol=1e-2)


def test_students_side_by_side_are_those_trained_alone():
    rules = settings("idc-hard", learning_rate=0.01)
    sets, test = [training_set(seed=0), training_set(seed=1), training_set(seed=0)], stripes(30, 9)
    together = train_students("convnet-2", sets, test, CLASSES, rules, [0, 0, 1])
    alone = [
        train_students("convnet-2", [own], test, CLASSES, rules, [seed])[0]
        for own, seed in zip(sets, [0, 0, 1], strict=True)
    ]
    for one, other in zip(together, alone, strict=True):
        assert torch.allclose(weights(one.model), weights(other.model), atol=1e-5)
        assert (one.last, one.best, one.best_epoch) == (other.last, other.best, other.best_epoch)
    assert not torch.allclose(weights(together[0].model), weights(together[2].model), atol=1e-3)


def test_networks_with_running_statistics_are_not_trained_side_by_side():
    with pytest.raises(InputError, match=r"^seeds_together: .*BatchNorm"):
        Students([build("convnet-2-bn", CLASSES, 16) for _ in range(2)])


def test_a_student_depends_on_its_seed_alone():
    rules, test = settings(), stripes(30, 1)
    first, again = (train_students("convnet-2", [training_set()], test, CLASSES, rules, [0])[0] for _ in range(2))
    other = train_students("convnet-2", [training_set()], test, CLASSES, rules, [1])[0]
    assert torch.equal(weights(first.model), weights(again.model))
    assert not torch.equal(weights(first.model), weights(other.model))
    assert not first.model.training


def test_it_learns_and_every_look_counts():
    rules = settings("quick", epochs=12, looks=(4, 8, 12), batch_size=8)
    got = train_students("convnet-2", [training_set(24)], stripes(60, 1), CLASSES, rules, [0])[0]
    assert got.last > 0.9 and got.best >= got.last and got.best_epoch in (4, 8, 12)
    assert accuracies(Students([got.model]), *stripes(60, 1), rules) == [got.last]
    model = got.model.eval()
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (rules.mean, rules.std))
    images, labels = stripes(60, 1)
    assert got.last == (model((images / 255 - mean) / std).argmax(1) == labels).double().mean().item()


def test_best_is_the_best_look_and_the_first_of_equals(monkeypatch):
    looks = iter([[0.5], [0.7], [0.7], [0.6]])
    monkeypatch.setattr(engine, "accuracies", lambda *_, team: next(looks))
    rules = settings(epochs=4, looks=(1, 2, 3, 4))
    got = train_students("convnet-2", [training_set()], stripes(30, 1), CLASSES, rules, [0])[0]
    assert (got.last, got.best, got.best_epoch) == (0.6, 0.7, 2)
    assert got.curve == (0.5, 0.7, 0.7, 0.6)


def test_accuracy_counts(monkeypatch):
    class Brightness(nn.Module):
        def forward(self, images):
            return F.one_hot((images.mean((1, 2, 3)) > 0).long(), 2).float()

    images = torch.cat([torch.zeros(3, 3, 4, 4), torch.full((2, 3, 4, 4), 255)]).to(torch.uint8)
    labels = torch.tensor([0, 0, 1, 1, 0])
    monkeypatch.setattr("distill_hub.training.train.classified_at_a_time", lambda size: 2)
    assert accuracies(Students([Brightness()]), images, labels, settings()) == [3 / 5]


def test_a_larger_set_is_scaled_as_pillow_does():
    from PIL import Image

    images, _ = stripes(3, 0, size=32)
    ours = resized(images, 14)
    for image, small in zip(images, ours, strict=True):
        expected = Image.fromarray(image.permute(1, 2, 0).numpy()).resize((14, 14), Image.Resampling.BILINEAR)
        assert np.abs(small.permute(1, 2, 0).numpy().astype(int) - np.asarray(expected).astype(int)).max() <= 1
    assert resized(images, 32) is images


def test_half_precision_trains_in_float32_weights():
    rules = settings("quick", epochs=6, looks=(6,))
    got = train_students("convnet-2", [training_set(24)], stripes(60, 1), CLASSES, rules, [0], dtype=torch.bfloat16)[0]
    assert all(p.dtype is torch.float32 for p in got.model.parameters()) and got.last > 0.6


def test_a_stored_batch_names_images_where_training_names_rows():
    rules = Augmentation(crop_scale=(0.5, 1.0), flip=True, mix="cutmix")
    drawn = draw(rules, 8, 8, 16, epoch_generator(0, 0))
    order = drawn["order"].numpy()
    view = {key: drawn[key].numpy() for key in ("crop", "flip", "box", "share")}
    view |= {"image_index": order.astype(np.int32), "partner_index": order[drawn["partner"].numpy()].astype(np.int32)}
    back = view_draws({**view, "logits": np.zeros((8, CLASSES), dtype=np.float16)})
    for key, tensor in batch_of(drawn, 0, 8).items():
        assert torch.equal(back[key], tensor), key


@dataclasses.dataclass
class Stored:
    """Pruned views in memory, of the two largest of three logits: ten of 20 batches of five views of 14 images."""

    record: ViewsRecord
    images: int = 14

    def batch(self, index: int) -> dict[str, np.ndarray]:
        rng = np.random.default_rng(index)
        images = rng.permutation(14)[:5]
        logits = 30 * np.eye(CLASSES)[images % CLASSES] + rng.normal(0, 10, (5, CLASSES))
        classes = np.argsort(-logits, axis=1)[:, :2]
        return {
            "image_index": images.astype(np.int32),
            "partner_index": rng.permutation(images).astype(np.int32),
            "crop": np.tile(np.float32([0, 0, 1, 1]), (5, 1)),
            "flip": rng.random(5) < 0.5,
            "box": np.tile(np.int32([2, 0, 9, 11]), (5, 1)),
            "share": np.full(5, 1 - 77 / 256, np.float32),
            "class_index": classes.astype(np.uint16),
            "logits": np.take_along_axis(logits, classes, 1).astype(np.float16),
        }


@pytest.fixture(scope="module")
def stored():
    teacher = ModelRecord(id="t", architecture="t", sha256="1" * 64)
    facts = {"epochs": 10, "batch_size": 5, "image_size": 16, "crop_scale": (1.0, 1.0), "flip": True, "mix_alpha": 1.0}
    more = {"format": 2, "label_share": 0.5, "top_k": 2, "rows": 50, "sha256": "0" * 64, "seed": 0, "teacher": teacher}
    return Stored(ViewsRecord(**facts, **more))


def in_float64(data: TrainingSet, rules: Settings, seed: int) -> tuple[nn.Module, list[float]]:
    """Train as LPQLD does, written out: views, labels, temperatures; return the network, and its temperature by epoch."""
    torch.manual_seed(draw_seed(seed, "student weights"))
    model = build("convnet-1-w16", CLASSES, 16).train().double()
    optimizer, temperatures = torch.optim.SGD(model.parameters(), momentum=0.9), [1.0]
    mean, std = (torch.tensor(values, dtype=torch.float64).view(3, 1, 1) for values in (rules.mean, rules.std))
    for epoch in range(5):
        optimizer.param_groups[0]["lr"] = rules.learning_rate * (1 + np.cos(np.pi * epoch / 5)) / 2
        labels_at = max(3, 20 * 0.5 ** (epoch // 2))
        for index in order(data.views.record, 14, seed, epoch):
            rows = data.views.batch(index)
            single = {}
            for image, flip in zip(rows["image_index"], rows["flip"], strict=True):
                view = (data.images[image] / 255.0 - mean) / std
                single[image] = view.flip(2) if flip else view
            images = torch.stack([single[image] for image in rows["image_index"]])
            for row, partner in enumerate(rows["partner_index"]):
                images[row, :, 2:9, 0:11] = single[partner][:, 2:9, 0:11]
            targets = torch.zeros(5, CLASSES, dtype=torch.float64)
            for row, (classes, logits) in enumerate(zip(rows["class_index"], rows["logits"], strict=True)):
                powers = np.exp(logits.astype(np.float64) / labels_at)
                targets[row, classes.tolist()] = torch.from_numpy(powers / powers.sum())

            def divergence(outputs, temperature, targets=targets):
                student = (outputs / temperature).log_softmax(1)
                return torch.special.xlogy(targets, targets).sub(targets * student).sum() / 5

            outputs = model(images)
            optimizer.zero_grad()
            (divergence(outputs, temperatures[-1]) * (labels_at**2 if rules.temperature_squared else 1)).backward()
            optimizer.step()
        temperatures.append(min((i / 100 for i in range(1, 101)), key=lambda t: divergence(outputs.detach(), t).item()))
    return model, temperatures


def test_labels_cool_and_each_student_finds_its_temperature(stored):
    data, seen = TrainingSet(*stripes(14, 0), views=stored), stripes(30, 1)[0] / 255.0
    how = {"optimizer": "sgd", "learning_rate": 0.02, "weight_decay": 0.0, "epochs": 5, "looks": (5,)}
    rules = settings("lpqld", **how, temperature_steps=(2, 0.5, 3.0))
    assert rules.labels == "views" and not rules.temperature_squared
    test = stripes(30, 1)

    def outputs(model):
        own = model(normalize(seen.to(next(model.parameters()).dtype), rules.mean, rules.std))
        return own.detach().double()

    squared = dataclasses.replace(rules, temperature_squared=True, learning_rate=1e-4)  # as at 64 px
    (large,) = train_students("convnet-1-w16", [data], test, CLASSES, squared, [0])
    assert (outputs(large.model) - outputs(in_float64(data, squared, 0)[0])).abs().max() < 1e-4
    together = train_students("convnet-1-w16", [data] * 2, test, CLASSES, rules, [0, 1])
    for seed, training in enumerate(together):
        model, temperatures = in_float64(data, rules, seed)
        assert min(temperatures) < 0.9, temperatures
        assert (outputs(training.model) - outputs(model)).abs().max() < 1e-4
        (alone,) = train_students("convnet-1-w16", [data], test, CLASSES, rules, [seed])
        assert (outputs(alone.model) - outputs(model)).abs().max() < 1e-4
        for change in ({"temperature_found": False}, {"temperature_steps": None}):
            other = dataclasses.replace(rules, **change)
            (wrong,) = train_students("convnet-1-w16", [data], test, CLASSES, other, [seed])
            assert (outputs(wrong.model) - outputs(model)).abs().max() > 1e-2


def test_a_teacher_labels_the_views_of_other_images_as_they_are_stored(stored, monkeypatch):
    teacher, shown = linear_teacher(), []
    logits = teacher.logits
    monkeypatch.setattr(teacher, "logits", lambda images, **how: shown.append(images) or logits(images, **how))
    targets = []
    monkeypatch.setattr(engine, "probabilities", lambda *own: targets.append(probabilities(*own)) or targets[-1])
    rules = settings(
        "lpqld", epochs=2, looks=(2,), labels="teacher", augmentation=Augmentation(pad=0.5)
    )  # which is not asked
    data = TrainingSet(*stripes(14, 3), views=stored)
    train_students("convnet-1-w16", [data], stripes(30, 1), CLASSES, rules, [7], teacher=teacher)
    places = [place for epoch in range(2) for place in order(stored.record, 14, 7, epoch)]
    assert len(shown) == len(places) == 4
    for place, view, target in zip(places, shown, targets, strict=True):
        rows = stored.batch(place)
        own = data.images[rows["image_index"]] / 255.0
        own = torch.where(torch.from_numpy(rows["flip"]).view(-1, 1, 1, 1), own.flip(3), own)
        partner = [rows["image_index"].tolist().index(image) for image in rows["partner_index"]]
        expected = own.clone()
        expected[:, :, 2:9, 0:11] = own[partner][:, :, 2:9, 0:11]
        assert (view - expected).abs().max() < 1e-5
        said = logits(view)
        least = said.argmin(1)
        kept = said.scatter(1, least[:, None], -torch.inf)
        assert torch.allclose(target, (kept / 20).softmax(1), atol=1e-6) and (target > 0).sum() == 10


def test_networks_are_left_as_trained():
    models = [build("convnet-2", CLASSES, 16) for _ in range(2)]
    before = [copy.deepcopy(model) for model in models]
    students = Students(models)
    with torch.no_grad():
        for _, tensor, _ in students.trained():
            tensor.add_(torch.arange(2.0).view(2, *[1] * (tensor.ndim - 1)))
    after = students.separate()
    assert torch.equal(weights(after[0]), weights(before[0]))
    assert torch.allclose(weights(after[1]), weights(before[1]) + 1)
