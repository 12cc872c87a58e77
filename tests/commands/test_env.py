"""What a bug report needs, from any machine, and nothing that nobody may see."""

import os
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import distill_hub


def report(tmp_path: Path, **environment: str) -> dict[str, str]:
    """Run the command with a home of its own; return what it says by name."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "OMP_", "DISTILL_", "XDG_"))}
    command = [sys.executable, "-m", "distill_hub.cli", "env"]
    own |= {"HOME": str(tmp_path), "PATH": str(tmp_path), **environment}
    done = subprocess.run(command, env=own, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and done.stderr == ""
    assert "secret" not in done.stdout
    return dict(re.fullmatch(r"([^:]+): +(.+)", line).groups() for line in done.stdout.splitlines())


def script(file: Path, text: str) -> None:
    file.write_text(f"#!/bin/sh\n{text}\n")
    file.chmod(0o755)


def test_versions_machine_and_folders(tmp_path):
    told = report(tmp_path, HF_HUB_OFFLINE="1", CUDA_VISIBLE_DEVICES="2,3")
    assert (
        told["distill-hub"].startswith(distill_hub.__version__)
        and str(Path(distill_hub.__file__).parent) in told["distill-hub"]
    )
    assert told["python"].startswith(".".join(map(str, sys.version_info[:3])))
    for name in ("torch", "diffusers", "transformers", "datasets", "huggingface-hub", "accelerate", "timm"):
        assert told[name] == metadata.version(name)
    assert "pytest" not in told  # nothing that only tests need
    with open("/proc/meminfo") as file:
        assert told["memory"] == f"{int(file.readline().split()[1]) * 1024 / 1e9:.1f} GB"
    assert told["fitted models"].startswith(f"{tmp_path}/.cache/distill_hub (not there yet), ")
    assert told["Hub's cache"].startswith(f"{tmp_path}/.cache/huggingface/hub (not there yet), ")
    assert (told["HF_HUB_OFFLINE"], told["CUDA_VISIBLE_DEVICES"]) == ("1", "2,3") and "OMP_NUM_THREADS" not in told
    assert told["GPUs"] == "none that nvidia-smi knows: it is not installed"
    assert (told["Hub"], told["token"], told["accelerate's file"]) == ("https://huggingface.co", "not set", "none")


def test_settings_of_the_user_are_told_and_secrets_are_not(tmp_path):
    home = tmp_path / "home"
    (home / "accelerate").mkdir(parents=True)
    (home / "accelerate" / "default_config.yaml").write_text("num_processes: 2")
    environment = {"HF_ENDPOINT": "https://me:secret@hub.example.org/hf", "HF_TOKEN": "hf_secret", "HF_HOME": str(home)}
    told = report(tmp_path, **environment, DISTILL_HUB_CACHE=str(home))
    assert told["Hub"] == "https://hub.example.org/hf"
    assert told["token"] == "set"
    assert told["accelerate's file"] == str(home / "accelerate" / "default_config.yaml")
    assert re.fullmatch(rf"{home}, [\d.,]+ GB free", told["fitted models"])
    assert told["datasets' cache"].startswith(f"{home}/datasets (not there yet), ")


def test_gpus_are_those_that_nvidia_smi_names(tmp_path):
    script(tmp_path / "nvidia-smi", "echo 'A100, 81920 MiB, 550.1'; echo 'T4, 15360 MiB, 550.1'")
    assert report(tmp_path)["GPUs"] == "A100, 81920 MiB, 550.1; T4, 15360 MiB, 550.1"
    script(tmp_path / "nvidia-smi", "echo 'no driver is loaded' >&2; exit 9")
    assert report(tmp_path)["GPUs"] == "no driver is loaded"


def test_a_broken_library_does_not_keep_it_from_being_reported(tmp_path):
    (tmp_path / "torch.py").write_text("raise ImportError('libcudart.so is missing')")
    (tmp_path / "datasets.py").write_text("raise ImportError('it is broken, too')")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    assert report(tmp_path, PYTHONPATH=path)["torch"] == metadata.version("torch")
