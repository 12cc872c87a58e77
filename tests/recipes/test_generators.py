"""Which method works with which kind of generator: the table of recipes/README.md against what the recipes refuse."""

import re
import runpy
from typing import get_args, get_type_hints

import pytest
from helpers import RECIPES, ROOT

from distill_hub.config import InputError
from distill_hub.generating.kinds import FITTED_KINDS, KINDS
from distill_hub.generating.open import Located
from distill_hub.making import generated, start
from distill_hub.networks.names import FITTED_GENERATORS
from distill_hub.options.fit_generator import FitGeneratorConfig
from distill_hub.options.shared import SampleOptions

TEXT = (ROOT / "recipes" / "README.md").read_text(encoding="utf-8")
HEADER, *ROWS = re.search(r"^(\| Recipe \| `.*?)\n\n", TEXT, re.MULTILINE | re.DOTALL)[1].splitlines()
COLUMNS = re.findall(r"`(\w+)`", HEADER)
TABLE = {row.split("`")[1]: re.findall(r"\b(yes|no)\b", row) for row in ROWS[1:]}


def test_all_kinds_and_all_methods_with_a_generator_are_in_the_tables():
    assert set(COLUMNS) == KINDS.keys()
    assert TABLE.keys() == {name for name, config in RECIPES.items() if issubclass(config, SampleOptions)}
    for kind, pipelines in re.findall(r"^\| `(\w+)` \| (.*?) \|", TEXT, re.MULTILINE):
        if kind in KINDS:
            assert set(re.findall(r"`(\w+)`", pipelines)) == set(KINDS[kind].PIPELINES)


def test_what_needs_no_torch_knows_the_kinds_that_are_fitted():
    assert ("auto", *FITTED_KINDS) == FITTED_GENERATORS
    assert get_args(get_type_hints(FitGeneratorConfig)["kind"]) == tuple(FITTED_KINDS)
    assert {key: kind.FACTS["name"] for key, kind in KINDS.items()} == {key: key for key in KINDS}


@pytest.mark.parametrize("kind", COLUMNS)
@pytest.mark.parametrize("recipe", TABLE)
def test_what_does_not_work_is_refused_before_anything_is_loaded(recipe, kind, monkeypatch, tmp_path):
    monkeypatch.setattr(generated, "locate", lambda *_: Located(kind, str(tmp_path)))

    def begun(*_, **__):
        raise LookupError("the run begins")

    monkeypatch.setattr(start, "open_run", begun)
    main = runpy.run_path(str(ROOT / "recipes" / f"{recipe}.py"))["main"]
    works = TABLE[recipe][COLUMNS.index(kind)] == "yes"
    with pytest.raises(LookupError if works else InputError, match="the run begins" if works else f"of the kind {kind}"):
        # Of Stable Diffusion it is not the default.
        main(RECIPES[recipe](output_dir=tmp_path / "set", scheduler="ddpm" if recipe == "igd" else None))
