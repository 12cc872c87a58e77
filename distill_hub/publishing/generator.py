"""A generator that distill-hub fine-tuned: its model card, and its publication on the Hub."""

import re
from collections.abc import Collection
from pathlib import Path

from huggingface_hub import ModelCard, ModelCardData

from distill_hub.artifact.generator import base_name, generator_name, is_on_hub, read_tuning
from distill_hub.artifact.manifest import TuningRecord
from distill_hub.config import InputError
from distill_hub.disk.files import folder_name
from distill_hub.generators.known import PHASES, TUNING
from distill_hub.hub import address, page_of
from distill_hub.publishing.card import cited, fill_template, license_fields, source_argument
from distill_hub.publishing.destination import Gate, Kind, Publication, check_destination
from distill_hub.publishing.markdown import link
from distill_hub.publishing.models import publish_model
from distill_hub.publishing.readme import card_of

TUNED_GENERATOR = Kind(
    *("model", "tuned generator", TUNING, TuningRecord), "`distill-hub make plain --generator {0}` draws a set from it"
)
# Beside the card. What else lies in the folder is not published; in the repository it is left alone.
_FILES = re.compile(
    rf"model_index\.json|{re.escape(TUNING)}|{re.escape(PHASES)}|losses\.png|scheduler/scheduler_config\.json"
    r"|(transformer|vae)/(config\.json|[\w.-]+\.safetensors(\.index\.json)?)"
).fullmatch


def model_card(record: TuningRecord, *, location: str, files: Collection[str]) -> str:
    """Write the README.md of a tuned generator.

    Args:
        record: How it was tuned.
        location: What a reader passes to `from_pretrained`: a Hub id or a folder.
        files: Names of the generator's files. `losses.png` is shown if it is one of them.

    Returns:
        YAML block and Markdown.
    """
    base, source, method = record.base, record.source, record.method
    on_hub = is_on_hub(base)
    data = ModelCardData(
        **license_fields(base.license),
        library_name="diffusers",
        # No pipeline_tag: the Hub has tasks for images from text and from nothing, none for images of a class.
        base_model=base.id if on_hub else None,
        base_model_relation="finetune" if on_hub else None,
        datasets=[source.hub_id] if source.hub_id else None,
        tags=["dataset-distillation", "distill-hub", method.name],
    )
    text = fill_template(
        "model_card.md.jinja",
        yaml=data.to_yaml(),
        title=generator_name(record),
        t=record,
        files=files,
        location=location,
        base_link=link(base_name(base), page_of(base.id, "model") if on_hub else None),
        source_argument=source_argument(source),
        bibtex=cited(method.bibtex, source.bibtex),
    )
    return str(ModelCard(text))  # which refuses broken YAML


def push_generator(
    path: str | Path,
    repo_id: str = "auto",
    *,
    private: bool = False,
    revision: str | None = None,
    create_pr: bool = False,
    tag: str | None = None,
    gated: Gate | None = None,
) -> Publication:
    """Publish a generator that distill-hub tuned as a model on the Hub, in one commit.

    Uploaded are the files of the pipeline, its record, the picture of its losses and its card, after the pipeline was loaded
    once. What people wrote in the folder's card, or in that of a repository which is there already, stays.

    Args:
        path: The folder of the generator.
        repo_id: See `check_destination`, as for all that follow.
        private: Make a new repository private.
        revision: Branch to publish to; it is made when there is none.
        create_pr: Open a pull request instead.
        tag: Tag the commit.
        gated: Gate a new repository.

    Returns:
        The commit. When nothing has changed, the one that is there.

    Raises:
        InputError: For a generator or destination that cannot be used.
        HubError: When Hub or network fail more than a few times. The same command goes on.
    """
    folder = Path(path)
    record = read_tuning(folder)
    if record is None:
        raise InputError("path", str(path), f"the folder of a generator that distill-hub tuned is needed, with its {TUNING}")
    name = generator_name(record)
    destination = check_destination(
        repo_id, name, private=private, revision=revision, create_pr=create_pr, tag=tag, gated=gated, kind=TUNED_GENERATOR
    )
    from distill_hub.generators.dit import DiTGenerator  # whose libraries take seconds: once there is nothing else to refuse

    DiTGenerator.from_pretrained(str(folder))
    names = (file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())
    content = {name: folder / name for name in sorted(names) if _FILES(name)}
    return publish_model(
        folder,
        destination,
        name,
        content,
        card=lambda repo_id: model_card(record, location=repo_id, files=content),
        local_card=_local_card(folder, record, content),
        is_own=_FILES,
    )


def _local_card(folder: Path, record: TuningRecord, files: Collection[str]) -> tuple[str, str]:
    """Return README.md of a folder, and the card as it was generated there; '' for both where there is no README.md.

    The folder keeps no copy of what was generated. It follows from the record and the location, which the card names.
    """
    card, _ = card_of(folder)
    if not card:
        return "", ""
    location = re.search(r'DiTPipeline\.from_pretrained\("(.+)"\)', card)
    generated = model_card(record, location=location[1] if location else folder_name(folder), files=files)
    ids = "|".join(re.escape(id) for id in (record.base.id, f"datasets/{record.source.hub_id}"))
    hub = re.search(rf"\]\(<?(https?://\S+?)/(?:{ids})>?\)", card)  # the one that was asked then
    return card, generated.replace(f"{address()}/", f"{hub[1]}/") if hub else generated
