"""The recipes that come with the package: which there are, what each one takes, and how Python runs one."""

import ast
import dataclasses
import runpy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill_hub.config import Done, InputError, check_settings, from_values, nearest
from distill_hub.disk.files import shipped
from distill_hub.disk.lock import release_all
from distill_hub.options.shared import SetOptions

if TYPE_CHECKING:
    from distill_hub.evaluation.reevaluate import DistilledSet


@dataclass(frozen=True)
class Recipe:
    """A recipe: its file, and what is in it."""

    file: Path
    main: Callable[[Any], Path | None]  # from settings to the folder of the set; None after a dry run, and of other recipes
    config_class: type[Any]  # of the settings
    description: str

    @property
    def name(self) -> str:
        """What it is called: its file without `.py`."""
        return self.file.stem


def titles() -> dict[str, str]:
    """Return all recipes by name, each with the line that says what it does. None of them is executed."""
    files = sorted(recipes_folder().glob("*.py"))
    lines = {file.stem: ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or "" for file in files}
    return {name: text.split("\n")[0] for name, text in lines.items()}


def find_recipe(name: str, field: str = "recipe") -> Recipe:
    """Return a recipe by its name. It imports no torch before its `main` is called.

    Args:
        name: Its file without `.py`.
        field: What the name comes from, for the error.

    Raises:
        InputError: When there is none of that name, or the recipes are not there.
    """
    known = titles()
    if name not in known:
        raise InputError(field, name, f"there are the recipes {', '.join(known)}{nearest(str(name), list(known))}")
    file = recipes_folder() / f"{name}.py"
    content = runpy.run_path(str(file))
    main = content["main"]
    return Recipe(file, main, main.__annotations__["config"], content["__doc__"])


def find_set_recipe(name: str, field: str = "recipe") -> Recipe:
    """Return a recipe that makes a distilled set; see `find_recipe`.

    Raises:
        InputError: When there is none of that name, or it makes something else.
    """
    recipe = find_recipe(name, field)
    if not issubclass(recipe.config_class, SetOptions):
        raise InputError(field, name, f"{recipe.file.name} makes no distilled sets")
    return recipe


def recipes_folder() -> Path:
    """Return where the recipes lie."""
    folder = shipped("recipes")
    if not folder.is_dir():
        raise InputError("recipes", str(folder), "the recipes are not beside this package; install it again")
    return folder


def word(name: str, value: Any) -> str:
    """Return a setting as a word of a command line."""
    if isinstance(value, bool):
        return f"--{name}" if value else f"--no_{name}"
    return f"--{name}={'null' if value is None else value}"


def words(config: Any) -> list[str]:
    """Return settings as the command line that `parse` reads them from; what is as by default is left out."""
    given = [(f, getattr(config, f.name)) for f in dataclasses.fields(config)]
    places = [str(value) for f, value in given if f.metadata.get("positional")]
    named = [word(f.name, value) for f, value in given if not f.metadata.get("positional") and value != f.default]
    return places + named


def make(recipe: str, **settings: Any) -> "DistilledSet | None":
    """Make a distilled set in this process, and load it.

        distill_hub.make("cao2", source="digits", ipc=10)

    Settings are called as the options of `distill-hub make RECIPE --help`, and the same call again goes on where an
    interrupted one stopped; a finished set is scored anew and returned. Several processes are started on a command line
    alone: `distill-hub make RECIPE --num_processes N`. Device and precision are Accelerate's: its environment variables
    ACCELERATE_USE_CPU and ACCELERATE_MIXED_PRECISION (no, fp16 or bf16) count before the first call.

    Args:
        recipe: Name of a recipe that makes sets, such as "cao2" or "rded".
        settings: Its settings, each by name.

    Returns:
        The set, as `load_distilled` returns it; None after `dry_run=True`, which prints what a run would take, and where
        `stage` ends it.

    Raises:
        InputError: When the recipe, a setting, or what it names cannot be used.
        HubError: When the Hub or the network fails; finished work is kept.
    """
    found = find_set_recipe(recipe)
    config = from_values(found.config_class, settings)
    check_settings(config)
    try:
        folder = found.main(config)
    except Done as done:
        print(done)
        folder = done.folder
    except BaseException:
        release_all()  # this process goes on, but not with this run
        raise
    if folder is None:
        return None
    from distill_hub.evaluation.reevaluate import load_distilled

    return load_distilled(folder)
