"""A recipe's generator, fine-tuned on its source: `<output>/generator`, a pipeline folder with a record and a card."""

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from distill_hub.artifact.describe import generator_record, source_record
from distill_hub.artifact.manifest import CostRecord, EnvironmentRecord, TuningRecord, method_record, now
from distill_hub.config import InputError, options, resolved
from distill_hub.generators.difffit import save
from distill_hub.generators.dit import DiTGenerator
from distill_hub.generators.known import TUNING
from distill_hub.generators.latents import Latents, encode
from distill_hub.generators.open import open_generator
from distill_hub.making.start import GeneratorSetup
from distill_hub.methods.losses import first_and_last_tenth
from distill_hub.methods.tuning import LOSSES, Tuning, check, with_memory
from distill_hub.options.minimax import TuningOptions
from distill_hub.options.shared import GeneratorOptions
from distill_hub.publishing.generator import model_card
from distill_hub.publishing.plots import loss_curves
from distill_hub.running.cost import added
from distill_hub.running.files import STATE, atomic_write, folder_name, remove


def fine_tune(setup: GeneratorSetup, facts: Mapping[str, str]) -> GeneratorSetup:
    """Fine-tune a recipe's generator; a killed run goes on from its last checkpoint.

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
    labels = torch.from_numpy(source.train.labels)
    config = with_memory(setup.config, labels)
    settings = {name: value for name, value in resolved(config).items() if name in options(config, TuningOptions)}
    settings["seed"] = config.seed
    if setup.generator_record.tuning:
        _refuse_other(setup, facts["name"], settings)
        return setup
    micro_batch_size = check(config, source.class_names, labels, run.accelerator)
    folder = run.output_dir / "generator"
    weights = setup.generator_record.sha256
    identity = {"generator": weights, "source": source.fingerprint, "mirrored": source.mirrored}
    done = run.state("tuned", {**identity, "settings": settings, "class_ids": setup.class_ids}) / "done"
    pipeline, features = setup.generator.facts.folder, setup.generator.facts.timestep_features
    if not run.agree(done.exists() and folder.exists()):
        how = {"mirrored": source.mirrored, "batch_size": config.encode_batch_size, "made_from": identity}
        encoded = encode(run, setup.generator, source, **how)
        tuning = Tuning(
            run,
            DiTGenerator.from_pretrained(str(pipeline), device=run.device, timestep_features=features),  # in float32
            Latents(encoded),
            labels,
            setup.class_ids,
            config,
            micro_batch_size=micro_batch_size,
            seed=config.seed,
            identity=identity,
        )
        lower = "a smaller --micro_batch_size, or --gradient_checkpointing,"
        run.together("fine-tune", tuning.steps, tuning.train, lower=lower)
        environment = EnvironmentRecord(**run.environment())
        stages = [stage for stage in run.stages if stage["name"] in ("encode", "fine-tune")]
        record = TuningRecord(
            method=method_record(facts, settings, _notes(tuning)),
            base=setup.generator_record.model_copy(update={"vae": None}),  # which has no part in it
            source=source_record(source),
            classes=source.class_names,
            steps=tuning.steps,
            seconds=round(tuning.cost["seconds"], 1),
            cost=CostRecord(**added(*stages), hardware=environment.hardware),
            environment=environment,
            created=now(),
        )
        run.on_main("save generator", lambda: _save(tuning, record, pipeline, folder, done, json.dumps(stages)))
    else:
        run.stages += [{**stage, "wall": 0.0, "reused": True} for stage in json.loads(done.read_bytes() or b"[]")]
    named = {**options(config, GeneratorOptions), "generator": str(folder), "generator_revision": None}
    generator, id = open_generator(run, source, **named, fit={})
    return dataclasses.replace(setup, config=config, generator=generator, generator_record=generator_record(generator, id))


def _refuse_other(setup: GeneratorSetup, method: str, settings: Mapping[str, Any]) -> None:
    """Refuse to tune what was tuned differently: neither method would be the one on record."""
    tuning, location = setup.generator_record.tuning, setup.config.generator
    if tuning.source.fingerprint != setup.source.fingerprint or tuning.classes != setup.source.class_names:
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


def _notes(tuning: Tuning) -> dict[str, Any]:
    means = {name: pair for name, *pair in zip(LOSSES, *first_and_last_tenth(tuning.losses), strict=True)}
    trained = sum(parameter.numel() for parameter in tuning.parameters.values())
    untuned = tuning.settings.ema_decay**tuning.steps  # what the average still holds of the weights it began with
    return {
        "trained_parameters": trained,
        "share_of_untuned_weights_in_the_average": round(untuned, 4),
        "mean_losses_of_first_and_last_tenth": means,
    }


def _save(tuning: Tuning, record: TuningRecord, base: Path, folder: Path, done: Path, stages: str) -> None:
    """Write the folder, complete or not at all, keep what it took, and drop what the fine-tuning needed to resume."""
    state = folder.parent / STATE
    partial = state / "generator"
    save(tuning.transformer, base, partial)
    atomic_write(partial / TUNING, record.to_json().encode())
    loss_curves(tuning.losses.numpy(), LOSSES, partial / "losses.png")
    files = [file.relative_to(partial).as_posix() for file in partial.rglob("*")]
    atomic_write(partial / "README.md", model_card(record, location=folder_name(folder), files=files).encode())
    atomic_write(folder.parent / "assets" / "losses.png", (partial / "losses.png").read_bytes())
    remove(folder)  # of other settings
    os.replace(partial, folder)
    atomic_write(done, stages.encode())
    for stage in ("encode", "tuning"):
        remove(state / stage)
