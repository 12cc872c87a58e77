"""Publishing a distilled set, and adding a measurement to a published one: staged, checked, one commit."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, constants, get_token
from huggingface_hub.errors import HTTPError, RepositoryNotFoundError

from distill_hub.artifact.hub import (
    API,
    COMMIT,
    LOG_IN,
    WRITE_TOKEN,
    RemoteSet,
    check_repo_id,
    check_token,
    fetch,
    look,
    plain_errors,
    retried,
)
from distill_hub.artifact.load import (
    MANIFEST,
    MANIFEST_BYTES,
    RECORD_BYTES,
    Artifact,
    load_artifact,
    read_records,
    record_names,
)
from distill_hub.artifact.manifest import Manifest
from distill_hub.artifact.readme import CARD_BYTES, GENERATED, README, card_of, readme_files
from distill_hub.artifact.records import EvaluationRecord
from distill_hub.config import InputError

Content = Mapping[str, Path | bytes]  # name in the repository to a file or its content
Staging = Callable[[RemoteSet], tuple[Content, set[str]]]  # from what is there to what shall be, and names to delete


@dataclass(frozen=True)
class Publication:
    """Where a set, or a change to it, was published."""

    repo_id: str
    commit: str  # full sha
    url: str  # of the commit, or of the pull request
    private: bool

    def __str__(self) -> str:
        """Say it in one line."""
        return f"{self.repo_id}{' (private)' if self.private else ''}, commit {self.commit}: {self.url}"


@dataclass(frozen=True)
class Destination:
    """A repository that may be written to."""

    repo_id: str
    user: str  # who writes
    private: bool = False  # how to make it when it is not there
    branch: str | None = None
    create_pr: bool = False
    tag: str | None = None


def check_destination(
    repo_id: str,
    name: str,
    *,
    private: bool = False,
    revision: str | None = None,
    create_pr: bool = False,
    tag: str | None = None,
) -> Destination:
    """Refuse what cannot be published to, before any work is done for it. Changes nothing on the Hub.

    Args:
        repo_id: NAMESPACE/NAME; NAME alone is put into the token's own namespace; 'auto' is `name` there.
        name: Name of the set, see `manifest.set_name`.
        private: A new repository is made private. One that exists keeps its visibility, so it must be private already.
        revision: Branch; default main.
        create_pr: Open a pull request, which needs no right to write.
        tag: Tag for the commit.

    Raises:
        InputError: Without network access, token, or right to write; when the repository is something else than a
            distilled set, or public where a private one is asked for; when the tag is taken.
        HubError: When the Hub fails.
    """
    if repo_id != "auto":
        check_repo_id(repo_id if "/" in repo_id else f"namespace/{repo_id}")
    if constants.HF_HUB_OFFLINE:
        raise InputError("HF_HUB_OFFLINE", "1", "publishing needs the Hub; unset it")
    check_token()
    if get_token() is None:
        raise InputError("token", None, f"{LOG_IN}; {WRITE_TOKEN}")
    if create_pr and tag:
        raise InputError("tag", tag, "a pull request has no commit to tag yet; tag the merged one")
    if revision and (COMMIT(revision) or revision.startswith("refs/")):
        raise InputError("revision", revision, "the name of a branch is needed")
    with plain_errors(repo_id):
        account = _whoami()
    user = account["name"]
    repo_id = name if repo_id == "auto" else repo_id
    repo_id = repo_id if "/" in repo_id else f"{user}/{repo_id}"
    role = account.get("auth", {}).get("accessToken", {}).get("role")
    if role == "read":
        raise InputError("token", "(not shown)", f"it may only read; {WRITE_TOKEN}")
    namespace, own = repo_id.split("/")[0], [user, *(org["name"] for org in account.get("orgs", ()))]
    # A fine-grained token need not show the organisations it may write to.
    if namespace not in own and not create_pr and role != "fineGrained":
        raise InputError(
            "repository", repo_id, f"{namespace!r} is neither you nor an organisation of yours; valid: {', '.join(own)}"
        )
    remote = _look_if_there(repo_id)
    if remote:
        _check_existing(remote, private)
    elif create_pr:
        raise InputError(
            "repository", repo_id, "the Hub has no such dataset to open a pull request in, or your token may not read it"
        )
    return Destination(repo_id, user, private, revision, create_pr, tag)


def _look_if_there(repo_id: str, branch: str | None = None) -> RemoteSet | None:
    try:
        return look(repo_id, branch)
    except InputError as error:
        if type(error.__cause__) is RepositoryNotFoundError:  # not its subclass, a gated repository
            return None
        raise


def _check_existing(remote: RemoteSet, private: bool) -> None:
    if private and not remote.private:
        raise InputError(
            "private",
            True,
            f"{remote.repo_id} exists and is public; make it private in its settings, or leave --private out",
        )
    if remote.files.keys() <= {".gitattributes", README}:
        return
    if MANIFEST not in remote.files:
        raise InputError("repository", remote.repo_id, "it exists and is not a distilled set; name another")
    Manifest.read(fetch(remote, [MANIFEST], most_bytes=MANIFEST_BYTES) / MANIFEST)


def push(
    path: str | Path,
    repo_id: str = "auto",
    *,
    private: bool = False,
    revision: str | None = None,
    create_pr: bool = False,
    tag: str | None = None,
) -> Publication:
    """Publish a distilled set on the Hub, in one commit: the old set or the whole new one, never a mixture.

    The folder's own files are uploaded, after every pixel and label was checked against the manifest. In a repository that
    is there already, what people wrote in the card and the records that others added stay.

    Args:
        path: The artifact folder.
        repo_id: See `check_destination`, as for all that follow.
        private: Make a new repository private.
        revision: Branch to publish to; it is made when there is none.
        create_pr: Open a pull request instead.
        tag: Tag the commit.

    Returns:
        The commit. When nothing has changed, the one that is there.

    Raises:
        InputError: For a set or destination that cannot be used.
        HubError: When Hub or network fail more than a few times. The same command goes on.
    """
    if not Path(path).is_dir():
        raise InputError("path", str(path), "the folder of a distilled set is needed")
    artifact = load_artifact(path)
    destination = check_destination(
        repo_id, artifact.manifest.name, private=private, revision=revision, create_pr=create_pr, tag=tag
    )
    return _publish(artifact, destination)


def push_folder(folder: Path, destination: Destination) -> Publication:
    """Publish a folder to where `check_destination` allowed it; see `push`."""
    return _publish(load_artifact(folder), destination)


def _publish(artifact: Artifact, destination: Destination) -> Publication:
    folder, manifest, evaluations = artifact.path, artifact.manifest, artifact.evaluations
    shards = {f"data/{file.name}": file for file in sorted((folder / "data").glob("train-*.parquet"))}
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
        known = {name: record for name, record in others.items() if record.content_sha256 == manifest.content_sha256}
        records = sorted({**known, **own}.values(), key=lambda record: record.date)
        readme = readme_files(
            manifest,
            records,
            location=remote.repo_id,
            files={name: file.stat().st_size for name, file in content.items()},
            edited=[local_card, card_of(there)],
        )
        files = {**content, **readme, **{name: record.to_json().encode() for name, record in own.items()}}
        stale = {n for n in remote.files if n.startswith("data/train-") and n not in shards}
        return files, stale | (record_names(remote.files) - others.keys() - own.keys())

    again = f"to go on: distill-hub push {folder} {destination.repo_id}"
    return _commit(destination, stage, f"Publish {manifest.name}", again)


def submit(repo_id: str, manifest: Manifest, records: Sequence[EvaluationRecord]) -> Publication:
    """Open a pull request that adds measured records to a published set and refreshes the table of its card.

    Args:
        repo_id: The set.
        manifest: As it was when the records were measured.
        records: What was measured.

    Raises:
        InputError: When the set has changed since, or without a token.
        HubError: When the Hub fails.
    """
    destination = check_destination(repo_id, manifest.name, create_pr=True)
    signed = [record.model_copy(update={"submitted_by": destination.user}) for record in records]

    def stage(remote: RemoteSet) -> tuple[Content, set[str]]:
        there = fetch(remote, [MANIFEST], most_bytes=MANIFEST_BYTES)
        if Manifest.read(there / MANIFEST).content_sha256 != manifest.content_sha256:
            raise InputError(
                "repository", repo_id, "its images or labels have changed since they were measured; evaluate anew"
            )
        there = _texts(remote)
        added = {f"evaluations/{record.file_name}": record for record in signed}
        known = [r for r in {**read_records(there), **added}.values() if r.content_sha256 == manifest.content_sha256]
        readme = readme_files(
            manifest,
            sorted(known, key=lambda record: record.date),
            location=remote.repo_id,
            files={name: file.size for name, file in remote.files.items()},
            edited=[card_of(there)],
        )
        return {**readme, **{name: record.to_json().encode() for name, record in added.items()}}, set()

    title = f"Add {', '.join(sorted({r.student for r in signed}))} measured by {destination.user}"
    return _commit(destination, stage, title, "run the same command again")


def _texts(remote: RemoteSet) -> Path:
    """Download what people may have written: the card, with its generated form, and the records."""
    fetch(remote, record_names(remote.files), most_bytes=RECORD_BYTES)
    return fetch(remote, {README, GENERATED} & remote.files.keys(), most_bytes=CARD_BYTES)


def _commit(destination: Destination, stage: Staging, title: str, how_to_go_on: str) -> Publication:
    """Bring a repository to what `stage` makes of it, in one commit on top of the state that `stage` has seen.

    An attempt looks at the repository first and sends what differs. So it may be repeated after any failure, also of a
    commit whose answer was lost, or when someone else's commit came between (412).
    """
    after = f"the repository is as it was, or complete; {how_to_go_on}"
    with plain_errors(destination.repo_id, revision=destination.branch, after=after):
        return _attempt(destination, stage, title)


@retried
def _attempt(destination: Destination, stage: Staging, title: str) -> Publication:
    repo_id, branch = destination.repo_id, destination.branch
    remote = _look_if_there(repo_id)
    if remote is None:
        API.create_repo(repo_id, repo_type="dataset", private=destination.private or None, exist_ok=True)
        remote = look(repo_id)
    _check_existing(remote, destination.private)
    refs = API.list_repo_refs(repo_id, repo_type="dataset")
    tags = {ref.name: ref.target_commit for ref in refs.tags}
    if branch in tags:
        raise InputError("revision", branch, "it is a tag; the name of a branch is needed")
    if branch:
        if branch not in {ref.name for ref in refs.branches}:
            API.create_branch(repo_id, repo_type="dataset", branch=branch, exist_ok=True)
        remote = look(repo_id, branch)
    content, stale = stage(remote)
    changed, stale = _difference(remote, content, stale)
    if destination.tag in tags and (changed or stale or tags[destination.tag] != remote.commit):
        raise InputError("tag", destination.tag, f"{repo_id} has it at {tags[destination.tag]}; a tag stays where it is")
    page = f"{constants.ENDPOINT}/datasets/{repo_id}"
    if not changed and not stale:
        published = Publication(repo_id, remote.commit, f"{page}/commit/{remote.commit}", remote.private)
    elif open_already := destination.create_pr and _pull_request(destination, title, content):
        return open_already
    else:
        done = _send(
            repo_id,
            [
                *(
                    CommitOperationAdd(name, data if isinstance(data, bytes) else str(data))
                    for name, data in changed.items()
                ),
                *(CommitOperationDelete(name) for name in sorted(stale)),
            ],
            commit_message=title,
            revision=branch,
            create_pr=destination.create_pr,
            parent_commit=remote.commit,
        )
        published = Publication(repo_id, done.oid, done.pr_url or f"{page}/commit/{done.oid}", remote.private)
    if destination.tag:
        API.create_tag(repo_id, repo_type="dataset", tag=destination.tag, revision=published.commit, exist_ok=True)
    return published


def _send(repo_id: str, operations: list, **kwargs) -> CommitInfo:
    try:
        return API.create_commit(repo_id, operations, repo_type="dataset", **kwargs)
    except RuntimeError as error:
        # Of an upload to the storage: the client wraps the answer's error, and hf_xet has no class of its own.
        raise (error.__cause__ if isinstance(error.__cause__, HTTPError) else ConnectionError(str(error))) from error


def _difference(remote: RemoteSet, content: Content, stale: set[str]) -> tuple[Content, set[str]]:
    changed = {n: data for n, data in content.items() if n not in remote.files or not remote.files[n].matches(data)}
    return changed, stale & remote.files.keys()


def _pull_request(destination: Destination, title: str, content: Content) -> Publication | None:
    """Find the pull request that an earlier attempt opened, so that a lost answer does not open a second one."""
    for discussion in API.get_repo_discussions(
        destination.repo_id,
        repo_type="dataset",
        author=destination.user,
        discussion_type="pull_request",
        discussion_status="open",
    ):
        if discussion.title == title:
            head = look(destination.repo_id, discussion.git_reference)
            if not _difference(head, content, set())[0]:
                return Publication(destination.repo_id, head.commit, discussion.url, head.private)
    return None


@retried
def _whoami() -> dict:
    return API.whoami()
