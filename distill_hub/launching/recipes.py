"""The recipes, ours and those of other packages: which there are, what each one takes, and how Python runs one.

`python -m distill_hub.launching.recipes NAME` is how a launcher starts one of another package.
"""

import ast
import dataclasses
import inspect
import runpy
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill_hub.config import Done, InputError, check_settings, from_values, launch, nearest
from distill_hub.disk.files import shipped
from distill_hub.disk.lock import release_all
from distill_hub.extensions import Extension
from distill_hub.making.packages import more_methods, other_method
from distill_hub.options.shared import SetOptions

if TYPE_CHECKING:
    from distill_hub.evaluation.reevaluate import DistilledSet

_MODULE = "distill_hub.launching.recipes"  # this one, which is called __main__ when it is run


@dataclass(frozen=True)
class Recipe:
    """A recipe, and how a launcher starts it."""

    name: str
    start: tuple[str, ...]  # words for Accelerate's launcher, before the recipe's own options
    main: Callable[[Any], Path | None]  # from settings to the folder of the set; None after a dry run, and of other recipes
    config_class: type[Any]  # of the settings
    description: str


def titles() -> dict[str, str]:
    """Return our own recipes by name, each with the line that says what it does. None of them is executed."""
    files = sorted(recipes_folder().glob("*.py"))
    lines = {file.stem: ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or "" for file in files}
    return {name: text.split("\n")[0] for name, text in lines.items()}


def find_recipe(name: str, field: str = "recipe") -> Recipe:
    """Return a recipe by its name. Ours import no torch before their `main` is called.

    Args:
        name: Its file without `.py`; of another package's what its entry point is called.
        field: What the name comes from, for the error.

    Raises:
        InputError: When there is none of that name, its package is broken, or our own are not there.
    """
    if name in titles():
        file = recipes_folder() / f"{name}.py"
        content = runpy.run_path(str(file))
        main = content["main"]
        return Recipe(name, (str(file),), main, main.__annotations__["config"], content["__doc__"])
    if found := other_method(name):
        return _of_package(found)
    known = [*titles(), *more_methods()]
    raise InputError(field, name, f"there are the recipes {', '.join(known)}{nearest(str(name), known)}")


def _of_package(found: Extension) -> Recipe:
    """Return the recipe that an entry point names: a module with a docstring and `main(config)`."""
    module = found.load()
    main = getattr(module, "main", None)
    if not callable(main):
        raise found.broken(f"{found.entry.value} has no function main(config)")
    try:
        config_class = inspect.get_annotations(main, eval_str=True).get("config")
    except NameError as error:
        raise found.broken(f"{error}, which its main is annotated with") from error
    if not (isinstance(config_class, type) and dataclasses.is_dataclass(config_class)):
        raise found.broken("the argument `config` of its main is annotated with no dataclass")
    for field in dataclasses.fields(config_class):
        if "help" not in field.metadata:
            raise found.broken(f"the setting {field.name} is no `distill_hub.config.option`")
    return Recipe(found.name, ("--module", _MODULE, found.name), main, config_class, module.__doc__ or "")


def find_set_recipe(name: str, field: str = "recipe") -> Recipe:
    """Return a recipe that makes a distilled set; see `find_recipe`.

    Raises:
        InputError: See `find_recipe`; or when it makes something else.
    """
    recipe = find_recipe(name, field)
    if not issubclass(recipe.config_class, SetOptions):
        raise InputError(field, name, "this recipe makes no distilled sets")
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


if __name__ == "__main__":
    found = find_recipe(sys.argv[1])
    launch(found.main, found.config_class, found.description, sys.argv[2:])
