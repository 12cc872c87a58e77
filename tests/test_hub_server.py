"""The test Hub against the real clients: what the other tests rely on when they use `hub_server`."""

import hashlib
import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import hub_lists
import pytest
from hub_server import HubServer, Refused

# Client scripts write files (None deletes) and show, as JSON, what became of their calls: "ok", or exception and status.
PRELUDE = """
import io, json, sys
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, HfFileSystem

def tried(call, *args, **kwargs):
    try:
        call(*args, **kwargs)
        return "ok"
    except Exception as error:
        status = getattr(getattr(error, "response", None), "status_code", "")
        return f"{type(error).__name__} {status}".strip()

def write(repo_id, files, token=None, **kwargs):
    changes = [CommitOperationAdd(path, data) if data else CommitOperationDelete(path) for path, data in files.items()]
    return HfApi(token=token).create_commit(repo_id, changes, repo_type="dataset", commit_message="Write", **kwargs)

def show(**found):
    print(json.dumps(found))
"""

PUSH = """
import numpy as np
import PIL.Image
from datasets import ClassLabel, Dataset, Features, Image

def rows(count):
    images = [PIL.Image.fromarray(np.full((4, 4, 3), 50 * i, "uint8")) for i in range(count)]
    features = Features({"image": Image(), "label": ClassLabel(names=["cat", "dog"])})
    return Dataset.from_dict({"image": images, "label": [i % 2 for i in range(count)]}, features=features)

def parquet(count):
    buffer = io.BytesIO()
    rows(count).to_parquet(buffer)
    return buffer.getvalue()

card = b"---\\nconfigs:\\n- config_name: default\\n  data_files: data/*.parquet\\n---\\n# Cats\\n"
url = HfApi().create_repo("org/name", repo_type="dataset")
first = write("org/name", {"README.md": card, "data/train.parquet": parquet(2)})
second = write("org/name", {"data/train.parquet": parquet(3)}, parent_commit=first.oid)
rows(4).push_to_hub("org/pushed", private=True)
show(url=str(url), first=first.oid, second=second.oid)
"""

LOAD = """
import datasets
datasets.config.USE_PARQUET_EXPORT = False  # which asks another host

def load(name, **kwargs):
    return datasets.load_dataset(name, split="train", **kwargs)

streamed = [row["label"] for row in load("org/name", streaming=True)]
loaded, old, pushed = load("org/name"), load("org/name", revision=sys.argv[1]), load("org/pushed")
pixels = [row["image"].getpixel((0, 0))[0] for row in loaded]
show(streamed=streamed, pixels=pixels, names=loaded.features["label"].names, counts=[len(loaded), len(old), len(pushed)])
"""

ROLES = """
card, new = {"README.md": b"---\\nlicense: mit\\n---\\n# New\\n"}, {"repo_type": "dataset"}
roles = {}
for token in "hf_alice", "hf_read", "hf_fine", "hf_bob", "hf_eve", "hf_wrong", False:
    user = HfApi(token=token)
    roles[str(token)] = [
        tried(user.dataset_info, "org/private"),
        tried(user.get_paths_info, "org/public", ["README.md"], repo_type="dataset"),
        tried(user.hf_hub_download, "org/public", "README.md", repo_type="dataset", force_download=True),
        tried(user.create_repo, "org/new", **new),
        tried(user.create_repo, "nobody/new", **new),
        tried(user.create_repo, f"alice/{token}", **new),
        tried(write, "org/public", card, token),
        tried(write, "org/public", {"data.zip": b"zip"}, token, create_pr=True),
    ]
who, api = HfApi().whoami(), HfApi()
show(roles=roles, who=[who["name"], who["orgs"][0]["name"], who["auth"]["accessToken"]["role"]],
     model=tried(api.model_info, "org/public"), missing=tried(api.dataset_info, "org/missing"),
     revision=tried(api.dataset_info, "org/public", revision="v9"), again=tried(api.create_repo, "org/public", **new),
     entry=tried(api.hf_hub_download, "org/public", "none.txt", repo_type="dataset"),
     card=tried(write, "org/public", {"README.md": b"---\\na: [\\n---\\n"}))
"""

HISTORY = """
api, name, dataset = HfApi(), "org/name", {"repo_type": "dataset"}
api.create_branch(name, branch="next", **dataset)
write(name, {"a.txt": b"on next"}, revision="next")
api.create_tag(name, tag="v1", **dataset)
again = tried(api.create_tag, name, tag="v1", **dataset)
good = write(name, {"a.txt": b"better", "big.zip": b"zip", "folder/": None}, create_pr=True)
bad = write(name, {"c.txt": b"from the pull request"}, create_pr=True)
write(name, {"d.txt": b"d"}, revision=bad.pr_revision)
write(name, {"c.txt": b"from main"})
api.merge_pull_request(name, good.pr_num, **dataset)
merge = tried(api.merge_pull_request, name, bad.pr_num, **dataset)
asked = api.get_discussion_details(name, bad.pr_num, **dataset)
draft = api.create_pull_request(name, title="Later", **dataset)
api.comment_discussion(name, draft.num, comment="Why?", **dataset)
api.change_discussion_status(name, draft.num, "closed", **dataset)
pulls = {one.num: one.status for one in api.get_repo_discussions(name, discussion_type="pull_request", **dataset)}
refs = api.list_repo_refs(name, include_pull_requests=True, **dataset)
refs = [[ref.ref for ref in kind] for kind in (refs.branches, refs.tags, refs.pull_requests)]
files = {one.rfilename: one for one in api.dataset_info(name, files_metadata=True).siblings}
api.update_repo_settings(name, private=True, **dataset)
api.delete_branch(name, branch="next", **dataset)
show(again=again, merge=merge, conflict=[asked.conflicting_files, asked.target_branch], draft=draft.status, pulls=pulls,
     refs=refs, hashes=[files["a.txt"].blob_id, files["big.zip"].lfs.sha256], size=files["big.zip"].size,
     titles=[commit.title for commit in api.list_repo_commits(name, **dataset)],
     folder=[row.path for row in api.list_repo_tree(name, "folder", revision="v1", **dataset)],
     top=[row.path for row in api.list_repo_tree(name, revision="v1", **dataset)],
     some=[row.path for row in api.get_paths_info(name, ["a.txt", "none"], revision="refs/pr/1", **dataset)],
     private=api.dataset_info(name, expand=["private"]).private)
"""

FAILURES = """
heads = {name: HfApi().dataset_info("org/" + name).sha for name in ("race", "stale")}
write("org/stale", {"a.txt": b"a"})
found = {name: tried(write, "org/" + name, {"b.zip": b"b"}, parent_commit=heads.get(name))
         for name in ("lost", "dropped", "busy", "limited", "race", "stale")}
show(**found, cut=open(HfApi().hf_hub_download("org/cut", "README.md", repo_type="dataset")).read())
"""

READ = """
info = {one.rfilename: one for one in HfApi().dataset_info("org/name", files_metadata=True).siblings}
paths = [HfApi().hf_hub_download("org/name", name, repo_type="dataset") for name in ("data.zip", "README.md")]
part = HfFileSystem().cat_file("datasets/org/name/data.zip", start=20, end=24)
show(files=[list(open(path, "rb").read()) for path in paths], part=list(part), sha256=info["data.zip"].lfs.sha256)
"""


MODELS = """
from huggingface_hub import snapshot_download

def added(**files):
    return [CommitOperationAdd(path.replace("__", "."), data) for path, data in files.items()]

api, name = HfApi(), "org/name"
url = api.create_repo(name, private=True)  # a model, when nothing else is said
write(name, {"a.txt": b"of the dataset"})
first = api.create_commit(name, added(config__json=b"{}", net__safetensors=bytes(20)), commit_message="Write")
api.create_tag(name, tag="v1")
pull = api.create_commit(name, added(README__md=b"# Net\\n"), commit_message="Describe", create_pr=True)
race = tried(api.create_commit, name, added(b__txt=b"b"), commit_message="Race", parent_commit=first.oid)
folder = snapshot_download(name, revision="v1")
info = api.model_info(name, files_metadata=True)
files = {one.rfilename: one for one in info.siblings}
found = {"url": str(url), "commit": first.commit_url, "pull": pull.pr_url, "race": race, "id": info.id,
         "private": info.private, "sha256": files["net.safetensors"].lfs.sha256, "files": sorted(files),
         "downloaded": list(open(folder + "/net.safetensors", "rb").read()),
         "stranger": tried(HfApi(token=False).model_info, name), "nowhere": tried(api.create_repo, "nobody/net"),
         "again": tried(api.create_repo, name), "discussion": api.get_discussion_details(name, pull.pr_num).title}
api.delete_repo("org/name", repo_type="dataset")
show(**found, left=tried(api.model_info, name), gone=tried(api.dataset_info, name))
"""

SPACES = """
api, space = HfApi(), {"repo_type": "space"}
url = api.create_repo("org/page", space_sdk="static", **space)
before = sorted(one.rfilename for one in api.space_info("org/page").siblings)
card = CommitOperationAdd("README.md", b"---\\nsdk: static\\ntitle: Ranking\\n---\\n")
page = api.create_commit("org/page", [card, CommitOperationAdd("big.zip", bytes(9))], commit_message="Write", **space)
info = api.repo_info("org/page", **space)
show(url=str(url), before=before, commit=page.commit_url, sdk=info.sdk, title=info.card_data["title"], id=info.id,
     read=open(api.hf_hub_download("org/page", "big.zip", **space), "rb").read().hex())
"""

LISTS = """
api, stranger = HfApi(), HfApi(token=False)

def found(api, sort, **how):
    return [one.id for one in api.list_datasets(sort=sort, **how)]

api.update_repo_settings("org/b", repo_type="dataset", gated="manual")
readme = {"repo_id": "org/b", "filename": "README.md", "repo_type": "dataset"}
read = [tried(one.hf_hub_download, **readme) for one in (stranger, api)]
(b,) = api.list_datasets(filter=["x", "y"], author="org", expand=["tags", "downloads", "gated", "siblings"])
slug = api.create_collection("My sets", namespace="org", description="Some").slug
api.add_collection_item(slug, "org/b", "dataset", note="first")
again = tried(api.add_collection_item, slug, "org/b", "dataset")
api.add_collection_item(slug, "org/a", "dataset")
items = api.get_collection(slug).items
api.update_collection_item(slug, items[0].item_object_id, note="changed")
api.delete_collection_item(slug, items[1].item_object_id)
api.update_collection_metadata(slug, description="Fewer")
same = api.create_collection("My sets", namespace="org", exists_ok=True)
owned = [[one.slug == slug, one.title, len(one.items)] for one in api.list_collections(owner="org")]
mine = [tried(stranger.create_collection, "Mine", namespace="org"), tried(stranger.get_collection, "org/none")]
show(all=found(api, "downloads"), public=found(stranger, "last_modified"), x=found(api, "likes", filter="x", limit=1),
     none=found(api, "likes", filter=["x", "z"]), read=read, again=again, same=same.slug == slug, mine=mine, owned=owned,
     b=[b.tags, b.downloads, b.gated, [one.rfilename for one in b.siblings]], description=same.description,
     items=[[one.item_id, one.item_type, one.note] for one in same.items])
"""

DOWNLOAD = """
from huggingface_hub import hf_hub_download
show(data=list(open(hf_hub_download("org/name", "net.safetensors"), "rb").read()))
"""


@pytest.fixture
def hub():
    with HubServer() as server:
        server.add_user("alice", orgs=["org"])
        server.add_user("bob", orgs={"org": "read"})
        server.add_user("eve")
        server.add_token("hf_alice", "alice")
        server.add_token("hf_read", "alice", role="read")
        server.add_token("hf_fine", "alice", role="fineGrained", may_write=("alice",))
        server.add_token("hf_bob", "bob")
        server.add_token("hf_eve", "eve")
        yield server


def client(hub: HubServer, home: Path, script: str, *arguments: str) -> dict:
    """Run a script in a process of its own, with alice's token; return what it shows."""
    command = [sys.executable, "-c", PRELUDE + script, *arguments]
    done = subprocess.run(command, env=hub.environment(home, "hf_alice"), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def status(url: str, **request) -> int:
    """Send one plain request."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(urllib.request.Request(url, **request)) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


def test_a_dataset_is_pushed_and_loaded(hub, tmp_path):
    pushed = client(hub, tmp_path / "push", PUSH)
    repo = hub.repos["org/name"]
    assert pushed["url"] == f"{hub.endpoint}/datasets/org/name"
    assert [commit.sha for commit in repo.history()][:2] == [pushed["second"], pushed["first"]]
    assert [list(commit.files) for commit in repo.history()][2:] == [[".gitattributes"]]
    assert set(repo.tree()) == {".gitattributes", "README.md", "data/train.parquet"}
    assert (repo.head().author, repo.head().title) == ("alice", "Write")
    assert hub.repos["org/pushed"].private and not repo.private

    loaded = client(hub, tmp_path / "load", LOAD, pushed["first"])
    assert loaded == {"streamed": [0, 1, 0], "pixels": [0, 50, 100], "names": ["cat", "dog"], "counts": [3, 2, 4]}

    storage = [request for request in hub.requests if request.origin == "storage"]
    assert {request.method for request in storage} >= {"GET", "PUT"}
    assert not any(request.authorization for request in storage)
    assert any(request.authorization == "Bearer hf_alice" for request in hub.requests)


def test_who_may_do_what(hub, tmp_path):
    hub.commit("org/public", {"README.md": b"# Public\n"})
    hub.create("org/private", private=True)
    found = client(hub, tmp_path, ROLES)
    error, unknown = "HfHubHTTPError", "RepositoryNotFoundError"
    no = f"{error} 403"
    assert found.pop("roles") == {  # see a private one; list and download a public one; create x 3; commit; pull request
        "hf_alice": ["ok", "ok", "ok", "ok", no, "ok", "ok", "ok"],
        "hf_read": ["ok", "ok", "ok", no, no, no, no, no],
        "hf_fine": [f"{unknown} 404", "ok", "ok", no, no, "ok", no, no],
        "hf_bob": ["ok", "ok", "ok", no, no, no, no, "ok"],
        "hf_eve": [f"{unknown} 404", "ok", "ok", no, no, no, no, "ok"],
        "hf_wrong": [f"{error} 401"] * 2 + ["ValueError"] + [f"{error} 401"] * 5,
        "False": [f"{unknown} 401", "ok", "ok"] + [f"{error} 401"] * 3 + [f"{unknown} 401"] * 2,
    }
    assert found == {
        "who": ["alice", "org", "write"],
        "model": f"{unknown} 404",
        "missing": f"{unknown} 404",
        "revision": "RevisionNotFoundError 404",
        "again": f"{error} 409",
        "entry": "RemoteEntryNotFoundError 404",
        "card": "ValueError",
    }
    assert status(f"{hub.endpoint}/api/whoami-v2") == 401
    assert [pull["author"]["name"] for pull in hub.repos["org/public"].discussions] == ["alice", "bob", "eve"]


def test_history_branches_and_pull_requests(hub, tmp_path):
    start = hub.commit("org/name", {"README.md": b"# Name\n", "a.txt": b"a", "folder/b.txt": b"b", "c.txt": b"c"}).sha
    found, repo = client(hub, tmp_path, HISTORY), hub.repos["org/name"]
    assert repo.tags == {"v1": start} and set(repo.refs) == {"main", "refs/pr/1", "refs/pr/2", "refs/pr/3"}
    texts = {"README.md": b"# Name\n", "a.txt": b"better", "big.zip": b"zip", "c.txt": b"from main"}
    assert repo.tree() == texts | {".gitattributes": repo.tree(start)[".gitattributes"]}
    assert found == {
        "again": "HfHubHTTPError 409",
        "merge": "HfHubHTTPError 409",
        "conflict": [["c.txt"], "refs/heads/main"],
        "draft": "draft",
        "pulls": {"3": "closed", "2": "open", "1": "merged"},
        "refs": [["refs/heads/main", "refs/heads/next"], ["refs/tags/v1"], ["refs/pr/1", "refs/pr/2", "refs/pr/3"]],
        "hashes": [hashlib.sha1(b"blob 6\0better").hexdigest(), hashlib.sha256(b"zip").hexdigest()],
        "size": 3,
        "titles": ["Write (#1)", "Write", "Edit", "initial commit"],
        "folder": ["folder/b.txt"],
        "top": [".gitattributes", "README.md", "a.txt", "c.txt", "folder"],
        "some": ["a.txt"],
        "private": True,
    }
    with pytest.raises(Refused, match=r"conflict in c\.txt"):
        hub.merge("org/name", 2)


def test_a_model_is_another_repository_than_the_dataset_of_its_name(hub, tmp_path):
    hub.commit("org/name", {"data.txt": b"only here"})
    hub.fail("conflict", when=lambda request: b"Race" in request.body)
    found, repo = client(hub, tmp_path / "first", MODELS), hub.repos["models/org/name"]
    page, commits = f"{hub.endpoint}/org/name", [commit.sha for commit in repo.history()]
    assert found == {
        "url": page,
        "commit": f"{page}/commit/{commits[1]}",
        "pull": f"{page}/discussions/1",
        "race": "HfHubHTTPError 412",
        "id": "org/name",
        "private": True,
        "sha256": hashlib.sha256(bytes(20)).hexdigest(),
        "files": [".gitattributes", "NOTES.md", "config.json", "net.safetensors"],
        "downloaded": [0] * 20,
        "stranger": "RepositoryNotFoundError 401",
        "nowhere": "HfHubHTTPError 403",
        "again": "HfHubHTTPError 409",
        "discussion": "Describe",
        "left": "ok",
        "gone": "RepositoryNotFoundError 404",
    }
    assert set(hub.repos) == {"models/org/name"} and repo.tags == {"v1": commits[1]}
    assert not any(request.authorization for request in hub.requests if request.origin == "storage")
    hub.corrupt("models/org/name", "net.safetensors")
    assert sorted(client(hub, tmp_path / "second", DOWNLOAD)["data"]) == [0] * 19 + [1]


def test_a_space_is_a_repository_of_its_own(hub, tmp_path):
    page = f"{hub.endpoint}/spaces/org/page"
    found = client(hub, tmp_path, SPACES)
    repo = hub.repos["spaces/org/page"]
    assert found == {
        "url": page,
        "before": [".gitattributes", "README.md", "index.html", "style.css"],
        "commit": f"{page}/commit/{repo.head().sha}",
        "sdk": "static",
        "title": "Ranking",
        "id": "org/page",
        "read": "00" * 9,
    }
    assert set(hub.repos) == {"spaces/org/page"} and (repo.type, repo.name) == ("space", "org/page")


def test_datasets_are_listed_by_tag_gated_and_collected(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(hub_lists, "PAGE", 2)  # the rest follows on further pages
    for name, tags in (("org/a", "x"), ("org/b", "x, y"), ("eve/c", "y")):
        hub.commit(name, {"README.md": f"---\nlicense: mit\ntags: [{tags}]\n---\n# Some\n".encode()})
    hub.create("org/secret", private=True)
    for place, name in enumerate(("eve/c", "org/secret", "org/b", "org/a")):
        hub.repos[name].downloads = place
    assert client(hub, tmp_path, LISTS) == {
        "all": ["org/a", "org/b", "org/secret", "eve/c"],
        "public": ["eve/c", "org/b", "org/a"],
        "x": ["org/a"],
        "none": [],
        "read": ["GatedRepoError 401", "ok"],
        "b": [["license:mit", "region:us", "x", "y"], 2, "manual", [".gitattributes", "README.md"]],
        "again": "HfHubHTTPError 409",
        "same": True,
        "owned": [[True, "My sets", 1]],
        "description": "Fewer",
        "items": [["org/b", "dataset", "changed"]],
        "mine": ["HfHubHTTPError 401", "HfHubHTTPError 404"],
    }


def test_failures_strike_the_requests_they_are_meant_for(hub, tmp_path):
    for name in "lost", "dropped", "busy", "limited", "race", "stale", "cut":
        hub.commit(f"org/{name}", {"README.md": b"# Some text\n"})
    hub.fail("lost", when=lambda request: "org/lost/commit" in request.path)
    hub.fail("drop", when=lambda request: "org/dropped/commit" in request.path)
    hub.fail(503, when=lambda request: "org/busy/preupload" in request.path)
    hub.fail("429", when=lambda request: "org/limited/preupload" in request.path)
    hub.fail("conflict", when=lambda request: "org/race/" in request.path)
    hub.fail("truncate", when=lambda request: "org/cut/resolve" in request.path and request.method == "GET")
    found = client(hub, tmp_path, FAILURES)
    assert found.pop("cut") == "# Some text\n"
    assert [name for name in found if "b.zip" in hub.repos[f"org/{name}"].tree()] == ["lost", "busy", "limited"]
    assert "NOTES.md" in hub.repos["org/race"].tree()
    dropped, refused = "RemoteProtocolError", "HfHubHTTPError 412"
    assert found == dict(lost=dropped, dropped=dropped, busy="ok", limited="ok", race=refused, stale=refused)
    assert [request.status for request in hub.requests if "/preupload/" in request.path][-6:-2] == [503, 200, 429, 200]


def test_a_client_can_be_killed_at_a_request(hub, tmp_path):
    before = hub.create("org/name").head()
    hub.fail(lambda _: process.kill(), when=lambda request: request.commit_target)
    command = [sys.executable, "-c", PRELUDE + 'write("org/name", {"a.zip": b"a"})']
    process = subprocess.Popen(command, env=hub.environment(tmp_path, "hf_alice"))
    assert process.wait(timeout=60) == -9
    assert hub.requests[-1].status is None and hub.repos["org/name"].head() == before
    assert list(hub.repos["org/name"].large.values()) == [b"a"]  # uploaded, but in no commit


def test_requests_are_counted(hub):
    hub.create("org/name")
    urls = [f"{hub.endpoint}/api/datasets/org/name{rest}" for rest in ("", "/refs", "/refs?include_prs=1")] * 2
    hub.fail(500, at=1, times=2)
    assert [status(url) for url in urls] == [200, 500, 500, 200, 200, 200]
    hub.reset()
    hub.fail(503, at=2)
    assert [status(url) for url in urls] == [request.status for request in hub.requests] == [200, 200, 503, 200, 200, 200]


def test_nothing_half_done_is_committed(hub):
    before = hub.create("org/name").head()
    lines = [
        {"key": "header", "value": {"summary": "Half", "description": ""}},
        {"key": "file", "value": {"path": "a.txt", "content": "YQ==", "encoding": "base64"}},
        {"key": "lfsFile", "value": {"path": "b.zip", "algo": "sha256", "oid": "0" * 64, "size": 1}},
    ]
    body, headers = "\n".join(map(json.dumps, lines)).encode(), {"Authorization": "Bearer hf_alice"}
    assert status(f"{hub.endpoint}/api/datasets/org/name/commit/main", data=body, headers=headers) == 400
    upload = f"{hub.storage}/org/name/{'0' * 64}"
    assert status(upload, method="PUT", data=b"other bytes") == 400  # not of that sha256
    assert status(upload, headers=headers) == 400  # a token in the wrong place
    assert hub.repos["org/name"].head() == before and not hub.repos["org/name"].large


def test_a_corrupt_file_looks_sound(hub, tmp_path):
    texts = {"data.zip": bytes(range(100)), "README.md": b"# A readable card\n"}
    hub.commit("org/name", texts)
    sound = client(hub, tmp_path / "sound", READ)
    assert list(map(bytes, sound["files"])) == list(texts.values()) and sound["part"] == [20, 21, 22, 23]
    for name in texts:
        hub.corrupt("org/name", name)
    corrupt = client(hub, tmp_path / "corrupt", READ)
    assert corrupt["sha256"] == sound["sha256"]
    for one, other in zip(corrupt["files"], sound["files"], strict=True):
        assert sum(x != y for x, y in zip(one, other, strict=True)) == 1
    hub.heal()
    assert client(hub, tmp_path / "healed", READ) == sound


def test_as_a_script_it_serves_two_users():
    command = [sys.executable, Path(__file__).with_name("hub_server.py")]
    with subprocess.Popen(command, env={"PATH": os.environ["PATH"]}, stdout=subprocess.PIPE, text=True) as script:
        try:
            exports = {}
            while "HF_TOKEN" not in exports:
                name, _, value = next(script.stdout).removeprefix("export ").strip().partition("=")
                exports[name] = value
            users = []
            for token in exports["HF_TOKEN"], "hf_bob":
                url, headers = f"{exports['HF_ENDPOINT']}/api/whoami-v2", {"Authorization": f"Bearer {token}"}
                with urllib.request.urlopen(urllib.request.Request(url, headers=headers)) as answer:
                    found = json.load(answer)
                users.append((found["name"], [org["name"] for org in found["orgs"]]))
        finally:
            script.terminate()
    assert users == [("alice", ["org"]), ("bob", [])]
