"""Sets made by matching, one class after the other."""

import functools
from collections.abc import Callable
from typing import Any

import torch

from distill_hub.making.by_class import make_by_class
from distill_hub.making.start import Setup
from distill_hub.matching import pixels as pixel
from distill_hub.matching.networks import embed, fresh, resolve
from distill_hub.methods.losses import first_and_last_tenth
from distill_hub.running.checkpoint import steps
from distill_hub.running.run import Stage


def match_by_class(setup: Setup, total: int, match: Callable[..., None], rules: Any) -> Stage:
    """Match the images of every class with real ones in networks that know of neither: the stage 'match'.

    Args:
        setup: What the recipe works with, `MatchingOptions` among it.
        total: Steps.
        match: What moves the images of a class, such as `matching.dm.match`.
        rules: For it.

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
        state = {"pixels": start.to(run.device), "velocity": torch.zeros_like(start, device=run.device)}
        state["losses"] = torch.zeros(total, device=run.device)
        title = f"match {class_name}" if run.is_main else ""
        todo = steps(run, folder / f"{label:06d}.safetensors", total, state, title=title)
        match(state, real.to(run.device), todo, network, functools.partial(embed, num_classes=len(source.classes)), rules,
              config.seed, class_name)  # fmt: skip
        ends = torch.tensor(first_and_last_tenth(state["losses"].cpu()))
        return {"images": pixel.to_uint8(state["pixels"]), "seeds": seeds, "losses": ends.repeat(config.ipc, 1)}

    return make_by_class(setup, make, "match")
