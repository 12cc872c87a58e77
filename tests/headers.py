"""What the comments say that a settings file, or a launch file, begins with: the commands that read it."""

import re
import shlex
from pathlib import Path
from typing import NamedTuple

from accelerate.commands.launch import launch_command_parser
from helpers import RECIPES, ROOT

from distill_hub.config import parse


class Block(NamedTuple):
    """Commands of a header, and what is said of them: an IPC, and numbers or text."""

    commands: list[str]
    ipc: int
    text: str


def header(file):
    lines = file.read_text().splitlines()
    count = next(i for i, line in enumerate(lines) if not line.startswith("#"))
    assert not any(line.startswith("#") for line in lines[count:]), "the header comes first, in one piece"
    return [line.removeprefix("#").removeprefix(" ") for line in lines[:count]]


def is_command(line):
    return re.match(r"  (\w+=\w+ )?(accelerate|distill-hub|torchrun) ", line)


def blocks(file):
    commands = []
    for line in header(file):
        if is_command(line):
            commands.append(line.strip())
        elif said := re.fullmatch(r"    IPC (\d+): (.+)", line):
            assert commands, line
            yield Block(commands, int(said[1]), said[2])
            commands = []
    assert not commands


def launched(line):
    """Return the recipe and the settings that `accelerate launch` would start it with."""
    words = shlex.split(line)
    assert words[:2] == ["accelerate", "launch"]
    arguments = launch_command_parser().parse_args(words[2:])
    assert (ROOT / arguments.training_script).is_file(), arguments.training_script
    recipe = Path(arguments.training_script).stem
    return recipe, parse(RECIPES[recipe], arguments.training_script_args)
