"""Expert trajectories: their model card, and their publication on the Hub."""

import re
from pathlib import Path

from huggingface_hub import ModelCard, ModelCardData

from distill_hub.artifact.experts import ExpertsRecord, experts_name, file_name, load_experts
from distill_hub.artifact.names import source_name
from distill_hub.config import InputError
from distill_hub.networks.names import EXPERTS
from distill_hub.publishing.card import cited, fill_template, source_argument, test_split
from distill_hub.publishing.destination import Gate, Kind, Publication, check_destination
from distill_hub.publishing.models import publish_model
from distill_hub.publishing.readme import card_of

TRAJECTORIES = Kind(
    *("model", "folder of expert trajectories", EXPERTS, ExpertsRecord),
    "`distill-hub make mtt --experts {0}` matches them",
)


def experts_card(record: ExpertsRecord, *, location: str) -> str:
    """Write the README.md of some experts.

    Args:
        record: How they were trained.
        location: What a reader passes to `--experts`: a Hub id or a folder.

    Returns:
        YAML block and Markdown.
    """
    source, accuracies = record.source, [expert.test_accuracy for expert in record.experts]
    data = ModelCardData(
        library_name="distill-hub",
        datasets=[source.hub_id] if source.hub_id else None,
        tags=["dataset-distillation", "distill-hub", "expert-trajectories"],
    )
    text = fill_template(
        "experts_card.md.jinja",
        yaml=data.to_yaml(),
        title=experts_name(source_name(source), record.network),
        r=record,
        location=location,
        mean_accuracy=sum(accuracies) / len(accuracies),
        source_argument=source_argument(source),
        test_split=test_split(source),
        bibtex=cited(None, source.bibtex),
    )
    return str(ModelCard(text))  # which refuses broken YAML


def push_experts(
    path: str | Path,
    repo_id: str = "auto",
    *,
    private: bool = False,
    revision: str | None = None,
    create_pr: bool = False,
    tag: str | None = None,
    gated: Gate | None = None,
) -> Publication:
    """Publish expert trajectories as a model on the Hub, in one commit, after every file was checked.

    What people wrote in the folder's card, or in that of a repository which is there already, stays.

    Args:
        path: The folder of the experts.
        repo_id: See `check_destination`, as for all that follow.
        private: Make a new repository private.
        revision: Branch to publish to; it is made when there is none.
        create_pr: Open a pull request instead.
        tag: Tag the commit.
        gated: Gate a new repository.

    Returns:
        The commit. When nothing has changed, the one that is there.

    Raises:
        InputError: For experts or a destination that cannot be used.
        HubError: When Hub or network fail more than a few times. The same command goes on.
    """
    folder = Path(path)
    if not (folder / EXPERTS).is_file():
        raise InputError("path", str(path), f"a folder of expert trajectories is needed, with its {EXPERTS}")
    record = load_experts(str(folder)).record
    name = experts_name(source_name(record.source), record.network)
    destination = check_destination(
        repo_id, name, private=private, revision=revision, create_pr=create_pr, tag=tag, gated=gated, kind=TRAJECTORIES
    )
    content = {name: folder / name for name in (EXPERTS, *map(file_name, range(len(record.experts))))}
    return publish_model(
        folder,
        destination,
        name,
        content,
        card=lambda repo_id: experts_card(record, location=repo_id),
        local_card=card_of(folder),
        is_own=re.compile(r"expert-.*\.safetensors").fullmatch,
    )
