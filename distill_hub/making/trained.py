"""Sets made by matching in networks that are trained on real images meanwhile."""

import functools
from collections.abc import Sequence
from typing import Literal

import torch

from distill_hub.making.start import Setup
from distill_hub.matching import idc, trained
from distill_hub.matching import pixels as pixel
from distill_hub.matching.networks import fresh, resolve
from distill_hub.methods.losses import first_and_last_tenth
from distill_hub.running.checkpoint import steps
from distill_hub.running.run import Stage
from distill_hub.running.seeds import draw_seed
from distill_hub.teachers.fit import check_memory


def match_in_trained(
    setup: Setup,
    rules: trained.Rules,
    objective: trained.Objective,
    *,
    start: Literal["mix", "real", "noise"] = "real",
    classes_at_a_time: int | None = None,
) -> Stage:
    """Match the images of every class with real ones in networks that are trained on real images: the stage 'match'.

    Args:
        setup: What the recipe works with, `NetworkOptions` among it.
        rules: See `matching.idc.rules_of`.
        objective: What is minimised, such as `matching.idc.feature_distance`.
        start: See `matching.idc.start`.
        classes_at_a_time: Of a chunk; every chunk trains the same networks anew. None: all, in one.

    Returns:
        The set, for `package_and_score`: the seed of an image is the row in the training split that it, or its upper left
        tile, started from, or that of its noise; and `losses`, the means of its class over first and last tenth of steps.

    Raises:
        InputError: For too little memory for the real images, or pixels that are not finite any more.
    """
    config, run, source, size = setup.config, setup.run, setup.source, setup.image_size
    count, ipc, train = len(source.classes), config.ipc, source.train
    name = resolve(config.network, count, size)
    check_memory(len(train), size, run.accelerator)
    folder, device = run.state("match steps", setup.made_from), run.device
    network_of = functools.partial(fresh, name, count, size, config.seed, device=device)

    @functools.cache
    def real() -> trained.Real:
        rows = [torch.from_numpy(own).to(device) for own in train.by_class]
        labels = torch.from_numpy(train.labels).to(device)
        return trained.Real(train.pixels(None, size).to(device), labels, rows, source.class_names)

    def distil(chunk: Sequence[int]) -> dict[str, torch.Tensor]:
        labels, images, seeds = list(dict.fromkeys(chunk)), [], []
        for label in labels:
            seed = draw_seed(config.seed, "start", source.class_names[label])
            own, places = idc.start(start, real().images[real().by_class[label]], ipc, rules.tiles, seed)
            images.append(own)
            seeds.append(places if start == "noise" else torch.from_numpy(train.by_class[label])[places])
        network = network_of(0)
        state = trained.fresh_state(torch.stack(images), network, rules, real(), labels)
        total, title = rules.networks * rules.life, "match" if run.is_main else ""
        todo = steps(run, folder / f"{labels[0]:06d}.safetensors", total, state, title=title, row=rules.matched)
        trained.match(state, network, todo, network_of, objective, real(), labels, rules, config.seed)
        pixels = pixel.to_uint8(state["pixels"]).flatten(0, 1)
        ends = torch.tensor(first_and_last_tenth(state["losses"].cpu())).T  # (L, 2)
        return {
            "images": pixels,
            "logits": setup.logits(pixels),
            "seeds": torch.cat(seeds),
            "losses": ends.repeat_interleave(ipc, 0),
        }

    chunk_size = min(classes_at_a_time or count, count) * ipc
    how = {"made_from": setup.made_from, "whole": True, "lower": "a smaller --classes_at_a_time or --network"}
    return run.map("match", setup.labels, distil, chunk_size=chunk_size, **how)
