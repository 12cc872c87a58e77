"""Records to compare, and readers of what is shown of a comparison."""

import html.parser
import io
import sys
import unittest.mock

from rich.console import Console

from distill_hub import cli
from distill_hub.artifact.manifest import ModelRecord
from distill_hub.artifact.records import Score
from distill_hub.comparing.table import group_table


def score(*last: float) -> Score:
    return Score(last=list(last), best=[min(1.0, value + 0.1) for value in last], best_epoch=[1] * len(last))


def teacher(letter: str) -> ModelRecord:
    return ModelRecord(id="fitted on digits", architecture="net", sha256=letter * 64)


def shown(groups, width=100) -> str:
    console = Console(width=width, file=io.StringIO(), color_system=None)
    for group in groups:
        console.print(group_table(group), highlight=False, soft_wrap=True)
    return console.file.getvalue()


def run(*words) -> None:
    with unittest.mock.patch.object(sys, "argv", ["distill-hub", "compare", *words]):
        cli.main()


class Page(html.parser.HTMLParser):
    """A page's elements, every one of them closed where it must be."""

    VOID = ("meta", "img", "source", "link", "br", "input", "base")

    def __init__(self, text: str):
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None], list[str]]] = []  # tag, attributes, text inside
        self.open: list[int] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        assert len(dict(attributes)) == len(attributes)
        self.elements.append((tag, dict(attributes), []))
        if tag not in self.VOID:
            self.open.append(len(self.elements) - 1)

    def handle_endtag(self, tag):
        assert self.elements[self.open.pop()][0] == tag

    def handle_data(self, data):
        for index in self.open:
            self.elements[index][2].append(data)

    def all(self, *tags):
        return [(attributes, "".join(text).strip()) for tag, attributes, text in self.elements if tag in tags]
