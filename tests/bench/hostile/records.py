"""Manifests, records, settings and paths that a stranger or an accident made: what `info`, `compare` and `--config` meet."""

import copy
import datetime
import functools
import itertools
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from distill_hub.artifact.manifest import ClassRecord, EnvironmentRecord, Manifest, MethodRecord, StageRecord
from distill_hub.artifact.package import write_artifact
from distill_hub.artifact.records import EvaluationRecord, Score
from distill_hub.artifact.source import SourceRecord
from tests.bench.hostile.attack import Attack, Outcome, either, refused, scratch, used

NOW = datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.timezone.utc)
ENVIRONMENT = EnvironmentRecord(
    packages={"torch": "2"}, python="3", hardware="CPU", processes=1, mixed_precision="no", peak_memory_bytes={"cpu": 1}
)
VALUES: dict[str, Any] = {  # in place of a field's own
    "null": None,
    "true": True,
    "minus one": -1,
    "half": 0.5,
    "huge": 10**40,
    "a large float": 1e308,
    "text": "text",
    "no text": "",
    "100 kB of text": "x" * 100_000,
    "a terminal's codes": "\x1b[2J\x1b]0;owned\x07\u202eabc",
    "markup": "[/1][bold]x[/2] :smile:",
    "a list": [1],
    "a list in lists": functools.reduce(lambda inner, _: [inner], range(30), []),
    "a mapping": {"a": 1},
}
RAW = {  # JSON that Python's writer does not make
    "NaN": "NaN",
    "infinite": "Infinity",
    "minus infinite": "-Infinity",
    "1e999": "1e999",
    "5,000 digits": "9" * 5000,
    "deep": "[" * 5000 + "]" * 5000,
    "a lone surrogate": '"\\ud800"',
    "not closed": '"',
}


def scored(folder: Path) -> Path:
    """Write a small set with a record."""
    place, names = folder / "set", ["tench", "church", "château"]
    rng = np.random.default_rng(0)
    rows = [
        {
            "image": rng.integers(0, 256, (8, 8, 3), dtype=np.uint8),
            "label": label,
            "soft_label": np.full(3, 1 / 3, np.float32),
            "confidence": 1 / 3,
            "seed": 0,
        }
        for label in range(3)
        for _ in range(2)
    ]

    def manifest(content: str) -> Manifest:
        return Manifest(
            name="fish-ipc2-cao2",
            method=MethodRecord(name="cao2", title="CaO2", paper="https://arxiv.org/abs/1", config={"ipc": 2}),
            source=SourceRecord(
                name="fish", fingerprint="0" * 64, train_split="train", test_split="test", image_column="image",
                label_column="label", train_images=9, test_images=9, license="mit", bibtex="@misc{a}", hub_id="org/fish",
                revision="a" * 40,
            ),
            classes=[ClassRecord(name=name, source_index=place) for place, name in enumerate(names)],
            ipc=2, image_size=8, seed=0, stages=[StageRecord(name="sample", items=6, seconds=1.0)],
            environment=ENVIRONMENT, license="mit", content_sha256=content, created=NOW,
        )  # fmt: skip

    written = write_artifact(place, iter(rows), manifest, class_names=names)
    score = Score(last=[0.5, 0.6], best=[0.6, 0.7], best_epoch=[1, 2])
    record = EvaluationRecord(
        protocol="quick", protocol_version=2, standard=False, student="convnet-2", seeds=[0, 1], score=score, mmd=0.1,
        baselines={"random real": score}, content_sha256=written.content_sha256, environment=ENVIRONMENT, seconds=1.0,
        settings={"epochs": 3}, date=NOW,
    )  # fmt: skip
    (place / "evaluations").mkdir()
    (place / "evaluations" / "own.json").write_text(record.to_json())
    return place


@functools.cache
def _template(root: str) -> dict[str, bytes]:
    place = scored(Path(root))
    return {file.relative_to(place).as_posix(): file.read_bytes() for file in place.rglob("*") if file.is_file()}


def small_set(folder: Path) -> Path:
    """Copy the small set, which is made once."""

    for name, data in _template(_root()).items():
        file = folder / "set" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    return folder / "set"


@functools.cache
def _root() -> str:
    return str(scratch())


def _places(content: Any, path: tuple = ()) -> Iterator[tuple]:
    """Yield the path of every value inside."""
    inside = content.items() if isinstance(content, dict) else enumerate(content[:1]) if isinstance(content, list) else ()
    for key, value in inside:
        yield (*path, key)
        yield from _places(value, (*path, key))


def _changed(content: Any, path: tuple, value: Any) -> Any:
    content = copy.deepcopy(content)
    own = functools.reduce(lambda inner, key: inner[key], path[:-1], content)
    own[path[-1]] = value
    return content


FILES = {"manifest": "manifest.json", "record": "evaluations/own.json"}


def _fields() -> Iterator[Attack]:
    for kind, file in FILES.items():
        content = json.loads(_template(_root())[file])
        for path, (name, value) in itertools.product(_places(content), VALUES.items()):
            yield Attack(f"records: field of a {kind}", f"{'.'.join(map(str, path))} is {name}",
                         functools.partial(_with_text, file, json.dumps(_changed(content, path, value))), _told)  # fmt: skip
        for path, (name, raw) in itertools.product(_places(content), RAW.items()):
            text = json.dumps(_changed(content, path, "HERE")).replace('"HERE"', raw)
            yield Attack(f"records: number or JSON of a {kind}", f"{'.'.join(map(str, path))} is {name}",
                         functools.partial(_with_text, file, text))  # fmt: skip
        for path in _places(content):
            text, key = json.dumps(content), json.dumps(path[-1])
            if isinstance(path[-1], str):
                twice = text.replace(f"{key}: ", f"{key}: 1, {key}: ", 1)
                yield Attack(
                    f"records: key of a {kind} given twice", str(path[-1]), functools.partial(_with_text, file, twice)
                )
        for name in ("x" * 100_000, "\x1b[2J\u202e", "[/1]", "\ud800", "a.b", ""):
            text = json.dumps({**content, name: 1})
            yield Attack(f"records: unknown key of a {kind}", repr(name[:9]), functools.partial(_with_text, file, text))
    for date in ("2026-01-02T03:04:05", "2026-01-02", "0", "2026-13-01T00:00:00Z", "2026-01-02T03:04:05+99:00", "now"):
        for file, field in (("manifest.json", "created"), ("evaluations/own.json", "date")):
            content = json.loads(_template(_root())[file])
            text = json.dumps({**content, field: date})
            yield Attack("records: date", f"{field} {date}", functools.partial(_with_text, file, text))
    record = json.loads(_template(_root())["evaluations/own.json"])
    wrong = ({"seeds": [1, 1]}, {"seeds": [-1, 0]}, {"seconds": -1.0}, {"submitted_by": "../x"}, {"submitted_by": "a b"})
    for change in wrong:
        text = json.dumps({**record, **change})
        yield Attack("records: what cannot be", str(change), functools.partial(_with_text, "evaluations/own.json", text))


def _with_text(file: str, text: str, folder: Path) -> list[str]:
    (small_set(folder) / file).write_text(text, encoding="utf-8", errors="surrogatepass")
    return ["info", "set"]


def _told(outcome: Outcome) -> str | None:
    """Used or refused; where it is used, nothing that moves a cursor is printed."""
    unseen = {c for c in outcome.output if not c.isprintable() and c != "\n"}
    return f"it prints {unseen}" if unseen else either(outcome)


def _files() -> Iterator[Attack]:
    makers: dict[str, Callable[[Path], None]] = {
        "a folder": lambda path: path.mkdir(),
        "a pipe": lambda path: os.mkfifo(path),
        "a dangling link": lambda path: path.symlink_to("gone"),
        "a link to itself": lambda path: path.symlink_to(path.name),
        "a device": lambda path: path.symlink_to("/dev/zero"),
        "of 50 GB": _sparse,
        "empty": lambda path: path.write_bytes(b""),
        "UTF-16": lambda path: path.write_bytes("{}".encode("utf-16")),
        "null": lambda path: path.write_bytes(b"null"),
        "a list": lambda path: path.write_bytes(b"[]"),
    }
    for (kind, file), (name, make) in itertools.product(FILES.items(), makers.items()):
        # A record that is not a plain file is none.
        right = either if kind == "record" else refused
        yield Attack("records: kind of file", f"{kind} is {name}", functools.partial(_with_file, file, make), right)


def _sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(50 * 10**9)


def _with_file(file: str, make: Callable[[Path], None], folder: Path) -> list[str]:
    place = small_set(folder) / file
    place.unlink()
    make(place)
    return ["info", "set"]


PATHS = {
    "too long": "x" * 5000,
    "a part too long": f"a/{'x' * 300}/b/c",
    "below a file": "file/set",
    "a dangling link": "./dangling",
    "a link to itself": "./loop",
    "a device": "/dev/null",
    "of the kernel": "/proc/self/mem",
    "a folder of the kernel": "/proc/self/fdinfo",
    "markup": "exp[/1]",
    "brackets": "./run[cifar10]",
    "home": "~/nothing-of-this-name",
    "of nobody": "~nobody-of-this-name/x",
    "empty": "",
    "a new line": "./a\nb",
    "codes": "./\x1b[2J\u202e",
    "no UTF-8": "./\udcff",
    "above": "../c_sett",
    "a backslash": "C:\\sets\\one",
    "many slashes": "org/name/more",
    "a file's name": "sets/dm.pt",
    "a pipe": "./pipe",
}


def _around(folder: Path) -> None:
    (folder / "file").write_text("x")
    (folder / "dangling").symlink_to("gone")
    (folder / "loop").symlink_to("loop")
    os.mkfifo(folder / "pipe")


def _paths() -> Iterator[Attack]:
    commands = {
        "info": ["info", "PATH"],
        "compare": ["compare", "PATH"],
        "push": ["push", "PATH", "org/x"],
        "reproduce": ["reproduce", "PATH", "--print_command"],
        "evaluate": ["evaluate", "PATH"],
        "evaluate --teacher": ["evaluate", "set", "--teacher", "PATH"],
        "evaluate --source": ["evaluate", "set", "--source", "PATH"],
        "adopt": ["adopt", "PATH", "--source", "digits", "--method", "dm"],
        "relabel": ["relabel", "PATH"],
        "reproduce --generator": ["reproduce", "set", "--generator", "PATH"],
        "--config": ["make", "dit", "--dry_run", "--config", "PATH"],
        "--config_file": ["make", "dit", "--dry_run", "--config_file", "PATH"],
        "make --source": ["make", "random_real", "--dry_run", "--source", "PATH"],
        "make --teacher": ["make", "random_real", "--dry_run", "--teacher", "PATH"],
        "make --generator": ["make", "dit", "--dry_run", "--generator", "PATH"],
    }
    for (command, words), (name, path) in itertools.product(commands.items(), PATHS.items()):
        yield Attack("records: path", f"{command} {name}", functools.partial(_with_path, words, path), refused)
    for option, (name, path) in itertools.product(("--json", "--html"), PATHS.items()):
        words = ["compare", "set", option, "PATH"]
        yield Attack("records: path to write", f"{option} {name}", functools.partial(_with_path, words, path), either)


def _with_path(words: list[str], path: str, folder: Path) -> list[str]:
    small_set(folder)
    _around(folder)
    return [path if word == "PATH" else word for word in words]


YAMLS = {
    "aliases": "a: &a [x, x, x, x, x, x, x, x, x]\n"
    + "".join(f"{b}: &{b} [{', '.join(['*' + a] * 9)}]\n" for a, b in itertools.pairwise("abcdefghi")),
    "one alias": "ipc: &x 3\nseed: *x",
    "deep": "ipc: " + "[" * 100_000,
    "deep mappings": "{a: " * 50_000,
    "deep blocks": "".join(" " * n + "a:\n" for n in range(1000)),
    "a key twice": "ipc: 3\nipc: 4",
    "a long key": "x" * 100_000 + ": 1",
    "a long value": "ipc: " + "x" * 100_000,
    "a code": "ipc: !!python/object/apply:os.system ['touch owned']",
    "a merge": "<<: {ipc: 3}",
    "codes": "'\\e[2J\u202e': 1",
    "a list for a key": "? [a, b]\n: 1",
    "two documents": "ipc: 3\n---\nipc: 4",
    "NUL": "ipc: 3\0",
    "a byte-order mark": "\ufeffipc: 0",
    "a tab": "ipc:\t3\n\tseed: 4",
    "nothing": "",
    "null": "ipc: null",
    "a list": "[1, 2]",
    "a huge number": "ipc: " + "9" * 10_000,
    "not a number": "guidance_scale: .nan",
}
SETTINGS = (
    """
--icp 3|-ipc 3|--IPC 3|ipc=5|ipc 5|--output-dir x|--ipc|--ipc=|--ipc 0|--ipc 1e3|--ipc -1|--ipc 99999999999999999999
--seed -1|--seed 99999999999999999999999999|--num_processes 1000000000|--ipc nan|--num_processes 0|--num_processes 100 --cpu
---ipc 3|--=3|--num_machines 100000|--guidance_scale inf|--guidance_scale nan|--test_fraction 1e999|--fit_image_size 1000000
--no_ipc|-- x|--repeats 1_0x|--main_process_port 65536|--config|--cpu=maybe
--students [/1]|--protocol \x1b[2J|--overwrite yes|--source=
""".strip()
    .replace("\n", "|")
    .split("|")
)


def _settings() -> Iterator[Attack]:
    for name, text in YAMLS.items():
        yield Attack("records: YAML", name, functools.partial(_with_yaml, text))
    for words in (*SETTINGS, "--students " + "x" * 100_000):
        yield Attack("records: option", words[:60], lambda _, words=words: ["make", "dit", "--dry_run", *words.split(" ")])
    for words in ("--num_crops 100000000", "--image_size 1000000", "--factor 1000000", "--images_per_class 0"):
        yield Attack("records: option", words, lambda _, words=words: ["make", "rded", "--dry_run", *words.split(" ")])
    for words in ("--help", "--help=all", "--help all", "-h"):
        yield Attack("records: option", words, lambda _, words=words: ["make", "dit", *words.split(" ")], used)


def _with_yaml(text: str, folder: Path) -> list[str]:
    (folder / "own.yaml").write_text(text, encoding="utf-8")
    return ["make", "dit", "--dry_run", "--config", "own.yaml"]


def attacks() -> Iterator[Attack]:
    """Yield all of them, the small ones first."""
    yield from _settings()
    yield from _files()
    yield from _paths()
    yield from _fields()
