"""The pool every generative method starts from: candidates drawn, decoded and judged by the teacher."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from distill_hub.classifiers import Classifier
from distill_hub.config import InputError
from distill_hub.generators.base import Generator
from distill_hub.methods.judging import VERDICTS, Verdicts, judge, judge_images
from distill_hub.running.run import Run, Stage
from distill_hub.running.seeds import draw_seed

HALF = "--mixed_precision bf16"  # what helps where memory does not suffice for one image


@dataclass(frozen=True)
class Candidates:
    """One class's pool of N candidates."""

    label: int  # position of the class
    logits: torch.Tensor  # float32 (N, C), of the teacher, in class order
    embeddings: torch.Tensor  # float32 (N, D), of the teacher
    seeds: torch.Tensor  # int64 (N,), redraw the candidates

    def __len__(self) -> int:
        return len(self.seeds)

    def check(self, ipc: int) -> None:
        """See `check_pool`."""
        check_pool(ipc, len(self))


def check_pool(ipc: int, size: int) -> None:
    """Refuse to select more than there are.

    Raises:
        InputError: When IPC is larger than the pool.
    """
    if ipc > size:
        raise InputError("ipc", ipc, f"the pool holds {size} candidates per class; raise pool_factor")


@torch.inference_mode()
def render(
    generator: Generator,
    teacher: Classifier,
    latents: torch.Tensor,
    labels: Sequence[int] | None = None,
    keep: Collection[Literal["latents", "embeddings"]] = (),
) -> dict[str, torch.Tensor]:
    """Decode latents to the pixels that are published, and let the teacher judge exactly those.

    Returns:
        images uint8 (B, 3, H, W), logits (B, C), and of latents and embeddings, (B, D), those that are to be kept; with the
        class of each, `labels`, also the teacher's verdicts among all classes that it knows: `Verdicts`.
    """
    images = (generator.decode(latents) * 255).round().to(torch.uint8)
    outputs, embeddings = teacher.outputs(images.float() / 255)
    kept = {"latents": latents, "embeddings": embeddings.float()}
    found = {"images": images, "logits": outputs[:, teacher.columns].float(), **{name: kept[name] for name in keep}}
    return found if labels is None else found | judge(outputs, [teacher.columns[label] for label in labels])


def draw_pool(
    run: Run,
    generator: Generator,
    teacher: Classifier,
    class_names: Sequence[str],
    class_ids: Sequence[int],
    count: int,
    *,
    seed: int,
    batch_size: int,
    stage: str = "pool",
    keep: Collection[Literal["latents", "embeddings"]] = (),
    made_from: Mapping[str, Any] | None = None,
) -> Stage:
    """Draw `count` candidates of every class, class by class; read them with `pool_of`.

    Args:
        run: Where the stage is kept.
        generator: Draws and decodes.
        teacher: Judges.
        class_names: C names. A candidate's seed comes from (seed, name, index): not from its place among the classes.
        class_ids: The generator's class of each.
        count: Candidates per class.
        seed: The run's seed.
        batch_size: Candidates per chunk, across classes.
        stage: Name of the stage. The same generator draws the same candidates for each.
        keep: What is read of them beside images, logits, seeds and verdicts.
        made_from: What generator and teacher are, see `Run.key`; None: all settings of the run.
    """
    items = [(label, index) for label in range(len(class_names)) for index in range(count)]

    def draw(chunk: Sequence[tuple[int, int]]) -> dict[str, torch.Tensor]:
        seeds = [draw_seed(seed, "pool", class_names[label], index) for label, index in chunk]
        labels = [label for label, _ in chunk]
        latents = generator.sample([class_ids[label] for label in labels], seeds)
        return {"seeds": torch.tensor(seeds), **render(generator, teacher, latents, labels, keep)}

    if made_from is not None:
        ids = {"class_names": list(class_names), "class_ids": list(class_ids)}
        made_from = {**made_from, "seed": seed, **ids, "verdicts": VERDICTS, "kept": sorted(keep)}
    return run.map(stage, items, draw, chunk_size=batch_size, made_from=made_from, lower=HALF)


def pool_of(pool: Stage, label: int, count: int) -> Candidates:
    """Return one class's candidates from a pool with `count` per class, which keeps embeddings."""
    return Candidates(label, **pool.rows(label * count, (label + 1) * count, "logits", "embeddings", "seeds"))


def judge_pool(
    run: Run, pool: Stage, selector: Classifier | None, count: int, *, over: str, made_from: Mapping[str, Any]
) -> Stage:
    """Judge a pool otherwise than the teacher did when it was drawn: the stage 'judge', for `verdicts_of`.

    Args:
        run: Where the stage is kept.
        pool: `count` candidates of every class.
        selector: Who judges their images; None: the teacher, among the set's classes, whose logits the pool has.
        count: Candidates per class.
        over: Among which classes; see `judge_images`.
        made_from: Who the selector is, see `Run.key`.
    """

    @torch.inference_mode()
    def verdicts(rows: Sequence[int]) -> dict[str, torch.Tensor]:
        labels = [row // count for row in rows]
        if selector is None:
            return judge(pool.take(rows, "logits")["logits"], labels)
        images = pool.take(rows, "images")["images"].to(selector.device)
        return judge_images(selector, images.float() / 255, labels, over)

    made_from = {**made_from, "over": over, "pool": pool.sha256}
    return run.map("judge", range(len(pool)), verdicts, chunk_size=pool.chunk_size, made_from=made_from)


def verdicts_of(judged: Stage, label: int, count: int) -> Verdicts:
    """Return what was said of one class's candidates, from a pool with `count` per class or its `judge_pool`."""
    return Verdicts(**judged.rows(label * count, (label + 1) * count, *VERDICTS))


def keep(run: Run, pool: Stage, rows: Sequence[int]) -> Stage:
    """Keep what was selected from a pool, as it is: the stage 'select'.

    Args:
        run: Where the stage is kept.
        pool: What was drawn.
        rows: Of the pool, in the order of the set.
    """
    names = "images", "logits", "seeds"
    made_from = {"pool": pool.sha256}
    return run.map("select", rows, lambda chunk: pool.take(chunk, *names), chunk_size=pool.chunk_size, made_from=made_from)
