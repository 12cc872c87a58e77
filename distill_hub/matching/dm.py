"""DM: dataset condensation with distribution matching (Zhao and Bilen, WACV 2023).

In every step a network with fresh random weights, which is never trained, embeds real and distilled images of a class, and
the distilled ones move until the mean embeddings agree (Alg. 1). Both get the same random augmentation. Since no network
knows of the distilled images, classes do not depend on each other: each is distilled by itself, in the same networks.

Where the released code (VICO 53f63a6) differs: its pixels are never clamped, as ours are not on request; its seeds come
from the clock.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from distill_hub.augmentation.dsa import Operation, operations
from distill_hub.data.known import RGB
from distill_hub.data.sources import Source
from distill_hub.matching import pixels as pixel
from distill_hub.matching.siamese import pair
from distill_hub.matching.space import Space
from distill_hub.options.dm import DmConfig

FACTS = {
    "name": "dm",
    "title": "DM: Dataset Condensation with Distribution Matching",
    "paper": "https://arxiv.org/abs/2110.04181",
    "bibtex": """@inproceedings{zhao2023dataset,
  title = {Dataset Condensation with Distribution Matching},
  author = {Zhao, Bo and Bilen, Hakan},
  booktitle = {IEEE/CVF Winter Conference on Applications of Computer Vision},
  year = {2023},
}""",
}


@dataclass(frozen=True)
class Rules:
    """How the images of a class are matched.

    Attributes:
        steps: Each in a network of its own.
        rate: SGD learning rate on normalised pixels.
        real_batch_size: Real images in a step; all where a class has fewer.
        operations: Of DSA; none: no augmentation.
        mean: Of the normalisation, per channel.
        std: Of the normalisation, per channel.
        free: Whether nothing bounds the pixels.
        dtype: float32, or what forward passes are autocast to.
    """

    steps: int
    rate: float
    real_batch_size: int
    operations: tuple[Operation, ...]
    mean: RGB
    std: RGB
    free: bool = False
    dtype: torch.dtype = torch.float32


def rules_of(config: DmConfig, size: int, source: Source, space: Space, dtype: torch.dtype) -> Rules:
    """Resolve the settings: as in the paper, up to 16 px, where digits are, fewer and smaller steps.

    Args:
        config: What is asked for.
        size: Side of the images in pixels.
        source: The real images.
        space: Of the pixels.
        dtype: See `Rules`.
    """
    steps, batch = (100, 64) if size <= 16 else (20_000, 256)
    return Rules(
        steps=config.match_steps or steps,
        rate=config.match_learning_rate or (10.0 if config.ipc >= 100 else 1.0),
        real_batch_size=config.real_batch_size or batch,
        operations=operations(source.mirrored) if config.augment == "dsa" else (),
        mean=space.mean,
        std=space.std,
        free=space.free,
        dtype=dtype,
    )


def loss(real: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
    """Return the squared distance of the mean embeddings of real (R, D) and distilled images (B, D): a sum."""
    return (real.mean(0) - own.mean(0)).square().sum()


def match(
    state: Mapping[str, torch.Tensor],
    real: torch.Tensor,
    steps: Iterable[int],
    network: Callable[[int], nn.Module],
    embed: Callable[[nn.Module, torch.Tensor], torch.Tensor],
    rules: Rules,
    seed: int,
    class_name: str,
) -> None:
    """Move the images of a class, in place.

    Args:
        state: Of the loop: `pixels` float32 (IPC, 3, S, S), their `velocity`, and `losses` (steps,).
        real: Real images of the class, see `gradient`, as all that follow but the next.
        steps: Numbers of the steps to take.
        network: From a step to its network.
        embed: From a network and normalised images to embeddings, float32 (B, D).
        rules: How.
        seed: Of the run.
        class_name: Of the class.
    """
    pixels = state["pixels"]
    for step in steps:
        state["losses"][step], own = gradient(pixels, real, step, network, embed, rules, seed, class_name)
        pixel.step(pixels, state["velocity"], own, rules.rate, rules.std, free=rules.free)


def gradient(
    pixels: torch.Tensor,
    real: torch.Tensor,
    step: int,
    network: Callable[[int], nn.Module],
    embed: Callable[[nn.Module, torch.Tensor], torch.Tensor],
    rules: Rules,
    seed: int,
    class_name: str,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the loss of a step for a class, and its gradient in the images.

    Args:
        pixels: float32 (IPC, 3, S, S), in the units of an image or whitened.
        real: Real images of the class, uint8, or float in the same units, (N, 3, S, S), on the same device.
        step: Its number.
        network: From a step to its network.
        embed: From a network and normalised images to embeddings, float32 (B, D).
        rules: How.
        seed: Of the run; what is drawn depends on it, on step and on class.
        class_name: Of the class.
    """
    own = pixels.clone().requires_grad_()
    with torch.autocast(pixels.device.type, rules.dtype, enabled=rules.dtype is not torch.float32):
        drawn = network(step).requires_grad_(False)
        seen_real, seen_own = pair(
            own, real, step, real_batch_size=rules.real_batch_size, operations=rules.operations, mean=rules.mean,
            std=rules.std, seed=seed, class_name=class_name,
        )  # fmt: skip
        with torch.no_grad():
            goal = embed(drawn, seen_real)
        found = embed(drawn, seen_own)
    distance = loss(goal, found)
    return distance.detach(), torch.autograd.grad(distance, own)[0]
