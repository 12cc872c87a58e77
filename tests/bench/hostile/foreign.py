"""Sets made elsewhere, and shards of artifacts: every one is adopted with each image under its own class, or refused.

A class is a colour here, red, green or blue, so that an adopted image says by itself where it belongs.
"""

import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import save_file

from tests.bench.hostile.attack import Attack, Outcome, refused, used

CLASSES = ("red", "green", "blue")
ADOPT = ["--source", "src", "--method", "dm", "--output_dir", "out"]
POSITION = ["--classes", "red,green,blue"]
STORED = pa.struct({"bytes": pa.binary(), "path": pa.string()})


def pixels(label: int, number: int = 0, size: int = 8) -> np.ndarray:
    """An image of a class, uint8 (size, size, 3)."""
    image = np.random.default_rng(100 * label + number).integers(0, 60, (size, size, 3), dtype=np.uint8)
    image[..., label] += np.uint8(150)
    return image


def encoded(label: int, number: int = 0, kind: str = "PNG", size: int = 8, **how: Any) -> bytes:
    """The same, encoded."""
    file = io.BytesIO()
    PIL.Image.fromarray(pixels(label, number, size)).save(file, kind, **how)
    return file.getvalue()


def write(path: Path, data: bytes | str) -> None:
    """Write a file, with its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)


def images(root: Path, names: Any = CLASSES, count: int = 2, suffix: str = "png") -> None:
    """Write an image folder; of a mapping, folder to label."""
    labels = names if isinstance(names, dict) else {name: label for label, name in enumerate(names)}
    for name, label in labels.items():
        for number in range(count):
            write(root / str(name) / f"{number}.{suffix}", encoded(label, number))


def placed(outcome: Outcome) -> str | None:
    """Say what is wrong, if anything, where the set is to be adopted: every image under its own class."""
    if wrong := used(outcome):
        return f"{wrong}: {outcome.output[-200:]}"
    names = json.loads((outcome.folder / "out/manifest.json").read_text())["classes"]
    for row in pq.read_table(outcome.folder / "out/data").to_pylist():
        with PIL.Image.open(io.BytesIO(row["image"]["bytes"])) as image:
            seen = CLASSES[int(np.asarray(image.convert("RGB"), dtype=float).mean((0, 1)).argmax())]
        if seen != names[row["label"]]["name"]:
            return f"a {seen} image lies under {names[row['label']]['name']!r}"
        if row["soft_label"][row["label"]] < 0.5:
            return f"its soft label has {row['soft_label'][row['label']]:.2f} for its own class"
    return None


def placed_or_refused(outcome: Outcome) -> str | None:
    """The same, where a refusal is right, too."""
    return placed(outcome) if outcome.code == 0 else refused(outcome)


def told(*words: str) -> Callable[[Outcome], str | None]:
    """A refusal that names something."""

    def right(outcome: Outcome) -> str | None:
        missing = [word for word in words if word not in outcome.output]
        return refused(outcome) or (f"{missing} not said: {outcome.output[-200:]}" if missing else None)

    return right


def attack(kind: str, name: str, build: Callable[[Path], str], right: Any = refused, more: Any = ()) -> Attack:
    """An attack on `adopt`; `build` returns the name of the set."""

    def whole(folder: Path) -> list[str]:
        for split, count in (("train", 4), ("test", 2)):
            images(folder / "src" / split, count=count)
        return ["adopt", build(folder), *ADOPT, *more]

    return Attack(f"foreign: {kind}", name, whole, right)


# Tensors

PLANES = torch.stack([torch.from_numpy(pixels(k, j)) for k in range(3) for j in range(2)]).permute(0, 3, 1, 2).contiguous()
FLOATS = PLANES.float() / 255
LABELS = torch.arange(3).repeat_interleave(2)
ONE_HOT = torch.nn.functional.one_hot(LABELS, 3)
SURE = ONE_HOT.float() * 0.7 + 0.1


class Owner:
    """Creates a file when it is unpickled."""

    def __reduce__(self):
        return os.system, ("touch owned",)


def saved(content: Any, **how: Any) -> Callable[[Path], str]:
    """A .pt file."""

    def build(folder: Path) -> str:
        torch.save(content, folder / "set.pt", **how)
        return "set.pt"

    return build


def forms() -> Iterator[tuple[str, Any, Any, list[str]]]:
    """Contents of a .pt file: name, content, what is right, options."""
    n = PLANES.numpy()
    for form, labels in {
        "int64": LABELS,
        "int32": LABELS.int(),
        "uint8": LABELS.byte(),
        "whole floats": LABELS.float(),
        "half floats": LABELS.half(),
        "(N, 1)": LABELS[:, None],
        "(N, 1) floats": LABELS[:, None].float(),
        "list": LABELS.tolist(),
        "list of floats": LABELS.float().tolist(),
        "numpy": LABELS.numpy(),
        "numpy int32": LABELS.numpy().astype(np.int32),
        "numpy big endian": LABELS.numpy().astype(">i8"),
        "list of numpy numbers": list(LABELS.numpy()),
        "list of tensors": list(LABELS),
        "tuple": tuple(LABELS.tolist()),
        "one-hot ints": ONE_HOT,
        "one-hot bools": ONE_HOT.bool(),
        "one-hot floats": ONE_HOT.float(),
        "one-hot bytes": ONE_HOT.byte(),
        "probabilities": SURE,
        "bfloat16": SURE.bfloat16(),
        "half": SURE.half(),
        "logits": SURE.log() * 3,
        "centred one-hot": ONE_HOT - 1 / 3,
        "centred one-hot bfloat16": (ONE_HOT - 1 / 3).bfloat16(),
        "list of soft labels": list(SURE),
        "per class": list(LABELS.split(2)),
    }.items():
        yield f"labels as {form}", {"images": PLANES, "labels": labels}, placed, POSITION
    for form, labels in {
        "half numbers": LABELS + 0.5,
        "negative": LABELS - 1,
        "texts": ["a"] * 6,
        "None": None,
        "a number": 3,
        "too few": LABELS[:5],
        "two axes": LABELS.reshape(2, 3),
        "three axes": SURE[None],
        "NaN": LABELS * torch.nan,
        "infinite": LABELS + torch.inf,
        "huge": LABELS + 2**62,
        "complex": LABELS + 1j,
        "nested lists": [[0, 1], [2]],
        "two ones": torch.ones(6, 3).long(),
        "no ones": torch.zeros(6, 3).long(),
        "ties": torch.full((6, 3), 1 / 3),
        "sums of 0.9": SURE * 0.9,
        "sums of 100": SURE * 100,
        "NaN soft": SURE * torch.nan,
        "empty": LABELS[:0],
        "small logits": SURE - 0.4 + torch.tensor([0.1, 0.0, 0.05]),
        "dict": {"a": LABELS},
        "expanded": torch.tensor([0]).expand(10**12),
        "soft expanded": torch.tensor([[0.5]]).expand(6, 10**11),
    }.items():
        yield f"labels: {form}", {"images": PLANES, "labels": labels}, refused, POSITION
    for image_key, label_key in (
        ("images", "labels"),
        ("image", "label"),
        ("imgs", "targets"),
        ("img", "target"),
        ("x", "y"),
        ("X", "Y"),
        ("data", "y"),
        ("data", "target"),
        ("syn", "targets"),
        ("image_syn", "label_syn"),
        ("images_syn", "labels_syn"),
        ("x_train", "y_train"),
        ("train_images", "train_labels"),
        ("images_train", "labels_train"),
        ("x_proto", "y_proto"),
        ("Images", "Labels"),
        ("syn_images", "syn_labels"),
    ):
        yield f"keys {image_key}, {label_key}", {image_key: PLANES, label_key: LABELS}, placed, POSITION
    pair, run = [PLANES, LABELS], {"images": PLANES, "labels": LABELS}
    wrong = [PLANES.flip(0), LABELS]
    accuracies = {"ConvNet": [np.float64(0.41), np.float32(0.5)], "all": np.arange(5.0), "flags": np.ones(3, bool)}
    for name, content, more in (
        ("a pair", pair, []),
        ("a tuple", tuple(pair), []),
        ("of numpy", [n, LABELS.numpy()], []),
        ("one run", {"data": [pair]}, []),
        ("one run with numpy numbers", {"data": [pair], "accs_all_exps": accuracies}, []),
        (
            "five runs, the third",
            {"data": [wrong, wrong, pair, wrong, wrong], "accs_all_exps": accuracies},
            ["--index", "2"],
        ),
        ("steps, the last", [wrong, wrong, pair], ["--index", "2"]),
        ("dicts, the first", [run, run], ["--index", "0"]),
        ("by step", {0: wrong, 1000: pair}, ["--index", "1"]),
        ("two pairs, the second", [wrong, pair], ["--index", "1"]),
        ("data without runs", {"data": pair}, []),
        ("more beside", {**run, "lr": 0.1, "epoch": np.int64(5), "notes": "x"}, []),
        ("list of images", [list(PLANES), LABELS], []),
        ("list of numpy images", {"images": list(n), "labels": LABELS}, []),
        ("list per class", {"images": list(PLANES.split(2)), "labels": list(LABELS.split(2))}, []),
        ("channels last", {"images": PLANES.permute(0, 2, 3, 1), "labels": LABELS}, []),
        ("fortran order", {"images": np.asfortranarray(n), "labels": LABELS}, []),
        ("by class number", {0: PLANES[:2], 1: PLANES[2:4], 2: PLANES[4:]}, []),
        ("soft labels beside", {**run, "soft_labels": SURE}, []),
        ("logits beside", {**run, "logits": SURE.log() * 4}, []),
        ("numpy soft labels", {**run, "soft_label": SURE.double().numpy()}, []),
        ("logits that are said to be", {**run, "soft_labels": SURE * 3}, ["--label_kind", "logits"]),
        ("centred that are said to be", {**run, "soft_labels": SURE - 1 / 3 - 0.02}, ["--label_kind", "centred"]),
        ("uneven", [PLANES[:5], LABELS[:5]], []),
        ("two classes", [PLANES[:4], LABELS[:4]], []),
        ("last class", [PLANES[4:], LABELS[4:]], []),
    ):
        yield f"layout: {name}", content, placed, [*POSITION, *more]
    yield "layout: by class name", {"green": PLANES[2:4], "blue": PLANES[4:], "red": PLANES[:2]}, placed, []
    for name, content, words in (
        ("five runs", {"data": [pair] * 5}, ("5 sets", "--index")),
        ("two steps", [pair, wrong], ("2 sets", "--index")),
        ("no runs", {"data": []}, ()),
        ("images only", {"images": PLANES}, ()),
        ("labels only", {"labels": LABELS}, ()),
        ("two kinds of images", {**run, "x": PLANES}, ("images, labels, x",)),
        ("two kinds of labels", {**run, "y": LABELS}, ()),
        ("labels and y beside soft", {**run, "soft_labels": SURE, "logits": SURE}, ()),
        ("a text", "set", ()),
        ("None", None, ()),
        ("an empty list", [], ()),
        ("an empty dict", {}, ()),
        ("nested", {"data": {"images": PLANES, "labels": LABELS}}, ()),
        ("four in a list", [PLANES, LABELS, SURE, SURE], ()),
        ("sparse", {"images": PLANES.float().to_sparse(), "labels": LABELS}, ()),
        ("meta", {"images": torch.empty(6, 3, 8, 8, device="meta"), "labels": LABELS}, ()),
        ("quantised", [torch.quantize_per_tensor(FLOATS, 0.1, 0, torch.quint8), LABELS], ()),
        ("complex", [PLANES.to(torch.complex64), LABELS], ()),
        ("bools", [PLANES > 9, LABELS], ()),
        ("empty", [PLANES[:0], LABELS[:0]], ()),
        ("five axes", [PLANES[None], LABELS], ()),
        ("two channels", [PLANES[:, :2], LABELS], ()),
        ("NaN", [FLOATS * torch.nan, LABELS], ()),
        ("expanded images", [torch.zeros(1, 1, 1, 1).expand(10**10, 3, 1, 1), LABELS], ()),
        ("an expanded side", [torch.zeros(6, 3, 1, 1).expand(6, 3, 10**5, 10**5), LABELS], ()),
        ("uneven list", [[*PLANES[:5], PLANES[5, :, :4]], LABELS], ()),
        ("object array", [np.array([PLANES, 1], object), LABELS], ()),
        ("text array", {**run, "soft_labels": np.array(["a"] * 6)}, ()),
        ("date array", {**run, "y2": np.array(["2020"], "M8[D]")}, ()),
        ("a class", {**run, "more": Owner()}, ("executed",)),
        ("only a class", Owner(), ("executed",)),
        ("a path", {**run, "p": Path("x")}, ()),
        ("an index too far", {"data": [pair] * 2}, ()),
    ):
        yield f"layout: {name}", content, told(*words), POSITION + ["--index", "2"] * (name == "an index too far")
    mean, std = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    given = ["--mean", "0.485,0.456,0.406", "--std", "0.229,0.224,0.225"]
    for name, values, more, right in (
        ("bytes", PLANES, [], placed),
        ("floats", FLOATS, [], placed),
        ("half", FLOATS.half(), [], placed),
        ("bfloat16", FLOATS.bfloat16(), [], placed),
        ("whole floats to 255", PLANES.float(), [], placed),
        ("int64", PLANES.long(), [], placed),
        ("normalised", (FLOATS - mean) / std, given, placed),
        ("normalised, not said", (FLOATS - mean) / std, [], told("--mean")),
        ("-1 to 1", FLOATS * 2 - 1, ["--mean", "0.5", "--std", "0.5"], placed),
        ("-1 to 1, not said", FLOATS * 2 - 1, [], told("--mean")),
        ("0 to 255", FLOATS * 254 + 0.3, ["--pixel_range", "255"], placed),
        ("0 to 255, not said", FLOATS * 254 + 0.3, [], told("--pixel_range")),
        ("0 to 255, beyond", FLOATS * 260 - 3, ["--pixel_range", "255", "--max_clipped", "0.5"], placed),
        ("0 to 255, beyond, not said", FLOATS * 280 - 10, [], told("--pixel_range")),
        ("16 bits", PLANES.int() * 257, ["--pixel_range", "65535"], placed),
        ("16 bits, not said", PLANES.int() * 257, [], told("--pixel_range")),
        ("0 to 255, wrong mean and std", FLOATS * 254 + 0.3, ["--mean", "0", "--std", "1"], told("--pixel_range")),
        ("0 to 255, mean 0.5", FLOATS * 254 + 0.3, ["--mean", "0.5", "--std", "0.5"], told("--max_clipped")),
        ("ones and zeros", (PLANES > 99).byte(), [], told("--pixel_range")),
        ("pixels with mean", FLOATS, given, told("no normalisation")),
        ("image_size 30000", PLANES, ["--image_size", "30000"], refused),
        ("image_size 16384", PLANES, ["--image_size", "16384"], placed_or_refused),
        ("image_size 0", PLANES, ["--image_size", "0"], refused),
        ("pixel_range 0", FLOATS, ["--pixel_range", "0"], refused),
        ("pixel_range and mean", FLOATS, [*given, "--pixel_range", "255"], refused),
        ("max_clipped 2", FLOATS, ["--max_clipped", "2"], refused),
    ):
        if name != "image_size 16384":  # 5 GB of pixels, which is what it is told
            yield f"pixels: {name}", [values, LABELS], right, [*POSITION, *more]


def content_is_data(content: Any) -> bool:
    """Whether the old format of PyTorch can hold it."""
    return isinstance(content, dict) and set(content) == {"images", "labels"} and isinstance(content["labels"], np.ndarray)


def flipped(data: bytes, place: int) -> bytes:
    """One byte changed."""
    return data[:place] + bytes([data[place] ^ 0x15]) + data[place + 1 :]


def placed_or_refused_of_damage(outcome: Outcome) -> str | None:
    """A damaged pixel is not noticed; a traceback is."""
    return refused(outcome) if outcome.code else used(outcome)


def file_of(name: str, data: bytes) -> Callable[[Path], str]:
    """A set that is one file."""

    def build(folder: Path) -> str:
        write(folder / name, data)
        return name

    return build


def npz_that_lies(folder: Path) -> str:
    """An array whose header claims 10 TB."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (10**12, 3, 1, 1)})
    with zipfile.ZipFile(folder / "set.npz", "w") as archive:
        archive.writestr("images.npy", header.getvalue())
        archive.writestr("labels.npy", header.getvalue())
    return "set.npz"


def attacks() -> Iterator[Attack]:
    """Files of tensors."""
    for name, content, right, more in forms():
        if content_is_data(content):
            yield attack("tensors", f"{name}, legacy", saved(content, _use_new_zipfile_serialization=False), right, more)
        yield attack("tensors", name, saved(content), right, more)
    good = io.BytesIO()
    torch.save({"images": PLANES, "labels": LABELS, "a": np.arange(9.0)}, good)
    for place in range(0, len(good.getvalue()), 97):
        yield attack(
            "tensors",
            f"byte {place} damaged",
            file_of("set.pt", flipped(good.getvalue(), place)),
            placed_or_refused_of_damage,
            POSITION,
        )
    for name, data in {
        "empty": b"",
        "zeros": bytes(999),
        "pickle": pickle.dumps(Owner()),
        "text": b"images",
        "numpy pickle": pickle.dumps(np.arange(3)),
    }.items():
        for suffix in ("pt", "pth", "safetensors", "npz", "npy", "zip"):
            yield attack("tensors", f"{name} as .{suffix}", file_of(f"images.{suffix}", data), refused, POSITION)

    def npz(folder: Path, **content: Any) -> str:
        np.savez_compressed(folder / "set.npz", **content)
        return "set.npz"

    n, y = PLANES.numpy(), LABELS.numpy()
    yield attack("tensors", "npz", lambda f: npz(f, images=n, labels=y), placed, POSITION)
    yield attack("tensors", "npz of one-hot bools", lambda f: npz(f, x=n, y=ONE_HOT.bool().numpy()), placed, POSITION)
    yield attack(
        "tensors",
        "npz of centred labels",
        lambda f: npz(f, images=n / 255.0, labels=ONE_HOT.numpy() - 1 / 3),
        placed,
        POSITION,
    )
    yield attack(
        "tensors", "npz of objects", lambda f: npz(f, images=np.array([Owner()], object), labels=y), refused, POSITION
    )
    yield attack("tensors", "npz of texts", lambda f: npz(f, images=n, labels=np.array(["a"] * 6)), refused, POSITION)
    yield attack("tensors", "npz that says more than it holds", npz_that_lies, refused, POSITION)

    def safe(folder: Path) -> str:
        save_file({"images": PLANES, "labels": LABELS}, folder / "set.safetensors")
        return "set.safetensors"

    yield attack("tensors", "safetensors", safe, placed, POSITION)
