"""What README.md and recipes/README.md tell people to type is what the commands take, and no recipe is left out."""

import ast
import re
import shlex
from importlib import import_module
from pathlib import Path

import pytest
from helpers import FILES, RECIPES

from distill_hub.artifact.names import RECIPES as METHOD_RECIPES
from distill_hub.cli import COMMANDS, settings_of
from distill_hub.config import parse
from distill_hub.launching.launcher import with_launch_options

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
GUIDE = (ROOT / "recipes" / "README.md").read_text(encoding="utf-8")
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
TYPED = [line.strip() for line in (README + GUIDE + HELP).splitlines() if line.startswith("    ")]
COMMAND = re.compile(r"(.* && )?distill-hub |.*(launch|torchrun) .*recipes/\w+\.py")


@pytest.mark.parametrize("line", filter(COMMAND.match, TYPED))
def test_a_command_is_read_as_it_stands(line, monkeypatch):
    monkeypatch.chdir(ROOT)
    words = shlex.split(line.split("&&")[-1], comments=True)
    if words[:2] == ["distill-hub", "make"]:
        config, rest = with_launch_options(RECIPES[words[2]]), words[3:]
    elif words[0] == "distill-hub":
        config, rest = settings_of(words[1]), words[2:]
    else:
        place = next(i for i, word in enumerate(words) if word.endswith(".py"))
        config, rest = RECIPES[Path(words[place]).stem], words[place + 1 :]
    parse(config, rest, configs=ROOT / "recipes" / "configs")


def test_every_recipe_is_listed():
    recipes = {file.stem for file in (ROOT / "recipes").glob("*.py")}
    tools = {"evaluate", "relabel", "fit_classifier", "fit_generator", "convert"}
    assert recipes - tools == set(re.findall(r"\[`(\w+)\.py`\]\(\1\.py\)", GUIDE.split("## Generators")[0]))
    assert recipes == RECIPES.keys() == set(re.findall(r"^\| \[`(\w+)`\]\(recipes/\1\.py\)", README, re.MULTILINE))


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_is_listed_with_the_papers_of_its_methods(recipe):
    (row,) = [line for line in README.splitlines() if line.startswith(f"| [`{recipe}`]")]
    papers = [facts["paper"] for facts in METHODS if METHOD_RECIPES.get(facts["name"], facts["name"]) == recipe]
    assert re.findall(r"\(\[[^]]+\]\((https:[^)]+)\)\)", row) == papers


def test_every_method_has_a_recipe():
    assert len(METHODS) >= 12
    assert {METHOD_RECIPES.get(facts["name"], facts["name"]) for facts in METHODS} <= RECIPES.keys()
