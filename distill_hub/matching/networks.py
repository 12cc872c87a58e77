"""The networks in which images are matched: fresh ones by step, the same for all classes and processes."""

import torch
from torch import nn

from distill_hub.classifiers import find_head
from distill_hub.config import InputError
from distill_hub.networks.build import build, check_student
from distill_hub.networks.names import student_name
from distill_hub.running.seeds import draw_seed
from distill_hub.statistics.features import captured, full


def resolve(name: str, num_classes: int, size: int) -> str:
    """Resolve and check the name of a network to match in.

    Args:
        name: For `networks.build`, or auto: the ConvNet that suits the images, up to 16 px half as wide.
        num_classes: Number of classes.
        size: Side of the images in pixels.

    Raises:
        InputError: For an unknown network, one that does not run on such images, or one with BatchNorm: a batch of one class
            has other statistics than any that the network is used with.
    """
    if name == "auto":
        name = student_name(name, size) + ("-w64" if size <= 16 else "")
    check_student(name, num_classes, size, batch_size=1, field="network")
    with torch.device("meta"):
        network = build(name, num_classes, size, field="network")
    find_head(network, num_classes, name, field="network")
    if any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in network.modules()):
        valid = "it has BatchNorm, and a batch of one class has statistics of its own; valid: instance norm, as of convnet-D"
        raise InputError("network", name, valid)
    return name


def fresh(name: str, num_classes: int, size: int, seed: int, step: int, device: torch.device) -> nn.Module:
    """Build the network of a step, with random weights that depend on seed and step alone.

    Args:
        name: For `networks.build`.
        num_classes: Number of classes.
        size: Side of the images in pixels.
        seed: Of the run.
        step: Number of the step, or of the network.
        device: Where to.
    """
    torch.manual_seed(draw_seed(seed, "matching network", step))
    return build(name, num_classes, size).to(device)


def embed(network: nn.Module, images: torch.Tensor, num_classes: int) -> torch.Tensor:
    """Return what the last layer of a network sees of normalised images (B, 3, S, S), float32 (B, D)."""
    with captured([find_head(network, num_classes, "")], "inputs", full) as found:
        network(images)
    return found[0]


def last_map(network: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Return the last feature maps of normalised images (B, 3, S, S), float32 (B, D, H, W): what the last pooling sees.

    Of a network without one, as a ConvNet is, the maps are flattened, and are what its last layer sees.
    """
    pools = [module for module in network.modules() if isinstance(module, nn.AdaptiveAvgPool2d)]
    heads = [module for module in network.modules() if isinstance(module, nn.Linear)]
    with captured([(pools or heads)[-1]], "inputs", full) as found:
        network(images)
    return found[0]
