"""A classifier that distill-hub trained: its model card, and its publication on the Hub."""

import re
from pathlib import Path

from huggingface_hub import ModelCard, ModelCardData

from distill_hub.artifact.classifier import ClassifierRecord
from distill_hub.artifact.names import model_name
from distill_hub.data.classes import SourceClass
from distill_hub.disk.files import folder_name
from distill_hub.hub import page_of
from distill_hub.publishing.card import fill_template, license_fields, source_argument, test_split
from distill_hub.publishing.destination import Gate, Kind, Publication, check_destination
from distill_hub.publishing.markdown import link
from distill_hub.publishing.models import publish_model
from distill_hub.publishing.readme import card_of
from distill_hub.publishing.students import RESULTS, student_card, student_results
from distill_hub.publishing.trained import CONFIG, WEIGHTS, ClassifierConfig, name_of, read_classifier

CLASSIFIER = Kind(
    *("model", "classifier", CONFIG, ClassifierConfig),
    "`--teacher {0}` names it to any recipe, and to `distill-hub push SET`",
)
# Beside the card. The last: how it learned every image, for coresets.
_FILES = (CONFIG, WEIGHTS, "dynamics.safetensors")


def classifier_card(record: ClassifierRecord, *, location: str, published: bool = False) -> str:
    """Write the README.md of a classifier.

    Args:
        record: How it was trained; of a student see `publishing.students`.
        location: What a reader passes to `load_classifier`: its folder, or its id on the Hub.
        published: Whether it is an id.

    Returns:
        YAML block and Markdown.
    """
    if record.trained_on:
        return student_card(record, location=location)
    source, by_timm, base = record.source, record.network.startswith("timm/"), record.pretrained
    on_hub = base is not None and base.revision is not None
    data = ModelCardData(
        **license_fields(base.license if base else None),
        library_name="timm" if by_timm else "distill-hub",
        pipeline_tag="image-classification",
        base_model=base.id if on_hub else None,
        base_model_relation="finetune" if on_hub else None,
        datasets=[source.hub_id] if source.hub_id else None,
        tags=["image-classification", "dataset-distillation", "distill-hub"],
    )
    text = fill_template(
        "classifier_card.md.jinja",
        yaml=data.to_yaml(),
        title=name_of(record),
        r=record,
        by_timm=by_timm,
        base_link=link(model_name(base), page_of(base.id, "model") if on_hub else None) if base else None,
        location=location,
        timm_location=f"{'hf-hub' if published else 'local-dir'}:{location}",
        source_argument=source_argument(source),
        test_split=test_split(source),
    )
    return str(ModelCard(text))  # which refuses broken YAML


def push_classifier(
    path: str | Path,
    repo_id: str = "auto",
    *,
    private: bool = False,
    revision: str | None = None,
    create_pr: bool = False,
    tag: str | None = None,
    gated: Gate | None = None,
) -> Publication:
    """Publish a classifier that distill-hub trained as a model on the Hub, in one commit, after it was loaded once.

    What people wrote in the folder's card, or in that of a repository which is there already, stays.

    Args:
        path: The folder of the classifier.
        repo_id: See `check_destination`, as for all that follow.
        private: Make a new repository private.
        revision: Branch to publish to; it is made when there is none.
        create_pr: Open a pull request instead.
        tag: Tag the commit.
        gated: Gate a new repository.

    Returns:
        The commit. When nothing has changed, the one that is there.

    Raises:
        InputError: For a classifier or destination that cannot be used.
        HubError: When Hub or network fail more than a few times. The same command goes on.
    """
    folder = Path(path)
    record = read_classifier(folder)
    name = name_of(record)
    destination = check_destination(
        repo_id, name, private=private, revision=revision, create_pr=create_pr, tag=tag, gated=gated, kind=CLASSIFIER
    )
    from distill_hub.classifiers import load_classifier  # it takes seconds: once there is nothing else to refuse

    load_classifier(str(folder.resolve()), [SourceClass(known, place) for place, known in enumerate(record.classes)])
    content: dict[str, Path | bytes] = {name: folder / name for name in _FILES if (folder / name).is_file()}
    if results := student_results(record):
        content[RESULTS] = results
    return publish_model(
        folder,
        destination,
        name,
        content,
        card=lambda repo_id: classifier_card(record, location=repo_id, published=True),
        local_card=_local_card(folder, record),
        is_own={*_FILES, RESULTS}.__contains__,
    )


def _local_card(folder: Path, record: ClassifierRecord) -> tuple[str, str]:
    """Return README.md of a folder, and the card as it was generated there; '' for both where there is no README.md.

    The folder keeps no copy of what was generated. It follows from the record and the location, which the card names.
    """
    card, _ = card_of(folder)
    location = re.search(r'load_classifier\("(.+?)",', card)
    return card, card and classifier_card(record, location=location[1] if location else folder_name(folder))
