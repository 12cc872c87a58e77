"""The folder of a classifier that distill-hub trained: its files, its record, and what it is called."""

from pathlib import Path

from pydantic import ConfigDict

from distill_hub.artifact.base import Record
from distill_hub.artifact.classifier import ClassifierRecord
from distill_hub.artifact.names import source_name
from distill_hub.config import InputError
from distill_hub.disk.files import slug

CONFIG = "config.json"  # of a classifier's folder; it comes last and says that the folder is complete
WEIGHTS = "model.safetensors"


class ClassifierConfig(Record):
    """The `config.json` of a classifier that distill-hub trained, as far as it is read here; the rest is for its loader."""

    model_config = ConfigDict(extra="ignore")

    distill_hub: ClassifierRecord


def read_classifier(folder: Path) -> ClassifierRecord:
    """Read how the classifier in a folder was trained.

    Raises:
        InputError: When there is no record of it, or one that cannot be read.
    """
    try:
        return ClassifierConfig.read(folder / CONFIG).distill_hub
    except InputError as error:
        if error.field != f"{CONFIG}: distill_hub" or error.value is not None:
            raise
        valid = "its config.json has no record of how distill-hub trained it, as one of another library or an older version"
        raise InputError("path", str(folder), f"{valid}; fit it anew, or publish it with `hf upload`") from error


def classifier_name(source: str, network: str) -> str:
    """Return the name of a classifier, used for its folder: <source>-<network>."""
    return f"{slug(source)}-{network.removeprefix('timm/')}"


def student_name(protocol: str, version: int, network: str, seed: int) -> str:
    """Return the name of a student's folder among those of its set: <protocol>-v<version>-<network>-seed<seed>."""
    return f"{protocol}-v{version}-{network.replace('/', '-')}-seed{seed}"


def name_of(record: ClassifierRecord) -> str:
    """Return the name of a classifier, used for its repository; a student's is called after its set and training."""
    if own := record.trained_on:
        return f"{slug(own.name)}-{student_name(own.protocol, own.protocol_version, record.network, own.seed)}"
    return classifier_name(source_name(record.source), record.network)
