"""Expert trajectories as an artifact: what their folder says of them, and how they are read from a folder or the Hub.

`experts.json` is the record; `expert-000.safetensors` and so on hold one expert each: for every parameter of the network,
under its own name, its values at the kept epochs, float32 (T, ...).
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import Field, model_validator
from safetensors import SafetensorError, safe_open

from distill_hub.artifact.base import MANIFEST_BYTES, Count, Moment, Name, Record, Share
from distill_hub.artifact.manifest import CostRecord, EnvironmentRecord, ExpertsFacts, ZcaRecord
from distill_hub.artifact.names import public_name
from distill_hub.artifact.source import SourceRecord
from distill_hub.config import InputError, refusing
from distill_hub.data.known import RGB
from distill_hub.disk.files import slug
from distill_hub.hub import fetch, look
from distill_hub.networks.build import build
from distill_hub.networks.names import EXPERTS
from distill_hub.running.stages import hash_of

VALID = f"a folder or Hub id of expert trajectories, with {EXPERTS}, is needed"


class ExpertRecord(Record):
    """One expert."""

    seed: int = Field(ge=0, lt=2**63)  # of its weights, batches and augmentation
    train_accuracy: Share  # on the training images as they are, after the last epoch
    test_accuracy: Share  # on the source's test split, looked at once, after the last epoch
    sha256: str = Field(pattern="^[0-9a-f]{64}$")  # of its file


class ExpertsRecord(Record):
    """How some experts were trained: `experts.json` of their folder."""

    network: Name  # as `networks.build` knows it
    source: SourceRecord
    classes: list[str] = Field(min_length=1, max_length=100_000)  # one per logit
    image_size: int = Field(gt=0, le=1024)  # side of its input, in pixels
    mean: RGB  # of the normalisation, per channel
    std: RGB
    zca: ZcaRecord | None = None  # how the images are whitened; None: they are not
    epochs: int = Field(gt=0, le=100_000)  # that each was trained for
    kept: list[Count] = Field(
        min_length=2, max_length=100_001
    )  # epochs after which the weights are there; 0: before the first
    experts: list[ExpertRecord] = Field(min_length=1, max_length=10_000)
    settings: dict[str, Any]  # batch size, learning rate, seed, ...
    cost: CostRecord
    environment: EnvironmentRecord
    created: Moment

    @model_validator(mode="after")
    def _from_the_start_to_the_end(self):
        if self.kept != sorted(set(self.kept)) or self.kept[0] != 0 or self.kept[-1] != self.epochs:
            raise ValueError("kept must rise from 0 to epochs")
        return self

    @property
    def last_in_a_row(self) -> int:
        """The last epoch up to which the weights of every epoch are there."""
        return next(place for place, epoch in enumerate([*self.kept, None]) if place != epoch) - 1

    @property
    def sha256(self) -> str:
        """Of all of them: over the hashes of their files."""
        return hash_of(expert.sha256 for expert in self.experts)


def file_name(index: int) -> str:
    """Return the name of an expert's file."""
    return f"expert-{index:03d}.safetensors"


def experts_name(source: str, network: str) -> str:
    """Return the name of some experts, used for their folder and repository: <source>-<network>-experts."""
    return f"{slug(source)}-{network.removeprefix('timm/')}-experts"


@dataclass(frozen=True)
class Experts:
    """Experts in a folder, whose weights are read as they are needed."""

    id: str  # as they were named
    folder: Path
    record: ExpertsRecord
    shapes: Mapping[str, torch.Size]  # of the network's parameters, see `parameter_shapes`
    revision: str | None = None  # commit on the Hub

    def weights(self, index: int, epoch: int) -> torch.Tensor:
        """Return the weights of an expert after one of the kept epochs, all in one vector, float32 (P,), on the CPU."""
        place = self.record.kept.index(epoch)
        with safe_open(self.folder / file_name(index), "pt") as file:
            return torch.cat([file.get_slice(name)[place].flatten() for name in self.shapes])

    @property
    def facts(self) -> ExpertsFacts:
        """What the manifest of a set made with them says."""
        own, accuracies = self.record, [expert.test_accuracy for expert in self.record.experts]
        return ExpertsFacts(
            id=self.id if self.revision else public_name(self.id),
            architecture=own.network,
            revision=self.revision,
            sha256=own.sha256,
            test_accuracy=sum(accuracies) / len(accuracies),
            cost=own.cost,
            experts=len(own.experts),
            epochs=own.epochs,
        )


def parameter_shapes(network: str, classes: int, image_size: int) -> dict[str, torch.Size]:
    """Return name and shape of a network's parameters, in the order in which a vector of its weights holds them.

    Raises:
        InputError: For a network that cannot be built.
    """
    with torch.device("meta"):
        outline = build(network, classes, image_size, field="experts")
    return {name: weight.shape for name, weight in outline.named_parameters()}


def load_experts(location: str, revision: str | None = None, *, id: str | None = None) -> Experts:
    """Find experts in a folder, or download them from the Hub, and check that they are what their record says.

    Args:
        location: The folder, or NAMESPACE/NAME of a model on the Hub.
        revision: Branch, tag or commit on the Hub.
        id: What to call them; default: their location.

    Raises:
        InputError: When they are not there, or are damaged: a file is missing, has another hash than the record, or tensors
            that are not those of the network.
        HubError: When the Hub fails.
    """
    if Path(location).is_dir():
        folder, commit = Path(location), None
        if not (folder / EXPERTS).is_file():
            raise InputError("experts", location, f"{VALID} (there is no {EXPERTS} in it)")
        record = ExpertsRecord.read(folder / EXPERTS, MANIFEST_BYTES)
    else:
        remote = look(location, revision, "model")
        if EXPERTS not in remote.files:
            raise InputError("experts", location, f"{VALID} (there is no {EXPERTS} in it)")
        record = ExpertsRecord.read(fetch(remote, [EXPERTS], most_bytes=MANIFEST_BYTES) / EXPERTS, MANIFEST_BYTES)
        names = [file_name(index) for index in range(len(record.experts))]
        if missing := [name for name in names if name not in remote.files]:
            raise InputError("experts", location, f"there is no {missing[0]} in it")
        folder, commit = fetch(remote, names), remote.commit
    shapes = parameter_shapes(record.network, len(record.classes), record.image_size)
    for index, expert in enumerate(record.experts):
        stored = {name: [len(record.kept), *shape] for name, shape in shapes.items()}
        _check(location, folder / file_name(index), stored, expert.sha256)
    return Experts(id or location, folder, record, shapes, commit)


def _check(location: str, file: Path, shapes: dict[str, list[int]], sha256: str) -> None:
    """Refuse an expert's file that is not what the record says."""
    with refusing((OSError, SafetensorError), "experts", location, f"{file.name} must be there, and safetensors"):
        digest = hashlib.sha256()
        with file.open("rb") as stream:
            while block := stream.read(2**20):
                digest.update(block)
        if digest.hexdigest() != sha256:
            raise InputError(
                "experts", location, f"{file.name} was altered: it hashes to {digest.hexdigest()}, not {sha256}"
            )
        with safe_open(file, "pt") as opened:
            slices = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118, it is no dictionary
            found = {name: part.get_shape() for name, part in slices.items()}
            wrong = [name for name in {**shapes, **found} if shapes.get(name) != found.get(name)]
            wrong += [name for name, part in slices.items() if part.get_dtype() != "F32"]
        if wrong:
            needed, there = shapes.get(wrong[0]), found.get(wrong[0])
            raise InputError("experts", location, f"{file.name}, {wrong[0]:.100}: {there}; needed: {needed}, float32")


def split_by_name(weights: torch.Tensor, shapes: dict[str, torch.Size]) -> dict[str, torch.Tensor]:
    """Return the weights (T, P) of an expert as its file holds them: by parameter, (T, ...)."""
    parts: Sequence[torch.Tensor] = weights.split([shape.numel() for shape in shapes.values()], 1)
    return {name: part.unflatten(1, shape).contiguous() for (name, shape), part in zip(shapes.items(), parts, strict=True)}
