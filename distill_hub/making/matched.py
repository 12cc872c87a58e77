"""Sets made by matching: one class after the other, or all of them together."""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from distill_hub.config import options
from distill_hub.making.by_class import make_by_class
from distill_hub.making.start import Setup
from distill_hub.matching import dc, dm, glad
from distill_hub.matching import pixels as pixel
from distill_hub.matching.networks import embed, fresh, resolve
from distill_hub.matching.space import Space
from distill_hub.methods.losses import first_and_last_tenth
from distill_hub.options.psr import RefineOptions
from distill_hub.running.checkpoint import steps
from distill_hub.running.run import Stage

if TYPE_CHECKING:
    from distill_hub.making.generated import GeneratorSetup  # with diffusers


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
        InputError: When pixels are not finite any more.
    """
    config, run, source, size = setup.config, setup.run, setup.source, setup.image_size
    networks, loop = _networks(setup), _loops(setup, total, setup.made_from)

    def make(label: int) -> dict[str, torch.Tensor]:
        class_name, rows = source.class_names[label], source.train.by_class[label]
        real = source.train.pixels(rows, size)
        start, seeds = pixel.start(config.start, real, rows, config.ipc, source, config.seed, class_name)
        real, start = (space.of(images.to(run.device)) for images in (real, start))
        state = _state(total, pixels=start)
        match(state, real, loop(label, state), *networks, rules, config.seed, class_name)
        return {**space.published(state["pixels"]), "seeds": seeds, "losses": _ends(state, config.ipc)}

    return make_by_class(setup, make, "match")


def match_together(setup: Setup, total: int, match: Callable[..., None], rules: Any, space: Space) -> Stage:
    """Match the images of all classes, which depend on each other through what networks learn of them: the stage 'match'.

    Args:
        setup: What the recipe works with, `MatchingOptions` among it.
        total: Steps.
        match: What moves the images, such as `matching.dc.match`.
        rules: For it.
        space: Of the pixels.

    Returns:
        See `match_by_class`; the losses are sums over classes.

    Raises:
        InputError: See `match_by_class`.
    """
    config, run, source, size = setup.config, setup.run, setup.source, setup.image_size
    (fresh_of, _), file = _networks(setup), run.state("match steps", setup.made_from) / "all.safetensors"

    def make(labels: Sequence[int]) -> dict[str, torch.Tensor]:
        by_class = source.train.by_class
        real = [source.train.pixels(rows, size) for rows in by_class]
        starts, seeds = zip(*(
            pixel.start(config.start, *own, config.ipc, source, config.seed, class_name)
            for *own, class_name in zip(real, by_class, source.class_names, strict=True)
        ), strict=True)  # fmt: skip
        network = fresh_of(0)
        state = _state(total, pixels=torch.stack([space.of(start.to(run.device)) for start in starts]))
        weights = {f"network.{name}": weight.detach() for name, weight in network.named_parameters()}
        todo = steps(run, file, total, {**state, **weights}, title="match" if run.is_main else "")
        own = [space.of(images.to(run.device)) for images in real]
        match(state, network, own, todo, fresh_of, rules, config.seed, source.class_names)
        made = {**space.published(state["pixels"].flatten(0, 1)), "seeds": torch.cat(seeds)}
        return {**made, "losses": _ends(state, len(labels)), "logits": setup.teacher.judge(made["images"])}

    how = {"made_from": setup.made_from, "whole": True, "lower": "a smaller --real_batch_size"}
    return run.map("match", setup.labels, make, chunk_size=len(setup.labels), **how)


def match_latents_by_class(setup: "GeneratorSetup", rules: dm.Rules | dc.Rules) -> Stage:
    """Match what latents of every class decode to with real images; see `match_by_class` and `matching.glad`.

    Args:
        setup: What the recipe works with, `GladConfig` among it.
        rules: How.

    Returns:
        The set, with its `latents`; the seed of an image is the row in the training split whose encoding it started from.

    Raises:
        InputError: See `match_by_class`, and for a decoder without gradients.
    """
    config, source, generator = setup.config, setup.source, setup.generator
    later = options(config, RefineOptions)  # what is refined afterwards is matched in the same way
    made_from = {name: value for name, value in setup.made_from.items() if name not in later}
    networks, loop = _networks(setup), _loops(setup, rules.steps, made_from)

    def make(label: int) -> dict[str, torch.Tensor]:
        class_name, rows = source.class_names[label], source.train.by_class[label]
        images = source.train.pixels(rows, setup.image_size)
        start, seeds = pixel.start("real", images, rows, config.ipc, source, config.seed, class_name)
        real = images.to(setup.run.device)
        state = _state(rules.steps, latents=glad.encode(generator, start, config.decode_batch_size))

        objective = glad.objective(real, label, *networks, rules, config.seed, class_name)
        glad.match(state, loop(label, state), generator, objective, rate=rules.rate, batch_size=config.decode_batch_size)
        decoded = glad.decode(generator, state["latents"], config.decode_batch_size)
        made = {"images": pixel.to_uint8(decoded), "latents": state["latents"].cpu()}
        return {**made, "seeds": seeds, "losses": _ends(state, config.ipc)}

    return make_by_class(setup, make, "match", made_from)


def _networks(setup: Setup) -> tuple[Callable[[int], nn.Module], Callable[[nn.Module, torch.Tensor], torch.Tensor]]:
    """Return what gives the network of a step, and what embeds images in it."""
    classes = len(setup.source.classes)
    name = resolve(setup.config.network, classes, setup.image_size)
    network = functools.partial(fresh, name, classes, setup.image_size, setup.config.seed, device=setup.run.device)
    return network, functools.partial(embed, num_classes=classes)


def _loops(
    setup: Setup, total: int, made_from: Mapping[str, Any]
) -> Callable[[int, Mapping[str, torch.Tensor]], Iterator[int]]:
    """Return what runs the loop of a class on its state, from the last checkpoint on."""
    folder = setup.run.state("match steps", made_from)

    def loop(label: int, state: Mapping[str, torch.Tensor]) -> Iterator[int]:
        title = f"match {setup.source.class_names[label]}" if setup.run.is_main else ""
        return steps(setup.run, folder / f"{label:06d}.safetensors", total, state, title=title)

    return loop


def _state(total: int, **moved: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return the state of a loop: what is moved, by its name, its velocity, and the losses of all steps."""
    (start,) = moved.values()
    return {**moved, "velocity": torch.zeros_like(start), "losses": torch.zeros(total, device=start.device)}


def _ends(state: Mapping[str, torch.Tensor], ipc: int) -> torch.Tensor:
    return torch.tensor(first_and_last_tenth(state["losses"].cpu())).repeat(ipc, 1)
