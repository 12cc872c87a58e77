"""Text of strangers in Markdown, escaped by what the place is: running text, code, a block of code, a link."""

import html
import re
from typing import Any
from urllib.parse import urlsplit

# Begins code, emphasis, a link, an image, a column, mathematics or a mention; an underscore inside a word begins nothing.
_SPECIAL = re.compile(r"([\\`*\[\]|~$@]|(?<![^\W_])_|_(?![^\W_]))")
_LINKED = re.compile(r"\b(https?|ftp|mailto|xmpp|www)([:.])", re.IGNORECASE)  # becomes a link by itself
_FIRST = re.compile(r"^(\d*)([-+=#.)])(?=[-+=#\s]|$)")  # begins a list or a heading
_UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")  # controls, and what turns the direction of a line


def plain(value: Any) -> str:
    """Return text that stands for itself in a paragraph or a cell of a table: one line, no markup, no HTML."""
    text = _SPECIAL.sub(r"\\\1", one_line(value)).replace("&", "&amp;").replace("<", "&lt;")
    return _FIRST.sub(r"\1\\\2", _LINKED.sub(r"\1\\\2", text))


def code(value: Any, *, in_table: bool = False) -> str:
    """Return a span of code, whatever backticks are in it; in a table, bars need an escape even there."""
    text = one_line(value) or " "
    if in_table:
        text = text.replace("|", r"\|")
    fence = _fence(text, 1)
    pad = " " if len(fence) > 1 else ""
    return f"{fence}{pad}{text}{pad}{fence}"


def attribute(value: Any) -> str:
    """Return text as the value of an attribute of an HTML element, between double quotes."""
    return html.escape(one_line(value), quote=True)


def fenced(text: str, language: str) -> str:
    """Return a block of code, whatever fences are in it."""
    text = "\n".join(_UNSEEN.sub("?", line.expandtabs()) for line in text.splitlines())
    fence = _fence(text, 3)
    return f"{fence}{language}\n{text}\n{fence}"


def _fence(text: str, least: int) -> str:
    """Return more backticks than stand together in a text."""
    return "`" * max(least, 1 + max(map(len, re.findall("`+", text)), default=0))


def link(text: str, url: str | None) -> str:
    """Return a link, or the text alone where there is no address that one may have."""
    address = web_address(url)
    if address is None:
        return plain(text)
    return f"[{plain(text)}](<{address}>)" if re.search("[()]", address) else f"[{plain(text)}]({address})"


def web_address(url: str | None) -> str | None:
    """Return an address that a link may have: http or https, a host and nothing before it; None for any other."""
    if url is None or not re.fullmatch(r"https?://[A-Za-z0-9][A-Za-z0-9.-]*(:\d+)?(/[^\s\\<>]*)?", url):
        return None
    return url if urlsplit(url).hostname else None


def one_line(value: Any) -> str:
    """Return text as one line, without what nobody sees."""
    return _UNSEEN.sub("?", " ".join(str(value).split()))
