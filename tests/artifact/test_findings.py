"""Which students collapsed, by hand, and what is said of it."""

import pytest

from distill_hub.artifact.findings import below_random, collapsed, collapsed_seeds, failures, warnings
from distill_hub.artifact.records import Score


def score(*last):
    return Score(last=list(last), best=list(last), best_epoch=[1] * len(last))


@pytest.mark.parametrize(
    ("accuracies", "chance", "images", "expected"),
    [
        # Five classes, 32 test images: two standard errors of chance are 2 sqrt(0.2 * 0.8 / 32) = 0.1414.
        ([0.192], 0.2, 32, [0]),
        ([0.3413, 0.3415], 0.2, 32, [0]),
        # Ten classes, 10,000 test images: 2 sqrt(0.1 * 0.9 / 10,000) = 0.006.
        ([0.1059, 0.1061], 0.1, 10_000, [0]),
        ([0.36, 0.37, 0.1], 0.1, 10_000, [2]),
        # Far below its peers: their median leads chance by 0.265, half of which is 0.1325, so 0.2325 is the bound.
        ([0.36, 0.37, 0.232], 0.1, 10_000, [2]),
        ([0.36, 0.37, 0.233], 0.1, 10_000, []),
        # The same gap with 100 test images: two standard errors of a difference are 2 sqrt(2 * 0.365 * 0.635 / 100) = 0.136
        # and of chance 0.06; with 60 they are 0.176, more than the gap, and 0.0775.
        ([0.36, 0.37, 0.2], 0.1, 100, [2]),
        ([0.36, 0.37, 0.2], 0.1, 60, []),
        # Nobody above others is at fault, and one student has no peers.
        ([0.9, 0.89, 0.99], 0.1, 500, []),
        ([0.4], 0.1, 500, []),
        # A student below chance learned something else.
        ([0.0], 0.5, 100, [0]),
    ],
)
def test_students_that_did_not_train(accuracies, chance, images, expected):
    assert collapsed_seeds(accuracies, chance, images) == expected


def test_a_record_says_which_seeds_and_a_record_without_its_test_takes_the_sets(make_evaluation, build_manifest):
    record = make_evaluation("0" * 64, seeds=[4, 7, 9], score=score(0.9, 0.35, 0.92), test_images=150, chance=1 / 3)
    record = record.model_copy(update={"baselines": {"random real": score(0.8, 0.8, 0.8)}})
    assert collapsed(record) == {"this set": [7]}
    (collapse, below) = failures(record)
    # 2 sqrt(1/3 * 2/3 / 150) = 0.077; the means are 0.7233 and 0.8.
    assert collapse == (
        "convnet2 on this set COLLAPSED in 1 of 3 seeds: 7 (35.0 %); chance is 33.3 %, "
        "and 150 test images tell it from more than 41.0 % only"
    )
    peers = record.model_copy(update={"score": score(0.9, 0.5, 0.92)})
    assert failures(peers)[0].endswith(
        "7 (50.0 %); " + collapse.partition("; ")[2] + "; what is above that is far below the other seeds"
    )
    assert below == "convnet2 on this set is BELOW as many random real images, by 7.7 points on average"
    old = record.model_copy(update={"test_images": None, "chance": None})
    assert collapsed(old) == {}
    assert failures(old, build_manifest()("0" * 64)) == [collapse, below]  # 3 classes, 150 test images


def test_below_random_and_not(make_evaluation):
    assert below_random(make_evaluation("0" * 64)) is None  # 0.6 and 0.4
    assert below_random(make_evaluation("0" * 64, baselines={})) is None
    worse = make_evaluation("0" * 64, score=score(0.3, 0.2, 0.1))
    assert below_random(worse) == pytest.approx(0.2)
    written_as_equal = make_evaluation("0" * 64, score=score(0.4, 0.4, 0.3988))
    assert written_as_equal.baselines["random real"].mean - written_as_equal.score.mean == pytest.approx(0.0004)
    assert below_random(written_as_equal) is None


def test_a_protocol_of_nobody_else_is_said_once_and_one_of_the_literature_not(make_evaluation):
    quick = make_evaluation("0" * 64, test_images=10_000, chance=0.1)
    (line,) = warnings([quick, quick.model_copy(update={"student": "convnet-3"})])
    assert line.startswith("quick v1 is NOT of the literature")
    assert warnings([quick.model_copy(update={"standard": True})]) == []
