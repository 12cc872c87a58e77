"""Folders of images as sources: splits and classes by folder, links, metadata, and what is said of the rest."""

import hashlib
import io
import os
import shutil
import time

import numpy as np
import PIL.Image
import pyarrow as pa
import pytest
from source_files import reds, refused

from distill_hub.config import InputError
from distill_hub.data import file_facts
from distill_hub.data.file_facts import read_facts
from distill_hub.data.folders import left_out_line
from distill_hub.data.sources import load_source
from distill_hub.data.split_names import find_split, split_named


@pytest.fixture
def root(tmp_path):
    return tmp_path / "photos"


def put(root, *paths, first=0):
    """Write one image per path; its red value is its number."""
    for number, path in enumerate(paths, first):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.fromarray(np.full((8, 8, 3), (number, 0, 9), np.uint8)).save(root / path)


def splits(root, **classes):
    """Write 4 training and 2 test images of each class."""
    for k, name in enumerate(classes["names"]):
        put(root, *(f"train/{name}/{j}.png" for j in range(4)), first=20 * k)
        put(root, *(f"test/{name}/{j}.png" for j in range(2)), first=20 * k + 10)


# Splits


@pytest.mark.parametrize("name", ["train", "test", "val", "valid", "dev", "eval", "Testing", "train station"])
def test_a_class_called_like_a_split_leaks_nothing(root, name):
    splits(root, names=["bus", "car", name])
    source = load_source(str(root))
    assert source.class_names == sorted(["bus", "car", name])
    assert np.bincount(source.train.labels).tolist() == [4, 4, 4] and np.bincount(source.test.labels).tolist() == [2, 2, 2]
    assert sorted(reds(source.train)) == [0, 1, 2, 3, 20, 21, 22, 23, 40, 41, 42, 43]
    assert sorted(reds(source.test)) == [10, 11, 30, 31, 50, 51]


@pytest.mark.parametrize("name", ["train", "test", "validation"])
def test_a_class_called_like_a_split_without_splits(root, name):
    put(root, *(f"{c}/{j}.png" for c in ("bus", "car", name) for j in range(5)))
    source = load_source(str(root), test_fraction=0.4)
    assert source.class_names == sorted(["bus", "car", name])
    assert np.bincount(source.train.labels).tolist() == [3, 3, 3] and np.bincount(source.test.labels).tolist() == [2, 2, 2]


@pytest.mark.parametrize(
    ("train", "test"), [("training", "testing"), ("Train", "Test"), ("training_set", "test_set"), ("train", "val")]
)
def test_splits_by_other_words(root, train, test):
    put(root, *(f"{split}/{c}/0.png" for split in (train, test) for c in "ab"))
    source = load_source(str(root))
    assert (reds(source.train), reds(source.test)) == ([0, 1], [2, 3])


def test_splits_of_other_names_are_named_by_options(root):
    put(root, *(f"{split}/{c}/{j}.png" for split in ("old", "new") for c in "ab" for j in range(4)))
    assert "looks like" not in refused(root) and "only in folders of its own" in refused(root)
    source = load_source(str(root), train_split="old", test_split="new")
    assert (reds(source.train), reds(source.test)) == ([*range(8)], [*range(8, 16)])
    assert (source.train.name, source.test.name) == ("old", "new")


def test_the_only_split_is_used_when_a_part_of_it_is_held_out(root):
    put(root, *(f"test/{c}/{j}.png" for c in "ab" for j in range(5)))
    assert "--train_split" in refused(root)
    source = load_source(str(root), test_fraction=0.4)
    assert (len(source.train), len(source.test), source.test_fraction) == (6, 4, 0.4)


@pytest.mark.parametrize(
    ("paths", "words"),
    [
        (["train/0.png", "test/1.png"], "no class folders"),
        (["0.png", "1.png"], "no class folders"),
        (["a/0.png", "b/0.png", "train/a/0.png"], "'train' looks like a split"),
        (["train/a/0.png", "test/a/0.png", "more/a/0.png"], "looks like a split"),
        (["a/train/0.png", "b/train/0.png", "a/test/1.png"], "Put splits on top: t"),
        (["x/a/0.png", "x/b/0.png", "y/a/0.png", "y/b/0.png"], "which of them are the classes"),
        (["train/x/a/0.png", "train/x/b/0.png", "train/y/0.png"], "which of them are the classes"),
        (["train/a/0.png", "val/a/0.png", "valid/a/0.png"], "both called like the split 'validation'"),
        (["a/0.png", "a/1.png"], "all of one class"),
    ],
)
def test_what_would_be_a_guess_is_refused(root, paths, words):
    put(root, *paths)
    assert words in refused(root, test_fraction=0.5)


def test_a_lone_folder_around_everything_is_looked_through(root):
    splits(root / "archive" / "photos", names=["a", "b"])
    assert len(load_source(str(root)).train) == 8


def test_words_for_splits():
    words = ["train", "Val", "test_set", "cifar-train", "val2", "bus", "station", "traintest", "train_test", "latest"]
    found = ["train", "validation", "test", "train", "validation", None, None, None, None, None]
    assert [split_named(word) for word in words] == found
    assert split_named("random-00000-of-00003") == "random" and split_named("bus", ["bus"]) == "bus"
    assert (find_split("val", ["train", "validation"]), find_split("val", ["train"])) == ("validation", None)


def test_a_class_of_one_image_cannot_be_held_out_of(root):
    put(root, *(f"{c}/{j}.png" for c, count in (("ant", 4), ("bee", 1), ("cat", 3)) for j in range(count)))
    said = refused(root, test_fraction=0.4)
    assert said.startswith("test_fraction: 0.4 cannot be used; class 'bee' has one image")


# Links


def test_linked_classes_are_followed(root, tmp_path):
    put(tmp_path / "pool", *(f"{c}/{j}.png" for c in "pq" for j in range(4)))
    root.mkdir()
    (root / "a").symlink_to("../pool/p")
    (root / "b").symlink_to(tmp_path / "pool" / "q")
    source = load_source(str(root), test_fraction=0.25)
    assert source.class_names == ["a", "b"] and len(source.train) + len(source.test) == 8


@pytest.mark.parametrize(
    ("link", "target"), [("test", "train"), ("test/a/9.png", "../../train/a/0.png"), ("train/a/9.png", "../b/0.png")]
)
def test_no_file_is_in_two_splits_or_classes(root, link, target):
    splits(root, names=["a", "b"])
    if link == "test":
        shutil.rmtree(root / "test")
    (root / link).symlink_to(target)
    assert "are the same file, in two splits or classes" in refused(root)


def test_links_that_multiply_are_refused(root, monkeypatch):
    monkeypatch.setattr("distill_hub.data.folders.MOST_FOLDERS", 100)
    splits(root, names=["a", "b"])
    for level in range(10):
        (root / f"d{level}").mkdir()
        for side in "ab":
            os.symlink(f"../d{level + 1}", root / f"d{level}" / side)
    assert "files or 100 folders" in refused(root)


def test_links_in_a_circle_or_to_nothing_are_named(root, capsys):
    splits(root, names=["a", "b"])
    (root / "train" / "a" / "up").symlink_to("..")
    (root / "train" / "a" / "gone.png").symlink_to("nowhere")
    (root / "train" / "a" / "self.png").symlink_to("self.png")
    (root / "train" / "a" / "system").symlink_to("/proc")
    (root / "train" / "all").symlink_to(root.parent)
    assert len(load_source(str(root)).train) == 8
    said = capsys.readouterr().out
    assert "3 links to a folder above them, or of the system (train/a/system, train/a/up, train/all)" in said
    assert "2 links to nothing (train/a/gone.png, train/a/self.png)" in said


# What is not used


def test_nothing_is_said_where_everything_is_used(root, capsys):
    splits(root, names=["a", "b"])
    (root / "README.md").write_text("# Photos\n")
    (root / ".DS_Store").write_bytes(b"x")
    load_source(str(root))
    assert capsys.readouterr().out == ""


def test_everything_else_is_counted_and_named_on_the_main_process(root, capsys, monkeypatch):
    splits(root, names=["a", "b"])
    put(root, "train/loose.png", "test/z/0.png", "outside.png", first=100)
    (root / "notes.txt").write_text("x")
    (root / "train" / "a" / "x\n\x1b[2J.png").write_bytes(b"x")
    os.mkfifo(root / "train" / "a" / "pipe.png")
    (root / "train" / "a" / "folder.png").mkdir()
    with open(os.fsencode(root / "train" / "a") + b"/\xff.png", "wb") as file:
        file.write(b"x")
    monkeypatch.setenv("RANK", "1")
    load_source(str(root))
    assert capsys.readouterr().out == ""
    monkeypatch.setenv("RANK", "0")
    load_source(str(root))
    said = capsys.readouterr().out
    assert said.startswith("source: 12 images of 2 classes; not used: ") and said.count("\n") == 1 and "\x1b" not in said
    for part in (
        "1 broken (train/a/x??[2J.png: it is not in a format that is read",
        "1 of other kinds (notes.txt)",
        "1 beside the class folders (train/loose.png)",
        "1 beside the folders of the splits (outside.png)",
        "1 of classes that the training split has not (test/z/0.png)",
        "1 no regular files (train/a/pipe.png)",
        "1 with names that are not UTF-8 (train/a/?.png)",
    ):
        assert part in said


def test_a_class_without_a_usable_image_is_refused(root):
    splits(root, names=["a", "b"])
    for file in (root / "train" / "b").iterdir():
        file.write_bytes(file.read_bytes()[:40])
    assert "no image of class 'b' can be used (train/b/0.png: " in refused(root)


def test_a_class_of_photos_that_are_not_read_is_refused(root):
    splits(root, names=["a", "b"])
    (root / "train" / "c").mkdir()
    (root / "train" / "c" / "IMG_1.HEIC").write_bytes(b"x")
    assert "'train/c' holds no image in a format that is read (IMG_1.HEIC)" in refused(root)


def test_test_images_that_are_training_images_are_told(root, capsys):
    splits(root, names=["a", "b"])
    shutil.copy(root / "train" / "a" / "0.png", root / "test" / "a" / "copy.png")
    load_source(str(root))
    assert "1 of its 5 test images are training images, too, byte for byte" in capsys.readouterr().out


def test_spellings_of_an_accent_are_one_class(root):
    put(root, *(f"train/{c}/0.png" for c in ("a", "caf\u00e9")), *(f"test/{c}/0.png" for c in ("a", "cafe\u0301")))
    source = load_source(str(root))
    assert source.class_names == ["a", "caf\u00e9"] and source.test.labels.tolist() == [0, 1]


@pytest.mark.parametrize("name", ["b\nc", "b\x1b[2J", "\u202eb"])
def test_a_class_with_a_name_that_moves_the_cursor_is_refused(root, name):
    put(root, "a/0.png", f"{name}/0.png")
    assert "printable" in refused(root, test_fraction=0.5)


@pytest.mark.parametrize("place", ["ph[o]tos", "a*b?", "{x}", "#1 100%", "\u00fcml\u00e4ut"])
def test_any_path_will_do(tmp_path, place):
    splits(tmp_path / place, names=["a", "b"])
    assert len(load_source(str(tmp_path / place)).train) == 8


def test_the_home_folder(tmp_path, monkeypatch):
    splits(tmp_path / "photos", names=["a", "b"])
    monkeypatch.setenv("HOME", str(tmp_path))
    assert len(load_source("~/photos").train) == 8


@pytest.mark.parametrize(
    "name", ["file", "file/x", "link", "loop", "pipe", "../c_sett", "x" * 3000, "~/nowhere", "/proc/self"]
)
def test_what_is_no_folder_is_said_so(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to("nowhere")
    (tmp_path / "loop").symlink_to("loop")
    os.mkfifo(tmp_path / "pipe")
    said = refused(name)
    assert "folder" in said and "repository" not in said.lower() and len(said) < 500


def test_names_are_shortened():
    said = left_out_line({"broken": ["a\nb", "b"], "other": ["c", "d", "e", "f"]})
    assert said == "2 broken (a?b, b), 4 other (c, d, e and 1 more)"


# Metadata


def labelled(root, rows, name="metadata.csv", head="file_name,label"):
    put(root, *(f"{j}.png" for j in range(6)))
    (root / name).write_text("\n".join([head, *rows]) + "\n", encoding="utf-8")


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        ("ababab", ["a", "b"]),
        (["10", "9", "10", "9", "10", "9"], ["9", "10"]),
        (["01", "1", "01", "1", "01", "1"], ["01", "1"]),
        (["NA", "null", "NA", "null", "NA", "null"], ["NA", "null"]),
    ],
)
def test_metadata_csv(root, labels, classes):
    labelled(root, [f"{j}.png,{label}" for j, label in enumerate(labels)])
    source = load_source(str(root), test_fraction=2 / 6)
    assert source.class_names == classes and len(source.test) == 2
    for split in (source.train, source.test):
        assert [classes[label] for label in split.labels] == [labels[red] for red in reds(split)]


def test_metadata_jsonl_by_split_with_a_column_of_another_name(root, capsys):
    for split, first in (("train", 0), ("test", 10)):
        put(root, *(f"{split}/images/{j}.png" for j in range(3)), first=first)
        rows = [f'{{"file_name": "images/{j}.png", "species": "{"ba"[j % 2]}", "n": 1}}' for j in range(2)]
        (root / split / "metadata.jsonl").write_text("\n".join(rows))
    assert "--label_column; it has file_name, species, n" in refused(root)
    source = load_source(str(root), label_column="species")
    assert source.class_names == ["a", "b"] and source.label_column == "species"
    assert (reds(source.train), source.train.labels.tolist(), reds(source.test)) == ([0, 1], [1, 0], [10, 11])
    assert "2 without a label in the metadata (train/images/2.png, test/images/2.png)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("rows", "head", "words"),
    [
        (["0.png,a"], "name,label", "needs the column file_name"),
        (["0.png,a,x"], "file_name,label,class", "named with --label_column; it has file_name, label, class"),
        (["0.png,a"], "file_name,text", "named with --label_column; it has file_name, text"),
        (["0.png,a", "0.png,b"], "file_name,label", "gives '0.png' two labels"),
        (["a/0.png,b", "b/0.png,a"], "file_name,label", "'a/0.png' lies in a folder of the class 'a'"),
        (["../0.png,a"], "file_name,label", "are not named in the metadata"),
    ],
)
def test_metadata_that_cannot_be_used(root, rows, head, words):
    labelled(root, rows, head=head)
    assert words in refused(root, test_fraction=0.5)


def test_labels_are_of_one_kind_in_all_metadata(root):
    for split, names, first in (("train", "12", 0), ("test", "1x", 10)):
        put(root, *(f"{split}/{j}.png" for j in range(2)), first=first)
        rows = [f"{j}.png,{names[j]}" for j in range(2)]
        (root / split / "metadata.csv").write_text("\n".join(["file_name,label", *rows]))
    source = load_source(str(root))
    assert source.class_names == ["1", "2"] and (reds(source.test), source.test.labels.tolist()) == ([10], [0])


def test_metadata_without_labels_leaves_the_class_folders(root, capsys):
    splits(root, names=["a", "b"])
    (root / "metadata.csv").write_text("file_name,caption\ntrain/a/0.png,x\n")
    assert load_source(str(root)).class_names == ["a", "b"]
    assert "1 that give no labels (metadata.csv)" in capsys.readouterr().out


# What is remembered of files


def aged(root):
    """Let all files look as if they had changed a minute ago."""
    for file in root.rglob("*.png"):
        os.utime(file, (time.time() - 60,) * 2)


def rows(facts):
    return [*zip(map(bytes, facts.sha256), facts.sides.tolist(), facts.broken.tolist(), strict=True)]


def test_files_are_read_once_and_again_when_they_change(root, monkeypatch):
    monkeypatch.setattr(file_facts, "_SETTLED", -1e9)
    put(root, "a.png", "b.png")
    names, read = ["a.png", "b.png"], []
    look = file_facts._look_at
    monkeypatch.setattr(file_facts, "_look_at", lambda file: (read.append(os.path.basename(file)), look(file))[1])
    first = read_facts(str(root), names)
    assert rows(first)[0] == (hashlib.sha256((root / "a.png").read_bytes()).digest(), [8, 8], "") and sorted(read) == names
    assert rows(read_facts(str(root), names[::-1])) == rows(first)[::-1] and len(read) == 2
    times = (root / "a.png").stat()
    data = bytearray((root / "a.png").read_bytes())
    data[-30] ^= 1
    (root / "a.png").write_bytes(data)
    os.utime(root / "a.png", ns=(times.st_atime_ns, times.st_mtime_ns))  # as a copy that keeps times
    again = rows(read_facts(str(root), names))
    assert read[2:] == ["a.png"] and again[0][0] != rows(first)[0][0] and again[1] == rows(first)[1]


def test_a_look_that_ends_while_another_process_waits_serves_it(root, monkeypatch):
    """Not of other files, and not a look that had ended before it asked."""
    monkeypatch.setattr(file_facts, "_SETTLED", -1e9)
    put(root, "a.png", "b.png")
    asked, state_of = [], file_facts.state_of
    monkeypatch.setattr(file_facts, "state_of", lambda file: asked.append(os.path.basename(file)) or state_of(file))
    wait_for, meanwhile = file_facts.wait_for, [["a.png", "b.png"], ["a.png"]]

    def waited(lock, say):
        if meanwhile:
            names = meanwhile.pop()
            with monkeypatch.context() as other:
                other.setattr(file_facts, "wait_for", wait_for)
                read_facts(str(root), names)
        return wait_for(lock, say)

    first = rows(read_facts(str(root), ["a.png", "b.png"]))
    asked.clear()
    monkeypatch.setattr(file_facts, "wait_for", waited)
    assert rows(read_facts(str(root), ["a.png", "b.png"])) == first and asked == ["a.png", "a.png", "b.png"]
    asked.clear()
    assert rows(read_facts(str(root), ["a.png", "b.png"])) == first and asked == ["a.png", "b.png"]


def test_what_has_just_changed_is_not_remembered(root):
    put(root, "a.png")
    read_facts(str(root), ["a.png"])
    (file,) = (file_facts.cache_dir() / "sources").glob("*.arrow")
    assert not len(file_facts._remembered(file))


def test_a_damaged_memory_is_made_again(root, monkeypatch):
    monkeypatch.setattr(file_facts, "_SETTLED", -1e9)
    put(root, "a.png")
    first = read_facts(str(root), ["a.png"])
    (file,) = (file_facts.cache_dir() / "sources").glob("*.arrow")
    whole = file.read_bytes()
    for damage in (b"", b"garbage", whole[:-20], _without_facts(whole)):
        file.write_bytes(damage)
        assert rows(read_facts(str(root), ["a.png"])) == rows(first)
    assert len(file_facts._remembered(file)) == 1


def _without_facts(memory):
    """Return what is remembered of the same files, but for what they hold."""
    known = pa.ipc.open_file(memory).read_all()
    states = known.select(["path", "size", "changed", "modified"]).to_pylist()
    damaged = io.BytesIO()
    with pa.ipc.new_file(damaged, known.schema) as writer:
        writer.write_table(pa.Table.from_pylist(states, known.schema))
    return damaged.getvalue()


def test_a_cache_that_cannot_be_written_is_one_line(root, tmp_path, monkeypatch):
    splits(root, names=["a", "b"])
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("DISTILL_HUB_CACHE", str(tmp_path / "file"))
    assert "DISTILL_HUB_CACHE" in refused(root)
    monkeypatch.setenv("DISTILL_HUB_CACHE", "/proc/cache")  # where there is no such thing as a new folder
    assert "DISTILL_HUB_CACHE: '/proc/cache'" in refused(root)


def test_a_huge_file_is_not_read(root, capsys):
    splits(root, names=["a", "b"])
    with open(root / "train" / "a" / "x.png", "wb") as file:
        file.truncate(50 * 10**9)
    load_source(str(root))
    assert "1 broken (train/a/x.png: larger than 512 MiB)" in capsys.readouterr().out


@pytest.mark.parametrize("split", ["train", "test"])
def test_the_fingerprint_is_of_the_contents(root, split):
    splits(root, names=["a", "b"])
    before = load_source(str(root))
    assert load_source(str(root)).fingerprint == before.fingerprint
    other = np.full((8, 8, 3), (1, 0, 9), np.uint8)  # another colour, as many bytes
    file = root / split / "a" / "0.png"
    size = file.stat().st_size
    PIL.Image.fromarray(other).save(file)
    assert file.stat().st_size == size
    after = load_source(str(root))
    assert (before.fingerprint != after.fingerprint) == (split == "train")
    assert (before.test.fingerprint != after.test.fingerprint) == (split == "test")
    with pytest.raises(InputError, match="has changed since it was first read"):
        getattr(before, split).pixels([0], 8)
