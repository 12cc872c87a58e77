"""Sets made by matching: one class after the other, or all of them together."""

import functools
from collections.abc import Callable, Sequence
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


def match_together(setup: Setup, total: int, match: Callable[..., None], rules: Any) -> Stage:
    """Match the images of all classes, which depend on each other through what networks learn of them: the stage 'match'.

    Args:
        setup: What the recipe works with, `MatchingOptions` among it.
        total: Steps.
        match: What moves the images, such as `matching.dc.match`.
        rules: For it.

    Returns:
        See `match_by_class`; the losses are sums over classes.

    Raises:
        InputError: See `match_by_class`.
    """
    config, run, source, size = setup.config, setup.run, setup.source, setup.image_size
    pixel.refuse_half_precision(run.dtype)
    name = resolve(config.network, len(source.classes), size)
    file = run.state("match steps", setup.made_from) / "all.safetensors"
    network = functools.partial(fresh, name, len(source.classes), size, config.seed, device=run.device)

    def make(labels: Sequence[int]) -> dict[str, torch.Tensor]:
        by_class = source.train.by_class
        real = [source.train.pixels(rows, size) for rows in by_class]
        starts = [
            pixel.start(config.start, *own, config.ipc, source, config.seed, class_name)
            for *own, class_name in zip(real, by_class, source.class_names, strict=True)
        ]
        pixels = torch.stack([start for start, _ in starts]).to(run.device)
        current = network(0)
        state = {"pixels": pixels, "velocity": torch.zeros_like(pixels), "losses": torch.zeros(total, device=run.device)}
        weights = {f"network.{name}": weight.detach() for name, weight in current.named_parameters()}
        todo = steps(run, file, total, {**state, **weights}, title="match" if run.is_main else "")
        match(state, current, [own.to(run.device) for own in real], todo, network, rules, config.seed, source.class_names)
        images = pixel.to_uint8(pixels.flatten(0, 1))
        return {
            "images": images,
            "seeds": torch.cat([seeds for _, seeds in starts]),
            "losses": torch.tensor(first_and_last_tenth(state["losses"].cpu())).repeat(len(labels), 1),
            "logits": setup.teacher.judge(images),
        }

    how = {"made_from": setup.made_from, "whole": True, "lower": "a smaller --real_batch_size"}
    return run.map("match", setup.labels, make, chunk_size=len(setup.labels), **how)
