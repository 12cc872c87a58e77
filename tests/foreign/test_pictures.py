"""Image folders and archives of them."""

import struct
import zipfile

import numpy as np
import pytest
import torch
from foreign_files import PIXELS, PLANES, check, listing, refusal
from PIL import Image as PILImage
from source_files import encode

from distill_hub.foreign import contents
from distill_hub.foreign.read import read_foreign


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


def test_different_sizes_become_the_one_that_is_named(image_folder):
    # Scaling 8 to 4 by a bilinear filter weighs 1 3 3 1; in the middle of a flat area that changes nothing.
    wide = np.zeros((8, 16, 3), np.uint8)
    wide[:, 4:12] = 200
    folder = image_folder({"a/0.png": np.full((4, 4, 3), 7, np.uint8), "a/1.png": wide})
    found = read_foreign(str(folder), image_size=4)
    assert (found.images[0] == 7).all() and (found.images[1, :, :, 1:3] == 200).all()
    assert found.images.shape == (2, 3, 4, 4) and found.notes["scaled_images"] == 1 and not list(found.remarks)
    assert refusal(folder, image_size=0).field == "image_size"


@pytest.mark.parametrize(
    ("shapes", "median", "side"),  # of heights and widths
    [
        ([(70, 90), (40, 41), (66, 65), (300, 200), (31, 30)], 65, 64),
        ([(32, 32)] * 3 + [(33, 32)], 32, 32),
        ([(375, 500)] * 2, 375, 256),
        ([(8, 6)], 6, 16),
    ],
)
def test_sizes_of_photos_become_one_that_is_said(image_folder, shapes, median, side):
    folder = image_folder({f"a/{i}.png": np.full((*shape, 3), i, np.uint8) for i, shape in enumerate(shapes)})
    found = read_foreign(str(folder))
    assert found.images.shape == (len(shapes), 3, side, side)
    assert all((image == i).all() for i, image in enumerate(found.images))
    (line,) = found.remarks
    assert f"squares of {side} px" in line and f"has {median} px, median" in line and "--image_size" in line
    assert found.notes["scaled_images"] == sum(shape != (side, side) for shape in shapes)


def test_result_has_a_limit(image_folder, monkeypatch):
    folder = image_folder({"a/0.png": PIXELS[0]})
    assert "image of" not in str(refusal(folder, image_size=200_000))
    monkeypatch.setattr(contents, "MAX_BYTES", 191)  # 3 * 8 * 8 - 1
    assert "more than 191 bytes" in str(refusal(folder))


def test_broken_file_is_named(image_folder):
    folder = image_folder({"a/0.png": PIXELS[0]})
    (folder / "a/1.png").write_bytes(encode(PIXELS[1])[:80])
    assert "image a/1.png" in str(refusal(folder))


def test_zip_is_read_in_place(archive, tmp_path):
    files = {"set/train/b/10.png": encode(PIXELS[0]), "set/train/b/9.png": encode(PIXELS[1])}
    noise = ("__MACOSX/set/train/b/._9.png", "set/.DS_Store", "set/train/a/.hidden.png", "set/val/b/1.png")
    path = archive({**files, **dict.fromkeys(noise, b"x"), "set/train/a/1.png": encode(PIXELS[2])})
    before = listing(tmp_path)
    found = read_foreign(str(path))
    check(found, images=PLANES[[2, 1, 0]], labels=[0, 1, 1], names=["a", "b"])
    assert listing(tmp_path) == before


def test_labels_in_a_list_that_is_not_read_are_refused_in_folders_and_zips(image_folder, archive):
    folder = image_folder({"b/0.png": PIXELS[0]})
    (folder / "metadata.parquet").write_bytes(b"PAR1")
    for path in (folder, archive({"set/b/0.png": encode(PIXELS[0]), "set/metadata.parquet": b"PAR1"})):
        assert "metadata.parquet, which is not read; save it as metadata.csv" in str(refusal(path))


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
    monkeypatch.setattr(contents, "MAX_BYTES", 1000)
    assert "more than 1,000 bytes" in str(refusal(path))


def test_zip_that_unpacks_to_more_than_it_declares(archive):
    path = archive({"a/0.png": encode(PIXELS[0]) + bytes(10**6)})
    patch_directory(path, 24, struct.pack("<I", 100))
    assert "a/0.png" in str(refusal(path))


def test_zip_entry_without_a_name(archive):
    path = archive({"a/0.png": encode(PIXELS[0])})
    patch_directory(path, 28, struct.pack("<H", 0))
    assert "archive cannot be read" in str(refusal(path))


def test_zip_entries_spelt_otherwise(tmp_path):
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as file:
        for name, pixels in (("./a/0.png", PIXELS[0]), ("b//0.png", PIXELS[1])):
            file.writestr(name, encode(pixels))
    check(read_foreign(str(tmp_path / "set.zip")), images=PLANES[:2], labels=[0, 1], names=["a", "b"])


def test_a_list_that_calls_an_image_otherwise_than_its_folder(image_folder):
    folder = image_folder({"a/0.png": PIXELS[0], "b/0.png": PIXELS[1], "more/0.png": PIXELS[2]})
    (folder / "metadata.csv").write_text("file_name,label\na/0.png,a\nb/0.png,b\nmore/0.png,a\n")
    check(read_foreign(str(folder)), images=PLANES[[0, 2, 1]], labels=[0, 0, 1], names=["a", "b"])
    (folder / "metadata.csv").write_text("file_name,label\na/0.png,b\nb/0.png,a\n")
    assert "'a/0.png' lies in a folder of the class 'a', and its metadata call it 'b'" in str(refusal(folder))


def test_a_class_in_a_format_that_is_not_read(image_folder):
    folder = image_folder({"a/0.png": PIXELS[0], "b/0.png": PIXELS[1], "b/1.tga": PIXELS[2]})
    assert read_foreign(str(folder)).unused == ["b/1.tga"]
    image_folder({"c/0.tga": PIXELS[2]})
    assert "'c' holds no image in a format that is read (0.tga)" in str(refusal(folder))


def test_encrypted_zip(archive):
    path = archive({"a/0.png": encode(PIXELS[0])})
    patch_directory(path, 8, struct.pack("<H", 1))
    assert "encrypted" in str(refusal(path))


def test_damaged_zip(archive, tmp_path):
    path = archive({"a/0.png": encode(PIXELS[0])})
    path.write_bytes(path.read_bytes()[:-30])
    assert "archive cannot be read" in str(refusal(path))
    assert "readable are" in str(refusal(archive({"a/model.bin": b"x"})))
