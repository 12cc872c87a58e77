"""Students by name: the networks of the literature's tables, untrained. One name is one network at a given image size."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import nn
from torch.nn import functional as F

from distill_hub.config import InputError, refusing
from distill_hub.extensions import Extension
from distill_hub.networks.names import CONVNET, INSTANCE_NORM, TORCHVISION, other_network, refuse_network, student_name


class InstanceNorm(nn.GroupNorm):
    """Instance norm with scale and shift for maps (B, C, H, W), from the statistics of each map in training and test alike.

    Raises:
        ValueError: For maps of one pixel: each would become the shift, whatever the image.
    """

    def __init__(self, channels: int):
        # One group per channel is the function of nn.InstanceNorm2d and takes a CPU less time: forward and backward on 64
        # maps of 128 channels 0.77 of it at 32 px and 0.25 at 16 px, and 0.96 of it for a whole step of ConvNet-3.
        super().__init__(channels, channels)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """Normalise maps (B, C, H, W)."""
        if maps.shape[-2:] == (1, 1):
            raise ValueError("instance norm of a map of one pixel forgets the image")
        return super().forward(maps)


class AveragePool(nn.Module):
    """The mean of every 2x2 pixels; an odd last row or column is left out.

    On a CPU, where that of `avg_pool2d` takes five times as long, the gradient is a convolution's, with the same bits.
    """

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """Map (B, D, H, W) to (B, D, H // 2, W // 2)."""
        if maps.device.type != "cpu" or not maps.is_contiguous() or torch.is_autocast_enabled("cpu"):
            return F.avg_pool2d(maps, 2)
        return F.conv2d(maps, maps.new_full((maps.shape[1], 1, 2, 2), 0.25), stride=2, groups=maps.shape[1])


class ConvNet(nn.Module):
    """The field's ConvNet-D: D blocks of 3x3 convolution, norm, ReLU and 2x2 average pooling, then a linear layer.

    Gidaris and Komodakis (2018); the student of every table since Dataset Condensation (Zhao et al., 2021). Width 128,
    depth 6, 224 px and 10 classes have 754,570 parameters.

    Args:
        num_classes: Number of classes.
        depth: Number of blocks; 2**depth must not exceed the image size.
        image_size: Side of the square images, in pixels.
        width: Channels of every block.
        norm: From a number of channels to a norm layer.
    """

    def __init__(
        self,
        num_classes: int,
        depth: int,
        image_size: int,
        width: int = 128,
        norm: Callable[[int], nn.Module] = InstanceNorm,
    ):
        super().__init__()
        blocks = []
        for block in range(depth):
            channels = 3 if block == 0 else width
            blocks += [nn.Conv2d(channels, width, 3, padding=1), norm(width), nn.ReLU(), AveragePool()]
        self.features = nn.Sequential(*blocks, nn.Flatten())
        self.classifier = nn.Linear(width * (image_size // 2**depth) ** 2, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Map normalised images (B, 3, S, S) to logits (B, num_classes)."""
        return self.classifier(self.features(images))


def _conv(channels: int, width: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(channels, width, kernel, stride, padding=kernel // 2, bias=False)


class _Block(nn.Module):
    """Two 3x3 convolutions beside a shortcut; a block that changes the number of channels halves the side of the maps."""

    def __init__(self, channels: int, width: int, halve: bool, average_pool: bool):
        super().__init__()
        stride = 2 if halve and not average_pool else 1
        pool = [AveragePool()] if halve and average_pool else []
        self.residual = nn.Sequential(
            *(_conv(channels, width, 3, stride), InstanceNorm(width), nn.ReLU(), *pool),
            *(_conv(width, width, 3), InstanceNorm(width)),
        )
        self.shortcut = nn.Identity()
        if halve:
            self.shortcut = nn.Sequential(_conv(channels, width, 1, stride), *pool, InstanceNorm(width))

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return (self.residual(maps) + self.shortcut(maps)).relu()


class ResNet(nn.Module):
    """ResNet (He et al., 2016) with instance norm as in IDC (Kim et al., 2022), and IDC's ResNetAP, which averages.

    The first layers suit the image size: up to 64 px a 3x3 convolution, up to 128 px the same and a pooling by 2, above a
    7x7 convolution and pooling, together by 4. At 10 classes and more than 128 px ResNet-10 and ResNetAP-10 have 4,910,922
    parameters, ResNet-18 11,181,642. IDC's code builds narrower networks (32 to 256 channels) for CIFAR; these are 64 to 512
    channels wide everywhere, as its networks for all other data are.

    Args:
        num_classes: Number of classes.
        image_size: Side of the square images, in pixels; 9 or more, with `average_pool` 16 or more.
        blocks: Blocks of each stage; stage i has 64 * 2**i channels.
        average_pool: ResNetAP: no convolution strides; average pooling takes the place of strides and of max pooling.
    """

    def __init__(self, num_classes: int, image_size: int, blocks: Sequence[int], *, average_pool: bool = False):
        super().__init__()
        large = image_size > 128
        layers = [_conv(3, 64, 7 if large else 3, 2 if large and not average_pool else 1), InstanceNorm(64), nn.ReLU()]
        if image_size > 64:
            layers.append((nn.AvgPool2d(4) if large else AveragePool()) if average_pool else nn.MaxPool2d(3, 2, padding=1))
        channels = 64
        for stage, count in enumerate(blocks):
            for block in range(count):
                layers.append(_Block(channels, 64 * 2**stage, halve=stage > 0 and block == 0, average_pool=average_pool))
                channels = 64 * 2**stage
        self.features = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.classifier = nn.Linear(channels, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Map normalised images (B, 3, S, S) to logits (B, num_classes)."""
        return self.classifier(self.features(images))


def build(name: str, num_classes: int, image_size: int, *, field: str = "students") -> nn.Module:
    """Build an untrained network.

    Args:
        name: 'convnet-D', 'convnet-D-bn' or, with a width other than 128, 'convnet-D-wW' and 'convnet-D-wW-bn', a key of
            `INSTANCE_NORM` or `TORCHVISION`, 'timm/NAME' with any architecture of timm, or what another package adds; 'bn'
            stands for BatchNorm.
        num_classes: Number of classes.
        image_size: Side of the square images, in pixels.
        field: Option to blame.

    Raises:
        InputError: For an unknown name, or a ConvNet too deep for the image.
    """
    if convnet := CONVNET.fullmatch(name):
        depth, deepest, width = int(convnet[1]), int(math.log2(image_size)), int(convnet[2] or 128)
        if depth > deepest:
            raise InputError(field, name, f"{image_size} px allow a depth of {deepest}")
        return ConvNet(num_classes, depth, image_size, width, nn.BatchNorm2d if convnet[3] else InstanceNorm)
    if name in INSTANCE_NORM:
        return ResNet(num_classes, image_size, **INSTANCE_NORM[name])
    if name in TORCHVISION:
        return _torchvision(name, num_classes, image_size)
    if found := other_network(name):
        return _of_package(found, num_classes, image_size)
    import timm  # takes seconds, as torchvision does

    architecture = name.removeprefix("timm/")
    if name.startswith("timm/") and architecture in timm.list_models():
        config = timm.get_pretrained_cfg(architecture)
        fixed = {"img_size": image_size} if config and config.fixed_input_size else {}  # only these take a size
        return timm.create_model(architecture, num_classes=num_classes, **fixed)
    refuse_network(name, field, [f"timm/{known}" for known in timm.list_models()])


def _of_package(found: Extension, num_classes: int, image_size: int) -> nn.Module:
    """Build a network of another package: what its entry point names is called with number of classes and image size."""
    function = found.load()
    if not callable(function):
        raise found.broken(f"{found.entry.value} is no function of the number of classes and the image size")
    model = function(num_classes, image_size)
    if not isinstance(model, nn.Module):
        raise found.broken(f"{found.entry.value} returns no torch.nn.Module, but {type(model).__name__}")
    return model


def _torchvision(name: str, num_classes: int, image_size: int) -> nn.Module:
    from torchvision import models

    model = getattr(models, TORCHVISION[name])(num_classes=num_classes)
    if isinstance(model, models.ResNet) and image_size <= 64:
        # The `_modified` ResNets of SRe2L and RDED, whose new convolution starts as PyTorch has it, not as the others do.
        model.conv1, model.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
    if isinstance(model, models.EfficientNet):
        # torchvision's range depends on the number of classes. RDED builds 1000 and keeps the rows of its own.
        nn.init.uniform_(model.classifier[-1].weight, -(1000**-0.5), 1000**-0.5)
    return model


def check_student(name: str, num_classes: int, image_size: int, batch_size: int = 2, *, field: str = "students") -> None:
    """Refuse a network that cannot be built or cannot be trained on such images, before any work is done for it.

    Nothing is computed: images without content pass through the network's shapes.

    Args:
        name: See `build`, as the next two.
        num_classes: Number of classes.
        image_size: Side in pixels.
        batch_size: Of the smallest batch; a BatchNorm may need more than one image.
        field: Option to blame.

    Raises:
        InputError: See `build`; or the network does not run at this image size, or is no classifier.
    """
    valid = f"a network that runs on {image_size} px images is needed"
    with refusing((AssertionError, RuntimeError, ValueError), field, name, valid), torch.device("meta"):
        model = build(student_name(name, image_size), num_classes, image_size, field=field).train()
        shape = model(torch.empty(batch_size, 3, image_size, image_size)).shape
    if shape != (batch_size, num_classes):
        raise InputError(field, name, f"it gives an image not one logit per class but an output of {tuple(shape[1:])}")
