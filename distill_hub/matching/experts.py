"""Expert trajectories: networks trained on real images, whose weights are kept epoch by epoch (MTT, Sec. 3.1).

A network's weights are one vector here, as the matching needs them; plain SGD on it, without momentum and weight decay, is
what the released codes of MTT, TESLA, FTD and DATM train experts with. FTD (Du et al., CVPR 2023) and DATM make them flat: the
gradient is that of `flat_gradient`. Where the released codes seed nothing, every draw here comes from (seed, expert, epoch).
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call

from distill_hub.augmentation.augment import Augmentation, augment, batch_of, draw
from distill_hub.config import InputError
from distill_hub.data.known import RGB
from distill_hub.options.experts import ExpertOptions
from distill_hub.running.checkpoint import steps
from distill_hub.running.run import Run
from distill_hub.running.seeds import cpu_generator, draw_seed


class Flat:
    """A network called with its weights in one vector (P,), in the order of its parameters.

    Args:
        network: Without running statistics; its own weights stay as they are.
    """

    def __init__(self, network: nn.Module):
        self.network = network
        self.shapes = {name: weight.shape for name, weight in network.named_parameters()}

    @property
    def own(self) -> torch.Tensor:
        """The network's own weights, (P,)."""
        return torch.cat([weight.detach().flatten() for weight in self.network.parameters()])

    def __call__(self, weights: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        """Map normalised images (B, 3, S, S) to logits (B, C)."""
        parts = weights.split([shape.numel() for shape in self.shapes.values()])
        named = {name: part.view(shape) for (name, shape), part in zip(self.shapes.items(), parts, strict=True)}
        return functional_call(self.network, named, (images,))


def flat_gradient(
    gradient_at: Callable[[torch.Tensor], torch.Tensor], weights: torch.Tensor, radius: float, share: float
) -> torch.Tensor:
    """Return GSAM's gradient (Zhuang et al., ICLR 2022, Alg. 1), as FTD trains experts: it leads to flat minima.

    It is the gradient at the worst point nearby, less a share of what is at right angles to it in the gradient here. Nearby
    is as in ASAM (Kwon et al., ICML 2021), in proportion to each weight.

    Args:
        gradient_at: From weights (P,) to the gradient of the batch's loss, (P,).
        weights: (P,).
        radius: rho, FTD: 0.01.
        share: GSAM's alpha, FTD: 0.3.
    """
    here = gradient_at(weights)
    norm = (weights * here).norm() + 1e-12
    there = gradient_at(weights + radius / norm * weights.square() * here)
    across = here - (here @ there) / there.square().sum().clamp(min=1e-24) * there
    return there - share * across


def train_expert(
    run: Run,
    file: Path,
    network: Flat,
    images: torch.Tensor,
    labels: torch.Tensor,
    settings: ExpertOptions,
    kept: Sequence[int],
    *,
    rules: Augmentation,
    normalization: tuple[RGB, RGB],
    seed: int,
    title: str = "",
) -> torch.Tensor:
    """Train one expert; a killed run goes on from its checkpoint.

    Args:
        run: See `running.checkpoint.steps`.
        file: Of the checkpoint.
        network: Whose own weights are the start.
        images: All training images, uint8 (N, 3, S, S), on the device to work on.
        labels: int64 (N,), on the same.
        settings: Epochs, batch size, learning rate.
        kept: T epochs after which the weights are kept, rising; 0: before the first.
        rules: Augmentation of the training.
        normalization: Mean and standard deviation per channel.
        seed: Of batches and augmentation.
        title: Of the progress bar.

    Returns:
        The kept weights, float32 (T, P), on the CPU.

    Raises:
        InputError: When weights are not finite any more.
    """
    size, per_epoch = settings.expert_batch_size, -(-len(images) // settings.expert_batch_size)
    weights = network.own.to(images.device)
    trajectory = torch.zeros(len(kept), len(weights))  # on the CPU: a device may hold fewer than all of them
    trajectory[0] = weights.cpu()
    drawn, draws = -1, {}
    state = {"weights": weights, "trajectory": trajectory}
    for step in steps(run, file, settings.expert_epochs * per_epoch, state, title=title):
        epoch, place = divmod(step, per_epoch)
        if epoch != drawn:
            generator = cpu_generator(draw_seed(seed, "expert epoch", epoch))
            draws = draw(rules, len(images), size, images.shape[-1], generator)
            draws, drawn = {name: rows.to(images.device) for name, rows in draws.items()}, epoch
        part = batch_of(draws, place * size, (place + 1) * size)
        shown, target = augment(images[part["order"]], part, *normalization), labels[part["order"]]

        def gradient_at(point: torch.Tensor, shown: torch.Tensor = shown, target: torch.Tensor = target) -> torch.Tensor:
            point = point.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(F.cross_entropy(network(point, shown), target), point)
            return gradient

        if settings.expert_optimizer == "gsam":
            gradient = flat_gradient(gradient_at, weights, settings.flat_radius, settings.flat_share)
        else:
            gradient = gradient_at(weights)
        weights.sub_(settings.expert_learning_rate * gradient)
        if place == per_epoch - 1 and epoch + 1 in kept:
            if not weights.isfinite().all():
                valid = f"the weights of an expert are not finite after {epoch + 1} epochs; a smaller one may help"
                raise InputError("expert_learning_rate", settings.expert_learning_rate, valid)
            trajectory[kept.index(epoch + 1)] = weights.cpu()
    return trajectory


@torch.inference_mode()
def logits_of(
    network: Flat, weights: torch.Tensor, images: torch.Tensor, normalization: tuple[RGB, RGB], batch_size: int = 256
) -> torch.Tensor:
    """Return the logits, float32 (N, C) on their device, of uint8 images (N, 3, S, S) as they are."""
    return torch.cat([network(weights, augment(batch, {}, *normalization)) for batch in images.split(batch_size)])
