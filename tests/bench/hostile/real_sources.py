"""Real datasets as people keep them, with what must be read of each: split, class and colour of every image.

A class is a colour, as in `foreign`: what lies in a split of a source says by itself where it belongs.
"""

import io
import json
import os
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value

from distill_hub.data.sources import Source, load_source
from tests.bench.hostile.attack import Attack, Outcome, Right, refused, used
from tests.bench.hostile.foreign import CLASSES, encoded, images, pixels, write

Write = Callable[[Path], Any]  # writes the source into a folder
HALF = ["--test_fraction", "0.5"]


def colours(source: Source, split: str) -> Counter:
    """Count the images of a split by the name of their class and the colour that they show."""
    rows = getattr(source, split)
    seen = [CLASSES[int(np.asarray(rows.image(row), dtype=float).mean((0, 1)).argmax())] for row in range(len(rows))]
    return Counter(zip((source.class_names[label] for label in rows.labels), seen, strict=True))


def read(
    train: int | Mapping[str, int], test: int | Mapping[str, int], *said: str, names: Sequence[str] = CLASSES, **how: Any
) -> Right:
    """Ask for a source of so many images of each class (of red, green and blue each, as a number) in the two splits.

    Args:
        train: Images of each class.
        test: Likewise.
        said: Words that must be printed.
        names: What the source calls red, green and blue.
        how: Options of `load_source`.
    """

    def right(outcome: Outcome) -> str | None:
        if wrong := used(outcome):
            return f"{wrong}: {outcome.output[-300:]}"
        record = json.loads((outcome.folder / "out/manifest.json").read_text())["source"]
        source = load_source(str(outcome.folder / "src"), **how)
        for split, wanted in (("train", train), ("test", test)):
            counts = dict.fromkeys(names, wanted) if isinstance(wanted, int) else wanted
            due = Counter({(name, CLASSES[names.index(name)]): count for name, count in counts.items() if count})
            if (found := colours(source, split)) != due:
                return f"{split} has {dict(found)}"
            if record[f"{split}_images"] != due.total():
                return f"its record has {record[f'{split}_images']} {split} images, not {due.total()}"
        missing = [word for word in said if word not in outcome.output]
        return f"not said: {missing[0]!r}; {outcome.output[:300]!r}" if missing else None

    return right


def told(*words: str) -> Right:
    """Ask for a refusal that has these words."""

    def right(outcome: Outcome) -> str | None:
        missing = [word for word in words if word not in outcome.output]
        return refused(outcome) or (f"not said: {missing[0]!r}; {outcome.output[-300:]!r}" if missing else None)

    return right


def behind(build: Write, more: Sequence[str] = (), names: Sequence[str] = CLASSES) -> Callable[[Path], list[str]]:
    """Return what writes a source, and a set of its classes that `adopt` brings to it."""

    def whole(folder: Path) -> list[str]:
        (folder / "src").mkdir()
        build(folder / "src")
        images(folder / "set", {name: label for label, name in enumerate(names)}, count=1)
        return ["adopt", "set", "--source", "src", "--method", "dm", "--output_dir", "out", *more]

    return whole


def splits(src: Path, train: str = "train", test: str = "test", names: Any = CLASSES, suffix: str = "png") -> None:
    """Write an image folder of 4 and 2 images a class."""
    images(src / train, names, 4, suffix)
    labels = names if isinstance(names, dict) else {name: label for label, name in enumerate(names)}
    for name, label in labels.items():
        for number in range(2):
            write(src / test / name / f"{number}.{suffix}", encoded(label, 10 + number))


def flat(src: Path, place: str, count: int = 6, first: int = 0) -> list[tuple[str, str]]:
    """Write images into one folder, classes in turn; return their names and colours."""
    rows = [(f"{number:04d}.png", CLASSES[number % 3]) for number in range(first, first + count)]
    for number, (name, colour) in enumerate(rows, first):
        write(src / place / name, encoded(CLASSES.index(colour), number))
    return rows


# Folders


def folders() -> Iterator[tuple[str, Write, Right, list[str], Sequence[str]]]:
    """What is there, what writes it, what is right, options, names of the classes."""

    def also(*writes: Write) -> Write:
        return lambda src: [write_one(src) for write_one in writes]

    def text(name: str, content: str | bytes = "x") -> Write:
        return lambda src: write(src / name, content)

    def at(place: str, **how: Any) -> Write:
        return lambda src: splits(src / place, **how)

    plain = read(4, 2)
    yield "train and test", splits, plain, [], CLASSES
    for train, test in (
        *(("Train", "Test"), ("TRAIN", "VAL"), ("training_set", "test_set"), ("train_images", "test_images")),
        *(("train-full", "val-full"), ("seg_train", "seg_test"), ("cifar_train", "cifar_test"), ("train2017", "val2017")),
        *(("01_train", "02_test"), ("train.v2", "test.v2"), ("training", "evaluation"), ("train set", "test set")),
        *(("train_224", "test_224"), ("imagenet-train", "imagenet-val"), ("train", "dev")),
    ):
        named = ("--test_split", "dev") if test == "dev" else ()
        how = {"test_split": "dev"} if named else {}
        yield f"{train} and {test}", at("", train=train, test=test), read(4, 2, **how), [*named], CLASSES
    for around in ("data", "dataset/images", "CINIC-10", "chest_xray", "archive (1)", "my.data"):
        yield f"all in {around}", at(around), plain, [], CLASSES
    yield "a validation split, too", also(splits, lambda s: images(s / "valid", CLASSES[::-1])), plain, [], CLASSES
    named = read({"red": 2, "green": 2, "blue": 2}, 4, train_split="valid", test_split="train")
    words = ["--train_split", "valid", "--test_split", "train"]
    yield "splits that are named", also(splits, lambda s: images(s / "valid")), named, words, CLASSES
    other = lambda s: [images(s / "2007", count=4), images(s / "2012", count=2)]  # noqa: E731
    how = {"train_split": "2007", "test_split": "2012"}
    yield "years as splits", other, read(4, 2, **how), ["--train_split", "2007", "--test_split", "2012"], CLASSES
    yield "years as splits, not named", other, refused, [], CLASSES
    for names in (
        *(("001.Black_footed_Albatross", "002.Laysan", "010.Red"), ("n02085620-Chihuahua", "n02085782-Japanese", "n1-x")),
        *(
            ("Apple___Black_rot", "Apple___healthy", "Corn_(maize)___x"),
            ("c++", "c#", "100% cotton"),
            ("a b", "a  b", "a.b"),
        ),
        *(("10", "9", "100"), ("0", "1", "2"), ("00", "01", "10"), ("True", "False", "None"), ("no", "yes", "null")),
        *(("猫", "犬", "鸟"), ("chaîne", "été", "où"), ("🐱", "🐶", "🐦"), ("قطة", "كلب", "طائر"), ("[a]", "{b}", "*")),
        *(
            ("-a", "--b", "~c"),
            ("$HOME", "%PATH%", "`ls`"),
            ("a,b", 'c"d', "e'f"),
            ("A", "a", "Ä"),
            ("train2", "test1", "c"),
        ),
        *(
            ("x" * 200, "y" * 200, "z"),
            ("images", "labels", "data"),
            ("README", "metadata", "config"),
            ("a&b", "c;d", "e|f"),
        ),
        *(("New Folder", "New Folder (2)", "Kopie von x"), ("cat.jpg", "dog.png", "cow.tar"), ("#1", "#2", "#3")),
    ):
        own = {name: label for label, name in enumerate(names)}
        yield f"classes {', '.join(names)[:60]}", at("", names=own), read(4, 2, names=names), [], names
    for suffix in ("PNG", "Png", "pNg", "apng"):
        yield f"suffix {suffix}", at("", suffix=suffix), plain, [], CLASSES
    beside = {
        "DS_Store": text(".DS_Store"),
        "desktop.ini": text("train/desktop.ini"),
        "Thumbs.db": text("train/red/Thumbs.db"),
        "AppleDouble": also(text("train/red/._0.png"), text("__MACOSX/train/red/._0.png")),
        "checkpoints of notebooks": also(text("train/.ipynb_checkpoints/a.png"), text(".ipynb_checkpoints/x/a.png")),
        "git": also(text(".git/objects/a.png"), text(".gitattributes")),
    }
    for what, more in beside.items():
        silent = lambda outcome: plain(outcome) or ("it speaks of them" if "not used" in outcome.output else None)  # noqa: E731
        yield f"{what} beside", also(splits, more), silent, [], CLASSES
    told_of = {
        "class lists": ("classes.txt", "1 of other kinds (classes.txt)"),
        "annotations": ("annotations/instances.xml", "annotations/instances.xml"),
        "csv of labels": ("labels.csv", "labels.csv"),
        "a zip beside": ("train.zip", "train.zip"),
        "json of Food-101": ("meta/train.json", "meta/train.json"),
        "a numpy array": ("train/red/x.npy", "train/red/x.npy"),
        "a video": ("train/red/x.mp4", "train/red/x.mp4"),
        "an svg": ("train/red/x.svg", "train/red/x.svg"),
        "a part of a download": ("train/red/9.png.part", "9.png.part"),
        "a backup": ("train/red/9.png~", "9.png~"),
        "a page": ("train/red/9.png", "broken (train/red/9.png"),
        "an empty image": ("test/red/9.png", "broken (test/red/9.png"),
    }
    for what, (name, said) in told_of.items():
        content = "" if "empty" in what else "<html>"
        yield what, also(splits, text(name, content)), read(4, 2, said), [], CLASSES
    yield (
        "Tiny ImageNet",
        lambda s: [
            [images(s / f"train/{c}", {"images": k}, 4) for k, c in enumerate(CLASSES)],
            [write(s / f"train/{c}/{c}_boxes.txt", "0 1 2 3") for c in CLASSES],
            flat(s, "val/images"),
            write(s / "val/val_annotations.txt", "x"),
            flat(s, "test/images"),
        ],
        told("test"),
        [],
        CLASSES,
    )
    yield (
        "Tiny ImageNet, val sorted",
        lambda s: [
            [images(s / f"tiny-imagenet-200/train/{c}", {"images": k}, 4) for k, c in enumerate(CLASSES)],
            images(s / "tiny-imagenet-200/val", CLASSES, 2),
        ],
        plain,
        [],
        CLASSES,
    )
    yield (
        "ImageNet of Kaggle",
        lambda s: [images(s / "ILSVRC/Data/CLS-LOC/train", CLASSES, 4), flat(s, "ILSVRC/Data/CLS-LOC/val")],
        told("validation"),
        [],
        CLASSES,
    )
    yield (
        "cats and dogs of Kaggle",
        lambda s: [flat(s, "train"), flat(s, "test1")],
        told("one folder of images"),
        [],
        CLASSES,
    )
    yield "Oxford pets", lambda s: [flat(s, "images"), write(s / "annotations/list.txt", "x")], refused, HALF, CLASSES
    yield (
        "GTSRB",
        lambda s: [images(s / "Train", CLASSES, 4), flat(s, "Test"), write(s / "Test.csv", "x")],
        told("test"),
        [],
        CLASSES,
    )
    yield (
        "Intel images",
        lambda s: [splits(s, "seg_train/seg_train", "seg_test/seg_test"), flat(s, "seg_pred/seg_pred")],
        refused,
        [],
        CLASSES,
    )
    yield (
        "Intel images, two splits",
        at("", train="seg_train/seg_train", test="seg_test/seg_test"),
        lambda o: plain(o) if o.code == 0 else refused(o),
        [],
        CLASSES,
    )
    yield "chest x-rays, twice", also(splits, at("chest_xray")), refused, [], CLASSES
    yield (
        "Fruits-360",
        also(at("", train="Training", test="Test"), lambda s: flat(s, "test-multiple_fruits")),
        refused,
        [],
        CLASSES,
    )
    yield (
        "Food-101",
        lambda s: [images(s / "images", CLASSES, 4), write(s / "meta/test.json", "{}")],
        read(2, 2, test_fraction=0.5),
        HALF,
        CLASSES,
    )
    yield "Caltech", lambda s: images(s / "101_ObjectCategories", CLASSES, 4), read(2, 2, test_fraction=0.5), HALF, CLASSES
    yield "classes alone", lambda s: images(s, CLASSES, 4), read(2, 2, test_fraction=0.5), HALF, CLASSES
    yield "classes alone, nothing held out", lambda s: images(s, CLASSES, 4), told("--test_fraction"), [], CLASSES
    yield "train alone", lambda s: images(s / "train", CLASSES, 4), read(2, 2, test_fraction=0.5), HALF, CLASSES
    yield "test alone", lambda s: images(s / "test", CLASSES, 4), read(2, 2, test_fraction=0.5), HALF, CLASSES
    one = lambda s: [images(s, CLASSES[:2], 4), images(s, {"blue": 2}, 1)]  # noqa: E731
    yield "a class of one image", one, told("test_fraction"), HALF, CLASSES
    yield "an empty class in train", also(splits, lambda s: (s / "train/grey").mkdir()), plain, [], CLASSES
    emptied = also(splits, lambda s: [file.unlink() for file in (s / "test/blue").iterdir()])
    yield "an empty class in test", emptied, read(4, {"red": 2, "green": 2}), [], CLASSES
    more = also(splits, lambda s: images(s / "test", {"grey": 0}))
    yield (
        "a class in test alone",
        more,
        read(4, 2, "2 of classes that the training split has not (test/grey/0.png"),
        [],
        CLASSES,
    )
    twice = also(splits, lambda s: write(s / "test/red/9.png", encoded(0, 0)))
    same = read(4, {"red": 3, "green": 2, "blue": 2}, "1 of its 7 test images are training images, too, byte for byte")
    yield "an image in both splits", twice, same, [], CLASSES
    linked = also(splits, lambda s: os.link(s / "train/red/0.png", s / "test/red/9.png"))
    yield "a hard link in both splits", linked, same, [], CLASSES
    spelled = also(at("", names={"cafe\u0301": 0, "b": 1}), lambda s: (s / "test/cafe\u0301").rename(s / "test/caf\u00e9"))
    yield (
        "accents taken apart in train",
        spelled,
        read({"caf\u00e9": 4, "b": 4}, {"caf\u00e9": 2, "b": 2}, names=["caf\u00e9", "b"]),
        [],
        ["caf\u00e9", "b"],
    )

    def elsewhere(src: Path) -> None:
        splits(src.parent / "pool")
        for part in ("train", "test"):
            (src / part).symlink_to(f"../pool/{part}")

    yield "splits that are links", elsewhere, plain, [], CLASSES

    def each(src: Path) -> None:
        splits(src.parent / "pool")
        for file in (src.parent / "pool").rglob("*.png"):
            place = src / file.relative_to(src.parent / "pool")
            place.parent.mkdir(parents=True, exist_ok=True)
            place.symlink_to(file)

    yield "every image a link, as git-annex has them", each, plain, [], CLASSES


def metadata() -> Iterator[tuple[str, Write, Right, list[str], Sequence[str]]]:
    """Flat folders with their labels in a file."""

    def rows(pairs: Sequence[tuple[str, Any]], column: str = "label", prefix: str = "", **more: Any) -> str:
        return "".join(json.dumps({"file_name": prefix + name, column: value, **more}) + "\n" for name, value in pairs)

    def both(column: str = "label", prefix: str = "", form: Callable[[str], Any] = str, **more: Any) -> Write:
        def build(src: Path) -> None:
            for split, count, first in (("train", 12, 0), ("test", 6, 20)):
                pairs = flat(src, f"{split}/{prefix}", count, first)
                write(src / split / "metadata.jsonl", rows([(n, form(c)) for n, c in pairs], column, prefix, **more))

        return build

    plain = read(4, 2)
    # flat() starts the test split at number 20, whose colour is blue: classes in turn, two of each.
    yield "jsonl in each split", both(), plain, [], CLASSES
    yield "jsonl in each split, images below", both(prefix="images/"), plain, [], CLASSES
    yield "with captions and boxes", both(caption="a, b", objects={"bbox": [[0, 0, 1, 1]]}, width=8), plain, [], CLASSES
    yield "column class", both("class"), plain, [], CLASSES
    yield "column species", both("species"), told("--label_column", "species"), [], CLASSES
    yield (
        "column species, named",
        both("species"),
        read(4, 2, label_column="species"),
        ["--label_column", "species"],
        CLASSES,
    )
    yield "numbers", both(form=CLASSES.index), read(4, 2, names=["0", "1", "2"]), [], ["0", "1", "2"]
    yield (
        "numbers that do not begin at 0",
        both(form=lambda c: 7 * CLASSES.index(c) + 3),
        read(4, 2, names=["3", "10", "17"]),
        [],
        ["3", "10", "17"],
    )
    yield "truths", both(form=lambda c: c == "red"), used, [], ["True", "False"]
    yield "lists", both(form=lambda c: [c]), told("label"), [], CLASSES
    yield "captions alone", both("text"), told("text"), [], CLASSES

    def root(form: str) -> Write:
        def build(src: Path) -> None:
            pairs = [(f"train/{n}", c) for n, c in flat(src, "train", 12)] + [
                (f"test/{n}", c) for n, c in flat(src, "test", 6, 20)
            ]
            if form == "csv":
                write(src / "metadata.csv", "file_name,label\n" + "".join(f"{n},{c}\n" for n, c in pairs))
            elif form == "semicolons":
                write(src / "metadata.csv", "file_name;label\n" + "".join(f"{n};{c}\n" for n, c in pairs))
            elif form == "quoted":
                write(
                    src / "metadata.csv",
                    '"label","file_name","text"\r\n' + "".join(f'"{c}","./{n}","a\n b"\r\n' for n, c in pairs),
                )
            elif form == "parquet":
                pq.write_table(
                    pa.table({"file_name": [n for n, _ in pairs], "label": [c for _, c in pairs]}), src / "metadata.parquet"
                )
            elif form == "categories":
                labels = pa.array([c for _, c in pairs]).dictionary_encode()
                pq.write_table(pa.table({"file_name": [n for n, _ in pairs], "label": labels}), src / "metadata.parquet")
            elif form == "backslashes":
                write(src / "metadata.csv", "file_name,label\n" + "".join(f"{n},{c}\n".replace("/", "\\") for n, c in pairs))
            elif form == "capitals":
                write(src / "Metadata.CSV", "file_name,label\n" + "".join(f"{n},{c}\n" for n, c in pairs))
            elif form == "absolute":
                write(src / "metadata.csv", "file_name,label\n" + "".join(f"{src / n},{c}\n" for n, c in pairs))

        return build

    for form in ("csv", "quoted", "parquet", "categories", "backslashes", "capitals"):
        yield f"one file of all splits, {form}", root(form), plain, [], CLASSES
    for form in ("semicolons", "absolute"):
        yield f"one file of all splits, {form}", root(form), refused, [], CLASSES


# Tables


def table(
    names: Sequence[str] | None, labels: Sequence[Any], colour: Sequence[int], first: int = 0, **columns: str
) -> Dataset:
    """A table of images as `datasets` makes it: labels, colours, and other names of the columns."""
    image, label = columns.get("image", "image"), columns.get("label", "label")
    kind: Any = ClassLabel(names=list(names)) if names else Value("string") if isinstance(labels[0], str) else Value("int64")
    own = {image: [PIL.Image.fromarray(pixels(k, first + n)) for n, k in enumerate(colour)], label: list(labels)}
    return Dataset.from_dict(own, features=Features({image: Image(), label: kind}))


def tables() -> Iterator[tuple[str, Write, Right, list[str], Sequence[str]]]:
    """Parquet, arrow and tar files."""
    turn = [n % 3 for n in range(12)]
    train, test = table(CLASSES, turn, turn), table(CLASSES, turn[:6], turn[:6], 20)
    plain = read(4, 2)

    def parquet(own: Mapping[str, Dataset], card: str = "") -> Write:
        def build(src: Path) -> None:
            for name, data in own.items():
                (src / name).parent.mkdir(parents=True, exist_ok=True)
                data.to_parquet(src / name)
            if card:
                write(src / "README.md", card)

        return build

    part = "-00000-of-00001.parquet"
    for name in ("data/", "plain_text/", "", "cifar10/data/", "mnist/"):
        yield (
            f"parquet in {name or 'the folder'}",
            parquet({f"{name}train{part}": train, f"{name}test{part}": test}),
            plain,
            [],
            CLASSES,
        )
    hashed = {
        "data/train-00000-of-00001-0a1b2c3d4e5f6a7b.parquet": train,
        "data/test-00000-of-00001-b42a775f407cee45.parquet": test,
    }
    yield "hashes in the names", parquet(hashed), plain, [], CLASSES
    half = {f"data/train-0000{i}-of-00002.parquet": train.select(range(6 * i, 6 * i + 6)) for i in range(2)}
    yield "two shards", parquet({**half, f"data/test{part}": test}), plain, [], CLASSES
    yield (
        "0000.parquet in folders of splits",
        parquet({"default/train/0000.parquet": train, "default/test/0000.parquet": test}),
        plain,
        [],
        CLASSES,
    )
    yield "train.parquet", parquet({"train.parquet": train, "test.parquet": test}), plain, [], CLASSES
    yield "capital suffix", parquet({"Train.PARQUET": train, "Test.PARQUET": test}), plain, [], CLASSES
    yield "one file", parquet({"cats.parquet": train}), read(2, 2, test_fraction=0.5), HALF, CLASSES
    order = ["blue", "red", "green"]  # red is 1, green 2, blue 0
    place = [order.index(CLASSES[k]) for k in turn]
    mixed = {f"data/train{part}": table(order, place, turn), f"data/test{part}": table(order, place[:6], turn[:6], 20)}
    yield "names that are not sorted", parquet(mixed), plain, [], CLASSES
    texts = [CLASSES[k] for k in turn]
    own = {f"data/train{part}": table(None, texts, turn), f"data/test{part}": table(None, texts[:6], turn[:6], 20)}
    yield "texts", parquet(own), plain, [], CLASSES
    many = {
        f"data/train{part}": train.add_column("label_name", texts),
        f"data/test{part}": test.add_column("label_name", texts[:6]),
    }
    yield "names in a column of their own", parquet(many), plain, [], CLASSES
    how = read(4, 2, label_column="label_name")
    yield "names in a column of their own, which is named", parquet(many), how, ["--label_column", "label_name"], CLASSES
    fine = {
        name: table(CLASSES, labels, labels, first, image="img", label="fine_label").add_column(
            "coarse_label", [0] * len(labels)
        )
        for name, labels, first in ((f"cifar100/train{part}", turn, 0), (f"cifar100/test{part}", turn[:6], 20))
    }
    coarse = {name: data.cast_column("coarse_label", ClassLabel(names=["a", "b"])) for name, data in fine.items()}
    yield (
        "CIFAR-100, fine",
        parquet(coarse),
        read(4, 2, label_column="fine_label"),
        ["--label_column", "fine_label"],
        CLASSES,
    )
    yield "CIFAR-100, not said", parquet(coarse), told("--label_column", "fine_label", "coarse_label"), [], CLASSES
    two = {
        f"{name}/{split}{part}": data for name in ("cropped", "full") for split, data in (("train", train), ("test", test))
    }
    flipped = {name: data if name[0] == "c" else data.select(range(3)) for name, data in two.items()}
    entry = (
        "- config_name: {0}\n  data_files:\n  - split: train\n    path: {0}/train-*\n  - split: test\n    path: {0}/test-*\n"
    )
    config = "---\nconfigs:\n" + entry.format("cropped") + entry.format("full")
    yield "two configurations", parquet(flipped, f"{config}---\n"), told("--source_config", "cropped", "full"), [], CLASSES
    how, words = read(4, 2, source_config="cropped"), ["--source_config", "cropped"]
    yield "one of two configurations", parquet(flipped, f"{config}---\n"), how, words, CLASSES
    default = config.replace("cropped\n", "cropped\n  default: true\n", 1)
    yield "two configurations, one the default", parquet(flipped, f"{default}---\n"), plain, [], CLASSES
    yield "two folders without a card", parquet(flipped), refused, [], CLASSES
    again = config.replace("config_name: full", "config_name: cropped")
    yield "two configurations of one name", parquet(flipped, f"{again}---\n"), told("cropped"), words, CLASSES
    info = "dataset_info:\n  features:\n  - name: image\n    dtype: image\n  - name: label\n    dtype:\n"
    info += "      class_label:\n        names:\n"
    lines = "".join(f"          '{k}': {name}\n" for k, name in enumerate(order))

    def bare(card: str, column: Any = None) -> Write:
        def build(src: Path) -> None:
            for split, labels, first in (("train", place, 0), ("test", place[:6], 20)):
                cells = [{"bytes": encoded(CLASSES.index(order[k]), first + n), "path": None} for n, k in enumerate(labels)]
                write(src / "data/x", "")
                (src / "data/x").unlink()
                pq.write_table(
                    pa.table({"image": cells, "label": column(labels) if column else pa.array(labels)}),
                    src / f"data/{split}{part}",
                )
            write(src / "README.md", card)

        return build

    yield "names in the card", bare(f"---\n{info}{lines}---\n"), plain, [], CLASSES
    yield "names in the card, numbers as keys", bare(f"---\n{info}{lines.replace(chr(39), '')}---\n"), plain, [], CLASSES
    listed = "".join(f"        - {name}\n" for name in order)
    yield (
        "names in the card, a list",
        bare(f"---\n{info}{listed}---\n"),
        lambda o: plain(o) if o.code == 0 else refused(o),
        [],
        CLASSES,
    )
    wild = "---\nlicense: mit\nlanguage:\n- en\npretty_name: 'X: y'\ntask_categories:\n- image-classification\n"
    wild += "size_categories:\n- n<1K\n"
    yield (
        "names in the card, with all that cards have",
        bare(f"{wild}{info}{lines}  splits:\n  - name: train\n    num_bytes: 1\n    num_examples: 12\n---\n# X\n\n---\n"),
        plain,
        [],
        CLASSES,
    )
    yield "names in the card, byte order mark", bare(f"\ufeff---\n{info}{lines}---\n"), plain, [], CLASSES
    yield "names in the card, from Windows", bare(f"---\n{info}{lines}---\n".replace("\n", "\r\n")), plain, [], CLASSES
    shuffled = "".join(f"          '{k}': {order[k]}\n" for k in (2, 0, 1))
    yield "names in the card, keys not in order", bare(f"---\n{info}{shuffled}---\n"), plain, [], CLASSES
    yield "numbers without names", bare("# x"), read(4, 2, names=["1", "2", "0"]), [], ["1", "2", "0"]
    for kind in (pa.int8(), pa.uint16(), pa.int32(), pa.uint64()):
        yield f"labels {kind}", bare(f"---\n{info}{lines}---\n", lambda v, k=kind: pa.array(v, k)), plain, [], CLASSES
    for name, column in {
        "large_string": lambda v: pa.array([order[k] for k in v], pa.large_string()),
        "string_view": lambda v: pa.array([order[k] for k in v], pa.string_view()),
        "categories": lambda v: pa.array([order[k] for k in v]).dictionary_encode(),
        "categories of large strings": lambda v: pa.array([order[k] for k in v], pa.large_string()).dictionary_encode(),
    }.items():
        yield f"labels {name}", bare("# x", column), plain, [], CLASSES
    for name, column in {
        "float": lambda v: pa.array([float(k) for k in v]),
        "null beside": lambda v: pa.array([float(v[0]), *[None] * (len(v) - 1)]),
        "lists": lambda v: pa.array([[k] for k in v]),
        "one-hot": lambda v: pa.array([[float(k == j) for j in range(3)] for k in v]),
    }.items():
        yield f"labels {name}", bare("# x", column), told("label_column", "label"), [], ["1", "2", "0"]

    def disk(src: Path) -> None:
        src.rmdir()
        DatasetDict({"train": train, "test": test}).save_to_disk(src)

    yield "save_to_disk", disk, plain, [], CLASSES

    def disk_of_one(src: Path) -> None:
        src.rmdir()
        train.save_to_disk(src, num_shards=2)

    yield "save_to_disk, one split", disk_of_one, read(2, 2, test_fraction=0.5), HALF, CLASSES

    def tar(name: str, form: str) -> Write:
        def build(src: Path) -> None:
            for split, labels, first in (("train", turn, 0), ("test", turn[:6], 20)):
                file = src / name.format(split)
                file.parent.mkdir(parents=True, exist_ok=True)
                with tarfile.open(file, "w") as archive:
                    for number, k in enumerate(labels):
                        more = {
                            "cls": {"cls": str(k)},
                            "names": {"cls": CLASSES[k]},
                            "json": {"json": json.dumps({"label": k})},
                            "both": {"cls": str(k), "json": "{}", "txt": "x"},
                        }[form]
                        for suffix, data in {"png": encoded(k, first + number), **more}.items():
                            data = data.encode() if isinstance(data, str) else data
                            entry = tarfile.TarInfo(f"{number:05d}.{suffix}")
                            entry.size = len(data)
                            archive.addfile(entry, io.BytesIO(data))

        return build

    digits = ["0", "1", "2"]
    for name in ("{}-000000.tar", "{}/shard-0.tar", "wds/cifar-{}-000.tar"):
        yield f"tar {name}", tar(name, "cls"), read(4, 2, names=digits), [], digits
    yield "tar with a text beside", tar("{}-0.tar", "both"), read(4, 2, names=digits), [], digits
    yield "tar with names", tar("{}-0.tar", "names"), lambda o: plain(o) if o.code == 0 else refused(o), [], CLASSES
    yield "tar with labels in JSON", tar("{}-0.tar", "json"), told("label"), [], digits


def attacks() -> Iterator[Attack]:
    """Yield what is tried."""
    for kind, cases in (("folders", folders()), ("metadata", metadata()), ("tables", tables())):
        for name, build, right, more, names in cases:
            yield Attack(f"real source: {kind}", name, behind(build, more, names), right)
