"""What is a path, what is an id on the Hub, and what an address may not show."""

import os
from types import SimpleNamespace

import pytest
from huggingface_hub import constants

from distill_hub import hub
from distill_hub.config import InputError
from distill_hub.data.known import check_source
from distill_hub.hub import RemoteFile, RemoteSet, address, missing, page_of, read_token
from distill_hub.kinds import Kind, Location, is_path, local_name, local_names
from distill_hub.networks.names import check_generator, check_teacher

PATHS = [
    "../c_sett",
    "./x",
    ".",
    "/x",
    "~/x",
    "~x",
    "a/b/c",
    "a\\b",
    "org/",
    "dm.pt",
    "org/dm.zip",
    "org/classes.TXT",
    "a/../b",
]
IDS = ["org/name", "org/name.v1", "facebook/DiT-XL-2-256", "timm/resnet18.tv_in1k", "o-r_g/n.a.m.e"]


@pytest.mark.parametrize("name", PATHS)
def test_a_path_is_never_taken_for_an_id(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert is_path(name)
    if name == ".":
        return
    said = "there is no such file" if name.lower().endswith((".pt", ".zip", ".txt")) else "there is no such folder"
    assert missing(name) == said
    for check in (check_source, hub.check_location, check_teacher, check_generator):
        with pytest.raises(InputError) as caught:
            check(name)
        assert said in str(caught.value) and "Hub id NAMESPACE" not in str(caught.value)


@pytest.mark.parametrize("name", IDS)
def test_an_id_is_one_unless_it_lies_below_a_file(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert not is_path(name) and missing(name) is None
    (tmp_path / name.split("/")[0]).write_text("a file")
    assert missing(name) == "there is no such folder"


def test_the_home_is_expanded_wherever_a_path_may_be_given(monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    assert Kind(Location).read("~/photos") == "/home/somebody/photos"
    assert Kind(Location | None).read("~/photos") == "/home/somebody/photos"
    assert Kind(Location).read("org/name") == "org/name" and Kind(str).read("~/photos") == "~/photos"
    with pytest.raises(ValueError):
        Kind(Location).read("a\0b")


def test_what_lies_here_is_called_by_its_last_part(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "eve" / "photos").mkdir(parents=True)
    (tmp_path / "link").symlink_to("eve")
    for name in ("eve/photos", str(tmp_path / "eve" / "photos"), "./eve/photos/", "gone/../x/photos", "~/photos"):
        assert local_name(name) == "photos"
    assert local_name("link") == "link" and local_name(".") == tmp_path.name and local_name("/") == "images"
    assert local_name("org/name") == "org/name" and local_name("digits") == "digits"


def test_each_of_several_is_called_by_its_last_part(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "one, two").mkdir()
    assert local_names("/x/a, ~/b,shufflenet-v2,org/c,../gone/d") == "a,b,shufflenet-v2,org/c,d"
    assert local_names(str(tmp_path / "one, two")) == "one, two" and local_names("/x/a") == "a"


def test_no_address_shows_credentials(monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "https://me:pass@word@hub.example.org/hf")
    assert address() == "https://hub.example.org/hf"
    assert page_of("org/x", "dataset") == "https://hub.example.org/hf/datasets/org/x"


@pytest.mark.parametrize("name", ["a[1].png", "a*.png", "a?.png", "[!a].png", "data/[0-9].png"])
def test_files_are_asked_for_by_name_not_by_pattern(name, monkeypatch):
    from huggingface_hub.utils import filter_repo_objects

    asked = {}

    def download(repo_id, *, allow_patterns, **_):
        asked["patterns"] = allow_patterns
        return "."

    monkeypatch.setattr(hub, "snapshot_download", download)
    there = [name, "a1.png", "ab.png", "b.png", "data/5.png", "data/[0-9].png.txt"]
    remote = RemoteSet("org/x", "a" * 40, False, {one: RemoteFile(1) for one in there})
    hub._download(remote, [name], force=False)
    assert list(filter_repo_objects(there, allow_patterns=asked["patterns"])) == [name]


def test_a_token_that_cannot_be_read_is_said_in_one_line(monkeypatch):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", os.devnull + "/token")
    with pytest.raises(InputError, match="HF_TOKEN_PATH: '/dev/null/token' cannot be used; no token can be read there"):
        read_token()


@pytest.mark.parametrize(
    ("asked", "attempt", "seconds"), [("", 1, 1), ("", 3, 4), ("7", 1, 7), ("3600", 1, 60), ("soon", 2, 2)]
)
def test_it_waits_as_long_as_the_hub_asks_within_reason(asked, attempt, seconds):
    response = SimpleNamespace(headers={"Retry-After": asked} if asked else {})
    outcome = SimpleNamespace(exception=lambda: SimpleNamespace(response=response))
    assert hub._pause(SimpleNamespace(outcome=outcome, attempt_number=attempt)) == seconds
