"""Where something is to be written: what cannot be is one line, before anything is done."""

import os

import pytest

from distill_hub.config import InputError
from distill_hub.disk.files import check_folder, remove

PLACES = {
    "name too long": ("x" * 300, "File name too long"),
    "no room for a dry run beside it": ("x" * 250, "File name too long"),
    "path too long": ("/".join(["abcdefg"] * 600), "File name too long"),
    "below a file": ("file/a/b", "file is a file"),
    "a file": ("file", "it is a file"),
    "a link to nothing": ("dangling", "it is a link that leads to nothing"),
    "below a link to nothing": ("dangling/out", "dangling is a link that leads to nothing"),
    "a link to itself": ("circle", "it is a link that leads to nothing"),
    "a link to a file": ("to-file", "it is a file"),
    "in /proc": ("/proc/out", "nothing can be written there"),
    "below a device": ("/dev/null/out", "is a file"),
    "the root": ("/", "no name of a folder"),
    "the home of nobody": ("~nobody-of-this-name/out", "there is no such home"),
    "NUL": ("a\0b", "no name of a folder"),
    "not UTF-8": ("a\udcff", "it is not UTF-8"),
}


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("x")
    for link, target in {"dangling": "nothing", "circle": "circle", "to-file": "file", "to-folder": "."}.items():
        (tmp_path / link).symlink_to(target)
    return tmp_path


@pytest.mark.parametrize("place", PLACES)
def test_a_folder_that_cannot_be_written(here, place):
    name, reason = PLACES[place]
    before = sorted(os.listdir(here))
    with pytest.raises(InputError) as caught:
        check_folder(here.__class__(name))
    assert caught.value.field == "output_dir" and reason in str(caught.value) and "\n" not in str(caught.value)
    assert sorted(os.listdir(here)) == before


@pytest.mark.parametrize("name", ["new", "new/deep/er", "to-folder", "to-folder/new", ".", "..", "üñí 写真", "x" * 200])
def test_a_folder_that_can(here, name):
    before = sorted(os.listdir(here))
    check_folder(here.__class__(name))
    assert sorted(os.listdir(here)) == before


def test_a_folder_of_others(here, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    with pytest.raises(InputError, match=r"^place: 'new' .* nothing can be written there \(Permission denied\)"):
        check_folder(here.__class__("new"), "place")


def test_links_are_removed_and_never_followed(here):
    (here / "folder").mkdir()
    (here / "folder" / "file").touch()
    (here / "to-folder").unlink()
    (here / "to-folder").symlink_to("folder")
    for name in ("to-folder", "dangling", "to-file", "not there"):
        remove(here / name)
    assert sorted(os.listdir(here)) == ["circle", "file", "folder"] and os.listdir(here / "folder") == ["file"]
    remove(here / "folder")
    assert not (here / "folder").exists()
