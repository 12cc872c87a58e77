"""The one way settings are read: dataclass < ``--config`` YAML < command line. `options` holds the dataclasses.

A value means the same in all three and in Python; unknown names are errors everywhere.
"""

import argparse
import dataclasses
import difflib
import inspect
import os
import re
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, NoReturn, Protocol, TypeVar

import yaml

from distill_hub.ending import OUT_OF_MEMORY, drop, end_on_interrupt, fail, interrupted, of_the_machine, tell
from distill_hub.kinds import Kind, local_names
from distill_hub.parsing import read_file, read_yaml
from distill_hub.starter import end_with_starter
from distill_hub.text import LONGEST, adapt_streams, complaint, printable, reason, shortened


class Dataclass(Protocol):
    """What the settings of a recipe or command are."""

    __dataclass_fields__: ClassVar[dict[str, Any]]


Config = TypeVar("Config", bound=Dataclass)
LOADING = "distill-hub: loading torch and diffusers ..."
_SAID = "DISTILL_HUB_LOADING_SAID"  # variable of the environment of what a process starts
_WIDEST = 110  # characters of a line of --help
_YAML_BYTES = 1_000_000


class InputError(ValueError):
    """Something that came from outside cannot be used. One line: the field, its value (None: not given), what is valid."""

    def __init__(self, field: str, value: Any, valid: str):
        self.field, self.value, self.valid = field, value, valid
        super().__init__(complaint(field, value, valid))


@contextmanager
def refusing(errors: tuple[type[Exception], ...], field: str, value: Any, valid: str) -> Iterator[None]:
    """Turn what a reader raises for damaged input into an `InputError` whose line ends in what it said."""
    try:
        yield
    except InputError:
        raise
    except errors as error:
        raise InputError(field, value, f"{valid} ({reason(error)})") from error


class Done(Exception):
    """The work ends here, as it was asked to. One line that says how to go on.

    Args:
        line: As above.
        folder: Of the finished result; None: there is none yet.
    """

    def __init__(self, line: str, folder: Path | None = None):
        super().__init__(line)
        self.folder = folder


class HubError(RuntimeError):
    """The Hub or the network failed. One line that says how to go on; nothing on either side is left half done."""

    def __init__(self, line: str):
        super().__init__(printable(shortened(" ".join(line.split()), LONGEST)))


def nearest(name: str, known: Sequence[str]) -> str:
    """Return ' (did you mean X?)' for the known name closest to `name`, or nothing when none is close.

    Capitals, and dashes in front or in place of '_', make no difference.
    """
    bare = {_bare(one): one for one in known}
    close = difflib.get_close_matches(_bare(name), bare, n=1, cutoff=0.5)
    return f" (did you mean {bare[close[0]]!r}?)" if close else ""


def _bare(name: str) -> str:
    return name[:100].lower().strip("-").replace("-", "_")


def option(default: Any, help: str, *, identity: bool = True, common: bool = False) -> Any:
    """Declare a field with its help text.

    Args:
        default: Its value where nobody sets it.
        help: What it is, and, where the default is None, what that stands for.
        identity: Whether the value changes what a run produces.
        common: Whether it is among what most people set first: ``--help`` shows these, ``--help all`` shows all.
    """
    return dataclasses.field(default=default, metadata={"help": help, "identity": identity, "common": common})


def argument(help: str, default: Any = dataclasses.MISSING) -> Any:
    """Declare a field that is given by its place on the command line, not by name; without a default it is required.

    A field of type ``list[X]`` takes one or more words; with a default, any number.
    """
    metadata = {"help": help, "identity": False, "common": True, "positional": True}
    return dataclasses.field(default=default, metadata=metadata)


def resolved(config: Any) -> dict[str, Any]:
    """Return the settings that decide what a run produces, ready for JSON."""
    return {f.name: getattr(config, f.name) for f in dataclasses.fields(config) if f.metadata.get("identity", True)}


def recorded(config: Any) -> dict[str, Any]:
    """Return the same as it is published: what lies on this machine is called by its name there, without its place."""
    places = {f.name for f in dataclasses.fields(config) if Kind(f.type).is_location}
    settings = resolved(config)
    return {name: local_names(str(value)) if value and name in places else value for name, value in settings.items()}


def options(config: Any, group: type) -> dict[str, Any]:
    """Return one group's settings by name, e.g. ``load_source(config.source, **options(config, SourceOptions))``."""
    return {f.name: getattr(config, f.name) for f in dataclasses.fields(group)}


def words(config: Any, group: type) -> list[str]:
    """Return the words of a command line that give one group's settings, as far as they are not the defaults."""
    given = {f.name: getattr(config, f.name) for f in dataclasses.fields(group) if getattr(config, f.name) != f.default}
    return [word for name, value in given.items() for word in (f"--{name}", str(value))]


def from_values(config_class: type[Config], values: Mapping[str, Any]) -> Config:
    """Build the settings of a recipe or command from what was given by name; the rest are the dataclass's defaults.

    Args:
        config_class: One of the dataclasses of `options`.
        values: Text as on a command line, or Python's own numbers, paths, None and booleans.

    Raises:
        InputError: For an unknown name (the nearest known one is named), a value of the wrong type or range, or a required
            one that is missing.
    """
    fields = {f.name: f for f in dataclasses.fields(config_class)}
    for name in values:
        if name not in fields:
            raise InputError("option", name, f"there is no such option{nearest(str(name), list(fields))}")
    read = {}
    for name, field in fields.items():
        if name not in values:
            if field.default is dataclasses.MISSING:
                raise InputError(name, None, field.metadata["help"])
            continue
        kind, value = Kind(field.type), values[name]
        try:
            several = value if isinstance(value, (list, tuple)) else [value]
            read[name] = [kind.read(one) for one in several] if kind.many else kind.read(value)
        except ValueError:
            raise InputError(name, value, f"valid: {kind.valid}{nearest(str(value), kind.choices)}") from None
    return config_class(**read)


def check_settings(config: Any) -> None:
    """Refuse what can be seen to be wrong before anything heavy is imported; each group of options checks its own.

    Raises:
        InputError: As whatever would use the value would raise it.
    """
    for group in reversed(type(config).__mro__):
        if check := vars(group).get("check_settings"):
            check(config)


def parse(
    config_class: type[Config],
    argv: Sequence[str] | None = None,
    description: str | None = None,
    prog: str | None = None,
    *,
    printed_class: type[Dataclass] | None = None,
    configs: Path | None = None,
) -> Config:
    """Read the settings of a recipe or command. ``--help`` and ``--print_config`` print and exit.

    Args:
        config_class: One of the dataclasses of `options`.
        argv: Command line without the program name; default ``sys.argv[1:]``.
        description: Text of ``--help`` above the options.
        prog: Name of the program in ``--help``; default: the script's.
        printed_class: A base of `config_class`, whose options alone ``--print_config`` prints; default: all.
        configs: Where the file of ``--config`` is looked for when it is not there as given.

    Raises:
        InputError: See `from_values`; or for a YAML file that cannot be read.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    for place, word in enumerate(argv):
        if word in ("-h", "--help", "--help=all"):
            full = "all" in (word.partition("=")[2], *argv[place + 1 : place + 2])
            _parser(config_class, prog, description, full=full).print_help()
            sys.exit()
    named = [f for f in dataclasses.fields(config_class) if not f.metadata.get("positional")]
    flags = [f"--{name}" for f in named for name in (f.name, *[f"no_{f.name}"] * (f.type is bool))]
    known = [*flags, "--config", "--print_config"]
    for word in argv:
        if re.match("-[^0-9.]", word) and word.split("=")[0] not in known:
            valid = f"there is no such option{nearest(word.split('=')[0], flags)}; see --help all"
            raise InputError("command line", word, valid)
    try:
        parsed, more = _parser(config_class, prog).parse_known_intermixed_args(argv)
    except argparse.ArgumentError as error:
        raise InputError("command line", " ".join(argv), str(error)) from None
    if more:
        name = more[0].split("=")[0]
        meant = f" (did you mean '--{name}'?)" if f"--{name}" in flags else ""
        valid = f"nothing is expected in its place{meant}; see --help"
        raise InputError("command line", more[0], valid)
    given = vars(parsed)
    files, printed = given.pop("config", []), given.pop("print_config", False)
    values: dict[str, Any] = {}
    for file in files:
        if configs and not Path(file).exists() and (configs / file).exists():
            file = str(configs / file)
        values |= _read_yaml(file, [f.name for f in named])
    config = from_values(config_class, {**values, **given})
    if printed:
        printable = {f.name for f in dataclasses.fields(printed_class or config_class)}
        content = {f.name: _plain(getattr(config, f.name)) for f in named if f.name in printable}
        print(yaml.safe_dump(content, sort_keys=False), end="")
        sys.exit()
    return config


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value


def _read_yaml(file: str, known: Sequence[str]) -> dict[str, Any]:
    with refusing((OSError, ValueError), "config", file, "a readable YAML file is needed"):
        content = read_yaml(read_file(os.path.expanduser(file), _YAML_BYTES).decode(), yaml.BaseLoader)
    if not isinstance(content, dict):
        raise InputError("config", file, "the file must hold 'option: value' lines")
    for key in content:
        if key not in known:
            raise InputError(f"config {file}", key, f"there is no such option{nearest(str(key), known)}; see --help all")
    return content


class _Parser(argparse.ArgumentParser):
    """Splits a command line into names and their text; what these must be, `from_values` says."""

    def error(self, message: str) -> NoReturn:
        raise argparse.ArgumentError(None, message)


def _parser(config_class: type, prog: str | None, description: str | None = None, *, full: bool = False) -> _Parser:
    width = max(20, min(shutil.get_terminal_size().columns, _WIDEST) - 2)
    fields = {f.name: f for f in dataclasses.fields(config_class)}
    places = [
        f.name if f.default is dataclasses.MISSING else f"[{f.name}]"
        for f in fields.values()
        if f.metadata.get("positional")
    ]
    rest = f"These are the options that most people set first; --help all shows all {len(fields)}."
    parser = _Parser(
        prog=prog,
        usage=" ".join(["%(prog)s", *places, "[options]"]),
        description=_filled(description or "", width),
        epilog=None if full or all(f.metadata["common"] for f in fields.values()) else rest,
        formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(prog, max_help_position=28, width=width),
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
        add_help=False,
    )
    group = parser.add_argument_group("How to set options")
    group.add_argument("-h", "--help", nargs="?", metavar="all", help="what most people set first; all: everything")
    group.add_argument("--config", action="append", metavar="PATH", help="YAML file of options; the command line wins")
    group.add_argument(
        "--print_config", action="store_true", help="print all options as such a file" if full else argparse.SUPPRESS
    )
    # One group per class, in the order a run meets them; the method's own options come last, where a terminal shows them.
    for owner in [c for c in reversed(config_class.__mro__) if dataclasses.is_dataclass(c)]:
        group = parser.add_argument_group(textwrap.fill((owner.__doc__ or "").rstrip("."), width))
        # An option that a recipe gives another default stays in the group that it comes from.
        for f in [fields.pop(name) for name in owner.__annotations__ if name in fields]:
            kind, help = Kind(f.type), f.metadata["help"].replace("%", "%%")
            if not any(f.default is nothing for nothing in (None, False, (), dataclasses.MISSING)):
                help = f"{help} (default: {f.default})"
            if not full and not f.metadata["common"]:
                help = argparse.SUPPRESS
            if f.metadata.get("positional"):
                group.add_argument(f.name, nargs="*" if kind.many else "?", help=help)
            elif f.type is bool:
                group.add_argument(f"--{f.name}", action="store_true", help=help)
                group.add_argument(f"--no_{f.name}", action="store_false", dest=f.name, help=argparse.SUPPRESS)
            else:
                group.add_argument(f"--{f.name}", metavar=kind.placeholder, help=help)
    return parser


def _filled(text: str, width: int) -> str:
    """Fill paragraphs to a width, and leave indented ones, which are examples, as they are."""
    paragraphs = inspect.cleandoc(text).split("\n\n")
    return "\n\n".join(p if p.startswith(" ") else textwrap.fill(" ".join(p.split()), width) for p in paragraphs)


def launch(
    main: Callable[[Config], object],
    config_class: type[Config],
    description: str | None,
    argv: Sequence[str] | None = None,
    *,
    light: bool = False,
    **how: Any,
) -> None:
    """Run a recipe or command: read and check its settings, call it, and turn an error into one line.

    One line says that heavy imports begin, unless it is `light`: it has none, or says so itself. The rest is as in `parse`.

    The exit code is 2 for what the user can put right, 1 for a failure of the Hub, the network or another process, and 130
    after Ctrl-C. SIGTERM ends the process on the spot, as any signal may: what is finished is kept. A process that another
    one started ends with that, see `starter`.
    """
    say = _prepare_process()
    try:
        config = parse(config_class, argv, description, **how)
        check_settings(config)
        if not light:
            say_loading()
        try:
            main(config)
        except Done as done:
            if os.environ.get("RANK", "0") == "0":
                print(done)
        sys.stdout.flush()
    except KeyboardInterrupt:
        sys.exit(interrupted(say=say))
    except BrokenPipeError:  # nobody reads the output any more, as behind `| head`; connections have errors of their own
        drop(sys.stdout)
        sys.exit(1)
    except Exception as error:
        drop(sys.stdout)
        if (code := _say(error)) is None:
            raise
        sys.exit(code)


def _prepare_process() -> bool:
    """Set what libraries read when they are loaded, and how signals end this process; return whether it says so itself."""
    adapt_streams()
    say = not end_with_starter()
    if int(os.environ.get("LOCAL_WORLD_SIZE", "1")) > 1:
        # Every process uses all cores (running.machine.start_accelerator): a thread that waits must not spin on another's.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if not sys.stderr.isatty():  # the bars of libraries move the cursor, which a log file has not; ours write lines there
        os.environ.setdefault("TQDM_DISABLE", "1")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        end_on_interrupt(say=say)
    return say


def _say(error: Exception) -> int | None:
    """Say in one line why a command fails; return the exit code, None for what nobody foresaw."""
    if line := of_the_machine(error):
        return fail(line)
    if re.search("gloo/.* by peer|ncclRemoteError", str(error)):
        lost = "the connection to another process broke; look for what that one says. One that was killed says nothing"
        return fail(f"{lost}: {OUT_OF_MEMORY}", code=1)
    if isinstance(error, (InputError, HubError)):
        return fail(str(error), code=2 if isinstance(error, InputError) else 1)
    return None


def say_loading() -> None:
    """Say that what takes seconds to load is about to be, if it is: once, also where one process starts others."""
    if "torch" not in sys.modules and os.environ.get("RANK", "0") == "0" and _SAID not in os.environ:
        os.environ[_SAID] = "true"
        tell(LOADING)
