"""What layers of a teacher see or return while it runs."""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import nn

from distill_hub.classifiers import Classifier
from distill_hub.config import InputError
from distill_hub.networks.build import AveragePool, ConvNet

Features = Literal["inputs", "outputs", "stages"]  # of the BatchNorm layers; or what the network's stages return
_STAGE = re.compile("layer[1-9]")


def batch_norms(teacher: Classifier) -> dict[str, nn.BatchNorm2d]:
    """Return the BatchNorm layers of a teacher by name, in the order they were defined.

    Raises:
        InputError: When there is none, or one without running statistics.
    """
    found = {name: module for name, module in teacher.model.named_modules() if isinstance(module, nn.BatchNorm2d)}
    if not found or not all(module.track_running_stats for module in found.values()):
        valid = f"a network with BatchNorm is needed, {teacher.architecture} has none; "
        raise InputError("teacher", teacher.id, f"{valid}distill-hub make fit_classifier trains one")
    return found


def feature_layers(teacher: Classifier, at: Features) -> dict[str, nn.Module]:
    """Return the layers whose features are looked at, by name and in order.

    Stages are `layer1` to `layer4` of a ResNet of torchvision or timm, and the blocks of a ConvNet, poolings included.

    Raises:
        InputError: See `batch_norms`; or when the stages of such a network are not known.
    """
    if at != "stages":
        return batch_norms(teacher)
    modules = (
        teacher.model.features.named_children() if isinstance(teacher.model, ConvNet) else teacher.model.named_children()
    )
    found = {name: layer for name, layer in modules if isinstance(layer, AveragePool) or _STAGE.fullmatch(name)}
    if not found:
        valid = f"stages are known of ResNets of torchvision and timm and of ConvNets, not of {teacher.architecture}"
        raise InputError("features", at, f"{valid}; inputs and outputs are valid for any network with BatchNorm")
    return found


def full(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor in float32 at least: what autocast computes in half precision is not to be summed in it."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def channel_moments(maps: torch.Tensor, groups: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return mean and variance of the channels of maps (B, D, H, W) in each of G groups of images, (G, D) each."""
    variance, mean = torch.var_mean(full(maps).unflatten(0, (groups, -1)), (1, 3, 4), correction=0)
    return mean, variance


@contextmanager
def captured(layers: Sequence[nn.Module], at: Features, reduce: Callable[[torch.Tensor], Any]) -> Iterator[list[Any]]:
    """Look at feature maps while networks run.

    Args:
        layers: Where.
        at: Whether what the layers see ("inputs") or what they return is wanted.
        reduce: From maps (B, D, H, W) to what is wanted of them.

    Yields:
        A list with an entry per layer: `reduce` of its maps in the latest forward pass.
    """
    found = [None] * len(layers)

    def watch(place: int, layer: nn.Module) -> torch.utils.hooks.RemovableHandle:
        if at == "inputs":
            return layer.register_forward_pre_hook(lambda _, inputs: found.__setitem__(place, reduce(inputs[0])))
        return layer.register_forward_hook(lambda _, inputs, output: found.__setitem__(place, reduce(output)))

    handles = [watch(place, layer) for place, layer in enumerate(layers)]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
