"""Parquet files, whoever wrote them."""

import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Image, List, Value
from foreign_files import LABELS, LOGITS, NAMES, PIXELS, PLANES, PROBABILITIES, STORED, check, png_header, refusal
from PIL import Image as PILImage
from source_files import encode

from distill_hub.foreign import tables
from distill_hub.foreign.read import read_foreign


@pytest.mark.parametrize("kind", ["Image", "struct", "binary", "large_binary", "binary_view"])
def test_parquet(table, tmp_path, kind):
    if kind == "Image":
        features = Features({"image": Image(), "label": ClassLabel(names=NAMES)})
        rows = {"image": [PILImage.fromarray(p) for p in PIXELS], "label": LABELS}
        (tmp_path / "set").mkdir()
        Dataset.from_dict(rows, features=features).to_parquet(str(tmp_path / "set" / "train.parquet"))
        found = read_foreign(str(tmp_path / "set"))
    elif kind == "struct":
        found = read_foreign(str(table()))
    else:
        found = read_foreign(str(table(image=pa.array([encode(p) for p in PIXELS], getattr(pa, kind)()))))
    check(found, names=NAMES if kind == "Image" else None)
    assert found.revision is None and found.location == str(tmp_path / "set")


@pytest.mark.parametrize(
    ("kind", "options"), [("PNG", {}), ("BMP", {}), ("WEBP", {"lossless": True, "exact": True}), ("JPEG", {"quality": 95})]
)
def test_codecs(table, kind, options):
    data = [encode(p, kind, **options) for p in PIXELS]
    expected = PIXELS if kind != "JPEG" else np.stack([np.asarray(PILImage.open(io.BytesIO(d))) for d in data])
    check(read_foreign(str(table(image=pa.array(data)))), images=torch.from_numpy(expected).permute(0, 3, 1, 2))


def test_other_codecs_are_refused(table):
    assert "image of row 0" in str(refusal(table(image=pa.array([encode(p, "PCX") for p in PIXELS]))))


def test_sixteen_bit_images_are_scaled_by_the_range_of_their_type(table):
    deep = encode(np.full((8, 8), 40_000, np.uint16))
    found = read_foreign(str(table(image=pa.array([deep] * 6))))
    assert (found.images == 156).all()  # 40,000 / 65,535 * 255 = 155.64


def test_text_labels_are_classes_in_natural_order(table):
    found = read_foreign(str(table(label=pa.array(["10", "9", "10", "b", "9", "b"]))))
    check(found, labels=[1, 0, 1, 2, 0, 2], names=["9", "10", "b"])


def test_text_labels_as_views(table):
    check(read_foreign(str(table(label=pa.array(["a", "b"] * 3, pa.string_view())))), labels=[0, 1] * 3, names=["a", "b"])


def test_shards_are_read_in_order(tmp_path, table):
    table("data/train-00001-of-00002.parquet")
    folder = table("data/train-00000-of-00002.parquet", label=pa.array(LABELS + 3))
    found = read_foreign(str(folder))
    check(found, images=torch.cat([PLANES, PLANES]), labels=[*(LABELS + 3), *LABELS])
    assert found.notes["files"] == ["train-00000-of-00002.parquet", "train-00001-of-00002.parquet"]


@pytest.mark.parametrize("names", [("data/train-0.parquet", "data/test-0.parquet"), ("train/0.parquet", "val/0.parquet")])
def test_only_the_training_split_is_read(table, names):
    table(names[1], label=pa.array(LABELS + 3))
    check(read_foreign(str(table(names[0]))))


def test_splits_without_training_split_are_not_mixed(table):
    table("test-0.parquet")
    error = refusal(table("validation-0.parquet"))
    assert error.field == "split" and "--split: test, validation" in str(error)


def test_of_several_folders_one_must_be_named(table):
    table("ipc10/train-0.parquet", label=pa.array(LABELS + 3))
    folder = table("ipc1/train-0.parquet")
    error = refusal(folder)
    assert error.field == "data_dir" and "--data_dir: ipc1, ipc10" in str(error)
    check(read_foreign(str(folder), data_dir="ipc1/"))
    assert "ipc1, ipc10" in str(refusal(folder, data_dir="ipc"))


def test_files_with_other_class_names_are_not_joined(tmp_path):
    for number, names in enumerate((NAMES, NAMES[::-1])):
        features = Features({"image": Image(), "label": ClassLabel(names=names)})
        rows = {"image": [PILImage.fromarray(p) for p in PIXELS], "label": LABELS}
        Dataset.from_dict(rows, features=features).to_parquet(str(tmp_path / f"{number}.parquet"))
    assert "do not agree" in str(refusal(tmp_path))


def test_columns_are_named_when_ambiguous(table):
    folder = table(class_id=pa.array(LABELS[::-1]), img=pa.array([encode(p) for p in PIXELS[::-1]]))
    assert refusal(folder).field == "set_image_column"
    error = refusal(folder, image_column="img")
    assert error.field == "set_label_column" and "image, label, class_id, img" in str(error)
    check(read_foreign(str(folder), image_column="image", label_column="label"))
    check(read_foreign(str(folder), image_column="img", label_column="class_id"), images=PLANES.flip(0), labels=LABELS[::-1])
    assert "the columns are" in str(refusal(folder, image_column="picture"))
    assert "encoded images" in str(refusal(folder, image_column="label", label_column="class_id"))


def test_soft_labels(table):
    found = read_foreign(str(table(soft_label=pa.array(PROBABILITIES.tolist(), pa.list_(pa.float32())))))
    check(found, soft=PROBABILITIES)
    assert found.notes["soft_labels"] == "probabilities of column 'soft_label'"


def test_logits_go_through_the_softmax(table):
    boxes = pa.array([[0.5] * (row + 1) for row in range(6)], pa.list_(pa.float32()))  # no two of one length
    found = read_foreign(str(table(logits=pa.array(LOGITS.tolist(), pa.list_(pa.float32(), 3)), boxes=boxes)))
    check(found, soft=[[0.25, 0.5, 0.25]] * 6)
    assert found.notes["soft_labels"] == "softmax of column 'logits'"


def test_nearly_normalised_soft_labels_are_divided_by_their_sum(table):
    found = read_foreign(str(table(soft_labels=pa.array((PROBABILITIES * 1.0005).tolist(), pa.list_(pa.float64())))))
    check(found, soft=PROBABILITIES)


@pytest.mark.parametrize("factor", [0.99, 1.01, 100])
def test_probabilities_that_do_not_sum_to_one_are_not_taken_as_logits(table, save, factor):
    values = torch.from_numpy(PROBABILITIES) * factor
    lists = pa.array(values.tolist(), pa.list_(pa.float32()))
    paths = [save("pt", soft_labels=values), save("pt", labels=values), save("safetensors", soft_labels=values)]
    for path in [table(soft_label=lists), *paths]:
        assert f"neither probabilities (rows sum to {factor} to {factor}, not 1) nor logits" in str(refusal(path))


def test_ambiguous_soft_labels(table):
    lists = pa.array(PROBABILITIES.tolist(), pa.list_(pa.float32()))
    assert "a, b" in str(refusal(table(a=lists, b=lists)))
    check(read_foreign(str(table(soft_label=lists, b=lists))), soft=PROBABILITIES)
    assert "several" in str(refusal(table(soft_label=lists, soft_labels=lists)))


def test_lists_of_another_length_than_the_class_names_are_no_soft_labels(tmp_path):
    features = Features({"image": Image(), "label": ClassLabel(names=NAMES), "embedding": List(Value("float32"))})
    rows = {"image": [PILImage.fromarray(p) for p in PIXELS], "label": LABELS, "embedding": [[0.5] * 4] * 6}
    Dataset.from_dict(rows, features=features).to_parquet(str(tmp_path / "train.parquet"))
    check(read_foreign(str(tmp_path)), names=NAMES)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"soft_label": pa.array(["0.1"] * 6)}, "a float per class"),
        ({"soft_label": pa.array([[0.5] * 2] * 6)}, "a float per class"),
        ({"soft_label": pa.array([[0.5] * (3 + i) for i in range(6)])}, "a float per class"),
        ({"soft_label": pa.array([[0.5, 0.5, None]] * 6)}, "empty or not finite"),
        ({"soft_label": pa.array([[0.5, 0.5, float("inf")]] * 6)}, "empty or not finite"),
        ({"soft_label": pa.array([[0.5, 0.5, float("nan")]] * 6)}, "empty or not finite"),
        ({"image": pa.array([None] * 6, pa.binary())}, "stored in the file itself; 6"),
        ({"image": pa.array([None, *[{"bytes": b"", "path": None}] * 5])}, "stored in the file itself; 1"),
        ({"image": pa.array([{"bytes": None, "path": "/etc/passwd"}] * 6, STORED)}, "stored in the file itself; 6"),
        ({"image": pa.array(["/etc/passwd"] * 6)}, "must hold encoded images"),
        ({"image": pa.array([{"path": "/etc/passwd"}] * 6)}, "must hold encoded images"),
        ({"image": pa.array([encode(PIXELS[0])[:60]] * 6)}, "image of row 0"),
        ({"image": pa.array([png_header(17_000, 8)] * 6)}, "16,384 px a side"),
        ({"image": pa.array([png_header(60_000, 60_000)] * 6)}, "16,384 px a side"),
        ({"label": pa.array([0, 1, None, 0, 1, 2])}, "1 rows have no label"),
        ({"label": pa.array([0, 1, -1, 0, 1, 2])}, "one is -1"),
        ({"label": pa.array([0.5, 1, 2, 0, 1, 2])}, "integers or texts"),
        ({"label": pa.array([2**63] * 6, pa.uint64())}, "labels cannot be read"),
        ({"image": pa.array([], pa.binary()), "label": pa.array([], pa.int64())}, "0 images"),
        ({"label": False}, "--set_label_column"),
    ],
)  # fmt: skip
def test_unusable_tables(table, columns, message):
    assert message in str(refusal(table(**columns)))


def test_footers_are_believed_before_the_data_are_read(table, monkeypatch):
    folder = table()
    monkeypatch.setattr(tables._Tables, "batches", None)
    for limit in ("MAX_ROWS", "MAX_BYTES"):
        with monkeypatch.context() as patch:
            patch.setattr(tables, limit, 5)
            patch.setattr(tables, "check_file", lambda *_: None)
            assert "6 rows" in str(refusal(folder))


def test_damaged_parquet(table):
    file = next(table().glob("*.parquet"))
    file.write_bytes(file.read_bytes()[:-20])
    assert "parquet cannot be read" in str(refusal(file.parent))


def test_class_names_that_are_no_texts(table):
    file = next(table().glob("*.parquet"))
    described = {"info": {"features": {"label": {"names": [1, 2, 3], "_type": "ClassLabel"}}}}
    stored = pq.read_table(file)
    pq.write_table(stored.replace_schema_metadata({"huggingface": json.dumps(described)}), file)
    assert "no texts" in str(refusal(file.parent))


def test_one_cell_for_many_rows_is_refused(table):
    cell = pa.array([encode(PIXELS[0]) + bytes(1_000_000)])
    rows = 400
    image = pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int32)), cell)
    assert "unpack to more than 268,435,456 bytes" in str(refusal(table(image=image, label=pa.array([0] * rows))))


@pytest.mark.parametrize(
    "kind", ["categories", "large_string", "ints", "uint8", "floats", "lists", "one-hot", "large lists"]
)
def test_label_forms(table, kind):
    names = ["a", "b", "c"]
    column = {
        "categories": pa.array([names[v] for v in LABELS]).dictionary_encode(),
        "large_string": pa.array([names[v] for v in LABELS], pa.large_string()),
        "ints": pa.array(LABELS).dictionary_encode(),
        "uint8": pa.array(LABELS, pa.uint8()),
        "floats": pa.array(LABELS.astype(np.float64)),
        "lists": pa.array([[v] for v in LABELS]),
        "one-hot": pa.array(np.eye(3, dtype=np.int64)[LABELS].tolist()),
        "large lists": pa.array([[v] for v in LABELS], pa.large_list(pa.int32())),
    }[kind]
    check(read_foreign(str(table(label=column))), names=names if kind in ("categories", "large_string") else None)


CARD = """---
dataset_info:
  features:
  - name: image
    dtype: image
  - name: label
    dtype:
      class_label:
        names:
          '0': pear
          '1': apple
          '2': fig
---
"""


def test_class_names_of_the_card(table, tmp_path):
    folder = table()
    (folder / "README.md").write_text(CARD)
    check(read_foreign(str(folder)), names=NAMES)
    (folder / "README.md").write_bytes(b"\xef\xbb\xbf" + CARD.replace("\n", "\r\n").encode())
    check(read_foreign(str(folder)), names=NAMES)
    features = Features({"image": Image(), "label": ClassLabel(names=NAMES[::-1])})
    rows = {"image": [PILImage.fromarray(p) for p in PIXELS], "label": LABELS}
    Dataset.from_dict(rows, features=features).to_parquet(str(folder / "train-00000-of-00001.parquet"))
    assert "differently: 0 is 'fig' and 'pear'" in str(refusal(folder))
