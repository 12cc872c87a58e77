"""Publishing over HTTP with the real clients: one commit or none, whatever fails; nothing of other people's is lost."""

import dataclasses
import itertools
import json
import math
import os
import shutil
import signal

import pytest
from hub_client import Client
from processes import run_python

from distill_hub.artifact.find import find
from distill_hub.artifact.load import load_artifact
from distill_hub.artifact.manifest import Manifest
from distill_hub.artifact.package import write_artifact
from distill_hub.publishing.card import render_card
from distill_hub.publishing.destination import Destination
from distill_hub.publishing.publish import publish
from distill_hub.views.files import write_views

REPO = "org/fish-ipc2-cao2"
TOKEN = "hf_AliceWritesThisAndNobodyMayReadIt"
FILES = {"README.md", "assets/card.md", "data/train-00000-of-00001.parquet", "manifest.json"}


@pytest.fixture(autouse=True)
def _afresh(hub):
    hub.reset()
    hub.repos.clear()


@pytest.fixture(scope="module")
def alice(hub, tmp_path_factory):
    hub.add_token(TOKEN, "alice")
    client = Client(hub, tmp_path_factory.mktemp("alice"), TOKEN)
    yield client
    client.stop()


@pytest.fixture(scope="module")
def bob(hub, tmp_path_factory):
    client = Client(hub, tmp_path_factory.mktemp("bob"), "hf_bob")
    yield client
    client.stop()


@pytest.fixture(scope="module")
def stranger(hub, tmp_path_factory):
    client = Client(hub, tmp_path_factory.mktemp("stranger"))
    yield client
    client.stop()


@pytest.fixture
def second(tmp_path, make_rows, build_manifest):
    """Another content of the same set, and without a record."""
    folder = tmp_path / "second"
    manifest = write_artifact(folder, make_rows(seed=1), build_manifest(), class_names=load_artifact_names(build_manifest))
    (folder / "README.md").write_text(render_card(manifest, (), location=str(folder), files=find(folder).files), "utf-8")
    return folder


def load_artifact_names(build_manifest):
    return build_manifest()("0" * 64).class_names


def is_whole(tree, folder):
    """Whether a tree holds a folder's set, complete."""
    expected = {f: (folder / f).read_bytes() for f in FILES - {"README.md", "assets/card.md"}}
    return tree.keys() >= FILES and all(tree[name] == data for name, data in expected.items())


def test_a_set_arrives_whole_in_one_commit(hub, alice, stranger, artifact):
    published = alice.result("push", str(artifact), REPO)
    repo = hub.repos[REPO]
    assert published["commit"] == repo.head().sha and published["url"].endswith(f"/datasets/{REPO}/commit/{repo.head().sha}")
    assert len(repo.history()) == 2  # the repository's first commit, and ours
    assert is_whole(repo.tree(), artifact)
    assert repo.tree().keys() == FILES | {f"evaluations/{f.name}" for f in (artifact / "evaluations").iterdir()} | {
        ".gitattributes"
    }
    assert f'load_dataset("{REPO}"' in repo.tree()["README.md"].decode()
    assert str(artifact) not in repo.tree()["README.md"].decode()
    assert not [r for r in hub.requests if r.origin == "storage" and r.authorization]
    loaded = stranger.result("load", REPO)
    assert loaded["content"] == load_artifact(artifact).manifest.content_sha256
    assert loaded["revision"] == published["commit"]
    # The same again is no commit.
    assert alice.result("push", str(artifact), REPO)["commit"] == published["commit"]
    assert len(repo.history()) == 2


def test_the_default_name_is_the_set_s_own(hub, alice, artifact):
    alice.result("push", str(artifact))
    assert set(hub.repos) == {"alice/fish-ipc2-cao2"}


def test_an_older_revision_still_loads(hub, alice, stranger, artifact, second):
    old = alice.result("push", str(artifact), REPO, tag="v1")["commit"]
    new = alice.result("push", str(second), REPO)["commit"]
    assert hub.repos[REPO].tags == {"v1": old}
    contents = [load_artifact(folder).manifest.content_sha256 for folder in (artifact, second)]
    assert [stranger.result("load", REPO, r)["content"] for r in (old, new, None, "v1")] == [
        contents[0], contents[1], contents[1], contents[0],
    ]  # fmt: skip
    # The record of the old content stays, and is not taken for one of the new.
    assert stranger.result("load", REPO)["submitted_by"] == []
    assert sum(name.startswith("evaluations/") for name in hub.repos[REPO].tree()) == 1
    # Without the network, a commit that was loaded once loads again; a branch could have moved.
    offline = Client(hub, stranger.environment["HF_HOME"], HF_HUB_OFFLINE="1")
    before = len(hub.requests)
    assert offline.result("load", REPO, old)["content"] == contents[0]
    assert "HF_HUB_OFFLINE" in offline.refusal("load", REPO)
    assert "HF_HUB_OFFLINE" in offline.refusal("push", str(artifact), REPO)
    assert len(hub.requests) == before
    offline.stop()


def test_shards_that_are_no_longer_there_are_removed(hub, alice, artifact):
    alice.result("push", str(artifact), REPO)
    hub.commit(REPO, {"data/train-00001-of-00002.parquet": b"stale", "photo.png": b"someone's", "data/notes.txt": b"kept"})
    alice.result("push", str(artifact), REPO)
    assert "data/train-00001-of-00002.parquet" not in hub.repos[REPO].tree()
    assert {"photo.png", "data/notes.txt"} <= hub.repos[REPO].tree().keys()


VIEWS = "views/train-00000-of-00001.parquet"


def test_views_arrive_with_the_rest_and_are_downloaded_on_their_own(hub, alice, stranger, with_views, make_views):
    alice.result("push", str(with_views), REPO)
    tree = hub.repos[REPO].tree()
    assert len(hub.repos[REPO].history()) == 2 and is_whole(tree, with_views)
    assert tree[VIEWS] == (with_views / VIEWS).read_bytes()
    card = tree["README.md"].decode()
    assert "config_name: views" in card and f'load_dataset("{REPO}", "views", split="train")' in card
    hub.reset()
    stranger.result("load", REPO)
    asked = {request.path for request in hub.requests if "/resolve/" in request.path}
    assert asked and not [path for path in asked if "views" in path]
    stored = stranger.result("views", REPO)
    assert stored["sha256"] == json.loads(tree["manifest.json"])["views"]["sha256"]
    written = [batch for batch in make_views() if batch["epoch"][0] == 0]
    assert [batch["image_index"] for batch in stored["first_epoch"]] == [batch["image_index"].tolist() for batch in written]
    assert [path for path in (request.path for request in hub.requests) if path.endswith(VIEWS)]
    # Someone else's record: the card still has them.
    alice.result("submit", REPO, str(with_views))
    assert "config_name: views" in hub.repos[REPO].tree("refs/pr/1")["README.md"].decode()


def test_load_dataset_reads_both_configurations_from_the_hub(hub, alice, stranger, with_views):
    commit = alice.result("push", str(with_views), REPO)["commit"]
    code = (
        "import datasets\n"
        f"default, views = (datasets.load_dataset('{REPO}', *name, split='train', revision='{commit}')\n"
        "                  for name in ((), ('views',)))\n"
        "print(len(default), default.column_names[0], len(views), views.features['logits'])"
    )
    environment = {**stranger.environment, "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
    done = run_python("-c", code, environment=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "6 image 18 List(Value('float16'), length=3)"


def test_views_that_were_altered_are_not_published(hub, alice, with_views):
    data = bytearray((with_views / VIEWS).read_bytes())
    data[len(data) // 4] ^= 1
    (with_views / VIEWS).write_bytes(data)
    assert alice.refusal("push", str(with_views), REPO).startswith("views: ")
    assert not hub.repos


def test_views_of_an_earlier_content_are_removed_there(hub, alice, with_views, second):
    alice.result("push", str(with_views), REPO)
    hub.commit(REPO, {"views/train-00001-of-00002.parquet": b"stale", "views/notes.txt": b"kept"})
    alice.result("push", str(with_views), REPO)
    assert {name for name in hub.repos[REPO].tree() if name.startswith("views/")} == {VIEWS, "views/notes.txt"}
    # Files that the manifest does not know, of a run that was stopped, are not published.
    (second / "views").mkdir()
    (second / VIEWS).write_bytes(b"half")
    alice.result("push", str(second), REPO)
    tree = hub.repos[REPO].tree()
    assert is_whole(tree, second) and {name for name in tree if name.startswith("views/")} == {"views/notes.txt"}
    assert "config_name: views" not in tree["README.md"].decode()


def test_a_measurement_made_before_there_were_views_leaves_them_on_the_card(
    hub, alice, bob, artifact, make_views, facts, tmp_path
):
    before = shutil.copytree(artifact, tmp_path / "before")
    manifest = Manifest.read(artifact / "manifest.json")
    write_views(artifact, manifest, make_views(), facts)
    alice.result("push", str(artifact), REPO)
    bob.result("submit", REPO, str(before))
    hub.merge(REPO, 1)
    tree = hub.repos[REPO].tree()
    assert "config_name: views" in tree["README.md"].decode() and "measured by [bob]" in tree["README.md"].decode()


def requests_of_a_push(hub, alice, folder):
    alice.result("push", str(folder), REPO)
    log = [request.route for request in hub.requests]
    hub.reset()
    return log


@pytest.mark.parametrize(
    ("how", "again"),
    [(500, False), ("lost", False), ("drop", True), ("truncate", True)],
    ids=["error-new", "lost-new", "drop-existing", "truncate-existing"],
)
def test_one_failure_at_any_request_is_got_over(hub, alice, artifact, second, how, again):
    """A server error, a lost connection, a lost answer: the same command ends with the whole set, in one commit."""
    folders = [artifact, second] if again else [artifact]
    count = len([requests_of_a_push(hub, alice, folder) for folder in folders][-1])
    assert count > 8
    for number in range(count):
        hub.repos.clear()
        if again:
            alice.result("push", str(artifact), REPO)
        hub.reset()
        hub.fail(how, at=number)
        published = alice.result("push", str(folders[-1]), REPO)
        repo = hub.repos[REPO]
        assert is_whole(repo.tree(), folders[-1]), number
        assert published["commit"] == repo.head().sha
        assert len(repo.history()) == 2 + again, number


def test_a_refusal_at_any_request_leaves_the_old_commit(hub, alice, artifact, second):
    """What is not transient is not tried again: the repository is as it was, and the same command then succeeds."""
    refused = 0
    for number in itertools.count():
        hub.repos.clear()
        old = alice.result("push", str(artifact), REPO)["commit"]
        hub.reset()
        hub.fail(418, at=number, times=math.inf)
        answer = alice.call("push", str(second), REPO)
        if "result" in answer:  # it was asked for a file of a known commit, which the client's cache holds
            if number >= len(hub.requests):
                break  # every request has had its turn
            assert [r.method for r in hub.requests if r.status == 418] == ["HEAD"], number
            continue
        refused += 1
        assert answer["error"] == "HubError" and "418" in answer["message"] and "\n" not in answer["message"], number
        assert hub.repos[REPO].head().sha == old, number
        hub.reset()
        alice.result("push", str(second), REPO)
        assert is_whole(hub.repos[REPO].tree(), second), number
    assert refused > 8


def test_a_hub_that_stays_down_is_given_up(hub, alice, artifact):
    hub.fail(503, when=lambda request: "/commit/" in request.path, times=math.inf)
    line = alice.refusal("push", str(artifact), REPO)
    assert "503" in line and f"distill-hub push {artifact} {REPO}" in line and "as it was" in line
    assert sum("/commit/" in request.path for request in hub.requests) == 4
    assert len(hub.repos[REPO].history()) == 1


def test_it_waits_as_long_as_the_hub_asks(hub, alice, artifact):
    hub.fail("429", when=lambda request: "/commit/" in request.path)
    alice.result("push", str(artifact), REPO)
    assert is_whole(hub.repos[REPO].tree(), artifact)


@pytest.mark.parametrize("where", ["/commit/", "X-Amz-Signature"])
def test_a_killed_push_leaves_the_old_commit(hub, alice, artifact, second, where):
    old = alice.result("push", str(artifact), REPO)["commit"]
    hub.fail(lambda request: os.kill(alice.process.pid, signal.SIGKILL), when=lambda request: where in request.path)
    assert alice.call("push", str(second), REPO) == {}
    alice.process.join()
    assert hub.repos[REPO].head().sha == old
    alice.result("push", str(second), REPO)
    assert is_whole(hub.repos[REPO].tree(), second)


def test_a_commit_that_came_between_is_kept(hub, alice, artifact, second):
    alice.result("push", str(artifact), REPO)
    hub.fail("conflict", when=lambda request: "/commit/" in request.path)
    alice.result("push", str(second), REPO)
    tree = hub.repos[REPO].tree()
    assert is_whole(tree, second) and "NOTES.md" in tree


def test_a_card_edited_by_hand_survives(hub, alice, artifact, second):
    alice.result("push", str(artifact), REPO)
    card = hub.repos[REPO].tree()["README.md"].decode()
    edited = card.replace("## Limitations\n", "## Limitations\n\nBlind to whales.\n").replace("tags:\n", "tags:\n- marine\n")
    edited = edited.replace("pretty_name:", "language: en\npretty_name:") + "\n## Thanks\n\nTo Carol.\n"
    hub.commit(REPO, {"README.md": edited.encode()})
    alice.result("push", str(second), REPO)
    new = hub.repos[REPO].tree()["README.md"].decode()
    for words in ("Blind to whales.", "## Thanks", "To Carol.", "- marine", "language: en"):
        assert new.count(words) == 1
    contents = [load_artifact(folder).manifest.content_sha256 for folder in (artifact, second)]
    assert contents[0] not in new and contents[1] in new


def test_someone_else_s_record_joins_the_table(hub, alice, bob, artifact, second):
    alice.result("push", str(artifact), REPO)
    (own,) = (name for name in hub.repos[REPO].tree() if name.startswith("evaluations/"))
    claimed = hub.repos[REPO].tree()[own]
    first = bob.result("submit", REPO, str(artifact))
    assert first["url"].endswith("/discussions/1")
    hub.merge(REPO, 1)
    tree = hub.repos[REPO].tree()
    assert tree[own] == claimed
    theirs = own.replace(".json", "-bob.json")
    assert json.loads(tree[theirs]) == {**json.loads(claimed), "submitted_by": "bob"}
    card = tree["README.md"].decode()
    assert card.count("| **this set** |") == 2 and card.count("**this set**, measured by [bob]") == 1
    # The author publishes again: both are still there.
    (artifact / "README.md").write_text((artifact / "README.md").read_text("utf-8") + "\nA word by the author.\n", "utf-8")
    alice.result("push", str(artifact), REPO)
    tree = hub.repos[REPO].tree()
    assert {own, theirs} <= tree.keys()
    assert "measured by [bob]" in tree["README.md"].decode() and "A word by the author." in tree["README.md"].decode()
    # Another content: the measurement was not of it.
    alice.result("push", str(second), REPO)
    assert "measured by [bob]" not in hub.repos[REPO].tree()["README.md"].decode()
    assert "have changed" in bob.refusal("submit", REPO, str(artifact))


def test_a_lost_answer_opens_no_second_pull_request(hub, alice, bob, artifact, second):
    alice.result("push", str(artifact), REPO)
    hub.fail("lost", when=lambda request: "/commit/" in request.path)
    assert alice.result("push", str(second), REPO, create_pr=True)["url"].endswith("/discussions/1")
    hub.fail("lost", when=lambda request: "/commit/" in request.path)
    assert bob.result("submit", REPO, str(artifact))["url"].endswith("/discussions/2")
    assert len(hub.repos[REPO].discussions) == 2
    assert is_whole(hub.repos[REPO].tree(), artifact)
    assert is_whole(hub.repos[REPO].tree("refs/pr/1"), second)


def test_a_measurement_that_is_repeated_opens_no_second_pull_request(hub, alice, bob, artifact):
    """Killed before the answer came: the same command measures the same, later."""
    alice.result("push", str(artifact), REPO)
    first = bob.result("submit", REPO, str(artifact))
    later = {"date": "2026-02-03T04:05:06Z", "seconds": 11.0}
    assert bob.result("submit", REPO, str(artifact), **later) == first
    assert len(hub.repos[REPO].discussions) == 1 and len(hub.repos[REPO].history("refs/pr/1")) == 3
    # Another measurement is another.
    assert bob.result("submit", REPO, str(artifact), **later, seeds=[3, 4, 5])["url"].endswith("/discussions/2")


def test_a_measurement_that_is_repeated_after_its_merge_is_not_added_again(hub, alice, bob, artifact):
    alice.result("push", str(artifact), REPO)
    bob.result("submit", REPO, str(artifact))
    hub.merge(REPO, 1)
    tree = hub.repos[REPO].tree()
    again = bob.result("submit", REPO, str(artifact), date="2026-02-03T04:05:06Z", seconds=11.0)
    assert again["url"].endswith(f"/commit/{hub.repos[REPO].head('main').sha}")
    assert len(hub.repos[REPO].discussions) == 1 and hub.repos[REPO].tree() == tree
    # Somebody else's of the same is another person's measurement.
    assert alice.result("submit", REPO, str(artifact))["url"].endswith("/discussions/2")


def test_a_card_that_the_hub_does_not_take_is_refused(hub, alice, artifact):
    hub.fail(400, when=lambda request: "validate-yaml" in request.path)
    assert "README.md" in alice.refusal("push", str(artifact), REPO)
    assert len(hub.repos[REPO].history()) == 1


def test_branches_and_tags(hub, alice, artifact, second):
    alice.result("push", str(artifact), REPO)
    published = alice.result("push", str(second), REPO, revision="next", tag="v2")
    assert is_whole(hub.repos[REPO].tree(), artifact) and is_whole(hub.repos[REPO].tree("next"), second)
    assert hub.repos[REPO].tags == {"v2": published["commit"]}
    alice.result("push", str(second), REPO, revision="next", tag="v2")  # the same once more
    assert "stays where it is" in alice.refusal("push", str(second), REPO, tag="v2")
    assert is_whole(hub.repos[REPO].tree(), artifact)
    assert "it is a tag" in alice.refusal("push", str(artifact), REPO, revision="v2")
    assert "pull request has no commit to tag" in alice.refusal("push", str(artifact), REPO, create_pr=True, tag="v3")
    assert "name of a branch" in alice.refusal("push", str(artifact), REPO, revision=published["commit"])


def test_visibility(hub, alice, bob, stranger, artifact):
    assert alice.result("push", str(artifact), REPO, private=True)["private"]
    assert hub.repos[REPO].private
    assert "it is private" in stranger.refusal("load", REPO)
    assert "may not read it" in bob.refusal("load", REPO)
    assert alice.result("load", REPO)["revision"]
    assert alice.result("push", str(artifact), REPO)["private"]  # it keeps its visibility
    alice.result("push", str(artifact), "alice/public")
    assert "is public" in alice.refusal("push", str(artifact), "alice/public", private=True)
    assert not hub.repos["alice/public"].private


def test_a_gated_set_is_read_by_whom_its_author_lets_in(hub, alice, bob, artifact):
    hub.fail("lost", when=lambda request: request.path.endswith("/settings"))  # there is a repository, and it has a gate
    alice.result("push", str(artifact), "org/gated", gated="manual")
    repo, routes = hub.repos["org/gated"], [path for _, path in (request.route for request in hub.requests)]
    assert repo.gated == "manual" and len(repo.history()) == 2
    assert routes.index("/api/datasets/org/gated/settings") < routes.index("/api/datasets/org/gated/commit/main")
    assert "it is gated: accept its terms" in bob.refusal("load", "org/gated")
    repo.accepted.add("bob")
    assert bob.result("load", "org/gated")["revision"]
    alice.result("push", str(artifact), "org/gated")  # it keeps its gate
    assert repo.gated == "manual"
    alice.result("push", str(artifact), "alice/open")
    assert "exists and is not gated" in alice.refusal("push", str(artifact), "alice/open", gated="auto")
    assert not hub.repos["alice/open"].gated
    repo.gated = "auto"
    assert "exists and is not gated so" in alice.refusal("push", str(artifact), "org/gated", gated="manual")


@pytest.mark.parametrize(
    ("method", "with_wnids", "is_open", "warns"),
    [
        ("rded", True, True, True),
        ("kcenter", True, True, True),
        ("cao2", True, True, False),  # generated
        ("rded", False, True, False),  # of another source
        ("random", True, False, False),  # private or gated
    ],
)
def test_imagenet_s_own_pixels_are_not_made_public_without_a_word(
    full, artifact, monkeypatch, capfd, method, with_wnids, is_open, warns
):
    own = load_artifact(artifact)
    change = {"method": own.manifest.method.model_copy(update={"name": method})}
    change |= {"classes": full["classes"]} if with_wnids else {}
    monkeypatch.setattr("distill_hub.publishing.publish.commit", lambda *_: None)
    manifest = own.manifest.model_copy(update=change)
    publish(dataclasses.replace(own, manifest=manifest), Destination("org/fish", "alice", is_open=is_open))
    said = capfd.readouterr().err.splitlines()
    assert len(said) == warns
    assert not warns or ("ImageNet's own images" in said[0] and "--gated auto" in said[0])
    card = render_card(manifest, (), location="org/fish", files={})
    assert ("extra_gated_prompt" in card) == (with_wnids and method != "cao2")


def test_a_repository_of_something_else_is_left_alone(hub, alice, artifact):
    hub.commit("org/photos", {"cat.png": b"cat"})
    assert "not a distilled set" in alice.refusal("push", str(artifact), "org/photos")
    hub.commit("org/newer", {"manifest.json": b'{"format_version": 2}'})
    assert "manifest.json" in alice.refusal("push", str(artifact), "org/newer")
    hub.commit("org/empty", {"README.md": b"---\nlicense: mit\n---\n# Soon\n"})
    alice.result("push", str(artifact), "org/empty")
    assert "# Soon" in hub.repos["org/empty"].tree()["README.md"].decode()
    assert len(hub.repos["org/photos"].history()) == len(hub.repos["org/newer"].history()) == 2


def test_who_may_not_write_is_told_before_anything_happens(hub, alice, bob, stranger, artifact, tmp_path):
    assert "hf auth login" in stranger.refusal("push", str(artifact), REPO)
    assert "alice" in alice.refusal("push", str(artifact), "nobody/fish") and not hub.repos
    assert "neither you nor an organisation" in bob.refusal("push", str(artifact), REPO)
    for name in ("org/fi sh", "org/fish--ipc", "a/b/c", "org/../x", "org/fish.git", ""):
        assert "NAMESPACE/NAME" in alice.refusal("push", str(artifact), name)
    reader = Client(hub, tmp_path / "reader", "hf_alice_reads")
    assert "may only read" in reader.refusal("push", str(artifact), REPO)
    reader.stop()
    wrong = Client(hub, tmp_path / "wrong", "hf_wrong_and_secret")
    for answer in (wrong.call("push", str(artifact), REPO), wrong.call("load", REPO)):
        assert answer["error"] == "InputError" and "does not know it" in answer["message"]
        assert "hf_wrong_and_secret" not in json.dumps(answer)
    wrong.stop()
    unprintable = Client(hub, tmp_path / "unprintable", "hf_secret\x01secret")
    answer = unprintable.call("push", str(artifact), REPO)
    assert answer["error"] == "InputError" and "hf_secret" not in json.dumps(answer)
    unprintable.stop()
    assert not hub.repos


def test_the_token_is_nowhere_but_in_requests_to_the_hub(hub, alice, artifact, tmp_path):
    def everywhere(*words):
        environment = {**alice.environment, "HF_HOME": str(tmp_path / "home")}
        return run_python("-m", "distill_hub.cli", *words, environment=environment, folder=tmp_path)

    done = everywhere("push", str(artifact), REPO)
    assert done.returncode == 0 and hub.repos[REPO].head().sha in done.stdout
    hub.fail(418, times=math.inf, when=lambda request: request.method == "POST")
    (artifact / "README.md").write_text("another", "utf-8")
    failed = everywhere("push", str(artifact), REPO)
    assert failed.returncode == 1 and failed.stderr.startswith("error: ") and failed.stderr.count("\n") == 1
    outputs = [done.stdout, done.stderr, failed.stdout, failed.stderr]
    files = [f.read_bytes().decode(errors="replace") for f in tmp_path.rglob("*") if f.is_file()]
    published = [data.decode(errors="replace") for data in hub.repos[REPO].tree().values()]
    assert not [text for text in (*outputs, *files, *published) if TOKEN in text]
    assert any(TOKEN in (request.authorization or "") for request in hub.requests)
    assert not [r for r in hub.requests if r.origin == "storage" and r.authorization]
