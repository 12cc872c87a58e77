"""The rules of coresets against searches that recompute everything, in exact arithmetic where images tie."""

import itertools
from fractions import Fraction

import numpy as np
import pytest
import torch

from distill_hub.classifiers import Classifier
from distill_hub.config import InputError
from distill_hub.coresets.embed import embed
from distill_hub.coresets.select import by_difficulty, ccs, draw, facility_location, herding, k_center, k_means
from distill_hub.data.sources import Split, load_source
from distill_hub.networks.build import build
from distill_hub.running.run import Run


def distance(a, b):
    return sum((x - y) ** 2 for x, y in zip(a, b, strict=True))


def mean(points):
    return [sum(column) / Fraction(len(points)) for column in zip(*points, strict=True)]


def searched_herding(points, ipc):
    chosen = []
    for _ in range(ipc):
        rest = [i for i in range(len(points)) if i not in chosen]
        chosen.append(min(rest, key=lambda i: distance(mean([points[j] for j in [*chosen, i]]), mean(points))))
    return chosen


def searched_k_center(points, ipc):
    chosen = [min(range(len(points)), key=lambda i: distance(points[i], mean(points)))]
    while len(chosen) < ipc:
        rest = [i for i in range(len(points)) if i not in chosen]
        chosen.append(max(rest, key=lambda i: min(distance(points[i], points[j]) for j in chosen)))
    return chosen


RULES = pytest.mark.parametrize(("rule", "search"), [(herding, searched_herding), (k_center, searched_k_center)])


@RULES
@pytest.mark.parametrize("seed", range(5))
def test_as_an_exhaustive_search(rule, search, seed):
    points = torch.randn(23, 4, generator=torch.Generator().manual_seed(seed))
    exact = [[Fraction(x) for x in point] for point in points.tolist()]
    for ipc in (1, 7, 23):
        found = rule(points, ipc)
        assert found.dtype == torch.int64 and found.tolist() == search(exact, ipc)


@RULES
@pytest.mark.parametrize("seed", range(5))
def test_ties_go_to_the_lower_index(rule, search, seed):
    """Of 16 points on a grid of 3 x 3, many are equal and most distances tie; sums of 16 are exact in binary."""
    points = torch.randint(3, (16, 2), generator=torch.Generator().manual_seed(seed))
    exact = [[Fraction(x) for x in point] for point in points.tolist()]
    assert len({tuple(point) for point in exact}) < 16
    assert rule(points.float(), 16).tolist() == search(exact, 16)


def test_a_line_worked_out_by_hand():
    """Their mean is 3."""
    points = torch.tensor([[0.0], [1.0], [2.0], [9.0]])
    # Means 2; then 1, 1.5 or 5.5; then 1 or 4; then 3.
    assert herding(points, 4).tolist() == [2, 1, 3, 0]
    # Distances from 2: 2, 1, 7; then from 2 or 9: 2, 1.
    assert k_center(points, 4).tolist() == [2, 3, 0, 1]


@RULES
def test_equal_images_are_told_apart(rule, search):
    """In 300 dimensions a matrix product would give equal rows other last bits."""
    points = torch.randn(1, 300, generator=torch.Generator().manual_seed(0)).repeat(37, 1)
    assert rule(points, 37).tolist() == list(range(37))


def searched_k_means(points, ipc):
    """The image closest to the mean of each cluster of the best of all partitions."""
    best, chosen = None, None
    for members in itertools.product(range(ipc), repeat=len(points)):
        clusters = [[i for i, member in enumerate(members) if member == k] for k in range(ipc)]
        if not all(clusters):
            continue
        means = [mean([points[i] for i in cluster]) for cluster in clusters]
        total = sum(distance(points[i], m) for cluster, m in zip(clusters, means, strict=True) for i in cluster)
        if best is None or total < best:
            best = total
            chosen = [min(c, key=lambda i, m=m: distance(points[i], m)) for c, m in zip(clusters, means, strict=True)]
    return sorted(chosen)


@pytest.mark.parametrize("seed", range(4))
def test_k_means_as_a_search_of_all_partitions(seed):
    points = torch.randn(7, 2, generator=torch.Generator().manual_seed(seed))
    exact = [[Fraction(x) for x in point] for point in points.tolist()]
    for ipc in (1, 2, 3):
        found = k_means(points, ipc, seed)
        assert found.dtype == torch.int64 and found.tolist() == searched_k_means(exact, ipc)
    assert k_means(points, 7, seed).tolist() == list(range(7))


def test_k_means_of_fewer_distinct_images_than_clusters(recwarn):
    points = torch.tensor([[0.0], [0.0], [5.0], [0.0], [9.0], [5.0]])
    assert k_means(points, 3, 0).tolist() == [0, 2, 4]
    assert k_means(points, 5, 0).tolist() == [0, 1, 2, 3, 4]
    assert not recwarn.list


def test_k_means_is_fixed_by_its_seed():
    points = torch.rand(60, 3, generator=torch.Generator().manual_seed(0))  # without clusters: starts end differently
    first = k_means(points, 20, 2**40)
    assert first.unique().tolist() == first.tolist() == k_means(points, 20, 2**40).tolist()
    assert len({tuple(k_means(points, 20, seed).tolist()) for seed in range(5)}) > 1


def test_a_random_draw_is_distinct_seeded_and_begins_a_larger_one():
    assert draw(50, 50, 1).sort().values.tolist() == list(range(50))
    assert draw(50, 9, 1).tolist() == draw(50, 50, 1)[:9].tolist() != draw(50, 9, 2).tolist()


def covered(points, chosen):
    """F(S): how similar all are to the most similar one of those chosen."""
    unit = points / np.linalg.norm(points, axis=1, keepdims=True)
    return ((1 + unit @ unit[chosen].T) / 2).max(1).sum()


@pytest.mark.parametrize("seed", range(3))
def test_facility_location_as_an_exhaustive_search_of_every_step(seed):
    points = torch.randn(19, 3, generator=torch.Generator().manual_seed(seed))
    exact, expected = points.double().numpy(), []
    for _ in range(6):
        rest = [i for i in range(19) if i not in expected]
        expected.append(max(rest, key=lambda i: covered(exact, [*expected, i])))
    found = facility_location(points, 6)
    assert found.dtype == torch.int64 and found.tolist() == expected
    assert facility_location(7 * points, 19).sort().values.tolist() == list(range(19))  # of any length, also all


def test_facility_location_takes_the_lower_index_of_equals():
    """The diagonal covers both axes best; then these gain as much, and their copies nothing."""
    points = torch.tensor([[1.0, 0], [2, 0], [3, 3], [0, 1], [1, 1]])
    assert facility_location(points, 5).tolist() == [2, 0, 3, 1, 4]
    wide = torch.randn(1, 300, generator=torch.Generator().manual_seed(0)).repeat(37, 1)
    assert facility_location(wide, 37).tolist() == list(range(37))


def test_by_difficulty_as_numpy_sorts():
    difficulty = torch.randint(5, (40,), generator=torch.Generator().manual_seed(0)).double()  # many are equal
    values = difficulty.numpy()
    assert by_difficulty(difficulty, 9, hardest=False).tolist() == np.argsort(values, kind="stable")[:9].tolist()
    assert by_difficulty(difficulty, 9, hardest=True).tolist() == np.argsort(-values, kind="stable")[:9].tolist()


def searched_ccs(values, ipc, cut, strata):
    """Algorithm 1 as it stands: which images each stratum has, from the smallest up, and how many of them are taken."""
    pruned = np.argsort(values, kind="stable")[: max(ipc, len(values) - int(cut * len(values)))]
    low, high = values[pruned].min(), values[pruned].max()
    groups = {}
    for image in sorted(pruned):
        groups.setdefault(min(int((values[image] - low) / (high - low) * strata), strata - 1), []).append(int(image))
    taken = []
    while groups:
        smallest = min(groups, key=lambda k: (len(groups[k]), k))
        count = min(len(groups[smallest]), ipc // len(groups))
        taken.append((groups.pop(smallest), count))
        ipc -= count
    return taken


@pytest.mark.parametrize(("count", "ipc", "cut", "strata"), [(200, 20, 0.3, 7), (60, 3, 0.1, 50), (30, 25, 0.5, 4)])
def test_ccs_as_algorithm_1(count, ipc, cut, strata):
    difficulty = torch.randn(count, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = ccs(difficulty, ipc, torch.Generator().manual_seed(0), cut=cut, strata=strata).tolist()
    expected = searched_ccs(difficulty.numpy(), ipc, cut, strata)
    assert len(set(found)) == ipc == sum(number for _, number in expected)
    for images, number in expected:  # as they follow on each other
        assert set(found[:number]) <= set(images)
        del found[:number]
    again = [
        ccs(difficulty, ipc, torch.Generator().manual_seed(seed), cut=cut, strata=strata).tolist() for seed in (0, 0, 1)
    ]
    assert again[0] == again[1] and (again[0] != again[2] or ipc == 25)  # that leaves nothing to draw


def test_ccs_worked_out_by_hand():
    """9 is dropped. Strata of 0..2, 2..4, 4..6, 6..8 hold images 2, 5, 7; 3; none; 0, 1: one each, of the smallest first."""
    difficulty = torch.tensor([7.0, 8, 0, 3, 9, 0, 9, 1, 9, 9])
    found = ccs(difficulty, 3, torch.Generator().manual_seed(0), cut=0.4, strata=4).tolist()
    assert found[0] == 3 and found[1] in (0, 1) and found[2] in (2, 5, 7)
    alike = ccs(torch.ones(5), 5, torch.Generator().manual_seed(0), cut=0.9, strata=50)
    assert sorted(alike.tolist()) == list(range(5))


@pytest.mark.parametrize(
    "rule",
    [
        herding,
        k_center,
        facility_location,
        lambda p, ipc: k_means(p, ipc, 0),
        lambda p, ipc: draw(len(p), ipc, 0),
        lambda p, ipc: by_difficulty(p[:, 0], ipc, hardest=True),
        lambda p, ipc: ccs(p[:, 0], ipc, torch.Generator(), cut=0.5, strata=2),
    ],
)
def test_more_than_there_are_is_refused(rule):
    with pytest.raises(InputError, match="ipc: 6 cannot be used; the class has 5 images"):
        rule(torch.zeros(5, 2), 6)


def test_classes_are_embedded_in_batches_of_their_own_and_decoded_once(monkeypatch, tmp_path):
    source = load_source("digits")
    torch.manual_seed(0)
    names = source.class_names
    facts = {"id": "x", "architecture": "convnet-1", "classes": source.classes, "class_names": names, "image_size": 16}
    teacher = Classifier(build("convnet-1", 10, 16), **facts)
    decoded, decode = [], Split.image
    monkeypatch.setattr(Split, "image", lambda split, row: decoded.append(row) or decode(split, row))
    embeddings = embed(Run(tmp_path, {}), source, teacher, "a" * 64, image_size=16, batch_size=50)
    assert sorted(decoded) == list(range(len(source.train)))
    for label in (0, 3, 9):
        rows = np.flatnonzero(source.train.labels == label)
        batches = [source.train.pixels(rows[start : start + 50], 16).float() / 255 for start in range(0, len(rows), 50)]
        with torch.inference_mode():
            assert embeddings(label).equal(torch.cat([teacher.embed(batch) for batch in batches])) and len(batches[-1]) < 50
