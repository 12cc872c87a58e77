"""What README.md and recipes/README.md tell people to type is what the commands take, and no recipe is left out."""

import re
import shlex
from pathlib import Path

import pytest

from distill_hub.cli import COMMANDS
from distill_hub.command_options import EvaluateConfig, RelabelConfig
from distill_hub.config import parse
from distill_hub.generators import difffit, dit
from distill_hub.methods import cao2, coresets, deda, dgs, minimax, psr, rded, sre2l
from distill_hub.options import (
    Cao2Config,
    CoresetConfig,
    DedaConfig,
    DgsConfig,
    DitConfig,
    FitClassifierConfig,
    FitGeneratorConfig,
    LpldConfig,
    MinimaxConfig,
    PixelOptions,
    PsrConfig,
    RdedConfig,
    Sre2lConfig,
)

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
GUIDE = (ROOT / "recipes" / "README.md").read_text(encoding="utf-8")
RECIPES = {
    "cao2": Cao2Config,
    "deda": DedaConfig,
    "dgs": DgsConfig,
    "dit": DitConfig,
    "evaluate": EvaluateConfig,
    "fit_classifier": FitClassifierConfig,
    "fit_generator": FitGeneratorConfig,
    "lpld": LpldConfig,
    "herding": CoresetConfig,
    "kcenter": CoresetConfig,
    "minimax": MinimaxConfig,
    "psr": PsrConfig,
    "random_real": PixelOptions,
    "rded": RdedConfig,
    "relabel": RelabelConfig,
    "sre2l": Sre2lConfig,
}
HELP = "\n".join(function.__doc__ for function, _ in COMMANDS.values())
FACTS = {
    "cao2": [cao2.FACTS],
    "deda": [deda.FACTS],
    "dgs": [dgs.FACTS],
    "dit": [dit.FACTS],
    "herding": [coresets.HERDING],
    "kcenter": [coresets.K_CENTER],
    "lpld": [sre2l.LPLD],
    "minimax": [minimax.FACTS, difffit.FACTS],
    "psr": [psr.FACTS],
    "rded": [rded.FACTS],
    "sre2l": [sre2l.FACTS],
}
TYPED = [line.strip() for line in (README + GUIDE + HELP).splitlines() if line.startswith("    ")]
COMMAND = re.compile(r"distill-hub |.*(launch|torchrun) .*recipes/\w+\.py")


@pytest.mark.parametrize("line", filter(COMMAND.match, TYPED))
def test_a_command_is_read_as_it_stands(line, monkeypatch):
    monkeypatch.chdir(ROOT)
    words = shlex.split(line.split("&&")[-1])
    if words[0] == "distill-hub":
        config, rest = COMMANDS[words[1]][1], words[2:]
    else:
        place = next(i for i, word in enumerate(words) if word.endswith(".py"))
        config, rest = RECIPES[Path(words[place]).stem], words[place + 1 :]
    parse(config, rest)


def test_every_recipe_is_listed():
    recipes = {file.stem for file in (ROOT / "recipes").glob("*.py")}
    tools = {"evaluate", "relabel", "fit_classifier", "fit_generator"}
    assert recipes - tools == set(re.findall(r"\[`(\w+)\.py`\]\(\1\.py\)", GUIDE.split("## Compose")[0]))
    assert recipes == RECIPES.keys() == set(re.findall(r"^\| \[`(\w+)`\]\(recipes/\1\.py\)", README, re.MULTILINE))


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_is_listed_with_the_papers_of_its_methods(recipe):
    (row,) = [line for line in README.splitlines() if line.startswith(f"| [`{recipe}`]")]
    assert re.findall(r"\(\[[^]]+\]\((https:[^)]+)\)\)", row) == [facts["paper"] for facts in FACTS.get(recipe, [])]
