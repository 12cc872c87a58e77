"""Experiment trackers, by Accelerate: the main process logs what loops compute anyway, as often as their bars look at it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.tracking import filter_trackers

from distill_hub.config import InputError
from distill_hub.disk.files import atomic_write
from distill_hub.parsing import read_object
from distill_hub.text import reason

LOGS = Path("logs")  # of trackers that write files, a folder in it for each run
STARTS = "trackers.json"  # in the state of a run: how many steps of the run lie before each of its loops
_MOST_BYTES = 2**24


class Trackers:
    """Where a run logs to; nowhere until `open`.

    The steps of a run's loops follow on each other, as trackers take steps in ascending order alone. Where a loop begins is
    kept in the run's folder: a step has the same number however often the run is interrupted.
    """

    def __init__(self, accelerator: Accelerator):
        self.accelerator = accelerator
        self._file: Path | None = None
        self._starts: dict[str, int] = {}

    def open(self, names: str, project: str, settings: Mapping[str, Any], file: Path | None) -> None:
        """Start trackers. Call it on every process.

        Args:
            names: Of Accelerate's trackers, comma-separated.
            project: What they call it: the name of the run's folder.
            settings: Of the run, which they show.
            file: Where loops begin; None: that is not kept.

        Raises:
            InputError: When one is not known to this version of Accelerate, not installed, or does not start.
        """
        asked = [name.strip() for name in names.split(",")]
        self._file = file
        if file and file.is_file():
            self._starts = read_object(file, _MOST_BYTES)
        plain = {name: value if isinstance(value, (bool, int, float)) else str(value) for name, value in settings.items()}
        self.accelerator.project_configuration.set_directories(str(LOGS))
        try:
            self.accelerator.log_with = filter_trackers(asked, LOGS)
            if len(self.accelerator.log_with) < len(asked):
                raise ValueError("one of them is not installed")
            self.accelerator.init_trackers(project, plain)
        except Exception as error:  # whatever the packages of others raise, e.g. without an account or the network
            raise InputError("log_with", names, f"it does not start ({type(error).__name__}: {reason(error)})") from error

    def log(self, loop: str, step: int, steps: int, values: Mapping[str, float], *, part: str = "") -> None:
        """Log numbers of a loop; nothing is done where there is no tracker, as on all processes but the main one.

        Args:
            loop: Its name, before that of each number.
            step: How many of its steps are done.
            steps: How many it has.
            values: The numbers, by name.
            part: Which of several loops of that name.
        """
        if not self.accelerator.trackers:
            return
        key = f"{loop}/{part}"
        if key not in self._starts:
            self._starts[key] = self._starts.get("", 0)
            self._starts[""] = self._starts[key] + steps  # where the next one begins
            if self._file:
                atomic_write(self._file, json.dumps(self._starts).encode())
        self.accelerator.log({f"{loop}/{name}": value for name, value in values.items()}, step=self._starts[key] + step)

    @property
    def are_open(self) -> bool:
        """Whether anything is logged by this process."""
        return bool(self.accelerator.trackers)

    def close(self) -> None:
        """End the trackers, as `Accelerator.end_training` does."""
        for tracker in self.accelerator.trackers:
            tracker.finish()
        self.accelerator.trackers = []
