"""Methods of other packages."""

from distill_hub.artifact.base import PackageRecord, package_record
from distill_hub.artifact.names import RECIPES
from distill_hub.disk.files import shipped
from distill_hub.extensions import Extension, installed


def is_ours(name: str) -> bool:
    """Return whether a method or a recipe of that name comes with distill-hub."""
    return name in RECIPES or (shipped("recipes") / f"{name}.py").is_file()


def more_methods() -> dict[str, Extension]:
    """Return the methods of other packages, by name; see `extensions.installed`."""
    return installed("methods", is_ours)


def other_method(name: str) -> Extension | None:
    """Return the method of another package that is called so; None: there is none, or it is our own."""
    return None if is_ours(name) else more_methods().get(name)


def package_of(method: str) -> PackageRecord | None:
    """Return the package that a method comes from; None: it is ours, or of no package."""
    return package_record(other_method(method))
