"""What a step sees of a class: some of its real images and all of its distilled ones, augmented alike."""

from collections.abc import Sequence

import torch

from distill_hub.augmentation.augment import augment
from distill_hub.augmentation.dsa import Operation, one_row, shared
from distill_hub.data.known import RGB
from distill_hub.running.seeds import cpu_generator, draw_seed


def pair(
    own: torch.Tensor,
    real: torch.Tensor,
    step: int,
    *,
    real_batch_size: int,
    operations: Sequence[Operation],
    mean: RGB,
    std: RGB,
    seed: int,
    class_name: str,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return real and distilled images of a class, normalised and with the same random operation of DSA.

    Args:
        own: float32 (IPC, 3, S, S), in the units of an image or whitened; the result is differentiable in it.
        real: uint8, or float in the same units, (N, 3, S, S), on the same device.
        step: Its number.
        real_batch_size: Real images, without replacement; all where there are fewer.
        operations: To draw one from; none: no augmentation.
        mean: Of the normalisation, per channel.
        std: Of the normalisation, per channel.
        seed: Of the run; what is drawn depends on it, on step and on class.
        class_name: Of the class.
    """
    generator = cpu_generator(draw_seed(seed, "match", step, class_name))
    chosen = torch.randperm(len(real), generator=generator)[:real_batch_size].to(real.device)
    draws = one_row(operations, own.shape[-1], generator) if operations else {}
    return (
        augment(real[chosen], shared(draws, len(chosen)), mean, std),
        augment(own, shared(draws, len(own)), mean, std),
    )
