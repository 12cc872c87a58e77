"""The one way settings are read: dataclass < ``--config`` YAML < command line. `options.py` holds the dataclasses.

Unknown keys are errors, in the YAML file as on the command line.
"""

import argparse
import dataclasses
import difflib
import errno
import inspect
import operator
import os
import re
import signal
import socket
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

import yaml
from jsonargparse import ActionYesNo, ArgumentParser, DefaultHelpFormatter

Config = TypeVar("Config")


class InputError(ValueError):
    """Something that came from outside cannot be used. One line: the field, its value, what would be valid."""

    def __init__(self, field: str, value: Any, valid: str):
        self.field, self.value = field, value
        super().__init__(" ".join(f"{field}: {value!r} cannot be used; {valid}".split()))


class HubError(RuntimeError):
    """The Hub or the network failed. One line that says how to go on; nothing on either side is left half done."""


def nearest(name: str, known: Sequence[str]) -> str:
    """Return ' (did you mean X?)' for the known name closest to `name`, or nothing when none is close."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else ""


def option(default: Any, help: str, *, identity: bool = True) -> Any:
    """Declare a field with its help text. ``identity=False``: the value does not change what a run produces."""
    return dataclasses.field(default=default, metadata={"help": help, "identity": identity})


def argument(help: str, default: Any = dataclasses.MISSING) -> Any:
    """Declare a field that is given by its place on the command line, not by name; without a default it is required.

    A field of type ``list[X]`` takes one or more words.
    """
    metadata = {"help": help, "identity": False, "positional": True}
    return dataclasses.field(default=default, metadata=metadata)


def resolved(config: Any) -> dict[str, Any]:
    """Return the settings that decide what a run produces, ready for JSON."""
    return {f.name: getattr(config, f.name) for f in dataclasses.fields(config) if f.metadata.get("identity", True)}


def options(config: Any, group: type) -> dict[str, Any]:
    """Return one group's settings by name, e.g. ``load_source(config.source, **options(config, SourceOptions))``."""
    return {f.name: getattr(config, f.name) for f in dataclasses.fields(group)}


class _Help(argparse.RawDescriptionHelpFormatter, DefaultHelpFormatter):
    """Leaves the examples in a description as they are."""


def _parser(config_class: type, description: str | None, prog: str | None) -> ArgumentParser:
    places = [f.name for f in dataclasses.fields(config_class) if f.metadata.get("positional")]
    parser = ArgumentParser(
        prog=prog,
        usage=" ".join(["%(prog)s", *places, "[options]"]),
        description=inspect.cleandoc(description or ""),
        formatter_class=_Help,
        exit_on_error=False,
        allow_abbrev=False,
    )
    parser.add_argument("--config", action="config", help="YAML file of the options below; the command line wins")
    # One group per class, in the order a run meets them; the method's own options come last, where a terminal shows them.
    fields = {f.name: f for f in dataclasses.fields(config_class)}
    for owner in [c for c in reversed(config_class.__mro__) if dataclasses.is_dataclass(c)]:
        # An option that a recipe gives another default stays in the group that it comes from.
        own = [fields.pop(name) for name in owner.__annotations__ if name in fields]
        if not own:
            continue
        group = parser.add_argument_group(owner.__doc__.rstrip("."))
        for f in own:
            if f.metadata.get("positional"):
                how = {"type": f.type}
                if get_origin(f.type) is list:
                    how = {"type": get_args(f.type)[0], "nargs": "+"}
                elif f.default is not dataclasses.MISSING:
                    how |= {"nargs": "?", "default": f.default}
                parser.add_argument(f.name, help=f.metadata["help"], **how)
                continue
            kind = {"action": ActionYesNo} if f.type is bool else {"type": f.type}
            group.add_argument(f"--{f.name}", default=f.default, help=f.metadata["help"], **kind)
    return parser


def parse(
    config_class: type[Config],
    argv: Sequence[str] | None = None,
    description: str | None = None,
    prog: str | None = None,
) -> Config:
    """Read the settings of a recipe or command.

    Args:
        config_class: One of the dataclasses of `options.py`.
        argv: Command line without the program name; default ``sys.argv[1:]``.
        description: Text of ``--help`` above the options.
        prog: Name of the program in ``--help``; default: the script's.

    Raises:
        InputError: For an unknown key (the nearest known one is named) or a value of the wrong type or range.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    known = [f.name for f in dataclasses.fields(config_class)]
    named = [f.name for f in dataclasses.fields(config_class) if not f.metadata.get("positional")]
    flags = [*named, *(f"no_{f.name}" for f in dataclasses.fields(config_class) if f.type is bool)]
    for token in argv:
        name = token.removeprefix("--").split("=")[0]
        if token.startswith("--") and name not in [*flags, "config", "print_config", "help"]:
            raise InputError("command line", token, f"there is no option --{name}{nearest(name, flags)}; see --help")
    # Words of the files come first, wherever --config stands: the later word wins, and that must be the command line.
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    finder.add_argument("--config", action="append", default=[])
    parser = _parser(config_class, description, prog)
    words: list[str] = []
    try:
        files, rest = finder.parse_known_args(argv)
        words = [word for file in files.config for word in _yaml_words(file, config_class)] + rest
        values = parser.parse_args(words)
    except argparse.ArgumentError as error:
        raise _one_line(error, config_class, words or argv) from error
    return config_class(**{name: values[name] for name in known})


def _yaml_words(file: str, config_class: type) -> list[str]:
    """Return a YAML file as words of a command line, so that a value means the same in both."""
    try:
        content = yaml.load(Path(file).read_text(), yaml.BaseLoader)  # every value as it is written
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError("config", file, f"a readable YAML file is needed ({error})") from error
    if not isinstance(content, dict):
        raise InputError("config", file, "the file must hold 'option: value' lines")
    fields = {f.name: f for f in dataclasses.fields(config_class)}
    words = []
    for key, value in content.items():
        if key not in fields:
            raise InputError(f"config {file}", key, f"there is no such option{nearest(str(key), list(fields))}; see --help")
        if not isinstance(value, str):
            raise InputError(key, value, f"one value is needed in {file}")
        if fields[key].type is bool:
            if value.lower() not in ("true", "false"):
                raise InputError(key, value, "valid: true, false")
            words.append(f"--{key}" if value.lower() == "true" else f"--no_{key}")
        else:
            words.append(f"--{key}={value}")
    return words


def _one_line(error: argparse.ArgumentError, config_class: type, words: Sequence[str]) -> InputError:
    text = " ".join(str(error).split())
    if found := re.match(r'Parser key "(\w+)": ', text):
        name = found[1]
        value = ""
        for word, after in zip(words, [*words[1:], ""], strict=True):
            if word == f"--{name}":
                value = after
            elif word.startswith(f"--{name}="):
                value = word.split("=", 1)[1]
        kind = next(f.type for f in dataclasses.fields(config_class) if f.name == name)
        words_of = [arg for part in (kind, *get_args(kind)) if get_origin(part) is Literal for arg in get_args(part)]
        return InputError(name, value, f"valid: {_valid(kind)}{nearest(value, words_of)}")
    return InputError("command line", " ".join(words), text)


def _valid(kind: Any) -> str:
    """Say in words what a field's type takes."""
    if get_origin(kind) is Literal:
        return ", ".join(map(repr, get_args(kind)))
    if args := get_args(kind):  # X | None
        return " or ".join("null" if arg is type(None) else _valid(arg) for arg in args)
    if limits := getattr(kind, "_restrictions", None):
        signs = {operator.gt: ">", operator.ge: ">=", operator.lt: "<", operator.le: "<="}
        return f"{kind._type.__name__} " + " and ".join(f"{signs[sign]} {bound}" for sign, bound in limits)
    return getattr(kind, "__name__", str(kind))


def launch(
    main: Callable[[Config], None],
    config_class: type[Config],
    description: str | None,
    argv: Sequence[str] | None = None,
    prog: str | None = None,
) -> None:
    """Run a recipe or command: read its settings, call it, and turn an error into one line.

    The exit code is 2 for what the user can put right, 1 for a failure of the Hub, the network or another process, and 130
    after Ctrl-C. SIGTERM ends the process on the spot, as any signal may: what is finished is kept.
    """
    if int(os.environ.get("LOCAL_WORLD_SIZE", "1")) > 1:
        # Every process uses all cores (see running.machine.start_accelerator): a thread that waits must not spin on
        # another's. Read when torch is loaded, which no recipe does before this line.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        _end_on_interrupt()
    try:
        main(parse(config_class, argv, description, prog))
    except KeyboardInterrupt:
        sys.exit(_interrupted())
    except Exception as error:
        if full := _full_disk(error):
            where = getattr(full, "filename", None) or "the output folder or a cache"
            valid = "free some and run the same command again: finished work is kept"
            sys.exit(_fail(f"disk: no space left for {where}; {valid}"))
        if re.search("gloo/.* by peer|ncclRemoteError", str(error)):
            sys.exit(_fail("the connection to another process broke; look for what that one says", code=1))
        if not isinstance(error, (InputError, HubError)):
            raise
        sys.exit(_fail(str(error), code=2 if isinstance(error, InputError) else 1))


def _fail(message: str, code: int = 2) -> int:
    rank = os.environ.get("RANK", "0")
    print(f"error: {message}" if rank == "0" else f"error on rank {rank}: {message}", file=sys.stderr, flush=True)
    return code


def _full_disk(error: BaseException | None) -> BaseException | None:
    """Return what in a chain of errors is a full disk or a used-up quota, if anything."""
    numbers = errno.ENOSPC, errno.EDQUOT
    in_text = re.compile("os error ({}|{})\\b".format(*numbers))  # of a library in Rust: safetensors, hf_xet
    while error and getattr(error, "errno", None) not in numbers and not in_text.search(str(error)):
        error = error.__cause__ or error.__context__
    return error


def _interrupted() -> int:
    if os.environ.get("RANK", "0") == "0":
        # On a line of its own, behind a progress bar.
        print("\ninterrupted; the same command goes on where it stopped", file=sys.stderr, flush=True)
    return 128 + signal.SIGINT


def _end_on_interrupt() -> None:
    """End this process on Ctrl-C even while it waits for others.

    Python handles signals between two of its own instructions, so not before a barrier is over, and torchrun waits for 30 s
    before it kills. The interpreter's C part, however, writes a signal's number to a socket at once. Nothing is lost by
    `os._exit`: a run may be killed at any moment.
    """
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    signal.set_wakeup_fd(writer.detach())
    signal.signal(signal.SIGINT, lambda *_: None)

    def wait() -> None:
        while reader.recv(1)[0] != signal.SIGINT:
            pass
        os._exit(_interrupted())

    threading.Thread(target=wait, daemon=True).start()
