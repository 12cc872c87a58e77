"""CaO2: Rectifying Inconsistencies in Diffusion-Based Dataset Distillation (Wang et al., ICCV 2025).

Stage 1, objective-guided sample selection (Sec. 3.2), is `select`; stage 2, condition-aware latent optimisation (Sec. 3.3),
is `refine`. Where the released code departs from the paper, the paper is followed:

- the generator is in eval mode (there: train mode, which drops 10 % of the labels);
- the network's timestep fits the noise level (there: the level of the k-th of 50 respaced steps, with the bare number k);
- images are optimised in batches, with the result of one at a time; no gradient is computed for the generator's weights;
- every image has a noise of its own (there: one of a bank of 1,024; Alg. 1: one per class);
- of a MAR a share of tokens up to the largest is masked (Eq. 6; there: 70 % and more, whatever the largest), candidates are
  chosen as of a DiT (there: by how the selector's answer changes in the last step), and masked tokens get gradients, too;
- the selector sees images as it was trained on (there: with values in [-1, 1], not normalised).
"""

from collections.abc import Sequence

import torch
from torch.linalg import vector_norm

from distill_hub.generators.base import Generator
from distill_hub.methods.candidates import check_pool
from distill_hub.methods.judging import Verdicts
from distill_hub.running.seeds import cpu_generator

FACTS = {
    "name": "cao2",
    "title": "CaO2: Rectifying Inconsistencies in Diffusion-Based Dataset Distillation",
    "paper": "https://arxiv.org/abs/2506.22637",
    "bibtex": """@inproceedings{wang2025cao2,
  title = {{CaO2}: Rectifying Inconsistencies in Diffusion-Based Dataset Distillation},
  author = {Wang, Haoxuan and Zhao, Zhenghao and Wu, Junyi and Shang, Yuzhang and Liu, Gaowen and Yan, Yan},
  booktitle = {International Conference on Computer Vision},
  year = {2025},
}""",
}
NORMS = {"linf": torch.inf, "l1": 1, "l2": 2}


def learning_rate(kind: str) -> float:
    """Return the learning rate of the refinement, which the paper has for a MAR and for other kinds of generators."""
    return 1e-4 if kind == "mar" else 6e-4


def resolve_order(order: str, ipc: int) -> str:
    """Resolve 'auto': easy samples for small sets, hard ones for large (Sec. 3.4; released code: IPC 50)."""
    return order if order != "auto" else "most_confident" if ipc < 50 else "least_confident"


def select(verdicts: Verdicts, ipc: int, *, order: str = "auto", fill: str = "random", seed: int = 0) -> torch.Tensor:
    """Choose IPC candidates of one class (Sec. 3.2, Alg. 1 lines 2-4).

    Those the selector assigns to the class come first; a shortage is filled from the rest.

    Args:
        verdicts: The selector's, of N candidates of one class.
        ipc: How many to choose, at most N.
        order: Of those that come first: 'most_confident' or 'least_confident', by the probability of the class, or 'auto',
            see `resolve_order`. The other strategies of Fig. 3c: 'correct', those as drawn; and, recognised or not,
            'random', all as drawn, and 'el2n', the smallest error norm first, as in the released code.
        fill: 'random' (paper), or 'most_confident', by the largest probability of any class (released code).
        seed: Of the random fill.

    Returns:
        int64 (ipc,), distinct indices into the candidates, in the order of choice.

    Raises:
        InputError: When IPC is larger than the pool.
    """
    check_pool(ipc, len(verdicts))
    order, as_drawn = resolve_order(order, ipc), torch.arange(len(verdicts))
    # Stable: equal ones keep the order of drawing.
    if order == "random":
        return as_drawn[:ipc]
    if order == "el2n":
        return verdicts.el2n.sort(stable=True).indices[:ipc]
    if order == "correct":
        ranked = as_drawn
    else:
        ranked = verdicts.confidence.sort(descending=order == "most_confident", stable=True).indices
    if fill == "most_confident":
        rest = verdicts.largest.sort(descending=True, stable=True).indices
    else:
        rest = torch.randperm(len(verdicts), generator=cpu_generator(seed))
    return torch.cat([ranked[verdicts.correct[ranked]], rest[~verdicts.correct[rest]]])[:ipc]


def refine(
    generator: Generator,
    latents: torch.Tensor,
    class_ids: Sequence[int | None],
    seeds: Sequence[int],
    *,
    steps: int = 100,
    learning_rate: float = 6e-4,
    regularization: str = "linf",
    weight: float = 10.0,
    max_timestep_fraction: float = 0.25,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Move latents to where the frozen generator predicts their noise best (Eq. 4, Alg. 1 lines 5-10).

    Per image, with one fixed noise ε and a fresh timestep t from [1, fraction·T) in every step, Adam minimises

        mean((ε_θ(z_t, ĉ, t) − ε)²) + λ·‖ε_θ(z_t, ĉ, t) − ε‖_p

    whose difference is the generator's `residual`; a masked generator's mean is over masked tokens (Eq. 6). The losses of a
    batch are summed and Adam works element by element, so a batch gives what one image at a time gives.

    Args:
        generator: Frozen; its weights get no gradients.
        latents: float32 (B, channels, h, w).
        class_ids: The condition ĉ of each (Eq. 5): its class in the generator, or None: no condition.
        seeds: Of each image's noise and timesteps.
        steps: Optimiser steps per image.
        learning_rate: Of Adam.
        regularization: p: 'linf', 'l1', 'l2', or 'none' (Tab. 4).
        weight: λ.
        max_timestep_fraction: T̂/T, in (0, 1].

    Returns:
        The refined latents (B, channels, h, w) and every image's loss before each step, (B, steps).
    """
    draws = [cpu_generator(seed) for seed in seeds]
    noise = torch.stack([torch.randn(generator.latent_shape, generator=draw) for draw in draws]).to(generator.device)
    latents = latents.to(generator.device, copy=True).requires_grad_(True)
    adam = torch.optim.Adam([latents], lr=learning_rate)
    losses = torch.empty(steps, len(latents), device=generator.device)
    for step in range(steps):
        corruption = generator.corruption(draws, most=max_timestep_fraction, noise=noise)
        error = generator.residual(latents, corruption, class_ids)
        loss = error.square().sum(1) / corruption.elements  # (B,)
        if regularization != "none":
            loss = loss + weight * vector_norm(error, NORMS[regularization], dim=1)
        (latents.grad,) = torch.autograd.grad(loss.sum(), latents)
        adam.step()
        losses[step] = loss.detach()
    return latents.detach(), losses.T
