"""A tuned generator: its card, its way to the Hub and back, with the real clients over HTTP."""

import hashlib
import json
import os
import re
import shutil

import bibtexparser
import hub_client
import pytest
import torch
from helpers import make_pipeline
from huggingface_hub import ModelCard
from processes import run_python
from safetensors.torch import load_file, save_file

from distill_hub.artifact.describe import generator_record
from distill_hub.artifact.generator import find_tuning, read_tuning
from distill_hub.commands.push import run as push_command
from distill_hub.config import InputError
from distill_hub.generators.dit import DiTGenerator
from distill_hub.generators.known import DIT_LICENSE, TUNING
from distill_hub.options.commands import PushConfig
from distill_hub.publishing.generator import model_card, push_generator

REPO = "org/fish-minimax-generator"
WEIGHTS = {part: f"{part}/diffusion_pytorch_model.safetensors" for part in ("transformer", "vae")}
CONFIGS = {"model_index.json", "scheduler/scheduler_config.json", "transformer/config.json", "vae/config.json"}
PIPELINE = {*CONFIGS, *WEIGHTS.values()}
FILES = PIPELINE | {TUNING, "losses.png"}
CARDS = {"README.md", "assets/card.md"}


class Client(hub_client.Client):
    """A user's process that also publishes and loads generators."""

    program = __file__


def hashes(tensors) -> dict[str, str]:
    return {name: hashlib.sha256(tensor.numpy().tobytes()).hexdigest() for name, tensor in tensors.items()}


def publish_generator(*args, **kwargs):
    publication = push_generator(*args, **kwargs)
    return {"commit": publication.commit, "url": publication.url, "private": publication.private}


def steps_of(*args, **kwargs):
    """Return in how many steps a generator was tuned, as is known before it is loaded."""
    record = find_tuning(*args, **kwargs)
    return record and record.steps


def log_in(token):
    os.environ["HF_TOKEN"] = token


def load_generator(*args, **kwargs):
    """Load with distill-hub, and what lies there with diffusers; return hashes of the weights of both, and the record."""
    from diffusers import DiTPipeline

    generator = DiTGenerator.from_pretrained(*args, **kwargs)
    plain = DiTPipeline.from_pretrained(*args, **kwargs, use_safetensors=True)
    pairs = (generator.transformer, generator.autoencoder.vae), (plain.transformer, plain.vae)
    weights = [{"transformer": hashes(one.state_dict()), "vae": hashes(other.state_dict())} for one, other in pairs]
    record = generator_record(generator, args[0])
    return {"weights": weights, "revision": generator.facts.revision, "record": record.model_dump(mode="json")}


@pytest.fixture(autouse=True)
def _afresh(hub):
    hub.reset()
    hub.repos.clear()


@pytest.fixture(scope="module")
def start(hub, tmp_path_factory):
    """Return a function that starts a user's process with caches of its own."""
    started = []

    def client(token=None, home=None, **environment):
        home = home or tmp_path_factory.mktemp("home")
        started.append(Client(hub, home, token, **environment))
        return started[-1]

    yield client
    for one in started:
        one.stop()


@pytest.fixture(scope="module")
def alice(start):
    return start("hf_alice")


@pytest.fixture(scope="module")
def stranger(start):
    return start()


@pytest.fixture(scope="module")
def offline(start, stranger):
    """The stranger, later and without a network."""
    return start(home=stranger.environment["HF_HOME"], HF_HUB_OFFLINE="1")


@pytest.fixture
def tuned(tmp_path, pipeline_folder, make_tuning):
    """A generator's folder as the recipe leaves it, with things in it that are not for others."""
    folder = shutil.copytree(pipeline_folder, tmp_path / "generator")
    record = make_tuning()
    (folder / TUNING).write_text(record.to_json(), "utf-8")
    (folder / "losses.png").write_bytes(b"a picture")
    (folder / "README.md").write_text(model_card(record, location=str(folder), files=["losses.png"]), "utf-8")
    (folder / ".cache").mkdir()
    for name in (".cache/config.json", "notes.txt", "transformer/optimizer.bin", "vae/config.json.bak"):
        (folder / name).write_text("private")
    return folder


def weights_of(folder):
    return {part: hashes(load_file(folder / file)) for part, file in WEIGHTS.items()}


def uploads(hub):
    """Names of the files in the bodies of all commits, and how many large files went to the storage."""
    lines = [json.loads(line) for r in hub.requests if r.commit_target for line in r.body.splitlines()]
    names = [line["value"]["path"] for line in lines if line["key"] != "header"]
    return sorted(names), sum(r.method == "PUT" for r in hub.requests if r.origin == "storage")


# The card.


def check_is_clean(card):
    for leftover in ("{{", "{%", "None", "TODO", "undefined", "\n\n\n", " \n"):
        assert leftover not in card, leftover
    for table in re.findall(r"(?:^\|.*\n)+", card, re.MULTILINE):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1, table
    assert card.endswith("\n")


def test_card_says_what_is_on_record(make_tuning):
    card = model_card(make_tuning(), location=REPO, files=FILES)
    check_is_clean(card)
    assert ModelCard(card).data.to_dict() == {
        "license": "mit",
        "library_name": "diffusers",
        "base_model": "org/generator",
        "base_model_relation": "finetune",
        "datasets": ["org/fish"],
        "tags": ["dataset-distillation", "distill-hub", "minimax"],
    }
    for said in (
        "# fish-minimax-generator\n",
        "](losses.png)",
        "[org/generator](https://huggingface.co/org/generator)",
        "[org/fish](https://huggingface.co/datasets/org/fish)",
        "[Minimax Diffusion](https://arxiv.org/abs/2311.15529)",
        f"distill-hub make plain --source fish --generator {REPO}\n",
        f"distill-hub make cao2 --source fish --generator {REPO}\n",
        f'DiTPipeline.from_pretrained("{REPO}")\n',
        "- Old | English &lt;sheepdog>\n".replace("|", r"\|"),
        "| `tuning_epochs` | `8` |\n",
        "| `lambda_r` | `0.002` |\n",
        "| `micro_batch_size` | not set |\n",
        "| `embedding` | `x0` |\n",
        "- trained_parameters: `1234`\n",
        f"(org/generator-net), revision `{'f' * 40}`, weights sha256 `{'1' * 12}`\n",
        f"split `train`, revision `{'a' * 40}`, fingerprint `{'0' * 12}`\n",
        "600 steps of the optimiser in 1.5 h\n",
        "1 x CPU, 1 process, mixed precision `no`, peak cpu memory 1.3 GB\n",
        "2026-01-02 with Python 3.12.1, torch 2.9.0\n",
        "| this generator | mit |\n| its base | mit |\n| source | cc-by-4.0 |\n",
    ):
        assert card.count(said) >= 1, said
    entries = bibtexparser.parse_string(re.search(r"```bibtex\n(.*?)```", card, re.DOTALL)[1])
    assert [entry.key for entry in entries.entries] == ["minimax", "fish"] and not entries.failed_blocks
    # A pure function, and the picture is shown where there is one.
    assert card == model_card(make_tuning(), location=REPO, files=sorted(FILES))
    assert "losses.png" not in model_card(make_tuning(), location=REPO, files=PIPELINE)


def test_card_with_nothing_optional_names_no_place_of_the_author(make_tuning, full):
    record = make_tuning(
        method=make_tuning().method.model_copy(update={"config": {}, "notes": {}, "bibtex": None, "paper": None}),
        base=full["generator"].model_copy(update={"id": "/home/eve/dit", "revision": None, "license": None}),
        source=full["source"].model_copy(
            update={"name": "/home/eve/My Fish", "hub_id": None, "revision": None, "license": None, "bibtex": None}
        ),
    )
    card = model_card(record, location=REPO, files=())
    check_is_clean(card)
    assert ModelCard(card).data.to_dict() == {
        "library_name": "diffusers",
        "tags": ["dataset-distillation", "distill-hub", "minimax"],
    }
    assert "/home" not in card and "My Fish" not in card
    assert "for distilled datasets: dit, fine-tuned with Minimax Diffusion on my-fish by distill-hub" in card
    assert "distill-hub make plain --source path/to/my-fish --generator" in card
    for absent in ("## Cite", "revision", "| Setting |", "What the method reported", "losses.png"):
        assert absent not in card, absent


def test_card_names_known_sources_as_the_recipes_do(make_tuning, full):
    for name, hub_id, argument in (
        ("imagewoof", "ILSVRC/imagenet-1k", "imagewoof"),
        ("digits", None, "digits"),
        ("some/fish", "some/fish", "some/fish"),
    ):
        source = full["source"].model_copy(update={"name": name, "hub_id": hub_id})
        assert f"--source {argument} " in model_card(make_tuning(source=source), location=REPO, files=())


def test_a_copy_of_the_imagenet_generator_is_still_its_base(make_tuning, full):
    base = full["generator"].model_copy(update={"id": "facebook/DiT-XL-2-256", "revision": None, "license": DIT_LICENSE})
    card = model_card(make_tuning(base=base), location=REPO, files=())
    data = ModelCard(card).data
    assert (data.base_model, data.license) == ("facebook/DiT-XL-2-256", "cc-by-nc-4.0")
    assert "[facebook/DiT-XL-2-256](https://huggingface.co/facebook/DiT-XL-2-256)" in card


def test_the_card_says_how_the_network_is_told_its_timestep(make_tuning, full):
    """And, where that is not diffusers' way, what to set there; the code of the card is run on a pipeline."""
    cards = {}
    for name in (None, "diffusers", "dit"):
        base = full["generator"].model_copy(update={"timestep_features": name})
        cards[name] = model_card(make_tuning(base=base), location=REPO, files=())
        check_is_clean(cards[name])
    assert "timestep" not in cards[None] and "time_proj" not in cards["diffusers"]
    assert f"weights sha256 `{'1' * 12}`, timestep features as in diffusers\n- **Method" in cards["diffusers"]
    assert f"weights sha256 `{'1' * 12}`, timestep features as in DiT's own code\n- **Method" in cards["dit"]
    (code,) = [code for code in re.findall(r"```python\n(.*?)```", cards["dit"], re.DOTALL) if "time_proj" in code]
    pipeline, t = make_pipeline(), torch.tensor([500])
    exec(code, {"pipeline": pipeline})
    for block in pipeline.transformer.transformer_blocks:
        first = torch.cos(500 * torch.exp(-torch.log(torch.tensor(10000.0)) * torch.arange(128) / 128))
        torch.testing.assert_close(block.norm1.emb.time_proj(t)[0, :128], first, rtol=0, atol=1e-3)


def test_unknown_licences_and_many_classes(make_tuning, full):
    base = full["generator"].model_copy(update={"license": "Terms of Fish (2026)"})
    card = model_card(make_tuning(base=base, classes=[f"c{i}" for i in range(101)]), location=REPO, files=())
    check_is_clean(card)
    assert (ModelCard(card).data.license, ModelCard(card).data.license_name) == ("other", "terms-of-fish-2026")
    assert "\n- c0\n" not in card and "101 classes are in [tuning.json]" in card


def test_the_code_on_the_card_runs(tuned, make_tuning, capsys):
    card = model_card(make_tuning(), location=str(tuned), files=())
    own, plain = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    exec(own, {})
    assert capsys.readouterr().out == "['zero', 'one'] torch.Size([2, 3, 16, 16])\n"
    names = {}
    exec(plain, names)
    assert hashes(names["pipeline"].transformer.state_dict()) == weights_of(tuned)["transformer"]


def test_what_the_card_says_of_the_null_class_of_diffusers():
    """Guided, its pipeline asks for class 1000 of any model; only where that is the null class are samples those of ours."""
    few, thousand = make_pipeline(3), make_pipeline(1000)
    settings = {"num_inference_steps": 2, "output_type": "pt"}
    with pytest.raises(IndexError):
        few(class_labels=[0], guidance_scale=2.0, **settings)
    assert few(class_labels=[0], guidance_scale=1.0, **settings).images.shape == (1, 3, 16, 16)
    asked = []
    table = thousand.transformer.transformer_blocks[0].norm1.emb.class_embedder.embedding_table
    table.register_forward_pre_hook(lambda _, args: asked.extend(args[0].tolist()))
    thousand(class_labels=[7], guidance_scale=2.0, **settings)
    assert set(asked) == {7, 1000} == {7, thousand.transformer.config.num_embeds_ada_norm}


# The record, and what the manifest says.


def test_a_folder_without_a_record_was_not_tuned(pipeline_folder):
    assert read_tuning(None) is None and read_tuning(pipeline_folder) is None
    record = generator_record(DiTGenerator.from_pretrained(str(pipeline_folder)), "a name")
    assert (record.id, record.tuning, record.license) == ("a name", None, None)


def test_a_tuned_generator_is_called_after_its_base(tuned, make_tuning):
    generator = DiTGenerator.from_pretrained(str(tuned))
    record = generator_record(generator, str(tuned))
    assert record.id == "org/generator, tuned with minimax on fish"
    assert record.tuning == make_tuning() == read_tuning(tuned)
    assert record.license == "mit"
    untuned = DiTGenerator(make_pipeline())
    assert record.sha256 == generator_record(untuned, "x").sha256  # of the weights, which are the same


@pytest.mark.parametrize("content", ["{", "{}", '{"method": 1}'])
def test_a_broken_record_is_refused_in_one_line(tuned, content):
    (tuned / TUNING).write_text(content)
    for read in (read_tuning, push_generator):
        with pytest.raises(InputError, match=r"tuning\.json: ") as caught:
            read(tuned)
        assert "\n" not in str(caught.value)


# The Hub.


def test_a_generator_arrives_whole_in_one_commit_and_comes_back(hub, alice, stranger, offline, tuned, make_tuning):
    published = alice.result("publish_generator", str(tuned), REPO)
    repo = hub.repos[f"models/{REPO}"]
    assert set(hub.repos) == {f"models/{REPO}"}
    assert published == {
        "commit": repo.head().sha,
        "url": f"{hub.endpoint}/{REPO}/commit/{repo.head().sha}",
        "private": False,
    }
    assert len(repo.history()) == 2 and repo.head().title == "Publish fish-minimax-generator"
    tree = repo.tree()
    assert tree.keys() == FILES | CARDS | {".gitattributes"}
    assert {name: tree[name] for name in FILES} == {name: (tuned / name).read_bytes() for name in FILES}
    card = model_card(make_tuning(), location=REPO, files=FILES)  # links follow the Hub that was asked
    assert tree["README.md"].decode() == card.replace("https://huggingface.co", hub.endpoint)
    assert not any(str(tuned.parent).encode() in data for data in tree.values())

    # The same again, also by a name that is made from the record, is no commit.
    hub.reset()
    assert alice.result("publish_generator", str(tuned), REPO)["commit"] == published["commit"]
    assert uploads(hub) == ([], 0) and len(repo.history()) == 2
    alice.result("publish_generator", str(tuned))
    assert set(hub.repos) == {f"models/{REPO}", "models/alice/fish-minimax-generator"}

    # Whoever loads it has these weights, and knows how they came about.
    loaded = stranger.result("load_generator", REPO)
    assert loaded["weights"] == [weights_of(tuned)] * 2 and loaded["revision"] == published["commit"]
    record = loaded["record"]
    assert (record["id"], record["revision"], record["license"]) == (REPO, published["commit"], "mit")
    assert record["tuning"] == json.loads((tuned / TUNING).read_text())
    before = len(hub.requests)
    assert offline.result("load_generator", REPO) == loaded
    assert len(hub.requests) == before


def test_a_generator_that_was_not_tuned_loads_without_a_record(hub, stranger, offline, pipeline_folder):
    files = {name: (pipeline_folder / name).read_bytes() for name in PIPELINE}
    commit = hub.commit("models/org/plain", {**files, "README.md": b"# Plain\n"}).sha
    loaded = stranger.result("load_generator", "org/plain", revision="main")
    assert loaded["weights"] == [weights_of(pipeline_folder)] * 2
    assert loaded["record"]["tuning"] is None and loaded["record"]["license"] is None
    assert (loaded["record"]["id"], loaded["record"]["revision"]) == ("org/plain", commit)
    assert offline.result("load_generator", "org/plain") == loaded


def test_the_record_of_the_same_commit_is_taken(hub, alice, stranger, tuned, make_tuning):
    old = alice.result("publish_generator", str(tuned), REPO, tag="v1")["commit"]
    (tuned / TUNING).write_text(make_tuning(steps=700).to_json(), "utf-8")
    new = alice.result("publish_generator", str(tuned), REPO)["commit"]
    assert hub.repos[f"models/{REPO}"].tags == {"v1": old}
    for revision, commit, steps in ((None, new, 700), ("v1", old, 600), (old, old, 600)):
        record = stranger.result("load_generator", REPO, revision=revision)["record"]
        assert (record["revision"], record["tuning"]["steps"]) == (commit, steps)


def test_whether_it_was_tuned_is_known_before_it_is_loaded(hub, alice, stranger, offline, tuned, pipeline_folder):
    alice.result("publish_generator", str(tuned), REPO, tag="v1")
    hub.commit("models/org/plain", {name: (pipeline_folder / name).read_bytes() for name in PIPELINE})
    for place in (REPO, str(tuned)):
        assert stranger.result("steps_of", place) == 600
    assert stranger.result("steps_of", REPO, revision="v1") == 600
    for place in ("org/plain", "org/nothing", "./nothing/at/all", str(pipeline_folder)):
        assert stranger.result("steps_of", place) is None
    assert offline.result("steps_of", REPO) == 600 and offline.result("steps_of", "org/plain") is None
    hub.commit(f"models/{REPO}", {TUNING: b"{}"})
    assert "tuning.json: " in stranger.refusal("steps_of", REPO)


def test_changed_weights_alone_are_sent(hub, alice, tuned):
    alice.result("publish_generator", str(tuned), REPO)
    hub.commit(f"models/{REPO}", {"samples.png": b"someone's", "vae/notes.md": b"someone's"})
    file = WEIGHTS["transformer"]
    weights = load_file(tuned / file)
    save_file({name: tensor + 1 for name, tensor in weights.items()}, tuned / file, metadata={"format": "pt"})
    hub.reset()
    alice.result("publish_generator", str(tuned), REPO)
    assert uploads(hub) == ([file], 1)
    tree = hub.repos[f"models/{REPO}"].tree()
    assert tree[file] == (tuned / file).read_bytes()
    assert tree["samples.png"] == tree["vae/notes.md"] == b"someone's"


def test_weights_that_are_no_longer_there_are_removed(hub, alice, tuned):
    alice.result("publish_generator", str(tuned), REPO)
    stale = {"transformer/diffusion_pytorch_model-00001-of-00002.safetensors": b"old", "losses.png": b"old"}
    stale["transformer/diffusion_pytorch_model.safetensors.index.json"] = b"{}"
    hub.commit(f"models/{REPO}", stale)
    (tuned / "losses.png").unlink()
    (tuned / "README.md").unlink()
    alice.result("publish_generator", str(tuned), REPO)
    tree = hub.repos[f"models/{REPO}"].tree()
    assert tree.keys() == (FILES - {"losses.png"}) | CARDS | {".gitattributes"}
    assert "losses.png" not in tree["README.md"].decode()


def test_what_people_wrote_in_a_card_stays(hub, alice, tuned, make_tuning):
    readme = tuned / "README.md"
    readme.write_text(readme.read_text("utf-8").replace("\n## Use it\n", "\nI like fish.\n\n## Use it\n"), "utf-8")
    alice.result("publish_generator", str(tuned), REPO)
    card = hub.repos[f"models/{REPO}"].tree()["README.md"].decode()
    generated = model_card(make_tuning(), location=REPO, files=FILES).replace("https://huggingface.co", hub.endpoint)
    assert card == generated.replace("\n## Use it\n", "\nI like fish.\n\n## Use it\n")
    card = card.replace("\n## Licence\n", "\nIt fears cats.\n\n## Licence\n")
    hub.commit(f"models/{REPO}", {"README.md": card.encode()})
    (tuned / TUNING).write_text(make_tuning(steps=700).to_json(), "utf-8")
    readme.unlink()
    alice.result("publish_generator", str(tuned), REPO)
    card = hub.repos[f"models/{REPO}"].tree()["README.md"].decode()
    assert card.count("I like fish.") == card.count("It fears cats.") == 1
    assert "in 700 steps" in card and "600 steps" not in card
    assert card.count("## Use it") == card.count("## Cite") == 1


def test_a_private_generator(hub, alice, stranger, tuned):
    assert alice.result("publish_generator", str(tuned), "org/secret", private=True)["private"]
    assert hub.repos["models/org/secret"].private
    answer = stranger.call("load_generator", "org/secret")
    assert answer["error"] == "InputError" and "\n" not in answer["message"]
    assert alice.result("load_generator", "org/secret")["record"]["tuning"]["steps"] == 600
    alice.result("publish_generator", str(tuned), "alice/public")
    assert "is public" in alice.refusal("publish_generator", str(tuned), "alice/public", private=True)


def test_what_is_no_tuned_generator_is_refused(hub, alice, tuned, artifact, pipeline_folder, tmp_path):
    for folder in (artifact, pipeline_folder, tmp_path / "nowhere"):
        assert "that distill-hub tuned is needed" in alice.refusal("publish_generator", str(folder), REPO)
    weights = tuned / WEIGHTS["vae"]
    weights.write_bytes(weights.read_bytes()[:-100])
    assert "a pipeline with model_index.json and safetensors weights is needed" in alice.refusal(
        "publish_generator", str(tuned), REPO
    )
    assert not hub.repos


def test_a_repository_of_something_else_is_left_alone(hub, alice, tuned, artifact):
    hub.commit("models/org/bert", {"config.json": b"{}"})
    assert "it exists and is not a tuned generator" in alice.refusal("publish_generator", str(tuned), "org/bert")
    hub.commit("models/org/newer", {TUNING: b'{"steps": 1}'})
    assert "tuning.json: " in alice.refusal("publish_generator", str(tuned), "org/newer")
    assert len(hub.repos["models/org/bert"].history()) == len(hub.repos["models/org/newer"].history()) == 2
    assert "the Hub has no such model" in alice.refusal("publish_generator", str(tuned), "org/none", create_pr=True)
    # A distilled set of the same name is another repository.
    alice.result("push", str(artifact), "org/both")
    alice.result("publish_generator", str(tuned), "org/both")
    assert "manifest.json" in hub.repos["org/both"].tree() and TUNING in hub.repos["models/org/both"].tree()


def test_who_may_not_write_is_told_before_anything_happens(hub, alice, stranger, tuned):
    assert "hf auth login" in stranger.refusal("publish_generator", str(tuned), REPO)
    assert "neither you nor an organisation" in alice.refusal("publish_generator", str(tuned), "bob/fish")
    alice.result("log_in", "hf_alice_reads")
    assert "may only read" in alice.refusal("publish_generator", str(tuned), REPO)
    alice.result("log_in", "hf_alice")
    assert not hub.repos and not [request for request in hub.requests if request.method != "GET"]


def test_a_pull_request(hub, alice, tuned):
    alice.result("publish_generator", str(tuned), REPO)
    (tuned / "losses.png").write_bytes(b"another picture")
    for _ in range(2):  # the second finds what the first has opened
        published = alice.result("publish_generator", str(tuned), REPO, create_pr=True)
        assert published["url"] == f"{hub.endpoint}/{REPO}/discussions/1"
    repo = hub.repos[f"models/{REPO}"]
    assert repo.tree()["losses.png"] == b"a picture" and repo.tree("refs/pr/1")["losses.png"] == b"another picture"


def test_a_lost_answer_is_got_over(hub, alice, tuned):
    hub.fail("lost", when=lambda request: "/commit/" in request.path)
    hub.fail(503, when=lambda request: request.path.endswith("/repos/create"))
    published = alice.result("publish_generator", str(tuned), REPO)
    repo = hub.repos[f"models/{REPO}"]
    assert published["commit"] == repo.head().sha and len(repo.history()) == 2


def test_the_command_line_knows_a_generator_from_a_set(hub, tuned, tmp_path):
    environment = hub.environment(tmp_path / "home", "hf_alice")
    words = ["-m", "distill_hub.cli", "push", str(tuned), REPO, "--private"]
    done = run_python(*words, environment=environment, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    repo = hub.repos[f"models/{REPO}"]
    assert f"Published as {REPO} (private), commit {repo.head().sha}" in done.stdout
    (tuned / TUNING).unlink()
    with pytest.raises(InputError, match="that distill-hub tuned is needed"):
        push_command(PushConfig(str(tuned)))


if __name__ == "__main__":
    torch.set_num_threads(1)
    own = {function.__name__: function for function in (publish_generator, log_in, load_generator, steps_of)}
    vars(hub_client).update(own)
    hub_client.serve()
