import json
import re

import pydantic
import pytest

from distill_hub.artifact.manifest import Manifest, SelectorRecord, TuningRecord, ViewsRecord
from distill_hub.artifact.names import set_name
from distill_hub.artifact.records import EvaluationRecord, Score
from distill_hub.config import InputError
from distill_hub.publishing.card import cards_folder

CONTENT = "c" * 64


@pytest.fixture
def written(tmp_path, build_manifest, full):
    path = tmp_path / "manifest.json"
    path.write_text(build_manifest(**full)(CONTENT).to_json(), encoding="utf-8")
    return path


def change(path, **fields):
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **fields}), encoding="utf-8")


def refusal(path):
    with pytest.raises(InputError) as caught:
        Manifest.read(path)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 300
    return message


def test_round_trip(written, build_manifest, full):
    assert Manifest.read(written) == build_manifest(**full)(CONTENT)


def test_unknown_field_is_refused(written):
    change(written, colour="blue")
    assert "manifest.json: colour: 'blue'" in refusal(written)


def test_newer_format_is_refused_by_its_version_even_with_new_fields(written):
    change(written, format_version=2, colour="blue")
    assert "reads format 1; a newer one may read 2" in refusal(written)


def test_missing_field_is_named_in_a_short_line(written):
    fields = json.loads(written.read_text(encoding="utf-8"))
    del fields["ipc"]
    written.write_text(json.dumps(fields))
    assert "manifest.json: ipc: " in refusal(written)


@pytest.mark.parametrize(("field", "value"), [("ipc", "2"), ("ipc", 0), ("image_size", 8.5), ("content_sha256", "no")])
def test_wrong_type_or_range_is_refused(written, field, value):
    change(written, **{field: value})
    assert f"manifest.json: {field}: " in refusal(written)


def test_repeated_class_name_is_refused(written):
    change(written, classes=[{"name": "cat", "source_index": 0}, {"name": "cat", "source_index": 1}])
    assert "class names must differ" in refusal(written)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[]"])
def test_file_that_is_no_json_object_is_refused(written, content):
    written.write_bytes(content)
    assert "manifest.json: content: " in refusal(written)


def test_set_name():
    assert set_name("frgfm/Image_Woof", 10, "cao2") == "image-woof-ipc10-cao2"


def test_score_is_mean_and_sample_standard_deviation_of_the_last_accuracy():
    score = Score(last=[0.5, 0.6, 0.7], best=[0.9, 0.9, 0.9], best_epoch=[1, 1, 1])
    assert score.percent() == "60.0 ± 10.0"
    assert score.best_mean == pytest.approx(0.9)
    assert Score(last=[0.5], best=[0.9], best_epoch=[1]).std == 0


def test_evaluation_needs_one_score_per_seed(make_evaluation):
    with pytest.raises(pydantic.ValidationError, match="every score needs one entry for each of the seeds"):
        make_evaluation(CONTENT, seeds=[0, 1])


def test_evaluation_round_trip(tmp_path, make_evaluation):
    record = make_evaluation(CONTENT)
    path = tmp_path / record.file_name
    path.write_text(record.to_json(), encoding="utf-8")
    assert path.name == "quick-convnet2-20260102T030405Z.json"
    assert EvaluationRecord.read(path) == record


@pytest.mark.parametrize(
    ("record", "start", "end"),
    [
        (Manifest, "## manifest.json", "## content_sha256"),
        (EvaluationRecord, "## Evaluation records", "## Stored views"),
        (ViewsRecord, "### The manifest's `views`", "`sha256` covers"),
    ],
)
def test_format_md_lists_exactly_the_fields_there_are(record, start, end):
    text = (cards_folder() / "FORMAT.md").read_text(encoding="utf-8")
    first_cells = re.findall(r"^\| (`.*?`) \|", text[text.index(start) : text.index(end)], re.MULTILINE)
    assert re.findall(r"`(\w+)`", " ".join(first_cells)) == list(record.model_fields)


def test_a_selector_is_written_where_there_is_one_alone(build_manifest, full):
    assert "selector" not in json.loads(build_manifest(**full)(CONTENT).to_json())
    record = SelectorRecord(**dict(full["teacher"]), judged_over=1000)
    written = build_manifest(**full, selector=record)(CONTENT)
    assert Manifest.model_validate_json(written.to_json()).selector == record
    with pytest.raises(pydantic.ValidationError):
        SelectorRecord(**dict(full["teacher"]), judged_over=0)


def test_format_md_names_the_fields_of_nested_records(build_manifest, full):
    text = (cards_folder() / "FORMAT.md").read_text(encoding="utf-8")
    manifest = build_manifest(**full)(CONTENT)
    for part in (
        manifest.method,
        manifest.source,
        manifest.classes[0],
        manifest.teacher,
        manifest.environment,
        manifest.stages[0],
        TuningRecord,
        SelectorRecord,
    ):
        for field in (part if isinstance(part, type) else type(part)).model_fields:
            assert f"`{field}`" in text, field


def test_a_record_of_a_timm_student_has_a_file_name_without_folders(make_evaluation):
    record = make_evaluation(CONTENT, student="timm/resnet18")
    assert record.file_name == f"{record.protocol}-timm-resnet18-20260102T030405Z.json"
