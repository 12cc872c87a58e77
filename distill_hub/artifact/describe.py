"""From a finished run to its manifest."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import nn

from distill_hub.artifact.base import now
from distill_hub.artifact.generator import base_name, read_tuning
from distill_hub.artifact.manifest import (
    ClassRecord,
    Combination,
    CostRecord,
    EnvironmentRecord,
    Manifest,
    MethodRecord,
    ModelRecord,
    SelectorRecord,
    StageRecord,
)
from distill_hub.artifact.names import public_name, source_name
from distill_hub.artifact.source import SourceRecord
from distill_hub.classifiers import Classifier
from distill_hub.data.citations import SOURCES
from distill_hub.data.known import FITTED
from distill_hub.data.sources import Source
from distill_hub.generators.base import Decoder, Generator
from distill_hub.generators.known import IMAGENET_DIT
from distill_hub.running.cost import COST, added
from distill_hub.running.run import Run


def weights_sha256(*modules: nn.Module) -> str:
    """Hash all weights of some modules, by name: the same for any file layout and device."""
    return hash_of_weights(*(module.state_dict() for module in modules))


def hash_of_weights(*weights: Mapping[str, torch.Tensor]) -> str:
    """Hash the weights of modules; see `weights_sha256`."""
    digest = hashlib.sha256()
    for own in weights:
        for name, tensor in sorted(own.items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def read_cost(folder: Path | None) -> CostRecord | None:
    """Read what the fit of the model in a folder took; None where nothing says so.

    Raises:
        InputError: When the record cannot be read.
    """
    return CostRecord.read(folder / COST) if folder and (folder / COST).is_file() else None


def teacher_record(teacher: Classifier, id: str, test_accuracy: float | None) -> ModelRecord:
    """Describe a teacher.

    Args:
        teacher: The teacher.
        id: What to call it.
        test_accuracy: Share of the source's test images that it recognises; None where it was not measured.
    """
    return ModelRecord(
        id=public_name(id),
        architecture=teacher.architecture,
        revision=teacher.revision,
        sha256=weights_sha256(teacher.model),
        license=teacher.license,
        test_accuracy=test_accuracy,
        cost=read_cost(Path(teacher.id)),
    )


def ensemble_record(members: Sequence[ModelRecord], combination: Combination, test_accuracy: float | None) -> ModelRecord:
    """Describe teachers that label together.

    Args:
        members: The record of each.
        combination: How their logits are combined.
        test_accuracy: Share of the source's test images that they recognise together; None where it was not measured.
    """
    said = "\n".join([combination, *(member.sha256 for member in members)])
    costs = [member.cost for member in members if member.cost]
    hardware = " + ".join(dict.fromkeys(cost.hardware for cost in costs))
    licenses = dict.fromkeys(member.license for member in members)
    return ModelRecord(
        id=",".join(member.id for member in members),
        architecture=f"ensemble of {', '.join(member.architecture for member in members)}",
        sha256=hashlib.sha256(said.encode()).hexdigest(),
        license=None if None in licenses else ", ".join(licenses),
        test_accuracy=test_accuracy,
        cost=CostRecord(**added(*map(vars, costs)), hardware=hardware) if len(costs) == len(members) else None,
        members=list(members),
        combination=combination,
    )


def generator_record(generator: Generator, id: str) -> ModelRecord:
    """Describe a generator.

    Args:
        generator: The generator, fine-tuned or not.
        id: What to call it; one that was fine-tuned and lies in a folder is called after its base instead.

    Raises:
        InputError: When the record of its fine-tuning cannot be read.
    """
    facts = generator.facts
    tuning = read_tuning(facts.folder)
    if tuning and facts.revision is None:
        id = f"{base_name(tuning.base)}, tuned with {tuning.method.name} on {source_name(tuning.source)}"
    return ModelRecord(
        id=id if facts.revision or tuning or id == IMAGENET_DIT else public_name(id),
        architecture=facts.architecture,
        revision=facts.revision,
        sha256=weights_sha256(*facts.modules),
        license=facts.license,
        timestep_features=facts.timestep_features,
        vae=_vae_record(facts.decoder) if facts.decoder else None,
        tuning=tuning,
        cost=read_cost(facts.folder),
    )


def _vae_record(decoder: Decoder) -> ModelRecord:
    return ModelRecord(
        id=decoder.id if decoder.revision else public_name(decoder.id),
        architecture=type(decoder.module).__name__,
        revision=decoder.revision,
        sha256=weights_sha256(decoder.module),
        license=decoder.license,
    )


def source_record(source: Source) -> SourceRecord:
    """Describe a source."""
    return SourceRecord(
        name=source.name if source.hub_id else public_name(source.name),
        hub_id=source.hub_id,
        revision=source.revision,
        config=source.config,
        fingerprint=source.fingerprint,
        train_split=source.train.name,
        test_split=source.test.name,
        image_column=source.train.image_column,
        label_column=source.label_column,
        test_fraction=source.test_fraction,
        train_images=len(source.train),
        test_images=len(source.test),
        mirrored=source.mirrored,
        normalization=source.normalization,
        license=source.license,
        bibtex=SOURCES.get(source.hub_id or source.name),
    )


def set_license(source: Source, generator: ModelRecord | None) -> str | None:
    """Return the licence of a set: its generator's, or its source's where it has none or one that was fitted to the source.

    A generator from elsewhere whose licence is not known leaves that of its images unknown, too.
    """
    own = generator is None or generator.id.startswith(FITTED)
    return source.license if own else generator.license


def describe(
    run: Run,
    source: Source,
    name: str,
    method: MethodRecord,
    *,
    generator: ModelRecord | None,
    generator_classes: Sequence[int] | None,
    prompts: Sequence[str] | None,
    teacher: ModelRecord,
    teacher_classes: Sequence[int | None],
    selector: SelectorRecord | None,
    ipc: int,
    image_size: int,
    tiles: int | None,
    seed: int,
) -> Manifest:
    """Build the manifest of a run, all but the content hash. Call it on every process.

    Args:
        run: Its stages and environment go into the manifest.
        source: The real dataset.
        name: Of the set.
        method: The method and its settings.
        generator: The generator; None where a method has none.
        generator_classes: The generator's id of each class; None without one.
        prompts: What the generator was told of each of its own classes; None where it was told no text.
        teacher: The teacher.
        teacher_classes: The teacher's column of each class; None: several teachers have it at different places.
        selector: The classifier that judged candidates; None where a method has none.
        ipc: Images per class.
        image_size: Side of the images in pixels.
        tiles: Of a set of f x f tiles, f.
        seed: The run's seed.
    """
    indices = zip(source.classes, generator_classes or [None] * len(source.classes), teacher_classes, strict=True)
    return Manifest(
        name=name,
        method=method,
        source=source_record(source),
        classes=[
            ClassRecord(
                name=c.name,
                wnid=c.wnid,
                source_index=c.index,
                generator_index=g,
                teacher_index=t,
                prompt=prompts[g] if prompts and g is not None else None,
            )
            for c, g, t in indices
        ],
        generator=generator,
        teacher=teacher,
        selector=selector,
        ipc=ipc,
        image_size=image_size,
        tiles=tiles,
        seed=seed,
        stages=[StageRecord(**{field: s.get(field) for field in StageRecord.model_fields}) for s in run.stages],
        environment=EnvironmentRecord(**run.environment()),
        license=set_license(source, generator),
        content_sha256="0" * 64,  # known once the rows are written
        created=now(),
    )
