"""Options of experiment trackers."""

from dataclasses import dataclass
from importlib.util import find_spec

from distill_hub.config import InputError, nearest, option

TRACKERS = ("aim", "clearml", "comet_ml", "dvclive", "mlflow", "swanlab", "tensorboard", "trackio", "wandb")  # Accelerate's


@dataclass(frozen=True)
class TrackingOptions:
    """Tracking: nothing is logged unless it is asked for."""

    log_with: str | None = option(
        None,
        "experiment trackers that losses and accuracies are logged with, comma-separated: tensorboard (in the folder logs), "
        "trackio, wandb, mlflow, ...",
        identity=False,
    )

    def check_settings(self) -> None:
        """Refuse trackers that do not exist or are not installed, and one that is named twice."""
        names = [name.strip() for name in self.log_with.split(",")] if self.log_with else []
        for place, name in enumerate(names):
            if name in names[:place]:
                raise InputError("log_with", self.log_with, f"it names {name} twice")
            if name not in TRACKERS:
                raise InputError("log_with", name, f"known: {', '.join(TRACKERS)}{nearest(name, TRACKERS)}")
            if find_spec(name) is None:
                raise InputError("log_with", name, f"it is not installed here; `pip install {name}` does that")
