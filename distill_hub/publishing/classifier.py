"""The model card of a classifier that distill-hub trained."""

from huggingface_hub import ModelCard, ModelCardData

from distill_hub.artifact.classifier import ClassifierRecord, classifier_name
from distill_hub.artifact.names import source_name
from distill_hub.networks.names import is_own
from distill_hub.publishing.card import fill_template, source_argument, test_split


def classifier_card(record: ClassifierRecord, *, location: str) -> str:
    """Write the README.md of a classifier.

    Args:
        record: How it was trained.
        location: What a reader passes to `load_classifier`: its folder.

    Returns:
        YAML block and Markdown.
    """
    source, by_timm = record.source, not is_own(record.network)
    data = ModelCardData(
        library_name="timm" if by_timm else "distill-hub",
        pipeline_tag="image-classification",
        datasets=[source.hub_id] if source.hub_id else None,
        tags=["image-classification", "dataset-distillation", "distill-hub"],
    )
    text = fill_template(
        "classifier_card.md.jinja",
        yaml=data.to_yaml(),
        title=classifier_name(source_name(source), record.network),
        r=record,
        by_timm=by_timm,
        location=location,
        source_argument=source_argument(source),
        test_split=test_split(source),
    )
    return str(ModelCard(text))  # which refuses broken YAML
