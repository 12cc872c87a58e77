"""Every command of the list of the papers' tables is read as it stands."""

import re
import shlex

import pytest
from headers import launched
from helpers import ROOT

from distill_hub.cli import settings_of
from distill_hub.config import parse

TABLES = ROOT / "tests" / "bench" / "results" / "2026-11-29-tables.md"
COMMANDS = [command for command in re.findall(r"`([^`]+)`", TABLES.read_text()) if command.startswith("distill-hub ")]


def test_the_list_has_commands():
    assert len(COMMANDS) > 40
    assert {shlex.split(command)[1] for command in COMMANDS} == {"make", "evaluate"}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_is_read(command, monkeypatch):
    monkeypatch.chdir(ROOT)
    words = shlex.split(command)
    if words[1] == "make":
        launched(command)
    else:
        parse(settings_of(words[1]), words[2:])
