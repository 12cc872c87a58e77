"""A classifier that distill-hub trained, on real images or, as a student, on a distilled set: its record."""

from pathlib import Path
from typing import Any

from pydantic import ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer

from distill_hub.artifact.base import Count, Moment, Name, Record, Seconds, Share
from distill_hub.artifact.manifest import EnvironmentRecord, ModelRecord
from distill_hub.artifact.source import SourceRecord
from distill_hub.config import InputError
from distill_hub.disk.files import slug

CONFIG = "config.json"  # of a classifier's folder; it comes last and says that the folder is complete
WEIGHTS = "model.safetensors"


class SetRecord(Record):
    """The distilled set that a student was trained on, and how."""

    name: str
    hub_id: str | None = None
    revision: str | None = None  # commit on the Hub
    content_sha256: str = Field(pattern="^[0-9a-f]{64}$")
    images: int = Field(gt=0)  # that the student saw: of a set of tiles, all of them
    protocol: Name
    protocol_version: Count
    standard: bool  # False: not as the literature trains
    seed: int = Field(ge=0, lt=2**63)


class ClassifierRecord(Record):
    """How a classifier was trained: `distill_hub` in the `config.json` of its folder."""

    network: str  # as `networks.build` knows it
    source: SourceRecord  # whose test split it was tested on, and but for a student whose training split it learned
    classes: list[str] = Field(min_length=1, max_length=100_000)  # one per logit
    image_size: int  # side of its input, in pixels
    test_resize: int | None = None  # side that test images were scaled to before their centre was cropped; None: that size
    # Fraction of the source's test split, after the last epoch; None: not measured, as of a teacher fitted for a run.
    test_accuracy: Share | None
    settings: dict[str, Any]  # epochs, batch size, seed, ...
    steps: int = Field(gt=0)  # of the optimiser
    seconds: Seconds
    environment: EnvironmentRecord
    created: Moment
    pretrained: ModelRecord | None = None  # the published network that training started from; None: from scratch
    trained_on: SetRecord | None = None  # of a student

    @model_serializer(mode="wrap")
    def _without_what_most_do_not_have(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        rare = ("test_resize", "pretrained", "trained_on")
        return {name: value for name, value in dump(self).items() if name not in rare or value is not None}


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


def name_of(record: ClassifierRecord, source: str) -> str:
    """Return the name of a classifier, used for its repository; a student's is called after its set and training.

    Args:
        record: Of the classifier.
        source: What its source is called, see `names.source_name`.
    """
    if own := record.trained_on:
        return f"{slug(own.name)}-{student_name(own.protocol, own.protocol_version, record.network, own.seed)}"
    return classifier_name(source, record.network)
