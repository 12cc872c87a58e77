"""Matching in networks that are trained on real images meanwhile: the loop of IDC (Kim et al., ICML 2022; code ceac95a).

A network gets fresh weights, and after every step, in which the images of each class move, it is trained on some real
images. It knows of no distilled one, so classes do not depend on each other but for the optimiser. In the released code one
SGD holds the pixels of all classes and takes a step after each of them, so that a class's momentum runs on in the steps of
the others. For the class that is an SGD of its own with another rate and momentum; see `per_class`.

Where the released code differs: classes that are spread over processes train networks of their own; for 100 classes of
ImageNet it reads images anew for every batch and its networks start from ten that were trained before, here all images are
held in memory and each network is trained anew; its last batch of a network's training is a whole one.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn

from distill_hub.augmentation.augment import Augmentation, augment, batch_of, draw, normalize
from distill_hub.augmentation.dsa import Operation, every_operation, shared
from distill_hub.augmentation.tiles import enlarged, split
from distill_hub.data.known import RGB
from distill_hub.matching.cluster import k_means, nearest
from distill_hub.matching.networks import embed
from distill_hub.matching.pixels import MOMENTUM
from distill_hub.running.seeds import cpu_generator, draw_seed

Sampler = Literal["random", "dream"]
State = dict[str, torch.Tensor]
# From a network, normalised real and distilled images of one class, and its label, to what is minimised.
Objective = Callable[[nn.Module, torch.Tensor, torch.Tensor, int], torch.Tensor]

SIAMESE: tuple[Operation, ...] = ("color", "crop", "cutout")  # all of them, the same for real and distilled images
ALONE: tuple[Operation, ...] = ("color", "crop")  # of the images that networks are trained on; CutMix stands for cutout
MOST_SHOWN = 128  # distilled images of a class in one step
CLUSTERED_EVERY = 10  # steps, DREAM's
EMBEDDED_AT_A_TIME = 512


@dataclass(frozen=True)
class Rules:
    """How images are matched, and how the networks are trained.

    Attributes:
        networks: One after the other, each with fresh weights.
        steps: In each of them.
        rate: Of SGD on pixels in [0, 1], with momentum 0.5, as the released code's, see `per_class`.
        real_batch_size: Real images of a class in a step.
        sampler: random: real images at random; dream: those nearest to the means of as many clusters.
        training_images: That a network is trained on after every step.
        warm_up: How often it is trained on so many before the first step.
        training_batch_size: Of these.
        training_rate: SGD, momentum 0.9.
        weight_decay: Of the network.
        mix_probability: That a batch is mixed by CutMix.
        mean: Of the normalisation, per channel.
        std: Of the normalisation, per channel.
        dtype: float32, or what forward passes are autocast to.
        tiles: f; None: images are what they are.
    """

    networks: int
    steps: int
    rate: float
    real_batch_size: int
    sampler: Sampler
    training_images: int
    warm_up: int
    training_batch_size: int
    training_rate: float
    weight_decay: float
    mix_probability: float
    mean: RGB
    std: RGB
    dtype: torch.dtype = torch.float32
    tiles: int | None = None

    @property
    def life(self) -> int:
        """How often a network is looked after: trained, and in most cases matched in before."""
        return self.warm_up + self.steps

    def matched(self, place: int) -> int | None:
        """Return the number of the step at a place of the whole loop, None where the network warms up."""
        network, age = divmod(place, self.life)
        return None if age < self.warm_up else network * self.steps + age - self.warm_up


@dataclass(frozen=True)
class Real:
    """The real images, on the device to work on."""

    images: torch.Tensor  # uint8 (N, 3, S, S)
    labels: torch.Tensor  # int64 (N,)
    by_class: Sequence[torch.Tensor]  # rows of each class, int64
    names: Sequence[str]  # of the C classes


def per_class(rate: float, momentum: float, classes: int) -> tuple[float, float]:
    """Return rate and momentum of one class's own SGD that does what one SGD for all classes does, stepped after each.

    Where a class is not the one whose turn it is, its gradient there is 0: its momentum m alone moves it, by 1 + m + ... +
    m^(C-1) = (1 - m^C) / (1 - m) times the rate until its next turn, when m^C of it is left.

    Args:
        rate: Of the SGD for all.
        momentum: Of it, m.
        classes: C.
    """
    return rate * (1 - momentum**classes) / (1 - momentum), momentum**classes


def fresh_state(images: torch.Tensor, network: nn.Module, rules: Rules, real: Real, labels: Sequence[int]) -> State:
    """Return what changes from step to step: of the images, of the network (which holds the same tensors), and losses.

    Args:
        images: Of the classes to distil, (L, IPC, 3, S, S) in [0, 1], on the device.
        network: On the device.
        rules: How.
        real: The real images.
        labels: Of these classes, L.
    """
    state = {"pixels": images, "velocity": torch.zeros_like(images)}
    state["losses"] = torch.zeros(rules.networks * rules.steps, len(labels), device=images.device)
    for name, parameter in network.named_parameters():
        state |= {f"network {name}": parameter.data, f"momentum {name}": torch.zeros_like(parameter)}
    if rules.sampler == "dream":
        for label in labels:
            count = min(rules.real_batch_size, len(real.by_class[label]))
            state[f"real {label}"] = torch.zeros(count, dtype=torch.long, device=images.device)
    return state


def match(
    state: State,
    network: nn.Module,
    todo: Iterable[int],
    fresh: Callable[[int], nn.Module],
    objective: Objective,
    real: Real,
    labels: Sequence[int],
    rules: Rules,
    seed: int,
) -> None:
    """Move the images of some classes, and train the networks they move in, in place.

    Args:
        state: See `fresh_state`.
        network: The same as there.
        todo: Places in the loop, of `rules.networks * rules.life`.
        fresh: From the number of a network to its weights at the start.
        objective: What is minimised.
        real: The real images.
        labels: Of the classes, L.
        rules: How.
        seed: Of the run; what is drawn depends on it, on the place in the loop and on the class.
    """
    optimizer = torch.optim.SGD(network.parameters(), rules.training_rate, momentum=0.9, weight_decay=rules.weight_decay)
    for name, parameter in network.named_parameters():
        optimizer.state[parameter]["momentum_buffer"] = state[f"momentum {name}"]
    rate, momentum = per_class(rules.rate, MOMENTUM, len(real.by_class))
    for place in todo:
        number, age = divmod(place, rules.life)
        if age == 0:
            _begin(state, network, fresh(number))
        step = rules.matched(place)
        for own, label in enumerate(labels if step is not None else ()):
            loss, gradient = _gradient(state, own, network, objective, real, label, rules, seed, place)
            state["velocity"][own].mul_(momentum).add_(gradient)
            state["pixels"][own].sub_(state["velocity"][own], alpha=rate)
            state["losses"][step, own] = loss
        if age + 1 < rules.life:  # what it would learn after that, nobody would see
            generator = cpu_generator(draw_seed(seed, "network training", place))
            _train(network, optimizer, real, rules, generator)


@torch.no_grad()
def _begin(state: State, network: nn.Module, weights: nn.Module) -> None:
    """Go on in a network with other weights; pixels are clamped once for each, as in the released code."""
    state["pixels"].clamp_(0, 1)
    for parameter, own in zip(network.parameters(), weights.parameters(), strict=True):
        parameter.copy_(own)
    for name, tensor in state.items():
        if name.startswith("momentum "):
            tensor.zero_()


def _gradient(
    state: State,
    own: int,
    network: nn.Module,
    objective: Objective,
    real: Real,
    label: int,
    rules: Rules,
    seed: int,
    place: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return loss and gradient of the images of one class, (IPC, 3, S, S)."""
    pixels, rows, size = state["pixels"][own].clone().requires_grad_(), real.by_class[label], real.images.shape[-1]
    generator = cpu_generator(draw_seed(seed, "match", place, real.names[label]))
    if rules.sampler == "dream":
        if (place % rules.life - rules.warm_up) % CLUSTERED_EVERY == 0:
            state[f"real {label}"].copy_(_representative(network, real, rows, rules, generator))
        rows = state[f"real {label}"]
    else:
        rows = rows[torch.randperm(len(rows), generator=generator)[: rules.real_batch_size].to(rows.device)]
    tiles = rules.tiles or 1
    parts = pixels if rules.tiles is None else split(pixels, tiles)
    if len(parts) > MOST_SHOWN:
        parts = parts[torch.randperm(len(parts), generator=generator)[:MOST_SHOWN].to(parts.device)]
    shown = parts if rules.tiles is None else enlarged(parts, size)
    draws = every_operation(SIAMESE, 1, size, generator)
    device, half = pixels.device.type, rules.dtype is not torch.float32
    with torch.autocast(device, rules.dtype, enabled=half):
        seen = (augment(images, shared(draws, len(images)), rules.mean, rules.std) for images in (real.images[rows], shown))
        loss = objective(network, *seen, label)
    return loss.detach(), torch.autograd.grad(loss, pixels)[0]


@torch.no_grad()
def _representative(
    network: nn.Module, real: Real, rows: torch.Tensor, rules: Rules, generator: torch.Generator
) -> torch.Tensor:
    """Return the rows of a class that are nearest to the means of clusters of its features (DREAM)."""
    parts = (normalize(real.images[part].float() / 255, rules.mean, rules.std) for part in rows.split(EMBEDDED_AT_A_TIME))
    features = torch.cat([embed(network, part, len(real.by_class)) for part in parts])
    seed = int(torch.randint(2**63 - 1, (1,), generator=generator))
    return rows[nearest(k_means(features, min(rules.real_batch_size, len(rows)), seed), features)]


def _train(
    network: nn.Module, optimizer: torch.optim.Optimizer, real: Real, rules: Rules, generator: torch.Generator
) -> None:
    """Train the network on some of the real images: every image has colour and crop of its own, some batches CutMix."""
    size, device = real.images.shape[-1], real.images.device
    chosen = torch.randperm(len(real.images), generator=generator)[: rules.training_images]
    mix = Augmentation(mix="cutmix", mix_probability=rules.mix_probability)
    draws = draw(mix, len(chosen), rules.training_batch_size, size, generator)
    draws |= every_operation(ALONE, len(chosen), size, generator)
    chosen, half = chosen.to(device), rules.dtype is not torch.float32
    for first in range(0, len(chosen), rules.training_batch_size):
        batch = {key: value.to(device) for key, value in batch_of(draws, first, first + rules.training_batch_size).items()}
        rows, share = chosen[batch["order"]], batch["share"][:, None]
        targets = F.one_hot(real.labels[rows], len(real.by_class)).float()
        targets = share * targets + (1 - share) * targets[batch["partner"]]
        with torch.autocast(device.type, rules.dtype, enabled=half):
            predicted = network(augment(real.images[rows], batch, rules.mean, rules.std))
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(predicted.float(), targets).backward()
        optimizer.step()
