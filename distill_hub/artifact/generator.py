"""A generator that distill-hub fine-tuned: its record, and what it is called."""

from pathlib import Path

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from distill_hub.artifact.manifest import ModelRecord, TuningRecord
from distill_hub.artifact.names import model_name
from distill_hub.disk.files import slug
from distill_hub.generators.known import IMAGENET_DIT, TUNING


def read_tuning(folder: Path | None) -> TuningRecord | None:
    """Read how the generator in a folder was fine-tuned; None where nothing says that it was.

    Raises:
        InputError: When the record cannot be read.
    """
    if folder is None or not (folder / TUNING).is_file():
        return None
    return TuningRecord.read(folder / TUNING)


def find_tuning(location: str, revision: str | None = None) -> TuningRecord | None:
    """Read how a generator was fine-tuned before it is loaded; None where nothing says that it was.

    Args:
        location: Folder, or id on the Hub. One that is neither is left to the loading, which says what is wrong with it.
        revision: Branch, tag or commit on the Hub.

    Raises:
        InputError: When the record cannot be read.
    """
    if Path(location).exists():
        return read_tuning(Path(location))
    try:
        return TuningRecord.read(Path(hf_hub_download(location, TUNING, revision=revision)))
    except (HfHubHTTPError, LocalEntryNotFoundError, HFValidationError):
        return None


def generator_name(record: TuningRecord) -> str:
    """Return the name of a tuned generator, used for its repository: <source>-<method>-generator."""
    return f"{slug(record.source.name)}-{record.method.name}-generator"


def base_name(base: ModelRecord) -> str:
    """Return what a generator is called that another one was tuned from: not the author's path to it."""
    return base.id if is_on_hub(base) else model_name(base)


def is_on_hub(base: ModelRecord) -> bool:
    """Whether a generator is known by its id on the Hub."""
    return base.revision is not None or base.id == IMAGENET_DIT  # a copy of which may lie in a folder of that name
