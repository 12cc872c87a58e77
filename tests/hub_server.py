"""A Hugging Face Hub on the loopback interface, for the real `huggingface_hub` and `datasets` in other processes.

It keeps repositories in memory, of datasets under their ids, of models under models/ID and of Spaces under spaces/ID, and
has two origins, as the Hub has: the Hub itself, and a storage that takes and gives large files and must never see a token.
Tests look at `requests`, `repos` and `collections`, edit by hand with `commit`, and break things with `fail` and `corrupt`:

    with HubServer() as hub:
        hub.add_user("alice", orgs=["org"])
        hub.add_token("hf_alice", "alice")
        hub.fail("lost", when=lambda request: "/commit/" in request.path)
        subprocess.run([sys.executable, "client.py"], env=hub.environment(tmp_path / "home", "hf_alice"))
        assert hub.repos["org/name"].head().title == "Upload dataset"

Run as a script it prints what a client's shell has to export, and waits, for trying things by hand: as alice, who may write
to org, or with HF_TOKEN=hf_bob as bob, who may not.
"""

import base64
import hashlib
import json
import os
import re
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

import hub_lists  # noqa: F401 (adds its routes)
import yaml
from hub_store import (
    GITATTRIBUTES,
    ROUTES,
    TEMPLATE,
    Commit,
    Refused,
    Repo,
    branch_of,
    content_id,
    describe,
    front_matter,
    git_sha1,
    is_large,
    route,
)


@dataclass
class Request:
    """What arrived, and how it was answered: `status` stays None where no answer was sent."""

    origin: str  # "hub" or "storage"
    method: str
    path: str  # with the query
    authorization: str | None
    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    body: bytes = field(default=b"", repr=False)
    token: "Token | None" = field(default=None, repr=False)  # set once it is found to be a known one

    @property
    def route(self) -> tuple[str, str]:
        return self.method, urlsplit(self.path).path

    @property
    def commit_target(self) -> tuple[str, str] | None:
        """The repository and the ref that the client wants to commit to."""
        match = re.fullmatch("/api/(datasets|models|spaces)/(.+)/commit/([^/]+)", self.route[1])
        return (_key(match[1], match[2]), unquote(match[3])) if match else None

    @property
    def query(self) -> dict[str, list[str]]:
        return parse_qs(urlsplit(self.path).query)

    @property
    def json(self) -> dict:
        return json.loads(self.body or b"null") or {}


def _key(folder: str | None, name: str) -> str:
    """Return what a repository is kept under; no folder, as in addresses of pages, is that of models."""
    return name if folder == "datasets" else f"{folder or 'models'}/{name}"


How = int | str | Callable[[Request], object]  # a request may fail; see HubServer.fail
When = Callable[[Request], object]


class Token(NamedTuple):
    user: str
    role: str  # "write", "read" or "fineGrained"
    may_write: tuple[str, ...]  # namespaces of a fine-grained one


@dataclass
class Failure:
    how: How
    when: When | None
    at: int | None
    left: float
    route: tuple[str, str] | None = None  # of the request number `at`, once it came

    def strikes(self, request: Request, number: int) -> bool:
        if number == self.at:
            self.route = request.route
        fits = self.at is None or request.route == self.route
        fits = fits and (self.how != "conflict" or request.commit_target is not None)
        struck = bool(self.left > 0 and fits and (self.when is None or self.when(request)))
        self.left -= struck
        return struck


class HubServer:
    """The Hub and its storage; see the module's docstring."""

    def __init__(self):
        self.lock = threading.RLock()
        self.repos: dict[str, Repo] = {}
        self.users: dict[str, dict[str, str]] = {}  # name -> organisation -> role in it
        self.tokens: dict[str, Token] = {}
        self.collections: dict[str, dict] = {}  # slug -> as the API shows it
        self.corrupted: set[tuple[str, str]] = set()  # (repository, content id)
        self.bugs: list[str] = []  # tracebacks of this file's own errors
        self.reset()
        self._servers = [Server(self, "hub"), Server(self, "storage")]
        self.endpoint, self.storage = (f"http://127.0.0.1:{server.server_port}" for server in self._servers)

    def __enter__(self) -> "HubServer":
        for server in self._servers:
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for server in self._servers:
            server.shutdown()
            server.server_close()
        assert not self.bugs, "\n".join(self.bugs)

    # What tests prepare.

    def environment(self, home: Path, token: str | None = None) -> dict[str, str]:
        """Return the environment of a client; a new `home` is a cold cache."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING_FACE_"))}
        off = dict.fromkeys(("HF_HUB_OFFLINE", "HF_UPDATE_DOWNLOAD_COUNTS"), "0")
        on = dict.fromkeys(("HF_HUB_DISABLE_XET", "HF_HUB_DISABLE_TELEMETRY", "HF_HUB_DISABLE_PROGRESS_BARS"), "1")
        direct = dict.fromkeys(("NO_PROXY", "no_proxy"), "127.0.0.1")
        place = {"HF_ENDPOINT": self.endpoint, "HF_HOME": str(home)} | ({"HF_TOKEN": token} if token else {})
        return kept | off | on | direct | place

    def add_user(self, name: str, orgs: Mapping[str, str] | list[str] | tuple[str, ...] = ()) -> None:
        """Add a user; `orgs` are organisations the user may write to, or name -> role ("read", "write", "admin")."""
        self.users[name] = dict(orgs) if isinstance(orgs, Mapping) else dict.fromkeys(orgs, "write")

    def add_token(self, token: str, user: str, role: str = "write", may_write: tuple[str, ...] = ()) -> None:
        """Add a token of role "write", "read" or "fineGrained"; the last is for the namespaces `may_write` only."""
        self.tokens[token] = Token(user, role, tuple(may_write))

    def create(self, repo_id: str, private: bool = False, author: str = "alice") -> Repo:
        with self.lock:
            repo = self.repos[repo_id] = Repo(repo_id, private)
            files = {".gitattributes": GITATTRIBUTES} | (TEMPLATE if repo.type == "space" else {})
            repo.add("main", files, None, "initial commit", author)
            return repo

    def commit(self, repo_id: str, changes: Mapping[str, bytes | None], author="alice", title="Edit", ref="main") -> Commit:
        """Edit by hand, as on the site; None deletes a file, and a repository not there yet is created."""
        with self.lock:
            repo = self.repos.get(repo_id) or self.create(repo_id)
            files = {path: data for path, data in (repo.tree(ref) | dict(changes)).items() if data is not None}
            return repo.add(ref, files, repo.head(ref).sha, title, author)

    def merge(self, repo_id: str, num: int, author: str = "alice") -> Commit:
        """Merge a pull request; refused where both sides changed the same file, or where it is not open."""
        with self.lock:
            repo = self.repos[repo_id]
            pull = repo.discussions[num - 1]
            if not pull["isPullRequest"] or pull["status"] != "open":
                raise Refused(409, "Only an open pull request can be merged")
            tree, conflicts = repo.merged(pull)
            if conflicts:
                raise Refused(409, f"Merge conflict in {', '.join(conflicts)}")
            branch = branch_of(pull)
            by = ",".join(dict.fromkeys([pull["author"]["name"], author]))  # assumed: whoever proposed it stays an author
            commit = repo.add(branch, tree, repo.refs[branch], f"{pull['title']} (#{num})", by)
            pull["changes"]["mergeCommitId"] = commit.sha
            repo.set_status(pull, author, "merged")
            return commit

    # What tests break.

    def reset(self) -> None:
        """Forget the requests so far and the failures that did not happen."""
        with self.lock:
            self.requests: list[Request] = []
            self.failures: list[Failure] = []

    def fail(self, how: How, when: When | None = None, at: int | None = None, times: float = 1) -> None:
        """Let `times` requests fail that `when` accepts.

        Args:
            how: A status or "429" (with Retry-After: 1), answered without doing anything; "drop" or a function, called
                with the request: close the connection without doing anything; "lost": do as asked, then close it;
                "truncate": send half the body, then close; "conflict": a hand edit lands just before a commit.
            when: Accepts or declines a request; by default all are accepted.
            at: Number of the request since `reset`, from 0; with times > 1, it and later ones of its method and path.
            times: How many requests fail.
        """
        with self.lock:
            self.failures.append(Failure(how, when, at, times))

    def corrupt(self, repo_id: str, path: str, revision: str = "main") -> None:
        """Serve that content from now on with one byte flipped, under the same size and hash."""
        with self.lock:
            self.corrupted.add((repo_id, content_id(path, self.repos[repo_id].head(revision).files[path])))

    def heal(self) -> None:
        with self.lock:
            self.corrupted.clear()

    # How requests are answered.

    def arrived(self, request: Request) -> How | None:
        """Log a request; return how it is to fail, if it is."""
        with self.lock:
            number = len(self.requests)
            self.requests.append(request)
            struck = next((failure.how for failure in self.failures if failure.strikes(request, number)), None)
            if struck == "conflict" and (repo := self.repos.get(request.commit_target[0])):
                note = f"Edited by hand, after {len(repo.commits)} commits.\n".encode()
                self.commit(repo.id, {"NOTES.md": note}, title="Edit NOTES.md", ref=request.commit_target[1])
            return struck

    def answer(self, request: Request) -> tuple[int, bytes, dict[str, str]]:
        """Do as asked; return status, body and headers."""
        with self.lock:
            try:
                answer = self._dispatch(request)
            except Refused as refused:
                answer = refused.answer
            except Exception:
                self.bugs.append(f"{request}\n{traceback.format_exc()}")
                answer = 500, {"error": "a bug in hub_server.py"}, {}
            status, content, headers = answer if isinstance(answer, tuple) else (200, answer, {})
            if isinstance(content, bytes):
                return status, content, headers
            body = json.dumps(content, default=str).encode()  # a card may hold dates
            return status, body, {"Content-Type": "application/json; charset=utf-8"} | headers

    def _dispatch(self, request: Request):
        method, path = request.route
        request.token = self._token(request)
        for key, pattern, function in ROUTES:
            if key == f"{request.origin} {method}" and (match := pattern.fullmatch(path)):
                named = {name: text and unquote(text) for name, text in match.groupdict().items()}
                if "folder" in named:
                    named["repo_id"] = _key(named.pop("folder"), named["repo_id"])
                return function(self, request, **named)
        raise Refused(404, f"hub_server.py has no answer to {method} {path}")

    def _token(self, request: Request) -> Token | None:
        if request.authorization is None:
            return None
        if request.origin == "storage":  # as S3 says, whose addresses are signed
            raise Refused(400, "Only one auth mechanism allowed")
        token = self.tokens.get(request.authorization.removeprefix("Bearer "))
        if token is None:
            raise Refused(401, "Invalid credentials in Authorization header")
        return token

    def _namespaces(self, token: Token | None, *, write: bool) -> set[str]:
        """Return where a token may write, or else read what is private."""
        if token is None or (write and token.role == "read"):
            return set()
        if token.role == "fineGrained":
            return set(token.may_write)
        return {token.user} | {org for org, role in self.users[token.user].items() if role != "read" or not write}

    def _readable(self, request: Request, repo_id: str) -> Repo:
        """Return a repository; the Hub does not tell a private one from a missing one."""
        repo = self.repos.get(repo_id)
        if repo is None or (repo.private and repo.namespace not in self._namespaces(request.token, write=False)):
            if request.token is None:
                raise Refused(401, "Invalid username or password.", "RepoNotFound")
            raise Refused(404, "Repository not found", "RepoNotFound")
        return repo

    def _writable(self, request: Request, repo_id: str, *, propose: bool = False) -> Repo:
        """Return a repository that the caller may change, or at least propose changes to."""
        repo, token = self._readable(request, repo_id), request.token
        if token is None:
            raise Refused(401, "Invalid username or password.", "RepoNotFound")
        if repo.namespace not in self._namespaces(token, write=True) and not (propose and token.role == "write"):
            advice = "pass `create_pr=1` as a query parameter to create a Pull Request"
            raise Refused(403, f"Forbidden: {advice if token.role == 'write' else 'the token has no write access here'}")
        return repo

    def _target(self, request: Request, repo_id: str, rev: str) -> Repo:
        """Return a repository to commit to: anybody may open a pull request, and commit to an own one."""
        pulls = self._readable(request, repo_id).discussions if request.token else []
        own = (f"refs/pr/{pull['num']}" for pull in pulls if pull["author"]["name"] == request.token.user)
        return self._writable(request, repo_id, propose="create_pr" in request.query or rev in own)

    @route("GET", "/api/whoami-v2")
    def _whoami(self, request: Request):
        if request.token is None:
            raise Refused(401, "Invalid username or password.")
        orgs = [{"name": org, "roleInOrg": role} for org, role in self.users[request.token.user].items()]
        auth = {"type": "access_token", "accessToken": {"displayName": "test", "role": request.token.role}}
        return {"type": "user", "name": request.token.user, "orgs": orgs, "auth": auth}

    @route("POST", "/api/validate-yaml")
    def _validate(self, request: Request):
        try:
            metadata = front_matter(request.json["content"].encode())
        except yaml.YAMLError as error:
            return 400, {"errors": [{"message": str(error)}], "warnings": []}, {}
        return {"errors": [], "warnings": [] if metadata else [{"message": "empty or missing yaml metadata in repo card"}]}

    @route("POST", "/api/repos/create")
    def _create(self, request: Request):
        if request.token is None:
            raise Refused(401, "Invalid username or password.")
        asked = Repo(self._named(request), request.json.get("visibility") == "private")
        if asked.namespace not in self._namespaces(request.token, write=True):
            raise Refused(
                403, f'You don\'t have the rights to create a {asked.type} under the namespace "{asked.namespace}"'
            )
        url = {"url": f"{self.endpoint}{asked.page}"}
        if asked.id in self.repos:
            return 409, {"error": f"You already created this {asked.type} repo"} | url, {}
        self.create(asked.id, asked.private, request.token.user)
        return url

    @route("DELETE", "/api/repos/delete")
    def _delete(self, request: Request):
        del self.repos[self._writable(request, self._named(request)).id]

    def _named(self, request: Request) -> str:
        """Return the id of the repository that a request's body names."""
        asked = request.json
        name = f"{asked.get('organization') or (request.token and request.token.user)}/{asked['name']}"
        return _key(f"{asked.get('type') or 'model'}s", name)

    @route("PUT", "{api}/settings")
    def _settings(self, request: Request, repo_id: str):
        repo = self._writable(request, repo_id)
        repo.private = request.json.get("visibility", "private" if repo.private else "public") == "private"
        repo.gated = request.json.get("gated", repo.gated)

    @route("GET", "{api}(/revision/{rev})?")
    def _info(self, request: Request, repo_id: str, rev: str | None):
        repo = self._readable(request, repo_id)
        commit, info = repo.head(rev or "main"), repo.facts(rev or "main")
        for sibling in info["siblings"] if "blobs" in request.query else []:
            row = describe(sibling["rfilename"], commit.files[sibling["rfilename"]])
            sibling |= {"size": row["size"], "blobId": row["oid"]}
            sibling |= {"lfs": row["lfs"] | {"sha256": row["lfs"]["oid"]}} if "lfs" in row else {}
        wanted = {"id", *request.query.get("expand", info)}
        return {name: value for name, value in info.items() if name in wanted}

    def _rows(self, request: Request, repo_id: str, rev: str) -> dict[str, dict]:
        """Return the rows of all folders and files at a revision."""
        files = self._readable(request, repo_id).head(rev).files
        folders = {str(parent) for path in files for parent in PurePosixPath(path).parents} - {"."}
        rows = {path: {"type": "directory", "path": path, "size": 0, "oid": git_sha1(path.encode())} for path in folders}
        return dict(sorted((rows | {path: describe(path, data) for path, data in files.items()}).items()))

    @route("GET", "{api}/tree/{rev}(/{path})?")
    def _tree(self, request: Request, repo_id: str, rev: str, path: str | None):
        rows = self._rows(request, repo_id, rev)
        if path and rows.get(path, {}).get("type") != "directory":
            raise Refused(404, f"{path} does not exist on {rev}", "EntryNotFound")
        start = f"{path}/" if path else ""
        deep = request.query.get("recursive", [""])[0].lower() == "true"
        return [row for name, row in rows.items() if name.startswith(start) and (deep or "/" not in name[len(start) :])]

    @route("POST", "{api}/paths-info/{rev}")
    def _paths_info(self, request: Request, repo_id: str, rev: str):
        rows, asked = self._rows(request, repo_id, rev), parse_qs(request.body.decode())
        found = [rows[path] for path in asked.get("paths", []) if path in rows]
        if asked.get("expand") != ["true"]:
            return found
        history = self._readable(request, repo_id).history(rev)
        for row in found:
            last = next(
                (one for one, older in pairwise(history) if one.files.get(row["path"]) != older.files.get(row["path"])),
                history[-1],
            )
            row["lastCommit"] = {"id": last.sha, "title": last.title, "date": last.date}
        return found

    @route("GET", "{api}/refs")
    def _refs(self, request: Request, repo_id: str):
        repo, found = self._readable(request, repo_id), {"branches": [], "tags": [], "converts": [], "pullRequests": []}
        for name, sha in repo.refs.items():
            kind, ref = ("pullRequests", name) if name.startswith("refs/pr/") else ("branches", f"refs/heads/{name}")
            found[kind].append({"name": name, "ref": ref, "targetCommit": sha})
        found["tags"] = [{"name": name, "ref": f"refs/tags/{name}", "targetCommit": sha} for name, sha in repo.tags.items()]
        return found

    @route("GET", "{api}/commits/{rev}")
    def _commits(self, request: Request, repo_id: str, rev: str):
        return [
            {
                "id": one.sha,
                "title": one.title,
                "message": one.message,
                "date": one.date,
                "authors": [{"user": name} for name in one.author.split(",")],
            }
            for one in self._readable(request, repo_id).history(rev)
        ]

    @route("POST DELETE", "{api}/(?P<kind>branch|tag)/{rev}")
    def _branch_or_tag(self, request: Request, repo_id: str, kind: str, rev: str):
        repo = self._writable(request, repo_id)
        names = repo.refs if kind == "branch" else repo.tags
        if request.method == "DELETE":
            if rev == "main" or names.pop(rev, None) is None:
                raise Refused(404, f"Invalid rev id: {rev}", "RevisionNotFound")
            return
        name, start = (rev, request.json.get("startingPoint", "main")) if kind == "branch" else (request.json["tag"], rev)
        if name in names:
            raise Refused(409, f"Reference {name} already exists")
        names[name] = repo.head(start).sha

    @route("POST", "{api}/preupload/{rev}")
    def _preupload(self, request: Request, repo_id: str, rev: str):
        files, rows = self._target(request, repo_id, rev).head(rev).files, []
        for path, size in ((file["path"], file["size"]) for file in request.json["files"]):
            row = {"path": path, "uploadMode": "lfs" if is_large(path, size) else "regular", "shouldIgnore": False}
            rows.append(row | ({"oid": content_id(path, files[path])} if path in files else {}))
        return {"files": rows}

    @route("POST", "{page}.git/info/lfs/objects/batch")
    def _batch(self, request: Request, repo_id: str):
        repo = self._writable(request, repo_id, propose=True)
        objects = [{"oid": asked["oid"], "size": asked["size"]} for asked in request.json["objects"]]
        verify = {"href": f"{self.endpoint}{repo.page}.git/info/lfs/verify"}
        for asked in objects:
            if asked["oid"] not in repo.large:
                asked["actions"] = {"upload": {"href": self._signed(repo_id, asked["oid"])}, "verify": verify}
        return {"transfer": "basic", "objects": objects}

    @route("POST", "{page}.git/info/lfs/verify")
    def _verify(self, request: Request, repo_id: str):
        stored = self._writable(request, repo_id, propose=True).large.get(request.json["oid"])
        if stored is None or len(stored) != request.json["size"]:
            raise Refused(422, "The object is not in storage")

    def _signed(self, repo_id: str, oid: str) -> str:
        return f"{self.storage}/{repo_id}/{oid}?X-Amz-Signature=0123"

    @route("GET HEAD PUT", "/{stored}/{oid}", origin="storage")
    def _storage(self, request: Request, repo_id: str, oid: str):
        stored = self.repos[repo_id].large if repo_id in self.repos else {}
        if request.method != "PUT":
            if oid not in stored:
                raise Refused(404, "No such object")
            return self._content(request, repo_id, oid, stored[oid])
        if hashlib.sha256(request.body).hexdigest() != oid:
            raise Refused(400, "The content does not match its SHA256")
        stored[oid] = request.body

    @route("POST", "{api}/commit/{rev}")
    def _commit(self, request: Request, repo_id: str, rev: str):
        repo, as_pull = self._target(request, repo_id, rev), "create_pr" in request.query
        if rev not in repo.refs:
            raise Refused(404, f"Invalid rev id: {rev}", "RevisionNotFound")
        (_, header), *lines = ((line["key"], line["value"]) for line in map(json.loads, request.body.splitlines()))
        parent = header.get("parentCommit", repo.refs[rev])
        if parent != repo.refs[rev] and not as_pull:  # a pull request may start from any commit
            raise Refused(412, "A commit has happened since. Please refresh and try again.")
        files = repo.tree(parent)
        for key, value in lines:
            path = value["path"].rstrip("/")  # a folder to delete has one
            if key == "file":
                files[path] = base64.b64decode(value["content"])
            elif key == "lfsFile":
                if value["oid"] not in repo.large:
                    raise Refused(400, f"{path} was not uploaded: no object {value['oid']}")
                files[path] = repo.large[value["oid"]]
            else:
                gone = [name for name in files if name == path or (key == "deletedFolder" and name.startswith(f"{path}/"))]
                if not gone:
                    raise Refused(404, f"A file with this name doesn't exist: {path}", "EntryNotFound")
                files = {name: data for name, data in files.items() if name not in gone}
        title, text, author = header["summary"], header["description"], request.token.user
        page, done = f"{self.endpoint}{repo.page}", {}
        if as_pull:
            num = repo.open(title, author, text, base=rev)["num"]
            rev, done = f"refs/pr/{num}", {"pullRequestUrl": f"{page}/discussions/{num}"}
        commit = repo.add(rev, files, parent, title, author, text)
        return done | {"success": True, "commitOid": commit.sha, "commitUrl": f"{page}/commit/{commit.sha}"}

    @route("GET", "{api}/discussions")
    def _discussions(self, request: Request, repo_id: str):
        def accepted(one: dict) -> bool:
            kind = "pull_request" if one["isPullRequest"] else "discussion"
            status = "closed" if one["status"] in ("closed", "merged") else "open"
            facts = {"type": ("all", kind), "status": ("all", status), "author": (one["author"]["name"],)}
            return all(request.query.get(name, values)[0] in values for name, values in facts.items())

        rows = [one for one in reversed(self._readable(request, repo_id).discussions) if accepted(one)]
        return {"discussions": rows, "count": len(rows), "start": 0}

    @route("POST", "{api}/discussions")
    def _discuss(self, request: Request, repo_id: str):
        repo, asked = self._writable(request, repo_id, propose=True), request.json
        base, status = ("main", "draft") if asked.get("pullRequest") else (None, "open")
        num = repo.open(asked["title"], request.token.user, asked["description"], base, status)["num"]
        if base:
            repo.refs[f"refs/pr/{num}"] = repo.refs[base]
        return {"num": num}

    @route("GET POST", "{api}/discussions/{num}(/(?P<change>comment|status|merge))?")
    def _discussion(self, request: Request, repo_id: str, num: str, change: str | None):
        repo, asked = self._readable(request, repo_id), request.json
        if not 0 < int(num) <= len(repo.discussions):
            raise Refused(404, "Discussion not found")
        one = repo.discussions[int(num) - 1]
        if change is None:
            pending = one["isPullRequest"] and one["status"] in ("open", "draft")
            return one | {"filesWithConflicts": repo.merged(one)[1] if pending else []}
        user = request.token and request.token.user
        own = user == one["author"]["name"]
        self._writable(request, repo_id, propose=change == "comment" or (change == "status" and own))
        if change == "comment":
            return {"newMessage": repo.comment(one, user, asked["comment"])}
        if change == "status":
            return {"newStatus": repo.set_status(one, user, asked["status"])}
        return {"oid": self.merge(repo_id, int(num), user).sha}

    @route("GET HEAD", "{page}/resolve/{rev}/{path}")
    def _resolve(self, request: Request, repo_id: str, rev: str, path: str):
        repo = self._readable(request, repo_id)
        user, commit = request.token and request.token.user, repo.head(rev)
        if repo.gated and user not in repo.accepted and repo.namespace not in self._namespaces(request.token, write=False):
            raise Refused(403 if user else 401, f"Access to dataset {repo.name} is restricted", "GatedRepo")
        headers, data = {"X-Repo-Commit": commit.sha}, commit.files.get(path)
        if data is None:
            raise Refused(404, "Entry not found", "EntryNotFound", **headers)
        oid = content_id(path, data)
        if not is_large(path, len(data)):
            return self._content(request, repo_id, oid, data, **headers)
        linked = {"X-Linked-Size": str(len(data)), "X-Linked-Etag": f'"{oid}"', "Location": self._signed(repo_id, oid)}
        return 302, b"", headers | linked

    def _content(self, request: Request, repo_id: str, oid: str, data: bytes, **headers: str):
        """Answer with bytes, or with the range of them asked for."""
        size, middle = len(data), len(data) // 2
        if (repo_id, oid) in self.corrupted:
            data = data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
        headers |= {"ETag": f'"{oid}"', "Accept-Ranges": "bytes", "Content-Type": "application/octet-stream"}
        asked = re.fullmatch(r"bytes=(\d*)-(\d*)", request.headers.get("Range", ""))
        if not asked:
            return 200, data, headers
        start = int(asked[1]) if asked[1] else max(size - int(asked[2]), 0)
        stop = min(int(asked[2]) + 1, size) if asked[1] and asked[2] else size
        if start >= size:
            return 416, b"", {"Content-Range": f"bytes */{size}"}
        return 206, data[start:stop], headers | {"Content-Range": f"bytes {start}-{stop - 1}/{size}"}


class Server(ThreadingHTTPServer):
    """One of the two origins."""

    request_queue_size = 64

    def __init__(self, hub: HubServer, origin: str):
        super().__init__(("127.0.0.1", 0), Handler)
        self.hub, self.origin = hub, origin

    def handle_error(self, request: object, client_address: object) -> None:
        if not isinstance(sys.exc_info()[1], ConnectionError):  # which says that the client is gone
            self.hub.bugs.append(traceback.format_exc())


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # headers and body are two small packets

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        hub, size = self.server.hub, int(self.headers.get("Content-Length", 0))
        body = self.rfile.read(size)  # all of it even if refused: the connection is used again
        authorization = self.headers.get("Authorization")
        request = Request(self.server.origin, self.command, self.path, authorization, headers=self.headers, body=body)
        how = hub.arrived(request) if len(body) == size else "drop"  # a client that is gone asks for nothing
        self.close_connection |= how in ("drop", "lost", "truncate") or callable(how)
        if callable(how):
            how(request)
        elif how == "429":
            self.send(request, 429, b'{"error": "Too many requests"}', {"Retry-After": "1"})
        elif isinstance(how, int):
            self.send(request, how, json.dumps({"error": f"Injected {how}"}).encode(), {})
        elif how != "drop":
            status, content, headers = hub.answer(request)
            if how != "lost":
                self.send(request, status, content, headers, len(content) // (2 if how == "truncate" else 1))

    do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_GET

    def send(self, request: Request, status: int, body: bytes, headers: dict[str, str], count: int | None = None) -> None:
        request.status = status
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[:count])


if __name__ == "__main__":
    with HubServer() as hub:
        for user, orgs in {"alice": ["org"], "bob": []}.items():
            hub.add_user(user, orgs)
            hub.add_token(f"hf_{user}", user)
        for name, value in hub.environment(Path("/tmp/hub_server_home"), "hf_alice").items():
            if os.environ.get(name) != value:
                print(f"export {name}={value}", flush=True)
        threading.Event().wait()
