"""A classifier on its way to the Hub and back, as the teacher of sets, with the real clients over HTTP."""

import dataclasses
import json
import os
import re
import shutil
from pathlib import Path

import hub_client
import pytest
import timm
import torch
import yaml
from helpers import run_here
from huggingface_hub import ModelCard, constants, parse_eval_result_entries
from safetensors.torch import load, save

from distill_hub import evaluate, load_distilled
from distill_hub.artifact.classifier import ClassifierRecord, SetRecord
from distill_hub.artifact.describe import hash_of_weights, source_record, weights_sha256
from distill_hub.artifact.manifest import ModelRecord
from distill_hub.classifiers import load_classifier, read_network, save_network
from distill_hub.commands.push import run as push_command
from distill_hub.config import InputError
from distill_hub.data.known import FITTED
from distill_hub.evaluation import scores
from distill_hub.networks.build import build
from distill_hub.options.commands import PushConfig
from distill_hub.options.fit_classifier import FitClassifierConfig
from distill_hub.publishing.classifier import classifier_card, push_classifier
from distill_hub.publishing.students import student_results
from distill_hub.publishing.teacher import how_to_publish
from distill_hub.publishing.trained import read_classifier
from distill_hub.teachers.fit import fit_classifier

REPO, SET = "org/teacher", "org/set"


class Client(hub_client.Client):
    """A user's process that trains, publishes, distils and evaluates."""

    program = __file__


def push_folder(folder, repository, **more):
    push_command(PushConfig(folder, repository, **more))


def advice(folder, repository):
    return how_to_publish(folder, repository)


def distil(folder, *words):
    run_here("recipes/random_real.py", "--ipc", "1", "--score", "no", "--view_epochs", "0", "--output_dir", folder, *words)


def look_at(name, **how):
    """Load a classifier of digits; return its commit, and what it says."""
    from distill_hub.data.sources import load_source

    found = load_classifier(name, load_source("digits").classes, **how)
    return [found.revision, found.logits(torch.full((1, 3, 16, 16), 0.5)).tolist()]


def evaluate_afresh(home, location, folder):
    """Evaluate with empty caches, for one epoch; return the teacher on record, and what was fetched and fitted."""
    shutil.rmtree(constants.HF_HUB_CACHE)
    os.environ["DISTILL_HUB_CACHE"], real = home, scores.train_students

    def short(student, sets, test, classes, settings, *rest, **more):
        return real(student, sets, test, classes, dataclasses.replace(settings, epochs=1, looks=(1,)), *rest, **more)

    scores.train_students = short
    how = {"protocol": "rded-soft", "students": "convnet-1-w4-bn", "repeats": 2, "save_students": folder}
    (pair,) = evaluate(location, **how)
    scores.train_students = real
    models = {path.name for path in Path(constants.HF_HUB_CACHE).glob("models--*/snapshots/*")}
    fitted = [path.name for path in Path(home).glob("*teacher*")]
    return {
        "teacher": pair.measured.teacher.model_dump(mode="json"),
        "last": pair.measured.score.last,
        "models": sorted(models),
        "fitted": fitted,
    }


def read(name):
    """Load a network; return its commit and the hash of its weights."""
    found = read_network(name)
    return [found["revision"], weights_sha256(found["model"])]


def dynamics_of(name):
    """Read what a classifier said while it was trained; return its commit, and the hash of that."""
    from distill_hub.coresets.dynamics import read_dynamics
    from distill_hub.data.sources import load_source

    found = read_dynamics(load_source("digits"), name)
    return [found.revision, found.sha256]


def caches():
    return [str(path) for path in Path(os.environ["DISTILL_HUB_CACHE"]).glob("digits-teacher-*/")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, digits):
    """A tiny teacher of digits, as the recipe leaves it."""
    place = tmp_path_factory.mktemp("classifier") / "net"
    small = {
        "network": "convnet-1-w16-bn",
        "image_size": 8,
        "epochs": 2,
        "batch_size": 32,
        "learning_rate": 0.05,
        "dynamics": True,
    }
    fit_classifier(digits, FitClassifierConfig(**small, output_dir=place))
    return place


@pytest.fixture(scope="module")
def alice(hub, tmp_path_factory):
    client = Client(hub, tmp_path_factory.mktemp("home"), "hf_alice")
    yield client
    client.stop()


def test_a_published_teacher_is_fetched_at_its_commit_by_whoever_evaluates(hub, alice, folder, tmp_path):
    (folder / "README.md").write_text((folder / "README.md").read_text() + "\nTrained on a rainy day.\n")
    alice.result("push_folder", str(folder), REPO)
    repo = hub.repos[f"models/{REPO}"]
    first, tree = repo.head().sha, repo.tree()
    own = {"config.json", "model.safetensors", "dynamics.safetensors"}
    assert tree.keys() == own | {"README.md", "assets/card.md", ".gitattributes"}
    assert all(tree[name] == (folder / name).read_bytes() for name in own)
    card = tree["README.md"].decode()
    assert f"--teacher {REPO}\n" in card and f'load_classifier("{REPO}"' in card and card.count("on a rainy day") == 1
    alice.result("push_folder", str(folder), REPO)
    assert repo.head().sha == first

    commit, said = alice.result("look_at", REPO)
    assert (commit, said) == (first, look_at(str(folder))[1])
    assert alice.result("dynamics_of", REPO) == [first, dynamics_of(str(folder))[1]]
    alice.result("distil", str(tmp_path / "set"), "--teacher", REPO)
    teacher = load_distilled(tmp_path / "set").manifest.teacher
    assert (teacher.id, teacher.revision) == (REPO, first)
    alice.result("push_folder", str(tmp_path / "set"), SET)

    # Its author trains on: others fetch the weights that the set was labelled with, and no other.
    other = {name: 1.001 * tensor for name, tensor in load(tree["model.safetensors"]).items()}
    other |= {name: tensor for name, tensor in load(tree["model.safetensors"]).items() if not tensor.is_floating_point()}
    moved = hub.commit(f"models/{REPO}", {"model.safetensors": save(other)}).sha
    assert alice.result("look_at", REPO, revision=first) == [first, said]
    found = alice.result("evaluate_afresh", str(tmp_path / "caches"), SET, str(tmp_path / "students"))
    assert found["models"] == [first] and found["fitted"] == []
    assert (found["teacher"]["id"], found["teacher"]["revision"]) == (REPO, first)
    assert found["teacher"]["sha256"] == teacher.sha256

    # Its students, with their results.
    places = sorted((tmp_path / "students").iterdir())
    assert [place.name for place in places] == [f"rded-soft-v2-convnet-1-w4-bn-seed{seed}" for seed in (0, 1)]
    alice.result("push_folder", str(places[1]), "org/student")
    student = ModelCard(hub.repos["models/org/student"].tree()["README.md"].decode())
    assert student.data.datasets == [SET] and "base_model" not in student.data.to_dict()
    (result,) = student.data.eval_results
    assert (result.metric_type, result.metric_value) == ("accuracy", found["last"][1])
    assert "digits-ipc1-random by rded-soft v2" in result.task_name and result.source_url.endswith(f"/datasets/{SET}")
    with_set = read_classifier(places[1]).trained_on
    assert (with_set.hub_id, with_set.revision, with_set.seed) == (SET, hub.repos[SET].head().sha, 1)

    altered = hub.commit(
        SET, {"manifest.json": hub.repos[SET].tree()["manifest.json"].replace(first.encode(), moved.encode())}
    )
    assert altered and "its weights hash to" in alice.refusal(
        "evaluate_afresh", str(tmp_path / "c"), SET, str(tmp_path / "s")
    )


def test_a_set_names_a_teacher_that_was_published_after_it(hub, alice, folder, tmp_path):
    place = tmp_path / "set"
    alice.result("distil", str(place), "--teacher_epochs", "1")
    before = load_distilled(place).manifest
    assert before.teacher.id == f"{FITTED}digits"
    (fitted,) = alice.result("caches")
    assert read_classifier(Path(fitted)).settings["epochs"] == 1
    assert f"`distill-hub push {place} org/after --teacher NAMESPACE/NAME`" in alice.result(
        "advice", str(place), "org/after"
    )
    alice.result("push_folder", fitted, "org/fitted")
    assert "its weights hash to" in alice.refusal("push_folder", str(place), "org/after", teacher=REPO)
    assert load_distilled(place).manifest == before
    alice.result("push_folder", str(place), "org/after", teacher="org/fitted")
    after, head = load_distilled(place).manifest, hub.repos["models/org/fitted"].head().sha
    assert (after.teacher.id, after.teacher.revision) == ("org/fitted", head)
    assert (
        after.model_copy(update={"teacher": before.teacher}) == before and f"`{head}`" in (place / "README.md").read_text()
    )
    published = hub.repos["org/after"].head().sha
    alice.result("push_folder", str(place), "org/after", teacher="org/fitted")
    assert hub.repos["org/after"].head().sha == published
    assert json.loads(hub.repos["org/after"].tree()["manifest.json"])["teacher"]["revision"] == head


def test_weights_of_timms_own_are_on_record_by_the_commit_of_their_repository(hub, alice):
    name = "timm/test_resnet.r160_in1k"
    weights = timm.create_model("test_resnet").state_dict()
    commits = [
        hub.commit(f"models/{name}", {"config.json": b"{}", "model.safetensors": save(weights), "README.md": text}).sha
        for text in (b"# One\n", b"# Two\n")
    ]
    for asked in (name, "timm/test_resnet"):  # timm's default weights of that name
        assert alice.result("read", asked) == [commits[1], hash_of_weights(weights)]


def test_what_cannot_be_pushed_is_said_in_one_line(folder, tmp_path):
    save_network(build("convnet-1", 2, 8), tmp_path / "old", "convnet-1", ["a", "b"], 8)
    with pytest.raises(InputError, match=r"path: .* no record of how distill-hub trained it"):
        push_classifier(tmp_path / "old")
    shutil.copytree(folder, tmp_path / "broken")
    config = json.loads((folder / "config.json").read_text())
    config["distill_hub"]["steps"] = -1
    (tmp_path / "broken" / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"config\.json: distill_hub\.steps: -1"):
        push_classifier(tmp_path / "broken")
    with pytest.raises(InputError, match=r"teacher: 'org/x' cannot be used; .* is no distilled set"):
        push_folder(str(folder), "org/y", teacher="org/x")


def test_a_tuned_classifiers_card_says_what_it_started_from(folder):
    base = ModelRecord(id="org/base", architecture="resnet18", revision="a" * 40, sha256="b" * 64, license="apache-2.0")
    record = read_classifier(folder).model_copy(update={"pretrained": base, "network": "timm/resnet18"})
    card = ModelCard(classifier_card(record, location="org/tuned", published=True))
    facts = card.data.to_dict()
    assert (facts["base_model"], facts["base_model_relation"], facts["license"]) == ("org/base", "finetune", "apache-2.0")
    assert f"revision `{'a' * 40}`, weights sha256 `{'b' * 12}`" in card.text
    assert 'timm.create_model("hf-hub:org/tuned", pretrained=True)' in card.text and "from scratch" not in card.text
    local = base.model_copy(update={"id": "/home/eve/base", "revision": None})
    text = classifier_card(record.model_copy(update={"pretrained": local}), location="x")
    assert "/home/eve" not in text and "base_model" not in text and 'create_model("local-dir:x"' in text


def test_a_result_on_a_source_of_the_hub_is_in_the_hubs_own_format(folder, digits):
    record = read_classifier(folder)
    assert student_results(record) is None
    source = source_record(digits).model_copy(update={"hub_id": "uoft-cs/cifar10", "revision": "c" * 40})
    own = SetRecord(
        name="cifar10-ipc1-dm",
        content_sha256="d" * 64,
        images=10,
        protocol="dsa-hard",
        protocol_version=1,
        standard=True,
        seed=3,
    )
    student = ClassifierRecord(**{**dict(record), "source": source, "trained_on": own, "test_resize": 36})
    (entry,) = parse_eval_result_entries(yaml.safe_load(student_results(student)))
    assert (entry.dataset_id, entry.dataset_revision, entry.value) == ("uoft-cs/cifar10", "c" * 40, record.test_accuracy)
    assert "cifar10-ipc1-dm by dsa-hard v1, seed 3" in entry.notes
    card = classifier_card(student, location="x")
    assert "resize=36)" in card and not re.search(r"\n\n\n|None|datasets:", card)


if __name__ == "__main__":
    torch.set_num_threads(1)
    own = (push_folder, distil, look_at, dynamics_of, evaluate_afresh, read, caches, advice)
    vars(hub_client).update({function.__name__: function for function in own})
    hub_client.serve()
