"""The start of every recipe with a generator; see `making.start`. It loads diffusers, which takes seconds."""

import dataclasses
import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from distill_hub.artifact.describe import generator_record
from distill_hub.artifact.generator import find_tuning
from distill_hub.artifact.manifest import Manifest, ModelRecord, SelectorRecord
from distill_hub.classifiers import Classifier
from distill_hub.config import InputError, options
from distill_hub.data.classes import match_classes
from distill_hub.data.size import with_size
from distill_hub.data.sources import Source
from distill_hub.generating.open import Located, locate, open_generator, resolve
from distill_hub.generators.base import Generator
from distill_hub.generators.phases import NO_GROUP
from distill_hub.making.start import Setup, begin
from distill_hub.methods.candidates import draw_pool, judge_pool
from distill_hub.options.shared import GeneratorFitOptions, GeneratorOptions, SampleOptions, SelectorOptions, TeacherOptions
from distill_hub.running.mapped import map_rows
from distill_hub.running.memory import free
from distill_hub.running.run import Stage
from distill_hub.teachers.open import open_selector, open_teacher
from distill_hub.text import few
from distill_hub.training.protocols import protocol as protocol_named
from distill_hub.training.subject import HeldOut
from distill_hub.training.train import TrainingSet

ByKind = Mapping[str, Callable[[str], Any]]  # of a method's options what makes their defaults of a generator's kind


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

        @functools.cache  # for all students
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
    found: list[Located] = []

    def find(config: SampleOptions, source: Source) -> tuple[SampleOptions, str]:
        config, located = _locate(config, source, method, kinds, by_kind or {})
        found.append(located)
        return config, _named(config, located, method)

    config, source, name, destination, run = begin(config, method, find)
    fit = options(config, GeneratorFitOptions)
    generator, id = open_generator(run, source, found[0], generator_options(config), fit)
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


def _locate(
    config: SampleOptions,
    source: Source,
    method: str | None,
    kinds: Sequence[str],
    by_kind: ByKind,
) -> tuple[SampleOptions, Located]:
    """Find a recipe's generator; return the settings with all options that its kind takes, and the generator."""
    found = locate(source, config.generator, config.generator_revision)
    if kinds and found.kind not in kinds:
        raise InputError(
            "generator", config.generator, f"it is of the kind {found.kind}; {method} needs {' or '.join(kinds)}"
        )
    own = {name: default(found.kind) for name, default in by_kind.items() if getattr(config, name) is None}
    config = dataclasses.replace(config, **resolve(found, generator_options(config)), **own)
    config.check_sampler()
    return with_size(config, source, "fit_image_size") if found.name is None else config, found


def _named(config: SampleOptions, found: Located, method: str | None) -> str:
    """Return what a set is called after: the method, and the generator's kind and fine-tuning where they say more."""
    name = found.kind if method is None else method if found.kind == "dit" else f"{method}-{found.kind}"
    named = found.name == config.generator  # not by 'auto'
    tuning = find_tuning(found.name, found.revision) if named else None
    return f"{name}-{tuning.method.name}" if tuning and tuning.method.name != name else name


def generator_options(config: GeneratorOptions) -> dict[str, Any]:
    """Return what is said of how a generator draws, by the names of its options."""
    given = options(config, GeneratorOptions)
    return {name: value for name, value in given.items() if name not in ("generator", "generator_revision")}
