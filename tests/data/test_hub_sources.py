"""Datasets on the Hub as sources, by the real clients over HTTP against a Hub on this machine."""

import json

import pytest
from processes import run_python
from source_files import picture, stored

CODE = """
import json, sys
from distill_hub.config import InputError
from distill_hub.data.sources import load_source
from distill_hub.data.split import Split
for name, options in json.loads(sys.argv[1]):
    try:
        source = load_source(name, **options)
        reds = [split.pixels(None, 8)[:, 0, 0, 0].tolist() for split in (source.train, source.test)]
        how = [source.mirrored, source.normalization]
        Split._read_all = None  # the commit says what the images are: none is read for the fingerprint
        pinned = [split.fingerprint for split in (source.train, source.test)]
        print(json.dumps([source.class_names, *reds, source.config, source.revision, *how, *pinned]))
    except InputError as error:
        print(json.dumps(str(error)))
"""
CARD = """---
configs:
- config_name: {0}
  data_files:
  - split: train
    path: {0}/train-*
  - split: test
    path: {0}/test-*
- config_name: {1}
  data_files:
  - split: train
    path: {1}/train-*
  - split: test
    path: {1}/test-*
---
"""


REPOS = {
    "org/splits": {
        f"{split}/{name}/{j}.png": picture(10 * k + first + j)
        for split, first, count in (("train", 0, 3), ("test", 100, 2))
        for k, name in enumerate(("bus", "car", "train"))
        for j in range(count)
    },
    "org/classes": {
        f"{name}/{j}.png": picture(10 * k + j) for k, name in enumerate(("bus", "car", "train")) for j in range(4)
    },
    "org/tables": {f"data/{s}-00000-of-00001.parquet": stored("ab", first) for s, first in (("train", 0), ("test", 10))},
    "org/configs": {
        "README.md": CARD.format("small", "large").encode(),
        **{
            f"{name}/{split}-00000-of-00001.parquet": stored("ab", first)
            for name, k in (("small", 0), ("large", 20))
            for split, first in (("train", k), ("test", k + 10))
        },
    },
    "ufldl-stanford/svhn": {
        "README.md": CARD.format("full_numbers", "cropped_digits").encode(),
        **{
            f"{name}/{split}-00000-of-00001.parquet": stored("01", first)
            for name, k in (("full_numbers", 0), ("cropped_digits", 20))
            for split, first in (("train", k), ("test", k + 10))
        },
    },
    **{
        repo: {f"data/{s}-00000-of-00001.parquet": stored(names) for s in ("train", "test")}
        for repo, names in (("uoft-cs/cifar10", "ab"), ("org/cifar10", "ab"), ("org/numbers", "01"))
    },
    "org/folders": {f"{name}/{split}.parquet": stored("ab") for name in ("small", "large") for split in ("train", "test")},
}  # fmt: skip
CALLS = {
    "splits": ("org/splits", {}),
    "classes": ("org/classes", {"test_fraction": 0.5}),
    "tables": ("org/tables", {}),
    "no configuration": ("org/configs", {}),
    "large": ("org/configs", {"source_config": "large"}),
    "huge": ("org/configs", {"source_config": "huge"}),
    "folders": ("org/folders", {}),
    "SVHN by name": ("svhn", {}),
    "SVHN by id": ("ufldl-stanford/svhn", {"source_config": "cropped_digits"}),
    "CIFAR-10": ("uoft-cs/cifar10", {}),
    "a copy": ("org/cifar10", {}),
    "numbers": ("org/numbers", {}),
    "things": ("org/numbers", {"mirrored": "yes", "normalization": "mnist"}),
    "nowhere": ("org/nowhere", {}),
}


@pytest.fixture(scope="module")
def answers(hub, tmp_path_factory):
    """What `load_source` says to each call."""
    for repo, files in REPOS.items():
        hub.create(repo)
        hub.commit(repo, files)
    home = tmp_path_factory.mktemp("home")
    environment = {**hub.environment(home), "DISTILL_HUB_CACHE": str(home / "fits")}
    done = run_python("-c", CODE, json.dumps(list(CALLS.values())), environment=environment)
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line[0] in '["']
    return dict(zip(CALLS, map(json.loads, lines), strict=True))


def test_a_class_called_like_a_split_leaks_nothing(hub, answers):
    classes, train, test, config, revision, *_ = answers["splits"]
    assert classes == ["bus", "car", "train"] and config is None and revision == hub.repos["org/splits"].head().sha
    assert sorted(train) == [0, 1, 2, 10, 11, 12, 20, 21, 22] and sorted(test) == [100, 101, 110, 111, 120, 121]


def test_a_class_called_like_a_split_without_splits(answers):
    classes, train, test, *_ = answers["classes"]
    assert classes == ["bus", "car", "train"]
    assert sorted(train + test) == [0, 1, 2, 3, 10, 11, 12, 13, 20, 21, 22, 23] and len(train) == 6


def test_tables_are_read_as_before(answers):
    assert answers["tables"][:3] == [["a", "b"], [0, 1, 2, 3], [10, 11, 12, 13]]


def test_one_of_several_configurations_is_named(answers):
    assert answers["no configuration"].endswith("several configurations; pass one with --source_config: small, large")
    assert answers["large"][:4] == [["a", "b"], [20, 21, 22, 23], [30, 31, 32, 33], "large"]
    assert answers["huge"].startswith("source_config: 'huge'") and "small, large" in answers["huge"]


def test_tables_in_folders_that_may_be_configurations_are_not_joined(answers):
    assert "its tables lie in large, small" in answers["folders"]


def test_what_is_known_of_a_dataset_hangs_on_its_id(answers):
    assert answers["SVHN by name"] == answers["SVHN by id"]
    assert answers["SVHN by name"][:4] == [["0", "1"], [20, 21, 22, 23], [30, 31, 32, 33], "cropped_digits"]
    assert answers["SVHN by name"][5:7] == [False, "svhn"]
    assert answers["CIFAR-10"][5:7] == [True, "cifar"]
    assert answers["a copy"][5:7] == [True, "imagenet"]
    assert answers["numbers"][5:7] == [True, "imagenet"]
    assert answers["things"][5:7] == [True, "mnist"]


def test_fingerprints_are_those_of_commit_configuration_split_and_rows(answers):
    assert answers["numbers"][7:] == answers["things"][7:] and answers["SVHN by name"][7:] == answers["SVHN by id"][7:]
    found = [answers[name][7:] for name in ("splits", "classes", "tables", "large", "SVHN by id", "CIFAR-10", "numbers")]
    assert len({one for pair in found for one in pair}) == 2 * len(found)


def test_a_dataset_that_is_not_there_is_one_line(answers):
    assert answers["nowhere"].startswith("source: 'org/nowhere'")
