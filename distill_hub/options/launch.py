"""How `distill-hub make` starts a recipe."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from distill_hub.config import InputError, option
from distill_hub.disk.files import shipped
from distill_hub.kinds import NonNegativeInt

Port = Annotated[int, (">=", 0), ("<=", 65535)]
Count = Annotated[int, (">", 0), ("<=", 4096)]  # of processes or machines


@dataclass(frozen=True, kw_only=True)
class LaunchOptions:
    """Processes and devices, as for `accelerate launch`; what else that takes stands in its launch file."""

    num_processes: Count | None = option(
        None, "of all machines together; default: one per GPU, or one without a GPU", common=True
    )
    mixed_precision: Literal["no", "fp16", "bf16"] | None = option(None, "of the networks; default: no", common=True)
    cpu: bool = option(False, "leave the GPUs alone", common=True)
    multi_gpu: bool = option(False, "refuse to start without several GPUs")
    gpu_ids: str | None = option(None, "GPUs to use, comma-separated; default: all")
    config_file: Path | None = option(None, "launch file; default: the one that `accelerate config` wrote, if any")
    num_machines: Count | None = option(None, "machines that run the same command together; default: 1")
    machine_rank: NonNegativeInt | None = option(None, "which of them this one is, from 0")
    main_process_ip: str | None = option(None, "address of machine 0")
    main_process_port: Port | None = option(None, "port of machine 0; default: 29500, on one machine any free one")

    @property
    def launch_file(self) -> Path | None:
        """Where `config_file` lies: as given, or else among those that come with the package."""
        if self.config_file is None or self.config_file.exists():
            return self.config_file
        own = shipped("recipes") / "accelerate" / self.config_file
        return own if own.exists() else self.config_file

    def check_settings(self) -> None:
        """Refuse a launch file that does not exist."""
        if self.launch_file and not self.launch_file.is_file():
            valid = "there is no such file; `accelerate config` writes one"
            raise InputError("config_file", str(self.config_file), valid)
