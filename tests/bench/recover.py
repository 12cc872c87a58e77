"""Speed of the recover loop against the loop that the released codes have, in one run. By hand.

    python tests/bench/recover.py --network convnet-3-bn --steps 20

The yardstick is a straightforward loop: the network's weights keep their gradients, as in SRe2L's code, and the features of
every BatchNorm layer are kept until their statistics are taken. Both take the same steps from the same noise; the losses of
the first step are compared. The network is untrained: speed does not depend on weights.
"""

import argparse
import time

import torch
import torch.nn.functional as F
from torch import nn

from distill_hub.classes import SourceClass
from distill_hub.classifiers import Classifier, denormalize, normalize
from distill_hub.machine import cores, start_accelerator
from distill_hub.methods import sre2l
from distill_hub.networks import build
from distill_hub.run import cpu_generator, show

CLASSES = [SourceClass(f"class {index}", index, None) for index in range(10)]
RATE = 0.1


def plain_loop(network: nn.Module, labels: torch.Tensor, start: torch.Tensor, limits, mean, std, steps: int) -> list[float]:
    """SRe2L's loop as one writes it down first, one roll, crop and flip per step left out."""
    images, seen, losses = start.clone().requires_grad_(), [], []
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    handles = [norm.register_forward_hook(lambda _, inputs, output: seen.append(inputs[0])) for norm in norms]
    optimizer = torch.optim.Adam([images], RATE, betas=(0.5, 0.9))
    for _ in range(steps):
        seen.clear()
        logits = network(normalize(denormalize(images, mean, std), mean, std))
        loss = F.cross_entropy(logits, labels)
        for place, (maps, norm) in enumerate(zip(seen, norms, strict=True)):
            channels = maps.permute(1, 0, 2, 3).flatten(1)
            distance = (channels.var(1, unbiased=False) - norm.running_var).norm() + (
                channels.mean(1) - norm.running_mean
            ).norm()
            loss = loss + 0.01 * (10.0 if place == 0 else 1.0) * distance
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        images.data.clamp_(*limits)
        losses.append(loss.item())
    for handle in handles:
        handle.remove()
    return losses


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="resnet-18-bn")
    parser.add_argument("--image_size", type=int, default=32)
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    accelerator = start_accelerator()
    device = accelerator.device
    torch.manual_seed(0)
    network = build(args.network, len(CLASSES), args.image_size).to(device).eval()
    how = {"id": args.network, "architecture": args.network, "class_names": [known.name for known in CLASSES]}
    teacher = Classifier(network, classes=CLASSES, image_size=args.image_size, device=device, **how)
    labels, seeds = torch.arange(args.batch) % len(CLASSES), list(range(args.batch))
    noise = [torch.randn(3, args.image_size, args.image_size, generator=cpu_generator(seed)) for seed in seeds]
    start = torch.stack(noise).to(device)
    limits = [normalize(start.new_full((1, 3, 1, 1), value), teacher.mean, teacher.std) for value in (0.0, 1.0)]
    quiet = {"size": args.image_size, "learning_rate": RATE, "views_seed": 0, "smallest_crop": 1.0, "flip": False}
    sre2l.ROLL = 0.0  # the yardstick has no augmentation

    def ours(steps: int, **changes) -> float:
        objective = sre2l.statistics_objective(teacher, labels, 1)
        return float(sre2l.recover(teacher, objective, seeds, steps=steps, **{**quiet, **changes})[1][0])

    def plain(steps: int) -> float:
        network.requires_grad_(True)
        try:
            return plain_loop(network, labels.to(device), start, limits, teacher.mean, teacher.std, steps)[0]
        finally:
            network.zero_grad(set_to_none=True)
            network.requires_grad_(False)

    def rate(function, **changes) -> float:
        best = 0.0
        for _ in range(args.rounds):
            started = time.perf_counter()
            function(args.steps, **changes)
            best = max(best, args.batch * args.steps / (time.perf_counter() - started))
        return best

    first = ours(1), plain(1)  # both warm
    rates = {"plain loop": rate(plain), "recover": rate(ours)}
    sre2l.ROLL = 32 / 224
    rates["recover with crops, flips and rolls"] = rate(ours, smallest_crop=0.08, flip=True)
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{cores()} CPU cores"
    show(f"{args.network}, {args.image_size} px, {args.batch} images at a time, torch {torch.__version__}, {where}")
    show(f"loss of the first step: recover {first[0]:.5f}, plain loop {first[1]:.5f}")
    for name, value in rates.items():
        show(f"{name}: {value:,.0f} images x steps per second, {value / rates['plain loop']:.2f} of the plain loop")


if __name__ == "__main__":
    main()
