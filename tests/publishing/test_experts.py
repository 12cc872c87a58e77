"""Expert trajectories on their way to the Hub and back, with the real clients over HTTP."""

import hashlib

import hub_client
import pytest
import torch
from safetensors.torch import save_file

from distill_hub.artifact.experts import ExpertsRecord, file_name, load_experts, parameter_shapes, split_by_name
from distill_hub.config import InputError
from distill_hub.publishing.experts import experts_card, push_experts
from distill_hub.publishing.readme import card_files

REPO = "org/fish-experts"


class Client(hub_client.Client):
    """A user's process that publishes and loads experts."""

    program = __file__


def publish_experts(*args, **kwargs):
    publication = push_experts(*args, **kwargs)
    return {"commit": publication.commit, "next": publication.next_step}


def load_again(*args, **kwargs):
    found = load_experts(*args, **kwargs)
    weights = found.weights(1, 2)
    return {"revision": found.revision, "facts": found.facts.model_dump(mode="json"), "sum": float(weights.double().sum())}


@pytest.fixture
def folder(tmp_path, make_tuning):
    """Two experts of three classes, as the recipe leaves them."""
    shapes, tuning, known = parameter_shapes("convnet-1-w4", 3, 8), make_tuning(), []
    for index in range(2):
        torch.manual_seed(index)
        weights = torch.randn(3, sum(shape.numel() for shape in shapes.values()))
        file = tmp_path / file_name(index)
        save_file(split_by_name(weights, shapes), file)
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        known.append({"seed": index, "train_accuracy": 0.9, "test_accuracy": 0.5 + 0.2 * index, "sha256": digest})
    record = ExpertsRecord(
        network="convnet-1-w4", source=tuning.source, classes=["cod", "eel", "ray"], image_size=8, mean=(0.5, 0.5, 0.5),
        std=(0.2, 0.2, 0.2), epochs=5, kept=[0, 2, 5], experts=known, settings={"expert_batch_size": 4, "seed": 0},
        cost={"seconds": 3.0, "core_seconds": 3.0, "gpu_seconds": 0.0, "hardware": "a machine"},
        environment=tuning.environment, created=tuning.created,
    )  # fmt: skip
    (tmp_path / "experts.json").write_text(record.to_json())
    (tmp_path / "assets").mkdir()
    for name, content in card_files(experts_card(record, location="experts"), []).items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "notes.txt").write_text("private")
    return tmp_path


def test_the_last_epoch_in_a_row(folder):
    record = ExpertsRecord.read(folder / "experts.json")
    kept = {(0, 2, 5): 0, (0, 1, 2, 5): 2, (0, 1, 2, 3, 4, 5): 5}
    for epochs, last in kept.items():
        assert record.model_copy(update={"kept": list(epochs)}).last_in_a_row == last


def test_experts_arrive_whole_in_one_commit_and_come_back(hub, tmp_path_factory, folder):
    alice, stranger = (Client(hub, tmp_path_factory.mktemp("home"), token) for token in ("hf_alice", None))
    try:
        readme = (folder / "README.md").read_text()
        (folder / "README.md").write_text(readme + "\nMade on a rainy day.\n")
        published = alice.result("publish_experts", str(folder), REPO)
        repo = hub.repos[f"models/{REPO}"]
        assert published == {
            "commit": repo.head().sha,
            "next": f"Next: `distill-hub make mtt --experts {REPO}` matches them",
        }
        tree = repo.tree()
        assert tree.keys() == {
            *("expert-000.safetensors", "expert-001.safetensors", "experts.json", "README.md", "assets/card.md"),
            ".gitattributes",
        }
        card = tree["README.md"].decode()
        assert f"--experts {REPO}" in card and "Made on a rainy day." in card and "**60.00 %**" in card
        assert alice.result("publish_experts", str(folder), REPO)["commit"] == published["commit"]
        loaded, here = stranger.result("load_again", REPO), load_again(str(folder))
        assert loaded["sum"] == here["sum"] and loaded["revision"] == published["commit"]
        assert (loaded["facts"]["id"], loaded["facts"]["experts"]) == (REPO, 2)
        assert abs(loaded["facts"]["test_accuracy"] - 0.6) < 1e-12 and loaded["facts"]["sha256"] == here["facts"]["sha256"]
        hub.commit(f"models/{REPO}", {**tree, "expert-001.safetensors": tree["expert-000.safetensors"]})
        assert "expert-001.safetensors was altered" in stranger.refusal("load_again", REPO)
        hub.commit("models/org/other", {"README.md": b"# Other\n"})
        assert "there is no experts.json in it" in stranger.refusal("load_again", "org/other")
    finally:
        alice.stop()
        stranger.stop()


@pytest.mark.parametrize("content", ["{", "{}", '{"network": 1}'])
def test_a_broken_record_is_refused_in_one_line(folder, content):
    (folder / "experts.json").write_text(content)
    for read in (lambda: load_experts(str(folder)), lambda: push_experts(folder)):
        with pytest.raises(InputError, match=r"experts\.json: ") as caught:
            read()
        assert "\n" not in str(caught.value)


if __name__ == "__main__":
    torch.set_num_threads(1)
    vars(hub_client).update({function.__name__: function for function in (publish_experts, load_again)})
    hub_client.serve()
