"""Where a set lies."""

import pytest
from foreign_files import PIXELS, PLANES, check, refusal

from distill_hub.foreign import read as module
from distill_hub.foreign.read import read_foreign
from distill_hub.hub import RemoteFile, RemoteSet


def test_file_of_another_format(tmp_path):
    (tmp_path / "set.pkl").write_bytes(b"x")
    assert "readable are" in str(refusal(tmp_path / "set.pkl"))
    assert "it holds set.pkl; readable are" in str(refusal(tmp_path))


@pytest.mark.parametrize("location", ["", "nowhere", "/nowhere/at/all", "no where/at all", "a\0b"])
def test_no_such_place(location):
    assert "no such file or folder, and it is not a Hub id" in str(refusal(location))


def test_revision_of_a_local_set(image_folder):
    assert refusal(image_folder({"a/0.png": PIXELS[0]}), revision="main").field == "revision"


@pytest.mark.parametrize("option", ["data_dir", "split", "image_column", "label_column"])
def test_options_without_use_are_refused(save, option):
    # A command line has the names of the source's columns, too.
    assert refusal(save("pt"), **{option: "a"}).field == ("set_" * option.endswith("column") + option)


@pytest.fixture
def hub(monkeypatch):
    """Let a folder stand for org/set on the Hub; what is fetched is recorded."""

    def serve(folder):
        files = {str(f.relative_to(folder)): RemoteFile(f.stat().st_size) for f in folder.rglob("*") if f.is_file()}
        fetched = []
        monkeypatch.setattr(module, "look", lambda repo_id, revision: RemoteSet(repo_id, "c" * 40, False, files))
        monkeypatch.setattr(module, "fetch", lambda remote, names: fetched.extend(names) or folder)
        return fetched

    return serve


def test_tables_on_the_hub(table, hub):
    table("ipc1/test-0.parquet")
    fetched = hub(table("ipc1/train-0.parquet"))
    found = read_foreign("org/set", revision="main", data_dir="ipc1")
    check(found)
    assert found.revision == "c" * 40 and fetched == ["ipc1/train-0.parquet"]


def test_images_on_the_hub(image_folder, hub):
    folder = image_folder({"set/a/0.png": PIXELS[0], "set/b/0.png": PIXELS[1]})
    (folder / "README.md").write_text("# A set")
    fetched = hub(folder)
    check(read_foreign("org/set"), images=PLANES[:2], labels=[0, 1], names=["a", "b"])
    assert sorted(fetched) == ["README.md", "set/a/0.png", "set/b/0.png"]


def test_other_files_on_the_hub_are_not_fetched(save, hub, tmp_path):
    save("pt")
    fetched = hub(tmp_path)
    assert "it holds set.pt; download it and use `distill-hub adopt`" in str(refusal("org/set"))
    assert not fetched
