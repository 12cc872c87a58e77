"""The start of a package with a method of one's own: four files that work as they are."""

import importlib.util
import keyword
import re
from importlib.metadata import version
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from distill_hub.config import InputError
from distill_hub.disk.files import atomic_write, check_folder
from distill_hub.launching.recipes import recipes_folder
from distill_hub.making.packages import is_ours, more_methods

FILES = {  # of a package, and what each is made from
    "pyproject.toml": "pyproject.toml.jinja",
    "{name}/__init__.py": "recipe.py.jinja",
    "{name}/method.py": "method.py.jinja",
    "tests/test_{name}.py": "test.py.jinja",
}


def write_package(name: str, folder: Path | None) -> Path:
    """Write a package whose method makes sets.

    Args:
        name: Of the method, and of the Python package.
        folder: Where to; default: one of that name.

    Returns:
        The folder.

    Raises:
        InputError: When the name is none for a Python package, or taken; or the folder is not empty or cannot be written to.
    """
    _check(name)
    folder = Path(name) if folder is None else folder
    check_folder(folder)
    if folder.is_dir() and any(folder.iterdir()):
        raise InputError("output_dir", str(folder), "it is not empty, and nothing is overwritten; name a new folder")
    templates = Environment(
        loader=FileSystemLoader(recipes_folder() / "new_method"), undefined=StrictUndefined, keep_trailing_newline=True
    )
    words = name.strip("_").split("_")
    known = {
        "name": name,
        "package": re.sub("_+", "-", name),
        "title": " ".join(words).capitalize(),
        "camel": "".join(word.capitalize() for word in words),
        "version": version("distill-hub"),
    }
    for file, template in FILES.items():
        atomic_write(folder / file.format(name=name), templates.get_template(template).render(known).encode())
    return folder


def _check(name: str) -> None:
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,49}(?<!_)", name) or keyword.iskeyword(name):
        valid = "lower-case letters, digits and '_' are needed, a letter first: it names a Python package, too"
        raise InputError("name", name, valid)
    if is_ours(name) or name in more_methods():
        raise InputError("name", name, "there is a method of that name; choose another one")
    if name == "tests":
        raise InputError("name", name, "the tests of the package lie in a folder of that name; choose another one")
    spec = importlib.util.find_spec(name)
    if spec and spec.origin:  # a mere folder in the current one is no module
        raise InputError("name", name, "there is a Python module of that name, which it would hide; choose another one")
