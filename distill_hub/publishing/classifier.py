"""The model card of a classifier that distill-hub trained."""

from huggingface_hub import ModelCard, ModelCardData

from distill_hub.artifact.classifier import ClassifierRecord, classifier_name
from distill_hub.artifact.manifest import source_name
from distill_hub.data.known import KNOWN
from distill_hub.networks.names import is_own
from distill_hub.publishing.card import fill_template
from distill_hub.running.files import slug


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
    test_split = f"its split `{source.test_split}`"
    if source.test_fraction:
        test_split = f"{source.test_fraction:.0%} of its training split, held out"
    text = fill_template(
        "classifier_card.md.jinja",
        yaml=data.to_yaml(),
        title=classifier_name(source_name(source), record.network),
        r=record,
        by_timm=by_timm,
        location=location,
        source_argument=source.name if source.hub_id or source.name in KNOWN else f"path/to/{slug(source.name)}",
        test_split=test_split,
    )
    return str(ModelCard(text))  # which refuses broken YAML
