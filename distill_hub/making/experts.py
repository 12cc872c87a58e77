"""Expert trajectories: fitted to a source and saved as an artifact of their own, or opened for matching."""

import functools
import hashlib
import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save

from distill_hub.artifact.describe import source_record
from distill_hub.artifact.experts import (
    EXPERTS,
    ExpertRecord,
    Experts,
    ExpertsRecord,
    experts_name,
    file_name,
    load_experts,
    split_by_name,
)
from distill_hub.artifact.manifest import CostRecord, EnvironmentRecord, now
from distill_hub.augmentation.dsa import dsa
from distill_hub.config import InputError, options, resolved, words
from distill_hub.data.known import FITTED, NORMALIZATIONS
from distill_hub.data.sources import Source, fit_folder
from distill_hub.evaluation.subject import HeldOut
from distill_hub.making.size import with_size
from distill_hub.making.start import Setup
from distill_hub.matching.experts import Flat, logits_of, train_expert
from distill_hub.networks.build import build, check_student
from distill_hub.options.experts import ExpertOptions, ExpertsConfig, with_defaults
from distill_hub.options.mtt import MttConfig
from distill_hub.options.shared import SourceOptions
from distill_hub.publishing.experts import experts_card
from distill_hub.publishing.readme import card_files
from distill_hub.running.dry_run import open_run
from distill_hub.running.files import atomic_write, folder_name
from distill_hub.running.run import Run
from distill_hub.running.seeds import draw_seed
from distill_hub.running.stages import Stage
from distill_hub.text import typed


def fit_experts(
    run: Run, test: HeldOut, size: int, settings: ExpertOptions, folder: Path, *, keep: int, seed: int
) -> None:
    """Train experts, spread over processes, and save them: `experts.json` comes last and says that the folder is complete.

    Args:
        run: Keeps every finished expert; one that was interrupted goes on from its checkpoint.
        test: Test images of the source that they are trained on; each expert sees them once, after its last epoch.
        size: Side of the images in pixels.
        settings: All defaults resolved, see `options.experts.with_defaults`.
        folder: Where to save them.
        keep: Last epoch of those whose weights are all kept, beside the last one of the training.
        seed: Of every draw.

    Raises:
        InputError: When the network cannot be trained so, or the weights of an expert are not finite any more.
    """
    source, network = test.source, settings.network
    classes, normalization = len(source.classes), NORMALIZATIONS[source.normalization]
    check_student(network, classes, size, field="network")
    kept = sorted({*range(min(keep, settings.expert_epochs) + 1), settings.expert_epochs})
    told = {**options(settings, ExpertOptions), "seed": seed}
    made_from = {"source": source.fingerprint, "test": test.source.test.fingerprint, "mirrored": source.mirrored}
    made_from |= {"normalization": source.normalization, "image_size": size, "settings": told, "kept": kept}
    state = run.state("expert steps", made_from)
    seeds = [draw_seed(seed, "expert", index) for index in range(settings.expert_count)]

    @functools.cache
    def real() -> tuple[torch.Tensor, torch.Tensor]:
        return source.train.pixels(None, size).to(run.device), torch.from_numpy(source.train.labels).to(run.device)

    def fit(chunk: Sequence[int]) -> dict[str, torch.Tensor]:
        torch.manual_seed(seeds[chunk[0]])
        flat, (images, labels) = Flat(build(network, classes, size).to(run.device)), real()
        if any(True for _ in flat.network.buffers()):
            raise InputError("network", network, "students follow weights alone; it has running statistics beside them")
        trajectory = train_expert(
            run, state / f"{chunk[0]}.safetensors", flat, images, labels, settings, kept,
            rules=dsa(source.mirrored), normalization=normalization, seed=seeds[chunk[0]],
            title=f"expert {chunk[0]}" if run.is_main else "",
        )  # fmt: skip
        last, held_out = trajectory[-1].to(run.device), (test.images(size).to(run.device), test.labels.to(run.device))
        accuracies = [
            (logits_of(flat, last, shown, normalization).argmax(1) == known).double().mean().cpu()
            for shown, known in ((images, labels), held_out)
        ]
        return {"weights": trajectory[None], "accuracies": torch.stack(accuracies)[None]}

    lower = "a smaller --expert_batch_size"
    fitted = run.map("fit experts", range(len(seeds)), fit, chunk_size=1, made_from=made_from, whole=True, lower=lower)
    (stage,) = (known for known in run.stages if known["name"] == "fit experts")
    environment = EnvironmentRecord(**run.environment())

    def write() -> None:
        with torch.device("meta"):
            shapes = Flat(build(network, classes, size)).shapes
        known = [_write(folder / file_name(index), fitted, index, seed, shapes) for index, seed in enumerate(seeds)]
        record = ExpertsRecord(
            network=network,
            source=source_record(source),
            classes=source.class_names,
            image_size=size,
            mean=normalization[0],
            std=normalization[1],
            epochs=settings.expert_epochs,
            kept=kept,
            experts=known,
            settings=told,
            cost=CostRecord(**{name: stage[name] for name in CostRecord.model_fields if name in stage},
                            hardware=environment.hardware),
            environment=environment,
            created=now(),
        )  # fmt: skip
        for name, content in card_files(experts_card(record, location=folder_name(folder)), []).items():
            atomic_write(folder / name, content)
        run.leave_stage(folder)
        atomic_write(folder / EXPERTS, record.to_json().encode())
        shutil.rmtree(fitted.folder)

    run.on_main("keep experts", write, makes=folder / EXPERTS)


def _write(file: Path, fitted: Stage, index: int, seed: int, shapes: dict[str, torch.Size]) -> ExpertRecord:
    """Write the file of one expert; return what the record says of it."""
    found = fitted.rows(index, index + 1)
    data = save(split_by_name(found["weights"][0], shapes))
    atomic_write(file, data)
    train, test = found["accuracies"][0].tolist()
    return ExpertRecord(seed=seed, train_accuracy=train, test_accuracy=test, sha256=hashlib.sha256(data).hexdigest())


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
    check_student(config.network, len(source.classes), size, field="network")
    folder = config.output_dir or Path("outputs", experts_name(source.name, config.network))
    settings = {**resolved(config), "source_fingerprint": source.fingerprint, "test_fingerprint": source.test.fingerprint}
    run = open_run(folder, settings, overwrite=config.overwrite, dry_run=config.dry_run)
    if (run.output_dir / EXPERTS).is_file():
        run.say(f"The experts in {folder} are finished already; --overwrite trains them anew")
        return run
    keep = config.keep_epochs or config.expert_epochs
    fit_experts(run, test, size, config, run.output_dir, keep=keep, seed=config.seed)
    if not run.is_dry:
        run.say(run.summary())
        command = shlex.join(["distill-hub", "make", "mtt", *words(config, SourceOptions), "--experts", str(folder)])
        run.say(f"The experts are in {folder}\nNext: `{command}` matches them, `distill-hub push {typed(folder)}` publishes them")
    return run


def open_experts(setup: Setup) -> Experts:
    """Open the experts of a matching, fitting them first where none are named and none are in the user's cache.

    Args:
        setup: What the recipe works with, `MttConfig` with all defaults resolved among it.

    Raises:
        InputError: When they cannot be loaded, are those of another network, source or normalisation, or do not have the
            weights of every epoch that the matching reads.
    """
    run, config, source, size = setup.run, setup.config, setup.source, setup.image_size
    needed = config.max_start - 1 + config.expert_stretch
    if config.experts != "auto":
        experts = load_experts(config.experts, config.experts_revision)
        if config.network not in ("auto", experts.record.network):
            raise InputError("network", config.network, f"the experts are {experts.record.network}; leave it out")
        _refuse_other(experts, setup)
    else:
        _refuse_beyond(config, config.expert_epochs)
        settings = options(config, ExpertOptions)
        key = settings, needed, config.fit_seed, size, source.mirrored, source.normalization
        file = run.cached(fit_folder(source, "experts", *key) / EXPERTS)
        if not run.agree(file.exists()):
            fit_experts(run, setup.test, size, config, file.parent, keep=needed, seed=config.fit_seed)
        else:
            run.count_stage(file.parent)
        experts = load_experts(str(file.parent), id=FITTED + source.name)
    _refuse_beyond(config, experts.record.last_in_a_row)
    return experts


def _refuse_beyond(config: MttConfig, last: int) -> None:
    """Refuse to match beyond the epoch up to which experts have the weights of every one."""
    needed = config.max_start - 1 + config.expert_stretch
    if needed > last:
        valid = f"with expert_stretch {config.expert_stretch} weights up to epoch {needed} are read, the experts' go up to {last}"
        raise InputError("max_start", config.max_start, f"{valid}; valid: at most {last + 1 - config.expert_stretch}")


def _refuse_other(experts: Experts, setup: Setup) -> None:
    """Refuse experts that were trained on something else than the set stands for."""
    own, source = experts.record, setup.source
    mean, std = NORMALIZATIONS[source.normalization]
    pairs = {
        "classes": (own.classes, source.class_names),
        "image_size": (own.image_size, setup.image_size),
        "mean": (own.mean, mean),
        "std": (own.std, std),
        "source fingerprint": (own.source.fingerprint, source.fingerprint),
    }
    for name, (theirs, ours) in pairs.items():
        if theirs != ours:
            valid = f"they were trained on {own.source.name}; their {name} is {str(theirs):.80}, here it is {str(ours):.80}"
            raise InputError("experts", experts.id, valid)
