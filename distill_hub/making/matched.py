"""Sets made by matching, one class after the other."""

import functools
from collections.abc import Callable
from typing import Any

import torch

from distill_hub.making.by_class import make_by_class
from distill_hub.making.start import GeneratorSetup, Setup
from distill_hub.matching import dm, glad
from distill_hub.matching import pixels as pixel
from distill_hub.matching.networks import embed, fresh, resolve
from distill_hub.matching.space import Space
from distill_hub.methods.losses import first_and_last_tenth
from distill_hub.running.checkpoint import steps
from distill_hub.running.run import Stage


def match_by_class(setup: Setup, total: int, match: Callable[..., None], rules: Any, space: Space) -> Stage:
    """Match the images of every class with real ones in networks that know of neither: the stage 'match'.

    Args:
        setup: What the recipe works with, `MatchingOptions` among it.
        total: Steps.
        match: What moves the images of a class, such as `matching.dm.match`.
        rules: For it.
        space: Of the pixels.

    Returns:
        The set, for `package_and_score`: the seed of an image is the row in the training split that it started from, or
        that of its noise; and `losses`, the means of its class over the first and the last tenth of the steps.

    Raises:
        InputError: For a network that cannot be used, float16, or pixels that are not finite any more.
    """
    config, run, source, size = setup.config, setup.run, setup.source, setup.image_size
    pixel.refuse_half_precision(run.dtype)
    name = resolve(config.network, len(source.classes), size)
    folder = run.state("match steps", setup.made_from)
    network = functools.partial(fresh, name, len(source.classes), size, config.seed, device=run.device)

    def make(label: int) -> dict[str, torch.Tensor]:
        class_name, rows = source.class_names[label], source.train.by_class[label]
        real = source.train.pixels(rows, size)
        start, seeds = pixel.start(config.start, real, rows, config.ipc, source, config.seed, class_name)
        real, start = (space.of(images.to(run.device)) for images in (real, start))
        state = {"pixels": start, "velocity": torch.zeros_like(start)}
        state["losses"] = torch.zeros(total, device=run.device)
        title = f"match {class_name}" if run.is_main else ""
        todo = steps(run, folder / f"{label:06d}.safetensors", total, state, title=title)
        match(state, real, todo, network, functools.partial(embed, num_classes=len(source.classes)), rules,
              config.seed, class_name)  # fmt: skip
        ends = torch.tensor(first_and_last_tenth(state["losses"].cpu()))
        return {**space.published(state["pixels"]), "seeds": seeds, "losses": ends.repeat(config.ipc, 1)}

    return make_by_class(setup, make, "match")


def match_latents_by_class(setup: GeneratorSetup, rules: dm.Rules) -> Stage:
    """Match latents of every class, decoded, with real images; see `match_by_class`, and `matching.glad`.

    Args:
        setup: What the recipe works with, `GladConfig` among it.
        rules: How.

    Returns:
        The set, for `package_and_score`, with its `latents`; the seed of an image is the row in the training split whose
        encoding it started from.

    Raises:
        InputError: For a network that cannot be used, float16, latents that are not finite any more, or a decoder without
            gradients.
    """
    config, run, source, size = setup.config, setup.run, setup.source, setup.image_size
    pixel.refuse_half_precision(run.dtype)
    name = resolve(config.network, len(source.classes), size)
    folder = run.state("match steps", setup.made_from)
    network = functools.partial(fresh, name, len(source.classes), size, config.seed, device=run.device)
    embedded, generator, batch_size = (
        functools.partial(embed, num_classes=len(source.classes)),
        setup.generator,
        config.decode_batch_size,
    )

    def make(label: int) -> dict[str, torch.Tensor]:
        class_name, rows = source.class_names[label], source.train.by_class[label]
        real = source.train.pixels(rows, size)
        start, seeds = pixel.start("real", real, rows, config.ipc, source, config.seed, class_name)
        latents, real = glad.encode(generator, start, batch_size), real.to(run.device)
        state = {"latents": latents, "velocity": torch.zeros_like(latents)}
        state["losses"] = torch.zeros(rules.steps, device=run.device)
        title = f"match {class_name}" if run.is_main else ""
        todo = steps(run, folder / f"{label:06d}.safetensors", rules.steps, state, title=title)

        def objective(step: int, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return dm.gradient(images, real, step, network, embedded, rules, config.seed, class_name)

        glad.match(state, todo, generator, objective, rate=rules.rate, batch_size=batch_size)
        ends = torch.tensor(first_and_last_tenth(state["losses"].cpu()))
        images = pixel.to_uint8(glad.decode(generator, latents, batch_size))
        return {"images": images, "latents": latents.cpu(), "seeds": seeds, "losses": ends.repeat(config.ipc, 1)}

    return make_by_class(setup, make, "match")
