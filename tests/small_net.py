"""A small network with BatchNorm whose features can be computed by hand; run as a program, banks of its statistics."""

import sys
from pathlib import Path

import torch
from torch import nn

from distill_hub.classifiers import Classifier


def make_teacher(classes, *, dtype: torch.dtype = torch.float32) -> Classifier:
    """Two convolutions with BatchNorm for 16 px images; all random, also the running statistics."""
    generator = torch.Generator().manual_seed(0)
    layers = [nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 6, 3, padding=1, stride=2)]
    layers += [nn.BatchNorm2d(6), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, len(classes))]
    model = nn.Sequential(*layers)
    for name, tensor in model.state_dict().items():
        if name.endswith("running_var"):
            tensor.copy_(0.5 + torch.rand(tensor.shape, generator=generator))
        elif tensor.is_floating_point():
            tensor.copy_(0.4 * torch.randn(tensor.shape, generator=generator))
    names = [known.name for known in classes]
    how = {"id": "small", "architecture": "small", "class_names": names, "image_size": 16}
    return Classifier(model.to(dtype), classes=classes, **how)


if __name__ == "__main__":
    from distill_hub.data.sources import load_source
    from distill_hub.running.run import Run
    from distill_hub.statistics.bank import open_bank
    from distill_hub.statistics.convolutions import measure
    from distill_hub.statistics.moving import MovingAverage

    folder, source = Path(sys.argv[1]), load_source("digits")
    what = Run(folder / "run", {}), source, make_teacher(source.classes), "a" * 64
    open_bank(*what, image_size=16, folder=folder / "bank")
    moving = MovingAverage(batch_size=64, seed=3, flip=True)
    open_bank(*what, image_size=16, covariance=False, moving=moving, folder=folder / "moving")
    measure(*what, image_size=16, seed=3)
