"""From sets on the Hub to a page, a Space and a collection: found, measured by a stranger, merged, and found again."""

import json

import hub_lists
import pytest
from compared import Page
from hub_client import Client

BOARD = "spaces/carol/board"
QUICK = ["--protocol", "quick", "--students", "convnet-2-w16", "--repeats", "1"]


@pytest.fixture(scope="module")
def authors(hub, tmp_path_factory):
    hub.add_user("carol")
    hub.add_token("hf_carol", "carol")
    client = Client(hub, tmp_path_factory.mktemp("authors"), "hf_alice", COLUMNS="200")
    yield client
    client.stop()


@pytest.fixture(scope="module")
def carol(hub, tmp_path_factory):
    """A stranger, whose caches are empty."""
    client = Client(hub, tmp_path_factory.mktemp("carol"), "hf_carol", COLUMNS="200")
    yield client
    client.stop()


def done(client, *words):
    found = client.result("command", *words)
    assert found["code"] == 0, found
    return found


def test_a_stranger_s_measurement_gets_onto_the_leaderboard(hub, authors, carol, make_set, tmp_path, monkeypatch):
    monkeypatch.setattr(hub_lists, "PAGE", 2)
    for place, (token, name) in enumerate((("hf_alice", "org/a"), ("hf_alice", "alice/b"), ("hf_bob", "bob/c"))):
        authors.result("log_in", token)
        folder = make_set(tmp_path / name, [*range(place, 10), *range(place)])
        authors.result("push", str(folder), name)
    card = hub.repos["org/a"].tree()["README.md"]
    hub.commit("eve/newer", {"README.md": card, "manifest.json": b'{"format_version": 2}'}, author="eve")
    hub.commit("eve/other", {"README.md": card, "cat.png": b"of no set"}, author="eve")
    hub.commit("eve/gated", hub.repos["bob/c"].tree(), author="eve")
    hub.repos["eve/gated"].gated = "auto"
    hub.commit("eve/private", hub.repos["bob/c"].tree(), author="eve")
    hub.repos["eve/private"].private = True
    hub.repos["alice/b"].downloads, hub.repos["bob/c"].likes = 7, 3

    told = done(carol, "search", "REAL", "--source", "digits", "--json", str(tmp_path / "found.json"))["out"]
    rows = [line.split()[:7] for line in told.splitlines()]
    assert ["alice/b", "digits", "5", "real", "1", "7", "0"] in rows and [
        "bob/c",
        "digits",
        "5",
        "real",
        "1",
        "0",
        "3",
    ] in rows
    assert "eve/gated (gated)" in told and "eve/private" not in told and "eve/other" not in told
    listed = json.loads((tmp_path / "found.json").read_text())
    assert len(listed) == 5
    assert [listed[0][name] for name in ("id", "source", "ipc", "method")] == ["alice/b", "digits", 5, "real"]
    few = done(carol, "search", "--author", "eve", "--ipc", "5", "--limit", "1")["out"]
    assert "There are more than these 1" in few and few.count("eve/") == 2  # in the table, and in the next step
    assert "no distilled set that fits" in done(carol, "search", "whales")["out"]

    page = tmp_path / "page.html"
    first = done(carol, "leaderboard", "--html", str(page))
    left_out = [line for line in first["err"].splitlines() if line.startswith("left out: ")]
    assert [line.split()[2] for line in left_out] == ["eve/gated", "eve/newer"]
    assert "accept its terms" in left_out[0] and "format" in left_out[1]
    links = {text for _, text in Page(page.read_text()).all("a")}
    assert {"org/a", "alice/b", "bob/c"} <= links and "carol" not in page.read_text()

    done(carol, "evaluate", "org/a", *QUICK, "--submit")
    hub.merge("org/a", 1, "alice")
    words = ["leaderboard", "--push_to_space", "board", "--collection", "--title", "Digits judged"]
    told = done(carol, *words)["out"]
    space, (collection,) = hub.repos[BOARD], hub.collections.values()
    assert f"Published as carol/board, commit {space.head().sha}" in told and f"/collections/{collection['slug']}" in told
    assert len(space.history()) == 2 and space.facts()["sdk"] == "static" and "style.css" not in space.tree()
    rows = [row for group in json.loads(space.tree()["leaderboard.json"]) for row in group["rows"]]
    (measured,) = (row for row in rows if row["submitted_by"])
    assert (measured["location"], measured["submitted_by"], measured["submitted_by_confirmed"]) == ("org/a", "carol", True)
    assert sorted(row["location"] for row in rows) == ["alice/b", "bob/c", "org/a", "org/a"]
    published = space.tree()["index.html"].decode()
    assert "carol" in published and "<h1>Digits judged</h1>" in published
    assert collection["title"] == "Digits judged"
    items = {item["id"]: item["note"]["text"] for item in collection["items"]}
    assert items.keys() == {"carol/board", "org/a", "alice/b", "bob/c"}
    assert items["org/a"].startswith("digits in 5 images per class, by Real images: 99.0 ± 0.0 %, quick v2")

    # The same again changes nothing; what people added stays, and what is gone is taken out.
    hub.commit("org/photos", {"cat.png": b"cat"})
    by_id = {item["id"]: item for item in collection["items"]}
    by_id["alice/b"]["note"] = {"text": "My favourite"}
    collection["items"].append({"_id": "f" * 24, "id": "org/photos", "type": "dataset", "position": 9})
    hub.reset()
    assert space.head().sha in done(carol, *words)["out"] and len(space.history()) == 2
    assert not [request for request in hub.requests if request.method != "GET" and "/collections/" in request.path]
    readme = space.tree()["README.md"].decode()
    assert "distill-hub leaderboard --title 'Digits judged' --push_to_space carol/board\n" in readme
    hub.commit(BOARD, {"README.md": readme.replace("emoji: 📊", "emoji: 🏆").encode() + b"\nBy Carol.\n"}, author="carol")
    del hub.repos["bob/c"]
    done(carol, *words)
    assert [item["id"] for item in collection["items"]] == ["carol/board", "alice/b", "org/a", "org/photos"]
    assert by_id["alice/b"]["note"]["text"] == "My favourite"
    readme = space.tree()["README.md"].decode()
    assert "emoji: 🏆" in readme and "By Carol." in readme and "bob/c" not in readme
    assert "bob/c" not in space.tree()["leaderboard.json"].decode()


def test_a_page_and_a_collection_of_other_people_s_are_left_alone(hub, carol):
    hub.commit("spaces/carol/home", {"index.html": b"My own page"}, author="carol")
    refused = carol.result("command", "leaderboard", "--push_to_space", "home")
    assert refused["code"] == 2 and "it exists and is not a leaderboard" in refused["err"]
    assert hub.repos["spaces/carol/home"].tree()["index.html"] == b"My own page"
    hub.create("spaces/carol/fresh", author="carol")  # on the site: it holds the Hub's own page
    done(carol, "leaderboard", "--push_to_space", "fresh", "--collection", "--title", "Open to all")

    words = ["leaderboard", "--push_to_space", "secret", "--private", "--collection", "--title"]
    refused = carol.result("command", *words, "Open to all")
    assert refused["code"] == 2 and "is public, and the Space is not" in refused["err"]
    assert "spaces/carol/secret" not in hub.repos
    done(carol, *words, "Mine alone")
    assert {own["title"]: own["private"] for own in hub.collections.values()}["Mine alone"]
