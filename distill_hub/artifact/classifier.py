"""A classifier that distill-hub trained, on real images or, as a student, on a distilled set: its record."""

from typing import Any

from pydantic import Field

from distill_hub.artifact.base import Count, Moment, Name, Record, Seconds, Share
from distill_hub.artifact.manifest import EnvironmentRecord, ModelRecord
from distill_hub.artifact.source import SourceRecord


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

    RARE = ("test_resize", "pretrained", "trained_on")
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
