"""What the comments say that a settings file, or a launch file, begins with: the commands that read it."""

import re
import shlex
from typing import NamedTuple

from helpers import RECIPES, ROOT

from distill_hub.config import options, parse
from distill_hub.launching.launcher import with_launch_options
from distill_hub.options.launch import LaunchOptions


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
    """Return the recipe that `distill-hub make` would start, its settings, and how it would be started."""
    words = shlex.split(line)
    assert words[:2] == ["distill-hub", "make"]
    recipe = RECIPES[words[2]]
    config = parse(with_launch_options(recipe), words[3:], configs=ROOT / "recipes" / "configs")
    return words[2], recipe(**options(config, recipe)), LaunchOptions(**options(config, LaunchOptions))
