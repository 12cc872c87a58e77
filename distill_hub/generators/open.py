"""Which generator a run draws from: one by name, or a small one that is fitted to its source first."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download

from distill_hub.config import InputError
from distill_hub.data.known import FITTED
from distill_hub.data.sources import Source, fit_folder
from distill_hub.generators.base import Generator
from distill_hub.generators.dit import DiTGenerator, check_guided_channels
from distill_hub.generators.fit import LATENT_CHANNELS, fit_on_main
from distill_hub.generators.known import IMAGENET_DIT, IMAGENET_DIT_REVISION
from distill_hub.networks.folders import building, read_json
from distill_hub.running.run import Run
from distill_hub.text import printable

# How a pipeline is loaded, by what its model_index.json calls it.
GENERATORS: Mapping[str, Callable[..., Generator]] = {"DiTPipeline": DiTGenerator.from_pretrained}


def open_generator(
    run: Run,
    source: Source,
    *,
    generator: str,
    generator_revision: str | None,
    scheduler: str,
    sample_steps: int,
    guidance_scale: float,
    timestep_features: str,
    guided_channels: int | None,
    vae: str | None,
    vae_revision: str | None,
    fit: Mapping[str, Any],
) -> tuple[Generator, str]:
    """Load the generator of a run, fitting a small one first when there is none for the source.

    Args:
        run: The run; its main process fits while the others wait.
        source: Real images and classes.
        generator: Hub id or folder of a pipeline of `GENERATORS`; 'auto': `IMAGENET_DIT` when all classes have a wnid, else
            a fitted one.
        generator_revision: Branch, tag or commit on the Hub.
        scheduler: See `DiTGenerator`.
        sample_steps: See `DiTGenerator`.
        guidance_scale: See `DiTGenerator`.
        timestep_features: See `DiTGenerator.from_pretrained`.
        guided_channels: See `DiTGenerator`.
        vae: See `DiTGenerator.from_pretrained`.
        vae_revision: See `DiTGenerator.from_pretrained`.
        fit: The settings of `generators.fit.fit_generator`, with the prefix 'fit_'.

    Returns:
        The generator, and what the manifest calls it.

    Raises:
        InputError: When it cannot be loaded or fitted.
    """
    name = id = generator
    if generator == "auto" and source.has_wnids:
        name = id = IMAGENET_DIT
        generator_revision = generator_revision or IMAGENET_DIT_REVISION
    elif generator == "auto":
        check_guided_channels(guided_channels, LATENT_CHANNELS)
        if vae:
            raise InputError("vae", vae, "a generator that is fitted has latents of its own; name a --generator")
        folder = run.cached(fit_folder(source, "generator", dict(fit)))
        fit_on_main(run, source, folder, fit)
        name, id = str(folder), FITTED + source.name
    loaded = _loader(name, generator_revision)(
        name,
        revision=generator_revision,
        scheduler=scheduler,
        steps=sample_steps,
        guidance_scale=guidance_scale,
        timestep_features=timestep_features,
        guided_channels=guided_channels,
        vae=vae,
        vae_revision=vae_revision,
        device=run.device,
        dtype=run.dtype,
    )
    return loaded, id


def _loader(name: str, revision: str | None) -> Callable[..., Generator]:
    """Return what loads a pipeline, by its model_index.json."""
    valid = " or ".join(GENERATORS)
    index = Path(name, "model_index.json")
    if not Path(name).exists():
        with building("generator", name, f"a model_index.json that names a {valid} is needed"):
            index = Path(hf_hub_download(name, "model_index.json", revision=revision))
    pipeline = read_json(index, "generator", name).get("_class_name")
    if not isinstance(pipeline, str):
        raise InputError("generator", name, f"a model_index.json that names a {valid} is needed")
    if pipeline not in GENERATORS:
        raise InputError("generator", name, f"it is a {printable(pipeline)[:80]}; valid: {valid}")
    return GENERATORS[pipeline]
