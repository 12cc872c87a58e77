import os
import subprocess
import sys

import datasets
import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Image, Value
from PIL import Image as PILImage
from sklearn.datasets import load_digits
from source_files import encode, reds, refusal
from timm.data import ImageNetInfo
from torchvision.transforms import CenterCrop, Compose, Resize

from distill_hub.config import InputError
from distill_hub.data import sources
from distill_hub.data import split as split_module
from distill_hub.data.classes import SourceClass, match_classes
from distill_hub.data.images import square
from distill_hub.data.known import KNOWN
from distill_hub.data.rows import Opened, Rows
from distill_hub.data.sources import check_ipc, fit_folder, load_source
from distill_hub.data.split import Split
from distill_hub.disk.files import slug

IMAGENET = ImageNetInfo()
WNIDS = IMAGENET.label_names()
DESCRIPTIONS = [IMAGENET.index_to_description(index) for index in range(1000)]
CRANES = ("n02012849", "n03126707")  # the bird, the machine


@pytest.fixture(scope="module")
def digits():
    return load_source("digits")


def picture(value, size=(8, 8)):
    """One colour, told apart by its red value."""
    return PILImage.fromarray(np.full((size[1], size[0], 3), (value, 255 - value, 7), np.uint8))


def noise(size, seed=0):
    return PILImage.fromarray(np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


@pytest.fixture
def parquet(tmp_path):
    """Write a folder of parquet files; row r of each split is `picture(r)`."""

    def write(labels, feature, *, splits=("train", "test"), image="image", label="label", **more):
        columns = {image: [picture(row) for row in range(len(labels))], label: labels}
        features = Features({image: Image(), label: feature, **{name: Image() for name in more}})
        for split in splits:
            dataset = Dataset.from_dict({**columns, **more}, features=features)
            dataset.to_parquet(str(tmp_path / "set" / f"{split}-00000-of-00001.parquet"))
        return str(tmp_path / "set")

    (tmp_path / "set").mkdir()
    return write


@pytest.fixture
def image_folder(tmp_path):
    """Write <split>/<class>/<n>.png; the pictures of a split are numbered through."""

    def write(splits, images=None):
        for split, counts in splits.items():
            value = 0
            for name, count in counts.items():
                (tmp_path / "folder" / split / name).mkdir(parents=True)
                for n in range(count):
                    (images or picture)(value).save(tmp_path / "folder" / split / name / f"{n}.png")
                    value += 1
        return str(tmp_path / "folder")

    return write


SMALL = {"train": {"a": 2, "b": 1}, "test": {"a": 1, "b": 1}}


# The digits


def test_digits_are_1297_and_500_of_ten_classes(digits):
    assert (len(digits.train), len(digits.test)) == (1297, 500)
    assert digits.class_names == list("0123456789") and digits.image_size == 16
    assert np.bincount(digits.train.labels).min() > 120 and np.bincount(digits.test.labels).tolist() == pytest.approx(
        [50] * 10, abs=2
    )
    assert (digits.hub_id, digits.revision, digits.test_fraction) == (None, None, 0.0)


def test_digits_are_the_same_every_time(digits):
    again = load_source("digits")
    assert np.array_equal(again.train.labels, digits.train.labels) and again.fingerprint == digits.fingerprint
    assert torch.equal(again.test.pixels(None, 16), digits.test.pixels(None, 16))


def test_digits_are_split_without_overlap_or_loss(digits):
    # Halving is exact enough to find each enlarged digit's original; equal digits count as often as they occur.
    real = load_digits()
    whole = [PILImage.fromarray(np.uint8(i / 16 * 255)).resize((16, 16), PILImage.Resampling.BILINEAR) for i in real.images]
    expected = sorted((np.asarray(i).tobytes(), int(t)) for i, t in zip(whole, real.target, strict=True))
    found = []
    for split in (digits.train, digits.test):
        pixels = split.pixels(None, 16)
        assert torch.equal(pixels[:, 0], pixels[:, 1]) and torch.equal(pixels[:, 0], pixels[:, 2])
        found += [(p.numpy().tobytes(), int(t)) for p, t in zip(pixels[:, 0], split.labels, strict=True)]
    assert sorted(found) == expected


# Local folders


def test_an_image_folder(image_folder):
    source = load_source(image_folder({"train": {"cat": 2, "ant": 3}, "test": {"ant": 1, "cat": 1}}))
    assert source.class_names == ["ant", "cat"] and source.image_size == 8 and not source.has_wnids
    # The pictures were numbered in the order cat 0 1, ant 2 3 4.
    assert sorted(zip(reds(source.train), source.train.labels, strict=True)) == [(0, 1), (1, 1), (2, 0), (3, 0), (4, 0)]
    assert (source.test.name, len(source.test), source.hub_id) == ("test", 2, None)


@pytest.mark.parametrize("name", ["test", "validation", "valid", "val"])
def test_the_test_split_is_found_under_its_usual_names(image_folder, name):
    source = load_source(image_folder({"train": {"a": 2, "b": 2}, name: {"a": 1, "b": 1}}))
    assert (len(source.train), len(source.test)) == (4, 2)


def test_test_comes_before_validation_and_can_be_named(image_folder):
    folder = image_folder({"train": {"a": 2, "b": 2}, "test": {"a": 1, "b": 1}, "validation": {"a": 2, "b": 1}})
    assert (load_source(folder).test.name, len(load_source(folder).test)) == ("test", 2)
    assert len(load_source(folder, test_split="validation").test) == 3


def test_folders_named_by_wnid_give_wnids(image_folder):
    counts = {CRANES[1]: 1, CRANES[0]: 1}
    source = load_source(image_folder({"train": counts, "test": counts}))
    assert source.classes == [SourceClass(CRANES[0], 0, CRANES[0]), SourceClass(CRANES[1], 1, CRANES[1])]
    assert source.has_wnids


def test_parquet_with_classlabel_keeps_its_order(parquet):
    source = load_source(parquet([0, 2, 1, 2], ClassLabel(names=["b", "c", "a"])))
    assert source.classes == [SourceClass("b", 0), SourceClass("c", 1), SourceClass("a", 2)]
    assert source.train.labels.tolist() == [0, 2, 1, 2] and source.train.labels.dtype == np.int64
    assert source.label_column == "label"


def test_unlabelled_rows_are_left_out(parquet):
    source = load_source(parquet([0, -1, 1, -1], ClassLabel(names=["a", "b"])))
    assert source.train.labels.tolist() == [0, 1] and reds(source.train) == [0, 2]


def test_a_split_without_a_single_label_is_refused(parquet):
    assert "'train'" in str(refusal(parquet([-1, -1], ClassLabel(names=["a", "b"]))))


def test_parquet_with_integers_takes_them_in_numerical_order(parquet):
    source = load_source(parquet([11, 3, 7, 3], Value("int64")))
    assert source.classes == [SourceClass("3", 3), SourceClass("7", 7), SourceClass("11", 11)]
    assert source.train.labels.tolist() == [2, 0, 1, 0]


def test_parquet_with_strings_takes_them_in_alphabetical_order(parquet):
    source = load_source(parquet(["x", "a", "k", "a"], Value("string")))
    assert source.classes == [SourceClass("a", "a"), SourceClass("k", "k"), SourceClass("x", "x")]
    assert source.train.labels.tolist() == [2, 0, 1, 0]


def test_of_several_image_columns_one_must_be_named(parquet):
    masks = [picture(100 + row) for row in range(2)]
    folder = parquet([0, 1], ClassLabel(names=["a", "b"]), mask=masks)
    error = refusal(folder)
    assert error.field == "image_column" and all(part in str(error) for part in ("--image_column", "image", "mask"))
    assert reds(load_source(folder, image_column="mask").train) == [100, 101]
    assert reds(load_source(folder, image_column="image").train) == [0, 1]


def test_a_label_column_of_another_name_must_be_named(parquet):
    folder = parquet(["b", "a"], Value("string"), label="species")
    error = refusal(folder)
    assert error.field == "label_column" and "--label_column" in str(error) and "species" in str(error)
    assert load_source(folder, label_column="species").train.labels.tolist() == [1, 0]


@pytest.mark.parametrize("field", ["image_column", "label_column"])
def test_a_missing_column_is_named_with_those_there_are(parquet, field):
    error = refusal(parquet([0, 1], ClassLabel(names=["a", "b"])), **{field: "foo"})
    assert error.field == field and "'foo'" in str(error) and "image, label" in str(error)


@pytest.mark.parametrize(("field", "name"), [("image_column", "label"), ("label_column", "image")])
def test_a_column_of_the_wrong_type_is_refused(parquet, field, name):
    error = refusal(parquet([0, 1], ClassLabel(names=["a", "b"])), **{field: name})
    assert error.field == field and repr(name) in str(error)


# Test splits


def test_without_a_test_split_both_ways_out_are_named(parquet):
    error = refusal(parquet([0, 1] * 4, ClassLabel(names=["a", "b"]), splits=["train"]))
    assert error.field == "test_split" and "--test_split" in str(error) and "--test_fraction" in str(error)


def test_a_test_split_that_is_not_there_is_named_with_those_there_are(parquet):
    error = refusal(parquet([0, 1], ClassLabel(names=["a", "b"])), test_split="foo")
    assert error.field == "test_split" and all(f"'{name}'" in str(error) for name in ("foo", "train", "test"))


def test_an_empty_test_split_is_refused(parquet):
    folder = parquet([0, 1], ClassLabel(names=["a", "b"]))
    file = f"{folder}/test-00000-of-00001.parquet"
    Dataset.from_parquet(file).select([]).to_parquet(file)
    error = refusal(folder)
    assert error.field == "source" and "split 'test' is empty" in str(error)


def test_a_test_split_without_labels_or_of_other_classes_is_refused(tmp_path):
    for split, label in (("train", 3), ("test", 4)):
        features = Features({"image": Image(), "label": Value("int64")})
        dataset = Dataset.from_dict({"image": [picture(0)], "label": [label]}, features=features)
        dataset.to_parquet(str(tmp_path / f"{split}.parquet"))
    assert "split 'test' holds no labelled images of the 1 classes" in str(refusal(str(tmp_path)))


def test_a_train_split_is_needed(image_folder):
    error = refusal(image_folder({"test": {"a": 1, "b": 1}}))
    assert error.field == "source" and "'train'" in str(error) and "'test'" in str(error)


LABELS = {
    "classlabel": ([0] * 20 + [1] * 8 + [2] * 12, ClassLabel(names=["z", "y", "x"]), ["z", "y", "x"]),
    "integers": ([3] * 20 + [7] * 8 + [11] * 12, Value("int64"), ["3", "7", "11"]),
    "strings": (["a"] * 20 + ["b"] * 8 + ["c"] * 12, Value("string"), ["a", "b", "c"]),
}


@pytest.mark.parametrize("kind", LABELS)
def test_a_held_out_share_is_stratified_seeded_and_disjoint(parquet, kind):
    labels, feature, names = LABELS[kind]
    folder = parquet(labels, feature, splits=["train"])
    source, again = (load_source(folder, test_fraction=0.25) for _ in range(2))
    assert source.class_names == names and source.test_fraction == 0.25
    assert np.bincount(source.train.labels).tolist() == [15, 6, 9]
    assert np.bincount(source.test.labels).tolist() == [5, 2, 3]
    assert sorted(reds(source.train) + reds(source.test)) == list(range(40))
    places = [0] * 20 + [1] * 8 + [2] * 12
    for split in (source.train, source.test):
        assert [places[red] for red in reds(split)] == split.labels.tolist()
    assert reds(source.test) == reds(again.test) and reds(source.train) == reds(again.train)


def test_a_source_with_a_test_split_holds_nothing_out(parquet):
    source = load_source(parquet([0, 1] * 4, ClassLabel(names=["a", "b"])), test_fraction=0.5)
    assert (len(source.train), len(source.test), source.test_fraction) == (8, 8, 0.0)


@pytest.mark.parametrize("fraction", [1.0, 0.001])
def test_a_fraction_that_empties_a_split_is_refused(parquet, fraction):
    error = refusal(parquet(["a", "b"] * 4, Value("string"), splits=["train"]), test_fraction=fraction)
    assert error.field == "test_fraction" and str(fraction) in str(error)


def test_a_class_too_small_to_be_split_is_refused(parquet):
    error = refusal(parquet(["a", "b"] * 4 + ["c"], Value("string"), splits=["train"]), test_fraction=0.5)
    assert error.field == "test_fraction" and "0.5" in str(error)


# Sources that cannot be used


def test_an_unknown_name_gives_the_nearest_known_one():
    error = refusal("imagewof")
    assert error.field == "source" and "did you mean 'imagewoof'?" in str(error)
    assert all(name in str(error) for name in KNOWN)


@pytest.mark.parametrize("name", ["no/such/folder", "no such name", "../nowhere/at/all"])
def test_what_is_neither_a_folder_nor_a_hub_id_is_refused(name):
    error = refusal(name)
    assert error.field == "source" and repr(name) in str(error)


def write_empty(folder):
    pass


def write_unreadable_type(folder):
    (folder / "a.xyz").write_text("x")


def write_broken_parquet(folder):
    (folder / "train.parquet").write_bytes(b"PAR1 and no more")


def write_script(folder):
    (folder / "set.py").write_text("raise SystemExit('this must not run')")


@pytest.mark.parametrize("write", [write_empty, write_unreadable_type, write_broken_parquet, write_script])
def test_a_folder_without_a_dataset_is_refused(tmp_path, write):
    (tmp_path / "set").mkdir()
    write(tmp_path / "set")
    error = refusal(str(tmp_path / "set"))
    assert error.field == "source" and str(tmp_path / "set") in str(error)


def test_a_folder_without_images_is_refused(tmp_path):
    (tmp_path / "train.csv").write_text("text,label\na,0\nb,1\n")
    error = refusal(str(tmp_path))
    assert error.field == "image_column" and "text, label" in str(error)


def test_a_hub_that_cannot_be_reached_is_one_line(tmp_path):
    code = (
        "from distill_hub.data.sources import load_source\nfrom distill_hub.config import InputError\n"
        "try: load_source('cifar10')\nexcept InputError as error: print(error)"
    )
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("source: 'uoft-cs/cifar10'") and done.stdout.count("\n") == 1


# Images


@pytest.mark.parametrize("garbage", [b"", b"garbage", "truncated"])
def test_a_corrupt_file_of_a_folder_is_left_out_and_named(image_folder, tmp_path, garbage, capsys):
    folder = image_folder({"train": {"a": 2, "b": 2}, "test": {"a": 1, "b": 1}}, lambda value: noise((8, 8), value))
    broken = tmp_path / "folder" / "train" / "b" / "0.png"
    broken.write_bytes(broken.read_bytes()[:-60] if garbage == "truncated" else garbage)
    split = load_source(folder).train
    assert split.labels.tolist() == [0, 0, 1] and split.pixels(None, 8).shape == (3, 3, 8, 8)
    said = capsys.readouterr().out
    assert said.count("not used") == 1 and "5 images of 2 classes; not used: 1 broken (train/b/0.png: " in said


def test_a_corrupt_cell_of_a_table_is_an_input_error_with_its_row(tmp_path):
    features = Features({"image": Image(), "label": ClassLabel(names=["a", "b"])})
    cells = [{"bytes": data, "path": None} for data in (encode(picture(1)), b"garbage")]
    for split in ("train", "test"):
        dataset = Dataset.from_dict({"image": cells, "label": [0, 1]}, features=features)
        dataset.to_parquet(str(tmp_path / f"{split}.parquet"))
    split = load_source(str(tmp_path)).train
    with pytest.raises(InputError, match="row 1 in split 'train'") as caught:
        split.pixels(None, 8)
    assert caught.value.field == "source" and "\n" not in str(caught.value)
    assert split.pixels([0], 8).shape == (1, 3, 8, 8)
    with pytest.raises(InputError, match="row 1 in split 'train'"):
        _ = load_source(str(tmp_path)).image_size


def test_a_row_without_an_image_is_an_input_error_with_its_row(tmp_path):
    features = Features({"image": Image(), "label": ClassLabel(names=["a", "b"])})
    for split in ("train", "test"):
        dataset = Dataset.from_dict({"image": [picture(1), None], "label": [0, 1]}, features=features)
        dataset.to_parquet(str(tmp_path / f"{split}.parquet"))
    with pytest.raises(InputError, match="row 1 in split 'train'"):
        load_source(str(tmp_path)).train.pixels(None, 8)


def test_threads_keep_the_order_and_the_first_error(digits, monkeypatch):
    monkeypatch.setattr(split_module, "own_cores", lambda: 1)
    rows = np.random.default_rng(0).permutation(len(digits.train))[:150]
    alone = digits.train.pixels(rows, 12, resize=14)
    monkeypatch.setattr(split_module, "own_cores", lambda: 3)
    assert torch.equal(digits.train.pixels(rows, 12, resize=14), alone)
    bad, image = rows[[40, 100]].tolist(), Split.image
    monkeypatch.setattr(Split, "image", lambda split, row: image(split, row if row not in bad else 10**6 + bad.index(row)))
    with pytest.raises(IndexError, match="1000000"):
        digits.train.pixels(rows, 12)


def test_images_of_the_size_wanted_are_untouched(image_folder):
    folder = image_folder(SMALL, lambda value: noise((8, 8), value))
    pixels = load_source(folder).train.pixels([2, 0, 2], 8)
    assert pixels.dtype == torch.uint8 and pixels.shape == (3, 3, 8, 8)
    for place, seed in enumerate([2, 0, 2]):
        assert np.array_equal(pixels[place].permute(1, 2, 0).numpy(), np.asarray(noise((8, 8), seed)))


@pytest.mark.parametrize(
    ("size", "side", "scaled", "box"),
    [
        ((40, 24), 12, (20, 12), (4, 0, 16, 12)),
        ((24, 40), 12, (12, 20), (0, 4, 12, 16)),
        ((40, 24), 30, (50, 30), (10, 0, 40, 30)),
        ((40, 24), 24, (40, 24), (8, 0, 32, 24)),
        ((24, 24), 12, (12, 12), (0, 0, 12, 12)),
    ],
)
def test_other_images_are_scaled_by_their_shorter_side_and_cropped_in_the_centre(image_folder, size, side, scaled, box):
    split = load_source(image_folder(SMALL, lambda value: noise(size, value))).train
    pixels = split.pixels(None, side)
    for seed in range(3):
        expected = noise(size, seed).resize(scaled, PILImage.Resampling.BILINEAR).crop(box)
        assert np.array_equal(pixels[seed].permute(1, 2, 0).numpy(), np.asarray(expected))


@pytest.mark.parametrize("size", [(33, 57), (57, 33), (101, 99), (41, 300), (64, 64), (72, 75), (7, 9)])
@pytest.mark.parametrize(("side", "resize"), [(64, 72), (64, 73), (64, 64), (64, None), (15, 31)])
def test_the_shorter_side_may_be_longer_than_the_crop_as_in_torchvision(image_folder, size, side, resize):
    split = load_source(image_folder(SMALL, lambda value: noise(size, value))).train
    transform = Compose([Resize(resize or side), CenterCrop(side)])
    pixels = split.pixels([0, 1], side, resize=resize)
    for seed in range(2):
        assert np.array_equal(pixels[seed].permute(1, 2, 0).numpy(), np.asarray(transform(noise(size, seed))))


@pytest.mark.parametrize("size", [8, 31, 32, 100])
@pytest.mark.parametrize("side", [16, 32, 50])
def test_square_images_are_scaled_as_pillow_scales_them(size, side):
    expected = noise((size, size)).resize((side, side), PILImage.Resampling.BILINEAR)
    assert np.array_equal(square(noise((size, size)), side), np.asarray(expected))


def test_a_line_of_pixels_is_no_image(image_folder):
    assert square(noise((200, 2)), 8).shape == (8, 8, 3)
    with pytest.raises(InputError, match=r"201 x 2 px.*no side may be more than 100 times the other"):
        load_source(image_folder(SMALL, lambda value: noise((201, 2), value)))
    with pytest.raises(InputError, match=r"201 x 2 px.*no side may be more than 100 times the other"):
        square(noise((201, 2)), 8)


def test_grey_and_transparent_images_become_rgb(image_folder):
    def grey(value):
        return picture(value).convert("L" if value == 0 else "RGBA")

    pixels = load_source(image_folder(SMALL, grey)).train.pixels(None, 8)
    assert pixels[0, :, 0, 0].tolist() == [int(np.asarray(picture(0).convert("L"))[0, 0])] * 3
    assert pixels[1, :, 0, 0].tolist() == [1, 254, 7]


@pytest.mark.parametrize(
    ("size", "expected"), [(lambda v: (8, 8), 8), (lambda v: (8, 9), None), (lambda v: (8 + v,) * 2, None)]
)
def test_image_size_is_known_only_when_all_are_square_and_agree(image_folder, size, expected):
    folder = image_folder(SMALL, lambda value: picture(value, size(value)))
    assert load_source(folder).image_size == expected


def test_the_median_side_is_that_of_the_shorter_sides(image_folder):
    shapes = {0: (30, 8), 1: (8, 20), 2: (90, 12), 3: (40, 40), 4: (11, 300)}
    folder = image_folder(
        {"train": {"a": 3, "b": 2}, "test": {"a": 1, "b": 1}}, lambda value: picture(0, shapes.get(value, (8, 8)))
    )
    assert load_source(folder).median_side == 11  # of 8, 8, 11, 12 and 40


# Draws and counts


def test_rows_by_class_are_those_with_the_label_in_order(digits):
    for split in (digits.train, digits.test):
        assert len(split.by_class) == 10
        for label, rows in enumerate(split.by_class):
            assert rows.tolist() == [row for row, own in enumerate(split.labels.tolist()) if own == label]


def test_draw_per_class_is_distinct_class_by_class_and_seeded(digits):
    rows = digits.train.draw_per_class(7, seed=3)
    assert rows.shape == (70,) and len(set(rows.tolist())) == 70
    assert digits.train.labels[rows].tolist() == [label for label in range(10) for _ in range(7)]
    assert np.array_equal(rows, digits.train.draw_per_class(7, seed=3))
    assert not np.array_equal(rows, digits.train.draw_per_class(7, seed=4))


def test_draw_per_class_reaches_every_row(digits):
    smallest = int(np.bincount(digits.train.labels).argmin())
    own = np.flatnonzero(digits.train.labels == smallest)
    rows = digits.train.draw_per_class(len(own), seed=0)
    assert sorted(rows[digits.train.labels[rows] == smallest]) == own.tolist()


def test_check_ipc_names_the_smallest_class(image_folder):
    source = load_source(image_folder({"train": {"ant": 3, "bee": 2, "cow": 4}, "test": {"ant": 1, "bee": 1, "cow": 1}}))
    check_ipc(source, 2)
    with pytest.raises(InputError) as caught:
        check_ipc(source, 3)
    assert caught.value.field == "ipc" and "'bee'" in str(caught.value) and "has 2 images" in str(caught.value)


def test_check_ipc_sees_a_class_without_images(parquet):
    source = load_source(parquet([0, 0, 1], ClassLabel(names=["a", "b", "c"])))
    with pytest.raises(InputError, match="'c'"):
        check_ipc(source, 1)


# Fingerprints


def test_the_fingerprint_depends_on_images_and_labels(parquet, tmp_path):
    feature = ClassLabel(names=["a", "b"])
    seen = {load_source(parquet([0, 1, 0], feature)).fingerprint for _ in range(2)}
    assert len(seen) == 1
    seen.add(load_source(parquet([0, 0, 1], feature)).fingerprint)
    seen.add(load_source(parquet([0, 1, 0, 1], feature)).fingerprint)
    assert len(seen) == 3


def test_fit_folder_tells_contents_kinds_and_settings_apart(digits, monkeypatch, tmp_path):
    monkeypatch.setenv("DISTILL_HUB_CACHE", str(tmp_path))
    folders = [fit_folder(digits, "vae", 1), fit_folder(digits, "vae", 2), fit_folder(digits, "dit", 1)]
    assert len(set(folders)) == 3 and fit_folder(digits, "vae", 1) == folders[0]
    assert all(folder.parent == tmp_path and folder.name.startswith("digits-") for folder in folders)


def test_slug():
    assert [slug("org/My_Set"), slug("digits"), slug("a/b/../C_d/")] == ["my-set", "digits", "c-d"]


# The table of known sources


def test_the_class_lists_hold_10_10_10_and_100_of_imagenets_classes():
    lengths = {"imagenette": 10, "imagewoof": 10, "imageidc": 10, "imagenet100": 100}
    assert {name: len(set(known.wnids)) for name, known in KNOWN.items() if known.wnids} == lengths
    for name in lengths:
        assert len(KNOWN[name].wnids) == lengths[name] and set(KNOWN[name].wnids) <= set(WNIDS)
        assert KNOWN[name].hub_id == "ILSVRC/imagenet-1k"
    assert KNOWN["imagenet1k"].wnids is None


def test_imagenette_is_sorted_and_imagewoof_is_not():
    assert KNOWN["imagenette"].wnids == sorted(KNOWN["imagenette"].wnids)
    assert KNOWN["imagewoof"].wnids != sorted(KNOWN["imagewoof"].wnids)


def test_the_lists_mean_what_they_say():
    short = dict(zip(WNIDS, (d.split(",")[0] for d in DESCRIPTIONS), strict=True))
    assert [short[w] for w in KNOWN["imagenette"].wnids] == [
        "tench", "English springer", "cassette player", "chain saw", "church",
        "French horn", "garbage truck", "gas pump", "golf ball", "parachute",
    ]  # fmt: skip
    # The class indices of ImageNet-1K that papers and repositories list for ImageWoof, in any order.
    woof = [155, 159, 162, 167, 182, 193, 207, 229, 258, 273]
    assert sorted(WNIDS.index(w) for w in KNOWN["imagewoof"].wnids) == woof
    assert KNOWN["imageidc"].wnids == KNOWN["imagenet100"].wnids[:10]


# A set like ImageNet on the Hub: 1,000 classes by description, in ImageNet's order


@pytest.fixture
def imagenet(parquet):
    """Five rows: three of ImageWoof, the two cranes."""
    rows = [WNIDS.index(w) for w in (*sorted(KNOWN["imagewoof"].wnids)[:3], *CRANES)]
    # ClassLabel allows no name twice, so such a set cannot call both classes 'crane'; 'crane2' is the usual way out.
    names = ["crane2" if w == CRANES[1] else d for d, w in zip(DESCRIPTIONS, WNIDS, strict=True)]
    return parquet(rows, ClassLabel(names=names)), rows


def test_a_subset_takes_its_classes_in_the_papers_order_and_drops_the_others(imagenet):
    folder, rows = imagenet
    dataset = datasets.load_dataset(folder)["train"]
    names = dataset.features["label"].names
    classes = sources._classes(names, list(range(1000)), KNOWN["imagewoof"].wnids)
    assert [c.wnid for c in classes] == KNOWN["imagewoof"].wnids
    assert [c.index for c in classes] == [WNIDS.index(w) for w in KNOWN["imagewoof"].wnids]
    assert classes[1].name == "Border terrier"
    opened = Opened({"train": Rows(dataset.select_columns("image"), dataset["label"][:], names)}, "image", "label", {})
    split = sources._split("imagewoof", "train", opened.splits["train"], classes, opened)
    assert split.labels.tolist() == [KNOWN["imagewoof"].wnids.index(WNIDS[row]) for row in rows[:3]]
    assert split.labels.tolist() != sorted(split.labels) and reds(split) == [0, 1, 2]


def test_a_set_of_imagenets_1000_classes_is_recognised_by_its_names(imagenet):
    folder, rows = imagenet
    source = load_source(folder)
    assert [c.wnid for c in source.classes] == WNIDS and [c.index for c in source.classes] == list(range(1000))
    assert source.train.labels.tolist() == rows
    assert len(set(source.class_names)) == 1000
    assert source.class_names[0] == "tench"
    assert [source.class_names[WNIDS.index(w)] for w in CRANES] == [f"crane ({w})" for w in CRANES]


def test_1000_other_classes_are_not_taken_for_imagenets():
    classes = sources._classes([f"class {i}" for i in range(1000)], list(range(1000)), None)
    assert classes[5] == SourceClass("class 5", 5)
    swapped = [*DESCRIPTIONS[:998], DESCRIPTIONS[999], DESCRIPTIONS[998]]
    assert sources._classes(swapped, list(range(1000)), None)[0].wnid is None


# Matching classes


def named(*names):
    return [SourceClass(name, index) for index, name in enumerate(names)]


def matched(classes, names):
    return match_classes(classes, names, "teacher", "the model")


def test_classes_match_by_name_in_any_order():
    assert matched(named("a", "b", "c"), ["c", "a", "b"]) == [1, 2, 0]
    assert matched(named("b", "a"), ["x", "a", "y", "b"]) == [3, 1]


def test_classes_match_by_wnid():
    assert matched([SourceClass("tench", 0, "n01440764"), SourceClass("x", 1, CRANES[0])], [CRANES[0], "n01440764"]) == [
        1,
        0,
    ]


def test_classes_match_by_synonym_case_and_underscore():
    names = ["goldfish, Carassius auratus", "tench, Tinca tinca", "German_shepherd, Alsatian"]
    assert matched(named("tench", "Tinca Tinca", "german shepherd"), names) == [1, 1, 2]
    assert matched(named("tench, Tinca tinca"), ["n0", "Tench"]) == [1]


def test_an_exact_name_wins_over_a_synonym():
    assert matched(named("crane"), ["crane, bird", "crane"]) == [1]


def test_imagenets_1000_classes_match_by_wnid_whatever_they_are_called():
    cranes = [SourceClass(f"crane ({w})", i, w) for i, w in enumerate(CRANES)]
    for names in (DESCRIPTIONS, WNIDS, [d.split(",")[0] for d in DESCRIPTIONS]):
        assert matched(cranes, names) == [134, 517]
    woof = [SourceClass(w, w, w) for w in KNOWN["imagewoof"].wnids]
    assert matched(woof, DESCRIPTIONS) == [WNIDS.index(w) for w in KNOWN["imagewoof"].wnids]


@pytest.mark.parametrize("names", [["a", "c"], ["a", "b, x", "b, y"], ["b", "b", "a"]], ids=["missing", "synonyms", "twice"])
def test_a_class_that_is_missing_or_ambiguous_is_named(names):
    with pytest.raises(InputError) as caught:
        matched(named("a", "b"), names)
    assert caught.value.field == "teacher" and "the model" in str(caught.value)
    assert str(caught.value).endswith("for: b")


def test_of_many_missing_classes_five_are_named():
    with pytest.raises(InputError, match=r"for: c0, c1, c2, c3, c4 and 2 more$"):
        matched(named(*(f"c{i}" for i in range(7))), ["x"])


def test_wnids_are_not_matched_by_position():
    with pytest.raises(InputError, match=CRANES[0]):
        matched([SourceClass(CRANES[0], 0, CRANES[0])], ["something else"])
