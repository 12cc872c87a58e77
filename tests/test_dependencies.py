"""What is imported is declared, what is declared is imported, and all that comes along may be used with Apache-2.0."""

import ast
import re
import sys
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
DECLARED = [Requirement(line) for line in PROJECT["dependencies"]]


def imported() -> set[str]:
    """Top-level modules that package and recipes import, inside functions, too; not Python's own."""
    modules = set()
    for file in [*(ROOT / "distill_hub").rglob("*.py"), *(ROOT / "recipes").rglob("*.py")]:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                modules |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                modules.add(node.module.split(".")[0])
    return modules - sys.stdlib_module_names - {"distill_hub"}


def test_imported_and_declared_are_the_same():
    modules = imported()
    holds = {
        requirement.name: {file.parts[0].removesuffix(".py") for file in metadata.files(requirement.name)}
        for requirement in DECLARED
    }
    assert not modules.difference(*holds.values()), "imported, but not declared"
    assert not [name for name, held in holds.items() if not held & modules], "declared, but not imported"


def test_every_dependency_has_a_floor():
    assert not [str(requirement) for requirement in DECLARED if [s.operator for s in requirement.specifier] != [">="]]


def test_what_proves_the_floors_runs_what_there_is():
    proof = (ROOT / ".ci" / "lowest").read_text(encoding="utf-8")
    places = re.findall(r"\btests/[\w/]+\.py", proof)
    places += [f"recipes/{name}.py" for name in re.findall(r"^distill-hub make (\w+)", proof, re.MULTILINE)]
    assert len(places) > 5 and not [place for place in places if not (ROOT / place).is_file()]


# Licences

# What may be shipped with, linked to and relicensed under anything. An expression's parts are compared one by one.
PERMISSIVE = re.compile(
    r"(0BSD|Apache|BSD|BSL-1\.0|CC0-1\.0|CNRI-Python|Historical Permission Notice|HPND|ISC|LLVM-exception|MIT|PSF"
    r"|Python Software Foundation|Unlicense|Zlib)([ -].*)?"
)
STRONG_COPYLEFT = re.compile(r"\bA?GPL|(?<!Lesser )General Public|Affero")
EXPLAINED = {
    "certifi": "MPL-2.0 binds changes of its own files; we change none",
    "tqdm": "MPL-2.0 binds changes of its own files; we change none",
    "cuda-toolkit": "names no licence: an empty package that says which of NVIDIA's libraries belong together",
    "nvidia-": "NVIDIA's own terms allow redistribution with an application; PyPI's torch for Linux brings these libraries",
}


def closure() -> dict[str, metadata.Distribution]:
    """Everything that an installation without extras brings on this machine."""
    found, waiting, seen = {}, list(DECLARED), set()
    while waiting:
        requirement = waiting.pop()
        name, extras = canonicalize_name(requirement.name), {"", *requirement.extras}
        if (name, *sorted(extras)) in seen:
            continue
        seen.add((name, *sorted(extras)))
        found[name] = metadata.distribution(name)
        for needed in map(Requirement, found[name].requires or ()):
            if needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in extras):
                waiting.append(needed)
    return found


def licence(facts) -> str:
    """What a distribution's metadata say: an SPDX expression, else classifiers, else the first line of a text."""
    if expression := facts.get("License-Expression"):
        return expression
    classified = [line.rsplit(" :: ", 1)[1] for line in facts.get_all("Classifier", ()) if line.startswith("License :: ")]
    return " AND ".join(classified) or facts.get("License", "").strip().partition("\n")[0]


def is_permissive(licence: str) -> bool:
    parts = re.split(" AND | OR | WITH ", re.sub("[()]", " ", licence))
    return all(PERMISSIVE.fullmatch(part.strip()) for part in parts)


def test_licences_of_what_comes_along():
    licences = {name: licence(distribution.metadata) for name, distribution in closure().items()}
    assert len(licences) > 2 * len(DECLARED)
    assert not {name: said for name, said in licences.items() if STRONG_COPYLEFT.search(said)}
    explained = tuple(EXPLAINED)
    assert not {n: said for n, said in licences.items() if not is_permissive(said) and not n.startswith(explained)}


@pytest.mark.parametrize(
    ("said", "permissive", "strong"),
    [
        ("MIT", True, False),
        ("Apache-2.0 WITH LLVM-exception AND (BSD-3-Clause OR 0BSD)", True, False),
        ("Apache Software License", True, False),
        ("BSD License AND ISC License (ISCL)", True, False),
        ("GPL-2.0-or-later", False, True),
        ("AGPL-3.0", False, True),
        ("MIT AND GPLv3", False, True),
        ("GNU General Public License v2 or later (GPLv2+)", False, True),
        ("GNU Affero General Public License v3", False, True),
        ("LGPL-3.0-or-later", False, False),
        ("GNU Lesser General Public License v3 (LGPLv3)", False, False),
        ("MIT AND MPL-2.0", False, False),
        ("LicenseRef-Proprietary", False, False),
        ("MITSOME", False, False),
        ("", False, False),
    ],
)
def test_licences_are_told_apart(said, permissive, strong):
    assert (is_permissive(said), bool(STRONG_COPYLEFT.search(said))) == (permissive, strong)
