"""What people install: a wheel and a source distribution, each in an environment of its own, used from another folder."""

import ast
import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest
import yaml

import distill_hub
from distill_hub import load_distilled

ROOT = Path(__file__).parents[1]
TINY = ["--ipc", "1", "--images_per_class", "4", "--teacher_epochs", "2", "--view_epochs", "0", "--students", "convnet-1"]


def build(folder: Path, *what: str) -> Path:
    command = [sys.executable, "-m", "build", "--no-isolation", *what, "--outdir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    return folder


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> dict[str, Path]:
    """The source distribution; the wheel that pip builds from it; and the one that pip builds from the checkout."""
    (wheel,) = build(tmp_path_factory.mktemp("checkout"), "--wheel").glob("*.whl")
    folder = build(tmp_path_factory.mktemp("sdist"))
    (sdist,), (own,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
    return {"wheel": wheel, "sdist": sdist, "sdist's wheel": own}


class Installed:
    """A fresh environment with a wheel; what that depends on comes from this environment, which comes second."""

    def __init__(self, folder: Path, wheel: Path):
        self.environment, self.here = folder / "environment", folder / "here"
        self.here.mkdir()
        for name in ("datasets", "accelerate", "torch"):
            (self.here / f"{name}.py").write_text("raise RuntimeError('the current folder was searched')")
        venv.create(self.environment)
        pip = [sys.executable, "-m", "pip", "--python", str(self.environment / "bin" / "python"), "install", "--quiet"]
        (site,) = self.environment.glob("lib/python*/site-packages")
        # Before the outer packages are seen: else the checkout would count as this package, installed.
        subprocess.run([*pip, "--no-deps", "--no-index", str(wheel)], check=True, capture_output=True)
        (site / "outer.pth").write_text(sysconfig.get_path("purelib"))

    def run(self, *words: str, program: str = "distill-hub") -> subprocess.CompletedProcess:
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        command = [str(self.environment / "bin" / program), *words]
        return subprocess.run(command, cwd=self.here, env=environment, capture_output=True, text=True, timeout=600)


@pytest.fixture(scope="module", params=["wheel", "sdist's wheel"])
def installed(request, built, tmp_path_factory) -> Installed:
    return Installed(tmp_path_factory.mktemp("installed"), built[request.param])


def test_the_wheel_ships_cards_and_recipes(built):
    contents = [zipfile.ZipFile(built[name]) for name in ("wheel", "sdist's wheel")]
    first, second = ({name: archive.read(name) for name in archive.namelist()} for archive in contents)
    assert first == second
    names = zipfile.ZipFile(built["wheel"]).namelist()
    recipes = [file for file in (ROOT / "recipes").rglob("*") if file.is_file() and "__pycache__" not in file.parts]
    shipped = {ROOT / "cards" / "FORMAT.md", *(ROOT / "cards").glob("*.jinja"), *recipes}
    beside = {name for name in names if name.startswith(("distill_hub/cards/", "distill_hub/recipes/"))}
    assert beside == {f"distill_hub/{file.relative_to(ROOT)}" for file in shipped}
    assert "distill_hub/py.typed" in names
    assert not [name for name in names if name.startswith(("tests/", "outputs/"))]
    assert any(name.endswith("entry_points.txt") for name in names)


def test_the_source_distribution_has_what_it_is_tested_with(built):
    with tarfile.open(built["sdist"]) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    assert {"pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "CITATION.cff", "tests/test_packaging.py"} <= names
    assert {".ci/run", ".github/workflows/ci.yml"} <= names


def test_recipes_are_found_and_explained(installed):
    where = installed.run("-c", "import distill_hub; print(distill_hub.__file__)", program="python").stdout
    assert where.startswith(str(installed.environment))
    listed, explained = installed.run("make", "--help"), installed.run("make", "cao2", "--help")
    assert listed.returncode == explained.returncode == 0, listed.stderr + explained.stderr
    assert "\n  cao2 " in listed.stdout and str(installed.environment) in listed.stdout
    assert explained.stdout.startswith("usage: distill-hub make cao2 [options]") and "--pool_factor" in explained.stdout
    refused = installed.run("make", "cao2", "--pool_facter", "2")
    assert refused.returncode == 2 and refused.stderr.count("\n") == 1 and "did you mean '--pool_factor'" in refused.stderr


@pytest.mark.parametrize("installed", ["wheel"], indirect=True)
def test_a_set_is_made_and_described(installed):
    result = installed.run("make", "rded", *TINY, "--repeats", "1")
    assert result.returncode == 0, result.stderr
    folder = installed.here / "outputs" / "digits-ipc1-rded"
    made = load_distilled(folder)
    assert len(made.labels) == 10
    info = installed.run("info", str(folder))
    assert info.returncode == 0 and made.manifest.content_sha256 in info.stdout


def test_one_version_everywhere(built):
    project = (ROOT / "pyproject.toml").read_text()
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert built["wheel"].name.startswith(f"distill_hub-{distill_hub.__version__}-")
    assert built["sdist"].name == f"distill_hub-{distill_hub.__version__}.tar.gz"
    assert str(citation["version"]) == distill_hub.__version__ and citation["license"] == "Apache-2.0"
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()  # what version 1.2.0 of that format asks for
    changelog = (ROOT / "CHANGELOG.md").read_text()
    assert "## [Unreleased]" in changelog or f"## [{distill_hub.__version__}]" in changelog
    (matrix,) = re.findall(r"python: (\[.*\])", (ROOT / ".github/workflows/ci.yml").read_text())
    assert re.findall(r"Python :: (3\.\d+)", project) == ast.literal_eval(matrix)


def test_what_is_loaded_lazily_is_there_for_type_checkers():
    tree = ast.parse(Path(distill_hub.__file__).read_text())
    (block,) = [node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    seen = {alias.name: node.module for node in block.body for alias in node.names}
    assert seen == distill_hub._LAZY
    assert {*seen, "HubError", "InputError", "__version__"} == {*distill_hub.__all__}
    assert {*seen, "__version__", "__file__"} <= {*dir(distill_hub)}  # what tab completion shows
    assert all(callable(getattr(distill_hub, name)) for name in seen)
