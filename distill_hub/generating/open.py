"""Which generator a run draws from: one by name, or a small one that is fitted to its source first."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download

from distill_hub.config import InputError
from distill_hub.data.known import FITTED
from distill_hub.data.sources import Source, fit_folder
from distill_hub.generating.fit import LATENT_CHANNELS, fit_in_run, fitted_name
from distill_hub.generating.kinds import KINDS
from distill_hub.generators.base import Generator
from distill_hub.generators.dit import check_guided_channels
from distill_hub.generators.known import IMAGENET_DIT, IMAGENET_DIT_REVISION
from distill_hub.networks.folders import building, read_json
from distill_hub.networks.names import is_fitted
from distill_hub.running.run import Run
from distill_hub.text import printable


@dataclass(frozen=True)
class Located:
    """What `--generator` stands for, before it is loaded or fitted."""

    kind: str  # key of `KINDS`
    name: str | None  # Hub id or folder; None: it is to be fitted
    revision: str | None = None  # on the Hub


def locate(source: Source, generator: str, revision: str | None) -> Located:
    """Find the generator of a run.

    Args:
        source: What it draws.
        generator: Hub id or folder of a pipeline of `KINDS`; a key of `FITTED_KINDS`: a small one that is fitted; 'auto':
            `IMAGENET_DIT` when all classes have a wnid, else a fitted DiT.
        revision: Branch, tag or commit on the Hub.

    Raises:
        InputError: When there is no generator of a known kind, and for a revision of one that is fitted.
    """
    if generator == "auto" and source.has_wnids:
        return Located("dit", IMAGENET_DIT, revision or IMAGENET_DIT_REVISION)
    if is_fitted(generator):
        if revision:
            raise InputError("generator_revision", revision, "a generator that is fitted has none; leave it out")
        return Located("dit" if generator == "auto" else generator, None)
    return Located(_kind(generator, revision), generator, revision)


def resolve(found: Located, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a generator, with a value for each that its kind takes.

    Args:
        found: The generator.
        given: What the user gave, by name; None stands for the kind's own value.

    Raises:
        InputError: For an option that the kind does not take.
    """
    kind = KINDS[found.kind]
    for option, value in given.items():
        if value is not None and value is not False and option not in kind.DEFAULTS:
            raise InputError(option, value, f"a generator of the kind {found.kind} has none; leave it out")
    filled = {option: kind.DEFAULTS.get(option) if value is None else value for option, value in given.items()}
    if kind.SAMPLERS and filled["scheduler"] not in kind.SAMPLERS:
        valid = f"valid for a generator of the kind {found.kind}: {', '.join(kind.SAMPLERS)}"
        raise InputError("scheduler", filled["scheduler"], valid)
    if found.name is None:
        if filled.get("vae"):
            raise InputError("vae", filled["vae"], "a generator that is fitted has latents of its own; name a --generator")
        check_guided_channels(filled.get("guided_channels"), LATENT_CHANNELS)
    return filled


def open_generator(
    run: Run, source: Source, found: Located, options: Mapping[str, Any], fit: Mapping[str, Any]
) -> tuple[Generator, str]:
    """Load the generator of a run, fitting a small one first when there is none for the source.

    Args:
        run: The run; its main process fits while the others wait.
        source: Real images and classes.
        found: The generator.
        options: From `resolve`.
        fit: The settings of `generating.fit.fit_generator`, with the prefix 'fit_'.

    Returns:
        The generator, and what the manifest calls it.

    Raises:
        InputError: When it cannot be loaded or fitted.
    """
    kind = KINDS[found.kind]
    name = id = found.name
    if name is None:
        folder = run.cached(fit_folder(source, fitted_name(found.kind), dict(fit)))
        fit_in_run(run, source, folder, found.kind, fit)
        name, id = str(folder), FITTED + source.name
    taken = {option: options[option] for option in kind.DEFAULTS}
    where = {"revision": found.revision, "device": run.device, "dtype": run.dtype}
    return kind.load(name, classes=source.classes, **where, **taken), id or name


def _kind(name: str, revision: str | None) -> str:
    """Return the key in `KINDS` of a pipeline, by its model_index.json."""
    known = {pipeline: key for key, kind in KINDS.items() for pipeline in kind.PIPELINES}
    valid = " or ".join(known)
    index = Path(name, "model_index.json")
    if not Path(name).exists():
        with building("generator", name, f"a model_index.json that names a {valid} is needed"):
            index = Path(hf_hub_download(name, "model_index.json", revision=revision))
    pipeline = read_json(index, "generator", name).get("_class_name")
    if not isinstance(pipeline, str):
        raise InputError("generator", name, f"a model_index.json that names a {valid} is needed")
    if pipeline not in known:
        raise InputError("generator", name, f"it is a {printable(pipeline)[:80]}; valid: {valid}")
    return known[pipeline]
