"""Every foreign format gives the pixels, labels and names that went in; what is hostile or ambiguous is refused."""

import contextlib
import io
import json
import pickle
import struct
import types
import zipfile
import zlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Image, List, Value
from PIL import Image as PILImage
from safetensors.torch import save_file

from distill_hub.config import InputError
from distill_hub.data.classes import IMAGEWOOF, SourceClass, imagenet_classes
from distill_hub.data.sources import load_source
from distill_hub.foreign import encoded
from distill_hub.foreign import read as module
from distill_hub.foreign.read import ForeignSet, label_order, read_foreign
from distill_hub.hub import RemoteFile, RemoteSet

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)
LABELS = np.array([1, 0, 1, 2, 0, 2])
VALUES = torch.from_numpy(LABELS)
NAMES = ["pear", "apple", "fig"]
PLANES = torch.from_numpy(PIXELS).permute(0, 3, 1, 2).contiguous()  # (6, 3, 8, 8)
PROBABILITIES = np.array([[1, 2, 1], [3, 1, 0], [0, 4, 0], [2, 0, 2], [4, 0, 0], [0, 2, 2]], np.float32) / 4
STORED = pa.struct({"bytes": pa.binary(), "path": pa.string()})
LOGITS = np.log(np.array([[1, 2, 1]] * 6, np.float32)) - 1  # probabilities 1/4, 1/2, 1/4


def encode(pixels, kind="PNG", **options):
    file = io.BytesIO()
    PILImage.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


def png_header(width, height):
    """A PNG that only claims its size."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


def refusal(location, **options):
    with pytest.raises(InputError) as caught:
        read_foreign(str(location), **options)
    assert "\n" not in str(caught.value)
    return caught.value


def check(found, *, images=PLANES, labels=LABELS, names=None, soft=None):
    assert found.images.dtype == torch.uint8 and torch.equal(found.images, images)
    assert found.labels.dtype == np.int64 and found.labels.tolist() == list(labels)
    assert found.class_names == names
    if soft is None:
        assert found.soft_labels is None
    else:
        assert found.soft_labels.dtype == np.float32
        np.testing.assert_allclose(found.soft_labels, soft, atol=1e-7)
    json.dumps(found.notes)


def listing(folder):
    return sorted(str(file) for file in folder.rglob("*"))


# Tables


@pytest.fixture
def table(tmp_path):
    """Write a parquet file with the images, the labels and more columns."""

    def write(name="train-00000-of-00001.parquet", *, image=None, label=None, **more):
        columns = {
            "image": pa.array([{"bytes": encode(p), "path": None} for p in PIXELS]) if image is None else image,
            "label": pa.array(LABELS) if label is None else label,
            **more,
        }
        path = tmp_path / "set" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({key: value for key, value in columns.items() if value is not False}), path)
        return tmp_path / "set"

    return write


@pytest.mark.parametrize("kind", ["Image", "struct", "binary", "large_binary"])
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
    assert "none is called train" in str(refusal(table("validation-0.parquet")))


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
    assert refusal(folder).field == "image_column"
    error = refusal(folder, image_column="img")
    assert error.field == "label_column" and "image, label, class_id, img" in str(error)
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
        ({"label": pa.array([0.0, 1, 2, 0, 1, 2])}, "integers or texts"),
        ({"label": pa.array([2**63] * 6, pa.uint64())}, "labels cannot be read"),
        ({"image": pa.array([], pa.binary()), "label": pa.array([], pa.int64())}, "0 images"),
        ({"label": False}, "--label_column"),
    ],
)  # fmt: skip
def test_unusable_tables(table, columns, message):
    assert message in str(refusal(table(**columns)))


def test_footers_are_believed_before_the_data_are_read(table, monkeypatch):
    folder = table()
    monkeypatch.setattr(encoded.pq, "read_table", None)
    for limit in ("MAX_ROWS", "MAX_BYTES"):
        with monkeypatch.context() as patch:
            patch.setattr(encoded, limit, 5)
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


# Images in folders and archives


@pytest.fixture
def image_folder(tmp_path):
    def write(files, root="set"):
        for name, pixels in files.items():
            (tmp_path / root / name).parent.mkdir(parents=True, exist_ok=True)
            PILImage.fromarray(pixels).save(tmp_path / root / name)
        return tmp_path / root

    return write


def test_image_folder_in_natural_order(image_folder):
    files = {"b/10.png": PIXELS[0], "b/2.png": PIXELS[1], "b/1.PNG": PIXELS[2], "a/x.bmp": PIXELS[3]}
    folder = image_folder({**files, ".cache/c/0.png": PIXELS[4]})
    (folder / "README.md").write_text("# A set")
    check(read_foreign(str(folder)), images=PLANES[[3, 2, 1, 0]], labels=[0, 1, 1, 1], names=["a", "b"])


def test_numbered_class_folders_are_in_natural_order(image_folder):
    folder = image_folder({f"{i}/0.png": np.full((4, 4, 3), i, np.uint8) for i in range(12)})
    found = read_foreign(str(folder))
    assert found.class_names == [str(i) for i in range(12)] and found.images[:, 0, 0, 0].tolist() == list(range(12))


def test_only_the_training_folder_is_read(image_folder):
    folder = image_folder({"train/a/0.png": PIXELS[0], "train/train/0.png": PIXELS[1], "val/a/0.png": PIXELS[2]})
    check(read_foreign(str(folder)), images=PLANES[:2], labels=[0, 1], names=["a", "train"])


def test_images_at_several_depths_or_places_are_refused(image_folder):
    folder = image_folder({"a/0.png": PIXELS[0], "more/b/0.png": PIXELS[1]})
    assert refusal(folder).field == "data_dir"
    check(read_foreign(str(folder), data_dir="more"), images=PLANES[1:2], labels=[0], names=["b"])
    image_folder({"0.png": PIXELS[0]})
    assert "folder named by its class" in str(refusal(folder))


def test_grey_palette_and_transparent_images_become_rgb(image_folder, tmp_path):
    folder = image_folder({"a/0.png": PIXELS[0, :, :, 0]})
    PILImage.fromarray(np.dstack([PIXELS[1], np.full((8, 8), 9, np.uint8)])).save(folder / "a/1.png")
    PILImage.fromarray(PIXELS[2]).quantize(256).save(folder / "a/2.png")
    found = read_foreign(str(folder)).images
    assert torch.equal(found[0], PLANES[0, :1].expand(3, 8, 8)) and torch.equal(found[1:], PLANES[1:3])


def test_different_sizes_need_image_size(image_folder):
    # Scaling 8 to 4 by a bilinear filter weighs 1 3 3 1; in the middle of a flat area that changes nothing.
    wide = np.zeros((8, 16, 3), np.uint8)
    wide[:, 4:12] = 200
    folder = image_folder({"a/0.png": np.full((4, 4, 3), 7, np.uint8), "a/1.png": wide})
    error = refusal(folder)
    assert error.field == "image_size" and "4 x 4 px and 16 x 8 px" in str(error)
    found = read_foreign(str(folder), image_size=4)
    assert (found.images[0] == 7).all() and (found.images[1, :, :, 1:3] == 200).all()
    assert found.images.shape == (2, 3, 4, 4) and found.notes["scaled_images"] == 1
    assert refusal(folder, image_size=0).field == "image_size"


def test_images_that_are_not_square_need_image_size(image_folder):
    folder = image_folder({"a/0.png": PIXELS[0, :, :6]})
    assert "6 x 8 px" in str(refusal(folder))


def test_result_has_a_limit(image_folder, monkeypatch):
    folder = image_folder({"a/0.png": PIXELS[0]})
    assert "image of" not in str(refusal(folder, image_size=200_000))
    monkeypatch.setattr(encoded, "MAX_BYTES", 191)  # 3 * 8 * 8 - 1
    assert "more than 191 bytes" in str(refusal(folder))


def test_broken_file_is_named(image_folder):
    folder = image_folder({"a/0.png": PIXELS[0]})
    (folder / "a/1.png").write_bytes(encode(PIXELS[1])[:80])
    assert "image a/1.png" in str(refusal(folder))


@pytest.fixture
def archive(tmp_path):
    def write(files):
        with zipfile.ZipFile(tmp_path / "set.zip", "w", zipfile.ZIP_DEFLATED) as file:
            for name, data in files.items():
                file.writestr(name, data)
        return tmp_path / "set.zip"

    return write


def test_zip_is_read_in_place(archive, tmp_path):
    files = {"set/train/b/10.png": encode(PIXELS[0]), "set/train/b/9.png": encode(PIXELS[1])}
    noise = ("__MACOSX/set/train/b/._9.png", "set/.DS_Store", "set/train/a/.hidden.png", "set/val/b/1.png")
    path = archive({**files, **dict.fromkeys(noise, b"x"), "set/train/a/1.png": encode(PIXELS[2])})
    before = listing(tmp_path)
    found = read_foreign(str(path))
    check(found, images=PLANES[[2, 1, 0]], labels=[0, 1, 1], names=["a", "b"])
    assert listing(tmp_path) == before


@pytest.mark.parametrize("name", ["../evil/a.png", "a/../../evil.png", "/evil/a.png", "C:/evil/a.png", "..\\evil\\a.png"])
def test_zip_entry_outside_its_folder(archive, tmp_path, name):
    path = archive({"a/0.png": encode(PIXELS[0]), name: encode(PIXELS[1])})
    before = listing(tmp_path.parent)
    assert "outside" in str(refusal(path))
    assert listing(tmp_path.parent) == before


def patch_directory(path, offset, value):
    """Overwrite a field of the first entry in the zip's central directory."""
    data = bytearray(path.read_bytes())
    start = data.index(b"PK\x01\x02") + offset
    data[start : start + len(value)] = value
    path.write_bytes(data)


def test_zip_that_declares_a_huge_entry(archive):
    path = archive({"a/0.png": encode(PIXELS[0])})
    patch_directory(path, 24, struct.pack("<I", 2**31))
    assert "2,147,483,648 bytes" in str(refusal(path))


def test_zip_that_is_huge_in_all(archive, monkeypatch):
    path = archive({f"a/{i}.png": encode(p) for i, p in enumerate(PIXELS)})
    monkeypatch.setattr(encoded, "MAX_BYTES", 1000)
    assert "more than 1,000 bytes" in str(refusal(path))


def test_zip_that_unpacks_to_more_than_it_declares(archive):
    path = archive({"a/0.png": encode(PIXELS[0]) + bytes(10**6)})
    patch_directory(path, 24, struct.pack("<I", 100))
    assert "a/0.png" in str(refusal(path))


def test_zip_entry_without_a_name(archive):
    path = archive({"a/0.png": encode(PIXELS[0])})
    patch_directory(path, 28, struct.pack("<H", 0))
    assert "archive cannot be read" in str(refusal(path))


def test_encrypted_zip(archive):
    path = archive({"a/0.png": encode(PIXELS[0])})
    patch_directory(path, 8, struct.pack("<H", 1))
    assert "encrypted" in str(refusal(path))


def test_damaged_zip(archive, tmp_path):
    path = archive({"a/0.png": encode(PIXELS[0])})
    path.write_bytes(path.read_bytes()[:-30])
    assert "archive cannot be read" in str(refusal(path))
    assert "readable are" in str(refusal(archive({"a/model.bin": b"x"})))


# Tensors


@pytest.fixture
def save(tmp_path):
    """Save tensors in one of the formats; return the path to read."""

    def write(kind, images=PLANES, labels=VALUES, **more):
        content = {"images": images, "labels": labels, **more}
        path = tmp_path / f"set.{kind.split()[0]}"
        if kind == "pt tuple":
            torch.save(tuple(content.values()), path)
        elif kind in ("pt", "pth"):
            torch.save(content, path)
        elif kind == "safetensors":
            save_file({key: value.contiguous() for key, value in content.items()}, path)
        elif kind == "npz":
            np.savez_compressed(path, **{key: value.numpy() for key, value in content.items()})
        else:
            (tmp_path / "pair").mkdir(exist_ok=True)
            for key, value in content.items():
                file = tmp_path / "pair" / f"{key}_best.{kind.split()[1]}"
                torch.save(value, file) if file.suffix == ".pt" else np.save(file, value.numpy())
            path = tmp_path / "pair"
        return path

    return write


@pytest.mark.parametrize("kind", ["pt", "pt tuple", "pth", "safetensors", "npz", "pair pt", "pair npy"])
def test_tensors(save, kind):
    check(read_foreign(str(save(kind))))
    path = save(kind, soft_labels=torch.from_numpy(PROBABILITIES))
    check(read_foreign(str(path)), soft=PROBABILITIES)


@pytest.mark.parametrize("kind", ["pt", "npy"])
def test_one_file_of_a_pair_is_enough_to_name_it(save, tmp_path, kind):
    folder = save(f"pair {kind}")
    for key in ("images", "labels"):
        (folder / f"{key}_1000.{kind}").write_bytes((folder / f"{key}_best.{kind}").read_bytes())
    error = refusal(folder)
    assert f"images_1000.{kind}, images_best.{kind}" in str(error) and "pass the path" in str(error)
    check(read_foreign(str(folder / f"images_best.{kind}")))
    assert "call it images*" in str(refusal(folder / f"labels_best.{kind}"))
    (folder / f"labels_best.{kind}").unlink()
    assert "labels* of the same ending" in str(refusal(folder / f"images_best.{kind}"))


def test_images_without_labels(save):
    folder = save("pair pt")
    (folder / "labels_best.pt").unlink()
    assert "no labels*" in str(refusal(folder))


@pytest.mark.parametrize(("images", "labels"), [("data", "targets"), ("x", "y"), ("image", "label")])
def test_other_names_of_tensors(tmp_path, images, labels):
    torch.save({images: PLANES, labels: VALUES}, tmp_path / "set.pt")
    check(read_foreign(str(tmp_path / "set.pt")))


def test_layout_of_dataset_condensation(tmp_path):
    pair = [PLANES, VALUES]
    torch.save({"data": [pair], "accs_all_exps": {"ConvNet": [0.5]}}, tmp_path / "set.pt")
    check(read_foreign(str(tmp_path / "set.pt")))
    torch.save({"data": [pair, pair, pair]}, tmp_path / "set.pt")
    assert "3 sets" in str(refusal(tmp_path / "set.pt"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"images": PLANES}, "it holds images"),
        ({"images": PLANES, "x": PLANES, "y": VALUES}, "it holds images, x, y"),
        ({"data": []}, "0 sets"),
        ([PLANES], "it holds a list"),
        ("text", "it holds a str"),
        ({"images": [1], "labels": VALUES}, "images must be a tensor of numbers; it is list"),
        ({"images": PLANES.to(torch.complex64), "labels": VALUES}, "it is complex64"),
        ({"images": PLANES, "labels": VALUES > 0}, "labels must be a tensor of numbers; it is bool"),
        ({"images": PLANES.to_sparse(), "labels": VALUES}, "images cannot be read"),
        ({"images": torch.empty(6, 3, 8, 8, device="meta"), "labels": VALUES}, "images cannot be read"),
    ],
)
@pytest.mark.filterwarnings("ignore:Validating sparse")
def test_contents_that_are_no_set(tmp_path, content, message):
    torch.save(content, tmp_path / "set.pt")
    assert message in str(refusal(tmp_path / "set.pt"))


def test_float_labels_per_class_are_soft_labels(save):
    found = read_foreign(str(save("pt", labels=torch.from_numpy(LOGITS))))
    check(found, labels=[1] * 6, soft=[[0.25, 0.5, 0.25]] * 6)
    assert found.notes["labels"] == "argmax of the soft labels"
    assert found.notes["soft_labels"] == "softmax of tensor 'labels'"
    both = save("pt", labels=torch.from_numpy(LOGITS), soft_labels=torch.from_numpy(LOGITS))
    assert "two kinds" in str(refusal(both))


@pytest.mark.parametrize(
    ("labels", "soft", "message"),
    [
        (torch.zeros(6), None, "labels must be integers"),
        (torch.zeros(6, 3, dtype=torch.int64), None, "labels must be integers"),
        (torch.zeros(5, dtype=torch.int64), None, "6 images and 5 labels"),
        (torch.tensor([0, 1, 2, 0, 1, -1]), None, "one is -1"),
        (VALUES, torch.ones(6, 2), "at least 3"),
        (VALUES, torch.ones(5, 3), "at least 3"),
        (VALUES, torch.full((6, 3), torch.nan), "not finite"),
    ],
)
@pytest.mark.parametrize("kind", ["pt", "safetensors"])
def test_unusable_labels(save, kind, labels, soft, message):
    assert message in str(refusal(save(kind, labels=labels, **({} if soft is None else {"soft_labels": soft}))))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_floats_in_the_unit_interval_are_pixels(save, dtype):
    sixteenths = torch.arange(6 * 3 * 8 * 8).reshape(6, 3, 8, 8) % 17
    expected = torch.tensor([0, 16, 32, 48, 64, 80, 96, 112, 128, 143, 159, 175, 191, 207, 223, 239, 255])  # 255 k / 16
    # 127.5 rounds to the even 128.
    check(read_foreign(str(save("pt", (sixteenths / 16).to(dtype)))), images=expected[sixteenths].to(torch.uint8))


def test_floats_round_trip_every_pixel_value(save):
    images = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16).expand(6, 3, 16, 16)
    check(read_foreign(str(save("pt", images.float() / 255))), images=images)
    check(read_foreign(str(save("pt", images.float()))), images=images)
    check(read_foreign(str(save("pt", images.long()))), images=images)


def test_a_little_beyond_the_unit_interval_is_rounding(save):
    images = torch.full((6, 3, 8, 8), 1.0009)
    images[:, :, 0] = -0.0009
    found = read_foreign(str(save("pt", images))).images
    assert (found[:, :, 0] == 0).all() and (found[:, :, 1:] == 255).all()


def test_normalised_values_need_mean_and_std(save):
    # (pixel / 255 - 0.5) / 0.25 for the pixels 0, 51, 255; one value in four is 2.4, i.e. 1.1 of full brightness.
    row = torch.tensor([-2.0, -1.2, 2.0, 2.4])
    path = save("pt", row.expand(6, 3, 4, 4))
    error = refusal(path)
    assert error.field == "mean" and "[-2, 2.4]" in str(error) and "ZCA" in str(error)
    found = read_foreign(str(path), mean="0.5", std="0.25")
    assert found.images[0, 0, 0].tolist() == [0, 51, 255, 255] and (found.images == found.images[0, 0, 0]).all()
    assert found.notes["clipped_values"] == 0.25
    assert found.notes["normalisation"] == {"mean": [0.5], "std": [0.25]}


def test_each_channel_has_its_own_mean_and_std(save):
    # One normalised value of 2 gives 0.1 + 2 * 0.2 = 0.5, 0.2 + 2 * 0.1 = 0.4 and 0 + 2 * 0.3 = 0.6.
    images = torch.full((6, 3, 4, 4), 2.0)
    images[0, 0, 0, 0] = -0.5  # 0.1 - 0.5 * 0.2 = 0
    found = read_foreign(str(save("pt", images)), mean="0.1, 0.2, 0", std="0.2,0.1,0.3")
    assert found.images[1, :, 0, 0].tolist() == [128, 102, 153]
    assert found.images[0, 0, 0, 0] == 0 and found.notes["clipped_values"] == 0


@pytest.mark.parametrize(
    ("mean", "std", "field"),
    [("0.5", None, "std"), (None, "0.5", "mean"), ("0.5,0.5", "0.5", "mean"), ("a", "0.5", "mean"), ("0.5", "0", "std"),
     ("0.5", "nan", "std"), ("123.7", "58.4", "mean"), ("", "1", "mean")],
)  # fmt: skip
def test_unusable_mean_and_std(save, mean, std, field):
    assert refusal(save("pt", torch.full((6, 3, 4, 4), -1.0)), mean=mean, std=std).field == field


def test_pixels_have_no_normalisation_to_undo(save, image_folder):
    for images in (PLANES, PLANES / 255):
        assert "no normalisation" in str(refusal(save("pt", images), mean="0.5", std="0.5"))
    assert refusal(image_folder({"a/0.png": PIXELS[0]}), mean="0.5", std="0.5").field == "mean"


def test_grey_images_with_three_means(save):
    images = torch.full((6, 1, 4, 4), -1.0)
    assert "one number" in str(refusal(save("pt", images), mean="0.5,0.5,0.5", std="0.5"))
    assert (read_foreign(str(save("pt", images)), mean="0.5", std="0.25").images == 64).all()  # 0.25 * 255 = 63.75


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_images_that_are_not_finite(save, value):
    assert "not finite" in str(refusal(save("pt", torch.full((6, 3, 4, 4), value))))


def test_layouts(save):
    check(read_foreign(str(save("npz", torch.from_numpy(PIXELS)))))
    grey = PLANES[:, :1]
    check(read_foreign(str(save("pt", grey))), images=grey.expand(6, 3, 8, 8))
    check(read_foreign(str(save("pt", grey[:, 0]))), images=grey.expand(6, 3, 8, 8))
    for shape in ((6, 2, 8, 8), (6, 8), (6, 3, 8, 8, 1), (6, 3, 0, 0)):
        assert "images must be" in str(refusal(save("pt", torch.zeros(shape))))


def test_tensors_are_scaled_and_cropped_as_images_are(save):
    wide = torch.zeros(6, 3, 8, 16, dtype=torch.uint8)
    wide[..., 4:12] = 200
    path = save("pt", wide)
    assert refusal(path).field == "image_size"
    found = read_foreign(str(path), image_size=4)
    assert found.images.shape == (6, 3, 4, 4) and (found.images[..., 1:3] == 200).all()
    assert found.notes["scaled_images"] == 6


class Evil:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("legacy", [False, True])
def test_pickle_is_not_executed(tmp_path, legacy):
    trace = tmp_path / "trace"
    content = {"images": PLANES, "labels": VALUES, "more": Evil(str(trace))}
    torch.save(content, tmp_path / "set.pt", _use_new_zipfile_serialization=not legacy)
    message = str(refusal(tmp_path / "set.pt"))
    assert "more than tensors" in message and "weights_only" not in message
    (tmp_path / "set.pth").write_bytes(pickle.dumps(content["more"]))
    refusal(tmp_path / "set.pth")
    assert not trace.exists()


def test_object_array_is_not_executed(tmp_path):
    trace = tmp_path / "trace"
    objects = np.array([Evil(str(trace))], dtype=object)
    np.save(tmp_path / "images.npy", objects, allow_pickle=True)
    np.save(tmp_path / "labels.npy", LABELS)
    np.savez(tmp_path / "set.npz", images=objects, labels=LABELS)
    (tmp_path / "images_raw.npy").write_bytes(pickle.dumps(objects))
    for path in (tmp_path / "images.npy", tmp_path / "set.npz", tmp_path / "images_raw.npy"):
        assert "cannot be read" in str(refusal(path))
    assert not trace.exists()


@pytest.mark.parametrize("name", ["set.pt", "set.safetensors", "set.npz", "images.npy", "set.zip", "set/train.parquet"])
def test_garbage(tmp_path, name):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    for data in (b"", b"no set at all", bytes(1000)):
        path.write_bytes(data)
        refusal(path.parent if path.suffix == ".parquet" else path)


@pytest.mark.parametrize("kind", ["pt", "legacy pt", "safetensors", "npz", "pair npy"])
def test_damaged_byte_anywhere_is_refused_or_read(save, kind):
    path = save(kind.removeprefix("legacy "))
    path = path / "images_best.npy" if path.is_dir() else path
    if kind == "legacy pt":
        torch.save((PLANES, VALUES), path, _use_new_zipfile_serialization=False)
    good = path.read_bytes()
    for position in range(0, min(len(good), 600), 3):
        path.write_bytes(good[:position] + bytes([good[position] ^ 0x15]) + good[position + 1 :])
        with contextlib.suppress(InputError):  # any other error fails the test
            read_foreign(str(path))


# Locations


def test_file_of_another_format(tmp_path):
    (tmp_path / "set.pkl").write_bytes(b"x")
    assert "readable are" in str(refusal(tmp_path / "set.pkl"))
    assert "it holds set.pkl; readable are" in str(refusal(tmp_path))


@pytest.mark.parametrize("location", ["", "nowhere", "/nowhere/at/all", "no where/at all", "a\0b"])
def test_no_such_place(location):
    assert "no such file or folder, and it is not a Hub id" in str(refusal(location))


def test_revision_of_a_local_set(image_folder):
    assert refusal(image_folder({"a/0.png": PIXELS[0]}), revision="main").field == "revision"


@pytest.mark.parametrize("option", ["data_dir", "image_column", "label_column"])
def test_options_without_use_are_refused(save, option):
    assert refusal(save("pt"), **{option: "a"}).field == option


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
    assert sorted(fetched) == ["set/a/0.png", "set/b/0.png"]


def test_other_files_on_the_hub_are_not_fetched(save, hub, tmp_path):
    save("pt")
    fetched = hub(tmp_path)
    assert "it holds set.pt; download it and use `distill-hub adopt`" in str(refusal("org/set"))
    assert not fetched


# What the labels stand for


@pytest.fixture(scope="module")
def digits():
    return load_source("digits")


def source(classes, name="org/fruit"):
    return types.SimpleNamespace(name=name, classes=classes, class_names=[c.name for c in classes])


FRUIT = source([SourceClass(name, i) for i, name in enumerate(("apple", "fig", "pear"))])
WOOF = source([SourceClass(wnid, i, wnid) for i, wnid in enumerate(sorted(IMAGEWOOF))], "org/woof")


def labelled(labels, names=None, soft=None):
    images = torch.zeros(len(labels), 3, 1, 1, dtype=torch.uint8)
    return ForeignSet("a set", images, np.array(labels), names, soft, {})


def no_order(*args):
    with pytest.raises(InputError) as caught:
        label_order(*args)
    assert "\n" not in str(caught.value) and caught.value.field == "classes"
    return str(caught.value)


def test_another_class_order_is_matched_by_name():
    order = label_order(labelled([0, 1, 2], NAMES), FRUIT, None)
    assert order.dtype == np.int64 and order.tolist() == [2, 0, 1]


def test_image_folder_of_digits(image_folder, digits):
    found = read_foreign(str(image_folder({f"{i}/0.png": PIXELS[0] for i in (7, 0, 3)})))
    assert label_order(found, digits, None).tolist() == [0, 3, 7]


def test_folders_that_name_no_class_need_classes(image_folder):
    found = read_foreign(str(image_folder({f"{i:05}/0.png": PIXELS[0] for i in range(10)})))
    message = no_order(found, WOOF, None)
    assert "00000, 00001" in message and "--classes" in message
    assert label_order(found, WOOF, "imagewoof").tolist() == [5, 4, 8, 2, 0, 3, 1, 9, 6, 7]


def test_numbers_without_names_are_refused():
    message = no_order(labelled([0, 1, 2]), FRUIT, None)
    assert "--classes" in message and "not on record" in message


@pytest.mark.parametrize("classes", ["source", "org/fruit"])
def test_order_of_the_source(classes):
    assert label_order(labelled([0, 2], ["x", "y", "z"]), FRUIT, classes).tolist() == [0, 1, 2]


def test_classes_as_list_or_file(tmp_path):
    assert label_order(labelled([0, 1]), FRUIT, "pear, apple ").tolist() == [2, 0]
    file = tmp_path / "classes.txt"
    file.write_text("fig\n\n  pear \r\napple\n")
    assert label_order(labelled([0, 1], NAMES), FRUIT, str(file)).tolist() == [1, 2, 0]
    file.write_bytes(b"\xff\xfe")
    assert "cannot be read" in no_order(labelled([0, 1]), FRUIT, str(file))


def test_a_hundred_wnids_are_a_list_not_a_file():
    wnids = imagenet_classes()[0][:100]
    classes = source([SourceClass(wnid, i, wnid) for i, wnid in enumerate(wnids)])
    assert label_order(labelled([0, 99]), classes, ",".join(wnids[::-1])).tolist() == list(range(99, -1, -1))


def test_order_of_the_papers():
    assert label_order(labelled(range(10)), WOOF, "imagewoof").tolist() == [5, 4, 8, 2, 0, 3, 1, 9, 6, 7]
    order = label_order(labelled([155, 159]), WOOF, "imagenet1k")  # Shih-Tzu and Rhodesian ridgeback, n02086240, n02087394
    assert len(order) == 1000 and order[155] == 0 and order[159] == 1
    assert "do not give one" in no_order(labelled([0]), WOOF, "imagenet1k")


@pytest.mark.parametrize("classes", ["imagewof", "cifar10", "", "nowhere.txt"])
def test_classes_that_are_nothing(classes):
    assert "comma-separated list" in no_order(labelled([0]), FRUIT, classes)


def test_more_label_values_than_names():
    message = no_order(labelled([0, 1, 4]), FRUIT, "fig,pear,apple")
    assert "3 names" in message and "3 label values up to 4" in message
    assert "2 names" in no_order(labelled([0, 1, 2]), FRUIT, "fig,pear")


def test_names_without_images_need_not_be_found():
    assert label_order(labelled([0, 2], ["fig", "kiwi", "pear"]), FRUIT, None).tolist() == [1, -1, 2]


def test_names_and_columns_of_soft_labels_must_be_as_many():
    soft = np.full((2, 3), 1 / 3, np.float32)
    assert label_order(labelled([0, 1], soft=soft), FRUIT, "pear,fig,apple").tolist() == [2, 1, 0]
    assert "2 names" in no_order(labelled([0, 1], soft=soft), FRUIT, "pear,fig")


def test_two_labels_for_one_class_are_refused():
    assert "one class" in no_order(labelled([0, 1]), FRUIT, "pear,Pear")
