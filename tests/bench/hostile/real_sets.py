"""Distilled sets as the field's programs and people leave them: each image has to end under its own class."""

import collections
import io
import json
import unicodedata
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from datasets import Array3D, ClassLabel, Dataset, Features, Image, Sequence, Value
from safetensors.torch import save_file

from tests.bench.hostile.attack import Attack, refused, used
from tests.bench.hostile.foreign import (
    CLASSES,
    FLOATS,
    LABELS,
    ONE_HOT,
    PLANES,
    POSITION,
    SURE,
    attack,
    encoded,
    images,
    placed,
    placed_or_refused,
    told,
    write,
)

Case = tuple[str, Callable[[Path], str], Any, list[str]]
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
NORMAL = (FLOATS - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
UNDO = ["--mean", ",".join(map(str, MEAN)), "--std", ",".join(map(str, STD))]
ACCURACIES = {"ConvNet": [np.float64(0.537), np.float64(0.541)], "MLP": []}


def files(own: dict[str, Any], place: str = "set", named: str | None = None) -> Callable[[Path], str]:
    """Write files: .pt by what is saved, images by their label, else bytes and texts; the set is the folder, or one file."""

    def build(folder: Path) -> str:
        for number, (name, content) in enumerate(own.items()):
            path = folder / place / name
            if name.endswith((".pt", ".pth")):
                path.parent.mkdir(parents=True, exist_ok=True)
                torch.save(content, path)
            elif name.endswith(".npy"):
                path.parent.mkdir(parents=True, exist_ok=True)
                np.save(path, content)
            elif isinstance(content, int):
                kind = {"jpg": "JPEG", "jpeg": "JPEG", "webp": "WEBP", "gif": "GIF", "bmp": "BMP", "tif": "TIFF"}
                write(path, encoded(content, number, kind.get(path.suffix[1:].lower(), "PNG")))
            else:
                write(path, content)
        return f"{place}/{named}" if named else place

    return build


def on_gpu(content: Any, name: str = "set.pt") -> Callable[[Path], str]:
    """What is saved on a GPU: tensors say so in the file."""

    def build(folder: Path) -> str:
        data = io.BytesIO()
        torch.save(content, data)
        with zipfile.ZipFile(data) as old, zipfile.ZipFile(folder / name, "w") as new:
            for entry in old.namelist():
                own = old.read(entry)
                if entry.endswith("data.pkl"):
                    own = own.replace(b"X\x03\x00\x00\x00cpu", b"X\x06\x00\x00\x00cuda:0")
                    assert b"cuda:0" in own
                new.writestr(entry, own)
        return name

    return build


class Tuned(torch.nn.Module):
    """A set as parameters of a module."""

    def __init__(self) -> None:
        super().__init__()
        self.images, self.labels = torch.nn.Parameter(FLOATS), torch.nn.Buffer(LABELS)


def programs() -> Iterator[Case]:
    """Files of the field's programs, by their names and forms."""
    run = [NORMAL, LABELS]
    undone = [*POSITION, *UNDO]

    def file(name: str, content: Any) -> Callable[[Path], str]:
        return files({name: content}, "results", name)

    for name in ("res_DC_CIFAR10_ConvNet_10ipc.pt", "res_DSA_SVHN_ConvNet_1ipc.pt", "res_DM_TinyImageNet_ConvNet_50ipc.pt"):
        five = {"data": [run] * 5, "accs_all_exps": ACCURACIES}
        yield f"{name}, one run", file(name, {"data": [run], "accs_all_exps": ACCURACIES}), placed, undone
        yield f"{name}, five runs", file(name, five), told("5 sets", "--index", "0 to 4"), undone
        yield (
            f"{name}, the last",
            file(name, {**five, "data": [[NORMAL.flip(0), LABELS]] * 4 + [run]}),
            placed,
            [*undone, "--index", "4"],
        )
        yield f"{name}, beyond", file(name, five), told("0 to 4"), [*undone, "--index", "5"]
        yield f"{name}, not undone", file(name, five), told("--mean"), [*POSITION, "--index", "1"]
    yield "DC saved on a GPU", on_gpu({"data": [run], "accs_all_exps": ACCURACIES}), placed, undone
    yield "a pair saved on a GPU", on_gpu([FLOATS, LABELS]), placed, POSITION
    grads = [NORMAL.clone().requires_grad_(), LABELS]
    yield "images that have gradients", file("set.pt", grads), placed, undone
    yield "parameters", file("set.pt", [torch.nn.Parameter(FLOATS), LABELS]), placed, POSITION
    yield "an ordered dict", file("set.pt", collections.OrderedDict(images=FLOATS, labels=LABELS)), placed, POSITION
    yield "the state of a module", file("set.pth", Tuned().state_dict()), placed, POSITION
    yield "a module", file("set.pth", Tuned()), told("executed"), POSITION
    yield "a TensorDataset", file("set.pt", torch.utils.data.TensorDataset(FLOATS, LABELS)), told("executed"), POSITION
    beside = {"data": [run], "args": __import__("argparse").Namespace(lr=1)}
    yield "options beside", file("set.pt", beside), told("executed"), undone
    mtt = {
        f"{kind}{end}.pt": content
        for end, x in (("_0", NORMAL.flip(0)), ("_5000", NORMAL.flip(0)), ("_best", NORMAL))
        for kind, content in (("images", x), ("labels", LABELS))
    }
    yield "MTT, the best", files(mtt, "CIFAR10", "images_best.pt"), placed, undone
    yield "MTT, the folder", files(mtt, "CIFAR10"), told("images_best.pt"), undone
    best = {"images_best.pt": NORMAL, "labels_best.pt": LABELS}
    yield "MTT, the best alone in its folder", files(best, "MTT"), placed, undone
    yield (
        "MTT, ZCA",
        files({"images_zca_best.pt": NORMAL, "labels_best.pt": LABELS}, "zca", "images_zca_best.pt"),
        told("labels"),
        undone,
    )
    yield "MTT, without labels", files({"images_best.pt": NORMAL}, "x", "images_best.pt"), told("labels"), undone
    yield (
        "DATM, logits",
        files({**best, "labels_best.pt": (SURE.log() * 8), "lr_best.pt": torch.tensor(0.01)}, "DATM"),
        placed,
        undone,
    )
    yield (
        "DATM, logits of a file",
        files({**best, "labels_best.pt": (SURE.log() * 8)}, "DATM", "images_best.pt"),
        placed,
        undone,
    )
    yield "TESLA, soft and small", files({**best, "labels_best.pt": SURE - 0.3}, "TESLA"), told("--label_kind"), undone
    yield (
        "TESLA, said to be logits",
        files({**best, "labels_best.pt": SURE * 3}, "TESLA"),
        placed,
        [*undone, "--label_kind", "logits"],
    )
    yield (
        "TESLA, with gradients",
        files({**best, "labels_best.pt": (SURE.log() * 8).requires_grad_()}, "TESLA"),
        placed,
        undone,
    )
    yield (
        "IDC",
        files({"data_best.pt": [NORMAL, LABELS], "data.pt": [NORMAL, LABELS]}, "idc", "data_best.pt"),
        placed,
        undone,
    )
    yield "DD, steps with learning rates", file("results.pth", [(NORMAL, LABELS, torch.tensor(0.02))] * 2), refused, undone
    yield (
        "KIP",
        lambda f: npz(f, images=NORMAL.permute(0, 2, 3, 1).numpy(), labels=(ONE_HOT - 1 / 3).numpy()),
        placed,
        undone,
    )
    yield (
        "KIP in double",
        lambda f: npz(f, images=NORMAL.double().permute(0, 2, 3, 1).numpy(), labels=(ONE_HOT - 1 / 3).double().numpy()),
        placed,
        undone,
    )
    yield (
        "FRePo",
        lambda f: npz(f, x_proto=NORMAL.permute(0, 2, 3, 1).numpy(), y_proto=(ONE_HOT * 0.8 - 0.8 / 3).numpy()),
        placed,
        undone,
    )
    yield (
        "MNIST's npz of Keras",
        lambda f: npz(
            f, x_train=PLANES[:, 0].numpy(), y_train=LABELS.numpy(), x_test=PLANES[:, 0].numpy(), y_test=LABELS.numpy()
        ),
        used,
        POSITION,
    )
    yield "arrays without names", lambda f: npz(f, arr_0=PLANES.numpy(), arr_1=LABELS.numpy()), placed, POSITION
    yield "npy pair", files({"images.npy": PLANES.numpy(), "labels.npy": LABELS.numpy()}), placed, POSITION
    yield "safetensors in half", lambda f: safe(f, images=FLOATS.half(), labels=LABELS.int()), placed, POSITION
    yield "safetensors in bfloat16", lambda f: safe(f, images=FLOATS.bfloat16(), labels=LABELS.short()), placed, POSITION
    yield "safetensors, soft too", lambda f: safe(f, images=PLANES, labels=LABELS, soft_labels=SURE.half()), placed, POSITION
    yield "a label that is not used", file("set.pt", [PLANES[:2], LABELS[:2] + 2]), placed, ["--classes", "green,blue,red"]
    yield "a tuple of lists", file("set.pt", (list(PLANES), [int(v) for v in LABELS])), placed, POSITION
    by_class = {f"class_{k}": PLANES[2 * k : 2 * k + 2] for k in (2, 0, 1)}
    yield "by class_0, class_1, ...", file("set.pt", by_class), placed, POSITION
    yield "by class_0, not said", file("set.pt", by_class), told("--classes"), []
    ten = {f"c{k}": PLANES[2 * (k % 3) : 2 * (k % 3) + 1] for k in range(12)}
    yield "by c0 to c11, too many", file("set.pt", ten), refused, POSITION
    # Folders of images.
    forms = {
        "SRe2L": "new{0:03d}/class{0:03d}_id{1:03d}.jpg",
        "RDED": "{0:05d}/class{0:05d}_id{1:05d}.jpg",
        "G-VBSM": "syn_data/new{0:03d}/class{0:03d}_id{1:03d}.jpg",
        "CDA": "{0}/{1}.jpg",
        "LPLD": "new{0:04d}/{1}.jpeg",
        "class folders": "class_{0}/img_{1}.png",
        "labels": "label{0}/{1}.png",
        "dashes": "class-{0}/{1}.png",
        "numbers and ipc": "ipc_10/{0}/{1}.png",
        "numbers in train": "train/{0}/{1}.webp",
    }
    for name, form in forms.items():
        own: dict[str, Any] = {form.format(k, n): k for k in range(3) for n in range(11)}
        yield name, files(own), placed, POSITION
        yield f"{name}, not said", files(own), told("--classes"), []
        yield (
            f"{name}, another order",
            files({form.format((k + 1) % 3, n): k for k in range(3) for n in range(2)}),
            placed,
            ["--classes", "blue,red,green"],
        )
        yield f"{name}, zip", zipped({f"syn/{key}": value for key, value in own.items()}), placed, POSITION


def npz(folder: Path, **content: Any) -> str:
    """A compressed .npz."""
    np.savez_compressed(folder / "set.npz", **content)
    return "set.npz"


def safe(folder: Path, **content: Any) -> str:
    """A .safetensors."""
    save_file(content, folder / "set.safetensors")
    return "set.safetensors"


def zipped(own: dict[str, Any], name: str = "set.zip", **how: Any) -> Callable[[Path], str]:
    """A .zip of images by their labels, and of texts."""

    def build(folder: Path) -> str:
        with zipfile.ZipFile(folder / name, "w", **how) as file:
            for number, (entry, content) in enumerate(own.items()):
                file.writestr(entry, encoded(content, number) if isinstance(content, int) else content)
        return name

    return build


def tables() -> Iterator[Case]:
    """What `datasets` writes for distilled sets on the Hub."""
    colours = LABELS.tolist()
    order = ["blue", "red", "green"]
    place = [order.index(CLASSES[k]) for k in colours]

    def table(labels: Any, kind: Any, more: Any = None, image: str = "image", label: str = "label", **data: Any) -> Dataset:
        own = {image: [{"bytes": encoded(k, n), "path": f"{n}.png"} for n, k in enumerate(colours)], label: labels, **data}
        return Dataset.from_dict(own, features=Features({image: Image(), label: kind, **(more or {})}))

    def parquet(own: dict[str, Any]) -> Callable[[Path], str]:
        def build(folder: Path) -> str:
            for name, content in own.items():
                (folder / "set" / name).parent.mkdir(parents=True, exist_ok=True)
                content.to_parquet(folder / "set" / name) if isinstance(content, Dataset) else write(
                    folder / "set" / name, content
                )
            return "set"

        return build

    named, part = ClassLabel(names=order), "-00000-of-00001.parquet"
    good = table(place, named)
    bad = table([(v + 1) % 3 for v in place], named)
    for name in (f"data/train{part}", "train.parquet", f"default/train{part}", "0000.parquet", "data/distilled.parquet"):
        yield f"ClassLabel, {name}", parquet({name: good}), placed, []
    yield (
        "train, test and validation",
        parquet({f"data/{split}{part}": own for split, own in (("train", good), ("test", bad), ("validation", bad))}),
        placed,
        [],
    )
    yield (
        "splits by ipc",
        parquet({f"data/ipc{n}{part}": own for n, own in ((1, bad), (10, good), (50, bad))}),
        told("--split", "ipc1, ipc10, ipc50"),
        [],
    )
    yield (
        "splits by ipc, one",
        parquet({f"data/ipc{n}{part}": own for n, own in ((1, bad), (10, good), (50, bad))}),
        placed,
        ["--split", "ipc10"],
    )
    yield (
        "configurations by ipc, one",
        parquet({f"ipc_{n}/train{part}": own for n, own in ((1, bad), (10, good))}),
        placed,
        ["--split", "ipc_10"],
    )
    ordered = table([CLASSES[k] for k in colours], Value("string"))
    yield "texts", parquet({"train.parquet": ordered}), placed, []
    yield (
        "columns img and fine_label",
        parquet({"train.parquet": table(place, named, image="img", label="fine_label")}),
        placed,
        [],
    )
    both = table(place, named, {"coarse_label": ClassLabel(names=["x", "y"])}, coarse_label=[0] * 6)
    yield "two ClassLabels", parquet({"train.parquet": both}), told("--set_label_column"), []
    yield "two ClassLabels, one named", parquet({"train.parquet": both}), placed, ["--set_label_column", "label"]
    yield "--label_column means the source", parquet({"train.parquet": both}), refused, ["--label_column", "label"]
    for kind in (Sequence(Value("float32")), Sequence(Value("float64"), length=3), Sequence(Value("float16"))):
        try:
            soft = table(place, named, {"soft_label": kind}, soft_label=SURE[:, [2, 0, 1]].double().tolist())
        except Exception:  # float16 cannot be written by some versions
            continue
        yield f"soft labels {kind}"[:70], parquet({"train.parquet": soft}), placed, []
    raw = Dataset.from_dict(
        {"image": PLANES.numpy().tolist(), "label": place},
        features=Features({"image": Array3D((3, 8, 8), "uint8"), "label": named}),
    )
    yield "pixels in arrays", parquet({"train.parquet": raw}), refused, []
    extra = table(place, named, {"text": Value("string"), "score": Value("float32")}, text=["x"] * 6, score=[0.5] * 6)
    yield "more columns", parquet({"train.parquet": extra}), placed, []
    info = "---\ndataset_info:\n- config_name: {0}\n  features:\n  - name: image\n    dtype: image\n  - name: label\n"
    info += "    dtype:\n      class_label:\n        names:\n{1}---\n"
    lines = "".join(f"          '{k}': {name}\n" for k, name in enumerate(order))
    plain = table(place, Value("int64"))

    def bare(data: Dataset) -> bytes:
        file = io.BytesIO()
        pq.write_table(data.data.table.replace_schema_metadata(None), file)
        return file.getvalue()

    for config in ("default", "ipc10"):
        yield (
            f"names in the card, {config}",
            parquet({f"data/train{part}": bare(plain), "README.md": info.format(config, lines)}),
            placed,
            [],
        )
    twice = (
        info.format("a", lines).removesuffix("---\n")
        + info.format("b", lines[::-1] and "".join(f"          '{k}': {n}\n" for k, n in enumerate(CLASSES))).split("\n", 2)[
            2
        ]
    )
    yield (
        "two infos that differ",
        parquet({f"data/train{part}": bare(plain), "README.md": twice}),
        told("README.md", "differently"),
        [],
    )
    yes = lines.replace("red", "yes")
    yield (
        "a name that YAML takes for a truth",
        parquet({f"data/train{part}": bare(plain), "README.md": info.format("default", yes)}),
        refused,
        [],
    )
    cells = pa.array([{"bytes": encoded(k, n), "path": None} for n, k in enumerate(colours)])
    for name, column in {
        "pandas categories": pa.array([CLASSES[k] for k in colours]).dictionary_encode(),
        "int8": pa.array(place, pa.int8()),
        "uint64": pa.array(place, pa.uint64()),
        "doubles": pa.array([float(v) for v in place]),
        "truths": pa.array([v == 0 for v in place]),
    }.items():
        file = io.BytesIO()
        pq.write_table(pa.table({"image": cells, "label": column}), file)
        right = placed if name != "truths" else used
        yield (
            f"plain, {name}",
            parquet({"set.parquet": file.getvalue()}),
            right,
            [] if name[0] == "p" else ["--classes", ",".join(order)],
        )


def names() -> Iterator[Case]:
    """Places and names that people have."""
    for place in (
        *(
            "my set",
            "dd (1)",
            "set [v2]",
            "a.b.c",
            "100%",
            "ünï",
            unicodedata.normalize("NFD", "ünï"),
            "集合",
            "🙂",
            "a'b",
            'a"b',
        ),
        *(
            "-set",
            "--set",
            "~set",
            "$HOME",
            "set;ls",
            "set&",
            "x" * 200,
            "set.zip.d",
            "digits",
            "cifar10",
            "org/name",
            "a,b",
            "#1",
        ),
    ):
        build = lambda folder, place=place: (images(folder / place), f"./{place}" if place[0] in "-~" else place)[1]  # noqa: E731
        yield f"a folder {place[:40]}", build, placed, []
    for suffix in ("/", "/.", "//", "/../set"):
        yield f"set{suffix}", lambda folder, suffix=suffix: (images(folder / "set"), f"set{suffix}")[1], placed, []
    yield "an absolute path", lambda folder: (images(folder / "set"), f"{folder}/set")[1], placed, []
    yield "a file:// address", lambda folder: (images(folder / "set"), f"file://{folder}/set")[1], placed_or_refused, []
    yield (
        "a link to the folder",
        lambda folder: (images(folder / "x"), (folder / "set").symlink_to("x"), "set")[2],
        placed,
        [],
    )
    for suffix in ("ZIP", "Zip"):
        yield f"suffix {suffix}", zipped({f"{c}/0.png": k for k, c in enumerate(CLASSES)}, f"set.{suffix}"), placed, []
    for suffix in ("PT", "Pth", "NPZ", "SafeTensors"):

        def build(folder: Path, suffix: str = suffix) -> str:
            if suffix == "NPZ":
                np.savez(folder / "x.npz", images=PLANES.numpy(), labels=LABELS.numpy())
            elif suffix == "SafeTensors":
                save_file({"images": PLANES, "labels": LABELS}, folder / "x.safetensors")
            else:
                torch.save([PLANES, LABELS], folder / "x.pt")
            next(folder.glob("x.*")).rename(folder / f"set.{suffix}")
            return f"set.{suffix}"

        yield f"suffix {suffix}", build, placed, POSITION
    plain: dict[str, Any] = {f"{c}/{n}.png": k for k, c in enumerate(CLASSES) for n in range(2)}
    for top in ("", "set/", "a/b/c/", "my set/", "train/", "x/train/"):
        yield f"zip with {top or 'no folder'}", zipped({top + name: k for name, k in plain.items()}), placed, []
    yield (
        "zip of macOS",
        zipped({**{f"set/{n}": k for n, k in plain.items()}, "__MACOSX/set/red/._0.png": "x", "set/.DS_Store": "x"}),
        placed,
        [],
    )
    yield (
        "zip with folders as entries",
        zipped({"set/": "", "set/red/": "", **{f"set/{n}": k for n, k in plain.items()}}),
        placed,
        [],
    )
    yield (
        "zip with a card",
        zipped({"set/README.md": "# x", "set/LICENSE": "x", **{f"set/{n}": k for n, k in plain.items()}}),
        placed,
        [],
    )
    yield "zip of tables", zipped({"set/data/train.parquet": "x"}), refused, []
    yield (
        "zip of two sets",
        zipped({**{f"ipc1/{n}": k for n, k in plain.items()}, **{f"ipc10/{n}": (k + 1) % 3 for n, k in plain.items()}}),
        told("--split"),
        [],
    )
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        yield f"zip, method {method}", zipped(plain, compression=method), placed, []
    jsonl = "".join(json.dumps({"file_name": name, "label": CLASSES[k], "text": "x"}) + "\n" for name, k in plain.items())
    yield "metadata beside class folders that agree", files({**plain, "metadata.jsonl": jsonl}), placed, []
    wrong = "".join(json.dumps({"file_name": name, "label": CLASSES[(k + 1) % 3]}) + "\n" for name, k in plain.items())
    yield "metadata beside class folders that disagree", files({**plain, "metadata.jsonl": wrong}), told("metadata"), []
    yield "only some files in the metadata", files({**plain, "metadata.jsonl": jsonl.split("\n", 1)[1]}), placed, []
    for kind, listed in {
        "id2label of a timm config": json.dumps({"architecture": "x", "label_names": list(CLASSES[::-1])}),
        "id2label out of order": json.dumps({"id2label": {"2": "red", "0": "blue", "1": "green"}}),
        "label2id": json.dumps({"label2id": {"green": 1, "red": 2, "blue": 0}}),
        "labels.txt of Teachable Machine": "0 blue\n1 green\n2 red\n",
        "names of YOLO": "names:\n  0: blue\n  1: green\n  2: red\n",
        "csv with a head": "id,name\n0,blue\n1,green\n2,red\n",
        "csv the other way": "name,id\nred,2\nblue,0\ngreen,1\n",
        "tabs": "2\tred\n1\tgreen\n0\tblue\n",
        "a list of pairs": json.dumps([["n0", "x"]] * 3),
        "from 1": "1 blue\n2 green\n3 red\n",
        "with remarks": "# classes\nblue\ngreen\nred\n",
        "quoted": '"blue"\n"green"\n"red"\n',
        "features of datasets": json.dumps({"label": {"names": ["blue", "green", "red"], "_type": "ClassLabel"}}),
        "names in JSON": json.dumps({"names": {"0": "blue", "1": "green", "2": "red"}}),
        "YAML list": "- blue\n- green\n- red\n",
        "trailing commas": "blue,\ngreen,\nred,\n",
        "semicolons": "0;blue\n1;green\n2;red\n",
        "equal signs": "0=blue\n1=green\n2=red\n",
        "in one line": "blue,green,red",
        "in one line with spaces": "blue green red",
        "python": "['blue', 'green', 'red']",
    }.items():
        own = {str(k): 2 - k for k in range(3)}  # folder 0 is blue

        def labelled(folder: Path, own: dict = own, listed: str = listed) -> str:
            images(folder / "set", own)
            write(folder / "names.txt", listed)
            return "set"

        yield f"classes: {kind}", labelled, placed_or_refused, ["--classes", "names.txt"]


def attacks() -> Iterator[Attack]:
    """Yield what is tried."""
    for kind, cases in (("programs", programs()), ("tables of the Hub", tables()), ("names", names())):
        for name, build, right, more in cases:
            yield attack(f"real {kind}", name, build, right, more)
