"""The model card of a student that was trained on a distilled set, and its result as the Hub reads it."""

from huggingface_hub import EvalResult, EvalResultEntry, ModelCard, ModelCardData, eval_result_entries_to_yaml
from huggingface_hub.utils import yaml_dump

from distill_hub.artifact.classifier import ClassifierRecord
from distill_hub.artifact.names import source_name
from distill_hub.artifact.records import protocol_label
from distill_hub.hub import page_of
from distill_hub.publishing.card import fill_template, source_argument, test_split
from distill_hub.publishing.markdown import code, link
from distill_hub.publishing.trained import name_of

RESULTS = ".eval_results/accuracy.yaml"


def student_card(record: ClassifierRecord, *, location: str) -> str:
    """Write the README.md of a student: its set, its protocol and its result, in the text and as `model-index`.

    Args:
        record: How it was trained, with `trained_on`.
        location: What a reader passes to `load_classifier`: its folder, or its id on the Hub.

    Returns:
        YAML block and Markdown.
    """
    source, own = record.source, record.trained_on
    name = name_of(record)
    page = page_of(own.hub_id, "dataset") if own.hub_id else None
    result = EvalResult(
        task_type="image-classification",
        task_name=f"Image classification, trained on {own.name} by {_protocol(record)}",
        dataset_type=source.hub_id or source_name(source),
        dataset_name=source_name(source),
        dataset_split=source.test_split,
        dataset_revision=source.revision,
        metric_type="accuracy",
        metric_name=f"test accuracy after the last epoch, seed {own.seed}",
        metric_value=record.test_accuracy,
        source_name=own.name if page else None,
        source_url=page,
    )
    data = ModelCardData(
        library_name="timm" if record.network.startswith("timm/") else "distill-hub",
        pipeline_tag="image-classification",
        datasets=[own.hub_id] if own.hub_id else None,
        tags=["image-classification", "dataset-distillation", "distill-hub", "student"],
        model_name=name,
        eval_results=[result],
    )
    text = fill_template(
        "student_card.md.jinja",
        yaml=data.to_yaml(),
        title=name,
        r=record,
        set_link=link(own.name, page) if page else code(own.name),
        protocol=_protocol(record),
        location=location,
        source_argument=source_argument(source),
        test_split=test_split(source),
    )
    return str(ModelCard(text))  # which refuses broken YAML


def student_results(record: ClassifierRecord) -> bytes | None:
    """Return a student's result for `.eval_results` of its repository; None where its test images are not on the Hub."""
    source, own = record.source, record.trained_on
    if own is None or source.hub_id is None:
        return None
    entry = EvalResultEntry(
        dataset_id=source.hub_id,
        task_id="image-classification",
        value=record.test_accuracy,
        dataset_revision=source.revision,
        date=record.created.isoformat(),
        source_url=page_of(own.hub_id, "dataset") if own.hub_id else None,
        source_name=own.name if own.hub_id else None,
        notes=f"accuracy, a fraction; trained on {own.name} by {_protocol(record)}, seed {own.seed}",
    )
    return yaml_dump(eval_result_entries_to_yaml([entry]), sort_keys=False).encode()


def _protocol(record: ClassifierRecord) -> str:
    own = record.trained_on
    return protocol_label(own.protocol, own.protocol_version, standard=own.standard)
