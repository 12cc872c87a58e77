"""Expert trajectories: networks trained on real images, whose weights are kept epoch by epoch (MTT, Sec. 3.1).

A network's weights are one vector here, as the matching needs them. The released codes of MTT, TESLA, FTD and DATM train
experts by plain SGD, without momentum and weight decay; FTD (Du et al., CVPR 2023) and DATM make them flat, see
`flat_gradient`. They seed nothing; here every draw comes from seed, expert and epoch.
"""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call

from distill_hub.augmentation.augment import Augmentation, augment, batch_of, draw
from distill_hub.augmentation.dsa import operations
from distill_hub.config import InputError, options
from distill_hub.data.known import RGB
from distill_hub.data.sources import Source
from distill_hub.matching.networks import resolve
from distill_hub.matching.space import Space
from distill_hub.networks.build import build
from distill_hub.options.experts import ExpertOptions
from distill_hub.running.checkpoint import steps
from distill_hub.running.run import Run
from distill_hub.running.seeds import cpu_generator, draw_seed
from distill_hub.running.stages import Stage


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
        radius: rho, FTD and DATM: 0.01.
        share: GSAM's alpha, DATM: 0.3.
    """
    here = gradient_at(weights)
    norm = (weights * here).norm() + 1e-12
    there = gradient_at(weights + radius / norm * weights.square() * here)
    across = here - (here @ there) / there.square().sum().clamp(min=1e-24) * there
    return there - share * across


def train_expert(
    state: Mapping[str, torch.Tensor],
    todo: Iterable[int],
    network: Flat,
    images: torch.Tensor,
    labels: torch.Tensor,
    settings: ExpertOptions,
    kept: Sequence[int],
    *,
    mirrored: bool,
    normalization: tuple[RGB, RGB],
    seed: int,
) -> None:
    """Train one expert, with DSA.

    Args:
        state: Changed in place: `weights` (P,), on the device to work on, and `trajectory` (T, P), where they are kept.
        todo: Numbers of the optimiser's steps; an epoch has as many as there are batches, the last of which may be shorter.
        network: See `Flat`.
        images: All training images, uint8, or float in the units of an image or whitened, (N, 3, S, S), on the same device.
        labels: int64 (N,), on the same.
        settings: Batch size, learning rate and optimiser.
        kept: T epochs after which the weights are kept, rising; 0: before the first.
        mirrored: Whether a mirrored image still shows its class.
        normalization: Mean and standard deviation per channel.
        seed: Of batches and augmentation.
    """
    size, per_epoch = settings.expert_batch_size, -(-len(images) // settings.expert_batch_size)
    rules, drawn, draws = Augmentation(dsa=operations(mirrored)), -1, {}
    weights = state["weights"]
    for step in todo:
        epoch, place = divmod(step, per_epoch)
        if epoch != drawn:
            generator = cpu_generator(draw_seed(seed, "expert epoch", epoch))
            draws, drawn = draw(rules, len(images), size, images.shape[-1], generator), epoch
            draws = {name: rows.to(images.device) for name, rows in draws.items()}
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
            state["trajectory"][kept.index(epoch + 1)] = weights.to(state["trajectory"].device)


def fit(
    run: Run,
    source: Source,
    held_out: Callable[[], tuple[torch.Tensor, torch.Tensor]],
    space: Space,
    settings: ExpertOptions,
    kept: Sequence[int],
    *,
    size: int,
    seed: int,
    stage: str = "fit experts",
) -> Stage:
    """Train experts, spread over processes, an expert per chunk of work.

    One that was interrupted goes on from its checkpoint.

    Args:
        run: Keeps every finished expert.
        source: The real images.
        held_out: Returns the test images, uint8 (M, 3, S, S), and their labels (M,); each expert sees them once, at its end.
        space: In which the images are seen.
        settings: Without a default that depends on the image size, see `options.experts.with_defaults`.
        kept: See `train_expert`.
        size: Side of the images in pixels.
        seed: Of all experts.
        stage: Name of the stage.

    Returns:
        Of every expert: `weights` (T, P); `accuracies` on training and test images as they are, float64 (2,); `seeds`.

    Raises:
        InputError: For a network that cannot be used, mixed precision, or weights that are not finite any more.
    """
    refuse_mixed_precision(run)
    classes, normalization = len(source.classes), (space.mean, space.std)
    name = resolve(settings.network, classes, size)
    made_from = {
        "source": [source.fingerprint, source.test.fingerprint, source.mirrored, source.normalization, size],
        "zca": space.zca and space.zca.sha256,
        "settings": [options(settings, ExpertOptions), list(kept), seed],
    }
    state_folder = run.state("expert steps", made_from)

    @functools.cache
    def real() -> tuple[torch.Tensor, torch.Tensor]:
        images, labels = source.train.pixels(None, size), torch.from_numpy(source.train.labels)
        return space.of(images.to(run.device)), labels.to(run.device)

    def train(chunk: Sequence[int]) -> dict[str, torch.Tensor]:
        (index,) = chunk
        own_seed = draw_seed(seed, "expert", index)
        torch.manual_seed(own_seed)
        network, (images, labels) = Flat(build(name, classes, size).to(run.device)), real()
        weights = network.own
        state = {"weights": weights, "trajectory": weights.cpu().repeat(len(kept), 1)}
        total = settings.expert_epochs * -(-len(images) // settings.expert_batch_size)
        title = f"expert {index}" if run.is_main else ""
        todo = steps(run, state_folder / f"{index}.safetensors", total, state, title=title)
        how = {"mirrored": source.mirrored, "normalization": normalization, "seed": own_seed}
        train_expert(state, todo, network, images, labels, settings, kept, **how)
        if run.is_dry:  # an expert that is trained for a moment goes nowhere, and a student could not follow it
            state["trajectory"] *= torch.linspace(1, 0.5, len(kept))[:, None]
        shares = []
        test, test_labels = held_out()
        for shown, known in ((images, labels), (space.of(test.to(run.device)), test_labels)):
            predicted = logits_of(network, weights, shown, normalization).argmax(1)
            shares.append((predicted == known.to(run.device)).double().mean().cpu())
        return {
            "weights": state["trajectory"][None],
            "accuracies": torch.stack(shares)[None],
            "seeds": torch.tensor([own_seed]),
        }

    how = {"made_from": made_from, "whole": True, "lower": "a smaller --expert_batch_size"}
    return run.map(stage, range(settings.expert_count), train, chunk_size=1, **how)


def refuse_mixed_precision(run: Run) -> None:
    """Refuse to train experts, or students that follow them, in less than float32: they would go elsewhere.

    Raises:
        InputError: Saying what is valid.
    """
    if run.dtype is not torch.float32:
        raise InputError("mixed_precision", run.accelerator.mixed_precision, "trajectories need float32; valid: no")


@torch.inference_mode()
def logits_of(
    network: Flat, weights: torch.Tensor, images: torch.Tensor, normalization: tuple[RGB, RGB], batch_size: int = 256
) -> torch.Tensor:
    """Return the logits, float32 (N, C) on their device, of images (N, 3, S, S) as they are, see `augment`."""
    return torch.cat([network(weights, augment(batch, {}, *normalization)) for batch in images.split(batch_size)])
