"""IDC's sums against loops in NumPy, its optimiser against one for all classes, its loop cut into chunks and cut short."""

import dataclasses
import types

import numpy as np
import pytest
import torch
from torch import nn

from distill_hub.augmentation.tiles import decode, split
from distill_hub.data.tiles import tile_side
from distill_hub.matching import idc, trained
from distill_hub.matching.cluster import k_means, nearest
from distill_hub.matching.networks import embed, fresh, last_map
from distill_hub.networks.build import build
from distill_hub.options.idc import IdcConfig
from distill_hub.running.checkpoint import steps
from distill_hub.running.run import Run
from distill_hub.running.seeds import cpu_generator

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
SIZE, NAMES = 8, ("cat", "dog", "fish")
RULES = trained.Rules(
    networks=2, steps=3, rate=0.05, real_batch_size=6, sampler="random", training_images=20, warm_up=1,
    training_batch_size=8, training_rate=0.05, weight_decay=5e-4, mix_probability=0.5, mean=MEAN, std=STD,
)  # fmt: skip


@pytest.fixture(scope="module")
def real():
    """Images of three classes, 8, 9 and 10 of them, in turns."""
    labels = torch.tensor([0, 1, 2] * 8 + [1, 2, 2])
    images = torch.randint(256, (len(labels), 3, SIZE, SIZE), dtype=torch.uint8, generator=cpu_generator(0))
    return trained.Real(images, labels, [(labels == label).nonzero().flatten() for label in range(3)], NAMES)


def network_of(number):
    return fresh("convnet-2-w4", 3, SIZE, 0, number, torch.device("cpu"))


def begun(real, labels=(0, 1, 2), rules=RULES, ipc=2):
    network = network_of(0)
    own = [idc.start("mix", real.images[real.by_class[label]], ipc, rules.tiles, label)[0] for label in labels]
    return trained.fresh_state(torch.stack(own), network, rules, real, labels), network


def matched(real, labels=(0, 1, 2), rules=RULES, objective=None, ipc=2):
    """Run the whole loop; return what is there at its end."""
    state, network = begun(real, labels, rules, ipc)
    objective = objective or idc.gradient_distance("mse")
    trained.match(state, network, range(rules.networks * rules.life), network_of, objective, real, labels, rules, 0)
    return state


@pytest.mark.parametrize("distance", ["mse", "l1"])
def test_the_distance_is_a_sum_over_weights_of_convolutions_alone(distance):
    torch.manual_seed(1)
    network = build("convnet-2-w4", 3, SIZE).double()
    real, own = (torch.randn(count, 3, SIZE, SIZE, dtype=torch.float64, generator=cpu_generator(count)) for count in (5, 2))

    def gradients(images):
        loss = nn.functional.cross_entropy(network(images), torch.full((len(images),), 1))
        return [g.numpy() for g in torch.autograd.grad(loss, list(network.parameters()))]

    expected, counted = 0.0, 0
    for goal, found in zip(gradients(real), gradients(own), strict=True):
        if goal.ndim in (1, 2):
            continue
        counted += 1
        for index in np.ndindex(*goal.shape):
            difference = found[index] - goal[index]
            expected += difference**2 if distance == "mse" else abs(difference)
    assert counted == 2
    assert idc.gradient_distance(distance)(network, real, own, 1).item() == pytest.approx(expected, rel=1e-12)
    own.requires_grad_()
    assert torch.autograd.gradcheck(lambda images: idc.gradient_distance("mse")(network, real, images, 1), own)


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_a_class_moves_as_if_one_optimiser_of_all_was_stepped_after_each(classes):
    def gradient(pixels, label):  # of something that is no parabola
        return torch.sin(3 * pixels + label) + pixels**2 / 5

    start = torch.randn(classes, 7, dtype=torch.float64, generator=cpu_generator(classes))
    shared = start.clone().requires_grad_()
    optimizer, seen = torch.optim.SGD([shared], 0.1, momentum=0.5), []
    for _ in range(6):
        for label in range(classes):
            seen.append(shared[label].detach().clone())
            shared.grad = torch.zeros_like(shared)
            shared.grad[label] = gradient(shared[label].detach(), label)
            optimizer.step()
    rate, momentum = trained.per_class(0.1, 0.5, classes)
    assert rate == pytest.approx(0.1 * 2 * (1 - 0.5**classes))
    for label in range(classes):
        pixels, velocity = start[label].clone(), torch.zeros(7, dtype=torch.float64)
        for turn in range(6):
            torch.testing.assert_close(pixels, seen[turn * classes + label], rtol=1e-12, atol=1e-12)
            velocity = momentum * velocity + gradient(pixels, label)
            pixels = pixels - rate * velocity


def test_the_loop_is_its_own_steps_one_after_another(real, monkeypatch):
    """Without augmentation and with whole classes as batches there is nothing to draw but the order of the training."""
    rules = dataclasses.replace(RULES, networks=1, warm_up=0, steps=2, real_batch_size=99, training_images=0)
    monkeypatch.setattr(trained, "every_operation", lambda *_: {})
    monkeypatch.setattr(trained, "_train", lambda *_: None)
    state, network = begun(real, rules=rules)
    pixels, mean, std = state["pixels"].double(), *(torch.tensor(own).double().view(3, 1, 1) for own in (MEAN, STD))
    trained.match(state, network, range(2), network_of, idc.gradient_distance("mse"), real, (0, 1, 2), rules, 0)
    network, velocity = network_of(0).double(), torch.zeros_like(pixels)
    for _ in range(2):
        for label in range(3):
            own = pixels[label].clone().requires_grad_()
            goal = (real.images[real.by_class[label]].double() / 255 - mean) / std
            (slope,) = torch.autograd.grad(idc.gradient_distance("mse")(network, goal, (own - mean) / std, label), own)
            velocity[label] = 0.125 * velocity[label] + slope
            pixels[label] = pixels[label] - 0.05 * 1.75 * velocity[label]
    torch.testing.assert_close(state["pixels"].double(), pixels, rtol=0, atol=1e-5)


def test_chunks_of_classes_train_the_same_networks_and_give_the_same_bits(real):
    whole, parts = matched(real), [matched(real, (0,)), matched(real, (1, 2))]
    assert torch.equal(whole["pixels"], torch.cat([part["pixels"] for part in parts]))
    assert torch.equal(whole["losses"], torch.cat([part["losses"] for part in parts], 1))
    for name in whole:
        if name.startswith("network"):
            assert torch.equal(whole[name], parts[0][name]) and not torch.equal(whole[name], begun(real)[0][name])
    assert (whole["losses"] > 0).all() and whole["losses"].shape == (6, 3)


@pytest.mark.parametrize(("sampler", "after"), [("random", 1), ("dream", 3), ("random", 6)])
def test_cut_short_within_a_network_it_goes_on_to_the_same_bits(real, tmp_path, monkeypatch, sampler, after):
    monkeypatch.setattr("distill_hub.running.checkpoint.SAVED_AFTER", 0.0)
    rules, file = dataclasses.replace(RULES, sampler=sampler), tmp_path / "checkpoint"
    run, expected = Run(tmp_path / "run", {}), matched(real, rules=rules)

    def go(stop):
        def todo():
            for place in steps(run, file, rules.networks * rules.life, state):
                if place == stop:
                    raise KeyboardInterrupt
                yield place

        state, network = begun(real, rules=rules)
        trained.match(state, network, todo(), network_of, idc.gradient_distance("mse"), real, (0, 1, 2), rules, 0)
        return state

    with pytest.raises(KeyboardInterrupt):
        go(after)
    assert file.exists()
    found = go(None)
    assert all(torch.equal(found[name], expected[name]) for name in expected) and not file.exists()


def test_real_and_distilled_images_are_seen_alike_and_always_otherwise(real):
    views = []

    def objective(network, goal, own, label):
        views.append((goal, own))
        return (own - goal).square().sum()

    alone = dataclasses.replace(real, by_class=[rows[:1] for rows in real.by_class])
    state = matched(alone, objective=objective, ipc=1)
    assert len(views) == 18 and all(goal.allclose(own, atol=1e-5) for goal, own in views)
    assert len({tuple(goal.flatten().tolist()) for goal, _ in views}) == 18
    assert state["losses"].max() < 1e-6
    assert all((goal == 0).all(1).any() for goal, _ in views)  # cutout, in each


def test_pixels_are_clamped_once_for_every_network(real):
    seen = []

    def upwards(network, goal, own, label):
        return -10 * own.sum()

    def todo():
        for place in range(RULES.networks * RULES.life):
            yield place
            seen.append(float(state["pixels"].max()))

    state, network = begun(real)
    trained.match(state, network, todo(), network_of, upwards, real, (0, 1, 2), RULES, 0)
    assert seen[0] <= 1 < seen[1] < seen[3] and seen[4] <= 1 < seen[5]


def test_no_more_than_128_distilled_images_are_shown_and_tiles_at_full_size(real):
    shapes = []

    def objective(network, goal, own, label):
        shapes.append(tuple(own.shape))
        return own.sum()

    rules = dataclasses.replace(RULES, networks=1, steps=1, tiles=2)
    state, network = begun(real, rules=dataclasses.replace(rules, tiles=None))
    for ipc, expected in ((33, 128), (32, 128), (3, 12)):
        state["pixels"] = torch.rand(3, ipc, 3, SIZE, SIZE, generator=cpu_generator(ipc))
        state["velocity"] = torch.zeros_like(state["pixels"])
        trained.match(state, network, [1], network_of, objective, real, (0, 1, 2), rules, 0)
        assert set(shapes) == {(expected, 3, SIZE, SIZE)}
        moved = (split(state["velocity"][0], 2) != 0).flatten(1).any(1)
        assert moved.sum() == expected
        shapes.clear()


@pytest.mark.parametrize("tiles", [None, 2, 3])
def test_images_start_from_real_ones_in_every_tile(real, tiles):
    images = real.images[real.by_class[2]]
    count = (tiles or 1) ** 2
    own, places = idc.start("mix", images, 1, tiles, 5)
    assert own.shape == (1, 3, SIZE, SIZE) and places.shape == (1,)
    side = tile_side(SIZE, tiles or 1)
    chosen = torch.randperm(len(images), generator=cpu_generator(5))[:count]
    assert places[0] == chosen[0]
    for place, image in enumerate(images[chosen]):
        top, left = (place // (tiles or 1)) * side, (place % (tiles or 1)) * side
        for y in range(min(side, SIZE - top)):
            for x in range(min(side, SIZE - left)):
                nearest_pixel = image[:, y * SIZE // side, x * SIZE // side].float() / 255
                assert torch.equal(own[0, :, top + y, left + x], nearest_pixel)


def test_images_start_from_whole_real_ones_or_noise(real):
    images = real.images[real.by_class[2]]
    own, places = idc.start("real", images, 3, 2, 5)
    assert torch.equal((own * 255).round().to(torch.uint8), images[places]) and len(set(places.tolist())) == 3
    noise, seeds = idc.start("noise", images, 3, 2, 5)
    assert seeds.tolist() == [5] * 3 and noise.min() == 0 and noise.max() == 1
    # Of a normal number of deviation 1/4 about 1/2, 2.3 % lie beyond each end.
    assert abs(noise.mean() - 0.5) < 0.04 and abs(noise.std() - 0.24) < 0.03


def test_dream_takes_the_real_images_nearest_to_the_means_of_clusters(real):
    rules, clustered = dataclasses.replace(RULES, networks=1, warm_up=0, steps=12, sampler="dream", real_batch_size=4), []

    def todo():
        for place in range(12):
            yield place
            clustered.append(state["real 1"].tolist())

    state, network = begun(real, rules=rules)
    trained.match(state, network, todo(), network_of, idc.gradient_distance("mse"), real, (0, 1, 2), rules, 0)
    assert len({tuple(rows) for rows in clustered}) == 2 and len({tuple(rows) for rows in clustered[:10]}) == 1
    images = (real.images[real.by_class[1]].float() / 255 - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(
        3, 1, 1
    )
    with torch.no_grad():
        features = embed(network_of(0), images, 3)
    generator = cpu_generator(trained.draw_seed(0, "match", 0, "dog"))
    means = k_means(features, 4, int(torch.randint(2**63 - 1, (1,), generator=generator)))
    expected = [int(real.by_class[1][((features - mean) ** 2).sum(1).argmin()]) for mean in means]
    assert clustered[0] == expected


def test_clusters_are_those_of_a_plain_loop():
    centres = torch.tensor([[0.0, 0], [10, 0], [0, 10]])
    points = (centres[:, None] + torch.randn(3, 20, 2, generator=cpu_generator(3))).flatten(0, 1)
    found, own = k_means(points, 3, 2), points.numpy().astype(np.float64)
    means = own[torch.randperm(60, generator=cpu_generator(2))[:3].numpy()]
    for _ in range(20):
        members = np.array([min(range(3), key=lambda k: ((point - means[k]) ** 2).sum()) for point in own])
        means = np.array([own[members == k].mean(0) if (members == k).any() else means[k] for k in range(3)])
    np.testing.assert_allclose(found.numpy(), means, atol=1e-5)
    assert nearest(found, points).shape == (3,)


def test_a_cluster_without_members_keeps_its_mean():
    points = torch.tensor([[0.0], [0.0], [0.0], [1.0]])
    assert torch.equal(k_means(points, 4, 0).unique(), torch.tensor([0.0, 1.0]))


def test_features_are_matched_as_in_the_tables_of_imagewoof():
    torch.manual_seed(0)
    network = build("resnetap-10", 3, 16)
    real, own = (torch.randn(count, 3, 16, 16, generator=cpu_generator(count)) for count in (4, 2))
    maps = [last_map(network, images).detach().numpy() for images in (real, own)]
    assert maps[0].shape[:2] == (4, 512) and maps[0].ndim == 4
    pooled = network.features(real).detach().numpy()
    np.testing.assert_allclose(maps[0].mean((2, 3)), pooled, rtol=1e-4, atol=1e-5)
    expected = ((maps[0].astype(np.float64).mean(0) - maps[1].astype(np.float64).mean(0)) ** 2).sum()
    assert idc.feature_distance(network, real, own, 0).item() == pytest.approx(expected, rel=1e-4)


def source(normalization, classes, images=1000):
    return types.SimpleNamespace(normalization=normalization, classes=range(classes), train=range(images))


def test_settings_are_the_papers():
    def of(size, normalization, classes, images=50_000, **config):
        config = IdcConfig(**config)
        return idc.rules_of(config, size, source(normalization, classes, images), None, torch.float32)

    cifar = of(32, "cifar", 10, ipc=10)
    assert (cifar.networks, cifar.steps, cifar.rate, cifar.real_batch_size) == (2000, 100, 5e-3, 64)
    assert (cifar.training_images, cifar.training_batch_size, cifar.warm_up) == (2000, 64, 0)
    assert (cifar.training_rate, cifar.weight_decay, cifar.mix_probability) == (0.01, 5e-4, 0.5)
    assert of(32, "cifar", 10, ipc=1).rate == pytest.approx(5e-4)
    assert of(28, "mnist", 10, ipc=10).rate == pytest.approx(1e-4)
    assert of(28, "fashion-mnist", 10, ipc=10).rate == pytest.approx(1e-4 * (28 / 32) ** 2)
    assert of(32, "svhn", 10).training_images == 500
    ten = of(224, "imagenet", 10, 13_000, ipc=20)
    assert (ten.networks, ten.steps, ten.training_images, ten.mix_probability) == (500, 100, 500, 1.0)
    assert ten.rate == pytest.approx(6e-3) and ten.warm_up == 10 * 13_000 / 500
    hundred = of(224, "imagenet", 100, 130_000, ipc=10)
    assert (hundred.rate, hundred.training_rate, hundred.weight_decay) == (1e-3, 0.1, 1e-4)
    assert (hundred.training_batch_size, hundred.warm_up) == (128, 5 * 130_000 / 500)
    assert (hundred.real_batch_size, ten.real_batch_size, of(32, "cifar", 100).real_batch_size) == (128, 64, 64)
    assert of(32, "cifar", 10, sampler="dream").real_batch_size == 128
    assert of(224, "imagenet", 10, 13_000, pretrain_epochs=1, training_images=1000).warm_up == 13
    distances = {
        (size, name): idc.distance_of(IdcConfig(), size, source(name, 10))
        for size, name in ((32, "cifar"), (32, "svhn"), (28, "mnist"), (28, "fashion-mnist"), (224, "imagenet"))
    }
    assert list(distances.values()) == ["mse", "mse", "l1", "l1", "l1"]


def test_networks_learn_from_real_images(real):
    """The labels of a class that is all white are learned in a few rounds."""
    white = dataclasses.replace(real, images=torch.where(real.labels.view(-1, 1, 1, 1) == 1, 255, real.images // 2))
    rules = dataclasses.replace(RULES, training_images=999)
    network = network_of(0)
    optimizer = torch.optim.SGD(network.parameters(), 0.05, momentum=0.9)
    for number in range(12):
        trained._train(network, optimizer, white, rules, cpu_generator(number))
    with torch.no_grad():
        prepared = trained.normalize(white.images.float() / 255, MEAN, STD)
        assert ((network(prepared).argmax(1) == 1) == (white.labels == 1)).float().mean() > 0.9


def test_what_is_shown_is_what_students_will_see():
    stored = torch.randint(256, (2, 3, SIZE, SIZE), generator=cpu_generator(1)).float()
    shown = trained.enlarged(split(stored / 255, 3), SIZE) * 255
    assert (shown - decode(stored.to(torch.uint8), 3)).abs().max() <= 0.501
