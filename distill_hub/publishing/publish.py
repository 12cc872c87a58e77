"""What is published: a folder as it is, with the card of the Hub; and a measurement, by pull request."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from distill_hub.artifact.find import (
    MANIFEST,
    MANIFEST_BYTES,
    RECORD_BYTES,
    find,
    of_content,
    read_description,
    read_records,
    record_names,
)
from distill_hub.artifact.load import Artifact, read_artifact
from distill_hub.artifact.manifest import Manifest
from distill_hub.artifact.records import EvaluationRecord
from distill_hub.config import InputError
from distill_hub.ending import tell
from distill_hub.hub import RemoteSet, fetch
from distill_hub.publishing.destination import Content, Destination, Gate, Publication, check_destination, commit
from distill_hub.publishing.imagenet import WARNING, shows_imagenet
from distill_hub.publishing.readme import CARD_BYTES, GENERATED, README, card_of, readme_files
from distill_hub.views.files import open_views


def push(
    path: str | Path,
    repo_id: str = "auto",
    *,
    private: bool = False,
    revision: str | None = None,
    create_pr: bool = False,
    tag: str | None = None,
    gated: Gate | None = None,
) -> Publication:
    """Publish a distilled set on the Hub, in one commit: the old set or the whole new one, never a mixture.

    The folder's own files are uploaded, after every pixel, label and stored view was checked against the manifest. In a
    repository that is there already, what people wrote in the card and the records that others added stay.

    Args:
        path: The artifact folder.
        repo_id: See `check_destination`, as for all that follow.
        private: Make a new repository private.
        revision: Branch to publish to; it is made when there is none.
        create_pr: Open a pull request instead.
        tag: Tag the commit.
        gated: Gate a new repository.

    Returns:
        The commit. When nothing has changed, the one that is there.

    Raises:
        InputError: For a set or destination that cannot be used.
        HubError: When Hub or network fail more than a few times. The same command goes on.
    """
    if not Path(path).is_dir():
        raise InputError("path", str(path), "the folder of a distilled set is needed")
    found = find(path)
    manifest, _ = read_description(found)
    destination = check_destination(
        repo_id, manifest.name, private=private, revision=revision, create_pr=create_pr, tag=tag, gated=gated
    )
    return publish(read_artifact(found, rows=False), destination)


def publish(artifact: Artifact, destination: Destination) -> Publication:
    """Publish a set that was loaded from its folder, to where `check_destination` allowed it; see `push`."""
    folder, manifest, evaluations = artifact.path, artifact.manifest, artifact.evaluations
    if destination.is_open and shows_imagenet(manifest):
        tell(WARNING)
    kinds = ["data"]
    if manifest.views:
        open_views(find(folder), manifest)
        kinds.append("views")
    shards = {f"{kind}/{file.name}": file for kind in kinds for file in sorted((folder / kind).glob("train-*.parquet"))}
    pictures = {f"assets/{file.name}": file for file in sorted((folder / "assets").glob("*.png"))}
    content = {**shards, **pictures, MANIFEST: folder / MANIFEST}
    local_card = card_of(folder)

    def stage(remote: RemoteSet) -> tuple[Content, set[str]]:
        there = _texts(remote)
        # The author's own record takes the place of an older one of the same; what others measured stays.
        others = {
            name: record
            for name, record in read_records(there).items()
            if not any(record.measures_the_same(own) for own in evaluations)
        }
        own = {f"evaluations/{record.file_name}": record for record in evaluations}
        readme = readme_files(
            manifest,
            of_content({**others, **own}.values(), manifest.content_sha256),
            location=remote.repo_id,
            files={name: file.stat().st_size for name, file in content.items()},
            edited=[local_card, card_of(there)],
        )
        files = {**content, **readme, **{name: record.to_json().encode() for name, record in own.items()}}
        stale = {n for n in remote.files if n.startswith(("data/train-", "views/train-")) and n not in shards}
        return files, stale | (record_names(remote.files) - others.keys() - own.keys())

    again = f"to go on: distill-hub push {folder} {destination.repo_id}"
    return commit(destination, stage, f"Publish {manifest.name}", again)


def submit(destination: Destination, manifest: Manifest, records: Sequence[EvaluationRecord]) -> Publication:
    """Open a pull request that adds measured records to a published set and refreshes the table of its card.

    What is there already is not sent again: after a kill, the same command measures the same.

    Args:
        destination: The set, as `check_destination` allowed a pull request in it.
        manifest: As it was when the records were measured.
        records: What was measured.

    Raises:
        InputError: When the set has changed since.
        HubError: When the Hub fails.
    """
    signed = [record.model_copy(update={"submitted_by": destination.user}) for record in records]

    def stage(remote: RemoteSet) -> tuple[Content, set[str]]:
        # Stored views may have come or gone since; they are no part of the content.
        current = Manifest.read(fetch(remote, [MANIFEST], most_bytes=MANIFEST_BYTES) / MANIFEST)
        if current.content_sha256 != manifest.content_sha256:
            raise InputError(
                "repository", remote.repo_id, "its images or labels have changed since they were measured; evaluate anew"
            )
        there = _texts(remote)
        known = read_records(there)
        measured = [_measurement(record) for record in known.values()]
        added = {f"evaluations/{record.file_name}": record for record in signed if _measurement(record) not in measured}
        if not added:
            return {}, set()
        readme = readme_files(
            current,
            of_content({**known, **added}.values(), manifest.content_sha256),
            location=remote.repo_id,
            files={name: file.size for name, file in remote.files.items()},
            edited=[card_of(there)],
        )
        return {**readme, **{name: record.to_json().encode() for name, record in added.items()}}, set()

    def holds(head: RemoteSet) -> bool:
        there = [_measurement(record) for record in read_records(_texts(head)).values()]
        return all(_measurement(record) in there for record in signed)

    title = f"Add {', '.join(sorted({r.student for r in signed}))} measured by {destination.user}"
    return commit(destination, stage, title, "run the same command again", holds)


def _measurement(record: EvaluationRecord) -> dict[str, Any]:
    """Return what a record says but for when and where: what is measured again after a kill is the same measurement."""
    return record.model_dump(exclude={"date", "seconds", "environment"})


def _texts(remote: RemoteSet) -> Path:
    """Download what people may have written: the card, with its generated form, and the records."""
    fetch(remote, record_names(remote.files), most_bytes=RECORD_BYTES)
    return fetch(remote, {README, GENERATED} & remote.files.keys(), most_bytes=CARD_BYTES)
