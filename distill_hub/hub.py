"""The Hub, believing nothing: a revision is a commit, a download is compared by hash, an error is one line."""

import hashlib
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from glob import escape
from importlib.metadata import version
from pathlib import Path
from typing import Literal
from urllib.parse import quote

import tenacity
from huggingface_hub import HfApi, constants, get_token, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,  # of whichever HTTP library the client uses: dropped connections and time-outs are its own
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.file_download import repo_folder_name
from huggingface_hub.utils import tqdm, validate_repo_id

from distill_hub.config import HubError, InputError
from distill_hub.kinds import is_file_name, is_path

RepoType = Literal["dataset", "model", "space"]

API = HfApi(library_name="distill-hub", library_version=version("distill-hub"))
COMMIT = re.compile("[0-9a-f]{40}").fullmatch
LOG_IN = "log in with `hf auth login` or set HF_TOKEN"
WRITE_TOKEN = "a token of type 'write', or a fine-grained one with write access to that namespace, is needed"
ATTEMPTS = 4
LONG_DOWNLOAD = 100_000_000  # bytes; the client shows bars for no shorter one, on a terminal
LONGEST_PAUSE = 60.0  # seconds, whatever Retry-After says


def is_transient(error: BaseException) -> bool:
    """Whether the same request may succeed later: overload, a gateway, a lost connection, or a branch that moved (412)."""
    if isinstance(error, HfHubHTTPError):
        return error.response.status_code in (408, 412, 429, 500, 502, 503, 504)
    return isinstance(error, (HTTPError, ConnectionError)) and not isinstance(error, OfflineModeIsEnabled)


def _pause(state: tenacity.RetryCallState) -> float:
    """Return seconds to wait: what the Hub asks for, else 1, 2, 4."""
    response = getattr(state.outcome.exception(), "response", None)
    asked = response.headers.get("Retry-After", "") if response is not None else ""
    return min(float(asked), LONGEST_PAUSE) if asked.isdigit() else 2.0 ** (state.attempt_number - 1)


retried = tenacity.retry(
    retry=tenacity.retry_if_exception(is_transient), stop=tenacity.stop_after_attempt(ATTEMPTS), wait=_pause, reraise=True
)


def address() -> str:
    """Return the address of the Hub that is asked, without the credentials that it may hold."""
    return re.sub(r"^(\w+://)[^/]*@", r"\1", constants.ENDPOINT)


def page_of(repo_id: str, repo_type: RepoType) -> str:
    """Return the address of a repository's page."""
    return f"{address()}/{constants.REPO_TYPES_URL_PREFIXES.get(repo_type, '')}{quote(repo_id)}"


@contextmanager
def plain_errors(
    repo_id: str,
    *,
    repo_type: RepoType = "dataset",
    revision: str | None = None,
    after: str = "run the same command again",
) -> Iterator[None]:
    """Turn the client's errors into one line each; no line shows the token.

    Args:
        repo_id: The repository asked for.
        repo_type: Its type.
        revision: What was asked of it.
        after: How to go on after a failure that is nobody's mistake.

    Raises:
        InputError: For what the user can put right: no such repository or revision, token, offline mode.
        HubError: For a failure of Hub or network.
    """
    try:
        yield
    except OfflineModeIsEnabled as error:
        raise InputError("HF_HUB_OFFLINE", "1", f"{repo_id} lies on the Hub; unset it to reach the Hub") from error
    except GatedRepoError as error:
        page = page_of(repo_id, repo_type)
        raise InputError("repository", repo_id, f"it is gated: accept its terms at {page}, then {LOG_IN}") from error
    except RepositoryNotFoundError as error:
        who = "your token may not read it" if read_token() else f"it is private: {LOG_IN}"
        raise InputError("repository", repo_id, f"the Hub has no such {repo_type}, or {who}") from error
    except RevisionNotFoundError as error:
        raise InputError("revision", revision, f"{repo_id} has no such branch, tag or commit") from error
    except HfHubHTTPError as error:
        status, reason = error.response.status_code, " ".join((error.server_message or "").split())
        if status == 401:
            raise InputError("token", "(not shown)", f"the Hub does not know it; {LOG_IN} anew") from error
        if status == 403:
            said = f"the Hub refused {repo_id}{f' ({reason})' if reason else ''}; {WRITE_TOKEN}"
            raise InputError("token", "(not shown)", said) from error
        raise HubError(f"{repo_id}: the Hub answered {status}{f' ({reason})' if reason else ''}; {after}") from error
    except (HTTPError, ConnectionError, LocalEntryNotFoundError) as error:
        raise HubError(f"{repo_id}: the connection to the Hub failed ({type(error).__name__}); {after}") from error


def is_repo_id(name: str) -> bool:
    """Whether a name can be the id NAMESPACE/NAME of a repository."""
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return "/" in name


def check_repo_id(repo_id: str) -> None:
    """Refuse what cannot be the id of a repository.

    Raises:
        InputError: Naming what an id looks like.
    """
    if not is_repo_id(repo_id):
        valid = "valid: NAMESPACE/NAME of letters, digits, '-', '_' and '.', without '--' and '..'"
        raise InputError("repository", repo_id, valid)


def check_target(repo_id: str) -> None:
    """Refuse what cannot be published to: neither NAMESPACE/NAME nor NAME alone, which is in one's own namespace, nor auto.

    Raises:
        InputError: See `check_repo_id`.
    """
    if repo_id != "auto":
        check_repo_id(repo_id if "/" in repo_id else f"namespace/{repo_id}")


def missing(name: str) -> str | None:
    """Say why a name stands for nothing: nothing here is called that, and it is a path or no Hub id; None where it may."""
    below_a_file = os.path.isfile(os.path.dirname(name))
    if os.path.exists(name) or (is_repo_id(name) and not is_path(name) and not below_a_file):
        return None
    if os.path.lexists(name):
        return "it is a link to nothing"
    if is_path(name) or below_a_file:
        return "there is no such file" if is_file_name(name) else "there is no such folder"
    return "there is no such folder, and it is not a Hub id NAMESPACE/NAME"


def check_model(field: str, name: str, file: str, valid: str) -> None:
    """Refuse what cannot be a network: neither a folder here that holds a certain file, nor a Hub id.

    Raises:
        InputError: It blames `field`, and says what is valid and what is missing.
    """
    reason = missing(name)
    if os.path.exists(name) and not os.path.isfile(os.path.join(name, file)):
        reason = f"there is no {file} in it" if os.path.isdir(name) else "it is a file"
    if reason:
        raise InputError(field, name, f"{valid} ({reason})")


def check_location(location: str) -> None:
    """Refuse what cannot be a distilled set: nothing here has that name, and it is not a Hub id.

    Raises:
        InputError: Saying what is missing.
    """
    if reason := missing(location):
        raise InputError("distilled set", location, reason)


def read_token() -> str | None:
    """Return the user's token, if there is one.

    Raises:
        InputError: When its file cannot be read.
    """
    try:
        return get_token()
    except (OSError, UnicodeDecodeError) as error:
        valid = f"no token can be read there ({error}); set HF_HOME to a folder of yours"
        raise InputError("HF_TOKEN_PATH", constants.HF_TOKEN_PATH, valid) from error


def check_token() -> None:
    """Refuse a token that no HTTP header can carry, before a client quotes it in its own error.

    Raises:
        InputError: Without showing the token.
    """
    token = read_token()
    if token and not (token.isascii() and token.isprintable() and " " not in token):
        raise InputError("token", "(not shown)", f"it holds characters that no token has; {LOG_IN} anew")


@dataclass(frozen=True)
class RemoteFile:
    """Size in bytes and hash of a file on the Hub: sha256 of large files, git's sha1 of the others."""

    size: int
    sha256: str | None = None
    git_sha1: str | None = None

    def matches(self, data: Path | bytes) -> bool:
        """Whether a local file (or its bytes) is the same."""
        size = data.stat().st_size if isinstance(data, Path) else len(data)
        if size != self.size:
            return False
        digest = hashlib.sha256() if self.sha256 else hashlib.sha1(f"blob {size}\0".encode())
        if isinstance(data, Path):
            with data.open("rb") as file:
                while block := file.read(2**20):
                    digest.update(block)
        else:
            digest.update(data)
        return digest.hexdigest() == (self.sha256 or self.git_sha1)


@dataclass(frozen=True)
class RemoteSet:
    """The files of a repository at one commit."""

    repo_id: str
    commit: str
    private: bool
    files: Mapping[str, RemoteFile] = field(repr=False)
    repo_type: RepoType = "dataset"
    gated: str | bool = False  # "auto" or "manual": whoever reads it must have accepted its terms, and been let in


@retried
def _info(repo_id: str, revision: str | None, repo_type: RepoType):
    return API.repo_info(repo_id, revision=revision, repo_type=repo_type, files_metadata=True)


def look(repo_id: str, revision: str | None = None, repo_type: RepoType = "dataset") -> RemoteSet:
    """Find the commit that a revision stands for now, and its files. No cache answers.

    Offline, a full commit sha is looked up in the client's cache: what a commit holds does not change.

    Args:
        repo_id: NAMESPACE/NAME.
        revision: Branch, tag or commit; default main.
        repo_type: A dataset, a model and a Space of the same id are three repositories.

    Raises:
        InputError, HubError: See `plain_errors`.
    """
    check_repo_id(repo_id)
    check_token()
    if constants.HF_HUB_OFFLINE and COMMIT(revision or ""):
        return _cached(repo_id, revision, repo_type)
    with plain_errors(repo_id, repo_type=repo_type, revision=revision):
        info = _info(repo_id, revision, repo_type)
    files = {s.rfilename: RemoteFile(s.size or 0, s.lfs.sha256 if s.lfs else None, s.blob_id) for s in info.siblings or ()}
    gated = getattr(info, "gated", None) or False  # a Space has no such field
    return RemoteSet(info.id, info.sha, bool(info.private), files, repo_type, gated)


def last_authors(remote: RemoteSet, names: Iterable[str]) -> dict[str, set[str]]:
    """Return who wrote the commit that changed a file last, as far as the Hub tells it, by the file's name.

    Args:
        remote: What `look` found.
        names: Names in `remote.files`.

    Raises:
        InputError, HubError: See `plain_errors`.
    """
    names = sorted(names)
    if constants.HF_HUB_OFFLINE or not names:
        return {}
    with plain_errors(remote.repo_id, repo_type=remote.repo_type, revision=remote.commit):
        files, commits = _history(remote.repo_id, remote.commit, remote.repo_type, names)
    authors = {commit.commit_id: set(commit.authors) for commit in commits}
    return {file.path: authors.get(file.last_commit.oid, set()) for file in files if getattr(file, "last_commit", None)}


@retried
def _history(repo_id: str, commit: str, repo_type: RepoType, names: list[str]):
    how = {"revision": commit, "repo_type": repo_type}
    return API.get_paths_info(repo_id, names, expand=True, **how), API.list_repo_commits(repo_id, **how)


def look_if_there(repo_id: str, repo_type: RepoType) -> RemoteSet | None:
    """Return what `look` finds on main; None where the Hub shows no such repository.

    Raises:
        InputError, HubError: See `plain_errors`.
    """
    try:
        return look(repo_id, repo_type=repo_type)
    except InputError as error:
        if type(error.__cause__) is RepositoryNotFoundError:  # not its subclass, a gated repository
            return None
        raise


def _snapshot(repo_id: str, commit: str, repo_type: RepoType) -> Path:
    """Return the folder of a commit in the client's cache."""
    return Path(constants.HF_HUB_CACHE, repo_folder_name(repo_id=repo_id, repo_type=repo_type), "snapshots", commit)


def _cached(repo_id: str, commit: str, repo_type: RepoType) -> RemoteSet:
    folder = _snapshot(repo_id, commit, repo_type)
    if not folder.is_dir():
        raise InputError("HF_HUB_OFFLINE", "1", f"commit {commit} of {repo_id} is not in the cache; unset it to download")
    files = {f.relative_to(folder).as_posix(): RemoteFile(f.stat().st_size) for f in folder.rglob("*") if f.is_file()}
    return RemoteSet(repo_id, commit, False, files, repo_type)


def fetch(remote: RemoteSet, names: Iterable[str], *, most_bytes: int | None = None) -> Path:
    """Download some files of a commit into the client's cache, and compare each with the hash the Hub has of it.

    The client compares sizes alone, so a damaged file would stay in its cache for good; here it is fetched anew, once.

    Args:
        remote: What `look` found.
        names: Names in `remote.files`.
        most_bytes: Largest size that one of them may have.

    Returns:
        The folder that holds them under their own names.

    Raises:
        InputError: When one is too large, there is no room, or a file is not what the Hub's own list says.
        HubError: When the network fails.
    """
    names = sorted(names)
    for name in names:
        if most_bytes is not None and remote.files[name].size > most_bytes:
            size = f"{remote.files[name].size:,} bytes"
            raise InputError(f"{remote.repo_id}/{name}", size, f"at most {most_bytes:,} are read")
    if constants.HF_HUB_OFFLINE or not names:
        return _snapshot(remote.repo_id, remote.commit, remote.repo_type)
    Path(constants.HF_HUB_CACHE).mkdir(parents=True, exist_ok=True)
    needed, free = sum(remote.files[name].size for name in names), shutil.disk_usage(constants.HF_HUB_CACHE).free
    if needed > free:
        raise InputError(
            "repository", remote.repo_id, f"it needs {needed:,} bytes, {constants.HF_HUB_CACHE} has {free:,} left"
        )
    with plain_errors(remote.repo_id, repo_type=remote.repo_type):
        folder = _download(remote, names, force=False)
        if damaged := _damaged(remote, names, folder):
            folder = _download(remote, damaged, force=True)
            damaged = _damaged(remote, damaged, folder)
    if damaged:
        raise InputError(
            "repository", remote.repo_id, f"{damaged[0]} arrives altered: its hash is not the one the Hub lists"
        )
    return folder


class _NoBar(tqdm):
    """The client's bar, not shown."""

    def __init__(self, *args, **how):
        super().__init__(*args, **{**how, "disable": True})


@retried
def _download(remote: RemoteSet, names: list[str], *, force: bool) -> Path:
    folder = snapshot_download(
        remote.repo_id,
        repo_type=remote.repo_type,
        revision=remote.commit,
        allow_patterns=[escape(name) for name in names],  # names, not patterns
        force_download=force,
        tqdm_class=tqdm if sum(remote.files[name].size for name in names) >= LONG_DOWNLOAD else _NoBar,
    )
    return Path(folder)


def _damaged(remote: RemoteSet, names: list[str], folder: Path) -> list[str]:
    def is_damaged(name: str) -> bool:
        return not (folder / name).is_file() or not remote.files[name].matches(folder / name)

    with ThreadPoolExecutor() as pool:  # hashing releases the interpreter
        return [name for name, bad in zip(names, pool.map(is_damaged, names), strict=True) if bad]
