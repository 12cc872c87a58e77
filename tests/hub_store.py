"""What the Hub of the tests keeps: repositories of all types, and the table of its routes."""

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from types import MappingProxyType
from typing import NamedTuple

import yaml

LARGE = (".parquet", ".png", ".safetensors", ".zip")  # kept in storage whatever their size
LISTED = ("task_categories", "size_categories", "source_datasets")  # of a card, which become tags of a dataset
TEMPLATE = {  # of a static Space that was just created; assumed
    "README.md": b"---\ntitle: Space\nemoji: \xf0\x9f\x90\xa0\nsdk: static\npinned: false\n---\n",
    "index.html": b"<p>Welcome to your static Space!</p>",
    "style.css": b"body {}",
}
GITATTRIBUTES = "".join(f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in LARGE).encode()


def now() -> str:
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def front_matter(readme: bytes) -> dict | None:
    """Return a card's metadata, None where there is none; yaml.YAMLError passes."""
    match = re.match(r"---\r?\n(.*?)\r?\n---\s", readme.decode() + "\n", re.DOTALL)
    return yaml.safe_load(match[1]) if match else None


def metadata(readme: bytes) -> dict | None:
    """Return the same, None also where it is broken."""
    try:
        return front_matter(readme)
    except yaml.YAMLError:
        return None


def git_sha1(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def is_large(path: str, size: int) -> bool:
    return size > 0 and (size > 10 << 20 or path.endswith(LARGE))


def describe(path: str, data: bytes) -> dict:
    """Return a file's row of the tree; of a large file git knows a small pointer only."""
    row = {"type": "file", "path": path, "size": len(data)}
    if not is_large(path, len(data)):
        return row | {"oid": git_sha1(data)}
    sha256 = hashlib.sha256(data).hexdigest()
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {len(data)}\n".encode()
    return row | {"oid": git_sha1(pointer), "lfs": {"oid": sha256, "size": len(data), "pointerSize": len(pointer)}}


def content_id(path: str, data: bytes) -> str:
    """Return a file's ETag: sha256 of a large file, git's sha1 of another."""
    row = describe(path, data)
    return row.get("lfs", row)["oid"]


def branch_of(pull: dict) -> str:
    return pull["changes"]["base"].removeprefix("refs/heads/")


class Refused(Exception):
    """An error answer; also what a test gets from `merge` and from a repository asked for an unknown revision."""

    def __init__(self, status: int, message: str, code: str | None = None, **headers: str):
        super().__init__(message)
        errors = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})
        self.answer = status, {"error": message}, errors | headers


class Commit(NamedTuple):
    sha: str
    parent: str | None
    title: str
    message: str
    author: str
    date: str
    files: Mapping[str, bytes]


@dataclass
class Repo:
    """A dataset, a model or a Space."""

    id: str  # a model's has models/ before it, a Space's spaces/
    private: bool
    gated: str | bool = False  # "auto" or "manual": who is not in `accepted` cannot download
    accepted: set[str] = field(default_factory=set)
    downloads: int = 0
    likes: int = 0
    refs: dict[str, str] = field(default_factory=dict)  # "main", other branches, "refs/pr/1" -> sha
    tags: dict[str, str] = field(default_factory=dict)
    commits: dict[str, Commit] = field(default_factory=dict)
    discussions: list[dict] = field(default_factory=list)  # number 1 first, as the Hub's API shows them
    large: dict[str, bytes] = field(default_factory=dict)  # sha256 -> content, in a commit or only uploaded so far

    @property
    def name(self) -> str:
        """The id as clients know it."""
        return self.id.removeprefix("models/").removeprefix("spaces/")

    @property
    def type(self) -> str:
        return {self.name: "dataset", f"models/{self.name}": "model"}.get(self.id, "space")

    @property
    def namespace(self) -> str:
        return self.name.split("/")[0]

    @property
    def page(self) -> str:
        """Path of its page."""
        return f"/{self.name}" if self.type == "model" else f"/{self.type}s/{self.name}"

    def head(self, ref: str = "main") -> Commit:
        """Return the commit of a branch, pull request, tag or sha."""
        sha = self.refs.get(ref) or self.tags.get(ref) or ref
        if sha not in self.commits:
            raise Refused(404, f"Invalid rev id: {ref}", "RevisionNotFound")
        return self.commits[sha]

    def tree(self, ref: str = "main") -> dict[str, bytes]:
        return dict(self.head(ref).files)

    def history(self, ref: str = "main") -> list[Commit]:
        """Return a commit and its ancestors, newest first."""
        found = [self.head(ref)]
        while found[-1].parent:
            found.append(self.commits[found[-1].parent])
        return found

    def add(self, ref: str, files: Mapping[str, bytes], parent: str | None, title: str, author: str, message: str = ""):
        """Make a whole tree the new head of `ref`."""
        content = [parent, len(self.commits), sorted((path, git_sha1(data)) for path, data in files.items())]
        sha = hashlib.sha1(json.dumps(content).encode()).hexdigest()
        self.commits[sha] = Commit(sha, parent, title, message, author, now(), MappingProxyType(dict(files)))
        self.refs[ref] = sha
        self.large |= {content_id(path, data): data for path, data in files.items() if is_large(path, len(data))}
        return self.commits[sha]

    def open(self, title: str, author: str, text: str, base: str | None = None, status: str = "open") -> dict:
        """Open a discussion or, with a branch as base, a pull request."""
        about = {"num": len(self.discussions) + 1, "title": title, "status": status, "isPullRequest": base is not None}
        about |= {"author": {"name": author}, "createdAt": now(), "events": []}
        about |= {"repo": {"name": self.name, "type": self.type}}
        self.discussions.append(about | ({"changes": {"base": f"refs/heads/{base}"}} if base else {}))
        self.comment(self.discussions[-1], author, text)
        return self.discussions[-1]

    def event(self, one: dict, kind: str, author: str, data: dict) -> dict:
        event = {"id": f"{len(one['events']):024x}", "type": kind, "createdAt": now(), "author": {"name": author}}
        one["events"].append(event | {"data": data})
        return one["events"][-1]

    def comment(self, one: dict, author: str, text: str) -> dict:
        return self.event(one, "comment", author, {"edited": False, "hidden": False, "latest": {"raw": text}})

    def set_status(self, one: dict, author: str, status: str) -> dict:
        one["status"] = status
        return self.event(one, "status-change", author, {"status": status})

    def merged(self, pull: dict) -> tuple[dict[str, bytes], list[str]]:
        """Return the tree that merging would give, and the files that both sides changed since they parted."""
        ours, theirs = self.history(branch_of(pull)), self.history(f"refs/pr/{pull['num']}")
        shared = {commit.sha for commit in ours}
        base, here, there = next(one for one in theirs if one.sha in shared).files, ours[0].files, theirs[0].files
        changed = [path for path in {*base, *there} if there.get(path) not in (base.get(path), here.get(path))]
        conflicts = sorted(path for path in changed if here.get(path) != base.get(path))
        kept = {path: data for path, data in here.items() if path not in changed}
        return kept | {path: there[path] for path in changed if path in there}, conflicts

    def facts(self, rev: str = "main") -> dict:
        """Return what the Hub's API says of it, as far as clients here read it."""
        commit = self.head(rev)
        card = metadata(commit.files.get("README.md", b""))
        tags = [f"{key}:{one}" for key in ("license", *LISTED) for one in _several((card or {}).get(key))]
        facts = {"id": self.name, "author": self.namespace, "sha": commit.sha, "lastModified": commit.date}
        facts |= {"private": self.private, "gated": self.gated, "disabled": False, "cardData": card}
        facts |= {"tags": [*tags, "region:us", *_several((card or {}).get("tags"))], "likes": self.likes}
        facts |= {"downloads": self.downloads, "siblings": [{"rfilename": path} for path in sorted(commit.files)]}
        return facts | ({"sdk": (card or {}).get("sdk")} if self.type == "space" else {})


def _several(value: object) -> list:
    return value if isinstance(value, list) else [] if value is None else [value]


ROUTES: list[tuple[str, re.Pattern, Callable]] = []


def route(methods: str, pattern: str, origin: str = "hub") -> Callable:
    """Register what answers: content for JSON, or a status, content (for JSON, or bytes) and headers; or it refuses."""
    repo = "(?P<repo_id>[^/]+/[^/]+)"
    parts = {"{api}": f"/api/(?P<folder>datasets|models|spaces)/{repo}", "{page}": f"/((?P<folder>datasets|spaces)/)?{repo}"}
    parts |= {"{rev}": "(?P<rev>[^/]+)", "{path}": "(?P<path>.+)", "{stored}": "(?P<repo_id>((models|spaces)/)?[^/]+/[^/]+)"}
    for name, part in (parts | {"{num}": r"(?P<num>\d+)", "{oid}": "(?P<oid>[0-9a-f]{64})"}).items():
        pattern = pattern.replace(name, part)

    def register(function: Callable) -> Callable:
        ROUTES.extend((f"{origin} {method}", re.compile(pattern), function) for method in methods.split())
        return function

    return register
