"""Sets whose samples are drawn towards, or from, modes of the real images."""

from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from typing import Any

import torch

from distill_hub.guidance.modes import posteriors
from distill_hub.making.generated import GeneratorSetup
from distill_hub.methods.candidates import HALF, render
from distill_hub.running.run import Stage
from distill_hub.running.seeds import draw_seed


def find_modes(
    setup: GeneratorSetup,
    find: Callable[[torch.Tensor, torch.Tensor, int], torch.Tensor],
    made_from: Mapping[str, Any],
) -> Stage:
    """Find the modes of every class among its encoded real images: the stage 'modes'.

    A class is encoded and its modes found at once, so that its latents need not be kept.

    Args:
        setup: What the recipe works with, `encode_batch_size` among its settings.
        find: From mean and standard deviation of the latents of a class, each float32 (N, channels, h, w), and a seed to
            the modes, float32 (IPC, channels, h, w).
        made_from: What it depends on beside these.

    Returns:
        Class by class, `modes`.
    """
    config, source = setup.config, setup.source

    def of_class(labels: Sequence[int]) -> dict[str, torch.Tensor]:
        mean, std = posteriors(setup.generator, source, labels[0], config.encode_batch_size)
        return {"modes": find(mean, std, draw_seed(config.seed, "modes", source.class_names[labels[0]]))}

    known = {
        "source": source.fingerprint,
        "class_names": source.class_names,
        "generator": setup.generator_record.sha256,
        "ipc": config.ipc,
        "seed": config.seed,
        "encode_batch_size": config.encode_batch_size,
        "scikit-learn": metadata.version("scikit-learn"),
    }
    how = {"made_from": {**known, **made_from}, "whole": True, "lower": "a smaller --encode_batch_size"}
    return setup.run.map("modes", setup.labels, of_class, chunk_size=config.ipc, **how)


def draw_guided(
    setup: GeneratorSetup, plain: Stage, modes: Stage, how: Callable[[torch.Tensor], Mapping[str, Any]]
) -> Stage:
    """Draw each image of the set from the noise of a plain sample, with one mode in mind: the stage 'guide'.

    Args:
        setup: What the recipe works with.
        plain: IPC plain samples of every class; see `GeneratorSetup.draw`.
        modes: As many; see `find_modes`.
        how: From the modes of some images, float32 (B, channels, h, w) on the generator's device, to what
            `Generator.sample` takes beside classes and seeds.

    Returns:
        The set, for `package_and_score`, with its `latents`.
    """
    generator, classes = setup.generator, [setup.class_ids[label] for label in setup.labels]

    def draw(rows: Sequence[int]) -> dict[str, torch.Tensor]:
        seeds = plain.take(rows, "seeds")["seeds"]
        own = modes.take(rows, "modes")["modes"].to(generator.device)
        latents = generator.sample([classes[row] for row in rows], seeds.tolist(), **how(own))
        return {"latents": latents, "seeds": seeds, **render(generator, setup.teacher, latents)}

    made_from = {**setup.made_from, "plain": plain.sha256, "modes": modes.sha256}
    size = setup.config.sample_batch_size
    return setup.run.map("guide", range(len(modes)), draw, chunk_size=size, made_from=made_from, lower=HALF)


def distances(modes: Stage, **samples: Stage) -> dict[str, float]:
    """Return how far samples are from their modes: the root mean square over all numbers of the latents.

    Args:
        modes: One for each sample.
        samples: Stages with `latents`, by name.
    """
    found = {}
    for name, stage in samples.items():
        pairs = zip(modes.batches("modes"), stage.batches("latents"), strict=True)
        squares = torch.cat([(own["latents"] - mode["modes"]).square().flatten(1).mean(1) for mode, own in pairs])
        found[name] = round(float(squares.mean().sqrt()), 4)
    return found
