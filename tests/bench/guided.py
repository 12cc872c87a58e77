"""Guided sets beside plain samples: what a teacher makes of them, what they cost, how students do. Run by hand.

    for seed in 0 1 2; do for recipe in mgd3 igd d4m; do
        distill-hub make $recipe --seed $seed --repeats 1 --view_epochs 0 --output_dir outputs/$recipe-$seed; done; done
    python tests/bench/guided.py --teacher CACHE/digits-teacher-... outputs/*-[0-2]

The teacher is a folder or Hub id, best the one that the sets were made with. Sets of one method and generator are averaged.
Each folder's pool, the plain samples of the same noise, is measured beside its set where it is still there.

- agreement: share of the images that the teacher takes for their class.
- diversity: mean distance between the teacher's embeddings of two images of a class, over that of two real ones.
- coverage (Naeem et al., 2020): share of a class's real images whose ball, up to its fifth nearest real one, holds an image
  of the set. As many random real images, drawn again for each set, say what is to be had.
- cost: core-seconds of all that comes before an image of the set is labelled, over those of the plain samples.
- students: last test accuracy in %, mean ± standard deviation over sets; those of plain samples and real images as recorded.
"""

import argparse
import statistics
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import torch

from distill_hub import load_distilled
from distill_hub.artifact.manifest import Manifest
from distill_hub.classifiers import Classifier, load_classifier
from distill_hub.data.sources import Source, load_source
from distill_hub.disk.files import STATE
from distill_hub.running.console import show
from distill_hub.running.seeds import cpu_generator
from distill_hub.running.stages import Stage, chunks_in

NEAREST = 5
PLAIN, REAL = "plain samples", "random real"
AFTER = ("package", "views", "store views", "card", "push")  # stages


def measures(teacher: Classifier, images: torch.Tensor, real: Sequence[torch.Tensor]) -> dict[str, float]:
    """Return agreement, diversity and coverage of a set.

    Args:
        teacher: Judges.
        images: uint8 (C·IPC, 3, S, S), class by class.
        real: Embeddings of all real images of each class, (N, D).
    """
    per_class = len(images) // len(real)
    labels = torch.arange(len(real)).repeat_interleave(per_class)
    agreement = (teacher.judge(images).argmax(1).cpu() == labels).float().mean()
    parts = teacher.embeddings(images).cpu().double().split(per_class)
    spread, covered = [], []
    for own, all_real in zip(parts, (part.double() for part in real), strict=True):
        spread.append(torch.pdist(own).mean() / torch.pdist(all_real).mean())
        radius = torch.cdist(all_real, all_real).kthvalue(NEAREST + 1).values  # each is its own nearest
        covered.append((torch.cdist(all_real, own) <= radius[:, None]).any(1).double().mean())
    return {
        "agreement": float(agreement),
        "diversity": float(torch.stack(spread).mean()),
        "coverage": float(torch.stack(covered).mean()),
    }


def cost(manifest: Manifest) -> float | None:
    """Return what the images took, over what as many plain samples did; None where that is not on record."""
    seconds: dict[str, float] = defaultdict(float)
    for stage in manifest.stages:
        if stage.name not in AFTER and not stage.name.startswith(("evaluate", "fit ")):
            seconds[stage.name] += stage.core_seconds or 0.0
    plain = seconds.pop("pool", 0.0)
    return sum(seconds.values()) / plain if plain and seconds else None


def images_of(folder: Path, stage: str) -> torch.Tensor | None:
    """Return the images of a stage that a run has left, or None."""
    chunks = chunks_in(folder / STATE / stage)
    if not chunks:
        return None
    sizes = [chunk.facts()["items"] for chunk in chunks]
    return Stage(folder / STATE / stage, sizes[0], sum(sizes)).rows(0, sum(sizes), "images")["images"]


def rows_of(folder: Path, teacher: Classifier, source: Source, real: Sequence[torch.Tensor]) -> dict[str, dict[str, float]]:
    """Return what there is to say of a set, of its plain samples, and of as many random real images."""
    found = load_distilled(folder)
    manifest, ipc = found.manifest, found.manifest.ipc
    kind = manifest.generator.architecture if manifest.generator else "no generator"
    images = torch.from_numpy(found.pixels)
    own = f"{manifest.method.name} ({kind})"
    rows = {own: measures(teacher, images, real)}
    if (spent := cost(manifest)) is not None:
        rows[own]["cost"] = spent
    if (pool := images_of(folder, "pool")) is not None and len(pool) == len(images):
        rows[f"{PLAIN} ({kind})"] = {**measures(teacher, pool, real), "cost": 1.0}
    draw = cpu_generator(manifest.seed)
    picked = [rows[torch.randperm(len(rows), generator=draw)[:ipc].numpy()] for rows in source.train.by_class]
    drawn = torch.cat([source.train.pixels(own, images.shape[-1]) for own in picked])
    rows[f"{REAL}, IPC {ipc}"] = measures(teacher, drawn, real)
    for record in found.evaluations:
        name = f"{record.protocol_label}, {record.student}"
        rows[own][name] = 100 * record.score.mean
        for baseline, score in record.baselines.items():
            row = f"{REAL}, IPC {ipc}" if baseline == REAL else f"{PLAIN} ({kind})"
            if row in rows:
                rows[row][name] = 100 * score.mean
    return rows


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, help="finished runs")
    parser.add_argument("--teacher", required=True)
    parser.add_argument("--source", default="digits")
    args = parser.parse_args()
    source = load_source(args.source)
    teacher = load_classifier(args.teacher, source.classes)
    size = load_distilled(args.folders[0]).pixels.shape[-1]
    real = [teacher.embeddings(source.train.pixels(rows, size)).cpu() for rows in source.train.by_class]
    table: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for folder in args.folders:
        for row, cells in rows_of(folder, teacher, source, real).items():
            for column, value in cells.items():
                table[row][column].append(value)
    columns = list(dict.fromkeys(column for cells in table.values() for column in cells))
    show("| | sets | " + " | ".join(columns) + " |\n" + "|---" * (len(columns) + 2) + "|")
    for row, cells in table.items():
        texts = [_text(cells[column], 3 if column in ("agreement", "diversity", "coverage") else 1) for column in columns]
        show(f"| {row} | {len(cells['agreement'])} | " + " | ".join(texts) + " |")


def _text(values: Sequence[float], digits: int) -> str:
    if not values:
        return ""
    spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.{digits}f}{spread}"


if __name__ == "__main__":
    main()
