"""What other installed packages add, by entry points: methods, protocols and networks. None is imported to be listed.

A package names them in its `pyproject.toml`, in the groups `distill_hub.methods`, `distill_hub.protocols` and
`distill_hub.networks`; what stands there is what users type.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Literal

from distill_hub.config import InputError
from distill_hub.text import reason

Kind = Literal["methods", "protocols", "networks"]
ONE = {"methods": "method", "protocols": "protocol", "networks": "network"}
OURS = "distill-hub"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")  # as it enters names of files and repositories


@dataclass(frozen=True)
class Extension:
    """One of another package's methods, protocols or networks."""

    kind: Kind
    entry: EntryPoint

    @property
    def name(self) -> str:
        """What users type."""
        return self.entry.name

    @property
    def package(self) -> str:
        """Name of the package that it comes from, in the one spelling that the index has: my-method, not My_Method."""
        return re.sub(r"[-_.]+", "-", self.entry.dist.name).lower() if self.entry.dist else "unknown"

    @property
    def version(self) -> str:
        """Version of that package."""
        return self.entry.dist.version if self.entry.dist else "unknown"

    @property
    def origin(self) -> str:
        """Package and version, in words."""
        return f"{self.package} {self.version}"

    def load(self) -> Any:
        """Import what the entry point names.

        Raises:
            InputError: When that fails, for whatever reason: the package is not ours.
        """
        try:
            return self.entry.load()
        except Exception as error:
            said = f"{type(error).__name__}: {reason(error)}"
            raise self.broken(f"{self.entry.value} cannot be imported ({said})") from error

    def broken(self, why: str) -> InputError:
        """Return the error that says why it cannot be used."""
        return InputError(ONE[self.kind], self.name, f"the package {self.origin} is broken: {why}")


def installed(kind: Kind, is_ours: Callable[[str], bool]) -> dict[str, Extension]:
    """Return what other packages add, by name.

    Args:
        kind: Of what.
        is_ours: Whether a name is one of distill-hub's own.

    Raises:
        InputError: When a name is taken twice, so that it would not say which is meant, or is none for files.
    """
    found: dict[str, Extension] = {}
    for entry in sorted(entry_points(group=f"distill_hub.{kind}"), key=lambda entry: entry.name):
        own = Extension(kind, entry)
        if not _NAME.fullmatch(own.name):
            raise own.broken("a name has letters, digits, '_', '.' and '-', and at most 100 of them")
        if is_ours(own.name) or own.name in found:
            other = OURS if is_ours(own.name) else found[own.name].origin
            valid = f"{own.origin} brings one of a name that {other} has, too; uninstall one, or ask for another name"
            raise InputError(ONE[kind], own.name, valid)
        found[own.name] = own
    return found
