"""Scores by hand and by the bare formula; MMD by a double loop, by its laws and by closed forms."""

import itertools
import math

import pytest
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from distill_hub.classifiers import Classifier
from distill_hub.config import InputError
from distill_hub.data.classes import SourceClass
from distill_hub.evaluation.metrics import augmentation_robust_score, label_robust_score, mmd

LRS = {"real_hard": 0.8, "own_hard": 0.5, "own": 0.6, "random": 0.4}  # HLR 0.3, IOR 0.2
ARS = {"own": 0.6, "random": 0.4, "own_plain": 0.37, "random_plain": 0.33}


# DD-Ranking


@pytest.mark.parametrize(
    ("weight", "expected"),  # alpha = -0.05, -0.2, 0 in 30-digit arithmetic
    [(0.5, 0.248191537961491646), (0.2, 0.191818777220877583), (0.6, 0.268941421369995121)],
)
def test_lrs_by_hand(weight, expected):
    assert label_robust_score(**LRS, weight=weight) == pytest.approx(expected, rel=1e-13)


@pytest.mark.parametrize(
    ("weight", "expected"),  # beta = 0.12, 0.05, 0.1 in 30-digit arithmetic
    [(0.5, 0.323186112521159587), (0.0625, 0.290755174050527240), (0.375, 0.313687341747065674)],
)
def test_ars_by_hand(weight, expected):
    assert augmentation_robust_score(**ARS, weight=weight) == pytest.approx(expected, rel=1e-13)


def test_both_aspects_count_the_same_by_default():
    assert label_robust_score(**LRS) == label_robust_score(**LRS, weight=0.5)
    assert augmentation_robust_score(**ARS) == augmentation_robust_score(**ARS, weight=0.5)


def test_the_best_score_is_1_and_the_worst_is_0():
    assert label_robust_score(real_hard=0, own_hard=1, own=1, random=0) == 1
    assert label_robust_score(real_hard=1, own_hard=0, own=0, random=1) == 0
    assert augmentation_robust_score(own=1, random=0, own_plain=1, random_plain=0) == 1
    assert augmentation_robust_score(own=0, random=1, own_plain=0, random_plain=1) == 0


def test_a_set_no_better_than_random_scores_one_by_one_plus_e():
    even = 1 / (1 + math.e)
    assert label_robust_score(real_hard=0.7, own_hard=0.7, own=0.4, random=0.4) == pytest.approx(even, rel=1e-14)
    assert augmentation_robust_score(own=0.7, random=0.7, own_plain=0.4, random_plain=0.4) == pytest.approx(even, rel=1e-14)


@pytest.mark.parametrize(
    ("score", "values", "name", "sign"),
    [
        *((label_robust_score, LRS, name, sign) for name, sign in zip(LRS, (-1, 1, 1, -1), strict=True)),
        *((augmentation_robust_score, ARS, name, sign) for name, sign in zip(ARS, (1, -1, 1, -1), strict=True)),
    ],
)
def test_scores_rise_with_the_set_and_fall_with_what_it_is_compared_with(score, values, name, sign):
    scores = [score(**{**values, name: accuracy / 20}) for accuracy in range(21)]
    assert all(0 <= value <= 1 for value in scores)
    assert all(sign * (after - before) > 0 for before, after in itertools.pairwise(scores))


@pytest.mark.parametrize("weight", [0, 1])
def test_a_weight_of_0_or_1_leaves_one_aspect(weight):
    without = ("own", "random") if weight == 0 else ("real_hard", "own_hard")
    other = {**LRS, **dict.fromkeys(without, 0.123)}
    assert label_robust_score(**LRS, weight=weight) == label_robust_score(**other, weight=weight)
    without = ("own", "random") if weight == 0 else ("own_plain", "random_plain")
    other = {**ARS, **dict.fromkeys(without, 0.123)}
    assert augmentation_robust_score(**ARS, weight=weight) == augmentation_robust_score(**other, weight=weight)


@pytest.mark.parametrize(
    ("percent", "printed", "documented"),
    [
        ({"real_hard": 80, "own_hard": 30, "own": 40, "random": 30}, -0.1565, 0.191818777220877583),  # alpha = -20 points
        ({"real_hard": 80, "own_hard": 80, "own": 40, "random": 30}, 62.99, 0.290755174050527240),  # +5 points
        ({"real_hard": 80, "own_hard": 80, "own": 50, "random": 30}, 9371, 0.313687341747065674),  # +10 points
    ],
)
def test_what_ddranking_prints_is_the_formula_of_percentages(percent, printed, documented):
    alpha = 0.5 * (percent["own"] - percent["random"]) - 0.5 * (percent["real_hard"] - percent["own_hard"])
    bare = (math.exp(alpha) - math.exp(-1)) / (math.exp(1) - math.exp(-1))
    assert float(f"{bare:.4g}") == printed and not 0 <= bare <= 1
    with pytest.raises(InputError, match="fractions"):
        label_robust_score(**percent)
    assert label_robust_score(**{name: value / 100 for name, value in percent.items()}) == pytest.approx(
        documented, rel=1e-12
    )


@pytest.mark.parametrize("wrong", [62.5, 1.001, -0.001, math.nan, math.inf])
@pytest.mark.parametrize(
    ("score", "values", "name"),
    [
        *((label_robust_score, LRS, name) for name in (*LRS, "weight")),
        *((augmentation_robust_score, ARS, name) for name in (*ARS, "weight")),
    ],
)
def test_what_is_no_fraction_is_refused(score, values, name, wrong):
    with pytest.raises(InputError, match=r"fractions in \[0, 1\] are needed") as caught:
        score(**{**values, name: wrong})
    assert caught.value.field == name


# Embeddings


def channel_means():
    """A classifier whose embedding is the mean of each channel, and the sizes of the batches it has seen."""
    model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.BatchNorm1d(3, eps=0), nn.Linear(3, 2))
    sizes = []
    model.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    classes = [SourceClass("ant", 0), SourceClass("bee", 1)]
    classifier = Classifier(
        model, id="m", architecture="m", classes=classes, class_names=["ant", "bee"], image_size=4, mean=(0, 0, 0),
        std=(1, 1, 1),
    )  # fmt: skip
    return classifier, sizes


@pytest.mark.parametrize(("batch_size", "sizes"), [(1, [1] * 5), (2, [2, 2, 1]), (5, [5]), (100, [5])])
def test_every_image_is_embedded_in_its_place(batch_size, sizes):
    colours = torch.tensor([[0, 51, 255], [1, 2, 3], [200, 100, 0], [7, 7, 7], [255, 255, 255]], dtype=torch.uint8)
    images = colours.view(5, 3, 1, 1).expand(5, 3, 4, 4)  # an image of one colour has that colour for its mean
    classifier, seen = channel_means()
    embeddings = classifier.embeddings(images, batch_size)
    assert (embeddings.dtype, embeddings.shape, embeddings.device.type) == (torch.float32, (5, 3), "cpu")
    torch.testing.assert_close(embeddings, colours / 255)
    assert seen == sizes
    assert images.dtype == torch.uint8 and not embeddings.requires_grad


# MMD


def normal(count, dimensions, seed, *, mean=0.0, std=1.0):
    draw = torch.randn(count, dimensions, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return mean + std * draw


def by_double_loop(own, real):
    own, real = own.tolist(), real.tolist()

    def squared(x, y):
        return math.fsum((p - q) ** 2 for p, q in zip(x, y, strict=True))

    pairs = [(i, j) for i in range(len(real)) for j in range(len(real)) if i != j]
    bandwidth = math.fsum(squared(real[i], real[j]) for i, j in pairs) / len(pairs)

    def mean(a, b):
        return math.fsum(math.exp(-squared(x, y) / bandwidth) for x in a for y in b) / (len(a) * len(b))

    return mean(own, own) + mean(real, real) - 2 * mean(own, real)


def test_two_points_on_a_line_by_hand():
    # One pair of real embeddings, so the bandwidth is its squared distance 4; the set lies in the middle.
    value = mmd(torch.tensor([[1.0]]), torch.tensor([[0.0], [2.0]]))
    assert value == pytest.approx(1 + (1 + math.exp(-1)) / 2 - 2 * math.exp(-1 / 4), rel=1e-13)


@pytest.mark.parametrize(("count", "real_count", "dimensions"), [(1, 2, 1), (5, 9, 3), (40, 31, 7), (3, 60, 20)])
def test_mmd_is_that_of_a_double_loop(count, real_count, dimensions):
    own, real = normal(count, dimensions, 0, mean=0.3, std=1.2), normal(real_count, dimensions, 1)
    assert mmd(own, real) == pytest.approx(by_double_loop(own, real), rel=1e-11)


def test_single_precision_is_summed_in_double():
    own, real = normal(20, 5, 0).float(), normal(70, 5, 1).float()
    assert mmd(own, real) == pytest.approx(by_double_loop(own.double(), real.double()), rel=1e-11)


@pytest.mark.parametrize("chunk_size", [1, 7, 60, 61, 10_000])
def test_chunks_do_not_show(chunk_size):
    own, real = normal(23, 6, 0, mean=0.2), normal(60, 6, 1)
    assert mmd(own, real, chunk_size) == pytest.approx(by_double_loop(own, real), rel=1e-11)


def test_order_does_not_show_and_a_repeated_call_gives_the_same_bits():
    own, real = normal(23, 6, 0, mean=0.2), normal(60, 6, 1)
    value = mmd(own, real, 10)
    assert mmd(own.flip(0), real[torch.randperm(60, generator=torch.Generator().manual_seed(0))], 10) == pytest.approx(
        value, rel=1e-11
    )
    assert mmd(own, real, 10) == value


def test_units_and_origin_of_the_embeddings_do_not_show():
    own, real = normal(23, 6, 0, mean=0.2), normal(60, 6, 1)
    assert mmd(1e3 * own + 1e6, 1e3 * real + 1e6) == pytest.approx(mmd(own, real), rel=1e-8)


def test_the_same_embeddings_in_the_same_proportions_are_at_distance_zero():
    real = normal(50, 4, 0)
    assert mmd(real, real) == 0
    assert mmd(real.flip(0), real, 7) == pytest.approx(0, abs=1e-14)
    assert mmd(real.repeat(3, 1), real) == pytest.approx(0, abs=1e-14)
    assert mmd(real[:49], real) > 1e-6


def test_a_draw_of_real_images_is_as_far_as_its_size_says():
    # The mean over all draws of N of M, without replacement, is the variance of a mean of a finite population.
    real = normal(9, 3, 0)
    squared = torch.stack([(row - real).square().sum(1) for row in real])
    mean_kernel = float((-squared / (squared.sum() / (9 * 8))).exp().mean())
    for count in (1, 2, 4, 8):
        draws = [mmd(real[list(chosen)], real) for chosen in itertools.combinations(range(9), count)]
        expected = (1 - mean_kernel) / count * (9 - count) / (9 - 1)
        assert math.fsum(draws) / len(draws) == pytest.approx(expected, rel=1e-11)


def test_mmd_grows_with_a_shift_towards_its_limit():
    own, real = normal(40, 5, 0), normal(200, 5, 1)
    values = [mmd(own + shift, real) for shift in (0, 0.25, 0.5, 1, 2, 4, 1000)]
    assert all(after > before for before, after in itertools.pairwise(values))
    # Far away nothing is left of the mixed term.
    squared = torch.stack([(row - real).square().sum(1) for row in real])
    within = [torch.stack([(row - x).square().sum(1) for row in x]) for x in (own, real)]
    bandwidth = squared.sum() / (200 * 199)
    assert values[-1] == pytest.approx(sum(float((-d / bandwidth).exp().mean()) for d in within), rel=1e-11)
    assert values[-1] < 2


def test_mmd_sees_a_spread_that_is_too_small_where_the_means_agree():
    own, real = normal(100, 5, 0), normal(400, 5, 1)
    own = own - own.mean(0) + real.mean(0)
    narrow = real.mean(0) + (own - own.mean(0)) / 4
    assert mmd(narrow, real) > 5 * mmd(own, real)


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (0.5, 1.0), (0.0, 0.5), (0.4, 1.5)])
def test_gaussians_agree_with_the_closed_form(mean, std):
    dimensions, count, real_count, draws = 6, 50, 400, 200
    # Mean squared distance of two standard normal vectors. That of a sample of 400 varies by 3 %, which moves the mean below
    # by a third of a percent at most.
    bandwidth = 2 * dimensions

    def expected_kernel(variance, shift):
        """E exp(-|z|² / h) for normal z with this variance in every dimension and this mean in each."""
        wide = bandwidth + 2 * variance
        return (bandwidth / wide) ** (dimensions / 2) * math.exp(-dimensions * shift**2 / wide)

    own_own = (1 + (count - 1) * expected_kernel(2 * std**2, 0)) / count  # an embedding is at distance 0 from itself
    real_real = (1 + (real_count - 1) * expected_kernel(2, 0)) / real_count
    expected = own_own + real_real - 2 * expected_kernel(1 + std**2, mean)
    values = torch.tensor(
        [
            mmd(normal(count, dimensions, 2 * draw, mean=mean, std=std), normal(real_count, dimensions, 2 * draw + 1))
            for draw in range(draws)
        ]
    )
    standard_error = float(values.std()) / draws**0.5
    assert abs(float(values.mean()) - expected) < 3 * standard_error
    assert standard_error < 0.05 * expected  # else the line above would say little


class Largest(TorchFunctionMode):
    """Notes how large a tensor any call of torch returned."""

    numbers = 0

    def __torch_function__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.numbers = max(self.numbers, result.numel())
        return result


def test_no_matrix_of_all_real_pairs_is_ever_held():
    own, real = normal(30, 4, 0), normal(1000, 4, 1)
    with Largest() as all_at_once:
        value = mmd(own, real, 1000)
    with Largest() as chunked:
        assert mmd(own, real, 10) == pytest.approx(value, rel=1e-11)
    assert all_at_once.numbers == 1000 * 1000 and chunked.numbers == 10 * 1000


@pytest.mark.parametrize(
    ("field", "own", "real"),
    [
        ("embeddings", torch.rand(3, 4), torch.rand(5, 3)),
        ("embeddings", torch.rand(3), torch.rand(5, 3)),
        ("embeddings", torch.rand(3, 4), torch.rand(5, 4, 1)),
        ("embeddings", torch.rand(0, 4), torch.rand(5, 4)),
        ("embeddings", torch.rand(3, 4), torch.rand(1, 4)),
        ("embeddings", torch.rand(3, 4), torch.rand(0, 4)),
        ("real", torch.rand(3, 4), torch.full((5, 4), 0.1)),
        ("embeddings", torch.rand(3, 4), torch.rand(5, 4) / 0),
        ("embeddings", torch.full((3, 4), math.nan), torch.rand(5, 4)),
    ],
)
def test_embeddings_without_a_distance_are_refused(field, own, real):
    with pytest.raises(InputError) as caught:
        mmd(own, real)
    assert caught.value.field == field and "\n" not in str(caught.value)
