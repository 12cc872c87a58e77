"""The end of every recipe: package the set, score it and its baselines, write record, picture and card."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

from distill_hub.artifact.describe import rows
from distill_hub.artifact.destination import Destination
from distill_hub.artifact.load import find, load_artifact, read_description, read_records
from distill_hub.artifact.manifest import Manifest
from distill_hub.artifact.package import write_artifact
from distill_hub.artifact.plots import preview_grid
from distill_hub.artifact.publish import publish
from distill_hub.artifact.readme import card_of, readme_files
from distill_hub.artifact.records import EvaluationRecord
from distill_hub.classifiers import student_name
from distill_hub.evaluation.contract import refuse_chance
from distill_hub.evaluation.protocols import protocol as protocol_named
from distill_hub.evaluation.scores import Labelled, random_real, record_scores, score_sets, score_table
from distill_hub.run import Run, Stage, atomic_write
from distill_hub.sources import Source


def package_and_score(
    run: Run,
    source: Source,
    manifest: Manifest,
    stage: Stage,
    labels: Sequence[int],
    test: Labelled,
    *,
    image_format: str,
    protocol: str,
    student: str,
    repeats: int,
    baselines: Mapping[str, Callable[[int], Labelled]],
    destination: Destination | None,
) -> None:
    """Turn the images of a stage into a scored artifact, publish it, and print where it is, the scores and the stage times.

    Args:
        run: The run; the artifact is its output folder.
        source: Real images, for the random baseline.
        manifest: All but the content hash; see `artifact.describe.describe`.
        stage: The set: images, the teacher's logits, and seeds, class by class.
        labels: Label of each image.
        test: The source's test split.
        image_format: 'png' or 'webp'.
        protocol: Name of the protocol.
        student: Name of the student, or 'auto'.
        repeats: Students per set, with seeds seed, seed + 1, ...
        baselines: Further sets to score beside random real images.
        destination: Where to publish the set; None: nowhere.

    Raises:
        InputError: When the teacher recognises the set's classes no better than chance.
        HubError: When publishing fails; the set is complete in its folder.
    """
    folder, size, label_tensor = run.output_dir, manifest.image_size, torch.tensor(labels)
    predicted = stage.rows(0, len(stage), "logits")["logits"].argmax(1).numpy()
    refuse_chance("generator", manifest.generator.id, predicted, label_tensor.numpy(), manifest.class_names, "its images")

    def package() -> None:
        write_artifact(
            folder,
            rows(stage, labels),
            lambda content: manifest.model_copy(update={"content_sha256": content}),
            class_names=manifest.class_names,
            image_format=image_format,
        )

    run.on_main("package", package)
    manifest = Manifest.read(folder / "manifest.json")
    images = stage.rows(0, len(stage), "images")["images"]
    sets = {"this set": lambda seed: (images, label_tensor), **baselines}
    sets["random real"] = random_real(source, manifest.ipc, size, range(len(manifest.classes)))
    rules, student = protocol_named(protocol), student_name(student, size)
    seeds = range(manifest.seed, manifest.seed + repeats)
    scores = score_sets(run, sets, test, len(manifest.classes), student, rules, seeds)
    record = record_scores(
        run, scores, student, rules, seeds, content_sha256=manifest.content_sha256, source_revision=source.revision
    )
    run.on_main("card", lambda: _record_and_describe(folder, manifest, record, images))
    run.say(run.summary())
    run.say(score_table(record, manifest.ipc))
    run.say(f"The distilled set is in {folder}")
    if destination:
        run.on_main("push", lambda: run.say(f"Published as {publish(load_artifact(folder), destination)}"))
    run.end()


def _record_and_describe(folder: Path, manifest: Manifest, record: EvaluationRecord, images: torch.Tensor) -> None:
    """Write the author's record, in place of an earlier one of the same, and the card."""
    for name, old in read_records(folder).items():
        if old.measures_the_same(record):
            (folder / name).unlink()
    atomic_write(folder / "evaluations" / record.file_name, record.to_json().encode())
    write_card(folder, manifest, images)


def write_card(folder: Path, manifest: Manifest, images: torch.Tensor) -> None:
    """Write preview and card of a finished folder; what people wrote in the card stays.

    Args:
        folder: Holds data, manifest and records.
        manifest: The manifest.
        images: The set, class by class, uint8 (C * IPC, 3, S, S).
    """
    grid = images.unflatten(0, (len(manifest.classes), manifest.ipc)).permute(0, 1, 3, 4, 2).numpy()
    preview_grid(grid, manifest.class_names, folder / "assets" / "preview.png")
    found = find(folder)
    _, evaluations = read_description(found)
    files = readme_files(manifest, evaluations, location=str(folder), files=found.files, edited=[card_of(folder)])
    for name, content in files.items():
        atomic_write(folder / name, content)
