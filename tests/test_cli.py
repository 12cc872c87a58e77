"""The command line: light to start, one line and exit code 2 for what cannot be used."""

import subprocess
import sys

import pytest

from distill_hub.cli import COMMANDS
from distill_hub.config import LOADING


def run(*words: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "distill_hub.cli", *words], capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize("words", [("--help",), *((name, "--help") for name in COMMANDS)])
def test_help_explains_and_loads_nothing_heavy(words):
    code = f"""
import sys
sys.argv = ["distill-hub", *{words!r}]
from distill_hub.cli import main
try:
    main()
finally:
    heavy = {{"torch", "datasets", "diffusers", "timm", "transformers"}} & set(sys.modules)
    assert not heavy, heavy
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    assert "distilled set" in result.stdout


def test_what_there_is_no_command_for_is_refused():
    result = run("evalute", "x")
    assert result.returncode == 2
    assert "'evalute'" in result.stderr and "(did you mean 'evaluate'?)" in result.stderr


@pytest.mark.parametrize(
    ("command", "reason"), [("info", "no manifest.json"), ("evaluate", "it holds nothing"), ("push", "no manifest.json")]
)
def test_what_is_no_set_is_refused_in_one_line(command, reason, tmp_path):
    nowhere = "the folder of a distilled set is needed" if command == "push" else "there is no such folder"
    for path, words in ((tmp_path / "nowhere", nowhere), (tmp_path, reason)):
        result = run(command, str(path))
        assert result.returncode == 2
        error = result.stderr.removeprefix(f"{LOADING}\n")
        assert words in error and str(path) in error
        assert error.startswith("error: ") and error.count("\n") == 1
