import dataclasses
import errno
import importlib
import math
import os
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import distill_hub.options
from distill_hub.config import LOADING, InputError, from_values, launch, options, parse, resolved, words
from distill_hub.options.cao2 import Cao2Config
from distill_hub.options.commands import CompareConfig, InfoConfig, PushConfig
from distill_hub.options.fit_generator import FitGeneratorConfig
from distill_hub.options.minimax import MinimaxConfig
from distill_hub.options.plain import PlainConfig
from distill_hub.options.shared import SourceOptions

RECIPES = Path(__file__).parents[1] / "recipes"
MODULES = [f"distill_hub.options.{module.name}" for module in pkgutil.iter_modules(distill_hub.options.__path__)]
CONFIGS = {c for m in MODULES for c in vars(importlib.import_module(m)).values() if dataclasses.is_dataclass(c)}


@pytest.fixture
def yaml_file(tmp_path):
    def write(text):
        path = tmp_path / "config.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return str(path)

    return write


def refused(argv):
    with pytest.raises(InputError) as caught:
        parse(Cao2Config, argv)
    assert "\n" not in str(caught.value)
    return caught.value


# Where a setting comes from.


@pytest.mark.parametrize(
    "order",
    [
        ["--config", "FILE", "--ipc", "3"],
        ["--ipc", "3", "--config", "FILE"],
        ["--ipc=3", "--config=FILE"],
        ["--config=FILE", "--ipc=3"],
    ],
)
def test_the_command_line_wins_over_yaml_and_yaml_over_the_dataclass_in_any_order(yaml_file, order):
    file = yaml_file("ipc: 7\nseed: 5\n")
    config = parse(Cao2Config, [word.replace("FILE", file) for word in order])
    assert (config.ipc, config.seed, config.pool_factor) == (3, 5, 4)


def test_of_two_yaml_files_the_later_wins(tmp_path):
    (tmp_path / "a.yaml").write_text("ipc: 7\nseed: 5\n")
    (tmp_path / "b.yaml").write_text("ipc: 8\n")
    config = parse(Cao2Config, ["--config", str(tmp_path / "a.yaml"), "--config", str(tmp_path / "b.yaml")])
    assert (config.ipc, config.seed) == (8, 5)


def test_without_words_the_dataclass_counts():
    assert parse(Cao2Config, []) == Cao2Config()
    assert parse(PlainConfig, []) == PlainConfig()
    assert parse(FitGeneratorConfig, []) == FitGeneratorConfig()


def test_values_get_the_type_of_their_field():
    config = parse(Cao2Config, ["--output_dir", "a/b", "--refine_learning_rate", "1e-3", "--teacher_epochs", "4"])
    assert config.output_dir == Path("a/b")
    assert config.refine_learning_rate == 1e-3
    assert config.teacher_epochs == 4


@pytest.mark.parametrize("text", ["true", "null"])
def test_the_condition_reads_the_same_in_yaml_and_on_the_command_line(yaml_file, text):
    assert parse(Cao2Config, ["--condition", text]).condition == text
    assert parse(Cao2Config, ["--config", yaml_file(f"condition: {text}")]).condition == text


# Booleans.


@pytest.mark.parametrize(
    ("yaml", "argv", "expected"),
    [
        (None, [], False),
        (None, ["--overwrite"], True),
        (None, ["--no_overwrite"], False),
        ("overwrite: true", [], True),
        ("overwrite: false", ["--overwrite"], True),
        ("overwrite: true", ["--no_overwrite"], False),
    ],
)
def test_booleans(yaml_file, yaml, argv, expected):
    file = ["--config", yaml_file(yaml)] if yaml else []
    assert parse(Cao2Config, argv + file).overwrite is expected


@pytest.mark.parametrize("argv", [["--overwrite", "maybe"], ["--overwrite=maybe"], ["--no_ipc"]])
def test_a_boolean_takes_no_value_and_a_number_no_negation(argv):
    assert argv[-1].removeprefix("--overwrite=") in str(refused(argv))


# Unknown keys.


@pytest.mark.parametrize(
    ("token", "near"),
    [
        ("--ipcs", "--ipc"),
        ("--pool_facter=3", "--pool_factor"),
        ("--nooverwrite", "--no_overwrite"),
        ("--icp", "--ipc"),
        ("-ipc", "--ipc"),
        ("--IPC", "--ipc"),
        ("ipc=5", "--ipc"),
        ("ipc", "--ipc"),
        ("--output-dir", "--output_dir"),
        ("-output-dir=x", "--output_dir"),
    ],
)
def test_an_unknown_option_names_the_nearest(token, near):
    error = refused([token, "3"])
    assert token in str(error) and f"did you mean '{near}'?" in str(error)


def test_an_option_like_nothing_has_no_suggestion():
    error = refused(["--qqqqqqqq", "3"])
    assert "--qqqqqqqq" in str(error) and "did you mean" not in str(error)


def test_abbreviations_are_not_options():
    assert "--refine_st" in str(refused(["--refine_st", "3"]))


def test_an_option_of_another_recipe_is_unknown():
    with pytest.raises(InputError, match="--pool_factor"):
        parse(PlainConfig, ["--pool_factor", "3"])


@pytest.mark.parametrize("argv", [["stray"], ["--ipc", "3", "4"], ["-x"]])
def test_stray_words_are_refused(argv):
    assert argv[-1] in str(refused(argv))


def test_an_unknown_yaml_key_names_file_and_nearest(yaml_file):
    file = yaml_file("ipc: 3\nrefine_step: 3\n")
    error = refused(["--config", file])
    assert all(part in str(error) for part in (file, "'refine_step'", "did you mean 'refine_steps'?"))


@pytest.mark.parametrize("key", ["config", "no_overwrite", "help", "print_config", "1"])
def test_yaml_holds_options_only(yaml_file, key):
    assert key in str(refused(["--config", yaml_file(f"{key}: 1")]))


# Wrong types and ranges: (field, value as typed, what the message must say is valid).
WRONG = [
    ("ipc", "0", r"PositiveInt|> ?0"),
    ("ipc", "-1", r"PositiveInt|> ?0"),
    ("ipc", "x", r"PositiveInt|int"),
    ("ipc", "2.5", r"PositiveInt|int"),
    ("seed", "-1", r"NonNegativeInt|>= ?0"),
    ("order", "foo", r"'auto', 'most_confident', 'least_confident'"),
    ("image_format", "jpg", r"'png', 'webp'"),
    ("regularization_weight", "-1", r"NonNegativeFloat|>= ?0"),
    ("guidance_scale", "-0.5", r"NonNegativeFloat|>= ?0"),
    ("refine_learning_rate", "0", r"PositiveFloat|> ?0"),
    ("test_fraction", "1.5", r"<= ?1"),
    ("test_fraction", "-0.1", r">= ?0"),
    ("max_timestep_fraction", "1.01", r"<= ?1"),
    ("fit_image_size", "0", r"PositiveInt|> ?0"),
    ("teacher_epochs", "x", r"PositiveInt|int"),
]


def assert_names(error, field, value, valid):
    text = str(error)
    assert error.field == field
    assert text.startswith(f"{field}: ") and value in text.split(";")[0].lower()
    assert re.search(valid, text.split(";", 1)[1]), text
    assert "Parser key" not in text and "Errors:" not in text


@pytest.mark.parametrize(("field", "value", "valid"), WRONG)
def test_a_wrong_value_on_the_command_line_is_one_line_with_field_value_and_what_is_valid(field, value, valid):
    assert_names(refused([f"--{field}={value}"]), field, value, valid)


@pytest.mark.parametrize(
    ("field", "value", "valid"),
    [*WRONG, ("ipc", "true", "PositiveInt|int"), ("overwrite", "maybe", "(?i)true|bool|yes")],
)
def test_a_wrong_value_in_yaml_is_one_line_with_field_value_and_what_is_valid(yaml_file, field, value, valid):
    assert_names(refused(["--config", yaml_file(f"{field}: {value}")]), field, value, valid)


@pytest.mark.parametrize(
    ("field", "text"), [("ipc", "[1, 2]"), ("ipc", "null"), ("ipc", ""), ("seed", "{a: 1}"), ("source", "[a]")]
)
def test_yaml_takes_one_value_per_option(yaml_file, field, text):
    assert refused(["--config", yaml_file(f"{field}: {text}")]).field == field


@pytest.mark.parametrize("argv", [["--ipc"], ["--ipc="], ["--output_dir"], ["--config"], ["--ipc", "3", "--config"]])
def test_an_option_without_its_value_is_refused(argv, capsys):
    assert argv[-1].strip("-=") in str(refused(argv))
    assert capsys.readouterr() == ("", "")


# YAML files.


def test_a_missing_yaml_file(tmp_path):
    path = str(tmp_path / "none.yaml")
    error = refused(["--config", path])
    assert error.field == "config" and path in str(error)


@pytest.mark.parametrize("text", ["", "ipc 3", "- ipc", "3"])
def test_yaml_that_is_not_a_mapping(yaml_file, text):
    error = refused(["--config", yaml_file(text)])
    assert error.field == "config" and "option: value" in str(error)


@pytest.mark.parametrize(
    "text", ["ipc: [", "ipc: 3\n  seed: 4", b"source: \xff\xfe", "[" * 20_000, "!!python/object/apply:os.getcwd []"]
)
def test_broken_yaml(yaml_file, text):
    file = yaml_file(text)
    error = refused(["--config", file])
    assert error.field == "config" and file in str(error)


# What is declared.


def test_every_field_has_help_and_every_group_a_title():
    assert {Cao2Config, PlainConfig, FitGeneratorConfig} <= CONFIGS
    for config in CONFIGS:
        assert config.__doc__ and "\n" not in config.__doc__, config
        for field in dataclasses.fields(config):
            assert field.metadata.get("help", "").strip(), f"{config.__name__}.{field.name}"


def test_the_words_of_a_group_are_what_is_not_the_default():
    """A next step on own photos without their --test_fraction would be refused."""
    config = from_values(Cao2Config, {"source": "my photos", "test_fraction": 0.2, "ipc": 3})
    assert words(config, SourceOptions) == ["--source", "my photos", "--test_fraction", "0.2"]
    assert words(from_values(Cao2Config, {}), SourceOptions) == []


def test_resolved_settings_leave_out_what_does_not_change_the_result():
    config = dataclasses.replace(Cao2Config(), output_dir=Path("x"), overwrite=True, ipc=3)
    settings = resolved(config)
    left_out = {"output_dir", "overwrite", "dry_run", "push_to_hub", "private", "gated", "join", "stage", "score"}
    left_out |= {"keep_run", "log_with"}
    assert {f.name for f in dataclasses.fields(Cao2Config)} - settings.keys() == left_out
    assert settings["ipc"] == 3


def test_options_of_a_group():
    config = dataclasses.replace(Cao2Config(), source="cifar10", test_fraction=0.5)
    assert options(config, SourceOptions) == {
        "source": "cifar10",
        "source_revision": None,
        "source_config": None,
        "image_column": None,
        "label_column": None,
        "train_split": None,
        "test_split": None,
        "test_fraction": 0.5,
        "mirrored": None,
        "normalization": None,
    }


def helped(recipe, *words, width):
    environment = {**os.environ, "COLUMNS": str(width)}
    done = subprocess.run([sys.executable, RECIPES / recipe, *words], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return done


def test_help_of_a_recipe_shows_every_option_under_its_group():
    done = helped("cao2.py", "--ipc", "3", "--help", "all", width=120)
    assert "distill-hub make cao2 --source imagewoof" in done.stdout
    groups = [c for c in Cao2Config.__mro__[::-1] if dataclasses.is_dataclass(c)]
    places = [done.stdout.index(f"\n{c.__doc__.rstrip('.')}:\n") for c in groups] + [len(done.stdout)]
    assert places == sorted(places)
    for group, start, end in zip(groups, places, places[1:], strict=False):
        for name in group.__annotations__:
            assert f"--{name}" in done.stdout[start:end], name


@pytest.mark.parametrize("words", [["--help"], ["-h"], ["--ipc", "3", "--help"], ["--help", "--ipc", "0"]])
def test_help_is_what_most_people_set_first(words, capsys):
    with pytest.raises(SystemExit) as stop:
        parse(Cao2Config, words, "Some text.")
    assert not stop.value.code
    shown = set(re.findall(r"^  --(\w+)", capsys.readouterr().out, re.MULTILINE))
    assert {"source", "ipc", "generator", "teacher", "protocol", "students", "repeats", "seed", "config"} <= shown
    assert {"output_dir", "push_to_hub", "dry_run", "pool_factor", "condition", "refine_steps"} <= shown
    assert not {"no_overwrite", "print_config", "sample_batch_size", "label_column"} & shown
    assert len(shown) <= 20


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("words", [["--help"], ["--help", "all"]])
def test_help_fits_the_terminal_and_speaks_to_people(words, width):
    done = helped("cao2.py", *words, width=width)
    lines = [line for line in done.stdout.splitlines() if "distill-hub make cao2" not in line]  # examples stand as they are
    assert max(map(len, lines)) <= width
    assert not re.search(r"PositiveInt|NonNegative|Annotated|None|\| null", done.stdout)
    assert re.search(r"^  --ipc N +images per class \(default: 10\)$", done.stdout, re.MULTILINE)
    assert re.search(r"^  --seed N +seed of every random draw \(default: 0\)$", done.stdout, re.MULTILINE)
    assert "--condition {true,null} " in done.stdout and "--output_dir PATH " in done.stdout
    count = len(dataclasses.fields(Cao2Config))
    assert (f"--help all shows all {count}." in done.stdout) == (words == ["--help"])


def test_a_command_with_few_options_shows_all_of_them(capsys):
    with pytest.raises(SystemExit):
        parse(PushConfig, ["--help"], "Some text.")
    out = capsys.readouterr().out
    assert all(re.search(rf"^  (--)?{f.name} ", out, re.MULTILINE) for f in dataclasses.fields(PushConfig))
    assert "--help all" not in out


def test_a_default_that_a_recipe_changes_stays_where_it_comes_from(capsys):
    with pytest.raises(SystemExit):
        parse(MinimaxConfig, ["--help", "all"], "Some text.")
    group = capsys.readouterr().out.split("\nGenerator: ")[1].split("\n\n")[0]
    assert "--guidance_scale X" in group and "(default: 4.0)" in " ".join(group.split())


def test_printed_settings_are_read_again(tmp_path, capsys):
    words = ["--ipc", "3", "--condition", "null", "--output_dir", "a/b", "--overwrite", "--refine_learning_rate", "1e-5"]
    with pytest.raises(SystemExit) as stop:
        parse(Cao2Config, [*words, "--print_config"])
    assert not stop.value.code
    (tmp_path / "printed.yaml").write_text(capsys.readouterr().out)
    assert parse(Cao2Config, ["--config", str(tmp_path / "printed.yaml")]) == parse(Cao2Config, words) != Cao2Config()


# Words without a name.


@pytest.mark.parametrize("words", [["a", "b", "--private"], ["a", "--private", "b"], ["--private", "a", "b"]])
def test_words_without_a_name_may_stand_anywhere(words):
    assert parse(PushConfig, words) == PushConfig("a", "b", private=True)
    assert parse(PushConfig, ["a"]) == PushConfig("a", "auto")


def test_a_missing_word_is_said_in_words():
    with pytest.raises(InputError, match=r"^location: needed; a distilled set"):
        parse(InfoConfig, [])


def test_a_list_takes_several_words():
    assert parse(CompareConfig, ["a", "--html", "x.html", "b"]).locations == ["a", "b"]
    assert from_values(CompareConfig, {"locations": ["a", Path("b")]}).locations == ["a", "b"]
    assert from_values(CompareConfig, {"locations": "ab"}).locations == ["ab"]


# From Python.


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        *[("ipc", 3, 3), ("ipc", "3", 3), ("output_dir", Path("a"), Path("a")), ("output_dir", "a", Path("a"))],
        *[("output_dir", None, None), ("teacher_epochs", None, None), ("overwrite", True, True), ("compile", False, False)],
        *[("guidance_scale", 2, 2.0), ("guidance_scale", 0.1 + 0.2, 0.1 + 0.2), ("source", Path("a/b"), "a/b")],
        *[("condition", "null", "null"), ("ipc", np.int64(3), 3)],
    ],
)
def test_values_of_python_mean_what_they_mean_on_the_command_line(name, value, expected):
    config = from_values(Cao2Config, {name: value})
    assert (getattr(config, name), type(getattr(config, name))) == (expected, type(expected))
    assert config == dataclasses.replace(Cao2Config(), **{name: expected})


@pytest.mark.parametrize(
    ("name", "value", "valid"),
    [
        *[("ipc", True, "> 0"), ("ipc", 2.5, "integer"), ("ipc", 0, "> 0"), ("ipc", None, "integer"), ("ipc", [1], "> 0")],
        *[
            ("overwrite", 1, "'true', 'false'"),
            ("compile", None, "'true'"),
            ("source", None, "word"),
            ("source", "", "word"),
        ],
        *[("condition", None, "'null'"), ("order", "least", "did you mean 'least_confident'"), ("source", ["a"], "word")],
        *[("guidance_scale", math.nan, ">= 0"), ("guidance_scale", math.inf, "finite"), ("test_fraction", 2, "<= 1")],
    ],
)
def test_a_wrong_value_of_python_is_refused_as_one_of_the_command_line(name, value, valid):
    with pytest.raises(InputError) as caught:
        from_values(Cao2Config, {name: value})
    said = "needed" if value is None else f"{value!r} cannot be used"
    assert caught.value.field == name and valid in str(caught.value)
    assert str(caught.value).startswith(f"{name}: {said}; ")


def test_an_unknown_name_of_python_gives_the_nearest():
    with pytest.raises(InputError, match=r"^option: 'pool_facter' cannot be used; .* .did you mean 'pool_factor'"):
        from_values(Cao2Config, {"pool_facter": 3})


# What is light.

HEAVY = {"torch", "torchvision", "datasets", "diffusers", "transformers", "timm", "accelerate", "numpy", "huggingface_hub"}


def test_options_import_nothing_heavy():
    code = f"import sys, {', '.join(MODULES)}; print({HEAVY} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "set()\n"), done.stderr
    assert len(MODULES) >= 14


def test_importing_the_package_imports_no_heavy_library():
    code = "import sys, distill_hub; print({'torch', 'datasets', 'diffusers', 'transformers'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "set()\n"), done.stderr


# launch.


def test_one_line_is_printed_before_long_imports():
    code = "import sys; from distill_hub.config import launch; from distill_hub.options.plain import PlainConfig; "
    code += "launch(lambda config: print('main', file=sys.stderr), PlainConfig, '', [{}], light={})"

    def printed(words, light, **environment):
        command = [sys.executable, "-c", code.format(words, light)]
        return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment}).stderr.splitlines()

    assert printed("", False) == [LOADING, "main"]
    assert printed("", True) == ["main"]
    assert printed("", False, RANK="1") == ["main"]
    once = "from distill_hub.config import say_loading; say_loading()"
    again = f"{once}; say_loading(); import subprocess, sys; subprocess.run([sys.executable, '-c', {once!r}], check=True)"
    done = subprocess.run([sys.executable, "-c", again], capture_output=True, text=True, check=True)
    assert done.stderr.splitlines() == [LOADING], "a process says it once, and for those that it starts"
    (line,) = printed("'--ipc=0'", False)
    assert line.startswith("error: ipc")
    (line,) = printed("'--source=imagewof'", False)
    assert line.startswith("error: source: 'imagewof'")


def launched(monkeypatch, capsys, main, *argv):
    monkeypatch.setattr(sys, "argv", ["recipe.py", *argv])
    with pytest.raises(SystemExit) as stop:
        launch(main, Cao2Config, "Some text.", light=True)
    out, err = capsys.readouterr()
    assert out == "" and err.endswith("\n") and err.count("\n") == 1
    return stop.value.code, err.strip()


def test_launch_hands_over_the_settings(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["recipe.py", "--ipc", "3"])
    seen = []
    launch(seen.append, Cao2Config, "Some text.")
    assert seen == [dataclasses.replace(Cao2Config(), ipc=3)]


def test_launch_turns_bad_settings_into_one_line_and_code_2(monkeypatch, capsys):
    called = []
    code, line = launched(monkeypatch, capsys, called.append, "--ipc", "0")
    assert code == 2 and line.startswith("error: ipc: '0'") and not called


def test_launch_turns_an_input_error_of_the_recipe_into_one_line_and_code_2(monkeypatch, capsys):
    def main(config):
        raise InputError("source", "x", "valid:\nthis\n or that")

    assert launched(monkeypatch, capsys, main) == (2, "error: source: 'x' cannot be used; valid: this or that")


def test_launch_turns_a_full_disk_into_one_line_and_code_2(monkeypatch, capsys):
    def main(config):
        raise OSError(errno.ENOSPC, "No space left on device", "/some/chunk")

    code, line = launched(monkeypatch, capsys, main)
    assert code == 2 and "no space left" in line and "/some/chunk" in line and "same command again" in line


def test_launch_names_the_rank_that_failed(monkeypatch, capsys):
    def main(config):
        raise InputError("source", "x", "valid: y")

    monkeypatch.setenv("RANK", "3")
    assert launched(monkeypatch, capsys, main)[1].startswith("error on rank 3: source")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (PermissionError(errno.EACCES, "Permission denied", "/x/y"), "'/x/y' cannot be used; it cannot be read or written"),
        (OSError(errno.EROFS, "Read-only file system", "/x/y"), "Read-only file system"),
        (NotADirectoryError(errno.ENOTDIR, "Not a directory", "/dev/null/y"), "'/dev/null/y'"),
        (OSError(errno.ENAMETOOLONG, "File name too long", "x" * 5000), "File name too long"),
        (MemoryError(), "memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"), "memory"),
        (RuntimeError("CUDA error: out of memory"), "memory"),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), "memory"),
    ],
)
def test_launch_turns_what_the_machine_does_not_allow_into_one_line_and_code_2(monkeypatch, capsys, error, said):
    def main(config):
        raise error

    code, line = launched(monkeypatch, capsys, main)
    assert code == 2 and line.startswith("error: ") and said in line and len(line) < 600


@pytest.mark.parametrize(
    "error", [OSError(errno.EIO, "Input/output error", "/x"), OSError("of a kind"), RuntimeError("a bug")]
)
def test_launch_lets_other_errors_through(monkeypatch, error):
    def main(config):
        raise error

    monkeypatch.setattr(sys, "argv", ["recipe.py"])
    with pytest.raises(type(error)) as caught:
        launch(main, Cao2Config, "Some text.")
    assert caught.value is error
