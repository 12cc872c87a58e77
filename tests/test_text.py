"""One printable, short line on whatever cannot be used, on any terminal."""

import subprocess
import sys
from pathlib import Path

import pytest

from distill_hub.config import HubError, InputError, nearest
from distill_hub.text import complaint, few, printable, reason, shortened, typed

SHOW = """
import sys
from distill_hub.text import adapt_streams
adapt_streams()
from rich.table import Table
from distill_hub.running.console import show
table = Table("a", title="mean \\u00b1 std")
table.add_row("90.4 \\u00b1 0.4, \\u2713")
show(table)
show("exp[/1] run[cifar10] :smile: \\udcff")
print("\\u0394 \\u00b1", file=sys.stderr)
"""


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
def test_every_encoding_shows_every_text(encoding):
    done = subprocess.run(
        [sys.executable, "-c", SHOW], env={"PYTHONIOENCODING": encoding, "PATH": "", "COLUMNS": "80"}, capture_output=True
    )
    out, err = done.stdout.decode(encoding), done.stderr.decode(encoding)
    assert done.returncode == 0, err
    sign = "+-" if encoding == "ascii" else "\u00b1"
    assert f"90.4 {sign} 0.4" in out and "exp[/1] run[cifar10] :smile: ?" in out
    assert ("\u2500" in out or "\u2501" in out) == (encoding == "utf-8")  # the frame of the table
    assert err.endswith(f"{sign}\n")


def test_a_complaint_is_short_and_printable_whatever_is_in_it():
    long = "x" * 100_000
    for field, value, valid in (
        (long, long, long),
        ("\x1b[2J\u202e", "\x1b[2J", "\x1b]0;owned\x07\u2066"),
        ("f", [long] * 1000, "v"),
        ("f", {long: long}, "v"),
        ("f", object(), "a\nb\n\nc"),
    ):
        line = complaint(field, value, valid)
        assert len(line) <= 560 and line.isprintable()
        assert str(InputError(field, value, valid)) == line
    hub = str(HubError("x: \x1b[2J" + long))
    assert len(hub) <= 560 and hub.isprintable()


def test_both_ends_of_a_long_text_are_kept():
    assert shortened("abcdefgh", 8) == "abcdefgh"
    assert shortened("a" * 50 + "z" * 50, 20) == "a" * 10 + " ... " + "z" * 5
    line = complaint("source", "/home/" + "x" * 1000 + "/photos", "valid " * 200 + "(did you mean 'this'?)")
    assert "'/home/x" in line and "/photos' cannot be used" in line and line.endswith("(did you mean 'this'?)")


def test_a_list_of_names_is_short():
    assert few([]) == "nothing" and few("abc") == "a, b, c" and few(["a", "b"], 1) == "a and 1 more"
    assert few(["x" * 100, *map(str, range(2000))], 2, 20) == "x" * 10 + " ... " + "x" * 5 + ", 0 and 1,999 more"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("a\n  b"), "a b"),
        (ValueError(), "ValueError"),
        (PermissionError(13, "Permission denied", "/root/x"), "Permission denied"),
        (RuntimeError("x" * 1000), shortened("x" * 1000, 200)),
    ],
)
def test_what_an_error_says_is_one_line(error, said):
    assert reason(error) == said


def test_what_nobody_gave_is_needed():
    assert complaint("source", None, "pass --source") == "source: needed; pass --source"
    assert complaint("ipc", 0, "valid: > 0") == "ipc: 0 cannot be used; valid: > 0"


def test_letters_of_every_language_are_printable():
    assert printable("château 画像 π\t\x1b[2J\u202e") == "château 画像 π??[2J?"


@pytest.mark.parametrize(
    ("name", "meant"), [("--icp", "--ipc"), ("-IPC", "--ipc"), ("output-dir", "--output_dir"), ("x" * 100_000, None)]
)
def test_the_nearest_name(name, meant):
    said = nearest(name, ["--ipc", "--seed", "--output_dir"])
    assert said == (f" (did you mean {meant!r}?)" if meant else "")


@pytest.mark.parametrize(
    ("place", "said"), [("a/b", "a/b"), ("my set", "'my set'"), ("-p/out", "./-p/out"), (Path("./--p q"), "'./--p q'")]
)
def test_a_path_as_it_is_typed(place, said):
    assert typed(place) == said
