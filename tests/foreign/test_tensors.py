"""Files of tensors."""

import contextlib
import pickle

import numpy as np
import pytest
import torch
from foreign_files import LABELS, LOGITS, PIXELS, PLANES, PROBABILITIES, VALUES, check, refusal

from distill_hub.config import InputError
from distill_hub.foreign.read import read_foreign


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
        ({"images": ["a"], "labels": VALUES}, "images must be a tensor of numbers; it is list"),
        ({"images": PLANES.to(torch.complex64), "labels": VALUES}, "it is complex64"),
        ({"images": PLANES, "labels": VALUES > 0}, "they are bool of (6,)"),
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
        (torch.full((6,), 0.5), None, "labels must be whole numbers"),
        (torch.zeros(6, 3, dtype=torch.int64), None, "labels must be whole numbers"),
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
    error = refusal(path, mean="0.5", std="0.25")
    assert "25 % of its values" in str(error) and "--max_clipped" in str(error)
    found = read_foreign(str(path), mean="0.5", std="0.25", max_clipped=0.25)
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


# Forms of the field's own files


def test_numbers_and_arrays_of_numpy_are_data(tmp_path):
    facts = {
        "accs": [np.float64(0.41), np.float32(0.5)],
        "all": np.arange(3.0),
        "none": np.zeros((0, 3)),
        "ok": np.ones(2, bool),
    }
    torch.save({"data": [[PLANES, VALUES]] * 5, **facts}, tmp_path / "res.pt")
    error = refusal(tmp_path / "res.pt")
    assert error.field == "index" and "5 sets; choose one with --index: 0 to 4" in str(error)
    check(read_foreign(str(tmp_path / "res.pt"), index=4))
    assert "5 sets, 0 to 4" in str(refusal(tmp_path / "res.pt", index=5))
    for order in ("C", "F"):
        images = np.array(PLANES.numpy(), order=order)
        torch.save({"images": images, "labels": LABELS.astype(">i4")}, tmp_path / "set.pt")
        check(read_foreign(str(tmp_path / "set.pt")))


def test_object_arrays_in_pt_are_refused(tmp_path):
    for array in (np.array([Evil(str(tmp_path / "trace"))], object), np.array([[1], "a"], object), np.array(["a"])):
        torch.save({"images": PLANES, "labels": VALUES, "more": array}, tmp_path / "set.pt")
        refusal(tmp_path / "set.pt")
    assert not (tmp_path / "trace").exists()


SETS = {
    "steps": ([[PLANES.flip(0), VALUES], [PLANES, VALUES]], {"index": 1}),
    "by step": ({0: (PLANES.flip(0), VALUES), 100: (PLANES, VALUES)}, {"index": 1}),
    "dicts": ([{"images": PLANES, "labels": VALUES}] * 2, {"index": 0}),
    "list of images": ([list(PLANES), VALUES.tolist()], {}),
    "parts": ({"images": list(PLANES.split(2)), "labels": list(VALUES.split(2))}, {}),
    "capitals": ({"X": PLANES, "Y": VALUES}, {}),
    "syn": ({"image_syn": PLANES, "label_syn": VALUES}, {}),
    "pixel values": ({"pixel_values": PLANES, "classes": VALUES}, {}),
    "texts of NumPy": ({"images": PLANES, "labels": VALUES, "name": np.str_("dm"), "note": np.str_("")}, {}),
    "proto": ({"x_proto": PLANES, "y_proto": VALUES}, {}),
}


@pytest.mark.parametrize("kind", SETS)
def test_layouts_of_files(tmp_path, kind):
    content, options = SETS[kind]
    torch.save(content, tmp_path / "set.pt")
    check(read_foreign(str(tmp_path / "set.pt"), **options))


def test_images_per_class(tmp_path):
    torch.save({1: PLANES[:2], 0: PLANES[2:3]}, tmp_path / "set.pt")
    check(read_foreign(str(tmp_path / "set.pt")), images=PLANES[:3], labels=[1, 1, 0])
    torch.save({"pear": PLANES[:2], "fig": PLANES[2:3]}, tmp_path / "set.pt")
    check(read_foreign(str(tmp_path / "set.pt")), images=PLANES[:3], labels=[1, 1, 0], names=["fig", "pear"])


@pytest.mark.parametrize(
    "labels",
    [VALUES.float(), VALUES[:, None], VALUES[:, None].half(), VALUES.tolist(), list(VALUES), LABELS, list(LABELS)]
    + [torch.nn.functional.one_hot(VALUES).to(kind) for kind in (torch.int64, torch.bool, torch.uint8, torch.float32)],
)
def test_forms_of_labels(tmp_path, labels):
    torch.save({"images": PLANES, "labels": labels}, tmp_path / "set.pt")
    check(read_foreign(str(tmp_path / "set.pt")))


def test_arrays_without_names(tmp_path):
    np.savez(tmp_path / "set.npz", PLANES.numpy(), VALUES.numpy())
    check(read_foreign(str(tmp_path / "set.npz")))


def test_a_folder_of_files_of_which_one_is_to_be_named(tmp_path):
    for name in ("ipc1.pt", "ipc10.pt"):
        torch.save({"images": PLANES, "labels": VALUES}, tmp_path / name)
    assert "holds ipc1.pt, ipc10.pt; pass the path of one file" in str(refusal(tmp_path))


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_a_range_of_pixels_is_a_number_above_0(save, value):
    assert refusal(save("pt"), pixel_range=value).field == "pixel_range"


# What the numbers of soft labels are


def test_tolerance_follows_what_the_values_keep(save):
    soft = torch.tensor([[0.2525, 0.2525, 0.495]] * 6)
    kept = soft.bfloat16().float()
    assert (kept.sum(1) - 1).abs().max() > 1e-3  # beyond the tolerance of float32
    for values in (soft.bfloat16(), kept):
        check(read_foreign(str(save("pt", soft_labels=values))), soft=kept / kept.sum(1, keepdim=True))
    assert "neither" in str(refusal(save("pt", soft_labels=(soft * 1.01).bfloat16())))


def test_centred_one_hot_labels_are_one_hot(save):
    one_hot = torch.nn.functional.one_hot(VALUES, 10).float()
    for labels in (one_hot - 0.1, (one_hot - 0.1) * 3, (one_hot - 0.1).double()):
        found = read_foreign(str(save("pt", labels=labels)))
        check(found, soft=one_hot)
        assert "centred" in found.notes["soft_labels"]


def test_what_may_be_logits_or_centred_labels_is_asked_for(save):
    labels = torch.nn.functional.one_hot(VALUES, 3).float() - 1 / 3
    labels[0] += torch.tensor([0.1, 0.2, -0.15])
    path = save("pt", labels=labels)
    error = refusal(path)
    assert error.field == "label_kind" and "logits, probabilities or centred" in str(error)
    check(read_foreign(str(path), label_kind="logits"), soft=labels.softmax(1))
    expected = (labels + 1 / 3).clip(0)
    check(read_foreign(str(path), label_kind="centred"), soft=expected / expected.sum(1, keepdim=True))
    assert "no probabilities" in str(refusal(path, label_kind="probabilities"))


def test_what_is_said_to_be_probabilities_is_scaled(save):
    labels = torch.tensor([[0.33, 0.33, 0.32]] * 3 + [[0.0, 0.5, 0.0]] * 3)  # rounded, and the largest alone
    path = save("pt", soft_labels=labels)
    assert "neither probabilities (rows sum to 0.5 to 0.98, not 1)" in str(refusal(path))
    found = read_foreign(str(path), label_kind="probabilities")
    check(found, soft=torch.tensor([[33 / 98, 33 / 98, 32 / 98]] * 3 + [[0.0, 1.0, 0.0]] * 3))
    assert "summed to 0.5 to 0.98" in found.notes["soft_labels"]
    assert refusal(path, label_kind="centred").field == "label_kind"
    assert "a row is 0 throughout" in str(refusal(save("pt", soft_labels=labels * 0), label_kind="probabilities"))


def test_labels_that_do_not_decide_are_refused(save):
    assert "class of image 2" in str(
        refusal(save("pt", labels=torch.tensor([[1.0, 0], [0, 1], [0.5, 0.5]] * 2) * 0.5 + 0.25))
    )


# Pixels, and what a few bytes claim


def test_floats_up_to_255_are_asked_for(save):
    path = save("pt", PLANES.float() * 0.99 + 0.3)
    assert refusal(path).field == "pixel_range" and "e.g. 255" in str(refusal(path))
    expected = (PLANES.double() * 0.99 + 0.3).round().to(torch.uint8)
    found = read_foreign(str(path), pixel_range=255)
    assert (found.images.int() - expected.int()).abs().max() <= 1
    assert "outside the range" in str(refusal(path, mean="0", std="1"))


@pytest.mark.parametrize(
    "content",
    [
        {"images": PLANES, "labels": torch.zeros(1, dtype=torch.int64).expand(10**10)},
        {"images": PLANES, "labels": torch.zeros(1, 1).expand(6, 10**12)},
        {"images": torch.zeros(1, 1, 1, 1).expand(10**10, 3, 1, 1), "labels": VALUES},
        {"images": PLANES, "labels": VALUES, "soft_labels": torch.zeros(1, 1).expand(6, 10**12)},
    ],
)
def test_tensors_of_a_few_bytes_are_refused_before_they_are_copied(tmp_path, content):
    torch.save(content, tmp_path / "set.pt")
    assert (tmp_path / "set.pt").stat().st_size < 10_000
    assert "are stored" in str(refusal(tmp_path / "set.pt"))


def test_images_larger_than_any_are_refused(save):
    assert refusal(save("pt"), image_size=30_000).field == "image_size"
