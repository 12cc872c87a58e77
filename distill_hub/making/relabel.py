"""Adding stored views to a set that exists."""

import torch

from distill_hub.artifact.find import Found
from distill_hub.artifact.load import Artifact
from distill_hub.config import InputError, options
from distill_hub.evaluation.read import read_together, scratch
from distill_hub.evaluation.views import check_top_k, draw_views, store_views
from distill_hub.making.finish import write_card
from distill_hub.options.commands import RealOptions, RelabelConfig
from distill_hub.options.shared import KeptLabelsOptions
from distill_hub.running.session import session, working_in
from distill_hub.teachers.open import open_known_teacher
from distill_hub.text import typed
from distill_hub.training.post_training import FKD_EPOCHS
from distill_hub.training.subject import HeldOut, real_source
from distill_hub.training.train import TrainingSet


def relabel(found: Found, config: RelabelConfig) -> None:
    """Let a teacher label augmented views of every image of a set, and store them beside it; earlier views are replaced.

    Args:
        found: The set, in a folder.
        config: The views, and the teacher.

    Raises:
        InputError: When the set cannot be trusted, or its teacher cannot be opened.
    """
    with scratch() as folder:
        _relabel(read_together(found, folder), found, config)


def _relabel(artifact: Artifact, found: Found, config: RelabelConfig) -> None:
    if artifact.free_pixels is not None:
        raise InputError("distilled set", found.location, "its students see free pixels, and views are of pictures")
    manifest, images = artifact.manifest, torch.from_numpy(artifact.pixels)
    real, places = real_source(manifest, published=False, **options(config, RealOptions))
    check_top_k(config.top_k, len(manifest.classes))
    kept = options(config, KeptLabelsOptions)
    settings = {
        "content_sha256": manifest.content_sha256,
        "epochs": config.epochs,
        "batch_size": config.batch_size,
        "seed": config.seed,
        **kept,
        "teacher": [config.teacher, config.teacher_revision]
        if config.teacher
        else manifest.teacher and manifest.teacher.sha256,
    }
    with session("views", settings, dry_run=config.dry_run) as run, working_in(run, found.folder):
        test, size = HeldOut(real, places), manifest.image_size
        teacher, record = open_known_teacher(
            run, test, size,
            teacher=config.teacher, teacher_revision=config.teacher_revision,
            record=manifest.teacher, config=manifest.method.config,
        )  # fmt: skip
        labels, made_from = torch.from_numpy(artifact.labels), {"set": manifest.content_sha256}
        shown = TrainingSet(images, labels).decoded(run, "tiles", manifest.tiles, made_from)
        drawn = draw_views(
            run, shown.images, teacher, record,
            epochs=config.epochs, mirrored=real.mirrored, seed=config.seed, batch_size=config.batch_size, **kept,
        )  # fmt: skip
        if run.is_dry:
            return

        def store() -> None:
            write_card(found.folder, store_views(found.folder, manifest, *drawn), images)

        run.on_main("store views", store)
        run.say(f"The views are in {found.folder / 'views'}; load_dataset({str(found.folder)!r}, 'views') reads them")
        rules = "lpqld" if config.top_k else "fkd"
        if config.epochs >= FKD_EPOCHS:
            run.say(f"Next: `distill-hub evaluate {typed(found.folder)} --protocol {rules}` trains students on them")
        else:
            run.say(f"They are for other training loops: students of {rules} need --epochs {FKD_EPOCHS}")
