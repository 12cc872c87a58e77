"""Expert trajectories: fitted to a source and saved as an artifact of their own, or opened for matching."""

import hashlib
import shlex
from pathlib import Path

import torch
from safetensors.torch import save

from distill_hub.artifact.base import now
from distill_hub.artifact.describe import source_record
from distill_hub.artifact.experts import (
    ExpertRecord,
    Experts,
    ExpertsRecord,
    experts_name,
    file_name,
    load_experts,
    parameter_shapes,
    split_by_name,
)
from distill_hub.artifact.manifest import CostRecord, EnvironmentRecord, ZcaRecord
from distill_hub.config import InputError, options, resolved, words
from distill_hub.data.known import FITTED
from distill_hub.data.size import with_size
from distill_hub.data.sources import Source, fit_folder
from distill_hub.disk.files import atomic_write, folder_name
from distill_hub.making.space import open_space
from distill_hub.making.start import Setup
from distill_hub.matching.experts import fit
from distill_hub.matching.networks import resolve
from distill_hub.matching.space import Space
from distill_hub.networks.names import EXPERTS
from distill_hub.options.experts import ExpertOptions, ExpertsConfig, with_defaults
from distill_hub.options.matching import SpaceOptions
from distill_hub.options.mtt import MttConfig
from distill_hub.options.shared import SourceOptions
from distill_hub.publishing.experts import experts_card
from distill_hub.publishing.readme import card_files
from distill_hub.running.cost import added
from distill_hub.running.dry_run import open_run
from distill_hub.running.run import Run
from distill_hub.running.stages import Stage
from distill_hub.text import typed
from distill_hub.training.subject import HeldOut


def fit_experts(
    run: Run, test: HeldOut, size: int, space: Space, settings: ExpertOptions, folder: Path, *, keep: int, seed: int
) -> None:
    """Train experts and save them; `experts.json` comes last and says that the folder is complete.

    Args:
        run: See `matching.experts.fit`.
        test: Test images of the source that they are trained on.
        size: Side of the images in pixels.
        space: In which they are seen.
        settings: Without a default that depends on the image size, see `options.experts.with_defaults`.
        folder: Where to save them.
        keep: Last epoch of those whose weights are all kept, beside the last one of the training.
        seed: Of every draw.

    Raises:
        InputError: See `matching.experts.fit`.
    """
    source, zca = test.source, space.zca
    test.prepare(run, size)
    kept = sorted({*range(keep + 1), settings.expert_epochs})
    fitted = fit(run, source, lambda: (test.images(size), test.labels), space, settings, kept, size=size, seed=seed)
    took, environment = run.stages[-1], EnvironmentRecord(**run.environment())
    shapes = parameter_shapes(settings.network, len(source.classes), size)

    def write() -> None:
        record = ExpertsRecord(
            network=settings.network,
            source=source_record(source),
            classes=source.class_names,
            image_size=size,
            mean=space.mean,
            std=space.std,
            zca=zca and ZcaRecord(eps=zca.eps, images=zca.images, sha256=zca.sha256),
            epochs=settings.expert_epochs,
            kept=kept,
            experts=[_write(folder, fitted, index, shapes) for index in range(len(fitted))],
            settings={**options(settings, ExpertOptions), "seed": seed},
            cost=CostRecord(**added(took), hardware=environment.hardware),
            environment=environment,
            created=now(),
        )
        for name, content in card_files(experts_card(record, location=folder_name(folder)), []).items():
            atomic_write(folder / name, content)
        atomic_write(folder / EXPERTS, record.to_json().encode())
        run.drop(fitted.folder.name)

    run.on_main("keep experts", write, makes=folder / EXPERTS)


def _write(folder: Path, fitted: Stage, index: int, shapes: dict[str, torch.Size]) -> ExpertRecord:
    """Write the file of one expert; return what the record says of it."""
    found = fitted.rows(index, index + 1)
    data = save(split_by_name(found["weights"][0], shapes))
    atomic_write(folder / file_name(index), data)
    train, test = found["accuracies"][0].tolist()
    digest = hashlib.sha256(data).hexdigest()
    return ExpertRecord(seed=int(found["seeds"]), train_accuracy=train, test_accuracy=test, sha256=digest)


def make_experts(source: Source, config: ExpertsConfig) -> Run:
    """Train experts in a folder of their own. One that is finished is left as it is.

    Args:
        source: The real dataset.
        config: The recipe's settings.

    Returns:
        The finished run.

    Raises:
        InputError: See `fit_experts` and `Run`; or when the test split holds no image of a class.
    """
    config = with_size(config, source, "image_size")
    size = config.image_size or source.image_size
    config = with_defaults(config, size)
    if config.keep_epochs and config.keep_epochs > config.expert_epochs:
        valid = f"the experts are trained for {config.expert_epochs} epochs: so many at most"
        raise InputError("keep_epochs", config.keep_epochs, valid)
    test = HeldOut(source)
    resolve(config.network, len(source.classes), size)
    folder = config.output_dir or Path("outputs", experts_name(source.name, config.network))
    settings = {**resolved(config), "source_fingerprint": source.fingerprint, "test_fingerprint": source.test.fingerprint}
    run = open_run(folder, settings, overwrite=config.overwrite, dry_run=config.dry_run)
    if (run.output_dir / EXPERTS).is_file():
        run.say(f"The experts in {folder} are finished already; --overwrite trains them anew")
        return run
    keep = config.keep_epochs or config.expert_epochs
    space = open_space(run, SpaceOptions("zca" if config.whiten else "clamped"), test, size)
    fit_experts(run, test, size, space, config, run.output_dir, keep=keep, seed=config.seed)
    if not run.is_dry:
        run.say(run.summary())
        command = shlex.join(["distill-hub", "make", "mtt", *words(config, SourceOptions), "--experts", str(folder)])
        run.say(
            f"The experts are in {folder}\nNext: `{command}` matches them, `distill-hub push {typed(folder)}` publishes them"
        )
    return run


def open_experts(setup: Setup, space: Space) -> Experts:
    """Open the experts of a matching, fitting them first where none are named and none are in the user's cache.

    Args:
        setup: What the recipe works with, `MttConfig` with all defaults resolved among it.
        space: Of the pixels.

    Raises:
        InputError: When they cannot be loaded, are those of another network, source or space, or do not have the
            weights of every epoch that the matching reads.
    """
    run, config, source, size = setup.run, setup.config, setup.source, setup.image_size
    needed = config.max_start - 1 + config.expert_stretch
    if config.experts != "auto":
        experts = load_experts(config.experts, config.experts_revision)
        if config.network not in ("auto", experts.record.network):
            raise InputError("network", config.network, f"the experts are {experts.record.network}; leave it out")
        _refuse_other(experts, setup, space)
    else:
        _refuse_beyond(config, config.expert_epochs)
        settings = options(config, ExpertOptions)
        key = settings, needed, config.fit_seed, size, source.mirrored, source.normalization, space.zca and space.zca.sha256
        file = run.cached(fit_folder(source, "experts", *key) / EXPERTS)
        if not run.agree(file.exists()):
            fit_experts(run, setup.test, size, space, config, file.parent, keep=needed, seed=config.fit_seed)
        experts = load_experts(str(file.parent), id=FITTED + source.name)
    _refuse_beyond(config, experts.record.last_in_a_row)
    return experts


def _refuse_beyond(config: MttConfig, last: int) -> None:
    """Refuse to match beyond the epoch up to which experts have the weights of every one."""
    needed = config.max_start - 1 + config.expert_stretch
    if needed > last:
        valid = f"with expert_stretch {config.expert_stretch} epoch {needed} is read, the experts are kept up to {last}"
        raise InputError("max_start", config.max_start, f"{valid}; valid: at most {last + 1 - config.expert_stretch}")


def _refuse_other(experts: Experts, setup: Setup, space: Space) -> None:
    """Refuse experts that were trained on something else than the set stands for."""
    own, source = experts.record, setup.source
    pairs = {
        "classes": (own.classes, source.class_names),
        "image_size": (own.image_size, setup.image_size),
        "whitening": (own.zca and own.zca.sha256, space.zca and space.zca.sha256),
        "mean": (own.mean, space.mean),
        "std": (own.std, space.std),
        "source fingerprint": (own.source.identity, source_record(source).identity),
    }
    for name, (theirs, ours) in pairs.items():
        if theirs != ours:
            valid = f"they were trained on {own.source.name}; their {name} is {theirs!s:.80}, here it is {ours!s:.80}"
            raise InputError("experts", experts.id, valid)
