"""Changing a repository on the Hub: checked before, one commit, the same again after any failure."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, constants
from huggingface_hub.errors import HfHubHTTPError, HTTPError

from distill_hub.artifact.base import Record
from distill_hub.artifact.find import MANIFEST, MANIFEST_BYTES
from distill_hub.artifact.manifest import Manifest
from distill_hub.config import InputError
from distill_hub.hub import (
    API,
    COMMIT,
    LOG_IN,
    WRITE_TOKEN,
    RemoteSet,
    RepoType,
    check_target,
    check_token,
    fetch,
    look,
    look_if_there,
    page_of,
    plain_errors,
    read_token,
    retried,
)
from distill_hub.publishing.readme import README

Content = Mapping[str, Path | bytes]  # name in the repository to a file or its content
Gate = Literal["auto", "manual"]  # who asks to read is let in at once, or once the author agrees
BLANK = frozenset({".gitattributes", README})  # may lie in a repository that nothing was published to; a card is kept
Staging = Callable[[RemoteSet], tuple[Content, set[str]]]  # from what is there to what shall be, and names to delete


@dataclass(frozen=True)
class Kind:
    """What is published, and how a repository of it is known from others."""

    repo_type: RepoType
    noun: str
    file: str  # lies in every repository of this kind
    record: type[Record] | None  # what the file holds, where an older version must not overwrite a newer one's
    use: str  # what to do with a repository of it, called {0}
    template: frozenset[str] = frozenset()  # what the Hub puts into a new one, beside the files of `BLANK`


DISTILLED_SET = Kind(
    *("dataset", "distilled set", MANIFEST, Manifest),
    "`distill-hub info {0}` shows it, `distill-hub evaluate {0}` scores it again",
)


@dataclass(frozen=True)
class Publication:
    """Where something, or a change to it, was published."""

    repo_id: str
    commit: str  # full sha
    url: str  # of the commit, or of the pull request
    private: bool
    kind: Kind = DISTILLED_SET

    def __str__(self) -> str:
        """Say it in one line."""
        return f"{self.repo_id}{' (private)' if self.private else ''}, commit {self.commit}: {self.url}"

    @property
    def next_step(self) -> str:
        """Say what to do with it."""
        if "/discussions/" in self.url:
            return "Next: whoever may write there merges the pull request"
        return f"Next: {self.kind.use.format(self.repo_id)}"


@dataclass(frozen=True)
class Destination:
    """A repository that may be written to."""

    repo_id: str
    user: str  # who writes
    private: bool = False  # how to make it when it is not there
    branch: str | None = None
    create_pr: bool = False
    tag: str | None = None
    kind: Kind = DISTILLED_SET
    gated: Gate | None = None  # how to make it, as `private`
    is_open: bool = True  # whether anybody may read what is published there


def check_destination(
    repo_id: str,
    name: str,
    *,
    private: bool = False,
    revision: str | None = None,
    create_pr: bool = False,
    tag: str | None = None,
    gated: Gate | None = None,
    kind: Kind = DISTILLED_SET,
) -> Destination:
    """Refuse what cannot be published to, before any work is done for it. Changes nothing on the Hub.

    Args:
        repo_id: NAMESPACE/NAME; NAME alone is put into the token's own namespace; 'auto' is `name` there.
        name: Name of what is to be published, see `manifest.set_name`.
        private: A new repository is made private. One that exists keeps its visibility, so it must be private already.
        revision: Branch; default main.
        create_pr: Open a pull request, which needs no right to write.
        tag: Tag for the commit.
        gated: Whoever wants to read a new repository must accept its terms on its page: "auto" lets all in who do, "manual"
            those whom its author lets in. One that exists must be gated so already, or let in fewer.
        kind: What is to be published.

    Raises:
        InputError: Without network access, token, or right to write; when the repository is of another kind, or open to
            more people than is asked for; when the tag is taken.
        HubError: When the Hub fails.
    """
    check_target(repo_id)
    if constants.HF_HUB_OFFLINE:
        raise InputError("HF_HUB_OFFLINE", "1", "publishing needs the Hub; unset it")
    check_token()
    if read_token() is None:
        raise InputError("token", None, f"{LOG_IN}; {WRITE_TOKEN}")
    if create_pr and tag:
        raise InputError("tag", tag, "a pull request has no commit to tag yet; tag the merged one")
    if revision and (COMMIT(revision) or revision.startswith("refs/")):
        raise InputError("revision", revision, "the name of a branch is needed")
    with plain_errors(repo_id, repo_type=kind.repo_type):
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
    remote = look_if_there(repo_id, kind.repo_type)
    if remote:
        _check_existing(remote, kind, private, gated)
    elif create_pr:
        said = f"the Hub has no such {kind.repo_type} to open a pull request in, or your token may not read it"
        raise InputError("repository", repo_id, said)
    is_open = not (private or gated or (remote and (remote.private or remote.gated)))
    return Destination(repo_id, user, private, revision, create_pr, tag, kind, gated, is_open)


def _check_existing(remote: RemoteSet, kind: Kind, private: bool, gated: Gate | None) -> None:
    if private and not remote.private:
        raise InputError(
            "command line",
            "--private",
            f"{remote.repo_id} exists and is public; make it private in its settings, or leave --private out",
        )
    template = set(kind.template & remote.files.keys())
    if remote.files.keys() <= BLANK | template:
        with plain_errors(remote.repo_id, repo_type=remote.repo_type):
            if _as_created(remote, template):
                return
    if kind.file not in remote.files:
        raise InputError("repository", remote.repo_id, f"it exists and is not a {kind.noun}; name another")
    if gated and (not remote.gated or (gated, remote.gated) == ("manual", "auto")):
        raise InputError(
            "command line",
            f"--gated {gated}",
            f"{remote.repo_id} exists and is not gated{' so' if remote.gated else ''}; gate it in its settings, or leave "
            "--gated out",
        )
    if kind.record:
        kind.record.read(fetch(remote, [kind.file], most_bytes=MANIFEST_BYTES) / kind.file)


@retried
def _as_created(remote: RemoteSet, names: set[str]) -> bool:
    """Whether files are as the Hub made them with the repository: none has changed since its first commit."""
    if not names:
        return True
    how = {"revision": remote.commit, "repo_type": remote.repo_type}
    files = API.get_paths_info(remote.repo_id, sorted(names), expand=True, **how)
    first = API.list_repo_commits(remote.repo_id, **how)[-1].commit_id
    return all(file.last_commit.oid == first for file in files)


def commit(
    destination: Destination,
    stage: Staging,
    title: str,
    how_to_go_on: str,
    holds: Callable[[RemoteSet], bool] | None = None,
) -> Publication:
    """Bring a repository to what `stage` makes of it, in one commit on top of the state that `stage` has seen.

    An attempt looks at the repository first and sends what differs. So it may be repeated after any failure, also of a
    commit whose answer was lost, or when someone else's commit came between (412).

    Args:
        destination: Where, and how.
        stage: Called with the repository's files; may be called again when they have changed.
        title: First line of the commit's message, and title of a pull request.
        how_to_go_on: For the message when Hub or network fail for good.
        holds: Whether an open pull request of this title and user has it already, which is then the publication; default:
            when every file is the same.

    Raises:
        InputError: When the repository, its card, the branch or the tag cannot be used.
        HubError: When Hub or network fail more than a few times.
    """
    after = f"the repository is as it was, or complete; {how_to_go_on}"
    repo_type = destination.kind.repo_type
    with plain_errors(destination.repo_id, repo_type=repo_type, revision=destination.branch, after=after):
        return _attempt(destination, stage, title, holds)


@retried
def _attempt(destination: Destination, stage: Staging, title: str, holds: Callable[[RemoteSet], bool] | None) -> Publication:
    repo_id, repo_type, branch = destination.repo_id, destination.kind.repo_type, destination.branch
    remote = look_if_there(repo_id, repo_type)
    if remote is None:
        sdk = "static" if repo_type == "space" else None
        API.create_repo(repo_id, repo_type=repo_type, private=destination.private or None, space_sdk=sdk, exist_ok=True)
        remote = look(repo_id, repo_type=repo_type)
    else:
        _check_existing(remote, destination.kind, destination.private, destination.gated)
    if destination.gated and not remote.gated:  # before anything is in it
        API.update_repo_settings(repo_id, repo_type=repo_type, gated=destination.gated)
    refs = API.list_repo_refs(repo_id, repo_type=repo_type)
    tags = {ref.name: ref.target_commit for ref in refs.tags}
    if branch in tags:
        raise InputError("revision", branch, "it is a tag; the name of a branch is needed")
    if branch:
        if branch not in {ref.name for ref in refs.branches}:
            API.create_branch(repo_id, repo_type=repo_type, branch=branch, exist_ok=True)
        remote = look(repo_id, branch, repo_type)
    content, stale = stage(remote)
    changed, stale = _difference(remote, content, stale)
    if destination.tag in tags and (changed or stale or tags[destination.tag] != remote.commit):
        raise InputError("tag", destination.tag, f"{repo_id} has it at {tags[destination.tag]}; a tag stays where it is")
    page = page_of(repo_id, repo_type)
    if not changed and not stale:
        published = Publication(repo_id, remote.commit, f"{page}/commit/{remote.commit}", remote.private, destination.kind)
    elif open_already := destination.create_pr and _pull_request(
        destination, title, holds or (lambda head: not _difference(head, content, set())[0])
    ):
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
            repo_type=repo_type,
            commit_message=title,
            revision=branch,
            create_pr=destination.create_pr,
            parent_commit=remote.commit,
        )
        published = Publication(
            repo_id, done.oid, done.pr_url or f"{page}/commit/{done.oid}", remote.private, destination.kind
        )
    if destination.tag:
        API.create_tag(repo_id, repo_type=repo_type, tag=destination.tag, revision=published.commit, exist_ok=True)
    return published


def _send(repo_id: str, operations: list, **kwargs) -> CommitInfo:
    try:
        return API.create_commit(repo_id, operations, **kwargs)
    except ValueError as error:
        if isinstance(error, HfHubHTTPError):
            raise
        raise InputError("card", README, f"the Hub does not take its YAML block; mend it there ({error})") from error
    except RuntimeError as error:
        # Of an upload to the storage: the client wraps the answer's error, and hf_xet has no class of its own.
        raise (error.__cause__ if isinstance(error.__cause__, HTTPError) else ConnectionError(str(error))) from error


def _difference(remote: RemoteSet, content: Content, stale: set[str]) -> tuple[Content, set[str]]:
    changed = {n: data for n, data in content.items() if n not in remote.files or not remote.files[n].matches(data)}
    return changed, stale & remote.files.keys()


def _pull_request(destination: Destination, title: str, holds: Callable[[RemoteSet], bool]) -> Publication | None:
    """Find the pull request that an earlier attempt opened, so that after a lost answer or a kill no second one is."""
    for discussion in API.get_repo_discussions(
        destination.repo_id,
        repo_type=destination.kind.repo_type,
        author=destination.user,
        discussion_type="pull_request",
        discussion_status="open",
    ):
        if discussion.title == title:
            head = look(destination.repo_id, discussion.git_reference, destination.kind.repo_type)
            if holds(head):
                return Publication(destination.repo_id, head.commit, discussion.url, head.private, destination.kind)
    return None


@retried
def _whoami() -> dict:
    return API.whoami()
