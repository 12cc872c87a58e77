"""The start of every recipe: what it works with, and all that can be refused before work is done."""

import dataclasses
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import torch

from distill_hub.artifact.describe import describe, generator_record
from distill_hub.artifact.generator import find_tuning
from distill_hub.artifact.manifest import Combination, Manifest, ModelRecord, SelectorRecord, method_record
from distill_hub.artifact.names import set_name
from distill_hub.augmentation.tiles import decode
from distill_hub.classifiers import Classifier
from distill_hub.config import Done, InputError, options, recorded, resolved
from distill_hub.data.classes import match_classes
from distill_hub.data.size import with_size
from distill_hub.data.sources import Source, check_ipc, load_source
from distill_hub.evaluation.views import epochs_of_views, offer
from distill_hub.generators.base import Generator
from distill_hub.generators.phases import NO_GROUP
from distill_hub.making.matching import check_matching, check_precision
from distill_hub.making.space import check_space, has_free_pixels, open_space
from distill_hub.matching.space import Space
from distill_hub.methods.candidates import draw_pool, judge_pool
from distill_hub.networks.names import small_networks, student_name
from distill_hub.options.shared import (
    EvaluationOptions,
    FormationOptions,
    GeneratorFitOptions,
    GeneratorOptions,
    KeptLabelsOptions,
    PixelOptions,
    SampleOptions,
    SelectorOptions,
    SetOptions,
    SourceOptions,
    TeacherOptions,
    ViewsOptions,
)
from distill_hub.publishing.destination import Destination, check_destination
from distill_hub.running.dry_run import open_run
from distill_hub.running.folder import is_bare
from distill_hub.running.mapped import map_rows
from distill_hub.running.memory import free
from distill_hub.running.run import Run, Stage
from distill_hub.teachers.ensemble import members_of, teacher_classes
from distill_hub.teachers.open import open_selector, open_teacher
from distill_hub.text import few
from distill_hub.training.post_training import lpld_batch_size
from distill_hub.training.protocols import Protocol
from distill_hub.training.protocols import protocol as protocol_named
from distill_hub.training.subject import HeldOut
from distill_hub.training.train import TrainingSet

if TYPE_CHECKING:
    from distill_hub.generating.open import Located

ByKind = Mapping[str, Callable[[str], Any]]  # of a method's options what makes their defaults of a generator's kind
_Options = TypeVar("_Options", bound=SetOptions)


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
            self.run, self.source, self.name, method_record(facts, recorded(self.config), notes),
            generator=generator, generator_classes=class_ids, prompts=prompts,
            teacher=self.teacher_record, teacher_classes=teacher_classes(self.teacher), selector=selector,
            ipc=self.config.ipc, image_size=self.image_size, tiles=self.tiles, seed=self.config.seed,
        )  # fmt: skip


@dataclass(frozen=True)
class GeneratorSetup(Setup):
    """What a recipe with a generator works with."""

    generator: Generator
    generator_record: ModelRecord
    class_ids: list[int]  # the generator's class of each class of the source
    selector: Classifier  # the teacher, unless a method has another one
    selector_record: SelectorRecord | None  # of methods that have one

    @property
    def plain(self) -> str:
        """What plain samples of the generator are called beside other sets."""
        tuning = self.generator_record.tuning
        return f"plain {tuning.method.name if tuning else self.generator.facts.name} samples"

    @property
    def made_from(self) -> dict[str, Any]:
        """What the images of the set depend on; see `Setup.made_from`."""
        selector = {"selector_sha256": self.selector_record.sha256} if self.selector_record else {}
        return {**super().made_from, **self._weights, **selector}

    @property
    def _weights(self) -> dict[str, Any]:
        record = self.generator_record
        weights = {"generator_sha256": record.sha256, "vae_sha256": record.vae.sha256 if record.vae else None}
        # Of prompts the settings have the file's name, not what it holds.
        return {**weights, **({"prompts": self.generator.facts.prompts} if self.generator.facts.prompts else {})}

    def draw(self, count: int, stage: str = "pool", *, keep: Collection[Literal["latents", "embeddings"]] = ()) -> Stage:
        """Draw `count` candidates of every class; see `draw_pool`. They depend on nothing that a method does with them."""
        named = {**options(self.config, GeneratorOptions), **options(self.config, TeacherOptions)}
        weights = {**self._weights, "teacher_sha256": self.teacher_record.sha256}
        return draw_pool(
            self.run, self.generator, self.teacher, self.source.class_names, self.class_ids, count,
            seed=self.config.seed, batch_size=self.config.sample_batch_size, stage=stage, keep=keep,
            made_from={**named, **weights},
        )  # fmt: skip

    def judge(self, pool: Stage) -> Stage:
        """Return what the selector says of a pool, for `verdicts_of`; the teacher has said it when the pool was drawn."""
        over, other = self.config.judged_over, self.selector is not self.teacher
        if over == "all" and not other:
            return pool
        return judge_pool(
            self.run, pool, self.selector if other else None, len(pool) // len(self.source.classes),
            over=over, made_from={"selector_sha256": self.selector_record.sha256, "resize": self.selector.resize},
        )  # fmt: skip

    def plain_samples(self, pool: Stage) -> Callable[[], TrainingSet]:
        """Return a baseline for `package_and_score`: of every class, the first IPC candidates of a pool."""

        def samples() -> TrainingSet:
            starts = range(0, len(pool), len(pool) // len(self.source.classes))
            first = [start + index for start in starts for index in range(self.config.ipc)]

            def images(start: int, stop: int) -> torch.Tensor:
                return pool.take(first[start:stop], "images")["images"]

            def soft_labels(start: int, stop: int) -> torch.Tensor:
                return pool.take(first[start:stop], "logits")["logits"].softmax(1)

            how, soft = {"items": len(first), "made_from": {"pool": pool.sha256}}, None
            if self.protocol.labels == "soft":
                soft = map_rows(self.run, "soft labels of plain samples", soft_labels, **how)
            return TrainingSet(map_rows(self.run, "plain samples", images, **how), torch.tensor(self.labels), soft)

        return samples

    def release(self) -> None:
        """See `Setup.release`; the teacher stays."""
        others = [] if self.selector is self.teacher else [self.selector.model]
        for network in (*self.generator.facts.modules, *others):
            network.to("meta")
        free()

    def manifest(self, facts: Mapping[str, str], notes: Mapping[str, Any] | None = None) -> Manifest:
        """Describe the set; see `Setup.manifest`."""
        prompts = self.generator.facts.prompts
        return self._describe(facts, notes, self.generator_record, self.class_ids, prompts, self.selector_record)


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
    config, source, name, destination, run, _ = _begin(config, method)
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


def set_up_generator(
    config: SampleOptions,
    method: str | None,
    *,
    kinds: Sequence[str] = (),
    without_class: bool = False,
    by_kind: ByKind | None = None,
) -> GeneratorSetup:
    """Open what a recipe with a generator works with, fitting generator and teacher where there are none for the source.

    Args:
        config: The recipe's settings.
        method: Name of the method, which enters the set's name; None: that of the generator's kind.
        kinds: The kinds of generators that the method knows, keys of `generating.kinds.KINDS`; none: any will do.
        without_class: Whether the method asks the generator without a class, too, as its option `condition` says.
        by_kind: Options of the method that have a default of their own for each kind of generator, and what gives it.

    Raises:
        InputError: For whatever cannot be used, before work is done that would be lost.
    """
    from distill_hub.generating.open import open_generator  # with diffusers, which recipes without a generator spare

    config, source, name, destination, run, found = _begin(config, method, kinds, by_kind)
    fit = options(config, GeneratorFitOptions)
    generator, id = open_generator(run, source, found, generator_options(config), fit)
    class_ids = match_classes(source.classes, generator.class_names, "generator", id)
    if (known := generator.facts.classes) is not None:
        if unknown := [c.name for c, own in zip(source.classes, class_ids, strict=True) if own not in known]:
            raise InputError("generator", id, f"it was tuned in groups of classes, and not on: {few(unknown)}")
        if without_class:
            raise InputError("condition", "null", NO_GROUP)
    size = generator.image_size
    protocol_named(config.protocol).check_students(config.students, len(source.classes), size)
    test = HeldOut(source)
    teacher, teacher_record = open_teacher(run, test, size, **options(config, TeacherOptions), seed=config.fit_seed)
    selector, selector_record = teacher, None
    if isinstance(config, SelectorOptions):
        judge, own = teacher_record, (teacher.id, teacher.revision)
        named = own if config.selector == "auto" else (config.selector, config.selector_revision)
        if named != own or config.selector_resize:
            how = {"selector_revision": named[1], "selector_resize": config.selector_resize}
            selector, judge = open_selector(run, test, size, selector=named[0], **how)
            if config.selector == "auto":
                judge = judge.model_copy(update={"id": teacher_record.id})
        judged_over = selector.known if config.judged_over == "all" else len(source.classes)
        selector_record = SelectorRecord(**dict(judge), judged_over=judged_over)
    record = generator_record(generator, id)
    return GeneratorSetup(
        config, name, run, source, size, test, teacher, teacher_record, destination, generator, record, class_ids,
        selector, selector_record,
    )  # fmt: skip


def _tiles(config: SetOptions, size: int) -> int | None:
    return config.tiles(size) if isinstance(config, FormationOptions) else None


def _begin(
    config: _Options,
    method: str | None,
    kinds: Sequence[str] = (),
    by_kind: ByKind | None = None,
) -> tuple[_Options, Source, str, Destination | None, Run, "Located | None"]:
    """Refuse what can be refused without work.

    Args:
        config: The recipe's settings.
        method: Name of the method; None: that of the generator's kind.
        kinds: See `set_up_generator`.
        by_kind: See there.

    Returns:
        The settings, with the size of what will be fitted; the source, the set's name, where it is to be published, its run,
        and its generator, where it has one.

    Raises:
        InputError: For the first of these that cannot be used.
    """
    source = load_source(**options(config, SourceOptions))
    check_ipc(source, config.ipc)
    draws, found = isinstance(config, SampleOptions), None
    if draws:
        config, found = _locate(config, source, method, kinds, by_kind or {})
        method = _named(config, found, method)
    elif config.teacher == "auto" and not source.has_wnids:
        config = with_size(config, source, "image_size")
    # 224 px is what no student exceeds: a generator is not known yet, nor a teacher that gives images of no one size theirs.
    size = 224 if draws else config.image_size or source.image_size or 224
    # Two methods may take the same options, and finished work of other images is of no use.
    fingerprints = {"source_fingerprint": source.fingerprint, "test_fingerprint": source.test.fingerprint}
    settings = {**resolved(config), "method": method, **fingerprints}
    rules = protocol_named(config.protocol)
    images = config.ipc * len(source.classes) * (_tiles(config, size) or 1) ** 2
    stores_views = epochs_of_views(config, rules, images, len(source.classes), size) > 0
    rules.check_students(config.students, len(source.classes), size)
    check_space(config, rules, size)
    check_matching(config, source, size)
    name = set_name(source.name, config.ipc, method)
    destination = check_destination(config.push_to_hub, name, private=config.private) if config.push_to_hub else None
    folder = config.output_dir or Path("outputs", name)
    run = open_run(
        folder, settings, overwrite=config.overwrite, dry_run=config.dry_run, join=config.join, until=config.stage
    )
    if run.agree(is_bare(run.output_dir)):
        run.end()
        kept = "but nothing that it was made from (--keep_run no)"
        more = "`distill-hub evaluate` scores it, `distill-hub push` publishes it, --overwrite makes it anew"
        raise Done(f"The finished set is in {folder}, {kept}: {more}", folder)
    check_precision(config, run)
    if config.view_epochs is None and not stores_views and not has_free_pixels(config):
        run.say(offer(images, len(source.classes)))
    return config, source, name, destination, run, found


def _locate(
    config: _Options,
    source: Source,
    method: str | None,
    kinds: Sequence[str],
    by_kind: ByKind,
) -> tuple[_Options, "Located"]:
    """Find a recipe's generator; return the settings with all options that its kind takes, and the generator."""
    from distill_hub.generating.open import locate, resolve

    found = locate(source, config.generator, config.generator_revision)
    if kinds and found.kind not in kinds:
        raise InputError(
            "generator", config.generator, f"it is of the kind {found.kind}; {method} needs {' or '.join(kinds)}"
        )
    own = {name: default(found.kind) for name, default in by_kind.items() if getattr(config, name) is None}
    config = dataclasses.replace(config, **resolve(found, generator_options(config)), **own)
    config.check_sampler()
    return with_size(config, source, "fit_image_size") if found.name is None else config, found


def _named(config: SampleOptions, found: "Located", method: str | None) -> str:
    """Return what a set is called after: the method, and the generator's kind and fine-tuning where they say more."""
    name = found.kind if method is None else method if found.kind == "dit" else f"{method}-{found.kind}"
    named = found.name == config.generator  # not by 'auto'
    tuning = find_tuning(found.name, found.revision) if named else None
    return f"{name}-{tuning.method.name}" if tuning and tuning.method.name != name else name


def generator_options(config: GeneratorOptions) -> dict[str, Any]:
    """Return what is said of how a generator draws, by the names of its options."""
    given = options(config, GeneratorOptions)
    return {name: value for name, value in given.items() if name not in ("generator", "generator_revision")}
