"""Folders that a run is to work in: names and places that cannot be written, what lies there already, runs beside runs."""

import itertools
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.bench.hostile.attack import Attack, Outcome, base, either, refused, used

COMMANDS = {  # of which every one takes an output folder
    "make": ["make", "dit"],
    "make fit_generator": ["make", "fit_generator"],
    "make fit_classifier": ["make", "fit_classifier"],
    "make --dry_run": ["make", "random_real", "--dry_run"],
    "adopt": ["adopt", "photos", "--source", "digits", "--method", "dm"],
    "reproduce": ["reproduce", "set"],
}
PLACES = {  # name: what makes it, and what the folder is called
    "too long": (lambda _: None, "x" * 300),
    "too long for a dry run beside it": (lambda _: None, "x" * 250),
    "a path that is too long": (lambda _: None, "/".join(["abcdefg"] * 600)),
    "below a file": (lambda at: (at / "file").write_text("x"), "file/out"),
    "deep below a file": (lambda at: (at / "file").write_text("x"), "file/a/b/c"),
    "a file": (lambda at: (at / "file").write_text("x"), "file"),
    "a link to nothing": (lambda at: (at / "link").symlink_to(at / "nothing"), "link"),
    "below a link to nothing": (lambda at: (at / "link").symlink_to(at / "nothing"), "link/out"),
    "a link to itself": (lambda at: (at / "link").symlink_to(at / "link"), "link"),
    "a link to a file": (lambda at: ((at / "file").write_text("x"), (at / "link").symlink_to(at / "file")), "link"),
    "a pipe": (lambda at: os.mkfifo(at / "pipe"), "pipe"),
    "below a device": (lambda _: None, "/dev/null/out"),
    "a device": (lambda _: None, "/dev/null"),
    "in /proc": (lambda _: None, "/proc/out"),
    "/proc/self": (lambda _: None, "/proc/self"),
    "in /sys": (lambda _: None, "/sys/out"),
    "the root": (lambda _: None, "/"),
    "not UTF-8": (lambda _: None, "a\udcff"),
    "the home of nobody": (lambda _: None, "~nobody-of-this-name/out"),
    "photos": (lambda at: photo(at / "own"), "own"),
    "this folder, which holds photos": (lambda at: photo(at), "."),
    "a folder that nobody may write to": (lambda at: locked(at / "locked"), "locked"),
    "in a folder that nobody may write to": (lambda at: locked(at / "locked"), "locked/out"),
    "a file called .run": (lambda at: (at / "out").mkdir() or (at / "out" / ".run").write_text("x"), "out"),
    ".run links to nothing": (lambda at: (at / "out").mkdir() or (at / "out" / ".run").symlink_to("no"), "out"),
}
CONFIGS = {
    "a folder": None, "empty": b"", "a list": b"[]", "null": b"null", "a number": b"1", "half": b'{"seed": ',
    "not UTF-8": b"\xff",
    "deep": b"[" * 100_000, "large": b'{"a": "' + b"x" * 2**21 + b'"}', "versions a list": b'{"versions": []}',
}  # fmt: skip


def photo(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "thesis.txt").write_text("years of work")


def locked(folder: Path) -> None:
    """Make a folder that not even the administrator can write to, where that is possible."""
    folder.mkdir()
    folder.chmod(0o555)
    subprocess.run(["chattr", "+i", folder], stderr=subprocess.DEVNULL)


def unlocked(right: Callable[[Outcome], str | None]) -> Callable[[Outcome], str | None]:
    """Let the folder be removed, once the outcome is known."""

    def judge(outcome: Outcome) -> str | None:
        try:
            return right(outcome) or untouched(outcome)
        finally:
            subprocess.run(["chattr", "-R", "-f", "-i", outcome.folder], stderr=subprocess.DEVNULL)

    return judge


def untouched(outcome: Outcome) -> str | None:
    """Say what is wrong, if anything, with files that are nobody's to change."""
    for name in ("thesis.txt", "own/thesis.txt", "elsewhere/thesis.txt"):
        file = outcome.folder / name
        if file.parent.is_dir() and name != "thesis.txt" and file.read_text() != "years of work":
            return f"{name} was changed"
    return None


def place(kind: str, name: str) -> Callable[[Path], list[str]]:
    def build(at: Path) -> list[str]:
        make, folder = PLACES[name]
        if kind == "adopt":
            (at / "photos").mkdir()
        if kind == "reproduce":
            shutil.copytree(base("set"), at / "set")
        make(at)
        return [*COMMANDS[kind], f"--output_dir={folder}"]

    return build


def finished(at: Path, *, elsewhere: str | None = None) -> list[str]:
    """Copy a finished run to `out`, with one of its places a link to `elsewhere`; return the words that made it."""
    shutil.copytree(base("set"), at / "out", symlinks=True)
    (at / "elsewhere").mkdir()
    if elsewhere:
        link = at / "out" / elsewhere
        if link.exists():
            os.rename(link, at / "elsewhere" / "inside")
        photo(at / "elsewhere")
        target = at / "elsewhere" / "inside"
        link.symlink_to(target if target.exists() else at / "elsewhere")
    words = ["random_real", "--ipc", "2", "--students", "convnet-1-w16", "--repeats", "2", "--teacher_epochs", "4"]
    return [f"DISTILL_HUB_CACHE={base('teacher').parent}", "make", *words, "--output_dir=out"]


def linked(name: str, overwrite: bool) -> Callable[[Path], list[str]]:
    return lambda at: [*finished(at, elsewhere=name), *["--overwrite"] * overwrite]


def config(content: bytes | None, overwrite: bool) -> Callable[[Path], list[str]]:
    def build(at: Path) -> list[str]:
        state = at / "out" / ".run"
        state.mkdir(parents=True)
        (state / "config.json").mkdir() if content is None else (state / "config.json").write_bytes(content)
        (at / "out" / "manifest.json").write_text("{}")
        return ["make", "dit", "--dry_run", "--output_dir=out"] if overwrite else ["make", "dit", "--output_dir=out"]

    return build


def lock(content: bytes | None) -> Callable[[Path], list[str]]:
    """A lock's file that another machine wrote, or a stranger."""

    def build(at: Path) -> list[str]:
        words = finished(at)
        file = at / "out" / ".run" / "lock"
        file.mkdir() if content is None else file.write_bytes(content)
        return words

    return build


def attacks() -> Iterator[Attack]:
    for kind, name in itertools.product(COMMANDS, PLACES):
        dry = kind == "make --dry_run" and name in ("photos", "this folder, which holds photos")
        right = either if dry or (name == "the home of nobody" and kind == "reproduce") else refused
        if kind == "make fit_generator" and name.startswith(("a file called .run", ".run links")):
            continue  # its folder is no run's
        yield Attack(f"output folder: {kind}", name, place(kind, name), unlocked(right))
    for name, content in CONFIGS.items():
        yield Attack("output folder: config.json", name, config(content, False))
    for name, overwrite in itertools.product(("data", "README.md", "manifest.json", "evaluations", ".run"), (False, True)):
        right = used if overwrite else either
        yield Attack(
            "output folder: links", f"{name}{', --overwrite' * overwrite}", linked(name, overwrite), unlocked(right)
        )
    young = {"machine": "elsewhere", "host": "node7", "process": 1}
    contents = {
        "of another machine": json.dumps(young).encode(),
        "of a host with codes": json.dumps({**young, "host": "\x1b[31m\u202e" + "x" * 5000}).encode(),
    }
    for name, content in contents.items():
        yield Attack("output folder: lock", name, lock(content))
    yield Attack("output folder: lock", "a folder", lock(None))
    for name in ("", "[]", "{", "\x00" * 100):
        yield Attack("output folder: lock", f"{name[:3]!r} of nobody", lock(name.encode()), used)
