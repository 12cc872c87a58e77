"""DC and DSA: images that pull a network where real ones do (Zhao, Mopuri and Bilen, ICLR 2021; Zhao and Bilen, ICML 2021).

K networks with fresh random weights come one after the other. In each of T steps the gradients of its loss on real and on
distilled images of a class are compared, class by class, and all distilled images move (DC, Alg. 1); then the network
learns the distilled images for some epochs, so that the next step compares gradients further on. DSA is the same with one
random operation for both sides of a class, and with augmentation while the network learns.

Classes depend on each other through what the network has learned. Where the released code (VICO 53f63a6) differs: its pixels
are never clamped, nor is the noise that they start from, its seeds come from the clock, and from IPC 1 to 50 it knows six
values, of which the next smaller one is taken here.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from distill_hub.augmentation.augment import Augmentation, augment, batch_of, draw
from distill_hub.augmentation.dsa import Operation, operations
from distill_hub.data.known import RGB
from distill_hub.data.sources import Source
from distill_hub.matching import distances
from distill_hub.matching import pixels as pixel
from distill_hub.matching.siamese import pair
from distill_hub.matching.space import Space
from distill_hub.options.dc import DcConfig
from distill_hub.running.seeds import cpu_generator, draw_seed
from distill_hub.statistics.features import full

DC = {
    "name": "dc",
    "title": "DC: Dataset Condensation with Gradient Matching",
    "paper": "https://arxiv.org/abs/2006.05929",
    "bibtex": """@inproceedings{zhao2021dataset,
  title = {Dataset Condensation with Gradient Matching},
  author = {Zhao, Bo and Mopuri, Konda Reddy and Bilen, Hakan},
  booktitle = {International Conference on Learning Representations},
  year = {2021},
}""",
}
DSA = {
    "name": "dsa",
    "title": "DSA: Dataset Condensation with Differentiable Siamese Augmentation",
    "paper": "https://arxiv.org/abs/2102.08259",
    "bibtex": """@inproceedings{zhao2021differentiable,
  title = {Dataset Condensation with Differentiable Siamese Augmentation},
  author = {Zhao, Bo and Bilen, Hakan},
  booktitle = {International Conference on Machine Learning},
  year = {2021},
}""",
}
INNER_BATCH_SIZE = 256
LOOPS = {1: (1, 1), 10: (10, 50), 20: (20, 25), 30: (30, 20), 40: (40, 15), 50: (50, 10)}  # T and inner epochs by IPC
DISTANCES = {"rows": distances.row_cosine, "cosine": distances.cosine, "squared": distances.squared}


@dataclass(frozen=True)
class Rules:
    """How a set is matched.

    Attributes:
        networks: K.
        outer: T, steps of the pixels in each.
        inner: Epochs that the network learns the distilled images between two steps.
        rate: SGD learning rate on normalised pixels.
        network_rate: SGD learning rate of the networks.
        real_batch_size: Real images of a class in a step; all where a class has fewer.
        distance: Of two gradients, see `DISTANCES`.
        operations: Of DSA; none: no augmentation.
        mean: Of the normalisation, per channel.
        std: Of the normalisation, per channel.
        free: Whether nothing bounds the pixels.
        dtype: float32, or what forward passes are autocast to.
    """

    networks: int
    outer: int
    inner: int
    rate: float
    network_rate: float
    real_batch_size: int
    distance: str
    operations: tuple[Operation, ...]
    mean: RGB
    std: RGB
    free: bool = False
    dtype: torch.dtype = torch.float32

    @property
    def steps(self) -> int:
        """Steps of the pixels in all."""
        return self.networks * self.outer


def rules_of(config: DcConfig, size: int, source: Source, space: Space, dtype: torch.dtype) -> Rules:
    """Resolve the settings: as in the papers, up to 16 px, where digits are, fewer and smaller steps.

    Args:
        config: What is asked for.
        size: Side of the images in pixels.
        source: The real images.
        space: Of the pixels.
        dtype: See `Rules`.
    """
    outer, inner = LOOPS[max(ipc for ipc in LOOPS if ipc <= config.ipc)]
    outer, small = config.outer_steps or outer, size <= 16
    networks, rate, batch = (max(1, 60 // outer), 1.0, 64) if small else (1000, 0.1, 256)
    inner = inner // 10 if small else inner
    return Rules(
        networks=config.match_networks or networks,
        outer=outer,
        inner=inner if config.inner_epochs is None else config.inner_epochs,
        rate=config.match_learning_rate or rate,
        network_rate=config.network_learning_rate,
        real_batch_size=config.real_batch_size or batch,
        distance=config.distance,
        operations=operations(source.mirrored) if config.augment == "dsa" else (),
        mean=space.mean,
        std=space.std,
        free=space.free,
        dtype=dtype,
    )


def gradients(
    network: nn.Module, weights: Sequence[torch.Tensor], images: torch.Tensor, label: int, *, differentiable: bool = False
) -> tuple[torch.Tensor, ...]:
    """Return the gradients of the mean cross-entropy of images of one class in some weights of a network.

    Args:
        network: From normalised images to logits.
        weights: Of the network.
        images: Normalised, (B, 3, S, S).
        label: Of all of them.
        differentiable: Whether the result is to be a function of the images, for a gradient of the gradients.
    """
    loss = F.cross_entropy(full(network(images)), torch.full((len(images),), label, device=images.device))
    return torch.autograd.grad(loss, weights, create_graph=differentiable)


def match(
    state: Mapping[str, torch.Tensor],
    network: nn.Module,
    real: Sequence[torch.Tensor],
    steps: Iterable[int],
    fresh: Callable[[int], nn.Module],
    rules: Rules,
    seed: int,
    class_names: Sequence[str],
) -> None:
    """Move the images of all classes, in place.

    Args:
        state: Of the loop: `pixels` float32 (C, IPC, 3, S, S), their `velocity`, and `losses` (steps,), the distance summed
            over classes.
        network: Its weights are part of the state, too.
        real: Real images of each class, see `gradient`.
        steps: Numbers of the steps to take.
        fresh: From the number of a network to one with fresh weights.
        rules: How.
        seed: Of the run; what is drawn depends on it, on step and on class.
        class_names: C names.
    """
    pixels = state["pixels"]
    for step in steps:
        number, place = divmod(step, rules.outer)
        if place == 0:
            network.load_state_dict(fresh(number).state_dict())
        moves, total = torch.empty_like(pixels), torch.zeros((), device=pixels.device)
        for label, class_name in enumerate(class_names):
            loss, moves[label] = gradient(pixels[label], real[label], label, step, network, rules, seed, class_name)
            total += loss
        pixel.step(pixels, state["velocity"], moves, rules.rate, rules.std, free=rules.free)
        state["losses"][step] = total
        if place < rules.outer - 1:
            learn(network, pixels, rules, cpu_generator(draw_seed(seed, "learn", step)))


def gradient(
    pixels: torch.Tensor,
    real: torch.Tensor,
    label: int,
    step: int,
    network: nn.Module,
    rules: Rules,
    seed: int,
    class_name: str,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the distance of the two gradients of a class, and its own gradient in the distilled images.

    Args:
        pixels: float32 (IPC, 3, S, S), in the units of an image or whitened.
        real: Real images of the class, uint8, or float in the same units, (N, 3, S, S), on the same device.
        label: Of the class.
        step: Its number.
        network: From normalised images to logits.
        rules: How.
        seed: Of the run; what is drawn depends on it, on step and on class.
        class_name: Of the class.
    """
    weights = [own for own in network.parameters() if own.ndim > 1 or rules.distance != "rows"]  # what the distance looks at
    own = pixels.clone().requires_grad_()
    with torch.autocast(pixels.device.type, rules.dtype, enabled=rules.dtype is not torch.float32):
        seen_real, seen_own = pair(
            own, real, step, real_batch_size=rules.real_batch_size, operations=rules.operations, mean=rules.mean,
            std=rules.std, seed=seed, class_name=class_name,
        )  # fmt: skip
        wanted = gradients(network, weights, seen_real, label)
        found = gradients(network, weights, seen_own, label, differentiable=True)
    loss = DISTANCES[rules.distance](wanted, found)
    return loss.detach(), torch.autograd.grad(loss, own)[0]


def learn(network: nn.Module, pixels: torch.Tensor, rules: Rules, generator: torch.Generator) -> None:
    """Train a network on the distilled images for the inner epochs, by SGD without momentum.

    Args:
        network: Changed in place.
        pixels: (C, IPC, 3, S, S).
        rules: How.
        generator: On the CPU, of batches and augmentation; with DSA each image has parameters of its own.
    """
    images, device = pixels.flatten(0, 1), pixels.device
    labels = torch.arange(len(pixels), device=device).repeat_interleave(pixels.shape[1])
    optimizer, rows = torch.optim.SGD(network.parameters(), rules.network_rate), Augmentation(dsa=rules.operations)
    for _ in range(rules.inner):
        drawn = draw(rows, len(images), INNER_BATCH_SIZE, pixels.shape[-1], generator)
        drawn = {name: values.to(device) for name, values in drawn.items()}
        for start in range(0, len(images), INNER_BATCH_SIZE):
            part = batch_of(drawn, start, start + INNER_BATCH_SIZE)
            with torch.autocast(device.type, rules.dtype, enabled=rules.dtype is not torch.float32):
                logits = network(augment(images[part["order"]], part, rules.mean, rules.std))
            loss = F.cross_entropy(logits.float(), labels[part["order"]])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
