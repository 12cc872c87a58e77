"""GLaD: distillation into the latents of a generator (Cazenavette et al., CVPR 2023), with the generators of this house.

What is optimised is not the pixels but what a frozen generator decodes to them: z with x = Dec(z), so that a distilled
image is one that the generator can draw. The matching is that of another method, which is asked for the gradient of its
loss in the pixels; then this is taken back through the decoder, some images at a time: dL/dz = (dDec/dz)ᵀ dL/dx.

Where the paper and the released code (glad fe62863) differ: their generator is StyleGAN-XL, with its style vectors and the
feature maps of one of its layers, which start from average styles. Its weights are only to be had as pickles, which are
programs, and are not loaded here. In its place stand the latents of the VAE of a diffusion model, feature maps as well,
which start from encoded real images. Of its three ways to match, that of trajectories is not built. The released numbers
are those of the best iteration on the test split.
"""

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import nn

from distill_hub.augmentation.dsa import operations
from distill_hub.config import InputError
from distill_hub.data.sources import Source
from distill_hub.generators.base import Generator
from distill_hub.matching import dc, dm
from distill_hub.matching.pixels import MOMENTUM, normalization
from distill_hub.options.glad import GladConfig

FACTS = {
    "name": "glad",
    "title": "GLaD: Generalizing Dataset Distillation via Deep Generative Prior (on the latents of a VAE)",
    "paper": "https://arxiv.org/abs/2305.01649",
    "bibtex": """@inproceedings{cazenavette2023glad,
  title = {Generalizing Dataset Distillation via Deep Generative Prior},
  author = {Cazenavette, George and Wang, Tongzhou and Torralba, Antonio and Efros, Alexei A. and Zhu, Jun-Yan},
  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  year = {2023},
}""",
}
DIFFERS = (
    "in place of StyleGAN-XL's styles and feature maps, the latents of the generator's VAE; they start from real images, "
    "not from average styles"
)

RATES = {"dm": 10.0, "dc": 1.0}  # of feature maps, in the released code

# From a step's number and images (B, 3, S, S) in [0, 1] to a loss and its gradient in the images.
Objective = Callable[[int, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


def rules_of(config: GladConfig, size: int, source: Source, dtype: torch.dtype) -> dm.Rules | dc.Rules:
    """Resolve the settings: as in the paper, up to 16 px, where digits are, fewer and smaller steps.

    Args:
        config: What is asked for.
        size: Side of the images in pixels.
        source: The real images.
        dtype: See `dm.Rules`.

    Returns:
        Rules of the method that matches; the rate is that of the latents.
    """
    small, (mean, std) = size <= 16, normalization(source, size)
    steps = config.match_steps or (100 if small else 1000)
    common = {
        "rate": config.latent_learning_rate or (0.3 * config.ipc if small else RATES[config.under]),
        "real_batch_size": config.real_batch_size or (64 if small else 256),
        "operations": operations(source.mirrored) if config.augment == "dsa" else (),
        "mean": mean,
        "std": std,
        "dtype": dtype,
    }
    if config.under == "dm":
        return dm.Rules(steps=steps, **common)
    # One step in every network, which therefore learns nothing of the images.
    return dc.Rules(networks=steps, outer=1, inner=0, network_rate=0.0, distance="rows", **common)


def objective(
    real: torch.Tensor,
    label: int,
    network: Callable[[int], nn.Module],
    embed: Callable[[nn.Module, torch.Tensor], torch.Tensor],
    rules: dm.Rules | dc.Rules,
    seed: int,
    class_name: str,
) -> Objective:
    """Return what is asked for the gradient in the images of a class; see `dm.gradient` and `dc.gradient`."""
    if isinstance(rules, dm.Rules):
        return lambda step, images: dm.gradient(images, real, step, network, embed, rules, seed, class_name)
    return lambda step, images: dc.gradient(images, real, label, step, network(step), rules, seed, class_name)


@torch.no_grad()
def encode(generator: Generator, images: torch.Tensor, batch_size: int) -> torch.Tensor:
    """Return what the latents start from: the means of the encoder's posterior, (N, channels, h, w).

    Args:
        generator: Its VAE encodes.
        images: (N, 3, S, S) in [0, 1].
        batch_size: Images at a time.
    """
    return torch.cat([generator.posterior(part.to(generator.device))[0] for part in images.split(batch_size)])


@torch.no_grad()
def decode(generator: Generator, latents: torch.Tensor, batch_size: int) -> torch.Tensor:
    """Return the images of latents, float32 (N, 3, S, S) in [0, 1], decoded some at a time."""
    return torch.cat([generator.decode(part) for part in latents.split(batch_size)])


def gradient(
    generator: Generator, latents: torch.Tensor, objective: Callable, batch_size: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a loss of the decoded images and its gradient in the latents; memory holds the decoder's graph of a part.

    The images of several parts are decoded twice: to know the gradient in the pixels, and again to take it back.

    Args:
        generator: Decodes.
        latents: (N, channels, h, w).
        objective: From images (N, 3, S, S) to a loss and its gradient in them.
        batch_size: Latents that are decoded at a time.

    Raises:
        InputError: When nothing can be taken back through the decoder.
    """
    parts = [part.detach().requires_grad_() for part in latents.split(batch_size)]
    if len(parts) == 1:
        whole = _with_graph(generator, parts[0])
        loss, in_pixels = objective(whole.detach())
        return loss, torch.autograd.grad(whole, parts[0], in_pixels)[0]
    loss, in_pixels = objective(decode(generator, latents, batch_size))
    pairs = zip(parts, in_pixels.split(batch_size), strict=True)
    return loss, torch.cat([torch.autograd.grad(_with_graph(generator, part), part, own)[0] for part, own in pairs])


def _with_graph(generator: Generator, latents: torch.Tensor) -> torch.Tensor:
    images = generator.decode(latents)
    if not images.requires_grad:
        valid = "its decoder is not differentiable, and latents are optimised through it; another generator is needed"
        raise InputError("generator", generator.facts.name, valid)
    return images


def match(
    state: Mapping[str, torch.Tensor],
    steps: Iterable[int],
    generator: Generator,
    objective: Objective,
    *,
    rate: float,
    batch_size: int,
) -> None:
    """Move latents, in place, by SGD with momentum.

    Args:
        state: Of the loop: `latents` float32 (N, channels, h, w), their `velocity`, and `losses` (steps,).
        steps: Numbers of the steps to take.
        generator: Decodes.
        objective: Of the method that matches.
        rate: Learning rate.
        batch_size: Latents that are decoded at a time.

    Raises:
        InputError: See `gradient`.
    """
    latents, velocity = state["latents"], state["velocity"]
    for step in steps:
        loss, own = gradient(generator, latents, lambda images, step=step: objective(step, images), batch_size)
        velocity.mul_(MOMENTUM).add_(own)
        latents.sub_(velocity, alpha=rate)
        state["losses"][step] = loss.detach()
