"""Sets made elsewhere as parquet files, their cards, and shards of artifacts that stand for far more than they are."""

import io
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq

from distill_hub.artifact.base import now
from distill_hub.artifact.manifest import Manifest, MethodRecord
from distill_hub.artifact.package import write_artifact
from distill_hub.artifact.source import SourceRecord
from tests.bench.hostile.attack import Attack, refused, used
from tests.bench.hostile.foreign import (
    CLASSES,
    STORED,
    attack,
    encoded,
    flipped,
    images,
    pixels,
    placed,
    placed_or_refused_of_damage,
    told,
    write,
)

LABELS = [0, 0, 1, 1, 2, 2]
NAMES = [CLASSES[label] for label in LABELS]
CELLS = [encoded(label, number) for number, label in enumerate(LABELS)]
IMAGES = pa.array([{"bytes": cell, "path": None} for cell in CELLS], STORED)
WRONG = [(label + 1) % 3 for label in LABELS]
SURE = (np.eye(3, dtype=np.float32)[LABELS] * 0.7 + 0.1).tolist()
POSITION = ["--classes", "red,green,blue"]


def described(names: Any, kind: str = "ClassLabel") -> dict[str, str]:
    """What `datasets` writes into a file."""
    return {
        "huggingface": json.dumps(
            {"info": {"features": {"image": {"_type": "Image"}, "label": {"names": names, "_type": kind}}}}
        )
    }


def stored(metadata: Mapping[str, str] | None = None, **columns: Any) -> bytes:
    """A parquet file of the six images; None leaves a column out."""
    own = {"image": IMAGES, "label": pa.array(LABELS), **columns}
    table = pa.table({name: column for name, column in own.items() if column is not None})
    file = io.BytesIO()
    pq.write_table(table.replace_schema_metadata(metadata), file)
    return file.getvalue()


def tables(files: Mapping[str, bytes | str]) -> Callable[[Path], str]:
    """A folder of files."""

    def build(folder: Path) -> str:
        for name, data in files.items():
            write(folder / "set" / name, data)
        return "set"

    return build


def columns() -> Iterator[tuple[str, dict[str, Any], Any, list[str]]]:
    """One file, what is right, options."""
    floats = pa.list_(pa.float32())
    yield from (
        ("numbers", {}, placed, POSITION),
        ("numbers, not said", {}, told("--classes"), []),
        ("texts", {"label": pa.array(NAMES)}, placed, []),
        ("large texts", {"label": pa.array(NAMES, pa.large_string())}, placed, []),
        ("categories", {"label": pa.array(NAMES).dictionary_encode()}, placed, []),
        ("categories of numbers", {"label": pa.array(LABELS).dictionary_encode()}, placed, POSITION),
        ("bytes", {"label": pa.array(LABELS, pa.uint8())}, placed, POSITION),
        ("whole floats", {"label": pa.array([float(v) for v in LABELS])}, placed, POSITION),
        ("lists of one", {"label": pa.array([[v] for v in LABELS])}, placed, POSITION),
        ("one-hot lists", {"label": pa.array(np.eye(3, dtype=int)[LABELS].tolist())}, placed, POSITION),
        ("class labels", {"metadata": described(list(CLASSES))}, placed, []),
        (
            "class labels in another order",
            {"metadata": described(["blue", "red", "green"]), "label": pa.array([1, 1, 2, 2, 0, 0])},
            placed,
            [],
        ),
        (
            "class labels in another order, source",
            {"metadata": described(["blue", "red", "green"]), "label": pa.array([1, 1, 2, 2, 0, 0])},
            placed,
            ["--classes", "source"],
        ),
        (
            "class labels that are contradicted",
            {"metadata": described(["blue", "red", "green"]), "label": pa.array([1, 1, 2, 2, 0, 0])},
            refused,
            POSITION,
        ),
        ("class names of numbers", {"metadata": described([1, 2, 3])}, refused, []),
        ("class names null", {"metadata": described(None)}, told("--classes"), []),
        ("class names too few", {"metadata": described(["red"])}, refused, []),
        ("class names a text", {"metadata": described("red")}, refused, []),
        ("class names nested", {"metadata": described([["red"], ["green"], ["blue"]])}, refused, []),
        ("metadata damaged", {"metadata": {"huggingface": "{"}}, refused, []),
        ("metadata a list", {"metadata": {"huggingface": "[]"}}, refused, []),
        ("metadata null", {"metadata": {"huggingface": '{"info": null}'}}, refused, []),
        ("features null", {"metadata": {"huggingface": '{"info": {"features": null}}'}}, refused, []),
        ("features a list", {"metadata": {"huggingface": '{"info": {"features": [1]}}'}}, refused, []),
        ("deep metadata", {"metadata": {"huggingface": "[" * 100_000}}, refused, []),
        ("binary", {"image": pa.array(CELLS)}, placed, POSITION),
        ("large binary", {"image": pa.array(CELLS, pa.large_binary())}, placed, POSITION),
        ("dictionary of images", {"image": pa.array(CELLS).dictionary_encode()}, placed, POSITION),
        ("plain column img", {"image": None, "img": pa.array(CELLS)}, placed, POSITION),
        ("class_id", {"label": None, "class_id": pa.array(LABELS)}, placed, POSITION),
        ("index column", {"__index_level_0__": pa.array(range(6))}, placed, POSITION),
        ("two labels", {"labels": pa.array(WRONG)}, told("label"), POSITION),
        ("two images", {"img": pa.array(CELLS)}, told("image"), POSITION),
        ("soft", {"soft_label": pa.array(SURE, floats)}, placed, POSITION),
        ("soft, fixed", {"soft_label": pa.array(SURE, pa.list_(pa.float32(), 3))}, placed, POSITION),
        ("soft, large list", {"soft_label": pa.array(SURE, pa.large_list(pa.float64()))}, placed, POSITION),
        (
            "soft, half",
            {"soft_label": pa.array([list(np.array(row, np.float16)) for row in SURE], pa.list_(pa.float16()))},
            placed,
            POSITION,
        ),
        ("logits", {"logits": pa.array((np.log(SURE) * 4).tolist(), floats)}, placed, POSITION),
        (
            "small logits",
            {"logits": pa.array((np.array(SURE) - 0.4 + [0.1, 0, 0.05]).tolist(), floats)},
            told("--label_kind"),
            POSITION,
        ),
        ("soft of 0.9", {"soft_label": pa.array((np.array(SURE) * 0.9).tolist(), floats)}, told("--label_kind"), POSITION),
        ("soft, null", {"soft_label": pa.array([*SURE[:5], None], floats)}, refused, POSITION),
        ("soft, a null inside", {"soft_label": pa.array([*SURE[:5], [0.1, None, 0.9]], floats)}, refused, POSITION),
        ("soft, uneven", {"soft_label": pa.array([*SURE[:5], [1.0]], floats)}, refused, POSITION),
        (
            "soft, uneven but as many",
            {"soft_label": pa.array([*SURE[:4], [0.5] * 2, [0.25] * 4], floats)},
            refused,
            POSITION,
        ),
        ("soft texts", {"soft_label": pa.array(["x"] * 6)}, refused, POSITION),
        ("soft twice", {"soft_label": pa.array(SURE, floats), "soft_labels": pa.array(SURE, floats)}, refused, POSITION),
        ("paths", {"image": pa.array([{"bytes": None, "path": "/etc/passwd"}] * 6, STORED)}, refused, POSITION),
        ("path texts", {"image": pa.array(["/etc/passwd"] * 6)}, refused, POSITION),
        (
            "one path",
            {"image": pa.array([*IMAGES.to_pylist()[:5], {"bytes": None, "path": "/etc/passwd"}], STORED)},
            refused,
            POSITION,
        ),
        ("no images", {"image": None}, refused, POSITION),
        ("no labels", {"label": None}, refused, POSITION),
        ("null label", {"label": pa.array([0, 0, 1, 1, 2, None])}, refused, POSITION),
        ("null category", {"label": pa.array([*NAMES[:5], None]).dictionary_encode()}, refused, POSITION),
        ("negative", {"label": pa.array([-1, *LABELS[1:]])}, refused, POSITION),
        ("huge", {"label": pa.array([2**63] * 6, pa.uint64())}, refused, POSITION),
        ("half numbers", {"label": pa.array([0.5] * 6)}, refused, POSITION),
        ("NaN", {"label": pa.array([float("nan")] * 6)}, refused, POSITION),
        ("structs", {"label": pa.array([{"a": 1}] * 6)}, refused, POSITION),
        ("dates", {"label": pa.array([1] * 6, pa.timestamp("s"))}, refused, POSITION),
        ("decimals", {"label": pa.array([1] * 6, pa.decimal128(5))}, refused, POSITION),
        ("nulls", {"label": pa.nulls(6)}, refused, POSITION),
        ("long texts", {"label": pa.array(["x" * 20_000] * 6)}, refused, []),
        ("texts nested", {"label": pa.array([["a"]] * 6)}, refused, []),
        ("a broken image", {"image": pa.array([*CELLS[:5], CELLS[5][:50]])}, told("row 5"), POSITION),
        ("an EPS", {"image": pa.array([*CELLS[:5], b"%!PS-Adobe-3.0 EPSF-3.0\n"])}, refused, POSITION),
        ("no rows", {"image": IMAGES[:0], "label": pa.array([], pa.int64())}, refused, POSITION),
        ("control characters", {"label": pa.array([f"\x1b[2J{name}" for name in NAMES])}, refused, []),
    )


CARD = "---\n{}\n---\n# A set\n"
INFO = "dataset_info:\n  features:\n  - name: image\n    dtype: image\n  - name: label\n    dtype:\n"
INFO += "      class_label:\n        names:\n{}"
NUMBERED = INFO.format("          '0': red\n          '1': green\n          '2': blue\n")


def folders() -> Iterator[tuple[str, dict[str, bytes | str], Any, list[str]]]:
    """Several files, with cards."""
    good, bad = stored(label=pa.array(NAMES)), stored(label=pa.array([CLASSES[v] for v in WRONG]))
    part, plain = "-00000-of-00001.parquet", stored()
    configs = "configs:\n" + "".join(
        f"- config_name: {name}\n  data_files:\n  - split: train\n    path: {name}/*\n" for name in ("ipc1", "ipc10")
    )
    splits = "configs:\n- config_name: default\n  data_files:\n"
    splits += "  - split: {}\n    path: data/x.parquet\n  - split: {}\n    path: data/y.parquet\n"
    yield from (
        ("one file", {"set.parquet": good}, placed, []),
        ("train and test", {f"data/train{part}": good, f"data/test{part}": bad}, placed, []),
        ("train and validation folders", {"train/0.parquet": good, "validation/0.parquet": bad}, placed, []),
        ("ipc1 and ipc4", {f"data/ipc1{part}": good, f"data/ipc4{part}": bad}, told("ipc1, ipc4", "--split"), []),
        ("ipc_1 and ipc_4", {"ipc_1.parquet": good, "ipc_4.parquet": bad}, told("ipc_1, ipc_4", "--split"), []),
        ("ipc_1 of two", {"ipc_1.parquet": good, "ipc_4.parquet": bad}, placed, ["--split", "ipc_1"]),
        ("cifar_ipc1 and cifar_ipc10", {"cifar_ipc1.parquet": good, "cifar_ipc10.parquet": bad}, told("--split"), []),
        (
            "synthetic and original",
            {f"data/synthetic{part}": good, f"data/original{part}": bad},
            told("original, synthetic", "--split"),
            [],
        ),
        ("synthetic of two", {f"data/synthetic{part}": good, f"data/original{part}": bad}, placed, ["--split", "synthetic"]),
        ("train and synthetic", {f"data/train{part}": bad, f"data/synthetic{part}": good}, told("--split"), []),
        ("folders ipc1 and ipc10", {"ipc1/train-0.parquet": good, "ipc10/train-0.parquet": bad}, told("ipc1, ipc10"), []),
        ("a folder of two", {"ipc1/train-0.parquet": good, "ipc10/train-0.parquet": bad}, placed, ["--data_dir", "ipc1"]),
        (
            "a folder of two by --split",
            {"ipc1/train-0.parquet": good, "ipc10/train-0.parquet": bad},
            placed,
            ["--split", "ipc1"],
        ),
        ("two shards", {"data/train-00000-of-00002.parquet": good, "data/train-00001-of-00002.parquet": good}, placed, []),
        ("numbered shards", {"0000.parquet": good, "0001.parquet": good}, placed, []),
        ("parts", {"part-0.parquet": good, "part-1.parquet": good}, placed, []),
        ("test and validation", {"test-0.parquet": good, "validation-0.parquet": bad}, told("--split"), []),
        ("train below a folder called test", {"test/train-0.parquet": good}, placed, []),
        ("a README without YAML", {"set.parquet": good, "README.md": "# x"}, placed, []),
        ("shards of other columns", {"0.parquet": good, "1.parquet": plain}, refused, []),
        (
            "shards of other names",
            {"0.parquet": stored(described(list(CLASSES))), "1.parquet": stored(described(list(CLASSES[::-1])))},
            refused,
            [],
        ),
        ("names in the card", {"set.parquet": plain, "README.md": CARD.format(NUMBERED)}, placed, []),
        (
            "names as a list",
            {
                "set.parquet": plain,
                "README.md": CARD.format(INFO.format("        - red\n        - green\n        - blue\n")),
            },
            placed,
            [],
        ),
        (
            "names in a card with CRLF and BOM",
            {"set.parquet": plain, "README.md": b"\xef\xbb\xbf" + CARD.format(NUMBERED).replace("\n", "\r\n").encode()},
            placed,
            [],
        ),
        (
            "the card contradicts the file",
            {"set.parquet": stored(described(["blue", "green", "red"])), "README.md": CARD.format(NUMBERED)},
            told("differently"),
            [],
        ),
        (
            "the card agrees",
            {"set.parquet": stored(described(list(CLASSES))), "README.md": CARD.format(NUMBERED)},
            placed,
            [],
        ),
        (
            "the card contradicts --classes",
            {"set.parquet": plain, "README.md": CARD.format(NUMBERED)},
            refused,
            ["--classes", "blue,green,red"],
        ),
        (
            "a gap in the card",
            {"set.parquet": plain, "README.md": CARD.format(INFO.format("          '0': red\n          '2': blue\n"))},
            refused,
            [],
        ),
        (
            "too few in the card",
            {"set.parquet": plain, "README.md": CARD.format(INFO.format("        - red\n"))},
            refused,
            [],
        ),
        (
            "configurations",
            {"ipc1/0.parquet": good, "ipc10/0.parquet": bad, "README.md": CARD.format(configs)},
            told("ipc1", "ipc10", "--split"),
            [],
        ),
        (
            "one configuration",
            {"ipc1/0.parquet": good, "ipc10/0.parquet": bad, "README.md": CARD.format(configs)},
            placed,
            ["--split", "ipc1"],
        ),
        (
            "splits of the card",
            {"data/x.parquet": good, "data/y.parquet": bad, "README.md": CARD.format(splits.format("train", "test"))},
            placed,
            [],
        ),
        (
            "splits of the card, several",
            {
                "data/x.parquet": good,
                "data/y.parquet": bad,
                "README.md": CARD.format(splits.format("synthetic", "original")),
            },
            told("original, synthetic"),
            [],
        ),
        (
            "a split of the card",
            {
                "data/x.parquet": good,
                "data/y.parquet": bad,
                "README.md": CARD.format(splits.format("synthetic", "original")),
            },
            placed,
            ["--split", "synthetic"],
        ),
        ("the card names none of the files", {"set.parquet": good, "README.md": CARD.format(configs)}, placed, []),
        ("broken YAML", {"set.parquet": good, "README.md": CARD.format("a: [")}, told("README.md"), []),
        ("aliases", {"set.parquet": good, "README.md": CARD.format("a: &a [1]\nb: [*a, *a]")}, told("an alias"), []),
        ("deep YAML", {"set.parquet": good, "README.md": CARD.format("a: " + "[" * 5000)}, refused, []),
        (
            "YAML code",
            {"set.parquet": good, "README.md": CARD.format("a: !!python/object/apply:os.system ['touch owned']")},
            refused,
            [],
        ),
        ("configs a text", {"set.parquet": good, "README.md": CARD.format("configs: all")}, refused, []),
        ("configs null", {"set.parquet": good, "README.md": CARD.format("configs: null\ndataset_info: null")}, placed, []),
        ("data_files numbers", {"set.parquet": good, "README.md": CARD.format("configs:\n- data_files: 3")}, refused, []),
        ("a card that is no text", {"set.parquet": good, "README.md": b"---\n\xff\xfe\n---\n"}, refused, []),
        ("names null", {"set.parquet": plain, "README.md": CARD.format(INFO.format("          null\n"))}, refused, []),
        ("no parquet", {"set.parquet": b"x"}, refused, []),
        ("an empty file", {"set.parquet": b""}, refused, []),
        ("footer alone", {"set.parquet": b"PAR1\x00\x00\x00\x00PAR1"}, refused, []),
        ("cut off", {"set.parquet": good[:-30]}, refused, []),
    )


def parquet(**columns: Any) -> Callable[..., bytes]:
    """A file of any columns."""

    def write_it(**how: Any) -> bytes:
        file = io.BytesIO()
        pq.write_table(pa.table(columns), file, **how)
        return file.getvalue()

    return write_it


def repeated(cell: bytes, rows: int) -> pa.DictionaryArray:
    """One cell, referred to by many rows."""
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int32)), pa.array([cell]))


def bombs() -> Iterator[tuple[str, bytes]]:
    """Kilobytes that stand for gigabytes."""
    rows = 10_000
    labels = pa.array(np.zeros(rows, np.int64))
    for size in (20, 60, 100):
        for codec in ("zstd", "gzip", "brotli", "snappy"):
            yield (
                f"a cell of {size} MB for 10,000 rows, {codec}",
                parquet(image=repeated(CELLS[0] + bytes(size * 10**6), rows), label=labels)(compression=codec),
            )
    yield (
        "a text of 50 MB for 10,000 rows",
        parquet(
            image=repeated(CELLS[0], rows),
            label=repeated(b"x" * (50 * 10**6), rows).cast(pa.dictionary(pa.int32(), pa.string())),
        )(compression="zstd"),
    )
    for length, count in ((50_000, 10_000), (5_000_000, 100)):
        offsets = pa.array(np.arange(count + 1, dtype=np.int32) * length)
        lists = pa.ListArray.from_arrays(offsets, pa.array(np.full(length * count, 1 / length, np.float32)))
        yield (
            f"soft labels of {length:,} numbers, {count:,} rows",
            parquet(image=repeated(CELLS[0], count), label=labels[:count], soft_label=lists)(compression="zstd"),
        )
    flat = io.BytesIO()
    PIL.Image.new("RGB", (4096, 4096)).save(flat, "PNG", optimize=True)
    yield (
        "one flat image of 4096 px for 1,000 rows",
        parquet(image=repeated(flat.getvalue(), 1000), label=labels[:1000])(compression="zstd"),
    )
    nulls = pa.array([None] * 10_000_000, pa.binary())
    yield "ten million empty cells", parquet(image=nulls, label=pa.array(np.zeros(10_000_000, np.int64)))(compression="zstd")
    prefix = bytes(10**6)
    yield (
        "common beginnings",
        parquet(image=pa.array([prefix + bytes([i % 256]) for i in range(300)]), label=labels[:300])(
            use_dictionary=False, column_encoding={"image": "DELTA_BYTE_ARRAY", "label": "PLAIN"}, compression="zstd"
        ),
    )


def artifact(folder: Path, shard: Callable[[bytes], bytes], **fields: Any) -> str:
    """An artifact whose shard was exchanged."""
    rows = [
        {"image": pixels(label, number), "label": label, "soft_label": np.eye(3)[label], "confidence": 1.0, "seed": -1}
        for number, label in enumerate(LABELS)
    ]

    def manifest(content: str) -> Manifest:
        source = SourceRecord(
            name="src",
            fingerprint="0",
            train_split="train",
            test_split="test",
            image_column="image",
            label_column="label",
            train_images=12,
            test_images=6,
        )
        own = {
            "name": "src-ipc2-dm",
            "method": MethodRecord(name="dm", title="DM", config={}),
            "source": source,
            "ipc": 2,
            "image_size": 8,
            "stages": [],
        }
        classes = [{"name": name, "source_index": label} for label, name in enumerate(CLASSES)]
        return Manifest(
            **own, classes=classes, soft_labels="one-hot", origin="external", content_sha256=content, created=now()
        )

    write_artifact(folder / "set", iter(rows), manifest, class_names=CLASSES)
    file = folder / "set/data/train-00000-of-00001.parquet"
    file.write_bytes(shard(file.read_bytes()))
    path = folder / "set/manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))
    return "set"


def shards() -> Iterator[Attack]:
    """Artifacts of damaged or swelling shards."""

    def build(shard: Callable[[bytes], bytes], **fields: Any) -> Callable[[Path], list[str]]:
        def whole(folder: Path) -> list[str]:
            for split, count in (("train", 4), ("test", 2)):
                images(folder / "src" / split, count=count)
            artifact(folder, shard, **fields)
            return [
                "evaluate",
                "set",
                "--source",
                "src",
                "--protocol",
                "quick",
                "--students",
                "convnet-1-w1",
                "--repeats",
                "1",
                "--dry_run",
            ]

        return whole

    def column(name: str, values: Any) -> Callable[[bytes], bytes]:
        def change(data: bytes) -> bytes:
            table = pq.read_table(io.BytesIO(data))
            index = table.schema.get_field_index(name)
            table = table.set_column(
                index, table.schema.field(name), pa.chunked_array([pa.array(values, table.schema.field(name).type)])
            )
            file = io.BytesIO()
            pq.write_table(table, file, compression="zstd")
            return file.getvalue()

        return change

    yield Attack("foreign: shards", "as it is", build(bytes), used)
    for place in range(0, 5000, 61):
        yield Attack(
            "foreign: shards",
            f"byte {place} damaged",
            build(lambda data, place=place: flipped(data, place % len(data))),
            refused_or_used,
        )
    for size in (10**5, 10**7, 6 * 10**7, 10**8):
        cell = {"bytes": CELLS[0] + bytes(size), "path": None}
        yield Attack("foreign: shards", f"a cell of {size:,} bytes", build(column("image", [cell] * 6)), refused)
        names = {"ipc": 10_000, "classes": [{"name": "red", "source_index": 0}]}
        yield Attack(
            "foreign: shards",
            f"a cell of {size:,} bytes for 10,000 rows",
            build(lambda _, cell=cell: swelling(cell, 10_000), **names),
            refused,
        )
    for name, data in (("empty", b""), ("zeros", bytes(1000)), ("footer alone", b"PAR1\x00\x00\x00\x00PAR1")):
        yield Attack("foreign: shards", name, build(lambda _, data=data: data), refused)


def swelling(cell: Mapping[str, Any], rows: int) -> bytes:
    """A shard of one image in many rows."""
    image = pa.StructArray.from_arrays([repeated(cell["bytes"], rows), pa.nulls(rows, pa.string())], names=["bytes", "path"])
    soft = pa.FixedSizeListArray.from_arrays(pa.array(np.ones(rows, np.float32)), 1)
    content = {
        "image": image,
        "label": pa.array(np.zeros(rows, np.int64)),
        "soft_label": soft,
        "confidence": pa.array(np.ones(rows, np.float32)),
        "seed": pa.array(np.zeros(rows, np.int64)),
    }
    file = io.BytesIO()
    pq.write_table(pa.table(content), file, compression="zstd", store_schema=False)
    return file.getvalue()


def refused_or_used(outcome: Any) -> str | None:
    """Damage that changes nothing is not noticed."""
    return refused(outcome) if outcome.code else used(outcome)


def attacks() -> Iterator[Attack]:
    """Tables, cards and shards."""
    for name, own, right, more in columns():
        yield attack("tables", name, tables({"set.parquet": stored(**own)}), right, more)
    for name, files, right, more in folders():
        yield attack("splits and cards", name, tables(files), right, more)
    for name, data in bombs():
        yield attack("bombs", name, tables({"set.parquet": data}), refused, POSITION)
    good = stored(label=pa.array(NAMES))
    for place in range(0, len(good), 43):
        yield attack(
            "tables", f"byte {place} damaged", tables({"set.parquet": flipped(good, place)}), placed_or_refused_of_damage
        )
    yield from shards()
