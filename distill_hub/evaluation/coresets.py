"""Coresets of a source: what chooses them, and as baselines of other sets."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F

from distill_hub.config import InputError, options
from distill_hub.coresets.choose import Rule
from distill_hub.coresets.embed import embed
from distill_hub.coresets.names import OF_EMBEDDINGS
from distill_hub.data.sources import Source
from distill_hub.options.coresets import CoresetConfig, DynamicsOptions
from distill_hub.running.run import Run
from distill_hub.running.seeds import draw_seed
from distill_hub.teachers.dynamics import open_dynamics
from distill_hub.teachers.ensemble import members_of
from distill_hub.training.subject import Subject
from distill_hub.training.train import TrainingSet

CLASSES_AT_A_TIME = 8  # of which a process chooses; a class takes too short a time to be written down by itself
DRAWN = ("ccs",)  # other coresets are the same for every seed


@dataclass(frozen=True)
class Chooser:
    """Chooses images of a source, class by class."""

    rule: Rule
    source: Source
    of_class: Callable[[int], torch.Tensor]  # embeddings or difficulties, see `Rule.choose`
    made_from: str  # hash of the weights of who embedded, or of the dynamics
    notes: Mapping[str, str] = field(default_factory=dict)  # of a method that was made by it

    def choose(self, label: int, ipc: int, seed: int) -> torch.Tensor:
        """Return IPC indices, int64, into the images of a class in the order of the training split."""
        return self.rule.choose(self.of_class(label), ipc, draw_seed(seed, self.rule.method, self.source.class_names[label]))


def open_chooser(
    run: Run,
    source: Source,
    config: CoresetConfig,
    embeddings: Callable[[], Callable[[int], torch.Tensor]],
    teacher_sha256: str,
    size: int,
) -> Chooser:
    """Look at all images of a source as a coreset needs it. Call it on every process.

    Args:
        run: Spreads the work.
        source: The real images.
        config: The method and its options.
        embeddings: Embeds them, see `embed`; called for the methods of `names.OF_EMBEDDINGS`.
        teacher_sha256: Of the weights of who does.
        size: Side in pixels of the set, at which networks are trained for the methods of `names.OF_DYNAMICS`.

    Raises:
        InputError: See `open_dynamics` and `Dynamics.difficulty`.
        HubError: When the Hub fails.
    """
    rule = Rule(**options(config, Rule))
    if rule.method in OF_EMBEDDINGS:
        return Chooser(rule, source, embeddings(), teacher_sha256)
    dynamics = open_dynamics(run, source, size, **options(config, DynamicsOptions), seed=config.fit_seed)
    difficulty = dynamics.difficulty(rule.score, rule.el2n_epochs)
    notes = {"dynamics_sha256": dynamics.sha256}
    notes |= {"dynamics_revision": dynamics.revision} if dynamics.revision else {}
    return Chooser(rule, source, lambda label: difficulty[source.train.by_class[label]], dynamics.sha256, notes)


@dataclass(frozen=True)
class Baselines:
    """What a set is scored beside.

    Args:
        names: 'random', or of `coresets.names.CORESETS`.
        dynamics: Of the coresets that are chosen by difficulty; see `open_dynamics`.
    """

    names: Sequence[str] = ("random",)
    dynamics: str = "auto"

    def check(self, *, has_teacher: bool) -> None:
        """Refuse coresets that are chosen by a teacher's embeddings where there is no teacher.

        Raises:
            InputError: Naming the first of them.
        """
        for name in self.names:
            if name in OF_EMBEDDINGS and not has_teacher:
                raise InputError("baselines", name, "it is chosen by a teacher's embeddings; pass --teacher")


ONLY_RANDOM = Baselines()


@dataclass(frozen=True)
class Coreset:
    """A coreset as large as a set, as its students see it."""

    draw: Callable[[int], TrainingSet]  # by seed; called on every process
    made_from: str  # see `Chooser`


def coresets_as_large(run: Run, subject: Subject, baselines: Baselines, size: int, *, soft: bool) -> dict[str, Coreset]:
    """Return baselines: real images, as many of each class as a set stores, chosen as `recipes/coreset.py` does by default.

    All of a source's images are looked at as large as those of the set. Of what is drawn at random (CCS) every seed has its
    own, of other coresets all have one.

    Args:
        run: Spreads the work. Call it on every process.
        subject: The set. Its teacher embeds, of several the first.
        baselines: Those of them that are coresets are returned.
        size: Side in pixels of the images that are returned.
        soft: Whether the teacher labels them.

    Raises:
        InputError: When a class of the source has fewer images than the set; see also `Baselines.check` and `open_chooser`.
        HubError: When the Hub fails.
    """
    source, teacher, own_size = subject.test.source, subject.teacher, subject.own.images.shape[-1]
    teacher_sha256 = subject.teacher_record.sha256 if subject.teacher_record else ""
    baselines.check(has_teacher=teacher is not None)

    @functools.cache
    def embeddings() -> Callable[[int], torch.Tensor]:
        how = {"image_size": own_size, "batch_size": CoresetConfig().embed_batch_size, "stage": "embed for baselines"}
        return embed(run, source, members_of(teacher)[0], teacher_sha256, **how)

    found = {}
    for name in (name for name in baselines.names if name != "random"):
        config = dataclasses.replace(CoresetConfig(), method=name, dynamics=baselines.dynamics)
        chooser = open_chooser(run, source, config, embeddings, teacher_sha256, own_size)
        draw = functools.cache(functools.partial(_draw, run, subject, chooser, size, soft))
        found[name] = Coreset(functools.partial(_of_seed, draw, name), chooser.made_from)
    return found


def _of_seed(draw: Callable[[int, str], TrainingSet], name: str, seed: int) -> TrainingSet:
    return draw(seed, f"{name}, seed {seed}") if name in DRAWN else draw(0, name)


def _draw(run: Run, subject: Subject, chooser: Chooser, size: int, soft: bool, seed: int, title: str) -> TrainingSet:
    """Choose the images of a baseline, spread over processes, and return them; see `coresets_as_large`."""
    source, counts, places = chooser.source, subject.per_class(), subject.test.places
    most, by_class = int(counts.max()), source.train.by_class

    def choose(labels: Sequence[int]) -> dict[str, torch.Tensor]:
        found = [chooser.choose(label, int(counts[label]), seed) for label in labels]
        return {"indices": torch.stack([F.pad(indices, (0, most - len(indices))) for indices in found])}

    made_from = {
        "source": source.fingerprint,
        "counts": counts.tolist(),
        "size": subject.own.images.shape[-1],
        "chosen_by": [dataclasses.asdict(chooser.rule), chooser.made_from, seed],
    }
    chosen = run.map(f"choose {title}", places, choose, chunk_size=CLASSES_AT_A_TIME, made_from=made_from)
    # Of a dry run the first classes stand for all, which may have fewer images.
    rows = [
        by_class[label][own[: counts[label]] % len(by_class[label])]
        for label, own in zip(places, chosen.rows(0, len(chosen))["indices"].numpy(), strict=True)
    ]
    return subject.real_images(run, f"{title}, {size} px", np.concatenate(rows), size, soft=soft)
