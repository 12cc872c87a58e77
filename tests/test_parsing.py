"""What is ambiguous or endless is refused, whoever else would take it."""

import math
import os

import pytest
import yaml

from distill_hub.parsing import front_matter, read_file, read_json, read_object, read_yaml


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"a": 1, "a": 2}', "'a' is given twice"),
        ('{"x": [{"a": 1, "b": 1, "a": 2}]}', "'a' is given twice"),
        ('{"a": NaN}', "NaN is no number"),
        ('{"a": -Infinity}', "-Infinity is no number"),
        ('{"a": 1e999}', "too large"),
        ("[" * 41 + "]" * 41, "nested too deeply"),
        ("[" * 100_000 + "]" * 100_000, "nested too deeply"),
        ('{"' + "k" * 1000 + '": 1, "' + "k" * 1000 + '": 1}', "is given twice"),
        ("{", "line 1"),
        (b"\xff\xfe{\x00", "decode"),
    ],
)
def test_json_that_is_refused(text, reason):
    with pytest.raises(ValueError, match=reason) as caught:
        read_json(text)
    assert len(str(caught.value)) < 200


def test_numbers_that_diffusers_writes_are_read_where_they_are_asked_for(tmp_path):
    (tmp_path / "scheduler_config.json").write_text('{"lambda_min_clipped": -Infinity}')
    assert read_object(tmp_path / "scheduler_config.json", 100, finite=False) == {"lambda_min_clipped": -math.inf}
    for content, reason in (("[1]", r"it holds \[1\]"), ('{"a": NaN}', "no number"), ('{"a": 1, "a": 2}', "twice")):
        (tmp_path / "a.json").write_text(content)
        with pytest.raises(ValueError, match=reason):
            read_object(tmp_path / "a.json", 100)


def test_json_that_is_read():
    assert read_json(b'\xef\xbb\xbf{"a": [1, 2.5, null, {"b": "\xc3\xa4"}]}') == {"a": [1, 2.5, None, {"b": "ä"}]}
    assert read_json("[" * 40 + "]" * 40)


@pytest.mark.parametrize("loader", [yaml.BaseLoader, yaml.SafeLoader])
@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a: &x 1\nb: *x", "line 2 has an alias"),
        ("a: &a [x]\n" + "".join(f"{b}: &{b} [*{a}, *{a}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)), "alias"),
        ("[" * 41 + "]" * 41, "nested too deeply"),
        ("[" * 100_000, "nested too deeply"),
        ("a: 1\nb: 2\na: 3", "'a' is given twice"),
        ("x:\n  - {a: 1, a: 2}", "'a' is given twice"),
        ("a: [", "line 1"),
        ("a: 1\n\tb: 2", "line 2"),
        ("a\0b: 1", "special characters"),
    ],
)
def test_yaml_that_is_refused(text, reason, loader):
    with pytest.raises(ValueError, match=reason) as caught:
        read_yaml(text, loader)
    assert len(str(caught.value)) < 200


def test_yaml_that_runs_code_or_holds_no_date_is_refused():
    for text in ("!!python/object/apply:os.getcwd []", "a: 2026-99-99"):
        with pytest.raises(ValueError):
            read_yaml(text)


def test_front_matter():
    assert front_matter("---\r\na: 1\r\n---\r\n# T\r\n") == ({"a": 1}, "# T\n")
    assert front_matter("---\n---\n# T\n\n---\n") == ({}, "# T\n\n---\n")
    assert front_matter("---\na: 1\n---x\n") == ({}, "---\na: 1\n---x\n")
    assert front_matter("---\na: 1\n---") == ({"a": 1}, "")
    assert front_matter("\ufeff---\na: 1\n---\n# T\n") == ({"a": 1}, "# T\n")
    assert front_matter("---\n# nothing yet\n---\n# T\n") == ({}, "# T\n")
    assert front_matter("# T\n---\n") == ({}, "# T\n---\n")
    for block in ("- a", "a: &x 1\nb: *x", "a: 1\na: 2"):
        with pytest.raises(ValueError):
            front_matter(f"---\n{block}\n---\n")


def test_only_plain_files_of_some_size_are_read(tmp_path):
    (tmp_path / "file").write_bytes(b"abc")
    os.mkfifo(tmp_path / "pipe")
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(10**12)
    assert read_file(tmp_path / "file", 3) == b"abc"
    for name, reason in (("file", "at most 2 are read"), ("sparse", "at most 2"), ("pipe", "a pipe"), ("", "a folder")):
        with pytest.raises(ValueError, match=reason):
            read_file(tmp_path / name, 2)
    with pytest.raises(ValueError, match="device"):
        read_file("/dev/zero", 2)
    with pytest.raises(FileNotFoundError):
        read_file(tmp_path / "gone", 2)
