"""Lists of class names as people keep them: a name per line, "wnid words" lines, id2label or label2id JSON, lists."""

import os
import re
from collections.abc import Mapping
from typing import Any

from distill_hub.config import InputError, refusing
from distill_hub.data.classes import imagenet_classes
from distill_hub.data.known import KNOWN
from distill_hub.foreign.contents import MAX_ROWS
from distill_hub.parsing import read_file, read_json

CLASSES = (
    "a file of one class name or wnid per line in label order, or of JSON (a list, id2label or label2id), a comma-separated "
    "list, 'source' for the source's own order, or imagenet1k, imagenette, imagewoof, imageidc, imagenet100 for the papers' "
    "order"
)
_FILE_BYTES = 20_000_000
_WNID = re.compile(r"(n\d{8})[\s,:]")
_NUMBERED = (
    re.compile(r"(?P<value>\d{1,9})\s*[,;:\s]\s*(?P<name>[^\s-].*)"),
    re.compile(r"(?P<name>\S.*?)\s*[,;\t]\s*(?P<value>\d{1,9})"),
)


def names_in(classes: str) -> list[str]:
    """Return the names that a value of --classes stands for, in label order.

    Raises:
        InputError: When it stands for none, or a file holds no list of names.
    """
    known = KNOWN.get(classes)
    if classes == "imagenet1k":
        return imagenet_classes()[0]
    if known and known.wnids:
        return list(known.wnids)
    if os.path.exists(classes) and not os.path.isdir(classes):
        return _of_file(classes)
    if "," in classes:
        return [part.strip() for part in classes.split(",")]
    raise InputError("classes", classes, f"valid: {CLASSES}")


def _of_file(classes: str) -> list[str]:
    valid = f"valid: {CLASSES}; the file cannot be read as text, or as JSON"
    with refusing((OSError, ValueError), "classes", classes, valid):
        data = read_file(classes, _FILE_BYTES)
        text = data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
        if "\0" in text:
            raise ValueError("it is neither UTF-8 nor UTF-16 with a mark of its byte order")
        names = _of_json(read_json(text)) if text.lstrip()[:1] in ("{", "[") else _of_lines(text)
        if not names:
            raise ValueError("it is empty")
    return names


def _of_lines(text: str) -> list[str]:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    # 'n01440764 tench, Tinca tinca': the wnid says it all.
    wnids = [found[1] for line in lines if (found := _WNID.match(line))]
    if lines and len(wnids) == len(lines):
        return wnids
    # '0,cat' or 'cat,0': a number says which label it is, not the order; the first line may name the columns.
    for form in _NUMBERED:
        found = [form.fullmatch(line) for line in lines]
        if len(found) > 1 and all(found[1:]):
            rows = found[0 if found[0] else 1 :]
            return _by_value({int(row["value"]): row["name"].strip('"') for row in rows}, len(rows))
    return lines


def _by_value(names: Mapping[int, Any], count: int) -> list[Any]:
    if sorted(names) != list(range(count)):
        raise ValueError("its classes are not numbered 0, 1, ..., each once")
    return [names[value] for value in range(count)]


def _of_json(content: Any) -> list[str]:
    for key in ("id2label", "label2id", "names", "class_names", "label_names", "classes"):
        if isinstance(content, dict) and isinstance(content.get(key), dict | list):
            content = content[key]
            break
    if isinstance(content, dict) and all(type(value) is int for value in content.values()):  # label2id
        content = {value: name for name, value in content.items()} if len({*content.values()}) == len(content) else {}
    if isinstance(content, dict):
        content = _by_value({int(value): name for value, name in content.items()}, len(content))
    # ImageNet's class index has pairs of wnid and name.
    names = [name[0] if isinstance(name, list) and name else name for name in content]
    if not names or len(names) > MAX_ROWS or not all(isinstance(name, str) and name.strip() for name in names):
        raise ValueError("it holds no list of class names")
    return [name.strip() for name in names]
