"""Scoring a set again: by class names, whatever their order; what cannot be trusted is refused."""

import datetime

import numpy as np
import pytest

from distill_hub import InputError, evaluate
from distill_hub.artifact.describe import source_record
from distill_hub.artifact.manifest import ClassRecord, EnvironmentRecord, Manifest, MethodRecord
from distill_hub.artifact.package import write_artifact
from distill_hub.artifact.records import EvaluationRecord, Score
from distill_hub.evaluation.reevaluate import Comparison
from distill_hub.run import atomic_write
from distill_hub.sources import load_source

NOW = datetime.datetime(2026, 1, 2, tzinfo=datetime.timezone.utc)
ENVIRONMENT = EnvironmentRecord(
    packages={}, python="3", hardware="CPU", processes=1, mixed_precision="no", peak_memory_bytes={"cpu": 1}
)
IPC = 5


@pytest.fixture(scope="module")
def digits():
    return load_source("digits")


def real_set(digits, folder, order, *, names=None, soft_order=None):
    """Package real digits, 5 per class, with the classes in a given order.

    `names` writes other names over them; `soft_order` shuffles the columns of the soft labels against the labels.
    """
    names = names or [digits.class_names[c] for c in order]
    chosen = digits.train.draw_per_class(IPC, seed=0).reshape(10, IPC)
    pixels = digits.train.pixels(chosen.flatten(), 16).permute(0, 2, 3, 1).numpy().reshape(10, IPC, 16, 16, 3)
    rows = []
    for label, source_class in enumerate(order):
        soft = np.full(10, 0.01, dtype=np.float32)
        soft[soft_order[label] if soft_order else label] = 0.91
        rows += [
            {"image": image, "label": label, "soft_label": soft, "confidence": 0.91, "seed": 0}
            for image in pixels[source_class]
        ]

    def manifest(content):
        return Manifest(
            name="digits-ipc5-real",
            method=MethodRecord(name="real", title="Real images", paper="https://example.org", bibtex="", config={}),
            source=source_record(digits),
            classes=[ClassRecord(name=n, source_index=c) for n, c in zip(names, order, strict=True)],
            ipc=IPC,
            image_size=16,
            seed=0,
            stages=[],
            environment=ENVIRONMENT,
            content_sha256=content,
            created=NOW,
        )

    written = write_artifact(folder, rows, manifest, class_names=names)
    record = EvaluationRecord(
        protocol="quick",
        protocol_version=1,
        standard=False,
        student="convnet-2",
        seeds=[0],
        score=Score(last=[0.99], best=[0.99], best_step=[100]),
        content_sha256=written.content_sha256,
        environment=ENVIRONMENT,
        seconds=1.0,
        date=NOW,
    )
    atomic_write(folder / "evaluations" / record.file_name, record.to_json().encode())
    return folder


def test_a_set_with_permuted_classes_scores_as_well(digits, tmp_path):
    (plain,) = evaluate(real_set(digits, tmp_path / "plain", list(range(10))))
    (permuted,) = evaluate(real_set(digits, tmp_path / "permuted", [3, 1, 4, 5, 9, 2, 6, 8, 7, 0]))
    # Matched by position, the second would be right on about one digit in ten.
    assert plain.measured.score.mean > 0.75
    assert permuted.measured.score.mean > 0.75
    assert plain.claimed.score.mean == 0.99  # the claim is the record's, not what was measured
    assert plain.difference == pytest.approx(plain.measured.score.mean - 0.99)


def test_names_the_source_does_not_have_are_refused(digits, tmp_path):
    folder = real_set(digits, tmp_path, list(range(10)), names=[f"digit-{c}" for c in range(10)])
    with pytest.raises(InputError, match="digit-0"):
        evaluate(folder)


def test_soft_labels_in_another_order_than_the_labels_are_refused(digits, tmp_path):
    folder = real_set(digits, tmp_path, list(range(10)), soft_order=[*range(1, 10), 0])
    with pytest.raises(InputError, match=r"its soft labels agree with the labels on 0\.0%"):
        evaluate(folder)


def test_without_a_record_there_is_nothing_to_compare_with(digits, tmp_path):
    folder = real_set(digits, tmp_path, list(range(10)))
    for record in (folder / "evaluations").iterdir():
        record.unlink()
    with pytest.raises(InputError, match="no evaluation record"):
        evaluate(folder)


def comparison(claimed: list[float], measured: list[float]) -> Comparison:
    def record(values):
        return EvaluationRecord(
            protocol="quick",
            protocol_version=1,
            standard=False,
            student="convnet-2",
            seeds=list(range(len(values))),
            score=Score(last=values, best=values, best_step=[1] * len(values)),
            content_sha256="0" * 64,
            environment=ENVIRONMENT,
            seconds=1.0,
            date=NOW,
        )

    return Comparison(record(claimed), record(measured))


def test_agreement_is_two_standard_errors_of_the_difference():
    # Both have sample variance 0.0001 over 3 seeds: the standard error is sqrt(2 * 0.0001 / 3) = 0.008165.
    assert comparison([0.80, 0.81, 0.82], [0.816, 0.826, 0.836]).agrees  # 0.016 apart
    assert not comparison([0.80, 0.81, 0.82], [0.817, 0.827, 0.837]).agrees  # 0.017 apart
    assert comparison([0.8], [0.8]).agrees
    assert not comparison([0.8], [0.9]).agrees
