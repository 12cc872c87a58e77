"""What all tests share: no network, one cache for fitted models, and a tiny generator in the real format."""

import json
import os
from pathlib import Path

import pytest
import torch

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_DISABLE_PROGRESS_BARS"] = "1"

from helpers import make_pipeline
from hub_server import HubServer
from tiny_text import save_text_pipeline

pytest_plugins = ["small_set", "scored_set"]  # of artifact and publishing; of evaluation and making
WORKER = os.environ.get("PYTEST_XDIST_WORKER", "").removeprefix("gw")


def pytest_collection_modifyitems(items):
    """Begin with the files that take longest, so that no worker of pytest-xdist is left alone with one at the end."""
    items.sort(key=lambda item: item.path.parent.name != "recipes")


@pytest.fixture(scope="session", autouse=True)
def _one_core_each():
    """Give each worker of pytest-xdist a core: two of them with two threads each would spin for the same two."""
    if WORKER:
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[int(WORKER) % len(cores)]})
        torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _caches(tmp_path_factory):
    """Keep the user's caches out of the tests, and the tests out of the user's caches."""
    base = tmp_path_factory.getbasetemp()
    os.environ["DISTILL_HUB_CACHE"] = str((base.parent if WORKER else base) / "distill_hub_cache")  # one for all workers


@pytest.fixture(scope="session")
def pipeline_folder(tmp_path_factory) -> Path:
    """A three-class pipeline saved by diffusers' own `save_pretrained`, with names as the DiT repositories have them."""
    folder = tmp_path_factory.mktemp("pipeline")
    make_pipeline().save_pretrained(folder)
    index = folder / "model_index.json"
    index.write_text(json.dumps({**json.loads(index.read_text()), "id2label": {"0": "zero", "2": "two", "1": "one"}}))
    return folder


@pytest.fixture(scope="session")
def text_folders(tmp_path_factory) -> dict[bool, Path]:
    """Tiny Stable Diffusions in the layout of real ones: whether it is XL, and where it lies."""
    return {xl: save_text_pipeline(tmp_path_factory.mktemp("text") / f"xl-{xl}", xl=xl) for xl in (False, True)}


@pytest.fixture(scope="module")
def hub():
    """A Hub on this machine, with two users, an organisation of the first, and their tokens."""
    with HubServer() as hub:
        hub.add_user("alice", orgs=["org"])
        hub.add_user("bob")
        hub.add_token("hf_alice", "alice")
        hub.add_token("hf_alice_reads", "alice", role="read")
        hub.add_token("hf_bob", "bob")
        yield hub
