"""What the guides tell people to type is what the commands take, what they link to is there, and no recipe is left out."""

import ast
import functools
import re
import shlex
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from helpers import FILES, RECIPES
from markdown_it import MarkdownIt
from markdown_it.token import Token

from distill_hub.artifact.names import RECIPES as METHOD_RECIPES
from distill_hub.cli import COMMANDS, settings_of
from distill_hub.config import parse
from distill_hub.launching.launcher import with_launch_options

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
GUIDE = (ROOT / "recipes" / "README.md").read_text(encoding="utf-8")
GUIDES = [ROOT / "README.md", *sorted((ROOT / "recipes").glob("*.md")), ROOT / "cards" / "FORMAT.md"]
LINKED = sorted({*GUIDES, *ROOT.glob("*.md"), *(ROOT / "cards").glob("*.md"), *(ROOT / "tests/bench/results").glob("*.md")})
HELP = "\n".join(
    [import_module(f"distill_hub.commands.{name.replace('-', '_')}").run.__doc__ for name in COMMANDS]
    + [ast.get_docstring(ast.parse(file.read_text(encoding="utf-8")), clean=False) for file in FILES]
)
METHODS = [
    facts
    for folder in ("coresets", "methods", "recovery", "matching", "guidance", "generators")
    for file in sorted((ROOT / "distill_hub" / folder).glob("*.py"))
    for facts in vars(import_module(f"distill_hub.{folder}.{file.stem}")).values()
    if isinstance(facts, dict) and "paper" in facts
]
TEXTS = [file.read_text(encoding="utf-8") for file in GUIDES] + [HELP]
TYPED = [line.strip() for text in TEXTS for line in text.splitlines() if line.startswith("    ")]
TYPED += re.findall(r"^\| [^|]+ \| `([^`]+)` \|", README, re.MULTILINE)  # what one may want, and what to type for it
COMMAND = re.compile(r"(.* && )?distill-hub |(.*(launch|torchrun) .*|python )recipes/\w+\.py")


@pytest.mark.parametrize("line", filter(COMMAND.match, TYPED))
def test_a_command_is_read_as_it_stands(line, monkeypatch):
    monkeypatch.chdir(ROOT)
    words = shlex.split(line.split("&&")[-1], comments=True)
    if words == ["distill-hub", "make"]:  # lists the recipes
        return
    if words[:2] == ["distill-hub", "make"]:
        config, rest = with_launch_options(RECIPES[words[2]]), words[3:]
    elif words[0] == "distill-hub":
        config, rest = settings_of(words[1]), words[2:]
    else:
        place = next(i for i, word in enumerate(words) if word.endswith(".py"))
        config, rest = RECIPES[Path(words[place]).stem], words[place + 1 :]
    parse(config, rest, configs=ROOT / "recipes" / "configs")


def test_the_readme_is_short_and_begins_with_two_commands():
    lines = README.splitlines()
    assert len(lines) <= 150 and not [line for line in lines if len(line) > 125 and not line.startswith("|")]
    first = [line.strip() for line in lines if line.startswith("    ")][:2]
    assert first == ["pip install . && distill-hub make cao2", 'pip install -e ".[test]" && pytest -n 2']
    assert README.split("IPC")[0].endswith("images per class (")  # said before it is used


@functools.cache
def read(file: Path) -> list[Token]:
    return MarkdownIt().enable("table").parse(file.read_text(encoding="utf-8"))


def links(file: Path) -> Iterator[str]:
    for token in read(file):
        for part in token.children or []:
            if target := part.attrGet("href") or part.attrGet("src"):
                yield target


def anchors(file: Path) -> set[str]:
    """Return what GitHub calls the headings of a file."""
    blocks = read(file)
    titles = [blocks[place + 1] for place, block in enumerate(blocks) if block.type == "heading_open"]
    texts = ["".join(part.content for part in title.children) for title in titles]
    return {re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in texts}


@pytest.mark.parametrize("file", LINKED, ids=lambda file: str(file.relative_to(ROOT)))
def test_what_is_linked_to_is_there(file):
    for link in links(file):
        url = urlsplit(link)
        place = file.parent / unquote(url.path) if url.path else file
        assert url.scheme or place.exists(), link
        assert url.scheme or not url.fragment or url.fragment in anchors(place), link


def test_every_result_is_in_the_index():
    folder = ROOT / "tests" / "bench" / "results"
    assert {file.name for file in folder.glob("2*.md")} <= {*links(folder / "README.md")}


def test_every_recipe_is_listed():
    recipes = {file.stem for file in (ROOT / "recipes").glob("*.py")}
    tools = {"evaluate", "relabel", "fit_classifier", "fit_generator", "convert"}
    assert recipes - tools == set(re.findall(r"\[`(\w+)\.py`\]\(\1\.py\)", GUIDE.split("## Generators")[0]))
    assert recipes == RECIPES.keys() == set(re.findall(r"^\| \[`(\w+)`\]\(\1\.py\)", GUIDE, re.MULTILINE))


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_is_listed_with_the_papers_of_its_methods(recipe):
    (row,) = [line for line in GUIDE.splitlines() if line.startswith(f"| [`{recipe}`]")]
    papers = [facts["paper"] for facts in METHODS if METHOD_RECIPES.get(facts["name"], facts["name"]) == recipe]
    assert re.findall(r"\(\[[^]]+\]\((https:[^)]+)\)\)", row) == papers


def test_every_method_has_a_recipe():
    assert len(METHODS) >= 12
    assert {METHOD_RECIPES.get(facts["name"], facts["name"]) for facts in METHODS} <= RECIPES.keys()
