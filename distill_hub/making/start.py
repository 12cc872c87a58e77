"""The start of every recipe: what it works with, and all that can be refused before work is done."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch

from distill_hub.artifact.describe import describe
from distill_hub.artifact.manifest import Combination, Manifest, ModelRecord, SelectorRecord, method_record
from distill_hub.artifact.names import set_name
from distill_hub.augmentation.tiles import decode
from distill_hub.classifiers import Classifier
from distill_hub.config import Done, options, recorded, resolved
from distill_hub.data.size import with_size
from distill_hub.data.sources import Source, check_ipc, load_source
from distill_hub.evaluation.views import epochs_of_views, offer
from distill_hub.making.matching import check_matching, check_precision
from distill_hub.making.packages import package_of
from distill_hub.making.space import check_space, has_free_pixels, open_space
from distill_hub.matching.space import Space
from distill_hub.networks.names import small_networks, student_name
from distill_hub.options.shared import (
    EvaluationOptions,
    FormationOptions,
    KeptLabelsOptions,
    PixelOptions,
    SetOptions,
    SourceOptions,
    TeacherOptions,
    ViewsOptions,
)
from distill_hub.publishing.destination import Destination, check_destination
from distill_hub.running.dry_run import open_run
from distill_hub.running.folder import is_bare
from distill_hub.running.machine import check_compiler
from distill_hub.running.run import Run
from distill_hub.teachers.ensemble import members_of, teacher_classes
from distill_hub.teachers.open import open_teacher
from distill_hub.training.post_training import lpld_batch_size
from distill_hub.training.protocols import Protocol
from distill_hub.training.protocols import protocol as protocol_named
from distill_hub.training.subject import HeldOut

Options = TypeVar("Options", bound=SetOptions)


@dataclass(frozen=True)
class Setup:
    """What a recipe works with."""

    config: SetOptions
    name: str  # of the set
    run: Run
    source: Source
    image_size: int  # side of the set's images, in pixels
    test: HeldOut
    teacher: Classifier
    teacher_record: ModelRecord
    destination: Destination | None  # where the set is to be published

    @property
    def teachers(self) -> tuple[Classifier, ...]:
        """The networks that are the teacher: the members of an ensemble, else the one."""
        return members_of(self.teacher)

    @property
    def protocol(self) -> Protocol:
        """How students are trained."""
        return protocol_named(self.config.protocol).resolved(views=self.views is not None)

    @property
    def tiles(self) -> int | None:
        """Of a set of f x f tiles, f."""
        return _tiles(self.config, self.image_size)

    @property
    def shown(self) -> int:
        """Number of images that students see."""
        return len(self.labels) * (self.tiles or 1) ** 2

    @property
    def views(self) -> dict[str, Any] | None:
        """How views are drawn, see `draw_views`; None: none are, as of free pixels, since views are of pictures."""
        if has_free_pixels(self.config):
            return None
        rules = protocol_named(self.config.protocol)
        epochs = epochs_of_views(self.config, rules, self.shown, len(self.source.classes), self.image_size)
        own_batches = rules.name in ("lpld", "lpqld")
        how = {
            "epochs": epochs,
            "mirrored": self.source.mirrored,
            "seed": self.config.seed,
            "batch_size": lpld_batch_size(self.shown, self.image_size) if own_batches else None,
        }
        return {**how, **options(self.config, KeptLabelsOptions)} if epochs else None

    @property
    def labels(self) -> list[int]:
        """Labels of a set with IPC images per class, class by class."""
        return [label for label in range(len(self.source.classes)) for _ in range(self.config.ipc)]

    @property
    def made_from(self) -> dict[str, Any]:
        """What the images of the set depend on, for `Run.map`: all settings but those of students and files."""
        later = {*options(self.config, EvaluationOptions), *options(self.config, ViewsOptions), "image_format"}
        settings = {name: value for name, value in self.run.settings.items() if name not in later}
        return {**settings, "teacher_sha256": self.teacher_record.sha256}

    def space(self) -> Space:
        """Open the space that pixels are optimised in; see `making.space.open_space`. Call it on every process."""
        return open_space(self.run, self.config, self.test, self.image_size)

    def logits(self, images: torch.Tensor) -> torch.Tensor:
        """Return what the teacher says of stored images, uint8 (N, 3, S, S); of tiles the log of their mean probability."""
        logits = self.teacher.judge(decode(images, self.tiles))
        if self.tiles is None:
            return logits
        parts = logits.double().log_softmax(1).unflatten(0, (len(images), -1))
        return (parts.logsumexp(1) - math.log(parts.shape[1])).float()

    def release(self) -> None:
        """Give back the memory of networks that only make and choose images, once these are made."""

    def manifest(self, facts: Mapping[str, str], notes: Mapping[str, Any] | None = None) -> Manifest:
        """Describe the set that a method made; see `artifact.describe.describe`. Call it on every process."""
        return self._describe(facts, notes)

    def _describe(
        self,
        facts: Mapping[str, str],
        notes: Mapping[str, Any] | None,
        generator: ModelRecord | None = None,
        class_ids: list[int] | None = None,
        prompts: Sequence[str] | None = None,
        selector: SelectorRecord | None = None,
    ) -> Manifest:
        return describe(
            self.run, self.source, self.name, method_record(facts, recorded(self.config), notes, package_of(facts["name"])),
            generator=generator, generator_classes=class_ids, prompts=prompts,
            teacher=self.teacher_record, teacher_classes=teacher_classes(self.teacher), selector=selector,
            ipc=self.config.ipc, image_size=self.image_size, tiles=self.tiles, seed=self.config.seed,
        )  # fmt: skip


def set_up(config: PixelOptions, method: str, *, batch_norm: bool = False, ensemble: Combination | None = None) -> Setup:
    """Open what a recipe without a generator works with, fitting a teacher where there is none for the source.

    Args:
        config: The recipe's settings.
        method: Name of the method; enters the set's name.
        batch_norm: Whether a teacher that is fitted gets BatchNorm, which it needs to have statistics of its own.
        ensemble: Of methods with several networks, which all get BatchNorm, how their logits are combined; None: a single
            teacher will do, and of several that are named the mean of the logits is taken.

    Raises:
        InputError: For whatever cannot be used, before work is done that would be lost.
    """
    config, source, name, destination, run = begin(config, method)
    size, test = config.image_size or source.image_size, HeldOut(source)
    networks: tuple[str, ...] = ("auto",)
    if size and ensemble:
        networks = small_networks(size)
    elif size and batch_norm:
        networks = (f"{student_name('auto', size)}-bn",)
    teacher, teacher_record = open_teacher(
        run, test, size, **options(config, TeacherOptions), seed=config.fit_seed, networks=networks,
        combination=ensemble or "mean",
    )  # fmt: skip
    if size is None:
        size = teacher.image_size
        protocol_named(config.protocol).check_students(config.students, len(source.classes), size)
    return Setup(config, name, run, source, size, test, teacher, teacher_record, destination)


def _tiles(config: SetOptions, size: int) -> int | None:
    return config.tiles(size) if isinstance(config, FormationOptions) else None


def begin(
    config: Options, method: str | None, find: Callable[[Options, Source], tuple[Options, str]] | None = None
) -> tuple[Options, Source, str, Destination | None, Run]:
    """Refuse what can be refused without work.

    Args:
        config: The recipe's settings.
        method: Name of the method.
        find: Of recipes with a generator what finds it: from settings and source to settings with the values that its kind
            has, and what the set is called after.

    Returns:
        The settings, with the size of what will be fitted; the source, the set's name, where it is to be published, and its
        run.

    Raises:
        InputError: For the first of these that cannot be used.
    """
    source = load_source(**options(config, SourceOptions))
    check_ipc(source, config.ipc)
    if find:
        config, method = find(config, source)
    elif config.teacher == "auto" and not source.has_wnids:
        config = with_size(config, source, "image_size")
    # 224 px is what no student exceeds: a generator is not known yet, nor a teacher that gives images of no one size theirs.
    size = 224 if find else config.image_size or source.image_size or 224
    # Two methods may take the same options, and finished work of other images is of no use.
    fingerprints = {"source_fingerprint": source.fingerprint, "test_fingerprint": source.test.fingerprint}
    settings = {**resolved(config), "method": method, **fingerprints}
    if package := package_of(method):  # what another version of it made is of no use, either
        settings["package"] = package.model_dump()
    rules = protocol_named(config.protocol)
    images = config.ipc * len(source.classes) * (_tiles(config, size) or 1) ** 2
    stores_views = epochs_of_views(config, rules, images, len(source.classes), size) > 0
    rules.check_students(config.students, len(source.classes), size)
    check_space(config, rules, size)
    check_matching(config, source, size)
    name = set_name(source.name, config.ipc, method)
    destination = None
    if config.push_to_hub:
        destination = check_destination(config.push_to_hub, name, private=config.private, gated=config.gated)
    folder = config.output_dir or Path("outputs", name)
    run = open_run(
        folder, settings, overwrite=config.overwrite, dry_run=config.dry_run, join=config.join, until=config.stage,
        log_with=config.log_with,
    )  # fmt: skip
    if run.agree(is_bare(run.output_dir)):
        run.end()
        kept = "but nothing that it was made from (--keep_run no)"
        more = "`distill-hub evaluate` scores it, `distill-hub push` publishes it, --overwrite makes it anew"
        raise Done(f"The finished set is in {folder}, {kept}: {more}", folder)
    check_precision(config, run)
    for option in ("compile", "compile_set"):
        if getattr(config, option, False):
            check_compiler(option, run.device)
    if config.view_epochs is None and not stores_views and not has_free_pixels(config):
        run.say(offer(images, len(source.classes)))
    return config, source, name, destination, run
