"""Difficulty-guided sampling against loops over values, bins and pairs of thresholds, fractions and hand-worked numbers."""

import dataclasses
import math
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
import torch
from scipy.stats import entropy

from distill_hub.config import InputError
from distill_hub.methods import dgs


def plain_histogram(values):
    return np.histogram(values, bins=10, range=(0, 1))[0]


def plain_bounds(values, bottom, top):
    ordered = sorted(values)
    low, high = ordered[min(bottom, len(values) - 1)], ordered[max(len(values) - 1 - top, 0)]
    return max(low, 1e-4), high


def plain_transform(values, bottom, top):
    low, high = plain_bounds(values, bottom, top)
    if high <= low:
        return list(values)
    return [max(1e-4, math.log(min(max(v, low), high) / low) / math.log(high / low)) for v in values]


def plain_objective(own, transformed, weight):
    """Eq. 9 as scipy has it; with an empty bin, where that is infinite, bin by bin."""
    if min(transformed) > 0:
        return weight * entropy(own, transformed, base=2) + (1 - weight) * entropy(np.ones(10), transformed, base=2)
    total = 0.0
    for mine, theirs in zip(own, transformed, strict=True):
        share = theirs / sum(transformed) if theirs else 1e-12
        p = mine / sum(own)
        total += weight * (p * math.log2(p / share) if p else 0.0) + (1 - weight) * 0.1 * math.log2(0.1 / share)
    return total


def plain_thresholds(values, limit, weight):
    """Return the best pair, the first of those that differ by rounding at most, and its objective."""
    own, best = plain_histogram(values), {}
    for bottom in range(limit):
        for top in range(limit):
            low, high = plain_bounds(values, bottom, top)
            transformed = plain_histogram(plain_transform(values, bottom, top))
            best[bottom, top] = plain_objective(own, transformed, weight) if high > low else math.inf
    least = min(best.values())
    return min(pair for pair, value in best.items() if value <= least + 1e-12), least


def plain_targets(values, ipc):
    shares = [Fraction(int(count) * ipc, len(values)) for count in plain_histogram(values)]
    result = [math.floor(share) for share in shares]
    by_fraction = sorted(range(10), key=lambda bin: (result[bin] - shares[bin], bin))  # largest fraction first
    for bin in by_fraction[: ipc - sum(result)]:
        result[bin] += 1
    return result


def random_pool(draw, size):
    """Return difficulties of a random skew; every other pool has ties, every third zeros and very small ones."""
    values = draw.random(size) ** draw.uniform(0.2, 12)
    if draw.random() < 0.5:
        values = draw.choice(values, size)
    if draw.random() < 1 / 3:
        values[draw.random(size) < 0.3] = 0
        values[draw.random(size) < 0.2] *= 1e-20
    return values


POOLS = {
    "one": [0.3],
    "two": [0.2, 0.7],
    "all equal": [0.95] * 20,
    "all 0": [0.0] * 20,
    "all 1": [1.0] * 20,
    "all but one 0": [0.0] * 19 + [0.5],
    "nearly 0": [1e-300, 5e-324, 1e-17, 1e-16, 0.0, 1e-9, 1e-12, 1e-5, 3e-5, 1e-4] * 2,
    "two values": [0.01] * 10 + [0.1] * 10,
    "0 and 1": [0.0] * 10 + [1.0] * 10,
    "bins empty": [0.05] * 5 + [0.51, 0.52, 0.53] * 5,
}


@pytest.mark.parametrize(
    ("bottom", "top", "expected"),
    [
        (0, 0, [2 / 3, 1e-4, 1, 1 / 3]),
        (1, 0, [1 / 2, 1e-4, 1, 1e-4]),
        (0, 1, [1, 1e-4, 1, 1 / 2]),
        (1, 1, [1, 1e-4, 1, 1e-4]),
        (2, 0, [1e-4, 1e-4, 1, 1e-4]),
        (2, 1, [0.1, 0.001, 1, 0.01]),  # the thresholds meet,
        (3, 3, [0.1, 0.001, 1, 0.01]),  # cross,
        (9, 0, [0.1, 0.001, 1, 0.01]),  # or are beyond the last value
        (0, 9, [0.1, 0.001, 1, 0.01]),
    ],
)
def test_transform_by_hand(bottom, top, expected):
    values = np.array([0.1, 0.001, 1.0, 0.01])
    np.testing.assert_allclose(dgs.transform(values, bottom, top), expected, rtol=1e-12)
    assert values.tolist() == [0.1, 0.001, 1.0, 0.01]


def test_the_floor_of_1e_4_and_a_lower_bound_below_it_by_hand():
    # ln(1 + 1e-6) / ln(1e3) is 1.4e-7.
    np.testing.assert_allclose(dgs.transform(np.array([1e-3, 1e-3 * (1 + 1e-6), 1.0]), 0, 0), [1e-4, 1e-4, 1])
    values = np.array([1e-2, 0.0, 1e-3, 0.0, 1e-5])
    np.testing.assert_allclose(dgs.transform(values, 1, 0), [1, 1e-4, 1 / 2, 1e-4, 1e-4], rtol=1e-12)
    np.testing.assert_allclose(dgs.transform(values, 2, 0), [1, 1e-4, 1 / 2, 1e-4, 1e-4], rtol=1e-12)
    np.testing.assert_allclose(dgs.transform(values, 3, 0), [1, 1e-4, 1e-4, 1e-4, 1e-4], rtol=1e-12)
    assert dgs.transform(np.array([0.0, 1e-4]), 0, 0).tolist() == [0.0, 1e-4]  # nothing between the bounds


def test_transform_of_random_pools_equals_loops():
    draw = np.random.default_rng(1)
    for _ in range(200):
        values = random_pool(draw, draw.integers(1, 60))
        bottom, top = draw.integers(0, 40, 2)
        np.testing.assert_allclose(
            dgs.transform(values, bottom, top), plain_transform(values, bottom, top), rtol=1e-12, atol=1e-14
        )


def test_a_value_on_an_edge_is_in_the_harder_bin_and_1_in_the_last():
    values = np.array([0.0, 0.0999, 0.1, 0.25, 0.5, 0.8999, 0.9, 1.0])
    assert dgs.bin_of(values).tolist() == [0, 0, 1, 2, 5, 8, 9, 9]
    assert dgs.histogram(values).tolist() == [2, 1, 1, 0, 0, 1, 0, 0, 1, 2]


def test_histograms_equal_numpy_s():
    edges = np.linspace(0, 1, 11)
    values = np.concatenate([edges, np.nextafter(edges, 0.5), np.random.default_rng(2).random(278)]).reshape(3, 4, 25)
    expected = [[plain_histogram(row).tolist() for row in block] for block in values]
    assert dgs.histogram(values).tolist() == expected


def test_objective_by_hand():
    own, flat = np.array([8, 2, 0, 0, 0, 0, 0, 0, 0, 0]), np.ones(10, dtype=int)
    own_to_flat = 0.8 * 3 + 0.2 * 1  # log2(0.8 / 0.1) and log2(0.2 / 0.1)
    for weight in (0.0, 0.25, 1.0):
        assert dgs.objective(own, flat, weight) == pytest.approx(weight * own_to_flat, abs=1e-12)
    lean = np.array([11, 1, 1, 1, 1, 1, 1, 1, 1, 1])
    uniform_to_lean = 0.1 * math.log2(2 / 11) + 0.9 * 1
    assert dgs.objective(own, lean, 0.0) == pytest.approx(uniform_to_lean, abs=1e-12)
    own_to_lean = 0.8 * math.log2(16 / 11) + 0.2 * 2
    assert dgs.objective(own, lean, 0.5) == pytest.approx((own_to_lean + uniform_to_lean) / 2, abs=1e-12)
    # Against itself only the uniform part is left: of its 8 empty bins each costs log2(0.1 / 1e-12) / 10.
    assert dgs.objective(own, own, 1.0) == 0
    emptied = 0.1 * (math.log2(0.1 / 0.8) + math.log2(0.1 / 0.2)) + 0.8 * math.log2(1e11)
    assert dgs.objective(own, own, 0.0) == pytest.approx(emptied, abs=1e-12)


def test_objective_of_random_counts_equals_scipy_and_loops():
    draw = np.random.default_rng(3)
    finite = 0
    for _ in range(300):
        own, transformed = draw.multinomial(60, draw.dirichlet(np.full(10, draw.choice([0.3, 5]))), (2,))
        weight = draw.choice([0, 0.3, 0.5, 1])
        expected = plain_objective(own, transformed, weight)
        finite += transformed.min() > 0
        assert dgs.objective(own, transformed, weight) == pytest.approx(expected, abs=1e-12)
    assert 50 < finite < 250
    own, rows = draw.multinomial(40, np.full(10, 0.1)), draw.multinomial(40, np.full(10, 0.1), (3, 4))
    expected = [[plain_objective(own, rows[i, j], 0.5) for j in range(4)] for i in range(3)]
    np.testing.assert_allclose(dgs.objective(own, rows, 0.5), expected, rtol=0, atol=1e-12)


def test_fewer_and_lighter_empty_bins_are_better():
    own = np.array([50, 30, 10, 4, 1, 1, 1, 1, 1, 1])
    none, one, two, heavy = np.full((4, 10), 10)
    one[[4, 5]] = 20, 0
    two[[4, 5, 6]] = 30, 0, 0
    heavy[[0, 1]] = 0, 20
    ranked = [dgs.objective(own, counts, 0.5) for counts in (none, one, two, heavy)]
    assert ranked == sorted(ranked)
    assert np.isfinite(ranked).all()


def test_thresholds_by_hand():
    # Ten values a fifth of a decade apart put one into each bin; what is below and above them must be clipped away.
    core = [10 ** (-3 + 0.2 * k) for k in range(10)]
    assert dgs.thresholds(np.array(core), 5, 0.0) == (0, 0)
    assert dgs.thresholds(np.array([1e-30, 1e-29, *core]), 6, 0.0) == (2, 0)
    assert dgs.thresholds(np.array([1e-30, *core, 1.0]), 6, 0.0) == (1, 1)
    assert dgs.thresholds(np.array([*core, 0.9, 1.0]), 6, 0.0) == (0, 2)
    assert dgs.thresholds(np.array([*core, 0.9, 1.0]), 2, 0.0) != (0, 2)  # out of the range that is searched


@pytest.mark.parametrize("weight", [0.0, 0.5, 0.9, 1.0])
def test_thresholds_of_random_pools_equal_a_search_in_loops(weight):
    draw = np.random.default_rng(4)
    for _ in range(12):
        values = random_pool(draw, draw.integers(2, 70))
        limit = int(draw.integers(1, min(12, len(values) // 2) + 1))
        expected, least = plain_thresholds(values, limit, weight)
        found = dgs.thresholds(values, limit, weight)
        assert found == expected
        if np.isfinite(least):
            transformed = plain_histogram(dgs.transform(values, *found))
            assert plain_objective(plain_histogram(values), transformed, weight) == pytest.approx(least, abs=1e-12)


@pytest.mark.parametrize("values", map(np.array, POOLS.values()), ids=POOLS)
@pytest.mark.filterwarnings("error")
def test_odd_pools_have_thresholds_and_every_transform_keeps_range_and_order(values):
    limit = max(1, len(values) // 2)
    assert dgs.thresholds(values, limit, 0.5) == plain_thresholds(values, limit, 0.5)[0]
    for bottom in range(len(values) + 1):
        for top in range(len(values) + 1):
            ranked = dgs.transform(values, bottom, top)[np.argsort(values, kind="stable")]
            assert 0 <= ranked[0] <= ranked[-1] <= 1
            assert (np.diff(ranked) >= 0).all()


def test_equally_good_thresholds_the_smallest_b_wins_then_the_smallest_t():
    assert dgs.thresholds(np.array(POOLS["all equal"]), 10, 0.5) == (0, 0)
    assert dgs.thresholds(np.array(POOLS["two values"]), 10, 0.5) == (0, 0)
    # Symmetric in the logarithm: clipping one value below or one above gives mirrored histograms, better than none or both.
    steps = np.array([1, 7, 16, 37])
    mirrored = 10.0 ** ((np.concatenate([-steps, steps]) - 41) / 20)
    below, above = (dgs.histogram(dgs.transform(mirrored, *pair)) for pair in ((1, 0), (0, 1)))
    assert below.tolist() == above[::-1].tolist() == [2, 1, 1, 1, 1, 0, 1, 0, 0, 1]
    assert dgs.thresholds(mirrored, 2, 0.0) == (0, 1)


def test_a_range_beyond_half_of_the_pool_is_cut_to_it():
    draw = np.random.default_rng(5)
    for size in (1, 2, 3, 9, 10):
        values = draw.random(size)
        expected = plain_thresholds(values, max(1, size // 2), 0.5)[0]
        for limit in (size // 2, size, 10 * size):
            assert dgs.thresholds(values, limit, 0.5) == expected


def in_bins(*counts):
    """Return difficulties with so many in each bin."""
    return np.repeat((np.arange(len(counts)) + 0.5) / 10, counts)


def test_targets_by_hand():
    # 5/7 of 4, 2, 1 are 2 6/7, 1 3/7 and 5/7.
    assert dgs.targets(in_bins(4, 2, 1), 5).tolist() == [3, 1, 1, 0, 0, 0, 0, 0, 0, 0]
    assert dgs.targets(in_bins(1, 0, 1, 0, 1), 2).tolist() == [1, 0, 1, 0, 0, 0, 0, 0, 0, 0]  # equal: the easier first
    assert dgs.targets(in_bins(0, 0, 1), 10).tolist() == [0, 0, 10, 0, 0, 0, 0, 0, 0, 0]
    assert dgs.targets(in_bins(*[1] * 10), 50).tolist() == [5] * 10
    assert dgs.targets(in_bins(600, 300, 100), 10).tolist() == [6, 3, 1, 0, 0, 0, 0, 0, 0, 0]


def test_random_targets_equal_fractions_and_always_sum_to_ipc():
    draw = np.random.default_rng(6)
    for _ in range(500):
        values = random_pool(draw, int(draw.choice([1, 2, 3, 7, 10, 49, 150, 1300])))
        ipc = int(draw.choice([1, 2, 9, 10, 20, 50, 77]))
        result = dgs.targets(values, ipc)
        assert result.tolist() == plain_targets(values, ipc)
        assert result.sum() == ipc
        assert result.dtype == np.int64
        assert (result[plain_histogram(values) == 0] == 0).all()


@pytest.mark.parametrize("ipc", [10, 20, 50])
@pytest.mark.parametrize("shape", ["hill", "ground", "slope", "cliff"])
def test_shapes_sum_to_their_ipc_and_take_the_place_of_the_real_images(shape, ipc):
    pool = np.random.default_rng(7).random(5 * ipc)
    sampling = dgs.select(pool, ipc, in_bins(0, 0, 9), distribution=shape)
    assert len(sampling.target) == 10
    assert sampling.target.sum() == ipc == len(sampling.indices)
    assert sampling.target.tolist() != dgs.select(pool, ipc, in_bins(0, 0, 9)).target.tolist()


def test_shapes_have_increasing_proportions_of_easy_samples():
    for ipc in (10, 20, 50):
        assert set(dgs.SHAPES["ground"][ipc]) == {ipc // 10}
        easy = [sum(dgs.SHAPES[shape][ipc][:3]) for shape in ("hill", "ground", "slope", "cliff")]
        assert easy == sorted(easy)


def check(sampling, pool, real, ipc, limit, weight=0.5):
    """Compare a selection, which is random, with all that is not."""
    pair, _ = plain_thresholds(pool, max(1, min(limit, len(pool) // 2)), weight)
    assert sampling.thresholds == pair
    flat_pool, flat_real = plain_transform(pool, *pair), plain_transform(real, *pair)
    available, target = plain_histogram(flat_pool), plain_targets(flat_real, ipc)
    assert sampling.target.tolist() == target
    for counts, expected in (
        (sampling.before["pool"], plain_histogram(pool)),
        (sampling.before["real"], plain_histogram(real)),
        (sampling.after["pool"], available),
        (sampling.after["real"], plain_histogram(flat_real)),
    ):
        assert counts.tolist() == expected.tolist()

    indices = sampling.indices.tolist()
    assert sampling.indices.dtype == torch.int64
    assert len(indices) == len(set(indices)) == ipc
    assert set(indices) <= set(range(len(pool)))
    drawn = [min(wanted, there) for wanted, there in zip(target, available, strict=True)]
    assert sampling.filled == ipc - sum(drawn)
    bins = [int(np.argmax(plain_histogram([flat_pool[index]]))) for index in indices]
    assert bins[: sum(drawn)] == [bin for bin, count in enumerate(drawn) for _ in range(count)]
    assert sampling.after["chosen"].tolist() == [bins.count(bin) for bin in range(10)]


def test_random_selections():
    draw = np.random.default_rng(8)
    filled = 0
    for seed in range(40):
        ipc = int(draw.integers(1, 15))
        pool = random_pool(draw, ipc * int(draw.integers(1, 6)))
        real = random_pool(draw, draw.integers(1, 200))
        limit = None if seed % 2 else int(draw.integers(0, 8))
        sampling = dgs.select(pool, ipc, real, limit=limit, seed=seed)
        check(sampling, pool, real, ipc, len(pool) // 2 if limit is None else limit)
        filled += sampling.filled > 0
    assert 5 < filled < 35


@pytest.mark.parametrize("name", [name for name in POOLS if name not in ("one", "two", "nearly 0")])
@pytest.mark.parametrize("real", [[0.3], [0.0, 0.0], [1.0] * 30, list(np.linspace(0, 1, 40) ** 3)])
@pytest.mark.filterwarnings("error")
def test_selections_from_odd_pools(name, real):
    sampling = dgs.select(np.array(POOLS[name]), 8, np.array(real))
    check(sampling, POOLS[name], real, 8, 10)


def test_thresholds_are_searched_in_half_of_the_pool_unless_told():
    draw = np.random.default_rng(12)
    pool = np.concatenate([draw.uniform(1e-7, 1e-6, 12), np.exp(draw.uniform(-7, 0, 28))])
    real = np.linspace(0, 1, 50)
    by_default = dgs.select(pool, 8, real)
    assert by_default.thresholds == dgs.select(pool, 8, real, limit=20).thresholds
    narrow = dgs.select(pool, 8, real, limit=4)
    assert max(narrow.thresholds) < 4 <= max(by_default.thresholds)
    flat, own = (dgs.select(pool, 8, real, limit=20, weight=weight).thresholds for weight in (0.0, 1.0))
    assert flat == plain_thresholds(pool, 20, 0.0)[0] != own == plain_thresholds(pool, 20, 1.0)[0]


def test_without_the_transform_difficulties_are_binned_as_they_are():
    draw = np.random.default_rng(13)
    pool, real = random_pool(draw, 40), draw.random(30)
    sampling = dgs.select(pool, 8, real, transformed=False)
    assert sampling.thresholds is None
    assert sampling.target.tolist() == plain_targets(real, 8)
    assert sampling.after["pool"].tolist() == sampling.before["pool"].tolist() == plain_histogram(pool).tolist()
    assert sampling.target.tolist() != dgs.select(pool, 8, real).target.tolist()
    chosen = plain_histogram(pool[sampling.indices.numpy()])
    there = np.minimum(sampling.target, plain_histogram(pool))
    assert (chosen >= there).all() and sampling.filled == 8 - there.sum()
    assert dgs.totals([sampling, sampling]).keys() == {"as measured"}
    transformed = dgs.select(pool, 8, real)
    assert dgs.totals([transformed]).keys() == {"as measured", "transformed"}
    for own in (sampling, transformed):  # as they come back from a stage, but for the indices
        (again,) = dgs.samplings({name: tensor[None] for name, tensor in own.as_tensors().items() if name != "indices"})
        assert repr(dataclasses.replace(again, indices=own.indices)) == repr(own)


def test_same_seed_same_draw_other_seed_other_draw():
    pool, real = np.random.default_rng(9).random((2, 100))
    first, again, other = (dgs.select(pool, 20, real, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(first.indices, again.indices)
    assert set(first.indices.tolist()) != set(other.indices.tolist())
    assert first.target.tolist() == other.target.tolist()


def test_the_whole_pool_can_be_selected():
    sampling = dgs.select(np.linspace(0, 1, 12), 12, np.array([0.5]))
    assert sorted(sampling.indices.tolist()) == list(range(12))


def test_all_of_a_bin_and_all_of_the_rest_are_equally_likely():
    # Two difficulties stay in the first and the last bin. Of 5 hard images wanted there are 4; an easy one stands in.
    pool, real = np.array([0.05] * 12 + [0.95] * 4), np.array([0.05, 0.95])
    times, trials = Counter(), 1000
    for seed in range(trials):
        sampling = dgs.select(pool, 10, real, seed=seed)
        assert sampling.target.tolist() == [5, 0, 0, 0, 0, 0, 0, 0, 0, 5]
        assert sampling.filled == 1
        indices = sampling.indices.tolist()
        assert sorted(indices[5:9]) == [12, 13, 14, 15]
        times.update(("drawn", index) for index in indices[:5])
        times.update([("fill", indices[9])])
    for part, share in (("drawn", 5 / 12), ("fill", 1 / 12)):
        spread = math.sqrt(trials * share * (1 - share))
        assert all(abs(times[part, index] - trials * share) < 4.5 * spread for index in range(12))


def test_the_fill_is_drawn_evenly_from_all_bins():
    # Wanted are 4 of bin 9, where there is 1. The fill must not prefer the bin that nothing was drawn from:
    # 4 are left in bin 0, of which 4 were drawn, and 8 in the middle, of which none was.
    pool = np.array([0.01] * 8 + [0.1] * 8 + [1.0])
    real = np.array([0.01, 1.0])
    middle, trials = 0, 1000
    for seed in range(trials):
        sampling = dgs.select(pool, 8, real, seed=seed)
        assert sampling.after["pool"].tolist() == [8, 0, 0, 0, 0, 8, 0, 0, 0, 1]
        assert sampling.target.tolist() == [4, 0, 0, 0, 0, 0, 0, 0, 0, 4]
        assert sampling.filled == 3
        middle += sampling.after["chosen"][5]
    # Hypergeometric: 3 of 12, of which 8 are in the middle; mean 2, variance 3·(2/3)·(1/3)·(9/11).
    assert abs(middle / trials - 2) < 4.5 * math.sqrt(6 / 11 / trials)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ipc": 21}, r"^ipc: 21 .* 20 candidates .* pool_factor"),
        ({"real": np.array([])}, r"^real: 0 .* real images are needed"),
        ({"distribution": "hill", "ipc": 15}, r"^distribution: 'hill' .* IPC 10, 20, 50, not 15; scale"),
        ({"distribution": "ground", "ipc": 5}, r"^distribution: 'ground' .* IPC 10, 20, 50, not 5; scale"),
        ({"distribution": "valley"}, r"^distribution: 'valley' .* scale, hill, ground, slope, cliff"),
    ],
)
def test_bad_input_is_refused_in_one_line(settings, message):
    with pytest.raises(InputError, match=message) as error:
        dgs.select(np.linspace(0, 1, 20), **{"ipc": 10, "real": np.array([0.5]), **settings})
    assert "\n" not in str(error.value)
