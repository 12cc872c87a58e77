"""`distill-hub make`: a recipe is run in this process, or by Accelerate's launcher in several."""

import contextlib
import dataclasses
import logging
import os
import shlex
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import yaml

from distill_hub.config import InputError, launch, options, refusing, say_loading
from distill_hub.ending import end_on_signals, fail, interrupted
from distill_hub.launching.recipes import Recipe, find_recipe, recipes_folder, titles, words
from distill_hub.making.packages import more_methods
from distill_hub.options.launch import LaunchOptions
from distill_hub.starter import as_starter

_ENDING = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT") if hasattr(signal, name)]
_PATIENCE = 10  # seconds until a process that does not even end by SIGKILL, as a device holds it, is left to the system


def make_command(line: Sequence[str]) -> None:
    """Run `distill-hub make`.

    Args:
        line: What stands behind `make`: a recipe's name, its options and the launcher's. None, or --help: list the recipes.
    """
    if not line or line[0] in ("-h", "--help"):
        print(_overview())
        return
    try:
        recipe = find_recipe(line[0])
    except InputError as error:
        sys.exit(fail(str(error)))

    def start(config: Any) -> None:
        own = recipe.config_class(**options(config, recipe.config_class))
        _start(recipe, own, LaunchOptions(**options(config, LaunchOptions)))

    settings = with_launch_options(recipe.config_class)
    # `accelerate launch recipes/NAME.py --config` reads what `distill-hub make NAME --print_config` prints.
    launch(
        start,
        settings,
        recipe.description,
        line[1:],
        light=True,
        prog=f"distill-hub make {recipe.name}",
        printed_class=recipe.config_class,
        configs=recipes_folder() / "configs",
    )


def with_launch_options(config_class: type) -> type:
    """Return the class of a recipe's settings and the launcher's: what `distill-hub make` takes behind its name."""
    return dataclasses.make_dataclass("MakeConfig", [], bases=(config_class, LaunchOptions), frozen=True)


def _overview() -> str:
    known = {**titles(), **_others()}
    width = max(map(len, known))
    return "\n".join(
        [
            "usage: distill-hub make RECIPE [options]\n",
            "Make a distilled set, or what one is made from, with one of the recipes that come with the package:\n",
            *(f"  {name:{width}}  {title}" for name, title in known.items()),
            "\n`distill-hub make RECIPE --help` has examples and options; --num_processes N starts N processes.",
            "--config imagewoof/cao2.yaml has a paper's settings, --config_file multi_gpu.yaml starts one process per GPU;",
            f"these files and others lie in the folders configs and accelerate of {recipes_folder()}",
        ]
    )


def _others() -> dict[str, str]:
    """Return what other packages add, by name, each with the line that says whose it is."""
    try:
        return {name: f"of the package {found.origin}" for name, found in more_methods().items()}
    except InputError as error:
        return {"error": str(error)}


def _start(recipe: Recipe, config: Any, how: LaunchOptions) -> None:
    """Run a recipe in this process, or, when it takes several, by Accelerate's launcher.

    What `how` leaves open is as the launch file says, as with `accelerate launch`.

    Raises:
        InputError: When this machine cannot start what was asked for.
    """
    say_loading()
    import torch
    from accelerate.commands.config import default_config_file

    file = how.launch_file
    if file is None and Path(default_config_file).is_file() and not how.cpu:
        file = Path(default_config_file)
    known = _read_launch_file(file)
    names = ("gpu_ids", "mixed_precision", "num_machines", "machine_rank", "main_process_ip", "main_process_port")
    wanted = {name: getattr(known if getattr(how, name) is None else how, name) for name in names}
    cpu = how.cpu or known.use_cpu
    if wanted["gpu_ids"] not in (None, "all"):
        os.environ["CUDA_VISIBLE_DEVICES"] = str(wanted["gpu_ids"])  # CUDA is not initialised yet
    gpus = 0 if cpu else torch.cuda.device_count()
    machines, precision = wanted["num_machines"], wanted["mixed_precision"] or "no"
    asked_for = how.num_processes or known.num_processes
    processes = asked_for if asked_for > 0 else max(1, gpus) * machines
    if how.multi_gpu and gpus < 2:
        raise InputError(
            "command line", "--multi_gpu", f"it needs several GPUs, and this machine has {gpus} to use; leave it out"
        )
    if processes % machines:
        raise InputError("num_processes", processes, f"a multiple of the {machines} machines is needed")
    if gpus and processes // machines > gpus:
        raise InputError("num_processes", processes, f"this machine has {gpus} GPUs to use; --cpu takes its cores instead")
    if not gpus and processes // machines > max(8, os.cpu_count() or 1):
        valid = f"this machine has {os.cpu_count()} cores; more processes than cores are slower than fewer"
        raise InputError("num_processes", processes, valid)
    if machines > 1 and wanted["main_process_ip"] is None:
        raise InputError("main_process_ip", None, f"{machines} machines need the address of machine 0")
    if machines > 1 and file is None and how.machine_rank is None:
        raise InputError("machine_rank", None, f"each of {machines} machines needs its own, from 0")
    if (wanted["machine_rank"] or 0) >= machines:
        raise InputError("machine_rank", wanted["machine_rank"], f"num_machines is {machines}: below that, from 0")

    if cpu or (processes > 1 and not gpus):
        os.environ["ACCELERATE_USE_CPU"] = "true"
    if processes == 1:
        os.environ["ACCELERATE_MIXED_PRECISION"] = precision
        os.environ.update({f"ACCELERATE_{name.upper()}": str(value) for name, value in known.dynamo_config.items()})
        recipe.main(config)
        return
    port = wanted["main_process_port"]
    named = {
        "config_file": file,
        "num_processes": processes,
        "num_machines": machines,
        "machine_rank": wanted["machine_rank"],
        "main_process_ip": wanted["main_process_ip"],
        "main_process_port": 0 if port is None and machines == 1 else port,  # 0: any free one
        "gpu_ids": "all",  # that are visible
        "mixed_precision": how.mixed_precision or (None if file else "no"),
        "dynamo_backend": known.dynamo_config.get("dynamo_backend", "no").lower(),
        "num_cpu_threads_per_process": os.environ.get("OMP_NUM_THREADS", 1),
        "log_dir": os.devnull,  # instead of an empty folder in /tmp that nobody removes
    }
    # Without --multi_gpu Accelerate starts one process on a CPU, however many it is asked for.
    several = ["--multi_gpu"] * (known.distributed_type in ("NO", "MULTI_CPU", "MULTI_GPU"))
    given = [part for name, value in named.items() if value is not None for part in (f"--{name}", str(value))]
    batches = [f.name for f in dataclasses.fields(config) if f.name.endswith("batch_size")]
    lower = " or ".join(f"--{name}" for name in ("num_processes", *batches))
    _hand_over([*several, *given], [*recipe.start, *words(config)], lower)


def _read_launch_file(file: Path | None) -> Any:
    """Return what `accelerate config` wrote, as Accelerate's `ClusterConfig`; without a file, one that leaves all open."""
    from accelerate.commands.config.config_args import ClusterConfig, load_config_from_file

    if file is None:
        return ClusterConfig("LOCAL_MACHINE", "NO", mixed_precision="no", use_cpu=False, debug=False)
    broken = (OSError, ValueError, TypeError, AttributeError, yaml.YAMLError)  # AttributeError: it holds no mapping
    with refusing(broken, "config_file", str(file), "a file that `accelerate config` writes is needed"):
        known = load_config_from_file(str(file))
    if not isinstance(known, ClusterConfig):
        raise InputError("config_file", str(file), "compute_environment: LOCAL_MACHINE is needed")
    return known


def _hand_over(start: list[str], script: list[str], lower: str) -> None:
    """Let Accelerate's launcher start several processes, and wait for them.

    Exits with the code of the process that failed; 128 + N where a signal N ended it, which is said, or was sent to this
    process, which then ends all. `lower` are the options that take less memory when they are smaller.
    """
    from accelerate.commands.launch import launch_command, launch_command_parser
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    logging.disable(logging.ERROR)  # what failed says so itself; this process only starts and waits
    how = launch_command_parser().parse_args([*start, *script])
    # torchrun's handler raises an exception wherever its waiting loop is, which now and then gets lost there, and then waits
    # for 30 s before it kills. It would also take for a reason to end what this process is to ignore.
    how.signals_to_handle = ""
    ending = threading.Lock()  # whoever takes it ends this process: a signal, or the end of what was started
    heard = [number for number in _ENDING if signal.getsignal(number) != signal.SIG_IGN]  # as `nohup` lets it ignore some
    end_on_signals(heard, lambda number: _end_all(number, ending))
    try:
        with as_starter(), contextlib.ExitStack() as last:
            last.callback(ending.acquire)
            launch_command(how)
    except ChildFailedError as error:
        # A process that lost its connection to another one ends with 1, and what is left the launcher ends with SIGTERM.
        follows = {1: 1, -signal.SIGTERM: 2}
        first = min(error.failures.values(), key=lambda failure: follows.get(failure.exitcode, 0))
        if first.exitcode < 0:
            name = signal.Signals(-first.exitcode).name
            why = f": most likely memory ran out, and a smaller {lower} takes less" if name == "SIGKILL" else ""
            fail(f"process {first.local_rank} (id {first.pid}) was ended by {name}{why}; the same command goes on")
        sys.exit(first.exitcode if first.exitcode > 0 else 128 - first.exitcode)
    except SignalException as error:  # of a torchrun that does not ask which signals it is to handle
        sys.exit(128 + error.sigval)
    except (ValueError, ConnectionError) as error:
        raise InputError("accelerate launch", shlex.join(start), str(error)) from error


def _end_all(number: int, ending: threading.Lock) -> NoReturn:
    """End this process for a signal, and all that it started: nothing is lost, as a run may be killed at any moment.

    SIGKILL also ends a process that waits for another one, is stopped, or still loads its modules and would show where.
    """
    import psutil  # which Accelerate has loaded by now, and the first words of a command need not wait for

    ending.acquire()
    deadline = time.monotonic() + _PATIENCE
    while (started := psutil.Process().children(recursive=True)) and time.monotonic() < deadline:
        for process in started:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(started, timeout=1)
    os._exit(interrupted() if number == signal.SIGINT else 128 + number)
