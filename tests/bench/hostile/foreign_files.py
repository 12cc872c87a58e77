"""Sets made elsewhere as folders of images and archives, and lists of class names."""

import io
import json
import os
import struct
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tests.bench.hostile.attack import Attack, refused
from tests.bench.hostile.foreign import (
    CLASSES,
    attack,
    encoded,
    flipped,
    images,
    placed,
    placed_or_refused,
    placed_or_refused_of_damage,
    told,
    write,
)

LABEL = {name: label for label, name in enumerate(CLASSES)}


def tree(files: Mapping[str, Any]) -> Callable[[Path], str]:
    """A folder of files: bytes, texts, and images by the label that they show."""

    def build(folder: Path) -> str:
        for number, (name, content) in enumerate(files.items()):
            write(folder / "set" / name, encoded(content, number) if isinstance(content, int) else content)
        return "set"

    return build


def archive(files: Mapping[str, Any], change: Callable[[bytes], bytes] = bytes) -> Callable[[Path], str]:
    """The same as a zip; names are written as they are."""

    def build(folder: Path) -> str:
        data = io.BytesIO()
        with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as file:
            for number, (name, content) in enumerate(files.items()):
                entry = zipfile.ZipInfo("x")
                entry.filename = name
                file.writestr(entry, encoded(content, number) if isinstance(content, int) else content)
        write(folder / "set.zip", change(data.getvalue()))
        return "set.zip"

    return build


def under(*prefixes: str, wrong: tuple[str, ...] = ()) -> dict[str, int]:
    """One image per class below each prefix; those below `wrong` show another class."""
    files = {f"{prefix}{name}/0.png": label for prefix in prefixes for name, label in LABEL.items()}
    return files | {f"{prefix}{name}/0.png": (label + 1) % 3 for prefix in wrong for name, label in LABEL.items()}


def layouts() -> Iterator[tuple[str, Mapping[str, Any], Any, list[str]]]:
    """Files, what is right, options."""
    yield from (
        ("plain", under(""), placed, []),
        ("in a folder", under("set/"), placed, []),
        ("train alone", under("train/"), placed, []),
        ("train and test", under("train/", wrong=("test/",)), placed, []),
        ("train, val and test", under("train/", wrong=("val/", "test/")), placed, []),
        ("training and validation", under("training/", wrong=("validation/",)), placed, []),
        ("in a folder, train and val", under("x/train/", wrong=("x/val/",)), placed, []),
        ("test alone", under("test/"), placed, []),
        ("capitals", under("Train/", wrong=("TEST/",)), placed, []),
        ("ipc1 and ipc10", under("ipc1/", wrong=("ipc10/",)), told("ipc1, ipc10", "--split"), []),
        ("ipc1 of two", under("ipc1/", wrong=("ipc10/",)), placed, ["--split", "ipc1"]),
        ("ipc_1 and ipc_4", under("ipc_1/", wrong=("ipc_4/",)), told("ipc_1, ipc_4", "--split"), []),
        ("synthetic and original", under("synthetic/", wrong=("original/",)), told("original, synthetic", "--split"), []),
        ("synthetic of two", under("synthetic/", wrong=("original/",)), placed, ["--split", "synthetic"]),
        ("synthetic and train", under("synthetic/", wrong=("train/",)), told("--split"), []),
        ("splits in two folders", under("a/train/", wrong=("b/train/",)), told("--data_dir"), []),
        ("one of two folders", under("a/train/", wrong=("b/train/",)), placed, ["--data_dir", "a"]),
        ("two depths", {**under(""), "more/red/1.png": 1}, refused, []),
        ("loose images", {**under(""), "0.png": 1}, refused, []),
        ("flat", {"0.png": 0, "1.png": 1}, refused, []),
        ("flat in splits", {"train/0.png": 0, "test/0.png": 1}, refused, []),
        ("no such split", under("ipc1/", wrong=("ipc10/",)), told("ipc1, ipc10"), ["--split", "ipc2"]),
        ("split of one", under(""), refused, ["--split", "train"]),
        ("empty", {"README.md": "x"}, refused, []),
        ("other files", {"a/0.txt": "x", "b/1.txt": "y"}, refused, []),
        ("heic beside", {**under(""), "red/1.heic": encoded(1)}, placed, []),
        ("text beside", {**under(""), "red/notes.txt": "x", "list.csv": "a,b"}, placed, []),
        ("a broken image", {**under(""), "red/1.png": encoded(0)[:60]}, told("red/1.png"), []),
        ("an empty image", {**under(""), "red/1.png": b""}, told("red/1.png"), []),
        ("a text as image", {**under(""), "red/1.png": "text"}, told("red/1.png"), []),
        ("a PDF as image", {**under(""), "red/1.jpg": "%PDF-1.4"}, refused, []),
        ("an EPS as image", {**under(""), "red/1.png": "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n"}, refused, []),
        (
            "hidden files",
            {**under(""), "red/.1.png": "x", ".git/objects/0.png": "x", "__MACOSX/red/._0.png": "x"},
            placed,
            [],
        ),
        ("a class called train", {**under(""), "train/0.png": 1}, refused, []),
        ("unicode", {"röd/0.png": 0, "绿/0.png": 1}, placed, ["--classes", "red,green"]),
        ("markup in names", {**under(""), "[bold]/x[/1].txt": "x"}, placed, []),
        ("control characters", {**under(""), "red/\x1b[2J\u202e.txt": "x"}, placed, []),
        ("one class", {"red/0.png": 0}, placed, []),
        ("uneven", {**under(""), "red/1.png": 0, "red/2.png": 0}, placed, []),
        ("a class fewer", {"red/0.png": 0, "blue/0.png": 2}, placed, []),
        ("numbers", {"0/0.png": 2, "1/0.png": 1, "2/0.png": 0}, placed, ["--classes", "source"]),
        (
            "numbers, source is sorted otherwise",
            {"0/0.png": 2, "1/0.png": 1, "2/0.png": 0},
            placed,
            ["--classes", "blue,green,red"],
        ),
        ("a number left out", {"0/0.png": 0, "2/0.png": 2}, placed, ["--classes", "red,green,blue"]),
        ("padded numbers", {"00000/0.png": 0, "00002/0.png": 2}, placed, ["--classes", "red,green,blue"]),
        ("numbers beyond", {"0/0.png": 0, "3/0.png": 2}, refused, ["--classes", "red,green,blue"]),
        ("numbers, not said", {"0/0.png": 0, "1/0.png": 1}, told("--classes"), []),
        ("numbers and names", {"0/0.png": 0, "green/0.png": 1}, refused, ["--classes", "source"]),
        ("one number twice", {"1/0.png": 1, "01/0.png": 1}, refused, ["--classes", "red,green,blue"]),
        ("names and source", under(""), placed, ["--classes", "source"]),
        ("names that are contradicted", under(""), told("leave the option out"), ["--classes", "red,green,blue"]),
        ("names that are confirmed", under(""), placed, ["--classes", "blue,green,red"]),
        ("capital names", {"Red/0.png": 0, "GREEN/0.png": 1}, placed, []),
        ("a name too much", {**under(""), "pink/0.png": 0}, refused, []),
        ("a name too much, source", {**under(""), "pink/0.png": 0}, refused, ["--classes", "source"]),
    )
    for suffix, kind in {
        "png": "PNG",
        "apng": "PNG",
        "jpg": "JPEG",
        "JPG": "JPEG",
        "jpeg": "JPEG",
        "jfif": "JPEG",
        "jpe": "JPEG",
        "webp": "WEBP",
        "bmp": "BMP",
        "gif": "GIF",
        "tif": "TIFF",
        "tiff": "TIFF",
        "TIF": "TIFF",
        "ppm": "PPM",
    }.items():
        yield (
            f"suffix {suffix}",
            {f"{name}/0.{suffix}": encoded(label, 0, kind) for name, label in LABEL.items()},
            placed,
            [],
        )
    for suffix in ("heic", "avif", "jp2", "svg", "eps", "pdf", "ico", "psd", "exr", "npy"):
        yield f"only {suffix}", {f"{name}/0.{suffix}": encoded(label) for name, label in LABEL.items()}, refused, []


def lists() -> Iterator[tuple[str, Mapping[str, Any], Any, list[str]]]:
    """Folders with metadata.csv or .jsonl."""
    flat = {f"{number}.png": number % 3 for number in range(6)}
    names = [CLASSES[number % 3] for number in range(6)]
    rows = "".join(f"{number}.png,{name}\n" for number, name in enumerate(names))
    lines = "".join(json.dumps({"file_name": f"{number}.png", "label": name}) + "\n" for number, name in enumerate(names))
    numbers = "".join(json.dumps({"file_name": f"{number}.png", "label": number % 3}) + "\n" for number in range(6))
    yield from (
        ("csv", {**flat, "metadata.csv": "file_name,label\n" + rows}, placed, []),
        ("jsonl", {**flat, "metadata.jsonl": lines}, placed, []),
        (
            "csv with BOM and CRLF",
            {**flat, "metadata.csv": b"\xef\xbb\xbf" + ("file_name,label\n" + rows).replace("\n", "\r\n").encode()},
            placed,
            [],
        ),
        ("numbers", {**flat, "metadata.jsonl": numbers}, placed, ["--classes", "red,green,blue"]),
        ("numbers, not said", {**flat, "metadata.jsonl": numbers}, told("--classes"), []),
        (
            "numbers as texts",
            {**flat, "metadata.csv": "file_name,label\n" + "".join(f"{n}.png,{n % 3}\n" for n in range(6))},
            placed,
            ["--classes", "red,green,blue"],
        ),
        (
            "in train",
            {f"train/{k}": v for k, v in flat.items()} | {"train/metadata.csv": "file_name,label\n" + rows},
            placed,
            [],
        ),
        (
            "in train and test",
            {f"train/{k}": v for k, v in flat.items()}
            | {
                "train/metadata.csv": "file_name,label\n" + rows,
                "test/0.png": 1,
                "test/metadata.csv": "file_name,label\n0.png,red\n",
            },
            placed,
            [],
        ),
        (
            "of sub-folders",
            {f"images/{k}": v for k, v in flat.items()}
            | {"metadata.csv": "file_name,label\n" + "".join(f"images/{row}\n" for row in rows.split())},
            placed,
            [],
        ),
        ("without labels", {**under(""), "metadata.csv": "file_name,caption\nred/0.png,nice\n"}, placed, []),
        ("without labels, flat", {**flat, "metadata.csv": "file_name,caption\n0.png,nice\n"}, refused, []),
        ("an image not listed", {**flat, "9.png": 0, "metadata.csv": "file_name,label\n" + rows}, placed, []),
        ("a file that is not there", {**flat, "metadata.csv": "file_name,label\n9.png,red\n" + rows}, told("9.png"), []),
        ("listed twice", {**flat, "metadata.csv": "file_name,label\n0.png,green\n" + rows}, refused, []),
        ("a path outside", {**flat, "metadata.csv": "file_name,label\n../../etc/passwd,red\n"}, refused, []),
        ("empty", {**flat, "metadata.csv": ""}, refused, []),
        ("no columns", {**flat, "metadata.csv": "a,b\n1,2\n"}, told("file_name"), []),
        ("damaged", {**flat, "metadata.jsonl": "{"}, refused, []),
        ("no text", {**flat, "metadata.csv": b"\xff\xfe\x00"}, refused, []),
        ("a list", {**flat, "metadata.jsonl": "[1]\n"}, refused, []),
        ("deep", {**flat, "metadata.jsonl": "[" * 100_000}, refused, []),
        ("missing label", {**flat, "metadata.csv": "file_name,label\n0.png,\n"}, refused, []),
        ("two label columns", {**flat, "metadata.csv": "file_name,label,class\n0.png,red,red\n"}, refused, []),
        (
            "huge number",
            {**flat, "metadata.jsonl": '{"file_name": "0.png", "label": 1' + "0" * 30 + "}\n"},
            refused,
            ["--classes", "source"],
        ),
        (
            "mixed",
            {**flat, "metadata.jsonl": '{"file_name": "0.png", "label": 1}\n{"file_name": "1.png", "label": "red"}\n'},
            refused,
            [],
        ),
        ("parquet", {**flat, "metadata.parquet": b"PAR1"}, told("metadata.parquet"), []),
        ("null byte", {**flat, "metadata.csv": "file_name,label\n\x000.png,red\n"}, refused, []),
    )


def patched(offset: int, value: bytes) -> Callable[[bytes], bytes]:
    """A field of the first entry in a zip's directory overwritten."""

    def change(data: bytes) -> bytes:
        start = data.index(b"PK\x01\x02") + offset
        return data[:start] + value + data[start + len(value) :]

    return change


def links() -> Iterator[tuple[str, Callable[[Path], None], Any]]:
    """What is no plain file."""

    def link(target: str, name: str) -> Callable[[Path], None]:
        return lambda folder: os.symlink(target, folder / "set" / name)

    def elsewhere(folder: Path) -> None:
        images(folder / "elsewhere", {"blue": 2})
        (folder / "set/blue").rename(folder / "old")
        os.symlink("../elsewhere/blue", folder / "set/blue")

    def sparse(name: str, size: int = 10**11) -> Callable[[Path], None]:
        def build(folder: Path) -> None:
            write(folder / "set" / name, b"")
            os.truncate(folder / "set" / name, size)

        return build

    def diamonds(folder: Path) -> None:
        for level in range(30):
            (folder / f"d/{level}").mkdir(parents=True)
            for side in "ab":
                os.symlink(f"../{level + 1}", folder / f"d/{level}/{side}")
        os.symlink("../d/0", folder / "set/many")

    yield "a linked class", elsewhere, placed
    yield "a link to itself", link("loop", "loop"), placed_or_refused
    yield "a link to the set", link("../set", "again"), placed_or_refused
    yield "a class that links to its set", link("..", "red/up"), placed_or_refused
    yield "a dangling link", link("nowhere", "red/9.txt"), placed
    yield "a dangling image", link("nowhere", "red/9.png"), refused
    yield "links that multiply", diamonds, refused
    yield "a pipe as image", lambda folder: os.mkfifo(folder / "set/red/9.png"), told("red/9.png")
    yield "a pipe as text", lambda folder: os.mkfifo(folder / "set/red/9.txt"), placed
    yield "a pipe as card", lambda folder: os.mkfifo(folder / "set/README.md"), told("README.md")
    yield "a pipe as list", lambda folder: os.mkfifo(folder / "set/metadata.csv"), told("metadata.csv")
    yield "a device as image", link("/dev/zero", "red/9.png"), refused
    yield "sparse image", sparse("red/9.png"), told("red/9.png")
    yield "sparse card", sparse("README.md"), told("README.md")
    yield "sparse list", sparse("metadata.csv"), told("metadata.csv")
    yield "sparse table", sparse("data/train.parquet", 10**13), refused
    yield "sparse table of 10 GB", sparse("data/train.parquet", 10**10), refused
    yield "a folder called as an image", lambda folder: (folder / "set/red/9.png").mkdir(), placed
    yield "a folder called as a card", lambda folder: (folder / "set/README.md").mkdir(), placed


def class_files() -> Iterator[tuple[str, bytes | str, Any]]:
    """Files for --classes, for folders 0, 1, 2 that show red, green and blue."""
    lines, pairs = "red\ngreen\nblue\n", {str(label): name for name, label in LABEL.items()}
    yield from (
        ("lines", lines, placed),
        ("BOM", b"\xef\xbb\xbf" + lines.encode(), placed),
        ("CRLF", lines.replace("\n", "\r\n"), placed),
        ("UTF-16", lines.encode("utf-16"), placed),
        ("UTF-16 big endian", b"\xfe\xff" + lines.encode("utf-16-be"), placed),
        ("blank lines", "\nred\n\n green \nblue", placed),
        ("id2label", json.dumps(pairs), placed),
        ("id2label of a config", json.dumps({"id2label": pairs, "label2id": LABEL}), placed),
        ("label2id", json.dumps(LABEL), placed),
        ("a list", json.dumps(list(CLASSES)), placed),
        ("id2label with BOM", b"\xef\xbb\xbf" + json.dumps(pairs).encode(), placed),
        ("id2label out of order", json.dumps({key: pairs[key] for key in "201"}), placed),
        ("class index", json.dumps({key: ["n0", name] for key, name in pairs.items()}), refused),
        ("empty", b"", refused),
        ("BOM alone", b"\xff\xfe", refused),
        ("no text", b"\x80\x81\xff", refused),
        ("damaged JSON", '{"0": "red"', refused),
        ("empty JSON", "{}", refused),
        ("JSON of numbers", "[1, 2, 3]", refused),
        ("JSON of nulls", "[null, null, null]", refused),
        ("deep JSON", "[" * 100_000, refused),
        ("a gap", '{"0": "red", "2": "blue", "3": "green"}', refused),
        ("two names for one", '{"red": 0, "green": 0, "blue": 1}', refused),
        ("a nested name", '{"0": {"a": 1}, "1": "green", "2": "blue"}', refused),
        ("too few", "red\ngreen\n", refused),
        ("others", "cat\ndog\ncow\n", refused),
        ("twice", "red\nred\nblue\n", refused),
        ("a text in JSON", '"red"', refused),
        ("not a number", '{"a": "red"}', refused),
    )


def attacks() -> Iterator[Attack]:
    """Folders, lists, archives, links and lists of class names."""
    for name, files, right, more in layouts():
        yield attack("folders", name, tree(files), right, more)
        yield attack("archives", name, archive(files), right, more)
    for name, files, right, more in lists():
        yield attack("lists", name, tree(files), right, more)
        yield attack("lists", f"{name}, zip", archive(files), right, more)
    good = under("set/")
    for name, files, right in (
        ("backslashes", {name.replace("/", "\\"): label for name, label in good.items()}, placed),
        ("backslashes below a folder", {name.replace("/", "\\", 1): label for name, label in good.items()}, placed),
        ("backslashes outside", {**good, "set\\..\\..\\owned\\0.png": 0}, refused),
        ("outside", {**good, "../owned/0.png": 0}, refused),
        ("absolute", {**good, "/owned/0.png": 0}, refused),
        ("a drive", {**good, "C:\\owned\\0.png": 0}, refused),
        ("a share", {**good, "\\\\host\\owned\\0.png": 0}, refused),
        ("one name twice", {**good, "set\\red\\0.png": 1}, refused),
        ("an empty name", {**good, "": 0}, refused),
        ("dots", {"./red/0.png": 0, "./green/0.png": 1}, placed_or_refused),
        ("folders as backslash entries", {**good, "set\\red\\": b""}, placed),
        ("a bomb", {**good, "set/red/9.png": bytes(10**8)}, refused),
        ("a bomb in a card", {**good, "README.md": bytes(6 * 10**7)}, placed_or_refused),
        ("no images", {"a.txt": "x"}, refused),
        ("a zip in a zip", {"set.zip": b"PK\x05\x06" + bytes(18)}, refused),
    ):
        yield attack("archives", name, archive(files), right)
    for name, offset, value in (
        ("huge entry", 24, struct.pack("<I", 2**31)),
        ("encrypted", 8, struct.pack("<H", 1)),
        ("unknown method", 10, struct.pack("<H", 77)),
        ("no name", 28, struct.pack("<H", 0)),
        ("outside the file", 42, struct.pack("<I", 2**30)),
        ("says less", 24, struct.pack("<I", 9)),
    ):
        yield attack("archives", name, archive(good, patched(offset, value)), refused)
    size = 1200
    for place in range(0, size, 41):
        yield attack(
            "archives",
            f"byte {place} damaged",
            archive(good, lambda data, place=place: flipped(data, place % len(data))),
            placed_or_refused_of_damage,
        )
    for name, change, right in links():

        def build(folder: Path, change: Callable[[Path], None] = change) -> str:
            images(folder / "set")
            change(folder)
            return "set"

        yield attack("links and pipes", name, build, right)
    for name, content, right in class_files():

        def labelled(folder: Path, content: bytes | str = content) -> str:
            images(folder / "set", {str(label): label for label in range(3)})
            write(folder / "classes", content)
            return "set"

        yield attack("class files", name, labelled, right, ["--classes", "classes"])
