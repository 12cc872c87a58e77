"""Options of matching trajectories: MTT, TESLA, FTD and DATM."""

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from distill_hub.config import InputError, option
from distill_hub.kinds import Fraction, Location, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from distill_hub.networks.names import check_experts
from distill_hub.options.experts import SMALL, ExpertOptions, with_defaults
from distill_hub.options.matching import SpaceOptions
from distill_hub.options.shared import PixelOptions


@dataclass(frozen=True)
class TrajectoryOptions:
    """Matching: a student follows an expert on the set, and the set learns from where it ends."""

    match_steps: PositiveInt | None = option(None, "steps; default: 5,000, up to 16 px 60", common=True)
    student_steps: PositiveInt | None = option(None, "N: steps of the student; default: 30, up to 16 px 10", common=True)
    expert_stretch: PositiveInt = option(2, "M: epochs of the expert that the student follows", common=True)
    min_start: NonNegativeInt = option(0, "first epoch of the expert that a student may start from")
    max_start: PositiveInt | None = option(
        None, "the epoch before this one is the last that a student may start from; default: 20, up to 16 px 4", common=True
    )
    window_start: PositiveInt | None = option(None, "max_start at the first step (DATM); default: it does not move")
    window_end: NonNegativeInt = option(0, "step at which it has come to max_start (DATM: 1,000 to 2,000)")
    student_batch_size: PositiveInt | None = option(None, "images per step of the student; default: all")
    student_rate: PositiveFloat | None = option(
        None, "alpha: the student's learning rate at the start; it is learned; default: 0.01, up to 16 px 0.1"
    )
    pixel_learning_rate: PositiveFloat | None = option(
        None, "of SGD with momentum 0.5 on normalised pixels; default: 1,000, up to 16 px 300", common=True
    )
    rate_learning_rate: NonNegativeFloat = option(1e-5, "of SGD with momentum 0.5 on alpha")
    gradient: Literal["exact", "truncated"] = option(
        "exact", "truncated drops how an image moves the gradients of the steps after it (TESLA)"
    )
    ema_decay: Fraction = option(0.0, "of the average of the pixels over the steps that is published (FTD: 0.9995); 0: none")
    learn_labels: bool = option(
        False, "start from images that an expert classifies right, and learn their soft labels, too (DATM)", common=True
    )
    label_learning_rate: PositiveFloat = option(2.0, "of SGD with momentum 0.9 on the logits of learned labels")
    skip_above: PositiveFloat | None = option(None, "leave out steps whose loss is larger (DATM: 1); default: none")

    def check_settings(self) -> None:
        """Refuse a window of starts that is empty, or does not grow."""
        if self.max_start is not None and self.min_start >= self.max_start:
            raise InputError("min_start", self.min_start, f"max_start is {self.max_start}: an earlier epoch is needed")
        if self.window_start is not None and self.window_start <= self.min_start:
            raise InputError("window_start", self.window_start, f"min_start is {self.min_start}: a later epoch is needed")
        if self.window_start is not None and self.max_start is not None and self.window_start > self.max_start:
            raise InputError("window_start", self.window_start, f"max_start is {self.max_start}, which it grows to")
        if (self.window_start is None) != (self.window_end == 0):
            valid = "a window that grows has both window_start and window_end, any other neither"
            raise InputError("window_end", self.window_end, valid)


@dataclass(frozen=True)
class MttConfig(TrajectoryOptions, ExpertOptions, SpaceOptions, PixelOptions):
    """The experts' place."""

    experts: Location = option(
        "auto", "folder or Hub id of experts (recipe experts); auto: as below, in the user's cache", common=True
    )
    experts_revision: str | None = option(None, "branch, tag or commit of the experts on the Hub")

    def check_settings(self) -> None:
        """Refuse experts that do not exist."""
        check_experts(self.experts)

    def at(self, size: int) -> "MttConfig":
        """Return the settings in which no default depends on the image size any more, a side in pixels.

        Raises:
            InputError: When a window of starts is empty, or does not grow, with a default of `max_start`.
        """
        small = size <= SMALL
        defaults: dict[str, Any] = {
            "match_steps": 60 if small else 5000,
            "student_steps": 10 if small else 30,
            "max_start": 4 if small else 20,
            "student_rate": 0.1 if small else 0.01,
            "pixel_learning_rate": 300.0 if small else 1000.0,
        }
        missing = {name: value for name, value in defaults.items() if getattr(self, name) is None}
        # Experts that are named have settings of their own, on their record.
        own = with_defaults(self, size) if self.experts == "auto" else self
        resolved = dataclasses.replace(own, **missing)
        TrajectoryOptions.check_settings(resolved)
        return resolved
