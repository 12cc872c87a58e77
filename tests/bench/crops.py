"""How sharp a student's crops of a 256 px set are: of the stored images, and of images scaled to 224 px first; run by hand.

python -m tests.bench.crops

Sharpness is gradient energy, the mean squared difference of neighbouring pixels, of values in [0, 1]. The reference is
torchvision's `resized_crop` with antialiasing, as in the `RandomResizedCrop` of RDED's code, of the stored image, with the
same boxes. The patches of RDED, flips and CutMix are left out.
"""

import argparse
import dataclasses

import numpy as np
import torch
import torchvision.transforms.functional as TF
from PIL import Image
from sklearn.datasets import load_sample_images

from distill_hub.augmentation.augment import Augmentation, augment, draw
from distill_hub.data.known import NORMALIZATIONS
from distill_hub.running.console import show
from distill_hub.running.seeds import cpu_generator
from distill_hub.training.protocols import protocol
from distill_hub.training.settings import Settings, Task
from distill_hub.training.train import TrainingSet

STORED, COUNT = 256, 32


def photos(scaled: bool) -> torch.Tensor:
    """Squares of scikit-learn's two photographs, uint8 (N, 3, 256, 256): as high as they are, scaled, or as they are."""
    generator, squares = np.random.default_rng(0), []
    for place in range(COUNT):
        photo = Image.fromarray(load_sample_images().images[place % 2])  # 640 x 427
        side = photo.height if scaled else STORED
        left, top = (int(generator.integers(extent - side + 1)) for extent in photo.size)
        square = photo.crop((left, top, left + side, top + side)).resize((STORED, STORED), Image.Resampling.BICUBIC)
        squares.append(torch.from_numpy(np.array(square)).permute(2, 0, 1))
    return torch.stack(squares)


def pink() -> torch.Tensor:
    """Noise whose amplitude falls with the frequency, as that of photographs does; uint8 (N, 3, 256, 256)."""
    white = torch.randn(COUNT, 3, STORED, STORED, generator=cpu_generator(0))
    rows, columns = torch.fft.fftfreq(STORED)[:, None], torch.fft.rfftfreq(STORED)[None]
    noise = torch.fft.irfft2(torch.fft.rfft2(white) / (rows**2 + columns**2).sqrt().clamp(min=1 / STORED))
    return (128 + 48 * noise / noise.std((2, 3), keepdim=True)).clamp(0, 255).to(torch.uint8)


def energy(images: torch.Tensor) -> float:
    """Return the gradient energy of images (N, 3, S, S) in [0, 1]."""
    return (images.diff(dim=2).square().mean() + images.diff(dim=3).square().mean()).item()


def crops(images: torch.Tensor, rules: Settings, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return an epoch's crops as a student sees them, and torchvision's of the same boxes."""
    start = TrainingSet(images, torch.zeros(len(images), dtype=torch.int64)).at(rules, "cpu").images
    stored = start.shape[-1]
    cut = Augmentation(crop_scale=rules.augmentation.crop_scale)
    draws = draw(cut, len(start), len(start), rules.image_size, cpu_generator(seed), stored_size=stored)
    ours = augment(start[draws["order"]], draws, (0.0,) * 3, (1.0,) * 3, rules.image_size)
    theirs = []
    for row, share in zip(draws["order"].tolist(), draws["crop"].tolist(), strict=True):
        top, left, height, width = (round(stored * part) for part in share)
        theirs.append(TF.resized_crop(start[row] / 255, top, left, height, width, [rules.image_size] * 2, antialias=True))
    return ours, torch.stack(theirs)


def main() -> None:
    """Print the table of both kinds of crops for every kind of images and protocol."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=10, help="random crops of each image")
    args = parser.parse_args()
    kinds = {"photos, scaled to 256 px": photos(True), "photos, their own pixels": photos(False), "1/f noise": pink()}
    show("| images | protocol | stored image | scaled to 224 px first | of the stored | torchvision | largest difference |")
    show("|---|---|--:|--:|--:|--:|--:|")
    task = Task(COUNT, 2, STORED, True, NORMALIZATIONS["imagenet"], "resnet-18-bn")
    for kind, images in kinds.items():
        for name in ("rded-soft", "sre2l"):
            rules = protocol(name).settings(task)
            scaled = dataclasses.replace(rules, crops_stored=False)
            before, now, reference, apart = [], [], [], 0.0
            for epoch in range(args.epochs):
                before.append(energy(crops(images, scaled, epoch)[0]))
                ours, theirs = crops(images, rules, epoch)
                now.append(energy(ours))
                reference.append(energy(theirs))
                apart = max(apart, (ours - theirs).abs().max().item())
            means = [1e4 * float(np.mean(values)) for values in (before, now, reference)]
            cells = " | ".join(f"{mean:.2f}" for mean in means)
            show(f"| {kind} | {name} | {1e4 * energy(images / 255):.2f} | {cells} | {apart:.1e} |")


if __name__ == "__main__":
    main()
