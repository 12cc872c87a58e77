"""Launch files are what Accelerate reads, their commands and a cluster's job are read as they stand."""

import dataclasses
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from accelerate.commands.config.config_args import ClusterConfig, load_config_from_file
from accelerate.commands.launch import launch_command_parser
from headers import header, is_command, launched
from helpers import RECIPES, ROOT
from torch.distributed.run import get_args_parser

from distill_hub.config import parse

LAUNCHES = ROOT / "recipes" / "accelerate"


@pytest.fixture(autouse=True)
def in_the_root(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("cpu", {"distributed_type": "NO", "use_cpu": True, "mixed_precision": "no", "num_processes": 1}),
        ("one_gpu", {"distributed_type": "NO", "mixed_precision": "bf16", "num_processes": 1}),
        ("multi_gpu", {"distributed_type": "MULTI_GPU", "mixed_precision": "bf16", "num_processes": -1}),
        (
            "multi_node",
            {"distributed_type": "MULTI_GPU", "mixed_precision": "bf16", "num_processes": -1}
            | {"num_machines": 2, "main_process_port": 29500},
        ),
    ],
)
def test_a_launch_file_is_what_accelerate_reads(name, expected):
    file = LAUNCHES / f"{name}.yaml"
    common = {"compute_environment": "LOCAL_MACHINE", "use_cpu": False, "debug": False, "num_machines": 1}
    assert load_config_from_file(str(file)) == ClusterConfig(**common | expected)
    known = {field.name for field in dataclasses.fields(ClusterConfig)}
    required = {"compute_environment", "distributed_type", "mixed_precision", "use_cpu", "num_machines", "num_processes"}
    assert required <= yaml.safe_load(file.read_text()).keys() <= known


def test_every_launch_file_is_tested_and_its_commands_are_read_as_they_stand():
    *files, slurm, array = sorted(LAUNCHES.iterdir())
    assert [file.stem for file in files] == ["cpu", "multi_gpu", "multi_node", "one_gpu"]
    assert [slurm.name, array.name] == ["slurm.sh", "slurm_array.sh"]  # tested below
    for file in files:
        commands = [line.strip() for line in header(file) if is_command(line)]
        assert any("distill-hub make " in command for command in commands)
        for command in commands:
            before, torchrun, words = command.partition("torchrun ")
            if torchrun:
                arguments = get_args_parser().parse_args(shlex.split(words))
                assert (before, arguments.nproc_per_node) == ("ACCELERATE_USE_CPU=true ", "2")
                parse(RECIPES[Path(arguments.training_script).stem], arguments.training_script_args)
                continue
            _, _, arguments = launched(command)
            assert arguments.launch_file == file and str(arguments.config_file) == file.name
            # What the file leaves open is in the command.
            several = file.stem.startswith("multi") or (file.stem == "cpu" and "minimax" in command)
            assert (arguments.num_processes is not None) == several
            assert (arguments.main_process_ip is not None) == (file.stem == "multi_node")


def test_the_file_for_a_cpu_launches_a_recipe():
    words = ["accelerate.commands.launch", "--config_file", "recipes/accelerate/cpu.yaml", "recipes/plain.py", "--help"]
    done = subprocess.run([sys.executable, "-m", *words], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "--guidance_scale" in done.stdout


@pytest.fixture
def cluster(tmp_path):
    """Stubs of SLURM's commands, and of accelerate, which writes down its words; the environment of a job of two nodes."""
    stubs = {
        "scontrol": 'case $1 in show) printf "%s1\\n%s2\\n" gpu gpu;; requeue) echo "$2" > requeued;; esac',
        "srun": '[[ $1 == --kill-on-bad-exit=1 ]]; shift; for id in 0 1; do SLURM_NODEID=$id "$@"; done',
        "accelerate": 'printf "%s\\0" "$@" > words-$SLURM_NODEID; env > environment; [[ -z ${STUCK:-} ]] || sleep 30',
    }
    for name, text in stubs.items():
        (tmp_path / name).write_text(f"#!/bin/bash\nset -e\n{text}\n")
        (tmp_path / name).chmod(0o755)
    job = {"SLURM_JOB_NODELIST": "gpu[1-2]", "SLURM_JOB_ID": "1234567", "SLURM_NNODES": "2", "SLURM_GPUS_ON_NODE": "8"}
    return {"PATH": f"{tmp_path}:{os.environ['PATH']}", "HOME": "/home/someone", "HF_HOME": "/shared/hf", **job}


def submitted(name="slurm.sh"):
    """Return the words of the command in the header of a script."""
    (command,) = [line.strip() for line in header(LAUNCHES / name) if line.startswith("  sbatch ")]
    _, script, *words = shlex.split(command)
    assert (ROOT / script) == LAUNCHES / name
    return words


def test_the_job_of_an_array_joins_the_others(cluster, tmp_path):
    words = submitted("slurm_array.sh")
    subprocess.run([LAUNCHES / "slurm_array.sh", *words], cwd=tmp_path, env={**cluster, "SLURM_NODEID": "0"}, check=True)
    launch, *rest = (tmp_path / "words-0").read_text().split("\0")[:-1]
    arguments = launch_command_parser().parse_args(rest)
    assert launch == "launch" and load_config_from_file(arguments.config_file).num_processes == 1
    assert [arguments.training_script, *arguments.training_script_args] == words
    assert parse(RECIPES[Path(arguments.training_script).stem], arguments.training_script_args).join


def test_the_job_of_a_cluster_starts_the_recipe_on_every_node(cluster, tmp_path):
    script, words = LAUNCHES / "slurm.sh", submitted()
    subprocess.run(["bash", "-n", script], check=True)
    subprocess.run([script, *words], cwd=tmp_path, env=cluster, check=True, timeout=60)
    common = {"main_process_ip": "gpu1", "main_process_port": 24567, "num_machines": 2, "num_processes": 16}
    for rank in (0, 1):
        launch, *rest = (tmp_path / f"words-{rank}").read_text().split("\0")[:-1]
        arguments = launch_command_parser().parse_args(rest)
        assert (launch, arguments.machine_rank) == ("launch", rank)
        assert {name: getattr(arguments, name) for name in common} == common
        assert load_config_from_file(arguments.config_file).distributed_type == "MULTI_GPU"
        assert [arguments.training_script, *arguments.training_script_args] == words
        parse(RECIPES[Path(arguments.training_script).stem], arguments.training_script_args)
    seen = (tmp_path / "environment").read_text().splitlines()
    assert {"HF_HOME=/shared/hf", "DISTILL_HUB_CACHE=/home/someone/.cache/distill_hub"} <= set(seen)


def test_the_job_goes_into_the_queue_again_before_its_time_is_up(cluster, tmp_path):
    command = [LAUNCHES / "slurm.sh", *submitted()]
    job = subprocess.Popen(command, cwd=tmp_path, env={**cluster, "STUCK": "yes"}, start_new_session=True)
    while not (tmp_path / "environment").is_file():
        assert job.poll() is None
        time.sleep(0.01)
    job.send_signal(signal.SIGUSR1)  # to the shell alone, as `B:` says
    job.wait(timeout=20)
    os.killpg(job.pid, signal.SIGKILL)  # what SLURM does with the rest
    assert (tmp_path / "requeued").read_text() == "1234567\n"


def test_the_resources_of_the_job():
    options = dict(re.findall(r"^SBATCH --([\w-]+)(?:=(.+))?$", "\n".join(header(LAUNCHES / "slurm.sh")), re.MULTILINE))
    assert (options["nodes"], options["ntasks-per-node"], options["gpus-per-node"]) == ("2", "1", "8")
    assert "requeue" in options and options["signal"].startswith("B:USR1@")
