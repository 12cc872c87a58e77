"""Class statistics: against NumPy on whole arrays, and the bank that holds them."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from processes import run_python
from small_net import make_teacher
from torchvision.models.feature_extraction import create_feature_extractor

from distill_hub.augmentation.augment import Augmentation, draw
from distill_hub.classifiers import Classifier
from distill_hub.config import InputError
from distill_hub.data.classes import SourceClass
from distill_hub.data.sources import load_source
from distill_hub.networks.build import build
from distill_hub.running.run import Run
from distill_hub.running.seeds import cpu_generator, draw_seed
from distill_hub.statistics import bank as bank_module
from distill_hub.statistics import moving as moving_module
from distill_hub.statistics.bank import Moments, class_statistics, moments_of, open_bank
from distill_hub.statistics.convolutions import measure
from distill_hub.statistics.features import batch_norms, captured, feature_layers
from distill_hub.statistics.moving import MovingAverage

THREE = [SourceClass(name, place, None) for place, name in enumerate("abc")]


@pytest.fixture(scope="module")
def source():
    return load_source("digits")


@pytest.fixture
def bank_of(tmp_path, source):
    def open(sha256="a" * 64, teacher=None, **words):
        words = {"image_size": 16, "folder": tmp_path / "bank", **words}
        run = Run(tmp_path / "run", {})
        return open_bank(run, words.pop("source", source), teacher or make_teacher(source.classes), sha256, **words)

    return open


@pytest.mark.parametrize("cuts", [[40], [1] * 40, [2, 38], [13, 1, 26]])
def test_moments_are_those_of_the_whole_array(cuts):
    # Far from the origin a sum of squares would have lost every digit of the covariance.
    vectors = np.random.default_rng(0).normal(1e6, [1, 2, 0.01], (40, 3)) @ np.array([[1, 0.5, 0], [0, 1, 0], [0, 0.3, 1]])
    moments = Moments()
    for part in torch.from_numpy(vectors).split(cuts):
        moments.add(part)
    np.testing.assert_allclose(moments.mean, vectors.mean(0), rtol=1e-14)
    np.testing.assert_allclose(moments.covariance, np.cov(vectors.T, bias=True), rtol=1e-6)
    assert torch.equal(moments.covariance, moments.covariance.T)


def maps_of(teacher, images: torch.Tensor) -> list[np.ndarray]:
    """What the two BatchNorm layers of `small_net` see, computed from its weights by hand."""
    first, norm, _, second, _, *_ = (module.double() for module in teacher.model)
    mean, std = (torch.tensor(value, dtype=torch.float64).view(3, 1, 1) for value in (teacher.mean, teacher.std))
    seen = F.conv2d((images.double() / 255 - mean) / std, first.weight, first.bias, padding=1)
    shape = (1, -1, 1, 1)
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    after = ((seen - norm.running_mean.view(shape)) * scale.view(shape) + norm.bias.view(shape)).clamp(min=0)
    return [seen.numpy(), F.conv2d(after, second.weight, second.bias, padding=1, stride=2).numpy()]


@pytest.mark.parametrize("sizes", [[30], [7, 7, 7, 7, 2]])
def test_statistics_are_those_of_all_maps_of_the_class(source, sizes):
    images = source.train.pixels(range(30), 16)
    teacher = make_teacher(source.classes)
    layers = list(batch_norms(teacher).values())
    parts = [moments_of(teacher, iter([part]), layers, "inputs", covariance=True) for part in images.split(sizes)]
    found = class_statistics(parts)
    for place, maps in enumerate(maps_of(make_teacher(source.classes), images)):
        pooled = maps.mean((2, 3))
        np.testing.assert_allclose(found[f"{place}.mean"], pooled.mean(0), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(found[f"{place}.variance"], maps.var((0, 2, 3)), rtol=1e-5)
        covariance = found[f"{place}.covariance"].numpy()
        np.testing.assert_allclose(covariance, np.cov(pooled.T, bias=True), rtol=1e-4, atol=1e-6)
        np.testing.assert_array_equal(covariance, covariance.T)
        assert np.linalg.eigvalsh(covariance.astype(np.float64)).min() > -1e-6 * covariance.trace()


def test_outputs_are_what_the_layers_return(source):
    teacher = make_teacher(source.classes)
    images = source.train.pixels(range(12), 16)
    layer = teacher.model[1]
    found = class_statistics([moments_of(teacher, iter([images]), [layer], "outputs", covariance=True)])
    seen = maps_of(make_teacher(source.classes), images)[0]
    scale = (layer.weight / (layer.running_var + layer.eps).sqrt()).double().numpy().reshape(1, -1, 1, 1)
    returned = (seen - layer.running_mean.numpy().reshape(1, -1, 1, 1)) * scale + layer.bias.numpy().reshape(1, -1, 1, 1)
    np.testing.assert_allclose(found["0.mean"], returned.mean((0, 2, 3)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["resnet-18-bn", "timm/resnet18"])
def test_stages_of_a_resnet_are_its_four_layers(name):
    model = build(name, 3, 32).eval()
    teacher = Classifier(model, id="own", architecture=name, classes=THREE, class_names=["a", "b", "c"], image_size=32)
    names = ["layer1", "layer2", "layer3", "layer4"]
    assert list(feature_layers(teacher, "stages")) == names
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), captured(list(feature_layers(teacher, "stages").values()), "stages", torch.clone) as found:
        teacher(images)
    mean, std = (torch.tensor(value).view(1, 3, 1, 1) for value in (teacher.mean, teacher.std))
    with torch.no_grad():
        expected = create_feature_extractor(model, names)((images - mean) / std)  # torchvision's
    for own, theirs in zip(found, expected.values(), strict=True):
        torch.testing.assert_close(own, theirs)


def test_stages_of_a_convnet_are_its_blocks_and_others_are_refused(source):
    model = build("convnet-2-w4-bn", 3, 16).eval()
    teacher = Classifier(model, id="own", architecture="x", classes=THREE, class_names=["a", "b", "c"], image_size=16)
    layers = list(feature_layers(teacher, "stages").values())
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), captured(layers, "stages", torch.clone) as found:
        teacher(images)
    mean, std = (torch.tensor(value).view(1, 3, 1, 1) for value in (teacher.mean, teacher.std))
    maps = (images - mean) / std
    for block, own in enumerate(found):
        conv, norm = model.features[4 * block : 4 * block + 2]
        with torch.no_grad():
            seen = F.conv2d(maps, conv.weight, conv.bias, padding=1)
            seen = F.batch_norm(seen, norm.running_mean, norm.running_var, norm.weight, norm.bias).relu()
            maps = F.avg_pool2d(seen, 2)
        torch.testing.assert_close(own, maps)
    with pytest.raises(InputError, match="stages are known of ResNets of torchvision and timm"):
        feature_layers(make_teacher(source.classes), "stages")


def hooks(layer: torch.nn.Module) -> int:
    return len(layer._forward_pre_hooks) + len(layer._forward_hooks)


@pytest.mark.parametrize("at", ["inputs", "outputs"])
def test_hooks_are_gone_afterwards_also_after_an_error(source, at):
    teacher = make_teacher(source.classes)
    layers = list(batch_norms(teacher).values())
    with pytest.raises(KeyError), captured(layers, at, torch.mean):
        assert [hooks(layer) for layer in layers] == [1, 1]
        raise KeyError
    assert [hooks(layer) for layer in layers] == [0, 0]


def contents(bank: Path) -> dict[str, bytes]:
    return {
        file.name: file.read_bytes() for file in bank.iterdir() if file.suffix == ".safetensors" or file.name == "bank.json"
    }


def test_a_bank_reads_every_image_once_and_keeps_a_file_per_class(bank_of, source, monkeypatch, tmp_path):
    asked, split = [], type(source.train)
    decode = split.pixels
    monkeypatch.setattr(split, "pixels", lambda self, rows, *args: asked.append(rows) or decode(self, rows, *args))
    bank = bank_of(batch_size=20)
    assert max(len(rows) for rows in asked) == 20
    assert sorted(np.concatenate(asked)) == list(range(len(source.train)))
    assert all(len(set(source.train.labels[rows])) == 1 for rows in asked)
    assert contents(tmp_path / "bank").keys() == {f"class-{label:05d}.safetensors" for label in range(10)} | {"bank.json"}
    assert not (tmp_path / "run" / ".run" / "measure statistics").exists()
    teacher = make_teacher(source.classes)
    rows = np.flatnonzero(source.train.labels == 7)
    layers = list(batch_norms(teacher).values())
    expected = class_statistics(
        [moments_of(teacher, iter([source.train.pixels(rows, 16)]), layers, "inputs", covariance=True)]
    )
    for place, (covariance, mean) in enumerate(bank.read([3, 7], "covariance", "mean")):
        torch.testing.assert_close(mean[1], expected[f"{place}.mean"], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(covariance[1], expected[f"{place}.covariance"], rtol=1e-5, atol=1e-6)
    asked.clear()
    bank_of()
    assert not asked  # it is there


def test_batches_that_are_measured_apart_give_what_a_class_gives_at_once(bank_of, source, tmp_path, monkeypatch):
    """To the last bit: banks of few classes and of many are of one kind."""
    monkeypatch.setenv("DISTILL_HUB_CACHE", str(tmp_path / "cache"))
    ways = {"exact": {}, "variances": {"covariance": False}, "moving": {"covariance": False, "moving": MOVING}}
    found = {}
    for few in (64, 1):
        monkeypatch.setattr(bank_module, "FEW", few)
        found[few] = []
        for way, words in ways.items():
            bank_of(folder=tmp_path / way, batch_size=100, **words)
            found[few].append(contents(tmp_path / way))
            shutil.rmtree(tmp_path / way)
        run = Run(tmp_path / "run", {})
        measure(run, source, make_teacher(source.classes), "a" * 64, image_size=16, seed=3, batch_size=100)
        (cached,) = (tmp_path / "cache").glob("digits-statistics-*/")
        found[few].append(contents(cached))
        shutil.rmtree(cached)
        assert run.stages[0]["items"] == (20 if few > 1 else 10)
    assert found[64] == found[1]


def test_a_bank_of_something_else_is_refused(bank_of, source, tmp_path):
    bank_of()
    with pytest.raises(InputError, match=r"bank: .*teacher_sha256 is 'a{64}', this run's is 'b{64}'"):
        bank_of(sha256="b" * 64)
    with pytest.raises(InputError, match=r"image_size is 16, this run's is 8"):
        bank_of(image_size=8)
    with pytest.raises(InputError, match=r"at is 'inputs', this run's is 'outputs'"):
        bank_of(at="outputs")
    record = json.loads((tmp_path / "bank" / "bank.json").read_text())
    (tmp_path / "bank" / "bank.json").write_text(json.dumps({**record, "source_fingerprint": "0" * 64}))
    with pytest.raises(InputError, match=r"source_fingerprint is '0{64}'"):
        bank_of()
    (tmp_path / "bank" / "bank.json").write_text("{")
    with pytest.raises(InputError, match=r"bank.json is broken"):
        bank_of()


def test_a_bank_with_covariances_serves_where_none_are_asked_for_and_not_the_other_way_round(bank_of, tmp_path):
    whole = bank_of().read([2], "variance")
    assert all(torch.equal(a, b) for (a,), (b,) in zip(bank_of(covariance=False).read([2], "variance"), whole, strict=True))
    shutil.rmtree(tmp_path / "bank")
    bank_of(covariance=False)
    with pytest.raises(InputError, match="covariance is False, this run's is True"):
        bank_of()


def test_a_damaged_bank_is_refused(bank_of, tmp_path):
    bank = bank_of()
    file = tmp_path / "bank" / "class-00003.safetensors"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(InputError, match=r"bank: .*damaged"):
        bank.read([3], "mean")


def test_a_class_with_one_image_has_no_covariance(bank_of, source, monkeypatch):
    labels = np.where(source.train.labels == 4, 3, source.train.labels)
    labels[0] = 4
    monkeypatch.setitem(source.train.__dict__, "labels", labels)
    with pytest.raises(InputError, match=r"class '4' has one image: its covariance is not defined"):
        bank_of()
    assert bank_of(covariance=False).read([4], "variance", "mean")


def test_a_teacher_without_batchnorm_is_refused(source):
    teacher = make_teacher(source.classes)
    teacher.model[1], teacher.model[4] = torch.nn.GroupNorm(4, 4), torch.nn.GroupNorm(6, 6)
    with pytest.raises(InputError, match="teacher: 'small' cannot be used; a network with BatchNorm is needed"):
        batch_norms(teacher)


MOVING = MovingAverage(batch_size=64, seed=3, flip=True)


def augmented(image: torch.Tensor, crop: torch.Tensor, flip: torch.Tensor) -> torch.Tensor:
    """One crop, as whole pixels, brought back to 16 px, and mirrored or not."""
    top, left, height, width = (round(16 * share) for share in crop.tolist())
    part = image[None, :, top : top + height, left : left + width].float()
    whole = F.interpolate(part, (16, 16), mode="bilinear", align_corners=False)[0]
    return whole.flip(2) if flip else whole


def plain_pass(source, last: int) -> list[list[tuple[np.ndarray, np.ndarray]]]:
    """LPLD's pass, batch by batch: per class and layer, mean and variance after its last so many updates."""
    teacher = make_teacher(source.classes)
    order = torch.randperm(len(source.train), generator=cpu_generator(draw_seed(3, "moving average"))).tolist()
    groups = [[] for _ in source.classes]
    for start in range(0, len(order), 64):
        batch = order[start : start + 64]
        for label in sorted({int(source.train.labels[row]) for row in batch}):
            groups[label].append([row for row in batch if source.train.labels[row] == label])
    result = []
    for label, updates in enumerate(groups):
        updates = updates[-last:]
        count = sum(map(len, updates))
        rules = Augmentation(crop_scale=(0.08, 1.0), flip=True)
        draws = draw(rules, count, count, 16, cpu_generator(draw_seed(3, "moving average", source.class_names[label])))
        means, variances, done = [0.0, 0.0], [1.0, 1.0], 0
        for rows in updates:
            images = source.train.pixels(rows, 16)
            seen = [augmented(images[i], draws["crop"][done + i], draws["flip"][done + i]) for i in range(len(rows))]
            done += len(rows)
            for place, maps in enumerate(maps_of(teacher, torch.stack(seen))):
                means[place] = 0.9 * means[place] + 0.1 * maps.mean((0, 2, 3))
                variances[place] = 0.9 * variances[place] + 0.1 * maps.var((0, 2, 3))
        result.append(list(zip(means, variances, strict=True)))
    return result


@pytest.mark.parametrize("last", [400, 4])
def test_moving_averages_are_those_of_a_pass_over_shuffled_batches(bank_of, source, monkeypatch, last):
    monkeypatch.setattr(moving_module, "UPDATES", last)
    bank = bank_of(covariance=False, moving=MOVING, batch_size=20)
    found, expected = bank.read(range(10), "mean", "variance"), plain_pass(source, last)
    for label, layers in enumerate(expected):
        for place, (mean, variance) in enumerate(layers):
            np.testing.assert_allclose(found[place][0][label], mean, rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(found[place][1][label], variance, rtol=1e-4, atol=1e-5)


def test_every_update_that_counts_is_measured_by_whole_updates(bank_of, source, monkeypatch):
    asked, split = [], type(source.train)
    decode = split.pixels
    monkeypatch.setattr(split, "pixels", lambda self, rows, *args: asked.append(rows) or decode(self, rows, *args))
    bank_of(covariance=False, moving=MOVING, batch_size=20)
    assert sorted(np.concatenate(asked)) == list(range(len(source.train)))  # fewer than 400 updates: all of them
    assert max(map(len, asked)) < 20 + 64 and sum(map(len, asked)) / len(asked) > 10


def test_a_bank_of_moving_averages_is_another(bank_of, tmp_path):
    words = {"covariance": False, "moving": MOVING}
    assert bank_of(folder=None, **words).folder != bank_of(folder=None, covariance=False).folder
    other = dataclasses.replace(MOVING, seed=4)
    bank_of(**words)
    record = json.loads((tmp_path / "bank" / "bank.json").read_text())
    assert record["moving_average"] == {"batch_size": 64, "seed": 3, "flip": True}
    with pytest.raises(InputError, match=r"moving_average is \{.*\}, this run's is None"):
        bank_of(covariance=False)
    with pytest.raises(InputError, match=r"moving_average is \{.*'seed': 3.*\}, this run's is \{.*'seed': 4"):
        bank_of(**{**words, "moving": other})
    shutil.rmtree(tmp_path / "bank")
    bank_of()
    with pytest.raises(InputError, match=r"moving_average is None, this run's is \{"):
        bank_of(**words)


def test_two_processes_measure_the_same(bank_of, source, tmp_path, monkeypatch):
    monkeypatch.setenv("DISTILL_HUB_CACHE", str(tmp_path / "cache"))
    bank_of()
    bank_of(folder=tmp_path / "moving", covariance=False, moving=MOVING)
    measure(Run(tmp_path / "run", {}), source, make_teacher(source.classes), "a" * 64, image_size=16, seed=3)
    (cached,) = (tmp_path / "cache").glob("digits-statistics-*/")
    names = "bank", "moving", str(cached.relative_to(tmp_path))
    one = [contents(tmp_path / name) for name in names]
    for name in (*names, "run"):
        shutil.rmtree(tmp_path / name)
    done = run_python("tests/small_net.py", str(tmp_path), world=2)
    assert done.returncode == 0, done.stderr
    assert [contents(tmp_path / name) for name in names] == one
