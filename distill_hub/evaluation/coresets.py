"""Coresets of a source: what chooses them, and as baselines of other sets."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from distill_hub.classifiers import Classifier
from distill_hub.config import options
from distill_hub.coresets.choose import Rule
from distill_hub.coresets.embed import embed
from distill_hub.coresets.names import OF_EMBEDDINGS
from distill_hub.data.sources import Source
from distill_hub.options.coresets import CoresetConfig, DynamicsOptions
from distill_hub.running.run import Run
from distill_hub.running.seeds import draw_seed
from distill_hub.teachers.dynamics import open_dynamics
from distill_hub.teachers.ensemble import members_of


@dataclass(frozen=True)
class Chooser:
    """Chooses images of a source, class by class."""

    rule: Rule
    source: Source
    of_class: Callable[[int], torch.Tensor]  # embeddings or difficulties, see `Rule.choose`
    made_from: str  # hash of the weights of who embedded, or of the dynamics

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
    return Chooser(rule, source, lambda label: difficulty[source.train.by_class[label]], dynamics.sha256)
