"""What README.md and recipes/README.md tell people to type is what the commands take, and no recipe is left out."""

import re
import shlex
from pathlib import Path

import pytest

from distill_hub.cli import COMMANDS
from distill_hub.command_options import EvaluateConfig, RelabelConfig
from distill_hub.config import parse
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
TYPED = [line.strip() for line in (README + GUIDE).splitlines() if line.startswith("    ")]


@pytest.mark.parametrize("line", [line for line in TYPED if "distill-hub " in line or "recipes/" in line])
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
    assert recipes - tools == set(re.findall(r"\[`(\w+)\.py`\]\(\1\.py\)", GUIDE.split("## Compose")[0])) - tools
    assert recipes == RECIPES.keys() == set(re.findall(r"^\| \[`recipes/(\w+)\.py`\]", README, re.MULTILINE))
