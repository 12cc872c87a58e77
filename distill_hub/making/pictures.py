"""Pictures for the card that a recipe has the data for. Each is a function that draws a file, of a few classes alone."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from distill_hub.artifact.records import EvaluationRecord
from distill_hub.making.start import Setup
from distill_hub.publishing.plots import COLORS, drawable, embedding_map, learning_curves, refinement_grid, spread
from distill_hub.running.run import Stage
from distill_hub.running.seeds import cpu_generator, draw_seed

Picture = Callable[[Path], None]
REFINED = 10  # images before and after, each of another class
REAL = 100  # images per class that are embedded


def refinement(
    setup: Setup, pool: Stage, chosen: Sequence[int], refined: Stage, rows: tuple[str, str] = ("before", "after")
) -> Picture:
    """Show the first image of some classes before and after its refinement.

    Args:
        setup: What the recipe works with.
        pool: What was drawn, with `images`.
        chosen: Rows of the pool, in the order of the set.
        refined: The set, with `images`, class by class.
        rows: What the two are called.
    """

    def draw(path: Path) -> None:
        shown = spread(len(setup.source.classes), REFINED).tolist()
        first = [label * setup.config.ipc for label in shown]
        before = pool.take([chosen[row] for row in first], "images")["images"]
        after = refined.take(first, "images")["images"]
        before, after = (images.permute(0, 2, 3, 1).numpy() for images in (before, after))
        names = drawable(setup.source.class_names)
        refinement_grid(before, after, [names[label] for label in shown], path, rows=rows)

    return draw


def guidance(setup: Setup, plain: Stage, guided: Stage) -> Picture:
    """Show the first image of some classes drawn plainly and with guidance from the same noise, both class by class."""
    return refinement(setup, plain, range(len(plain)), guided, ("plain", "guided"))


def embedding(setup: Setup, pool: Stage, selected: Stage) -> Picture:
    """Show where a pool and the set that came of it lie among real images, as the teacher sees them.

    Args:
        setup: What the recipe works with.
        pool: What was drawn, with `images`, as many of each class.
        selected: The set, with `images`, class by class.
    """

    def draw(path: Path) -> None:
        train, names, ipc = setup.source.train, setup.source.class_names, setup.config.ipc
        shown, per_class = spread(len(names), len(COLORS)).tolist(), len(pool) // len(names)
        kinds = {"real": [], "pool": [], "this set": []}
        for label in shown:
            rows = train.by_class[label]
            seed = draw_seed(setup.config.seed, "embedding picture", names[label])
            drawn = torch.randperm(len(rows), generator=cpu_generator(seed))[:REAL]
            kinds["real"].append(setup.teacher.embeddings(train.pixels(rows[drawn.numpy()], setup.image_size)))
            for kind, stage, count in (("pool", pool, per_class), ("this set", selected, ipc)):
                images = stage.rows(label * count, (label + 1) * count, "images")["images"]
                kinds[kind].append(setup.teacher.embeddings(images))
        arrays = {kind: [tensor.numpy() for tensor in tensors] for kind, tensors in kinds.items()}
        legible = drawable(names)
        embedding_map(arrays, [legible[label] for label in shown], path)

    return draw


def curves(records: Sequence[EvaluationRecord]) -> dict[str, Picture]:
    """Show how the students of a protocol learned, if the test split was looked at more than once."""
    shown = {r.student: r for r in records if r.score.curve and len(r.score.curve[0]) > 1}
    panels = {
        student: {name: np.array(score.curve) for name, score in record.scores.items() if score.curve}
        for student, record in shown.items()
    }
    looks = {student: record.settings["looks"] for student, record in shown.items()}
    return {"curves": lambda path: learning_curves(panels, looks, path)} if shown else {}
