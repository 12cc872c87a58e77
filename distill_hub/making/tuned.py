"""A recipe's generator, fine-tuned on its source: `<output>/generator`, a pipeline folder with a record and a card."""

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from distill_hub.artifact.base import now
from distill_hub.artifact.describe import generator_record, source_record
from distill_hub.artifact.manifest import CostRecord, EnvironmentRecord, TuningRecord, method_record
from distill_hub.config import InputError, options, resolved
from distill_hub.disk.files import STATE, atomic_write, folder_name, remove
from distill_hub.generating.latents import Latents, encode
from distill_hub.generating.open import Located, open_generator
from distill_hub.generators.difffit import copy_pipeline, prepare, save
from distill_hub.generators.dit import DiTGenerator
from distill_hub.generators.known import TUNING
from distill_hub.generators.phases import Phases
from distill_hub.making.generated import GeneratorSetup, generator_options
from distill_hub.methods.losses import first_and_last_tenth
from distill_hub.methods.tuning import LOSSES, Tuning, averaged, check, state_of, with_memory
from distill_hub.options.minimax import TuningOptions
from distill_hub.publishing.generator import model_card
from distill_hub.publishing.plots import loss_curves
from distill_hub.running.cost import Cost, added
from distill_hub.running.seeds import cpu_generator, draw_seed


@dataclass(frozen=True)
class Group:
    """Some classes, which are tuned for together: all of them, or those of one phase."""

    classes: range  # positions in the source
    rows: torch.Tensor  # (N,) of the encoded images
    labels: torch.Tensor  # (N,) positions in `classes`
    state: str  # folder of what its fine-tuning needs to resume


@dataclass(frozen=True)
class Tuned:
    """What is left of the fine-tuning of a group."""

    group: Group
    steps: int  # per epoch
    losses: torch.Tensor  # (all steps, LOSSES)
    cost: Cost  # of all its steps
    trained: int  # parameters
    state: Path  # see `methods.tuning.averaged`


def fine_tune(setup: GeneratorSetup, facts: Mapping[str, str]) -> GeneratorSetup:
    """Fine-tune a recipe's generator, or a copy of it for each group of classes; a killed run goes on from its checkpoint.

    Args:
        setup: What the recipe works with, its settings among it, with a DiT.
        facts: Of the method, see `methods.minimax.FACTS`.

    Returns:
        The same with the tuned generator, loaded from its folder. One that `--generator` names and that was tuned in the
        same way already is taken as it is.

    Raises:
        InputError: When the generator was tuned in another way; see `methods.tuning.check` and `Tuning.train`.
    """
    run, source = setup.run, setup.source
    names, rows = source.class_names, _chosen(setup)
    labels = torch.from_numpy(source.train.labels)[rows]
    config = with_memory(setup.config, labels)
    settings = {name: value for name, value in resolved(config).items() if name in options(config, TuningOptions)}
    compiled = {"compile_set": True} if config.compile_set else {}  # older records do not have it
    settings |= {"seed": config.seed, **compiled}
    if setup.generator_record.tuning:
        _refuse_other(setup, facts["name"], settings)
        return setup
    groups = _groups(setup, labels)
    for group in groups:
        micro_batch_size = check(config, [names[c] for c in group.classes], group.labels, run.accelerator)
    folder = run.output_dir / "generator"
    folders = {epoch: run.output_dir / f"generator-epoch-{epoch}" for epoch in config.epochs_to_save[:-1]}
    folders[config.tuning_epochs] = folder
    weights = setup.generator_record.sha256
    identity = {"generator": weights, "source": source.fingerprint, "mirrored": source.mirrored, **compiled}
    done = run.state("tuned", {**identity, "settings": settings, "class_ids": setup.class_ids}) / "done"
    ids = {group.state: [setup.class_ids[c] for c in group.classes] for group in groups}
    if not run.agree(done.exists() and all(place.exists() for place in folders.values())):
        how = {"mirrored": source.mirrored, "batch_size": config.encode_batch_size, "made_from": identity}
        encoded = encode(run, setup.generator, source, rows=rows.tolist(), **how)
        tuned: list[Tuned] = []

        def tune(group: Group) -> Tuned:
            tuning = Tuning(
                run,
                _untuned(setup),
                Latents(encoded, group.rows),
                group.labels,
                ids[group.state],
                config,
                micro_batch_size=micro_batch_size,
                seed=config.seed,
                identity=identity,
                name=group.state,
                compiled=config.compile_set,
            )
            cost, trained = tuning.train(), sum(weights.numel() for weights in tuning.parameters.values())
            run.accelerator.free_memory()  # which would hold on to the network
            return Tuned(group, tuning.per_epoch, tuning.losses, cost, trained, tuning.state)

        def tune_all() -> Cost:
            tuned.extend(map(tune, groups))
            return added(*(one.cost for one in tuned))

        steps = sum(len(group.labels) // config.tuning_batch_size for group in groups) * config.tuning_epochs
        run.together("fine-tune", steps, tune_all, lower="a smaller --micro_batch_size, or --gradient_checkpointing,")
        environment = EnvironmentRecord(**run.environment())
        stages = [stage for stage in run.stages if stage["name"] in ("encode", "fine-tune")]

        def save_all() -> None:
            if not done.exists():  # what lies there was tuned with other settings
                for stale in run.output_dir.glob("generator-epoch-*"):
                    remove(stale)
            for epoch, place in folders.items():
                if run.is_dry and place != folder:
                    continue
                part = epoch / config.tuning_epochs
                spent = added(*(one.cost for one in tuned))
                spent = {name: value and round(part * value, 3) for name, value in spent.items()}
                encoding = [stage for stage in stages if stage["name"] == "encode"]
                record = TuningRecord(
                    method=method_record(
                        facts, {**settings, "tuning_epochs": epoch}, _notes(tuned, epoch, config.ema_decay)
                    ),
                    base=setup.generator_record.model_copy(update={"vae": None}),  # which has no part in it
                    source=source_record(source),
                    classes=names,
                    steps=sum(one.steps * epoch for one in tuned),
                    seconds=round(spent["seconds"], 1),
                    cost=CostRecord(**added(spent, *encoding), hardware=environment.hardware),
                    environment=environment,
                    created=now(),
                )
                _save(setup, tuned, epoch, record, place)
            atomic_write(run.output_dir / "assets" / "losses.png", (folder / "losses.png").read_bytes())
            atomic_write(done, json.dumps(stages).encode())
            run.drop("encode")

        run.on_main("save generator", save_all)
    else:
        for group in groups:  # so that it stays
            state_of(run, config, ids[group.state], seed=config.seed, identity=identity, name=group.state)
        run.stages += [{**stage, "wall": 0.0, "reused": True} for stage in json.loads(done.read_bytes() or b"[]")]
    generator, id = open_generator(run, source, Located("dit", str(folder)), generator_options(config), fit={})
    return dataclasses.replace(setup, config=config, generator=generator, generator_record=generator_record(generator, id))


def _chosen(setup: GeneratorSetup) -> torch.Tensor:
    """Return the rows of the training split that are tuned on: all, or so many of every class."""
    labels, most = torch.from_numpy(setup.source.train.labels), setup.config.tuning_images
    if most is None:
        return torch.arange(len(labels))
    chosen = []
    for label, name in enumerate(setup.source.class_names):
        rows = (labels == label).nonzero().flatten()
        draw = cpu_generator(draw_seed(setup.config.seed, "tuning images", name))
        chosen.append(rows[torch.randperm(len(rows), generator=draw)[:most]])
    return torch.cat(chosen).sort().values


def _groups(setup: GeneratorSetup, labels: torch.Tensor) -> list[Group]:
    """Return the groups of classes, each with its images; `labels` (N,) are those of the images that are encoded."""
    count = len(setup.source.classes)
    size = setup.config.classes_per_phase or count
    if size >= count:
        return [Group(range(count), torch.arange(len(labels)), labels, "tuning")]
    groups = []
    for place, start in enumerate(range(0, count, size)):
        classes = range(start, min(start + size, count))
        own = (labels >= classes.start) & (labels < classes.stop)
        groups.append(Group(classes, own.nonzero().flatten(), labels[own] - start, f"tuning-{place}"))
    return groups


def _untuned(setup: GeneratorSetup) -> DiTGenerator:
    """Load the generator that is to be tuned, in float32."""
    facts = setup.generator.facts
    return DiTGenerator.from_pretrained(
        str(facts.folder), device=setup.run.device, timestep_features=facts.timestep_features
    )


def _refuse_other(setup: GeneratorSetup, method: str, settings: Mapping[str, Any]) -> None:
    """Refuse to tune what was tuned differently: neither method would be the one on record."""
    tuning, location = setup.generator_record.tuning, setup.config.generator
    if tuning.source.identity != source_record(setup.source).identity or tuning.classes != setup.source.class_names:
        raise InputError("generator", location, f"it was tuned on {tuning.source.name}; name the generator it came from")
    if tuning.method.name != method:
        valid = f"it was tuned with {tuning.method.name}, not {method}; name the generator it came from"
        raise InputError("generator", location, valid)
    before = tuning.method.config
    if tuning.source.mirrored is not None:  # a record without it is older than the choice
        before = {**before, "mirrored": tuning.source.mirrored}
        settings = {**settings, "mirrored": setup.source.mirrored}
    for name in sorted(before.keys() | settings.keys()):
        if before.get(name) != settings.get(name):
            valid = f"it was tuned with {name} {before.get(name)}, not {settings.get(name)}; name the generator it came from"
            raise InputError("generator", location, valid)


def _notes(tuned: Sequence[Tuned], epoch: int, decay: float) -> dict[str, Any]:
    tenths = [first_and_last_tenth(one.losses[: one.steps * epoch]) for one in tuned]
    means = np.mean(tenths, axis=0).tolist()  # over the groups
    untuned = decay ** min(one.steps * epoch for one in tuned)  # what the average still holds of the weights it began with
    return {
        "trained_parameters": sum(one.trained for one in tuned),
        "share_of_untuned_weights_in_the_average": round(untuned, 4),
        "mean_losses_of_first_and_last_tenth": {name: pair for name, *pair in zip(LOSSES, *means, strict=True)},
    }


def _save(setup: GeneratorSetup, tuned: Sequence[Tuned], epoch: int, record: TuningRecord, folder: Path) -> None:
    """Write the folder of one epoch's averaged weights, complete or not at all."""
    partial, base = folder.parent / STATE / "generator", setup.generator.facts.folder
    if len(tuned) == 1:
        transformer = _untuned(setup).transformer
        parameters = prepare(transformer)
        with torch.no_grad():
            for name, weights in averaged(tuned[0].state, epoch).items():
                parameters[name].copy_(weights)
        save(transformer, base, partial)
    else:
        phase = torch.full((setup.generator.transformer.config.num_embeds_ada_norm,), -1)
        for place, one in enumerate(tuned):
            phase[[setup.class_ids[c] for c in one.group.classes]] = place
        averages = [averaged(one.state, epoch) for one in tuned]
        weights = {name: torch.stack([average[name] for average in averages]) for name in averages[0]}
        copy_pipeline(base, partial, "vae", "scheduler", "transformer")
        Phases(phase, weights).save(partial)
    atomic_write(partial / TUNING, record.to_json().encode())
    losses = torch.cat([one.losses[: one.steps * epoch] for one in tuned])
    loss_curves(losses.numpy(), LOSSES, partial / "losses.png")
    files = [file.relative_to(partial).as_posix() for file in partial.rglob("*")]
    atomic_write(partial / "README.md", model_card(record, location=folder_name(folder), files=files).encode())
    remove(folder)  # of other settings
    os.replace(partial, folder)
