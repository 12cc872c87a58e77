"""A classifier that distill-hub trained: its record."""

from typing import Any

from pydantic import Field

from distill_hub.artifact.base import Moment, Record, Seconds, Share
from distill_hub.artifact.manifest import EnvironmentRecord
from distill_hub.artifact.source import SourceRecord
from distill_hub.disk.files import slug


class ClassifierRecord(Record):
    """How a classifier was trained: `distill_hub` in the `config.json` of its folder."""

    network: str  # as `networks.build` knows it
    source: SourceRecord
    classes: list[str] = Field(min_length=1, max_length=100_000)  # one per logit
    image_size: int  # side of its input, in pixels
    test_accuracy: Share  # fraction of the source's test split, after the last epoch
    settings: dict[str, Any]  # epochs, batch size, seed, ...
    steps: int = Field(gt=0)  # of the optimiser
    seconds: Seconds
    environment: EnvironmentRecord
    created: Moment


def classifier_name(source: str, network: str) -> str:
    """Return the name of a classifier, used for its folder: <source>-<network>."""
    return f"{slug(source)}-{network.removeprefix('timm/')}"
