"""Real datasets: folders, tables and images that are damaged, ambiguous or made to confuse; each stands behind `adopt`."""

import io
import itertools
import json
import os
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import ClassLabel, Dataset, Features, Image

from tests.bench.hostile.attack import Attack, Outcome, either, refused, used

Build = Callable[[Path], None]  # writes the source into a folder
WORDS = ["--source", "src", "--method", "dm", "--output_dir", "out"]


def pixels(k: int, j: int = 0, side: int = 16) -> np.ndarray:
    return np.random.default_rng(100 * k + j).integers(0, 256, (side, side, 3), dtype=np.uint8)


def encoded(k: int, j: int = 0, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    PIL.Image.fromarray(pixels(k, j)).save(buffer, kind)
    return buffer.getvalue()


def put(file: Path, data: bytes) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)


def images(root: Path, *classes: str, count: int = 3, first: int = 0) -> None:
    for k, name in enumerate(classes):
        for j in range(count):
            put(root / name / f"{j}.png", encoded(k, first + j))


def plain(src: Path) -> None:
    images(src / "train", "a", "b")
    images(src / "test", "a", "b", count=2, first=10)


def behind_adopt(build: Build, *more: str) -> Callable[[Path], list[str]]:
    """Return what writes a source and a set of its classes a and b, and lets `adopt` bring them together."""

    def written(folder: Path) -> list[str]:
        build(folder / "src")
        images(folder / "set", "a", "b", count=1)
        return ["adopt", "set", *WORDS, *more]

    return written


def says(*parts: str) -> Callable[[Outcome], str | None]:
    """Return what asks for success and for words of what is not used."""

    def right(outcome: Outcome) -> str | None:
        missing = [part for part in parts if part not in outcome.output]
        return used(outcome) or (f"not said: {missing[0]}" if missing else None)

    return right


# Names of the source


def named(name: str, write: Callable[[Path], None] | None = None) -> Callable[[Path], list[str]]:
    def written(folder: Path) -> list[str]:
        if write:
            write(folder)
        images(folder / "set", "a", "b", count=1)
        return ["adopt", "set", "--source", name, "--method", "dm", "--output_dir", "out"]

    return written


def names() -> Iterator[Attack]:
    kind = "source: name"
    for name in (
        *("../c_sett", "./nowhere", "/nowhere/at/all", "~/nowhere", "no such", "a/b/c", "x" * 300, "x" * 5000, "a/" * 2000),
        *("\u202egnp", "\x1b[31mred", "new\nline", "imagewof", "org/../x", "-", ".", "..", "C:\\photos", "data.parquet"),
        *("[a]", "*", "{a,b}", "a?", "%2e%2e", "$HOME", "file:///etc/passwd", "https://example.org/x.zip", "s3://b/c"),
        *("hf://datasets/a/b", "zip://a.zip", "/proc/self", "/proc/self/mem", "/proc/1", "/dev/null", "/dev", "/sys", "/"),
        *("/proc/x", "/etc/passwd", "parquet", "imagefolder", "csv", "json", "text", "webdataset", "pandas", "generator"),
    ):
        yield Attack(kind, repr(name)[:60], named(name))
    yield Attack(kind, "a file", named("file.zip", lambda folder: put(folder / "file.zip", b"PK")))
    yield Attack(kind, "a path below a file", named("file/x", lambda folder: put(folder / "file", b"x")))
    yield Attack(kind, "a link to nothing", named("link", lambda folder: (folder / "link").symlink_to("nowhere")))
    yield Attack(kind, "a link to itself", named("link", lambda folder: (folder / "link").symlink_to("link")))
    yield Attack(kind, "a pipe", named("pipe", lambda folder: os.mkfifo(folder / "pipe")))
    yield Attack(kind, "an empty folder", named("empty", lambda folder: (folder / "empty").mkdir()))
    for char in "[]*?{}!#%&$'\"()+,;=@ ~":
        place = f"ph{char}os"
        yield Attack(kind, f"a folder called {place}", named(place, lambda folder, place=place: plain(folder / place)), used)
        tables = named(place, lambda folder, place=place: write_tables(folder / place))
        yield Attack(kind, f"tables in {place}", tables, used)
    yield Attack(kind, "a home folder", lambda folder: home(folder), used)


def home(folder: Path) -> list[str]:
    plain(folder / "me" / "photos")
    return [f"HOME={folder / 'me'}", *named("~/photos")(folder)]


# Layouts of folders


def layouts() -> Iterator[Attack]:
    kind = "source: layout"
    splits = ["train", "test", "val", "valid", "validation", "dev", "eval", "training", "Testing"]
    for name in splits:  # as a class beside others, in splits and without

        def inside(src: Path, name: str = name) -> None:
            images(src / "train", "a", "b", name)
            images(src / "test", "a", "b", name, count=2, first=10)

        yield Attack(kind, f"a class called {name} in splits", behind_adopt(inside), either)
        beside = behind_adopt(lambda src, name=name: images(src, "a", "b", name, count=5), "--test_fraction", "0.4")
        yield Attack(kind, f"a class called {name} without splits", beside, either)

        def within(src: Path, name: str = name) -> None:
            for part in ("train", name):
                images(src / "a", part), images(src / "b", part)

        yield Attack(kind, f"the split {name} within classes", behind_adopt(within, "--test_fraction", "0.4"))
    for one, other in itertools.combinations(["val", "valid", "validation", "dev"], 2):

        def twice(src: Path, one: str = one, other: str = other) -> None:
            for part in ("train", one, other):
                images(src / part, "a", "b")

        yield Attack(kind, f"{one} and {other}", behind_adopt(twice))
    cases: dict[str, tuple[Build, Callable]] = {
        "images in no folder": (lambda src: images(src, "", count=5), refused),
        "splits of images in no folder": (lambda src: images(src, "train", "test"), refused),
        "one class": (lambda src: images(src, "a", count=5), refused),
        "classes within classes": (lambda src: [images(src / top, "a", "b") for top in ("x", "y")], refused),
        "a split beside classes": (lambda src: [images(src, "a", "b"), images(src / "train", "a", "b")], refused),
        "splits beside a folder of no split": (
            lambda src: [images(src / top, "a", "b") for top in ("train", "test", "other")], refused,
        ),
        "a lone folder around": (lambda src: plain(src / "x" / "y"), used),
        "images deeper in a class": (lambda src: [plain(src), put(src / "train/a/more/9.png", encoded(0, 9))], used),
        "an empty class": (lambda src: [plain(src), (src / "train" / "c").mkdir()], either),
        "a class that only the test split has": (
            lambda src: [plain(src), images(src / "test", "z", first=20)], says("that the training split has not"),
        ),
        "loose images beside classes": (
            lambda src: [plain(src), put(src / "train" / "x.png", encoded(3))], says("class folders (train/x.png)"),
        ),
        "a folder called x.png": (lambda src: [plain(src), (src / "train/a/x.png").mkdir()], used),
        "a pipe called x.png": (lambda src: [plain(src), os.mkfifo(src / "train/a/x.png")], says("no regular files")),
        "a link to nothing": (
            lambda src: [plain(src), (src / "train/a/x.png").symlink_to("nowhere")], says("links to nothing"),
        ),
        "a link to the folder above": (
            lambda src: [plain(src), (src / "train/a/up").symlink_to("..")], says("links to a folder above"),
        ),
        "links that multiply": (multiplying, refused),
        "a link to the whole system": (lambda src: [plain(src), (src / "train/a/root").symlink_to("/proc")], either),
        "the test split is a link to the training split": (
            lambda src: [images(src / "train", "a", "b"), (src / "test").symlink_to("train")], refused,
        ),
        "a test image is a link to a training image": (
            lambda src: [plain(src), (src / "test/a/x.png").symlink_to("../../train/a/0.png")], refused,
        ),
        "an image is a link into another class": (
            lambda src: [plain(src), (src / "train/a/x.png").symlink_to("../b/0.png")], refused,
        ),
        "classes that are links": (linked_classes, used),
        "accents, one and two characters": (accents, either),
        "a class called with a line break": (lambda src: images(src / "train", "a", "b\nc"), refused),
        "a class called with an escape code": (lambda src: images(src / "train", "a", "b\x1b[2J"), refused),
        "a file called with a line break": (
            lambda src: [plain(src), put(src / "train/a/x\ny\x1b[2J.png", encoded(0, 8))], used,
        ),
        "names that are not UTF-8": (not_utf8, says("names that are not UTF-8")),
        "hidden files": (lambda src: [plain(src), put(src / ".x/a.png", b""), put(src / "train/a/.x.png", b"")], used),
        "folders 60 deep": (lambda src: put(src.joinpath("train", "a", *"x" * 60, "1.png"), encoded(0)), refused),
        "photos of a kind that is not read": (
            lambda src: [images(src, "a", count=5), put(src / "b" / "1.heic", b"x")], refused,
        ),
        "other files": (
            lambda src: [plain(src), put(src / "notes.txt", b"x"), put(src / "train/a/n.pdf", b"x")],
            says("2 of other kinds"),
        ),
    }  # fmt: skip
    for name, (build, right) in cases.items():
        yield Attack(kind, name, behind_adopt(build, *["--test_fraction", "0.4"] * ("split" not in name)), right)


def multiplying(src: Path) -> None:
    plain(src)
    for level in range(10):
        (src / f"many/{level}").mkdir(parents=True)
        for name in "abcdefghij":
            (src / f"many/{level}/{name}").symlink_to(f"../{level + 1}")


def linked_classes(src: Path) -> None:
    images(src.parent / "pool", "p", "q", count=5)
    src.mkdir()
    (src / "a").symlink_to("../pool/p")
    (src / "b").symlink_to("../pool/q")


def accents(src: Path) -> None:
    images(src / "train", "a", "b", "caf\u00e9")
    images(src / "test", "a", "b", "cafe\u0301", first=10)


def not_utf8(src: Path) -> None:
    plain(src)
    with open(os.fsencode(src / "train" / "a") + b"/\xff\xfe.png", "wb") as file:
        file.write(encoded(0, 7))


# Images


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *more: bytes) -> bytes:
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(more) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(touch owned) show\n%%EOF\n"
BROKEN = {
    "empty": b"",
    "garbage": b"garbage",
    "a png cut in half": encoded(0)[: len(encoded(0)) // 2],
    "a jpeg cut in half": encoded(0, kind="JPEG")[: len(encoded(0, kind="JPEG")) // 2],
    "a gif cut in half": encoded(0, kind="GIF")[: len(encoded(0, kind="GIF")) // 2],
    "a tiff cut in half": encoded(0, kind="TIFF")[: len(encoded(0, kind="TIFF")) // 2],
    "a webp cut in half": encoded(0, kind="WEBP")[: len(encoded(0, kind="WEBP")) // 2],
    "14000 px a side": png(14_000, 14_000),
    "2 billion px a side": png(2**31 - 1, 2**31 - 1),
    "a line of pixels": png(5000, 1),
    "a zTXt bomb": png(16, 16, chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(2**28)))),
    "an iTXt bomb": png(16, 16, chunk(b"iTXt", b"k\0\1\0\0\0" + zlib.compress(bytes(2**28)))),
    "an EPS": EPS,
    "an svg": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    "a pdf": b"%PDF-1.7\n",
    "a page of an error": b"<!doctype html><h1>404</h1>",
    "a pointer of Git LFS": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n",
}
KINDS = {
    **{f"mode {mode}": (mode, "TIFF") for mode in ("1", "L", "LA", "P", "PA", "RGBA", "CMYK", "I;16")},
    **{f"{kind}": ("RGB", kind) for kind in ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "DIB", "MPO")},
}


def one_image(data: bytes, suffix: str) -> Build:
    def build(src: Path) -> None:
        plain(src)
        put(src / "train" / "a" / f"x{suffix}", data)

    return build


def cells(*first: bytes) -> Build:
    """Write tables; `first` are the two training images of the first class."""
    return lambda src: write_tables(src, {"train": [*first, encoded(1), encoded(1, 1)]})


def files() -> Iterator[Attack]:
    for (name, data), suffix in itertools.product(BROKEN.items(), (".png", ".JPG")):
        right = says("not used: 1 broken (train/a/x")
        yield Attack("source: broken file", f"{name}, as {suffix}", behind_adopt(one_image(data, suffix)), right)
    for name, data in BROKEN.items():  # `adopt` decodes no training image, a score does those that it draws
        yield Attack("source: broken cell", name, behind_adopt(cells(encoded(0), data)), either)
        scored = ["evaluate", "set", "--source", "src", "--protocol", "quick", "--students", "convnet-1", "--repeats", "1"]
        build = behind_adopt(cells(data, data))  # one of the two is drawn for the score of random real images
        yield Attack("source: broken cell", f"{name}, scored", lambda folder, b=build, w=scored: [b(folder), w][1])
    for name, (mode, kind) in KINDS.items():
        image = PIL.Image.fromarray(pixels(0)).convert("L" if mode in ("I;16", "PA") else mode)
        buffer = io.BytesIO()
        try:
            image.convert(mode).save(buffer, kind)
        except (ValueError, OSError, KeyError):
            continue
        yield Attack("source: kind of image", name, behind_adopt(one_image(buffer.getvalue(), f".{kind.lower()}")), either)
    yield Attack("source: broken file", "a sparse one of 50 GB", behind_adopt(sparse), says("larger than 512 MiB"))
    only = behind_adopt(lambda src: [images(src, "a", count=5), put(src / "b/0.png", b"x")], "--test_fraction", "0.4")
    yield Attack("source: broken file", "the only one of a class", only)


def sparse(src: Path) -> None:
    plain(src)
    with open(src / "train/a/x.png", "wb") as file:
        file.truncate(50 * 10**9)


# Metadata


def metadata() -> Iterator[Attack]:
    kind = "source: metadata"
    good = "file_name,label\n" + "".join(f"{j}.png,{'ab'[j % 2]}\n" for j in range(6))
    lines = "".join(json.dumps({"file_name": f"{j}.png", "label": "ab"[j % 2]}) + "\n" for j in range(6))
    texts: dict[str, tuple[str, bytes, Callable]] = {
        "csv": ("metadata.csv", good.encode(), used),
        "csv with a mark": ("metadata.csv", b"\xef\xbb\xbf" + good.encode(), used),
        "csv from Windows": ("metadata.csv", good.replace("\n", "\r\n").encode(), used),
        "jsonl": ("metadata.jsonl", lines.encode(), used),
        "csv of UTF-16": ("metadata.csv", good.encode("utf-16"), refused),
        "csv, empty": ("metadata.csv", b"", refused),
        "csv, a head alone": ("metadata.csv", b"file_name,label\n", refused),
        "csv without labels": ("metadata.csv", good.replace("label", "caption").encode(), refused),
        "csv without names": ("metadata.csv", good.replace("file_name", "name").encode(), refused),
        "csv with NUL": ("metadata.csv", good.replace("0.png", "0.p\0ng").encode(), either),
        "csv with a cell of 1 MB": ("metadata.csv", good.replace("a\n", "a" * 2**20 + "\n").encode(), refused),
        "csv that is open-ended": ("metadata.csv", (good + '"x').encode(), either),
        "csv of other folders": ("metadata.csv", good.replace("0.png", "../../../etc/passwd").encode(), either),
        "csv, two labels": ("metadata.csv", (good + "0.png,b\n").encode(), refused),
        "csv, a label lacking": ("metadata.csv", good.replace("0.png,a", "0.png,").encode(), says("without a label")),
        "csv, an image lacking": ("metadata.csv", (good + "9.png,a\n").encode(), says("not there (9.png)")),
        "jsonl of lists": ("metadata.jsonl", b"[1]\n", refused),
        "jsonl, cut": ("metadata.jsonl", lines[:-5].encode(), refused),
        "jsonl, deep": ("metadata.jsonl", b"[" * 100_000, refused),
        "jsonl, labels in lists": ("metadata.jsonl", lines.replace('"a"', '["a"]').encode(), refused),
        "jsonl, labels of fractions": ("metadata.jsonl", lines.replace('"a"', "1.5").encode(), refused),
        "jsonl, labels of NaN": ("metadata.jsonl", lines.replace('"a"', "NaN").encode(), refused),
        "jsonl, names of numbers": ("metadata.jsonl", lines.replace('"0.png"', "7").encode(), either),
        "parquet, garbage": ("metadata.parquet", b"PAR1garbage", refused),
    }
    for name, (file, data, right) in texts.items():

        def build(src: Path, file: str = file, data: bytes = data) -> None:
            for j in range(6):
                put(src / f"{j}.png", encoded(j % 2, j))
            put(src / file, data)

        yield Attack(kind, name, behind_adopt(build, "--test_fraction", "0.4"), right)


# Tables


def write_tables(src: Path, cells: dict[str, list] | None = None, labels: list | None = None) -> None:
    names = ["a", "b"]
    for split in ("train", "test"):
        own = (cells or {}).get(split) or [encoded(0), encoded(0, 1), encoded(1), encoded(1, 1)]
        features = Features({"image": Image(decode=False), "label": ClassLabel(names=names)})
        data = {"image": [{"bytes": cell, "path": None} for cell in own], "label": labels or [0, 0, 1, 1]}
        (src / "data").mkdir(parents=True, exist_ok=True)
        Dataset.from_dict(data, features=features).to_parquet(str(src / "data" / f"{split}-00000-of-00001.parquet"))


def column(label: pa.Array, image: pa.Array | None = None) -> Build:
    def build(src: Path) -> None:
        (src / "data").mkdir(parents=True)
        cells = pa.array([{"bytes": encoded(k % 2, k), "path": None} for k in range(4)]) if image is None else image
        for split in ("train", "test"):
            pq.write_table(pa.table({"image": cells, "label": label}), src / "data" / f"{split}.parquet")

    return build


def tables() -> Iterator[Attack]:
    kind = "source: label column"
    good = {
        "texts": pa.array(["a", "b"] * 2), "categories": pa.array(["a", "b"] * 2).dictionary_encode(),
        "large texts": pa.array(["a", "b"] * 2, pa.large_string()),
    }  # fmt: skip
    for name, values in good.items():
        yield Attack(kind, name, behind_adopt(column(values)), used)
    bad = {
        "lists": [[0], [1], [0], [1]], "structs": [{"x": 0}] * 4, "fractions": [0.0, 1.0, 0.0, 1.0], "nothing": [None] * 4,
        "bytes": [b"a", b"b"] * 2, "empty texts": ["", "b"] * 2, "line breaks": ["a", "b\n"] * 2,
        "colours": ["a", "\x1b[31m"] * 2,
        "lists of texts": [["a"], ["b"]] * 2, "empty lists": [[]] * 4,
    }  # fmt: skip
    for name, values in bad.items():
        yield Attack(kind, name, behind_adopt(column(pa.array(values))))
    for name, values in {
        "integers": pa.array([3, 7] * 2), "booleans": pa.array([True, False] * 2),
        "unsigned": pa.array([2**64 - 1, 0] * 2, pa.uint64()), "negative": pa.array([-5, -1] * 2),
        "dates": pa.array([0, 1] * 2, pa.date32()), "decimals": pa.array([1, 2] * 2).cast(pa.decimal128(20)),
        "times": pa.array([0, 1] * 2, pa.timestamp("ns")),
    }.items():  # fmt: skip
        yield Attack(kind, name, behind_adopt(column(values)))  # the set's classes are called a and b
    kind, labels = "source: image column", pa.array(["a", "b"] * 2)
    binary = pa.array([encoded(k % 2, k) for k in range(4)])
    yield Attack(kind, "binary", behind_adopt(column(labels, binary)), used)
    yield Attack(kind, "large binary", behind_adopt(column(labels, binary.cast(pa.large_binary()))), used)
    for name, values in {
        "paths": pa.array(["/etc/passwd"] * 4), "addresses": pa.array(["http://127.0.0.1/x.png"] * 4),
        "integers": pa.array([1] * 4), "lists": pa.array([[1, 2]] * 4), "pixels": pa.array([[[1, 2], [3, 4]]] * 4),
        "structs of more": pa.array([{"bytes": b"", "path": "", "x": 1}] * 4),
    }.items():  # fmt: skip
        yield Attack(kind, name, behind_adopt(column(labels, values)))
    for path in ("/etc/passwd", "owned.png", "http://127.0.0.1:9/x.png", "../set/a/0.png", "\x1b[31m", "x" * 100_000):
        cells = pa.array([{"bytes": None, "path": path}] * 4, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
        yield Attack(kind, f"cells that name {path[:30]!r}", opening(column(labels, cells)))
    kind = "source: tables"
    files: dict[str, tuple[Build, Callable]] = {
        "parquet, garbage": (lambda src: put(src / "train.parquet", b"garbage"), refused),
        "parquet, cut": (cut, refused),
        "parquet, its end lost": (lambda src: flip(src, -2), refused),
        "parquet, a byte changed": (lambda src: flip(src, 200), either),
        "csv": (lambda src: put(src / "train.csv", b"image,label\nx.png,a\n"), refused),
        "json": (lambda src: put(src / "train.jsonl", b'{"image": "x.png", "label": 1}\n'), refused),
        "arrow, garbage": (lambda src: put(src / "train.arrow", b"garbage"), refused),
        "tar, garbage": (lambda src: put(src / "train.tar", b"garbage"), refused),
        "labels that no class has": (lambda src: relabelled(src, [0, 0, 1, 7]), refused),
        "names in two orders": (two_orders, refused),
        "tables of two kinds": (lambda src: [write_tables(src), put(src / "x.csv", b"a,b\n1,2\n")], says("x.csv")),
        "tables in folders of no split": (lambda src: [write_tables(src / "small"), write_tables(src / "large")], refused),
        "a table called after no split": (lambda src: [write_tables(src), copy_table(src, "extra.parquet")], refused),
        "an unlabelled row": (lambda src: relabelled(src, [0, 0, 1, -1]), says("without a label (row 3 of train")),
    }
    for name, (build, right) in files.items():
        yield Attack(kind, name, behind_adopt(build), right)


def opening(build: Build) -> Callable[[Path], list[str]]:
    def written(folder: Path) -> list[str]:
        behind_adopt(build)(folder)
        return ["evaluate", "set", "--source", "src", "--protocol", "quick", "--students", "convnet-1", "--repeats", "1"]

    return written


def cut(src: Path) -> None:
    write_tables(src)
    file = src / "data" / "train-00000-of-00001.parquet"
    file.write_bytes(file.read_bytes()[:-100])


def flip(src: Path, place: int) -> None:
    write_tables(src)
    file = src / "data" / "train-00000-of-00001.parquet"
    data = bytearray(file.read_bytes())
    data[place] ^= 255
    file.write_bytes(data)


def copy_table(src: Path, name: str) -> None:
    (src / "data" / name).write_bytes((src / "data" / "train-00000-of-00001.parquet").read_bytes())


def relabelled(src: Path, labels: list[int]) -> None:
    """Write labels that the features do not allow, as a program other than `datasets` would."""
    write_tables(src)
    for file in (src / "data").iterdir():
        table = pq.read_table(file)
        pq.write_table(table.set_column(1, table.schema.field("label"), pa.array(labels)), file)


def two_orders(src: Path) -> None:
    write_tables(src)
    file = src / "data" / "test-00000-of-00001.parquet"
    table = pq.read_table(file)
    text = table.schema.metadata[b"huggingface"].replace(b'["a", "b"]', b'["b", "a"]')
    pq.write_table(table.replace_schema_metadata({b"huggingface": text}), file)


# Cards

CARD = "configs:\n- config_name: {0}\n  data_files:\n  - split: train\n    path: {1}\n  - split: test\n    path: {2}\n"
CARDS = {
    "files outside": CARD.format("x", "/etc/*", "../../*"),
    "files of the web": CARD.format("x", "https://example.org/x.parquet", "data/test-*"),
    "a file in two splits": CARD.format("x", "data/*", "data/test-*"),
    "no such files": CARD.format("x", "nowhere/*", "data/test-*"),
    "two configurations": CARD.format("x", "data/train-*", "data/test-*")
    + CARD.format("y", "data/train-*", "data/test-*")[9:],
    "data_files of a number": "configs:\n- config_name: x\n  data_files: 7\n",
    "data_files of numbers": CARD.format("x", "[7]", "data/test-*"),
    "data_files of nulls": CARD.format("x", "[null]", "data/test-*"),
    "a pattern that is none": CARD.format("x", "'[z-a]'", "data/test-*"),
    "a pattern of stars": CARD.format("x", "data/a**b", "data/test-*"),
    **{
        f"the folder {place}": f"configs:\n- config_name: x\n  data_dir: {place}\n"
        for place in ("/etc", "/", "..", "../home", "data/../..", "7", "[data]", "nowhere", "{a: b}", "'~'")
    },
    "one name for two configurations": CARD.format("x", "data/train-*", "data/test-*")
    + CARD.format("x", "data/test-*", "data/train-*")[9:],
    "two defaults": "configs:\n- {config_name: x, default: true}\n- {config_name: y, default: true}\n",
    **{f"a configuration called {name}": CARD.format(name, "data/train-*", "data/test-*") for name in ("7", "[x]", "{}")},
    "aliases": "a: &a [1]\nb: [*a, *a]\n",
    "a key given twice": "license: mit\nlicense: mit\n",
    "configs of a text": "configs: x\n",
    "configs of nulls": "configs:\n- null\n",
    "a configuration without a name": "configs:\n- data_files: data/train-*\n",
    "YAML that is none": "a: [\n",
    "YAML of depth": "a: " + "[" * 5000 + "]" * 5000 + "\n",
    "YAML that makes objects": "a: !!python/object/apply:os.system ['touch owned']\n",
    "a script": CARD.format("x", "set.py", "data/test-*"),
    "labels of another count": "dataset_info:\n  features:\n  - name: image\n    dtype: image\n  - name: label\n    dtype:\n"
    "      class_label:\n        names:\n          '0': a\n",
    "columns that are not there": "dataset_info:\n  features:\n  - name: picture\n    dtype: image\n",
    "features of a text": "dataset_info:\n  features: x\n",
    "features of an unknown type": "dataset_info:\n  features:\n  - name: image\n    dtype: nothing\n",
}


def cards() -> Iterator[Attack]:
    for name, text in CARDS.items():

        def build(src: Path, text: str = text) -> None:
            write_tables(src)
            put(src / "README.md", f"---\n{text}---\n".encode())

        right = refused if name not in ("YAML of depth",) else either
        yield Attack("source: card", name, behind_adopt(build), right)
    right = behind_adopt(lambda src: [write_tables(src), put(src / "README.md", b"# Title\n")])
    yield Attack("source: card", "without a head", right, used)
    for words in (["--source_config", "z"], ["--train_split", "z"], ["--test_split", "z"], ["--test_split", "train"]):
        yield Attack("source: options", " ".join(words), behind_adopt(write_tables, *words))
        yield Attack("source: options", " ".join(words) + ", images", behind_adopt(plain, *words))
    for words in (
        ["--image_column", "z"],
        ["--label_column", "z"],
        ["--image_column", "label"],
        ["--label_column", "image"],
    ):
        yield Attack("source: options", " ".join(words), behind_adopt(write_tables, *words))
        yield Attack("source: options", " ".join(words) + ", images", behind_adopt(plain, *words))


def attacks() -> Iterator[Attack]:
    """Yield what is tried."""
    yield from itertools.chain(names(), layouts(), files(), metadata(), tables(), cards())
