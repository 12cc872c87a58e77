"""Scoring a set again: by class names, whatever their order; what cannot be trusted is refused."""

from types import SimpleNamespace

import pytest

from distill_hub import InputError, evaluate
from distill_hub.artifact.find import read_records
from distill_hub.artifact.manifest import ModelRecord
from distill_hub.evaluation.reevaluate import Comparison, _recorded_teacher
from distill_hub.options.shared import EvaluationOptions


def test_a_set_with_permuted_classes_scores_the_same(make_set, tmp_path):
    (plain,) = evaluate(make_set(tmp_path / "plain", list(range(10))))
    (permuted,) = evaluate(make_set(tmp_path / "permuted", [3, 1, 4, 5, 9, 2, 6, 8, 7, 0]))
    # Matched by position, the second would be right on about one digit in ten.
    assert plain.measured.score.mean > 0.75
    assert permuted.measured.score == plain.measured.score  # and no order of its own moves the last digit
    assert plain.claimed.score.mean == 0.99  # the claim is the record's, not what was measured
    assert plain.difference == pytest.approx(plain.measured.score.mean - 0.99)


def test_names_the_source_does_not_have_are_refused(make_set, tmp_path):
    folder = make_set(tmp_path, list(range(10)), names=[f"digit-{c}" for c in range(10)])
    with pytest.raises(InputError, match="digit-0"):
        evaluate(folder)


def test_soft_labels_in_another_order_than_the_labels_are_refused(make_set, tmp_path):
    folder = make_set(tmp_path, list(range(10)), soft_order=[*range(1, 10), 0])
    with pytest.raises(InputError, match=r"its soft labels agree with the labels on 0\.0%"):
        evaluate(folder)


def test_without_a_record_students_are_those_of_a_recipe_and_nothing_is_claimed(make_set, tmp_path):
    folder = make_set(tmp_path, list(range(10)))
    for record in (folder / "evaluations").iterdir():
        record.unlink()
    (pair,) = evaluate(folder, repeats=1)
    assert pair.claimed is None and pair.measured.protocol == EvaluationOptions().protocol == "quick"
    assert pair.measured.student == "convnet-2"


def test_what_is_not_claimed_is_not_checked_and_nothing_is_trained(make_set, tmp_path, monkeypatch):
    folder = make_set(tmp_path, list(range(10)))
    (claimed,) = read_records(folder).values()
    monkeypatch.setattr("distill_hub.evaluation.reevaluate.real_source", lambda *_, **__: pytest.fail("it went on"))
    for how in ({"students": "convnet-1"}, {"protocol": "idc-hard"}):
        with pytest.raises(InputError, match=r"^check: ") as caught:
            evaluate(folder, check=True, **how)
        assert f"claims {claimed.protocol_label} with {claimed.student}" in str(caught.value)
    for record in (folder / "evaluations").iterdir():
        record.unlink()
    with pytest.raises(InputError, match=r"^check: 'quick with convnet-1' .* claims nothing"):
        evaluate(folder, check=True, protocol="quick", students="convnet-1")


def test_agreement_is_two_standard_errors_of_the_difference(make_record):
    def comparison(claimed: list[float], measured: list[float]) -> Comparison:
        return Comparison(make_record("0" * 64, claimed), make_record("0" * 64, measured))

    # Both have sample variance 0.0001 over 3 seeds: the standard error is sqrt(2 * 0.0001 / 3) = 0.008165.
    assert comparison([0.80, 0.81, 0.82], [0.816, 0.826, 0.836]).agrees  # 0.016 apart
    assert not comparison([0.80, 0.81, 0.82], [0.817, 0.827, 0.837]).agrees  # 0.017 apart
    assert comparison([0.8], [0.8]).agrees
    assert not comparison([0.8], [0.9]).agrees


def test_the_teacher_of_a_claim_is_fetched_where_it_was_published_since(make_record):
    fitted = ModelRecord(id="fitted to digits", architecture="convnet-2", sha256="1" * 64)
    published = fitted.model_copy(update={"id": "org/teacher", "revision": "a" * 40})
    claim = make_record("0" * 64, [0.5])
    given = SimpleNamespace(manifest=SimpleNamespace(teacher=published))

    def teacher_of(claimed, given=given):
        claimed = claim.model_copy(update={"teacher": claimed})
        return _recorded_teacher(given, SimpleNamespace(claim=claimed))

    other = fitted.model_copy(update={"sha256": "2" * 64})
    assert teacher_of(fitted) == teacher_of(None) == published and teacher_of(other) == other
    assert teacher_of(fitted, SimpleNamespace(manifest=None)) == fitted
