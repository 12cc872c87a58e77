"""A package from outside adds a method, a protocol and a network, which are used as ours are; and then it is not there."""

import importlib
import json
import re
import runpy
import shutil
import sys
from pathlib import Path

import pytest

import distill_hub
from distill_hub import InputError
from distill_hub.artifact.base import PackageRecord
from distill_hub.artifact.manifest import Manifest
from distill_hub.cli import main
from distill_hub.commands.env import _extensions
from distill_hub.config import check_settings, from_values
from distill_hub.evaluation.reevaluate import evaluate
from distill_hub.launching import recipes
from distill_hub.launching import reproduce as rebuilding
from distill_hub.launching.new_method import write_package
from distill_hub.launching.recipes import find_recipe, make
from distill_hub.launching.reproduce import reproduce
from distill_hub.making.packages import more_methods, package_of
from distill_hub.networks.build import build, check_student
from distill_hub.options.commands import EvaluateConfig, ReproduceConfig
from distill_hub.options.shared import PixelOptions
from distill_hub.training.protocols import protocol

MORE = """
import dataclasses

from torch import nn

from distill_hub.training.protocols import Protocol, protocol


def settings(task):
    return dataclasses.replace(protocol("quick").settings(task), epochs=2, looks=(2,))


TWO_EPOCHS = Protocol("two-epochs", 3, settings, "hard")


def linear(num_classes, image_size):
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * image_size**2, num_classes))
"""
ENTRIES = {"protocols": "two-epochs = averages.more:TWO_EPOCHS", "networks": "linear = averages.more:linear"}
HOW = {"ipc": 1, "teacher_epochs": 2, "view_epochs": 0, "repeats": 1, "protocol": "two-epochs", "students": "linear"}


def install(site: Path, name: str, version: str, **entries: str) -> None:
    """Write what pip leaves of a package beside its modules."""
    folder = site / f"{name}-{version}.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    groups = (f"[distill_hub.{kind}]\n{entry}\n" for kind, entry in entries.items())
    (folder / "entry_points.txt").write_text("\n".join(groups))


def forget(site: Path) -> None:
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None)).startswith(str(site)):
            del sys.modules[name]


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A folder of packages that Python finds."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    yield folder
    forget(folder)


@pytest.fixture(scope="module")
def outside(tmp_path_factory):
    """The package as `new-method` writes it, with more in it; and a set that its method made."""
    base = tmp_path_factory.mktemp("outside")
    project, folder = write_package("averages", base / "project"), base / "site"
    shutil.copytree(project / "averages", folder / "averages")
    (folder / "averages" / "more.py").write_text(MORE)
    (method,) = re.findall(r'"distill_hub.methods"\]\n(.+)\n', (project / "pyproject.toml").read_text())
    install(folder, "averages", "1.2", methods=method.replace('"', ""), **ENTRIES)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        make("averages", **HOW, output_dir=base / "set")
    yield base
    forget(folder)


@pytest.fixture
def there(outside, monkeypatch):
    monkeypatch.syspath_prepend(outside / "site")
    return outside


def test_records_name_package_and_version(there):
    manifest = json.loads((there / "set" / "manifest.json").read_text())
    assert manifest["method"]["package"] == {"name": "averages", "version": "1.2"}
    (record,) = (json.loads(file.read_text()) for file in (there / "set" / "evaluations").iterdir())
    assert (record["protocol"], record["protocol_version"], record["student"]) == ("two-epochs", 3, "linear")
    assert record["protocol_package"] == record["student_package"] == {"name": "averages", "version": "1.2"}
    assert record["settings"]["epochs"] == 2
    assert "recipe `averages` of the package `averages 1.2`, seed 0" in (there / "set" / "README.md").read_text()


def test_its_set_is_scored_again_and_rebuilt(there, monkeypatch, capsys):
    (again,) = evaluate(there / "set")
    assert again.agrees and again.measured.score.last == again.claimed.score.last

    def run(words):
        assert words[2] == "averages"
        monkeypatch.setattr(sys, "argv", words)
        main()

    monkeypatch.setattr(rebuilding, "_run", run)
    rebuilt = reproduce(ReproduceConfig(location=str(there / "set"), output_dir=there / "rebuilt"))
    assert rebuilt.identical and all(step.verdict == "same" for step in rebuilt.steps)


def test_another_version_is_said(there, monkeypatch, capsys):
    old, new = (there / "site" / f"averages-{version}.dist-info" for version in ("1.2", "1.3"))
    shutil.copytree(old, new)
    (new / "METADATA").write_text((old / "METADATA").read_text().replace("1.2", "1.3"))
    hidden = old.rename(there / "away")
    try:
        evaluate(there / "set")
        assert "averages: its author measured with version 1.2, here is 1.3" in capsys.readouterr().out
        manifest = Manifest.read(there / "set" / "manifest.json")
        method = manifest.method.model_copy(
            update={"package": manifest.method.package.model_copy(update={"version": "1.3"})}
        )
        newer = rebuilding.Reproduction(manifest, manifest.model_copy(update={"method": method}), None)
        assert newer.environment == {"averages": ("1.2", "1.3")}
    finally:
        shutil.rmtree(new)
        hidden.rename(old)


def test_without_it_a_line_says_what_is_needed(outside, monkeypatch):
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place != str(outside / "site")])
    importlib.invalidate_caches()
    config = ReproduceConfig(location=str(outside / "set"), output_dir=outside / "no")
    needed = "comes from the package averages 1.2, which is not installed here"
    with pytest.raises(InputError, match=f"method: 'averages' .*{needed}"):
        reproduce(config)
    with pytest.raises(InputError, match=f"protocol: 'two-epochs' .*{needed}"):
        evaluate(outside / "set")
    with pytest.raises(InputError, match=f"protocol: 'two-epochs' .*{needed}"):
        evaluate(outside / "set", repeats=1)
    for known in (lambda: make("averages"), lambda: check_settings(from_values(PixelOptions, {"protocol": "two-epochs"}))):
        with pytest.raises(InputError) as refused:
            known()
        assert "averages," not in str(refused.value)


def test_it_stands_beside_ours(there, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["distill-hub", "make"])
    main()
    assert re.search(r"\n  averages +of the package averages 1\.2\n", capsys.readouterr().out)
    told = "averages (averages 1.2)", "two-epochs (averages 1.2)", "linear (averages 1.2)"
    assert tuple(_extensions().values()) == told
    check_settings(EvaluateConfig(location="org/set", protocol="two-epochs", students="linear,convnet-2"))
    with pytest.raises(InputError, match=r"frozen, two-epochs \(did you mean 'two-epochs'\?\)"):
        check_settings(EvaluateConfig(location="org/set", protocol="two-epoch"))
    with pytest.raises(InputError, match=r"averages 1\.2 knows version 3"):
        protocol("two-epochs", 2)
    check_student("linear", 10, 16)


def test_several_processes_start_it_by_its_name(there, monkeypatch, capsys):
    start = find_recipe("averages").start
    assert start == ("--module", recipes.__name__, "averages")
    monkeypatch.setattr(sys, "argv", ["python", *start[2:], "--help"])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(recipes.__file__, run_name="__main__")
    assert not end.value.code and "--averaged" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("entries", "line"),
    [
        ({"methods": "rded = x"}, "method: 'rded' cannot be used; one 1 brings one of a name that distill-hub has"),
        ({"methods": "dsa = x"}, "method: 'dsa' .* that distill-hub has"),
        ({"methods": "a/b = x"}, "method: 'a/b' .*the package one 1 is broken: a name has letters"),
        (
            {"methods": "gone = no_such_module"},
            "method: 'gone' .*one 1 is broken: no_such_module cannot be imported .*ModuleN",
        ),
        ({"methods": "gone = json"}, "method: 'gone' .*one 1 is broken: json has no function main"),
        ({"methods": "gone = pytest"}, "method: 'gone' .*one 1 is broken: the argument `config`"),
        ({"protocols": "kd = x"}, "protocol: 'kd' .* that distill-hub has"),
        ({"protocols": "gone = json:loads"}, "protocol: 'gone' .*one 1 is broken: json:loads is no Protocol of that name"),
        ({"networks": "convnet-3 = x"}, "network: 'convnet-3' .* that distill-hub has"),
        ({"networks": "gone = json:x"}, "network: 'gone' .*one 1 is broken: json:x cannot be imported .*AttributeError"),
        ({"networks": "gone = json:__name__"}, "network: 'gone' .*json:__name__ is no function"),
        ({"networks": "gone = builtins:max"}, "network: 'gone' .*builtins:max returns no torch.nn.Module, but int"),
    ],
)
def test_what_is_broken_or_taken_is_one_line(site, entries, line):
    install(site, "one", "1", **entries)
    with pytest.raises(InputError, match=line) as refused:
        find = {"methods": find_recipe, "protocols": protocol, "networks": lambda name: build(name, 10, 16)}
        find[next(iter(entries))]("gone")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("from __future__ import annotations\ndef main(config: Gone): ...", "name 'Gone' is not defined"),
        (
            "import dataclasses\n@dataclasses.dataclass\nclass Config:\n    x: int = 1\ndef main(config: Config): ...",
            r"the setting x is no `distill_hub\.config\.option`",
        ),
    ],
)
def test_settings_that_are_no_options_are_one_line(site, text, line):
    install(site, "one", "1", methods="mine = mine_of_one")
    (site / "mine_of_one.py").write_text(text)
    with pytest.raises(InputError, match=f"method: 'mine' .*one 1 is broken: {line}"):
        find_recipe("mine")


def test_two_packages_of_one_name_are_both_named(site):
    install(site, "one", "1", methods="mine = x")
    install(site, "two", "2", methods="mine = y")
    with pytest.raises(
        InputError, match=r"two 2 brings one of a name that one 1 has|one 1 brings one of a name that two 2 has"
    ):
        more_methods()
    assert "mine" in _extensions()["other methods"]
    find_recipe("rded")  # whose name is ours
    assert package_of("rded") is package_of("random") is None


def test_a_package_is_the_same_in_any_spelling(site):
    install(site, "My_Own.one", "1", methods="mine = x")
    assert package_of("mine") == PackageRecord(name="my-own-one", version="1")
    with pytest.raises(ValueError, match="version"):
        PackageRecord(name="one", version="1\n; rm")


def test_the_tests_that_are_written_pass(there):
    """Those of the package, but for the whole path, which `outside` took."""
    tests = runpy.run_path(str(there / "project" / "tests" / "test_averages.py"))
    tests["test_a_mean_is_that_of_its_group"]()
    tests["test_more_than_a_class_has_is_refused"]()


@pytest.mark.parametrize(
    "name", ["My", "1st", "class", "with-dash", "x_", "torch", "rded", "dsa", "a" * 60, "../x", "tests"]
)
def test_names_that_cannot_be_are_refused(tmp_path, name):
    with pytest.raises(InputError, match="name: "):
        write_package(name, tmp_path / "new")
    assert not list(tmp_path.iterdir())


def test_nothing_is_overwritten(tmp_path, monkeypatch, capsys):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis").write_text("precious")
    with pytest.raises(InputError, match="nothing is overwritten"):
        write_package("mine", tmp_path / "mine")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["distill-hub", "new-method", "other_one"])
    main()
    written = sorted(str(file.relative_to(tmp_path)) for file in (tmp_path / "other_one").rglob("*") if file.is_file())
    assert written == [
        *("other_one/other_one/__init__.py", "other_one/other_one/method.py"),
        *("other_one/pyproject.toml", "other_one/tests/test_other_one.py"),
    ]
    assert f"distill-hub>={distill_hub.__version__}" in (tmp_path / "other_one" / "pyproject.toml").read_text()
