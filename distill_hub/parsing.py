"""Files, JSON and YAML from outside, read strictly: what is ambiguous or endless is an error, whoever else would take it."""

import json
import math
import os
import re
import reprlib
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from distill_hub.text import shortened

CARD_BYTES = 10_000_000  # of a README.md: room for the names of 100,000 classes
DEEPEST = 40  # lists and mappings within each other


def check_file(path: str | os.PathLike[str], most_bytes: int) -> None:
    """Refuse what is no regular file, or larger: nothing waits for a pipe, or unrolls a sparse file.

    Raises:
        FileNotFoundError: When there is none.
        OSError: When it cannot be looked at.
        ValueError: When it is something else, or larger.
    """
    found = os.stat(path)
    if not stat.S_ISREG(found.st_mode):
        raise ValueError(f"it is a {'folder' if stat.S_ISDIR(found.st_mode) else 'pipe or a device'}, a file is needed")
    if found.st_size > most_bytes:
        raise ValueError(f"it has {found.st_size:,} bytes, at most {most_bytes:,} are read")


def read_file(path: str | os.PathLike[str], most_bytes: int) -> bytes:
    """Read a regular file; see `check_file`."""
    check_file(path, most_bytes)
    return Path(path).read_bytes()


def read_object(path: str | os.PathLike[str], most_bytes: int, *, finite: bool = True) -> dict[str, Any]:
    """Read a file of one JSON object; see `check_file` and `read_json`."""
    content = read_json(read_file(path, most_bytes), finite=finite)
    if not isinstance(content, dict):
        raise ValueError(f"it holds {reprlib.repr(content)}")
    return content


def read_json(data: bytes | str, *, finite: bool = True) -> Any:
    """Read JSON in UTF-8, in which no key is given twice.

    Args:
        data: The JSON.
        finite: Refuse numbers that are not; diffusers writes some into what nobody reads here.

    Raises:
        ValueError: Saying what is wrong with it.
    """
    numbers: dict[str, Any] = {"parse_constant": _refuse_number, "parse_float": _finite} if finite else {}
    try:
        text = data if isinstance(data, str) else data.decode("utf-8-sig")
        content = json.loads(text, object_pairs_hook=_distinct, **numbers)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    _check_depth(content)
    return content


def _distinct(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in content if names.count(name) > 1)
        raise ValueError(f"the key {shortened(repr(twice), 80)} is given twice")
    return content


def _refuse_number(text: str) -> float:
    raise ValueError(f"{text} is no number of JSON")


def _finite(text: str) -> float:
    if math.isinf(value := float(text)):
        raise ValueError(f"the number {shortened(text, 80)} is too large")
    return value


def _check_depth(content: Any) -> None:
    level = [content]
    for _ in range(DEEPEST):
        level = [inner for own in level if isinstance(own, (dict, list)) for inner in _inside(own)]
        if not level:
            return
    raise ValueError("it is nested too deeply")


def _inside(content: dict | list) -> Iterator[Any]:
    values = content.values() if isinstance(content, dict) else content
    return (value for value in values if isinstance(value, (dict, list)))


def read_yaml(text: str, loader: Any = yaml.SafeLoader) -> Any:
    """Read YAML without aliases, in which no key is given twice.

    Args:
        text: The YAML.
        loader: `yaml.BaseLoader` leaves every value as it is written.

    Raises:
        ValueError: Saying what is wrong with it.
    """
    try:
        depth = 0
        for event in yaml.parse(text, loader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if isinstance(event, yaml.AliasEvent):
                raise ValueError(f"line {event.start_mark.line + 1} has an alias; write its value out")
            if depth > DEEPEST:
                raise ValueError("it is nested too deeply")
        _check_keys(yaml.compose(text, loader))
        return yaml.load(text, loader)
    except yaml.MarkedYAMLError as error:
        where = f" in line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ValueError(f"{shortened(str(error.problem), 120)}{where}") from error
    except yaml.YAMLError as error:
        raise ValueError(shortened(str(error), 120)) from error


def _check_keys(node: yaml.Node | None) -> None:
    """Refuse a key that is given twice; the depth is bounded already."""
    if isinstance(node, yaml.MappingNode):
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if len(set(keys)) < len(keys):
            twice = next(key for key in keys if keys.count(key) > 1)
            raise ValueError(f"the key {shortened(repr(twice), 80)} is given twice")
        for _, value in node.value:
            _check_keys(value)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            _check_keys(value)


def front_matter(text: str) -> tuple[dict[str, Any], str]:
    """Split Markdown into the YAML block at its top, empty where there is none, and the rest; a byte order mark is dropped.

    Raises:
        ValueError: When the block cannot be read, or holds no 'key: value' lines.
    """
    text = text.removeprefix("\ufeff").replace("\r\n", "\n")
    if not (found := re.match(r"---\n(.*?)^---[ ]*(?:\n|\Z)(.*)", text, re.DOTALL | re.MULTILINE)):
        return {}, text
    data = read_yaml(found[1])
    if data is None:  # remarks alone
        return {}, found[2]
    if not isinstance(data, dict):
        raise ValueError("it must hold 'key: value' lines")
    return data, found[2]
