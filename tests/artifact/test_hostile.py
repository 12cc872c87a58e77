"""A repository that means harm is refused in one line; nothing is executed, unpickled or written outside the cache."""

import io
import json
import pickle
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hub_client import Client, content_sha256
from hub_server import HubServer
from processes import run_python

REPO = "eve/fish-ipc2-cao2"
SHARD = "data/train-00000-of-00001.parquet"


@pytest.fixture(scope="module")
def hub():
    with HubServer() as hub:
        hub.add_user("eve")
        hub.add_token("hf_eve", "eve")
        yield hub


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("victim")


@pytest.fixture(scope="module")
def victim(hub, place):
    client = Client(hub, place / "home", "hf_eve")
    yield client
    client.stop()


@pytest.fixture
def honest(hub, artifact):
    """The files of an honest set, in a repository."""
    hub.reset()
    hub.repos.clear()
    hub.heal()
    files = {
        str(f.relative_to(artifact)): f.read_bytes() for f in artifact.rglob("*") if f.is_file() and ".run" not in f.parts
    }
    hub.commit(REPO, files, author="eve")
    return files


def outside(place):
    return {str(f.relative_to(place)) for f in place.rglob("*") if "home" not in f.relative_to(place).parts[:1]}


def edited(files, file, **fields):
    return {file: json.dumps({**json.loads(files[file]), **fields}).encode()}


def rewritten(files, change, schema=lambda schema: schema):
    """The shard with other cells or another schema."""
    table = pq.read_table(io.BytesIO(files[SHARD]))
    rows = table.to_pylist()
    change(rows)
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=schema(table.schema)), buffer)
    return {SHARD: buffer.getvalue()}


def cells(**fields):
    return lambda rows: [row.update(fields) for row in rows]


def of_type(column, kind):
    return lambda schema: schema.set(schema.get_field_index(column), pa.field(column, kind))


ATTACKS = {
    "name that climbs": (lambda f: edited(f, "manifest.json", name="../../evil"), "name"),
    "method that climbs": (
        lambda f: edited(f, "manifest.json", method={**json.loads(f["manifest.json"])["method"], "name": "../evil"}),
        "method.name",
    ),
    "script as a link": (
        lambda f: edited(f, "manifest.json", method={**json.loads(f["manifest.json"])["method"], "paper": "javascript:x"}),
        "method.paper",
    ),
    "record that climbs": (
        lambda f: edited(f, next(n for n in f if n.startswith("evaluations/")), protocol="../../evil"),
        "protocol",
    ),
    "record of a megabyte": (lambda f: {"evaluations/large.json": b" " * 1_000_001}, "1,000,001 bytes"),
    "records without end": (lambda f: {f"evaluations/{i}.json": b"{}" for i in range(1001)}, "at most 1,000 are read"),
    "a million images per class": (lambda f: edited(f, "manifest.json", ipc=1_000_000), "3,000,000 images"),
    "more than a million images": (lambda f: edited(f, "manifest.json", ipc=10**12), "ipc"),
    "image of a million pixels a side": (lambda f: edited(f, "manifest.json", image_size=10**6), "image_size"),
    "classes without end": (
        lambda f: edited(f, "manifest.json", classes=[{"name": str(i), "source_index": i} for i in range(100_001)]),
        "classes",
    ),
    "nesting without end": (lambda f: {"manifest.json": b'{"classes":' + b"[" * 100_000}, "manifest.json"),
    "parquet larger than its images": (lambda f: {SHARD: b"PAR1" + bytes(20_000_000)}, "more than 6 images can need"),
    "shard that is missing": (
        lambda f: {SHARD: None, "data/train-00000-of-00002.parquet": f[SHARD]},
        "data/train-00001-of-00002.parquet is missing",
    ),
    "shard count of a billion": (lambda f: {SHARD: None, "data/train-00000-of-99999.parquet": f[SHARD]}, "is missing"),
    "shard too many": (lambda f: {"data/train-00000-of-00002.parquet": f[SHARD]}, "one too many"),
    "cells that swell": (
        lambda f: rewritten(f, cells(note="x" * 20_000_000), lambda s: s.append(pa.field("note", pa.string()))),
        "more than its images can need",
    ),
    "image by path": (
        lambda f: rewritten(f, cells(image={"bytes": None, "path": "/etc/passwd"})),
        "stored in the file itself",
    ),
    "image by address": (
        lambda f: rewritten(f, cells(image={"bytes": None, "path": "http://127.0.0.1:1/x"})),
        "file itself",
    ),
    "image that is a program": (
        lambda f: rewritten(f, cells(image={"bytes": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n", "path": None})),
        "PNG or WebP",
    ),
    "rows that only load_dataset would read": (lambda f: {"data/train-more.parquet": f[SHARD]}, "one too many"),
    "labels as text": (lambda f: rewritten(f, cells(label="0"), of_type("label", pa.string())), "column 'label'"),
    "soft labels of another length": (
        lambda f: rewritten(f, cells(soft_label=[1.0]), of_type("soft_label", pa.list_(pa.float32()))),
        "soft_label",
    ),
    "soft labels that are no numbers": (lambda f: rewritten(f, cells(soft_label=[float("nan")] * 3)), "soft_label rows"),
    "a schema that lies": (
        lambda f: rewritten(f, cells(), lambda s: s.with_metadata({"huggingface": b'{"info": {"features": {"x": 1}}}'})),
        "parquet files cannot be read",
    ),
    "no parquet at all": (lambda f: {SHARD: b"PAR1 and then nothing PAR1"}, "parquet files cannot be read"),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_it_is_refused(hub, victim, place, honest, attack):
    change, reason = ATTACKS[attack]
    before = outside(place)
    hub.commit(REPO, change(honest), author="eve")
    line = victim.refusal("load", REPO)
    assert reason in line and len(line) < 1000
    assert outside(place) == before


class Trap:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (self.path, "w"))


def test_what_is_not_of_the_format_is_not_even_downloaded(hub, victim, place, honest):
    trap = pickle.dumps(Trap(str(place / "sprung")))
    names = [
        "data.pkl",
        "data/train.pt",
        "fish.py",
        "../../climbed.json",
        "evaluations/../../climbed.json",
        "evaluations/x.pkl",
    ]
    hub.commit(REPO, dict.fromkeys(names, trap), author="eve")
    hub.reset()
    assert victim.result("load", REPO)["revision"] == hub.repos[REPO].head().sha
    asked = [request.path for request in hub.requests if "/resolve/" in request.path]
    assert asked and not [path for path in asked if any(name.split("/")[-1] in path for name in names)]
    assert outside(place) == set()


def test_a_card_that_explodes_is_refused_and_left_alone(hub, victim, honest, artifact):
    bomb = b"---\na: &a [x, x, x]\nb: &b [*a, *a, *a]\nc: &c [*b, *b, *b]\nd: [*c, *c, *c]\n---\n"
    hub.commit(REPO, {"README.md": bomb}, author="eve")
    assert "YAML block" in victim.refusal("push", str(artifact), REPO)
    assert hub.repos[REPO].tree()["README.md"] == bomb
    assert victim.result("load", REPO)["revision"] == hub.repos[REPO].head().sha  # the rows are what they are


def test_a_set_from_a_folder_of_its_author_s_opens_no_folder_here(hub, victim, honest, place):
    """The manifest names the author's own folder; on another machine that is someone else's."""
    source = {**json.loads(honest["manifest.json"])["source"], "name": str(place)}
    soft = [{"soft_label": [float(i == c) for i in range(3)]} for c in range(3) for _ in range(2)]
    shard = rewritten(honest, lambda rows: [row.update(s) for row, s in zip(rows, soft, strict=True)])
    from datasets import Dataset

    content = content_sha256(Dataset(pq.read_table(io.BytesIO(shard[SHARD]))))
    hub.commit(REPO, {**shard, **edited(honest, "manifest.json", source=source, content_sha256=content)}, author="eve")
    assert "pass --source" in victim.refusal("evaluate", REPO, protocol="quick")


def test_a_terminal_is_shown_text_and_no_more(artifact):
    path = artifact / "manifest.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    manifest["method"]["title"] = "[red]fish[/red] \x1b[2J\x1b]0;title\x07"
    path.write_text(json.dumps(manifest), encoding="utf-8")
    done = run_python("-m", "distill_hub.cli", "info", str(artifact))
    assert done.returncode == 0, done.stderr
    shown = done.stdout
    assert "[red]fish[/red] ?[2J?]0;title?" in shown and not set(shown) & {"\x1b", "\x07"}


def test_a_download_that_was_damaged_is_not_believed(hub, victim, honest, place):
    """The client compares sizes alone, and would keep the damaged file in its cache."""
    shutil.rmtree(place / "home" / "hub", ignore_errors=True)
    hub.corrupt(REPO, SHARD)
    assert f"{SHARD} arrives altered" in victim.refusal("load", REPO)
    hub.heal()
    assert victim.result("load", REPO)["revision"] == hub.repos[REPO].head().sha


def test_a_dead_hub_is_not_answered_for_by_the_cache(hub, victim, honest):
    victim.result("load", REPO)
    hub.fail(500, when=lambda request: "?blobs" in request.path, times=float("inf"))
    assert "the Hub answered 500" in victim.refusal("load", REPO)
    assert sum(request.status == 500 for request in hub.requests) == 4
