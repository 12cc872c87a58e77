"""`distill-hub env`."""

import os
import platform
import re
import shutil
import subprocess
from importlib import metadata
from pathlib import Path

import psutil
from huggingface_hub import constants

import distill_hub
from distill_hub.config import InputError
from distill_hub.disk.files import cache_dir
from distill_hub.hub import address, read_token
from distill_hub.making.packages import more_methods
from distill_hub.networks.names import more_networks, more_protocols
from distill_hub.options.commands import EnvConfig
from distill_hub.running.console import size_text

# What changes how a run behaves. None of them holds a secret; others are not shown.
VARIABLES = (
    "ACCELERATE_MIXED_PRECISION",
    "ACCELERATE_USE_CPU",
    "CUDA_VISIBLE_DEVICES",
    "HF_DATASETS_OFFLINE",
    "HF_HUB_OFFLINE",
    "OMP_NUM_THREADS",
    "TRANSFORMERS_OFFLINE",
)


def run(config: EnvConfig) -> None:
    """Print what a bug report needs, as plain text: versions, machine, folders, settings of the Hub. No token is shown.

    Libraries are named with their versions and not loaded, so that a broken one is named, too. GPUs are those that
    nvidia-smi knows.

        distill-hub env
    """
    hub_cache = Path(constants.HF_HUB_CACHE)
    datasets_cache = Path(os.environ.get("HF_DATASETS_CACHE", Path(constants.HF_HOME, "datasets")))
    launcher = Path(constants.HF_HOME, "accelerate", "default_config.yaml")
    facts = {
        "distill-hub": f"{distill_hub.__version__}, in {Path(distill_hub.__file__).parent}",
        "python": f"{platform.python_version()}, {platform.python_implementation()}",
        "platform": platform.platform(),
        "cores": f"{psutil.cpu_count(logical=False)} physical, {psutil.cpu_count()} logical",
        "memory": size_text(psutil.virtual_memory().total),
        "GPUs": _gpus(),
        "fitted models": _folder(cache_dir()),
        "Hub's cache": _folder(hub_cache),
        "datasets' cache": _folder(datasets_cache),
        "accelerate's file": str(launcher) if launcher.is_file() else "none",
        "Hub": address(),
        "token": _token(),
        **{name: os.environ[name] for name in VARIABLES if name in os.environ},
        **_versions(),
        **_extensions(),
    }
    width = max(map(len, facts)) + 2
    for name, value in facts.items():
        print(f"{name + ':':{width}}{value}")


def _token() -> str:
    try:
        return "set" if read_token() else "not set"
    except InputError as error:
        return str(error)


def _versions() -> dict[str, str]:
    """Return the versions of what distill-hub needs."""
    needed = (line for line in metadata.requires("distill-hub") if "extra ==" not in line)
    versions = {}
    for name in sorted(re.match(r"[\w.-]+", line)[0] for line in needed):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return versions


def _extensions() -> dict[str, str]:
    """Return what other packages add."""
    facts = {}
    for kind, more in (("methods", more_methods), ("protocols", more_protocols), ("networks", more_networks)):
        try:
            found = [f"{own.name} ({own.origin})" for own in more().values()]
        except InputError as error:
            found = [str(error)]
        facts |= {f"other {kind}": ", ".join(found)} if found else {}
    return facts


def _gpus() -> str:
    if shutil.which("nvidia-smi") is None:
        return "none that nvidia-smi knows: it is not installed"
    query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"nvidia-smi does not answer ({error})"
    said = (answer.stdout if answer.returncode == 0 else answer.stderr or answer.stdout).strip().splitlines()
    return "; ".join(line.strip() for line in said) or "none"


def _folder(path: Path) -> str:
    there = next(place for place in (path, *path.absolute().parents) if place.exists())
    return f"{path}{'' if path.is_dir() else ' (not there yet)'}, {size_text(shutil.disk_usage(there).free)} free"
