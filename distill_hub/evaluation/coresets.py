"""Coresets of a source: what chooses them, and as baselines of other sets."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F

from distill_hub.classifiers import Classifier
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
    run: Run, source: Source, config: CoresetConfig, teacher: Classifier | None, teacher_sha256: str, size: int, stage: str
) -> Chooser:
    """Look at all images of a source as a coreset needs it. Call it on every process.

    Args:
        run: Spreads the work.
        source: The real images.
        config: The method and its options.
        teacher: Whose embeddings are taken, of several the first one's; None will do for methods of `names.OF_DYNAMICS`.
        teacher_sha256: Of its weights.
        size: Side in pixels of the set; the images are embedded at it, and networks are trained at it.
        stage: Name of the stage that embeds.

    Raises:
        InputError: See `open_dynamics` and `Dynamics.difficulty`.
        HubError: When the Hub fails.
    """
    rule = Rule(**options(config, Rule))
    if rule.method in OF_EMBEDDINGS:
        how = {"image_size": size, "batch_size": config.embed_batch_size, "stage": stage}
        return Chooser(rule, source, embed(run, source, members_of(teacher)[0], teacher_sha256, **how), teacher_sha256)
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


ONLY_RANDOM = Baselines()


@dataclass(frozen=True)
class Coreset:
    """A coreset as large as a set, as its students see it."""

    draw: Callable[[int], TrainingSet]  # by seed; called on every process
    made_from: str  # see `Chooser`


def coreset_as_large(run: Run, subject: Subject, name: str, dynamics: str, size: int, *, soft: bool) -> Coreset:
    """Return a baseline: real images, as many of each class as a set stores, chosen as `recipes/coreset.py` does by default.

    All of a source's images are looked at as large as those of the set. Of what is drawn at random (CCS) every seed has its
    own, of other coresets all have one.

    Args:
        run: Spreads the work. Call it on every process.
        subject: The set.
        name: Of `coresets.names.CORESETS`.
        dynamics: See `Baselines`.
        size: Side in pixels of the images that are returned.
        soft: Whether the teacher labels them.

    Raises:
        InputError: When it is chosen by a teacher's embeddings and there is no teacher; when a class of the source has fewer
            images than the set; see also `open_chooser`.
    """
    if name in OF_EMBEDDINGS and subject.teacher is None:
        raise InputError("baselines", name, "it is chosen by a teacher's embeddings; pass --teacher")
    source, counts, own_size = subject.test.source, subject.per_class(), subject.own.images.shape[-1]
    config = dataclasses.replace(CoresetConfig(), method=name, dynamics=dynamics)
    teacher_sha256 = subject.teacher_record.sha256 if subject.teacher_record else ""
    chooser = open_chooser(run, source, config, subject.teacher, teacher_sha256, own_size, "embed for baselines")
    by_class, most = source.train.by_class, int(counts.max())
    made_from = {"source": source.fingerprint, "counts": counts.tolist(), "size": own_size, "by": chooser.made_from,
                 "rule": dataclasses.asdict(chooser.rule)}  # fmt: skip

    def draw(seed: int, title: str) -> TrainingSet:
        def choose(labels: Sequence[int]) -> dict[str, torch.Tensor]:
            found = [chooser.choose(label, int(counts[label]), seed) for label in labels]
            return {"indices": torch.stack([F.pad(indices, (0, most - len(indices))) for indices in found])}

        how = {"chunk_size": CLASSES_AT_A_TIME, "made_from": {**made_from, "seed": seed}}
        chosen = run.map(f"choose {title}", subject.test.places, choose, **how)
        indices = chosen.rows(0, len(chosen))["indices"].numpy()
        # Of a dry run the first classes stand for all, which may have fewer images.
        rows = [
            by_class[label][own[: counts[label]] % len(by_class[label])]
            for label, own in zip(subject.test.places, indices, strict=True)
        ]
        return subject.real_images(run, f"{title}, {size} px", np.concatenate(rows), size, soft=soft)

    if name in DRAWN:
        return Coreset(lambda seed: draw(seed, f"{name}, seed {seed}"), chooser.made_from)
    once = functools.cache(lambda: draw(0, name))
    return Coreset(lambda seed: once(), chooser.made_from)
