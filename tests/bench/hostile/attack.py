"""What one attack is: an input that a stranger or an accident made, the words that meet it, and what is right."""

import atexit
import functools
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from processes import run_python

LINE = 600  # characters that one line of an error may have
SMALL = {  # what makes each base
    "set": ["random_real", "--ipc", "2", "--students", "convnet-1-w16", "--repeats", "2", "--teacher_epochs", "4"],
    "generator": [
        *("fit_generator", "--fit_vae_steps", "2", "--fit_dit_steps", "2", "--fit_vae_width", "8"),
        *("--fit_dit_width", "32", "--fit_dit_layers", "1"),
    ],
}


@dataclass(frozen=True)
class Outcome:
    """How the command ended."""

    code: int
    output: str  # of both streams
    seconds: float
    memory: int  # bytes, the most it held, without what the imports take
    folder: Path  # in which it ran


Right = Callable[[Outcome], str | None]


def refused(outcome: Outcome) -> str | None:
    """Say what is wrong, if anything, where exit code 2 and one line are right."""
    lines = [line for line in outcome.output.splitlines() if line.startswith("error")]
    if outcome.code != 2 or len(lines) != 1:
        return f"exit code {outcome.code}, {len(lines)} lines of error"
    if len(lines[0]) > LINE or not lines[0].isprintable():
        return f"a line of {len(lines[0])} characters"
    return unharmed(outcome)


def used(outcome: Outcome) -> str | None:
    """Say what is wrong, if anything, where the input is to be used."""
    return f"exit code {outcome.code}" if outcome.code else unharmed(outcome)


def either(outcome: Outcome) -> str | None:
    """Say what is wrong, if anything, where input may be used or refused, but nothing else may happen."""
    return used(outcome) if outcome.code == 0 else refused(outcome)


def unharmed(outcome: Outcome) -> str | None:
    """Say what no attack may reach: a traceback, the terminal, the memory, a file called `owned`."""
    if "Traceback" in outcome.output:
        return "a traceback"
    if codes := {code for code in "\x1b\x07\u202e" if code in outcome.output}:
        return f"it prints {codes}"
    if outcome.memory > 3e9:
        return f"{outcome.memory / 1e9:.1f} GB of memory"
    return "it ran what it was given" if list(outcome.folder.rglob("owned*")) else None


@dataclass(frozen=True)
class Attack:
    """One input.

    Args:
        kind: Of input, e.g. 'foreign: tensors'; results are counted by it.
        name: What is wrong with it.
        build: Writes it into an empty folder, in which the command will run, and returns the words behind `distill-hub`.
            Words like NAME=VALUE before them are variables of the environment, as in a shell. Programs in its folder `bin`
            come first in PATH; HOME is another folder of its own.
        right: Says what is wrong with an outcome, if anything.
    """

    kind: str
    name: str
    build: Callable[[Path], list[str]]
    right: Right = refused


def scratch() -> Path:
    """Make a folder for what attacks begin with; it is removed at the end."""
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder)
    return folder


@functools.cache
def base(kind: str) -> Path:
    """Return a sound folder that an attack may name, or copy and change; it is made once.

    Args:
        kind: 'set', a scored set of 2 digits a class; 'teacher', what labelled it, in this package's own format; or
            'generator', a DiTPipeline of digits.
    """
    if kind == "teacher":
        (found,) = (config.parent for config in base("set").parent.glob("fits/*-teacher-*/config.json"))
        return found
    folder = scratch()
    environment = {**os.environ, "DISTILL_HUB_CACHE": str(folder / "fits"), "OMP_NUM_THREADS": "1"}
    words = ["make", *SMALL[kind], "--output_dir", str(folder / f"digits-{kind}")]
    done = run_python("-m", "distill_hub.cli", *words, environment=environment, folder=folder)
    assert done.returncode == 0, done.stderr
    return folder / f"digits-{kind}"
