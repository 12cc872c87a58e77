"""Tables as sources: splits by name, columns by type, cards, and what a stranger's table may not do."""

import errno
import hashlib

import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets.exceptions import DatasetGenerationError
from source_files import cells, picture, reds, refused, stored, table

from distill_hub.config import InputError
from distill_hub.data import file_facts, tables
from distill_hub.data.sources import load_source
from distill_hub.data.split import Split
from distill_hub.data.tables import table_splits


@pytest.fixture
def root(tmp_path):
    return tmp_path / "set"


def pair(root, labels, images=None, **more):
    for split in ("train", "test"):
        table(root / f"{split}.parquet", labels, images, **more)
    return str(root)


def named(file, names, first=0):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(stored(names, first))


# Columns


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (pa.array(["b", "a", "b", "a"]), ["a", "b"]),
        (pa.array(["b", "a", "b", "a"], pa.large_string()), ["a", "b"]),
        (pa.array(["b", "a", "b", "a"]).dictionary_encode(), ["a", "b"]),
        (pa.array([10, 9, 10, 9], pa.uint8()), ["9", "10"]),
        (pa.array([True, False, True, False]), ["False", "True"]),
    ],
)
def test_labels_of_any_plain_type(root, labels, classes):
    source = load_source(pair(root, labels))
    assert source.class_names == classes and source.train.labels.tolist() == [1, 0, 1, 0]
    assert all(type(c.index) in (int, str) for c in source.classes)


@pytest.mark.parametrize(
    ("labels", "kind"),
    [
        ([[0, 1], [1], [0], [1]], "lists"),
        ([{"x": 1}] * 4, "structs"),
        ([0.0, 1.0, 0.0, 1.0], "values of type double"),
        ([None] * 4, "nothing"),
        ([b"a", b"b"] * 2, "values of type binary"),
    ],
)
@pytest.mark.parametrize("given", [None, "label"])
def test_other_labels_are_refused_by_their_column(root, labels, kind, given):
    said = refused(pair(root, pa.array(labels)), label_column=given, image_column="image")
    kind = kind.replace("double", "float64")
    assert (
        said.startswith("label_column: 'label' cannot be used; it holds ") and kind in said and "columns are image" in said
    )


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary()])
def test_encoded_images_in_a_binary_column(root, kind):
    images = pa.array([cell["bytes"] for cell in cells()], kind)
    assert reds(load_source(pair(root, ["a", "b", "a", "b"], images)).train) == [0, 1, 2, 3]


def test_a_struct_of_bytes_alone_is_an_image(root):
    source = load_source(pair(root, ["a", "b"] * 2, pa.array([{"bytes": picture(row)} for row in range(4)])))
    assert reds(source.train) == [0, 1, 2, 3]


def test_a_struct_of_bytes_and_path_is_an_image(root):
    folder = pair(root, ["a", "b", "a", "b"])
    assert reds(load_source(folder).train) == reds(load_source(folder, image_column="image").train) == [0, 1, 2, 3]


@pytest.mark.parametrize("path", ["owned.png", "/etc/passwd", "http://127.0.0.1:9/x.png"])
def test_what_a_table_names_is_not_opened(root, tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    PIL.Image.new("RGB", (8, 8)).save("owned.png")
    images = pa.array([{"bytes": None, "path": path}] * 4, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    source = load_source(pair(root, ["a", "b", "a", "b"], images))
    for use in (lambda: source.train.pixels([0], 8), lambda: source.fingerprint, lambda: source.image_size):
        with pytest.raises(InputError, match=r"a path or an address instead, .* which is not opened"):
            use()


def test_an_eps_starts_nothing(root, tmp_path, monkeypatch):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "gs").write_text(f"#!/bin/sh\ntouch {tmp_path}/owned\n")
    (tmp_path / "bin" / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=":")
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n%%EOF\n"
    for split in ("train", "test"):  # as a column of type Image, too
        named(root / f"{split}.parquet", ["a", "b"])
        old = pq.read_table(root / f"{split}.parquet")
        images = pa.array([{"bytes": eps, "path": None}] * 4, old.schema.field("image").type)
        pq.write_table(old.set_column(0, old.schema.field("image"), images), root / f"{split}.parquet")
    with pytest.raises(InputError, match="row 0 in split 'train' cannot be decoded"):
        load_source(str(root)).train.pixels(None, 8)
    assert not (tmp_path / "owned").exists()


# Fingerprints


def test_tables_are_read_once_for_their_fingerprint_and_again_when_a_file_changes(root, monkeypatch):
    """By all processes and runs: what another source object finds in the cache it does not read."""
    monkeypatch.setattr(file_facts, "_SETTLED", -1e9)
    reads, read = [], Split._read_all
    monkeypatch.setattr(Split, "_read_all", lambda split, digest: reads.append(split.name) or read(split, digest))
    before = load_source(pair(root, ["a", "b", "a", "b"]))
    by_hand = hashlib.sha256(np.array([0, 1, 0, 1], "<i8").tobytes() + b"".join(cell["bytes"] for cell in cells()))
    assert before.fingerprint == load_source(str(root)).fingerprint == by_hand.hexdigest() and reads == ["train"]
    assert load_source(str(root)).test.fingerprint == before.fingerprint and reads == ["train", "test"]
    some = before.train.select([2, 1], "some").fingerprint
    assert some == hashlib.sha256(np.array([0, 1], "<i8").tobytes() + picture(2) + picture(1)).hexdigest()
    table(root / "train.parquet", ["a", "b", "a", "b"], cells(40))
    after = load_source(str(root))
    assert after.fingerprint != before.fingerprint and after.test.fingerprint == before.fingerprint
    assert reads == ["train", "test", "some", "train"]
    for file in (file_facts.cache_dir() / "sources").glob("*.sha256"):
        file.write_bytes(b"\xff")
    assert load_source(str(root)).fingerprint == after.fingerprint and reads[4:] == ["train"]


# Splits


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["train.parquet", "test.parquet"], {"train": 1, "test": 1}),
        (["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet"], {"train": 2}),
        (["data/random-00000-of-00001.parquet"], {"random": 1}),
        (["train/0.parquet", "train/1.parquet", "val/0.parquet"], {"train": 2, "validation": 1}),
        (["default/train/0000.parquet", "default/test/0000.parquet"], {"train": 1, "test": 1}),
        (["0.parquet", "1.parquet"], {"train": 2}),
        (["train/test.parquet", "train/train.parquet"], {"train": 2}),
    ],
)
def test_splits_of_tables(names, found):
    splits = table_splits("set", names, ())
    assert {split: len(own) for split, own in splits.items()} == found
    assert sorted(name for own in splits.values() for name in own) == sorted(names)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["small/train.parquet", "large/train.parquet"], "large, small"),
        (["train.parquet", "extra.parquet"], "'extra.parquet' is not called after a split"),
        (["train/0.parquet", "extra.parquet"], "its tables lie in train"),
    ],
)
def test_splits_of_tables_that_would_be_a_guess(names, words):
    with pytest.raises(InputError, match=words):
        table_splits("set", names, ())


def test_rows_that_are_not_used_are_counted(root, capsys):
    table(root / "train.parquet", ["a", "b", None, "a"])
    table(root / "test.parquet", ["a", "b", "c", "c"])
    source = load_source(str(root))
    assert (source.class_names, len(source.train), len(source.test)) == (["a", "b"], 3, 2)
    said = capsys.readouterr().out
    assert "5 images of 2 classes; not used: 1 without a label (row 2 of train)" in said
    assert "2 of classes that the training split has not (row 2 of test, row 3 of test)" in said


@pytest.mark.parametrize("options", [{"train_split": "big"}, {}])
def test_the_only_split_has_another_name(root, options):
    table(root / "big-00000-of-00001.parquet", ["a", "b"] * 2)
    assert "--train_split" in refused(root) and "'big'" in refused(root)
    source = load_source(str(root), test_fraction=0.5, **options)
    assert (source.train.name, len(source.train), len(source.test)) == ("big", 2, 2)


def test_the_only_split_is_called_all(root):
    table(root / "data" / "all-00000-of-00001.parquet", ["a", "b", "a", "b"])
    assert len(load_source(str(root), test_fraction=0.5).train) == 2


def test_splits_that_are_not_there_are_named_with_those_there_are(root):
    folder = pair(root, ["a", "b"] * 2)
    for option in ("train_split", "test_split"):
        said = refused(folder, **{option: "foo"})
        assert said.startswith(f"{option}: 'foo'") and "train" in said and "test" in said
    assert "it is the training split" in refused(folder, test_split="train")


# Contradictions and damage


def test_classes_in_two_orders_are_refused(root):
    named(root / "train.parquet", ["a", "b"])
    named(root / "test.parquet", ["b", "a"])
    assert "name the classes of 'label' differently" in refused(root)


@pytest.mark.parametrize("other", [[0, 1, 0, 1], pa.array([0, 1, 0, 1]).dictionary_encode()])
def test_texts_and_numbers_in_one_column_are_refused(root, other):
    pair(root, ["a", "b", "a", "b"])
    table(root / "train-2.parquet", other)
    assert "name the classes of 'label' differently" in refused(root)


def test_texts_of_several_types_are_texts(root):
    pair(root, ["a", "b", "a", "b"])
    table(root / "train-2.parquet", pa.array(["b", "a", "b", "a"], pa.large_string()).dictionary_encode())
    assert load_source(str(root)).train.labels.tolist() == [1, 0, 1, 0, 0, 1, 0, 1]


def test_a_number_below_0_is_no_class(root):
    assert "it has the label -1, and no names" in refused(pair(root, [0, 1, -1, 1]))


def test_classes_that_differ_by_spaces_are_refused(root):
    assert "the class 'a ' differs from another by spaces" in refused(pair(root, ["a", "b", "a ", "b"]))


def test_a_label_that_no_class_has_is_refused(root):
    for split in ("train", "test"):
        named(root / f"{split}.parquet", ["a", "b"])
        old = pq.read_table(root / f"{split}.parquet")
        pq.write_table(old.set_column(1, old.schema.field("label"), pa.array([0, 1, 2, 1])), root / f"{split}.parquet")
    assert "it has labels such as 2, and names of 2 classes" in refused(root)


@pytest.mark.parametrize("damage", [b"garbage", b"", "cut", "magic"])
def test_a_damaged_table_is_named(root, damage):
    folder = pair(root, ["a", "b"] * 2)
    data = (root / "train.parquet").read_bytes()
    broken = {"cut": data[:-50], "magic": data[:-1] + b"X"}.get(damage, damage)
    (root / "train.parquet").write_bytes(broken)
    assert "train.parquet cannot be read" in refused(folder)


@pytest.mark.parametrize("place", ["s[e]t", "a*b?", "{x}", "#1 100%"])
def test_any_path_will_do(tmp_path, place):
    assert len(load_source(pair(tmp_path / place, ["a", "b"] * 2)).train) == 4


@pytest.mark.parametrize("place", ["a$HOME", "${PLACE}", "a::b"])
def test_a_path_that_datasets_would_take_for_another_is_refused(tmp_path, monkeypatch, place):
    pair(tmp_path / "other", ["x", "y"] * 2)
    monkeypatch.setenv("PLACE", "other")
    said = refused(pair(tmp_path / place, ["a", "b"] * 2))
    assert "a path with '::' or a $VARIABLE" in said and f"/{place}/test.parquet" in said
    (tmp_path / "link").symlink_to(place)
    assert load_source(str(tmp_path / "link")).class_names == ["a", "b"]


# Cards

CONFIG = """- config_name: {0}
  data_files:
  - split: train
    path: {1}
  - split: test
    path: {2}
"""


def card(root, *configs, more=""):
    (root / "README.md").write_text("---\nconfigs:\n" + "".join(CONFIG.format(*c) for c in configs) + more + "---\n")


@pytest.fixture
def two(root):
    for number, name in enumerate(("small", "large")):
        for k, split in enumerate(("train", "test")):
            named(root / name / f"{split}-00000-of-00001.parquet", ["a", "b"], first=20 * number + 10 * k)
    card(root, *((name, f"{name}/train-*", f"{name}/test-*") for name in ("small", "large")))
    return root


def test_one_of_several_configurations_is_named(two):
    assert refused(two).endswith("it has several configurations; pass one with --source_config: small, large")
    assert refused(two, source_config="huge").startswith("source_config: 'huge'") and "small, large" in refused(two)
    source = load_source(str(two), source_config="large")
    assert (reds(source.train), reds(source.test), source.config) == ([20, 21, 22, 23], [30, 31, 32, 33], "large")


@pytest.mark.parametrize("source", ["digits", None])
def test_a_source_without_configurations(root, source):
    folder = source or pair(root, ["a", "b"] * 2)
    assert refused(folder, source_config="x").startswith("source_config: 'x'")


@pytest.mark.parametrize("path", ["/etc/*", "../../**", "https://example.org/x.parquet", "hf://datasets/a/b/x.parquet"])
def test_a_card_names_no_files_outside(root, path):
    folder = pair(root, ["a", "b"] * 2)
    card(root, ("x", path, "test*"))
    assert "the folder holds no such file" in refused(folder)


@pytest.mark.parametrize("place", ["/etc", "..", "train/../../x", "7", "[a]"])
def test_a_card_names_no_folder_outside(root, place):
    folder = pair(root, ["a", "b"] * 2)
    (root / "README.md").write_text(f"---\nconfigs:\n- config_name: x\n  data_dir: {place}\n---\n")
    assert "which does not lie in it" in refused(folder)


@pytest.mark.parametrize("path", ["[7]", "'[z-a].parquet'", "a**.parquet", "[null, 1.5]"])
def test_patterns_of_a_card_that_are_none(root, path):
    folder = pair(root, ["a", "b"] * 2)
    card(root, ("x", path, "test*"))
    assert "README.md" in refused(folder) or "holds no such file" in refused(folder)


@pytest.mark.parametrize("names", ["xx", "7x", ["[a]", "x"]])
def test_a_configuration_is_named_once_and_by_a_text(root, names):
    folder = pair(root, ["a", "b"] * 2)
    card(root, (names[0], "train*", "test*"), (names[1], "test*", "train*"))
    assert "README.md cannot be read" in refused(folder)
    (root / "README.md").write_text(
        "---\nconfigs:\n- {config_name: x, default: yes}\n- {config_name: y, default: yes}\n---\n"
    )
    assert "several default configs" in refused(folder)


def test_a_card_puts_no_file_into_two_splits(root):
    folder = pair(root, ["a", "b"] * 2)
    card(root, ("x", "'*.parquet'", "test*"))
    assert "into two splits" in refused(folder)


def test_two_configurations_of_one_name_are_refused(two):
    card(two, ("small", "small/train-*", "small/test-*"), ("small", "large/train-*", "large/test-*"))
    said = refused(two, source_config="small")
    assert "its configs must name each configuration once, with a text; they are small, small" in said


@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_the_names_that_the_card_has_are_taken(root, mark):
    folder = pair(root, pa.array([0, 1, 0, 1]))
    features = """dataset_info:
  features:
  - name: image
    dtype: image
  - name: label
    dtype:
      class_label:
        names:
          '0': zebra
          '1': ant
"""
    (root / "README.md").write_text(f"{mark}---\n{features}---\n", encoding="utf-8")
    source = load_source(folder)
    assert source.class_names == ["zebra", "ant"] and source.train.labels.tolist() == [0, 1, 0, 1]


def test_names_of_the_card_that_contradict_the_tables_are_refused(root):
    for split in ("train", "test"):
        named(root / f"{split}.parquet", ["a", "b"])
    names = "dtype: {class_label: {names: {'0': b, '1': a}}}"
    features = f"features: [{{name: image, dtype: image}}, {{name: label, {names}}}]"
    (root / "README.md").write_text(f"---\ndataset_info:\n  {features}\n---\n")
    assert "its card and test.parquet name the classes of 'label' differently" in refused(root)


def test_names_of_the_card_that_are_no_texts_are_refused(root):
    pair(root, [0, 1, 0, 1])
    features = "features: [{name: image, dtype: image}, {name: label, dtype: {class_label: {names: [no, yes]}}}]"
    (root / "README.md").write_text(f"---\ndataset_info:\n  {features}\n---\n")
    assert "a class is called False, which is no text" in refused(root)


def test_splits_of_a_folder_of_images_by_its_card(root):
    for split, first in (("one", 0), ("two", 10)):
        for k, name in enumerate(("a", "train")):
            (root / split / name).mkdir(parents=True)
            PIL.Image.fromarray(np.full((8, 8, 3), (first + k, 0, 0), np.uint8)).save(root / split / name / "0.png")
    card(root, ("x", "one/**", "two/**"))
    source = load_source(str(root))
    assert (source.class_names, reds(source.train), reds(source.test)) == (["a", "train"], [0, 1], [10, 11])


@pytest.mark.parametrize(
    "text",
    ["a: [", "configs: x", "configs:\n- null", "a: !!python/object/apply:os.system ['touch owned']", "a: " + "[" * 5000],
)
def test_a_card_that_cannot_be_read_is_one_line(root, text):
    folder = pair(root, ["a", "b"] * 2)
    (root / "README.md").write_text(f"---\n{text}\n---\n")
    assert "README.md cannot be read" in refused(folder)


@pytest.mark.parametrize("wraps", [False, True])
def test_a_cache_that_cannot_be_written_to_is_not_taken_for_a_source_without_images(wraps):
    error = OSError(errno.EROFS, "Read-only file system", "/cache/photos.lock")
    line = r"^file: '/cache/photos.lock' cannot be used; it cannot be read or written \(Read-only file system\)$"
    with pytest.raises(InputError, match=line), tables._reading("org/photos"):
        if wraps:
            raise DatasetGenerationError("An error occurred while generating the dataset") from error
        raise error
