"""The end of every recipe: package the set, score it and its baselines, write record, picture and card."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

from distill_hub.artifact.find import find, read_description, read_records
from distill_hub.artifact.load import load_artifact
from distill_hub.artifact.manifest import Manifest
from distill_hub.artifact.package import write_artifact
from distill_hub.artifact.records import EvaluationRecord
from distill_hub.artifact.rows import encode_images, images_of, rows
from distill_hub.artifact.source import SourceRecord
from distill_hub.data.known import FITTED
from distill_hub.disk.files import atomic_write, folder_name
from distill_hub.evaluation.scores import in_words, measure, score_table
from distill_hub.evaluation.views import draw_views, store_views
from distill_hub.making.pictures import Picture, curves, embedding, refinement
from distill_hub.making.plan import expect_rest, shown_set, trials_for
from distill_hub.making.space import free_pixels_record
from distill_hub.making.start import Setup
from distill_hub.matching.space import Space
from distill_hub.publishing.plots import preview_grid
from distill_hub.publishing.publish import publish
from distill_hub.publishing.readme import card_of, readme_files
from distill_hub.publishing.teacher import how_to_publish
from distill_hub.running.run import Stage
from distill_hub.text import typed
from distill_hub.training.contract import OTHER_CLASSES, excuse, refuse_chance
from distill_hub.training.subject import Subject, label_temperature, student_rate
from distill_hub.training.train import TrainingSet
from distill_hub.views.files import open_views

_LEARNED_TOO_LITTLE = (
    "it has learned too little; what helps is more --fit_dit_steps, more images, or a --generator that is trained already"
)


def package_and_score(
    setup: Setup,
    stage: Stage,
    manifest: Manifest,
    *,
    pool: Stage | None = None,
    refined_from: Sequence[int] | None = None,
    baselines: Mapping[str, Callable[[], TrainingSet]] | None = None,
    pictures: Mapping[str, Picture] | None = None,
    space: Space | None = None,
) -> Path | None:
    """Turn the images of a stage into a scored artifact, publish it, and print where it is, the scores and the stage times.

    Args:
        setup: What the recipe works with; the artifact is the run's output folder.
        stage: The set: images, the teacher's logits, and seeds, class by class.
        manifest: All but the content hash; see `Setup.manifest`.
        pool: What the set was chosen from, as many candidates of every class, where a generator drew them. The first of them
            are a baseline, and a picture shows where pool and set lie.
        refined_from: Rows of the pool, in the order of the set, whose refinement is shown; None where nothing was refined.
        baselines: Further sets to score beside random real images.
        pictures: What else the method shows of its work, `assets/<name>.png` of `publishing.card.PICTURES`; drawn by the
            main process.
        space: That of methods that optimise pixels; where these are free, the stage has them as `pixels`.

    With --score no there are neither students nor baselines, and no new records.

    Returns:
        The folder of the set; None after a dry run, which makes none.

    Raises:
        InputError: When the teacher recognises the set's classes no better than chance. Of images that it need not
            recognise, see `contract.excuse`, a line says so instead.
        HubError: When publishing fails; the set is complete in its folder.
    """
    setup.release()
    baselines, shown = dict(baselines or {}), dict(pictures or {})
    if pool is not None:
        baselines[setup.plain] = setup.plain_samples(pool)
    if setup.run.is_dry:
        expect_rest(setup, stage, baselines, space)
        setup.run.end()
        return None
    run, config, teacher, labels = setup.run, setup.config, setup.teacher, setup.labels
    folder, label_tensor = run.output_dir, torch.tensor(labels)
    manifest = manifest.model_copy(update={"free_pixels": free_pixels_record(space)})
    made_by = ("generator", manifest.generator.id) if manifest.generator else ("method", manifest.method.name)
    # What was fitted here knows the source's classes in their order.
    fitted = manifest.generator is not None and manifest.generator.id.startswith(FITTED)
    refuse_chance(
        *made_by,
        torch.cat([part["logits"].argmax(1) for part in stage.batches("logits")]).numpy(),
        label_tensor.numpy(),
        manifest.class_names,
        "its images",
        excuse(manifest) or (_LEARNED_TOO_LITTLE if fitted else OTHER_CLASSES),
        run.say if excuse(manifest) else None,
    )

    rules = setup.protocol
    students = rules.students(config.students, manifest.image_size) if config.score == "yes" else []
    stages = {student: f"evaluate {student}".replace("/", "-") for student in students}
    of_views, push = ["views", "store views"] * bool(setup.views), ["push"] * bool(setup.destination)
    run.refuse_unknown_stage(["images", "encode images", "package", *of_views, *stages.values(), "card", *push])
    images = images_of(run, stage)
    encoded = encode_images(run, images, config.image_format, {"set": stage.sha256})

    def package() -> None:
        write_artifact(
            folder,
            rows(stage, images, encoded, labels, free=manifest.free_pixels is not None),
            lambda content: manifest.model_copy(update={"content_sha256": content}),
            class_names=manifest.class_names,
            free_side=manifest.free_side,
        )

    run.on_main("package", package)
    manifest = Manifest.read(folder / "manifest.json")
    own = shown_set(setup, stage, images, space)
    if how := setup.views:
        drawn = draw_views(run, own.images, teacher, manifest.teacher, **how)
        run.on_main("store views", lambda: store_views(folder, manifest, *drawn))
        manifest = Manifest.read(folder / "manifest.json")
    if rules.labels == "views":
        own = dataclasses.replace(own, views=open_views(find(folder), manifest))
    subject = Subject(
        own, setup.test, manifest.content_sha256, teacher, manifest.teacher, label_temperature(manifest),
        student_rate(manifest), tiles=manifest.tiles, zca=space.zca if space else None, folder=folder,
    )  # fmt: skip
    seeds = range(manifest.seed, manifest.seed + config.repeats)
    records = []
    for student in students:
        trials = trials_for(setup, subject, student, baselines)
        how = {
            "together": config.seeds_together,
            "compiled": config.compile,
            "stage": stages[student],
            "made_from": {
                **setup.made_from,
                "set": manifest.content_sha256,
                "views": own.views and own.views.record.sha256,
                "pool": pool and pool.sha256,
            },
        }
        records.append(measure(run, subject, rules, student, seeds, trials, **how))
    shown |= curves(records)
    if pool is not None:
        shown["embedding"] = embedding(setup, pool, stage)
    if refined_from is not None:
        shown["refinement"] = refinement(setup, pool, refined_from, stage)
    run.on_main("card", lambda: _record_and_describe(folder, manifest, records, images, shown))
    run.say(run.summary())
    if records:
        run.say(score_table(records, manifest.ipc))
    for record in records:
        run.say(in_words(record, manifest))
    run.say(f"The distilled set is in {folder}")
    if setup.destination:
        run.on_main("push", lambda: run.say(f"Published as {publish(load_artifact(folder, rows=False), setup.destination)}"))
        if run.is_main and (said := how_to_publish(folder, setup.destination.repo_id)):
            run.say(said)
    run.say(next_step(folder, manifest.source, config.source))
    run.end(keep=config.keep_run == "yes")
    return folder


def next_step(folder: Path, source: SourceRecord, location: str) -> str:
    """Say what to do with a finished set.

    Args:
        folder: Of the set.
        source: The real dataset, as the set names it.
        location: Where it lies here.
    """
    place = typed(folder)
    real = f" --source {typed(location)}" if source.is_folder else ""
    again = " again" if read_records(folder) else ""
    return f"Next: `distill-hub evaluate {place}{real}` scores it{again}, `distill-hub push {place}` publishes it"


def _record_and_describe(
    folder: Path,
    manifest: Manifest,
    records: Sequence[EvaluationRecord],
    images: torch.Tensor,
    pictures: Mapping[str, Picture],
) -> None:
    """Write the author's records, in place of earlier ones of the same, the pictures, and the card."""
    for name, old in read_records(folder).items():
        if any(old.measures_the_same(record) for record in records):
            (folder / name).unlink()
    for record in records:
        atomic_write(folder / "evaluations" / record.file_name, record.to_json().encode())
    for name, draw in pictures.items():
        draw(folder / "assets" / f"{name}.png")
    write_card(folder, manifest, images)


def write_card(folder: Path, manifest: Manifest, images: torch.Tensor) -> None:
    """Write preview and card of a finished folder; what people wrote in the card stays.

    Args:
        folder: Holds data, manifest and records.
        manifest: The manifest.
        images: The set, class by class, uint8 (N, 3, S, S).
    """
    grid = [own.permute(0, 2, 3, 1).numpy() for own in images.split(manifest.counts)]
    preview_grid(grid, manifest.class_names, folder / "assets" / "preview.png")
    found = find(folder)
    _, evaluations = read_description(found)
    files = readme_files(manifest, evaluations, location=folder_name(folder), files=found.files, edited=[card_of(folder)])
    for name, content in files.items():
        atomic_write(folder / name, content)
