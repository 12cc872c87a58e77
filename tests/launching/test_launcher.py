"""`distill-hub make`: which recipe, in this process or by Accelerate's launcher, and how it ends."""

import dataclasses
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from accelerate.commands import config as accelerate_config
from accelerate.commands import launch as accelerate_launch
from helpers import ROOT
from processes import hear_signals, works

from distill_hub.cli import main
from distill_hub.config import LOADING, InputError, parse
from distill_hub.launching import recipes
from distill_hub.launching.launcher import with_launch_options
from distill_hub.launching.recipes import find_recipe, titles
from distill_hub.options.cao2 import Cao2Config
from distill_hub.options.launch import LaunchOptions

LAUNCH_FILES = ROOT / "recipes" / "accelerate"
STUBS = Path(__file__).with_name("stubs")
DRIVER = f"""
from pathlib import Path
from distill_hub.config import LOADING
from distill_hub.launching import recipes
recipes.shipped = lambda name: Path({str(STUBS)!r})
from distill_hub.cli import main
main()
"""


# The words


def test_every_recipe_is_listed_with_what_it_does(monkeypatch, capsys):
    names = {file.stem for file in (ROOT / "recipes").glob("*.py")}
    assert titles().keys() == names and "cao2" in names
    for words in ([], ["--help"]):
        monkeypatch.setattr(sys, "argv", ["distill-hub", "make", *words])
        main()
        lines = capsys.readouterr().out.splitlines()
        for name in names:
            (line,) = [line for line in lines if line.startswith(f"  {name} ")]
            first = (ROOT / "recipes" / f"{name}.py").read_text().split("\n")[0].removeprefix('"""')
            assert line.endswith(f"  {first}") and len(first) > 20


@pytest.mark.parametrize("name", titles())
def test_a_recipe_says_what_it_takes(name):
    found = find_recipe(name)
    assert found.start == (str(ROOT / "recipes" / f"{name}.py"),) and found.name == name
    assert dataclasses.is_dataclass(found.config_class) and found.description.startswith(titles()[name])
    own, launch = ({f.name for f in dataclasses.fields(c)} for c in (found.config_class, LaunchOptions))
    assert not own & launch, "a word of both would reach only one"


def test_launch_options_are_accelerates_own():
    known = {action.dest: action for action in accelerate_launch.launch_command_parser()._actions}
    for f in dataclasses.fields(LaunchOptions):
        assert (known[f.name].nargs == 0) == (f.type is bool), f.name


@pytest.fixture
def make(monkeypatch, capfd):
    """Type `distill-hub make`; return the exit code and the standard error, but for the line that torch is loaded."""

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["distill-hub", "make", *map(str, words)])
        try:
            main()
        except SystemExit as exit:
            return exit.code, capfd.readouterr().err
        return 0, capfd.readouterr().err

    return run


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["cao"], ["recipe: 'cao'", "(did you mean 'cao2'?)"]),
        (["--source", "digits"], ["recipe: '--source'", "cao2"]),
        (["cao2", "--ipcs", "3"], ["'--ipcs'", "(did you mean '--ipc'?)"]),
        (["cao2", "--num_proceses", "2"], ["'--num_proceses'", "(did you mean '--num_processes'?)"]),
        (["cao2", "--num_processes", "0"], ["num_processes: '0'", "> 0"]),
        (["cao2", "--mixed_precision", "fp61"], ["mixed_precision: 'fp61'", "(did you mean 'fp16'?)"]),
        (["cao2", "--ipc", "two", "--num_processes", "2"], ["ipc: 'two'", "> 0"]),
        (["cao2", "--config_file", "nowhere.yaml"], ["config_file: 'nowhere.yaml'", "no such file"]),
    ],
)
def test_what_cannot_be_used_is_one_line_before_anything_heavy(words, parts):
    code = f"""
import sys
sys.argv = ["distill-hub", "make", *{words!r}]
from distill_hub.cli import main
try:
    main()
finally:
    heavy = {{"torch", "accelerate", "datasets", "diffusers", "transformers"}} & set(sys.modules)
    assert not heavy, heavy
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert result.returncode == 2 and result.stdout == ""
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1
    assert all(part in result.stderr for part in parts), result.stderr


def test_what_is_printed_is_read_by_the_recipe_without_the_launcher(make, monkeypatch, tmp_path, capfd):
    words = ["--ipc", "3", "--num_processes", "2", "--cpu", "--print_config"]
    monkeypatch.setattr(sys, "argv", ["distill-hub", "make", "cao2", *words])
    with pytest.raises(SystemExit) as stop:
        main()
    assert not stop.value.code
    (tmp_path / "printed.yaml").write_text(capfd.readouterr().out)
    config = parse(Cao2Config, ["--config", str(tmp_path / "printed.yaml")])
    assert config == Cao2Config(ipc=3)


def test_settings_and_launch_files_that_come_along_are_found_from_everywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    read, configs = with_launch_options(Cao2Config), ROOT / "recipes" / "configs"
    config = parse(read, ["--config", "imagewoof/cao2.yaml", "--ipc", "3"], configs=configs)
    assert (config.source, config.pool_factor, config.ipc) == ("imagewoof", 4, 3)
    assert LaunchOptions(config_file=Path("cpu.yaml")).launch_file == LAUNCH_FILES / "cpu.yaml"
    assert LaunchOptions().launch_file is None
    # What lies here comes first.
    (tmp_path / "imagewoof").mkdir()
    (tmp_path / "imagewoof" / "cao2.yaml").write_text("source: digits\n")
    (tmp_path / "cpu.yaml").write_text("")
    assert parse(read, ["--config", "imagewoof/cao2.yaml"], configs=configs).source == "digits"
    assert LaunchOptions(config_file=Path("cpu.yaml")).launch_file == Path("cpu.yaml")
    with pytest.raises(InputError, match=r"config: 'imagewoof/cao3\.yaml'"):
        parse(read, ["--config", "imagewoof/cao3.yaml"], configs=configs)


# Who starts it


@pytest.fixture
def stubs(monkeypatch, tmp_path):
    """A folder of recipes with one, `ends`; and a machine where nothing is configured."""
    monkeypatch.setattr(recipes, "shipped", lambda _: STUBS)
    monkeypatch.setattr(logging, "disable", lambda _: None)
    for module in (accelerate_config, accelerate_launch):
        monkeypatch.setattr(module, "default_config_file", str(tmp_path / "default_config.yaml"))
    for name in ("ACCELERATE_USE_CPU", "ACCELERATE_MIXED_PRECISION", "ACCELERATE_DYNAMO_BACKEND", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.setenv(name, "to be restored")
        monkeypatch.delenv(name)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    return tmp_path


@pytest.fixture
def started(stubs, monkeypatch):
    """What Accelerate's launcher is about to start several processes with, instead of doing so."""
    calls = []
    monkeypatch.setattr(accelerate_launch, "multi_gpu_launcher", calls.append)
    return calls


def told(folder, rank=0):
    return json.loads((folder / f"{rank}.json").read_text())


def test_one_process_is_this_one(make, stubs, started):
    assert make("ends", stubs, "--note", "two words") == (0, "process 0 on its errors\n")
    result = told(stubs)
    assert result["pid"] == os.getpid() and result["note"] == "two words" and not started
    assert result["environment"] == {"ACCELERATE_MIXED_PRECISION": "no"}


def test_one_process_on_the_cpu_in_bf16(make, stubs, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 8)
    make("ends", stubs, "--cpu", "--mixed_precision", "bf16")
    assert told(stubs)["environment"] == {"ACCELERATE_USE_CPU": "true", "ACCELERATE_MIXED_PRECISION": "bf16"}


@pytest.mark.parametrize(
    ("gpus", "words", "expected"),
    [
        (0, ["--num_processes", "2"], {"num_processes": 2, "num_machines": 1, "mixed_precision": "no"}),
        (8, ["--cpu", "--num_processes", "3"], {"num_processes": 3}),
        (4, [], {"num_processes": 4, "gpu_ids": "all"}),
        (4, ["--num_processes", "2", "--mixed_precision", "bf16"], {"num_processes": 2, "mixed_precision": "bf16"}),
        (2, ["--multi_gpu", "--main_process_port", "29511"], {"num_processes": 2, "main_process_port": 29511}),
        (4, ["--num_machines", "2", "--machine_rank", "1", "--main_process_ip", "10.0.0.1"],
         {"num_processes": 8, "machine_rank": 1, "main_process_ip": "10.0.0.1", "main_process_port": None}),
        (4, ["--config_file", LAUNCH_FILES / "multi_gpu.yaml"], {"num_processes": 4, "mixed_precision": "bf16"}),
        (4, ["--config_file", LAUNCH_FILES / "multi_node.yaml", "--main_process_ip", "10.0.0.1"],
         {"num_processes": 8, "num_machines": 2, "machine_rank": 0, "main_process_port": 29500}),
        (1, ["--config_file", LAUNCH_FILES / "cpu.yaml", "--num_processes", "2"], {"num_processes": 2}),
    ],
)  # fmt: skip
def test_several_are_started_by_accelerate(make, stubs, started, monkeypatch, caplog, gpus, words, expected):
    monkeypatch.setattr("torch.cuda.device_count", lambda: gpus)
    assert make("ends", stubs, "--note=--two words", *words) == (0, "")
    (args,) = started
    assert args.multi_gpu and {name: getattr(args, name) for name in expected} == expected
    assert args.training_script == str(STUBS / "ends.py")
    assert args.training_script_args == [str(stubs), "--note=--two words"]
    on_cpu = "--cpu" in words or gpus == 0 or any("cpu.yaml" in str(word) for word in words)
    assert os.environ.get("ACCELERATE_USE_CPU") == ("true" if on_cpu else None)
    assert not caplog.records, "what was not passed had a default"


def test_gpus_are_those_that_were_named(make, stubs, started, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: len(os.environ["CUDA_VISIBLE_DEVICES"].split(",")))
    assert make("ends", stubs, "--gpu_ids", "1,3")[0] == 0
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "1,3" and started[0].num_processes == 2


def test_the_users_own_launch_file_counts(make, stubs, started, monkeypatch):
    default = stubs / "default_config.yaml"
    default.write_text(
        "distributed_type: 'NO'\nuse_cpu: true\nmixed_precision: bf16\nnum_processes: 1\ndynamo_backend: EAGER\n"
    )
    make("ends", stubs)
    environment = told(stubs)["environment"]
    assert environment["ACCELERATE_USE_CPU"] == "true" and environment["ACCELERATE_MIXED_PRECISION"] == "bf16"
    assert environment["ACCELERATE_DYNAMO_BACKEND"] == "EAGER"
    make("ends", stubs, "--num_processes", "2", "--mixed_precision", "no")
    assert (started[0].num_processes, started[0].mixed_precision, started[0].dynamo_backend) == (2, "no", "eager")
    # Accelerate itself takes over what this package knows nothing of.
    default.write_text("distributed_type: FSDP\nmixed_precision: bf16\nnum_processes: 2\nfsdp_config: {fsdp_version: 2}\n")
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    make("ends", stubs)
    assert started[1].use_fsdp and not started[1].multi_gpu and started[1].fsdp_version == 2


@pytest.mark.parametrize(
    ("gpus", "words", "parts"),
    [
        (1, ["--num_processes", "2"], ["num_processes: 2", "1 GPUs", "--cpu"]),
        (1, ["--multi_gpu"], ["--multi_gpu", "several GPUs", "has 1 to use"]),
        (0, ["--num_machines", "2", "--num_processes", "3"], ["num_processes: 3", "multiple of the 2"]),
        (0, ["--num_machines", "2"], ["main_process_ip: needed", "machine 0"]),
        (0, ["--num_machines", "2", "--main_process_ip", "10.0.0.1"], ["machine_rank: needed", "from 0"]),
        (0, ["--machine_rank", "3"], ["machine_rank: 3", "num_machines is 1"]),
        (0, ["--main_process_port", "70000"], ["main_process_port: '70000'", "<= 65535"]),
        (0, ["--config_file", ROOT / "README.md"], ["config_file", "README.md", "accelerate config"]),
        (
            0,
            ["--config_file", ROOT / "recipes/configs/imagewoof/cao2.yaml"],
            ["config_file", "cao2.yaml", "distributed_type"],
        ),
    ],
)
def test_what_this_machine_cannot_start_is_refused(make, stubs, started, monkeypatch, gpus, words, parts):
    monkeypatch.setattr("torch.cuda.device_count", lambda: gpus)
    code, line = make("ends", stubs, *words)
    assert code == 2 and line.startswith("error: ") and line.count("\n") == 1
    assert all(part in line for part in parts), line
    assert not started and not list(stubs.glob("*.json"))


KILLED = (
    "error: process 1 (id PID) was ended by SIGKILL: most likely memory ran out, and a smaller --num_processes or "
    "--draw_batch_size takes less; the same command goes on"
)


# How it ends: real processes, in a folder of modules that nobody is to pick up


@pytest.fixture
def start(tmp_path):
    """Start a command of two processes, which note what they were given in the folder that is returned."""
    driver, here, folder = tmp_path / "driver.py", tmp_path / "here", tmp_path / "told"
    driver.write_text(DRIVER)
    for place in (here, folder):
        place.mkdir()
    for name in ("torch", "accelerate", "datasets", "random"):
        (here / f"{name}.py").write_text("raise RuntimeError('the current folder was searched')")
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    environment = {**os.environ, "HF_HOME": str(tmp_path), "TMPDIR": str(temporary)}  # nothing is configured

    def run(*words, before=()):
        command = [*before, sys.executable, str(driver), "make", "ends", str(folder), "--num_processes", "2", *words]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        own = {"start_new_session": True, "preexec_fn": hear_signals}
        process = subprocess.Popen(command, cwd=here, env=environment, **own, **pipes)
        process.temporary = temporary
        return process, folder

    return run


def test_two_processes_on_a_cpu(start):
    process, folder = start()
    out, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert sorted(out.splitlines()) == ["process 0 on its output", "process 1 on its output"]
    assert errors.splitlines()[0] == LOADING, "before the first import that takes long, and by nobody else"
    assert sorted(errors.splitlines()) == [LOADING, "process 0 on its errors", "process 1 on its errors"]
    for rank in (0, 1):
        result = told(folder, rank)
        assert result["path"] == str(STUBS) and result["pid"] != process.pid
        expected = {"RANK": str(rank), "WORLD_SIZE": "2", "ACCELERATE_USE_CPU": "true", "ACCELERATE_MIXED_PRECISION": "no"}
        assert result["environment"].items() >= expected.items()


@pytest.mark.parametrize(
    ("how", "rank", "code", "end"),
    [
        ("refused", 1, 2, "error on rank 1: weather: 'rain' cannot be used; sun"),
        ("a bug", 0, 1, "RuntimeError: a bug"),
        ("killed", 1, 137, KILLED),
    ],
)
def test_the_code_is_that_of_the_process_that_failed(start, how, rank, code, end):
    process, folder = start("--how", how, "--rank", str(rank))
    _, errors = process.communicate(timeout=120)
    assert process.returncode == code
    assert end.replace("PID", str(told(folder, rank)["pid"])) in errors.splitlines()
    assert errors.count("Traceback") == (how == "a bug") and "elastic" not in errors and "torchrun" not in errors, errors


INTERRUPTED = "interrupted; the same command goes on where it stopped"


@pytest.mark.parametrize(
    ("number", "how", "code", "lines"),
    [
        (signal.SIGINT, "asleep", 130, [INTERRUPTED]),
        (signal.SIGINT, "hanging", 130, [INTERRUPTED]),
        (signal.SIGTERM, "asleep", 143, []),
        (signal.SIGHUP, "hanging", 129, []),
        (signal.SIGQUIT, "asleep", 131, []),
        (signal.SIGKILL, "hanging", -signal.SIGKILL, []),  # which the launcher cannot pass on
    ],
)
def test_a_signal_ends_all_processes(start, number, how, code, lines):
    process, folder = start("--how", how)
    ranks = both(process, folder)
    os.kill(process.pid, number)
    _, errors = process.communicate(timeout=20)  # the other processes hold its pipes, too
    assert process.returncode == code
    assert said(errors) == lines, errors
    ended(ranks)
    assert not list(Path(process.temporary).iterdir())


def test_ctrl_c_twice_while_a_process_stands_still(start):
    process, folder = start("--how", "asleep")
    ranks = both(process, folder)
    os.kill(ranks[0], signal.SIGSTOP)
    for _ in range(2):  # as a terminal does: it reaches the group of the first process
        os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    assert (process.returncode, said(errors)) == (130, [INTERRUPTED])
    ended(ranks)


def test_ctrl_c_while_processes_are_started_ends_them(start):
    process, _ = start("--how", "asleep")
    launcher, deadline = psutil.Process(process.pid), time.monotonic() + 60
    while not (ranks := [child.pid for child in launcher.children()]):
        assert time.monotonic() < deadline and process.poll() is None
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    assert (process.returncode, said(errors)) == (130, [INTERRUPTED])
    ended(ranks)


def test_ctrl_c_while_another_machine_is_waited_for(start):
    """The launcher is in C++ then, where Python handles no signal."""
    with socket.create_server(("127.0.0.1", 0)) as machine:
        machine.settimeout(60)
        words = ["--num_machines", "2", "--machine_rank", "1", "--main_process_ip", "127.0.0.1"]
        process, _ = start("--how", "asleep", *words, "--main_process_port", str(machine.getsockname()[1]))
        with machine.accept()[0]:  # which never answers
            time.sleep(1)
            os.kill(process.pid, signal.SIGINT)
            _, errors = process.communicate(timeout=20)
    assert process.returncode == 130 and INTERRUPTED in errors.splitlines()


def said(errors):
    """What is said but for what every run says, and the stub."""
    return [line for line in errors.splitlines() if line and line != LOADING and "on its errors" not in line]


def ended(ranks):
    """Wait until no process works: they may end after the one that started them, and close their pipes before that."""
    deadline = time.monotonic() + 20
    while any(map(works, ranks)):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def both(process, folder):
    """Wait until both processes work; return their ids."""
    deadline = time.monotonic() + 60
    while not all((folder / f"{rank}.json").exists() for rank in (0, 1)):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    return [told(folder, rank)["pid"] for rank in (0, 1)]


def test_a_terminal_that_closes_ends_nothing_behind_nohup(start):
    process, folder = start("--how", "asleep", before=["nohup"])
    ranks = both(process, folder)
    for pid in (process.pid, *ranks):
        os.kill(pid, signal.SIGHUP)
    time.sleep(1)
    assert all(map(works, ranks)) and process.poll() is None
    os.kill(process.pid, signal.SIGTERM)
    process.communicate(timeout=20)
    assert process.returncode == 143
    ended(ranks)
