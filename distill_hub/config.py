"""Settings of every recipe, and the one way they are read: dataclass < ``--config`` YAML < command line.

Each recipe has one frozen dataclass. Shared groups of options are mixins, so that ``--help`` shows them under one heading
in every recipe. Unknown keys are errors, in the YAML file as on the command line.
"""

import argparse
import dataclasses
import difflib
import errno
import operator
import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

import yaml
from jsonargparse import ActionYesNo, ArgumentParser
from jsonargparse.typing import ClosedUnitInterval, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from safetensors import SafetensorError

Config = TypeVar("Config")


class InputError(ValueError):
    """Something that came from outside cannot be used. One line: the field, its value, what would be valid."""

    def __init__(self, field: str, value: Any, valid: str):
        self.field, self.value = field, value
        super().__init__(" ".join(f"{field}: {value!r} cannot be used; {valid}".split()))


def nearest(name: str, known: Sequence[str]) -> str:
    """Return ' (did you mean X?)' for the known name closest to `name`, or nothing when none is close."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else ""


def option(default: Any, help: str, *, identity: bool = True) -> Any:
    """Declare a field with its help text. ``identity=False``: the value does not change what a run produces."""
    return dataclasses.field(default=default, metadata={"help": help, "identity": identity})


@dataclass(frozen=True)
class SourceOptions:
    """Source: the real images."""

    source: str = option("digits", "a known name (digits, cifar10, imagewoof, ...), a Hub dataset id, or a local folder")
    source_revision: str | None = option(None, "branch, tag or commit of the Hub dataset")
    image_column: str | None = option(None, "image column, when it cannot be detected")
    label_column: str | None = option(None, "label column, when it cannot be detected")
    test_split: str | None = option(None, "name of the test split, when it cannot be detected")
    test_fraction: ClosedUnitInterval = option(
        0.0, "hold out this share of the training split (seeded) when there is no test split"
    )


@dataclass(frozen=True)
class GeneratorFitOptions:
    """Fitting a small generator: used when no pretrained one is named or known for the source."""

    fit_image_size: PositiveInt | None = option(None, "side of the square images in pixels; detected when all agree")
    fit_vae_steps: PositiveInt = option(300, "optimiser steps of the autoencoder")
    fit_dit_steps: PositiveInt = option(3000, "optimiser steps of the diffusion transformer")
    fit_batch_size: PositiveInt = option(32, "images per optimiser step")
    fit_dit_width: PositiveInt = option(96, "width of the diffusion transformer, a multiple of 32")
    fit_dit_layers: PositiveInt = option(4, "blocks of the diffusion transformer")
    fit_vae_width: PositiveInt = option(16, "channels of the autoencoder's first level")
    fit_seed: NonNegativeInt = option(0, "seed of the fits of generator and teacher")


@dataclass(frozen=True)
class GeneratorOptions:
    """Generator: the class-conditional DiT that draws the candidates."""

    generator: str = option(
        "auto",
        "Hub id or folder in the DiTPipeline layout; auto: facebook/DiT-XL-2-256 for ImageNet, else fit a small one",
    )
    generator_revision: str | None = option(None, "branch, tag or commit of the generator on the Hub")
    scheduler: Literal["ddpm", "ddim", "dpm-solver++"] = option("ddpm", "sampler")
    sample_steps: PositiveInt = option(50, "denoising steps per sample")
    guidance_scale: NonNegativeFloat = option(2.7, "classifier-free guidance, as in CaO2's code; 1 switches it off")


@dataclass(frozen=True)
class TeacherOptions:
    """Teacher: the classifier that selects and writes the soft labels."""

    teacher: str = option(
        "auto",
        "timm/NAME, a transformers Hub id, or a folder; auto: timm/resnet18.tv_in1k for ImageNet, else fit a ConvNet",
    )
    teacher_revision: str | None = option(None, "branch, tag or commit of the teacher on the Hub")
    teacher_epochs: PositiveInt | None = option(None, "epochs when the teacher is fitted; default by size of the source")


@dataclass(frozen=True)
class EvaluationOptions:
    """Evaluation: students trained on the set and on its baselines."""

    protocol: Literal["quick"] = option("quick", "how the students are trained")
    student: str = option("auto", "student network; auto: ConvNet with the depth that suits the image size")
    repeats: PositiveInt = option(3, "students per set, with seeds seed, seed+1, ...")


@dataclass(frozen=True)
class OutputOptions:
    """Output."""

    output_dir: Path | None = option(
        None, "folder of the artifact; default outputs/<source>-ipc<IPC>-<method>", identity=False
    )
    image_format: Literal["png", "webp"] = option("png", "lossless encoding of the published images")
    overwrite: bool = option(False, "start afresh when the folder holds another run", identity=False)


@dataclass(frozen=True)
class DitConfig(OutputOptions, EvaluationOptions, TeacherOptions, GeneratorFitOptions, GeneratorOptions, SourceOptions):
    """Distillation: plain samples of a class-conditional diffusion transformer."""

    ipc: PositiveInt = option(10, "images per class")
    seed: NonNegativeInt = option(0, "seed of every random draw")
    sample_batch_size: PositiveInt = option(64, "samples per chunk of work, across classes")


@dataclass(frozen=True)
class Cao2Config(DitConfig):
    """CaO2: objective-guided selection, then condition-aware latent optimisation."""

    pool_factor: PositiveInt = option(4, "pool of pool_factor * IPC candidates per class (paper: 4 ImageWoof, 2 elsewhere)")
    order: Literal["auto", "most_confident", "least_confident"] = option(
        "auto", "which correct candidates to keep; auto: most confident below IPC 50, least confident from 50 on"
    )
    fill: Literal["random", "most_confident"] = option(
        "random", "how a class short of correct candidates is filled (paper: random; released code: most_confident)"
    )
    condition: Literal["true", "null"] = option(
        "true",
        "condition of the optimisation: the class (easy tasks) or the null class (ImageWoof, ImageNet-1K), Eq. 5",
    )
    regularization: Literal["linf", "l1", "l2", "none"] = option("linf", "norm in Eq. 4")
    regularization_weight: NonNegativeFloat = option(10.0, "lambda in Eq. 4")
    max_timestep_fraction: ClosedUnitInterval = option(0.25, "timesteps are drawn from [1, fraction * T)")
    refine_steps: NonNegativeInt = option(100, "optimiser steps per image; 0 skips the stage")
    refine_learning_rate: PositiveFloat = option(6e-4, "Adam learning rate on the latents")
    refine_batch_size: PositiveInt = option(64, "latents per chunk of work, across classes")


@dataclass(frozen=True)
class FitGeneratorConfig(GeneratorFitOptions, SourceOptions):
    """Output."""

    output_dir: Path | None = option(None, "folder of the pipeline; default: the user cache", identity=False)
    overwrite: bool = option(False, "fit again when the folder is not empty", identity=False)


def resolved(config: Any) -> dict[str, Any]:
    """Return the settings that decide what a run produces, ready for JSON."""
    return {f.name: getattr(config, f.name) for f in dataclasses.fields(config) if f.metadata.get("identity", True)}


def options(config: Any, group: type) -> dict[str, Any]:
    """Return one group's settings by name, e.g. ``load_source(config.source, **options(config, SourceOptions))``."""
    return {f.name: getattr(config, f.name) for f in dataclasses.fields(group)}


def _parser(config_class: type, description: str | None) -> ArgumentParser:
    parser = ArgumentParser(description=description, exit_on_error=False, allow_abbrev=False)
    parser.add_argument("--config", action="config", help="YAML file of the options below; the command line wins")
    # One group per class, in the order a run meets them; the method's own options come last, where a terminal shows them.
    for owner in [c for c in reversed(config_class.__mro__) if dataclasses.is_dataclass(c)]:
        own = [f for f in dataclasses.fields(owner) if f.name in owner.__annotations__]
        group = parser.add_argument_group(owner.__doc__.rstrip("."))
        for f in own:
            kind = {"action": ActionYesNo} if f.type is bool else {"type": f.type}
            group.add_argument(f"--{f.name}", default=f.default, help=f.metadata["help"], **kind)
    return parser


def parse(config_class: type[Config], argv: Sequence[str] | None = None, description: str | None = None) -> Config:
    """Read a recipe's settings.

    Args:
        config_class: One of the dataclasses above.
        argv: Command line without the program name; default ``sys.argv[1:]``.
        description: Text of ``--help`` above the options.

    Raises:
        InputError: For an unknown key (the nearest known one is named) or a value of the wrong type or range.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    known = [f.name for f in dataclasses.fields(config_class)]
    flags = [*known, *(f"no_{f.name}" for f in dataclasses.fields(config_class) if f.type is bool)]
    for token in argv:
        name = token.removeprefix("--").split("=")[0]
        if token.startswith("--") and name not in [*flags, "config", "print_config", "help"]:
            raise InputError("command line", token, f"there is no option --{name}{nearest(name, flags)}; see --help")
    # Words of the files come first, wherever --config stands: the later word wins, and that must be the command line.
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    finder.add_argument("--config", action="append", default=[])
    parser = _parser(config_class, description)
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
        return InputError(name, value, f"valid: {_valid(kind)}")
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


def launch(main: Callable[[Config], None], config_class: type[Config], description: str | None) -> None:
    """Run a recipe: read its settings, call it, and turn errors of input into one line and exit code 2."""
    if int(os.environ.get("LOCAL_WORLD_SIZE", "1")) > 1:
        # Every process uses all cores (see run.start_accelerator): a thread that waits must not spin on another's core. Read
        # when torch is loaded, which no recipe does before this line.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        main(parse(config_class, description=description))
    except InputError as error:
        sys.exit(_fail(str(error)))
    except (OSError, SafetensorError) as error:
        # safetensors gives the number of an I/O error in its text alone.
        if getattr(error, "errno", None) != errno.ENOSPC and f"os error {errno.ENOSPC}" not in str(error):
            raise
        where = getattr(error, "filename", None) or "a file of a fitted model"
        sys.exit(_fail(f"disk: no space left for {where}; free some and run the same command again: finished work is kept"))


def _fail(message: str) -> int:
    rank = os.environ.get("RANK", "0")
    print(f"error: {message}" if rank == "0" else f"error on rank {rank}: {message}", file=sys.stderr, flush=True)
    return 2
