"""Which files are the set: splits by card, top folder or prefix, never joined; what is left out is named."""

import os

import pytest
from foreign_files import PIXELS, PLANES, check, refusal
from source_files import encode

from distill_hub.foreign.layout import table_groups
from distill_hub.foreign.read import read_foreign

CONFIGS = """---
configs:
- config_name: ipc1
  data_files:
  - split: train
    path: one/*
- config_name: ipc10
  data_files: ten/*
---
"""


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("data/train-00000-of-00002.parquet", ("data", "train")),
        ("data/train-00000-of-00002-0123abcd.parquet", ("data", "train")),
        ("train-1.parquet", ("train",)),
        ("val_0.parquet", ("val",)),
        ("0000.parquet", ()),
        ("default/train/0000.parquet", ("default", "train")),
        ("part-3.parquet", ()),
        ("ipc_1.parquet", ("ipc_1",)),
        ("cifar_ipc10.parquet", ("cifar_ipc10",)),
        ("train_ipc10.parquet", ("train_ipc10",)),
        ("ipc1-00000-of-00001.parquet", ("ipc1",)),
    ],
)
def test_where_a_table_lies(name, group):
    assert table_groups([name]) == {group: [name]}


@pytest.mark.parametrize("names", [("data/ipc1-00000-of-00001", "data/ipc4-00000-of-00001"), ("ipc_1", "ipc_4")])
def test_splits_are_never_joined(table, names):
    table(f"{names[1]}.parquet", label=[3, 3, 3, 3, 3, 3])
    folder = table(f"{names[0]}.parquet")
    first, second = (name.split("/")[-1].split("-")[0] for name in names)
    error = refusal(folder)
    assert error.field == "split" and f"--split: {first}, {second}" in str(error)
    found = read_foreign(str(folder), split=first)
    check(found)
    assert found.unused == [f"{names[1]}.parquet"]
    assert list(found.remarks) == [f"Not used, 1 of its files: {names[1]}.parquet"]
    assert f"are {first}, {second}" in str(refusal(folder, split="ipc2"))


def test_top_folders_of_images_are_splits(image_folder):
    folder = image_folder({"synthetic/a/0.png": PIXELS[0], "original/a/0.png": PIXELS[1]})
    assert "--split: original, synthetic" in str(refusal(folder))
    check(read_foreign(str(folder), split="synthetic"), images=PLANES[:1], labels=[0], names=["a"])
    assert refusal(image_folder({"a/0.png": PIXELS[0]}, "one"), split="train").field == "split"


def test_a_class_may_be_called_like_a_split(image_folder):
    folder = image_folder({"train/0.png": PIXELS[0], "test/0.png": PIXELS[1], "bus/0.png": PIXELS[2]})
    check(read_foreign(str(folder)), images=PLANES[[2, 1, 0]], labels=[0, 1, 2], names=["bus", "test", "train"])


def test_splits_without_class_folders_are_no_classes(image_folder):
    folder = image_folder({"train/0.png": PIXELS[0], "test/0.png": PIXELS[1]})
    assert "in no folder named by their class" in str(refusal(folder))


def test_configurations_of_the_card(table):
    table("ten/x.parquet", label=[3, 3, 3, 3, 3, 3])
    folder = table("one/x.parquet")
    (folder / "README.md").write_text(CONFIGS)
    error = refusal(folder)
    assert error.field == "split" and "--split: ipc1, ipc10" in str(error)
    check(read_foreign(str(folder), split="ipc1"))


@pytest.mark.parametrize(
    "text", ["a: [", "a: &a [1]\nb: *a", "configs: all", "a: " + "[" * 3000, "a: !!python/name:os.system"]
)
def test_a_card_that_cannot_be_read(table, text):
    folder = table()
    (folder / "README.md").write_text(f"---\n{text}\n---\n")
    assert "YAML of its README.md" in str(refusal(folder))


def test_all_images_are_read_and_the_rest_is_named(image_folder):
    folder = image_folder({"a/0.tif": PIXELS[0], "a/1.gif": PIXELS[1][:, :, :1].repeat(3, 2), "b/0.png": PIXELS[2]})
    (folder / "b/1.jfif").write_bytes(encode(PIXELS[3], "JPEG"))
    (folder / "b/2.heic").write_bytes(b"x")
    found = read_foreign(str(folder))
    assert found.labels.tolist() == [0, 0, 1, 1] and found.unused == ["b/2.heic"]


def test_links_are_followed_and_loops_left(image_folder, tmp_path):
    folder = image_folder({"a/0.png": PIXELS[0]})
    image_folder({"0.png": PIXELS[1]}, "elsewhere")
    os.symlink(tmp_path / "elsewhere", folder / "b")
    os.symlink(folder, folder / "a/up")
    found = read_foreign(str(folder))
    check(found, images=PLANES[:2], labels=[0, 1], names=["a", "b"])
    assert found.unused == ["a/up"]


def test_links_that_multiply_are_refused(image_folder, tmp_path, monkeypatch):
    monkeypatch.setattr("distill_hub.data.folders.MOST_FOLDERS", 100)
    folder = image_folder({"a/0.png": PIXELS[0]})
    for level in range(10):
        (folder / f"d{level}").mkdir()
        for side in "ab":
            os.symlink(f"../d{level + 1}", folder / f"d{level}/{side}")
    assert "files or 100 folders" in str(refusal(folder))


def test_names_that_are_not_utf_8_are_refused(image_folder):
    folder = image_folder({"a/0.png": PIXELS[0]})
    (folder / "caf\udce9").mkdir()
    assert "names that are not UTF-8: caf?; rename" in str(refusal(folder))


@pytest.mark.parametrize("name", ["a/1.png", "README.md", "metadata.csv"])
def test_pipes_and_sparse_files_are_refused_before_they_are_opened(image_folder, name):
    folder = image_folder({"a/0.png": PIXELS[0]})
    os.mkfifo(folder / name)
    assert f"{name} cannot be read (it is a pipe or a device" in str(refusal(folder))
    (folder / name).unlink()
    (folder / name).touch()
    os.truncate(folder / name, 10**11)
    assert f"{name} cannot be read (it has 100,000,000,000 bytes, at most " in str(refusal(folder))


# Lists of labels


@pytest.fixture
def listed(image_folder):
    def write(name, text, **more):
        folder = image_folder({f"train/{i}.png": PIXELS[i] for i in range(3)})
        (folder / "train" / name).write_bytes(text.encode("utf-8-sig"))
        return folder

    return write


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("metadata.csv", "file_name,label\r\n0.png,b\r\n1.png,a\r\n2.png,b\r\n"),
        ("metadata.jsonl", '{"file_name": "0.png", "label": "b"}\n{"file_name": "1.png", "label": "a"}\n'
         '{"file_name": "2.png", "label": "b"}\n'),
    ],
)  # fmt: skip
def test_labels_of_a_list(listed, name, text):
    check(read_foreign(str(listed(name, text))), images=PLANES[[1, 0, 2]], labels=[0, 1, 1], names=["a", "b"])


def test_numbers_of_a_list_have_no_names(listed):
    rows = "".join(f'{{"file_name": "{i}.png", "label": {2 - i}}}\n' for i in range(3))
    check(read_foreign(str(listed("metadata.jsonl", rows))), images=PLANES[[2, 1, 0]], labels=[0, 1, 2])


def test_lists_beside_folders_of_classes(image_folder):
    folder = image_folder({f"{name}/{i}.png": PIXELS[i] for i, name in enumerate("ab")})
    whole = {"images": PLANES[:2], "labels": [0, 1], "names": ["a", "b"]}
    for text in ("epoch,loss\n1,0.5\n", "file_name,caption\na/0.png,nice\n", "file_name,label\na\\0.png,a\nb\\1.png,b\n"):
        (folder / "metadata.csv").write_text(text)
        check(read_foreign(str(folder)), **whole)
    (folder / "metadata.jsonl").write_text('{"file_name": "a/0.png", "label": "b"}')
    assert "metadata.jsonl gives 'a/0.png' two labels, 'a' and 'b'" in str(refusal(folder))
    (folder / "metadata.csv").write_text("file_name,label,class\na/0.png,a,x\n")
    assert "named with --set_label_column; it has file_name, label, class" in str(refusal(folder))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "file_name"),
        ("name,label\n0.png,a\n", "needs the column file_name"),
        ("file_name,label\n9.png,a\n", "not there: train/9.png"),
        ("file_name,label\n../../etc/passwd,a\n", "not there"),
        ("file_name,label\n0.png,a\n0.png,b\n", "gives 'train/0.png' two labels"),
        ("file_name,label\n0.png,\n", "no label to train/0.png"),
        ("file_name,label,class\n0.png,a,a\n", "--set_label_column"),
        ("file_name,caption\n0.png,nice\n", "named with --set_label_column; it has file_name, caption"),
    ],
)
def test_lists_that_are_refused(listed, text, message):
    assert message in str(refusal(listed("metadata.csv", text)))


@pytest.mark.parametrize(
    ("configs", "words"),
    [
        (
            "[{config_name: d, data_files: [{split: train, path: '*.parquet'}, {split: test, path: b.parquet}]}]",
            "two splits",
        ),
        (
            "[{config_name: d, data_files: a.parquet}, {config_name: d, data_files: b.parquet}]",
            "name each configuration once",
        ),
    ],
)
def test_a_card_that_would_mix_splits(table, configs, words):
    for name in ("a.parquet", "b.parquet"):
        folder = table(name)
    (folder / "README.md").write_text(f"---\nconfigs: {configs}\n---\n")
    assert words in str(refusal(folder))
