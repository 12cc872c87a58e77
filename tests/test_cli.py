"""The command line: light to start, one line and exit code 2 for what cannot be used."""

import subprocess
import sys

import pytest


def run(*words: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "distill_hub.cli", *words], capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize("words", [("--help",), ("info", "--help"), ("evaluate", "--help")])
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


@pytest.mark.parametrize("command", ["info", "evaluate"])
def test_what_is_no_set_is_refused_in_one_line(command, tmp_path):
    for path, reason in ((tmp_path / "nowhere", "there is no such folder"), (tmp_path, "manifest.json")):
        result = run(command, str(path))
        assert result.returncode == 2
        assert reason in result.stderr and str(path) in result.stderr
        assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1
