"""Bringing a set that was made elsewhere into the artifact format, with a manifest that claims nothing it does not know."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from distill_hub.artifact.base import now
from distill_hub.artifact.describe import source_record
from distill_hub.artifact.find import MANIFEST, Found, find, read_description
from distill_hub.artifact.load import load_artifact
from distill_hub.artifact.manifest import ClassRecord, Manifest, MethodRecord, ModelRecord, mean_ipc
from distill_hub.artifact.names import set_name
from distill_hub.artifact.package import write_artifact
from distill_hub.artifact.rows import encode_images, encoded_of
from distill_hub.config import options, resolved
from distill_hub.data.classes import SourceClass
from distill_hub.data.sources import Source, load_source
from distill_hub.foreign.align import Aligned, align
from distill_hub.foreign.read import read_foreign
from distill_hub.making.finish import next_step, write_card
from distill_hub.options.commands import AdoptConfig, ForeignOptions, RealOptions
from distill_hub.publishing.destination import check_destination
from distill_hub.publishing.publish import publish
from distill_hub.publishing.readme import card_of
from distill_hub.running.console import show
from distill_hub.running.folder import made_with
from distill_hub.running.machine import start_accelerator
from distill_hub.running.run import Run
from distill_hub.teachers.ensemble import teacher_classes
from distill_hub.teachers.open import open_teacher
from distill_hub.training.contract import refuse_chance
from distill_hub.training.subject import HeldOut


def adopt(found: Found, config: AdoptConfig) -> Path:
    """Write an artifact folder from a set of another format; publish it where that is asked for.

    Args:
        found: The set, not in the artifact format.
        config: The real dataset it stands for, and what is known of its making: the source is given.

    Returns:
        The folder.

    Raises:
        InputError: When the set cannot be read, the order of its classes is not on record, they are not the source's, or its
            labels contradict its soft labels or the teacher.
        HubError: When publishing fails; the set is complete in its folder.
    """
    source = load_source(**options(config, RealOptions))
    layout = options(config, ForeignOptions)
    named = layout.pop("classes")
    columns = {name: layout.pop(f"set_{name}") for name in ("image_column", "label_column")}
    commit = found.remote.commit if found.remote else None
    with start_accelerator().main_process_first():
        foreign = read_foreign(config.location, revision=commit, **columns, **layout)
    own = align(foreign, source, named)
    classes = [source.classes[place] for place in own.places]
    given = None if config.teacher else _given_soft_labels(config.location, own, classes)
    counts = np.bincount(own.labels).tolist()
    ipc = mean_ipc(counts)
    method = (config.method or "unknown").lower()
    name = set_name(source.name, ipc, method)
    destination = None
    if config.push_to_hub:
        destination = check_destination(config.push_to_hub, name, private=config.private, gated=config.gated)
    given_set = {"location": config.location, "set_sha256": own.content_sha256, "source_fingerprint": source.fingerprint}
    settings = {**resolved(config), "method": method, **given_set}
    folder = config.output_dir or Path("outputs", name)
    other = _replaceable(folder) if start_accelerator().is_main_process and not config.overwrite else None
    if other:
        show(f"{folder} holds what was adopted from {other}, which is there still; it is replaced")
    run = Run(folder, settings, overwrite=config.overwrite or other is not None)
    soft_labels, whose, teacher, columns = given or _taught_soft_labels(config, run, source, own)
    for line in foreign.remarks:
        run.say(line)
    notes = {
        **foreign.notes,
        **({"unused_files": len(foreign.unused), "unused_files_are": foreign.unused[:20]} if foreign.unused else {}),
        "adopted_from": f"{config.location}@{foreign.revision}"
        if foreign.revision
        else Path(config.location).resolve().name,
    }

    def manifest(content: str) -> Manifest:
        return Manifest(
            name=name,
            origin="external",
            method=MethodRecord(
                name=method,
                title=config.title or config.method or "an unknown method",
                paper=config.paper,
                config={},
                notes=notes,
            ),
            source=source_record(source),
            classes=[
                ClassRecord(name=c.name, wnid=c.wnid, source_index=c.index, teacher_index=column)
                for c, column in zip(classes, columns, strict=True)
            ],
            teacher=teacher,
            soft_labels=whose,
            ipc=ipc,
            class_images=counts if len(set(counts)) > 1 else None,
            image_size=own.images.shape[-1],
            stages=[],
            license=config.license,
            content_sha256=content,
            created=now(),
        )

    encoded = encode_images(run, own.images, config.image_format, {"set": given_set["set_sha256"]})

    def rows():
        for image, file, label, soft_label in zip(own.images, encoded_of(encoded), own.labels, soft_labels, strict=True):
            yield {
                "image": image.permute(1, 2, 0).contiguous().numpy(),
                "encoded": file,
                "label": int(label),
                "soft_label": soft_label,
                "confidence": float(soft_label[label]),
                "seed": -1,  # not known
            }

    def write() -> None:
        written = write_artifact(run.output_dir, rows(), manifest, class_names=[c.name for c in classes])
        write_card(run.output_dir, written, own.images)

    run.on_main("package", write)
    run.say(f"The distilled set is in {run.output_dir}")
    if destination:
        run.on_main(
            "push", lambda: run.say(f"Published as {publish(load_artifact(run.output_dir, rows=False), destination)}")
        )
    run.say(next_step(run.output_dir, source_record(source), config.source))
    run.end()
    return run.output_dir


def _replaceable(folder: Path) -> str | None:
    """Return what the set in a folder was adopted from, where that would give it again and nothing was added to it since.

    Nothing is lost when another takes its place; scores, views and what people wrote in the card would be.
    """
    location = str((made_with(folder) or {}).get("location") or "")
    if not os.path.exists(location) or not (folder / MANIFEST).is_file():
        return None
    manifest, evaluations = read_description(find(folder))
    edited, generated = card_of(folder)
    added = evaluations or manifest.views or edited != generated
    return location if manifest.origin == "external" and not added else None


SoftLabels = tuple[np.ndarray, str, ModelRecord | None, list[int | None]]  # (N, C), whose, teacher, its columns


def _given_soft_labels(location: str, own: Aligned, classes: Sequence[SourceClass]) -> SoftLabels:
    """Return what the set itself says of its classes."""
    whose, names = "one-hot" if own.soft_labels is None else "author", [c.name for c in classes]
    refuse_chance("distilled set", location, own.probabilities.argmax(1), own.labels, names, "its soft labels")
    return own.probabilities, whose, None, [None] * len(classes)


def _taught_soft_labels(config: AdoptConfig, run: Run, source: Source, own: Aligned) -> SoftLabels:
    """Let the teacher label the images."""
    test = HeldOut(source, own.places)
    classifier, teacher = open_teacher(
        run,
        test,
        own.images.shape[-1],
        teacher=config.teacher,
        teacher_revision=config.teacher_revision,
        teacher_epochs=config.teacher_epochs,
        seed=config.fit_seed,
    )

    @torch.inference_mode()
    def label(chunk: range) -> dict[str, torch.Tensor]:
        return {"logits": classifier.logits(own.images[list(chunk)].to(run.device).float() / 255)}

    made_from = {"set": own.content_sha256, "teacher": teacher.sha256}
    stage = run.map("label", range(len(own.labels)), label, chunk_size=256, made_from=made_from)
    names = [c.name for c in test.classes]
    soft_labels = stage.rows(0, len(stage))["logits"].double().softmax(1).float().numpy()
    refuse_chance("teacher", teacher.id, soft_labels.argmax(1), own.labels, names, "its soft labels")
    return soft_labels, "teacher", teacher, teacher_classes(classifier)
