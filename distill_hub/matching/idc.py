"""IDC: dataset condensation via efficient synthetic-data parameterization (Kim et al., ICML 2022); DREAM's real batches.

Images of a class move until a network's gradient of their loss is that of real images of the class, in networks that are
trained on real images between the steps (on distilled ones, as in DC, their gradients vanish early). A stored image may hold
f x f tiles, which are enlarged first (multi-formation); without them the method is called IDC-1.

Where the released code (IDC ceac95a) differs: what it calls random are the first images of each class, here random ones;
from IPC 20 on with 3 x 3 tiles it enlarges no more images than fit into 128 and shows the others as they are, here 128 of
all tiles are drawn; on MNIST with tiles it leaves out cutout and CutMix. Where DREAM's (595e3c1) differs: its images start
from the middles of clusters, too, and it clusters features of images that are not normalised. See also `matching.trained`,
which has the loop.
"""

from dataclasses import replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn

from distill_hub.augmentation.tiles import join
from distill_hub.data.sources import Source
from distill_hub.data.tiles import tile_side
from distill_hub.matching.dc import gradients
from distill_hub.matching.networks import last_map
from distill_hub.matching.pixels import normalization
from distill_hub.matching.trained import Objective, Rules, Sampler
from distill_hub.options.dm import DmConfig
from distill_hub.options.idc import IdcConfig
from distill_hub.running.seeds import cpu_generator

FACTS = {
    "name": "idc",
    "title": "IDC: Dataset Condensation via Efficient Synthetic-Data Parameterization",
    "paper": "https://arxiv.org/abs/2205.14959",
    "bibtex": """@inproceedings{kim2022dataset,
  title = {Dataset Condensation via Efficient Synthetic-Data Parameterization},
  author = {Kim, Jang-Hyun and Kim, Jinuk and Oh, Seong Joon and Yun, Sangdoo and Song, Hwanjun and Jeong, Joonhyun and
            Ha, Jung-Woo and Song, Hyun Oh},
  booktitle = {International Conference on Machine Learning},
  year = {2022},
}""",
}
DREAM = {
    "name": "dream",
    "title": "DREAM: Efficient Dataset Distillation by Representative Matching",
    "paper": "https://arxiv.org/abs/2302.14416",
    "bibtex": """@inproceedings{liu2023dream,
  title = {{DREAM}: Efficient Dataset Distillation by Representative Matching},
  author = {Liu, Yanqing and Gu, Jianyang and Wang, Kai and Zhu, Zheng and Jiang, Wei and You, Yang},
  booktitle = {IEEE/CVF International Conference on Computer Vision},
  year = {2023},
}""",
}
Distance = Literal["mse", "l1"]


def papers(source: Source, size: int, ipc: int, *, distance: Distance, sampler: Sampler = "random") -> Rules:
    """Return the settings of the paper and its code: of CIFAR and SVHN up to 64 px, else of ImageNet; up to 16 px fewer.

    Args:
        source: The real images.
        size: Side of the images in pixels.
        ipc: Images per class.
        distance: Of gradients.
        sampler: See `Rules`.
    """
    small, laptop = size <= 64, size <= 16
    many = not small and len(source.classes) >= 100
    training_images = 64 if laptop else 2000 if source.normalization == "cifar" else 500
    pretrain_epochs = 0 if small else 5 if many else 10
    mean, std = normalization(source, size)
    # The pixels' rates are for 50,000 steps and more; up to 16 px there are 100, and rates 200 times as large.
    side = 224 if not small else 28 if source.normalization == "mnist" else 32  # that they are for
    rate = ({"mse": 5e-3, "l1": 1e-4}[distance] if small else 1e-3 if many else 3e-3) * (size / side) ** 2
    return Rules(
        networks=10 if laptop else 2000 if small else 500,
        steps=10 if laptop else 100,
        rate=rate * ipc / 10 * (200 if laptop else 1),
        real_batch_size=128 if sampler == "dream" or many else 64,
        sampler=sampler,
        training_images=training_images,
        warm_up=_warm_up(pretrain_epochs, source, training_images),
        training_batch_size=128 if many else 64,
        training_rate=0.1 if many else 0.01,
        weight_decay=1e-4 if many else 5e-4,
        mix_probability=0.5 if small else 1.0,
        mean=mean,
        std=std,
    )


def _warm_up(epochs: int, source: Source, training_images: int) -> int:
    return -(-epochs * len(source.train) // training_images)


def distance_of(config: IdcConfig, size: int, source: Source) -> Distance:
    """Resolve the distance of gradients: as in the paper."""
    digits = source.normalization in ("mnist", "fashion-mnist")
    return config.distance or ("l1" if size > 64 or digits else "mse")


def rules_of(config: IdcConfig, size: int, source: Source, tiles: int | None, dtype: torch.dtype) -> Rules:
    """Resolve the settings; see `papers`.

    Args:
        config: What is asked for.
        size: Side of the images in pixels.
        source: The real images.
        tiles: f of a set of f x f tiles.
        dtype: See `Rules`.
    """
    rules = papers(source, size, config.ipc, distance=distance_of(config, size, source), sampler=config.sampler)
    images, epochs = config.training_images or rules.training_images, config.pretrain_epochs
    return replace(
        rules,
        networks=config.match_networks or rules.networks,
        steps=config.match_steps or rules.steps,
        rate=config.match_learning_rate or rules.rate,
        real_batch_size=config.real_batch_size or rules.real_batch_size,
        training_images=images,
        warm_up=rules.warm_up * rules.training_images // images if epochs is None else _warm_up(epochs, source, images),
        dtype=dtype,
        tiles=tiles,
    )


def rules_for_features(config: DmConfig, size: int, source: Source, dtype: torch.dtype) -> Rules:
    """Resolve the settings of DM in trained networks: those of IDC's paper.

    Args:
        config: What is asked for.
        size: Side of the images in pixels.
        source: The real images.
        dtype: See `Rules`.
    """
    rules = papers(source, size, config.ipc, distance="l1" if size > 64 else "mse")
    return replace(
        rules,
        steps=config.match_steps or rules.steps,
        rate=config.match_learning_rate or rules.rate,
        real_batch_size=config.real_batch_size or rules.real_batch_size,
        dtype=dtype,
    )


def gradient_distance(distance: Distance) -> Objective:
    """Return IDC's objective: between the gradients of the mean cross-entropy, summed over all weights of convolutions.

    The released code leaves out whatever has two dimensions or one: linear layers, biases, norms.

    Args:
        distance: mse: the squared difference, summed, not averaged as its name says; l1: the absolute one.
    """

    def objective(network: nn.Module, real: torch.Tensor, own: torch.Tensor, label: int) -> torch.Tensor:
        weights = [parameter for parameter in network.parameters() if parameter.ndim == 4]
        goals, found = gradients(network, weights, real, label), gradients(network, weights, own, label, differentiable=True)
        differences = [one - goal for one, goal in zip(found, goals, strict=True)]
        return sum((d.square() if distance == "mse" else d.abs()).sum() for d in differences)

    return objective


def feature_distance(network: nn.Module, real: torch.Tensor, own: torch.Tensor, label: int) -> torch.Tensor:
    """Return the squared distance of mean last feature maps, summed: DM as in the ImageWoof tables of Minimax Diffusion.

    Args:
        network: Trained on real images.
        real: Normalised (N, 3, S, S).
        own: Normalised (B, 3, S, S).
        label: Not needed.
    """
    with torch.no_grad():
        goal = last_map(network, real).mean(0)
    return (last_map(network, own).mean(0) - goal).square().sum()


def start(
    how: Literal["mix", "real", "noise"], real: torch.Tensor, ipc: int, tiles: int | None, seed: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what the images of a class start from.

    Args:
        how: mix: every tile a real image; real: real images as they are, so that tiles are their parts; noise: normal, of
            mean 1/2 and deviation 1/4, cut to [0, 1].
        real: All real images of the class, uint8 (N, 3, S, S), N at least IPC, or IPC * f^2 for mix.
        ipc: Images per class.
        tiles: f.
        seed: Of the draw.

    Returns:
        float32 (IPC, 3, S, S) in [0, 1], and of each image the place of the real one in it, of mix in its upper left tile,
        or of noise the seed, int64 (IPC,).
    """
    size, generator = real.shape[-1], cpu_generator(seed)
    if how == "noise":
        noise = torch.randn(ipc, 3, size, size, generator=generator) / 4 + 0.5
        return noise.clamp(0, 1), torch.full((ipc,), seed)
    order = torch.randperm(len(real), generator=generator)
    if how == "real" or tiles is None:
        return real[order[:ipc]].float() / 255, order[:ipc]
    chosen = order[: ipc * tiles**2]
    side = tile_side(size, tiles)
    parts = F.interpolate(real[chosen].float() / 255, (side, side))  # nearest, as in the released code
    return join(parts, tiles, size), chosen[:: tiles**2]
