"""Pool-Select-Refine: Allocation-Aware Generative Dataset Distillation (Li et al., 2026).

Stage I, the choice of reliable, certain and diverse candidates (Sec. 3.2), is `select`; stage II, the refinement of their
latents with the teacher's soft labels (Sec. 3.3), is `refine`. No code is released; what the paper leaves open is said where
it is decided.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F

from distill_hub.classifiers import Classifier
from distill_hub.config import InputError
from distill_hub.coresets.select import k_center, k_means
from distill_hub.generators.base import Generator
from distill_hub.methods.candidates import HALF, Candidates, render
from distill_hub.methods.losses import first_and_last_tenth
from distill_hub.options.psr import RefineOptions
from distill_hub.running.run import Run, Stage
from distill_hub.running.seeds import cpu_generator, draw_seed

FACTS = {
    "name": "psr",
    "title": "Pool-Select-Refine: Allocation-Aware Generative Dataset Distillation with Soft-Label-Guided Latent Refinement",
    "paper": "https://arxiv.org/abs/2606.01920",
    "bibtex": """@misc{li2026psr,
  title = {Pool-Select-Refine: Allocation-Aware Generative Dataset Distillation with Soft-Label-Guided Latent Refinement},
  author = {Li, Wenmin and Sakai, Shunsuke and Zhao, Zhongkai and Hasegawa, Tatsuhito},
  year = {2026},
  eprint = {2606.01920},
  archivePrefix = {arXiv},
}""",
}
# Gradients through the ImageNet VAE keep 1.4 GiB per image of 256 px; a whole batch would not fit a GPU.
IMAGES_AT_ONCE = 4


@dataclass(frozen=True)
class Selection:
    """The candidates chosen of one class."""

    indices: torch.Tensor  # int64 (ipc,), distinct, in the order of choice
    filled: int  # how many of them, the last ones, had been dropped


def selection_weights(ipc: int) -> tuple[float, float, float]:
    """Return (α, β, γ) of Eq. 8 for an IPC (Sec. 4.1: up to 10, 20, from 50; in between as for 20)."""
    if ipc <= 10:
        return 3.0, 1.0, 0.5
    return (1.0, 1.0, 1.0) if ipc < 50 else (0.5, 1.0, 3.0)


def soft_labels(logits: torch.Tensor, temperature: float) -> torch.Tensor:
    """Return q = softmax(logits / τ), float64 (N, C).

    Args:
        logits: (N, C), restricted to the set's C classes: a `Classifier` that knows more cuts their logits out, and the
            softmax runs over those.
        temperature: τ > 0.

    Raises:
        InputError: When a logit is not finite.
    """
    if not logits.isfinite().all():
        raise InputError("teacher", "nan or inf", "its logits must be finite")
    return (logits.double() / temperature).softmax(1)


def reliability(soft: torch.Tensor, label: int) -> torch.Tensor:
    """Return the probability of the class, (N,) in [0, 1], from soft labels (N, C) (Eq. 1)."""
    return soft[:, label]


def entropy(soft: torch.Tensor) -> torch.Tensor:
    """Return the entropy over that of a uniform label, (N,) in [0, 1], from soft labels (N, C), C ≥ 2 (Eq. 6)."""
    return torch.special.entr(soft).sum(1) / math.log(soft.shape[1])


def select(
    candidates: Candidates,
    ipc: int,
    *,
    alpha: float,
    beta: float,
    gamma: float,
    temperature: float = 1.5,
    rule: Literal["score", "kmeans", "kcenter"] = "score",
    filtered: bool = True,
    normalized: bool = True,
    seed: int = 0,
) -> Selection:
    """Choose IPC candidates of one class (Sec. 3.2, Alg. 1 lines 5-13).

    Those the teacher takes for another class are dropped. Of the others the most reliable one comes first; then, one by one,
    the one with the largest α·reliability − β·entropy + γ·diversity (Eq. 8), where diversity is the squared distance to the
    nearest one chosen (Eq. 7). When too few are left, the most reliable dropped ones fill up. Of equals the earlier one is
    taken. A step takes O(N·D) time.

    Of K-Means and K-Center, which the paper compares with (Sec. 2.2, Fig. 4), it gives no details: see `coresets.select`.

    Args:
        candidates: N candidates of one class; their embeddings are e_T.
        ipc: How many to choose, at most N.
        alpha: α.
        beta: β.
        gamma: γ.
        temperature: τ of the soft labels.
        rule: What is chosen by: Eq. 8, or the embeddings alone.
        filtered: Whether those the teacher takes for another class are dropped.
        normalized: Whether each term of Eq. 8 is scaled to [0, 1] over what the filter leaves.
        seed: Of K-Means.

    Raises:
        InputError: When IPC is larger than the pool, or a logit or an embedding is not finite.
    """
    candidates.check(ipc)
    label = candidates.label
    if not (candidates.logits.isfinite().all() and candidates.embeddings.isfinite().all()):
        raise InputError("teacher", "nan or inf", f"its logits and embeddings must be finite; of class {label} they are not")
    soft = soft_labels(candidates.logits, temperature)
    reliable = reliability(soft, label)
    eligible = candidates.logits.argmax(1) == label if filtered else torch.ones(len(candidates), dtype=torch.bool)
    kept, dropped = eligible.nonzero().flatten(), (~eligible).nonzero().flatten()
    embeddings, count = candidates.embeddings[kept].double(), min(ipc, len(kept))
    if not count:
        chosen = kept
    elif rule == "kmeans":
        chosen = k_means(embeddings, count, seed)
    elif rule == "kcenter":
        chosen = k_center(embeddings, count)
    else:
        # The paper calls the normalisation optional; by default it is taken, or the scale of the embeddings would outweigh α
        # and β. Its pool is what the filter leaves: a dropped candidate cannot be chosen and should not set the scale.
        scale = _min_max if normalized else torch.clone
        fixed = alpha * scale(reliable[kept]) - beta * scale(entropy(soft[kept]))
        chosen = _greedy(reliable[kept], fixed, gamma, embeddings, count, scale)
    rest = dropped[reliable[dropped].sort(descending=True, stable=True).indices]
    return Selection(torch.cat([kept[chosen], rest])[:ipc], max(0, ipc - len(kept)))


def _greedy(
    start: torch.Tensor,
    fixed: torch.Tensor,
    gamma: float,
    embeddings: torch.Tensor,
    count: int,
    scale: Callable[[torch.Tensor], torch.Tensor],
) -> torch.Tensor:
    """Return the indices of `count` rows: the largest of `start`, then by fixed + γ·diversity."""
    score, chosen = start, []
    taken = torch.zeros_like(start, dtype=torch.bool)
    nearest = torch.full_like(start, torch.inf)  # squared distance to the nearest one chosen
    for _ in range(count):
        best = int(score.masked_fill(taken, -torch.inf).argmax())  # the first of equals
        chosen.append(best)
        taken[best] = True
        nearest = nearest.minimum((embeddings - embeddings[best]).square().sum(1))
        score = fixed + gamma * scale(nearest)
    return torch.tensor(chosen, dtype=torch.int64)


def _min_max(values: torch.Tensor) -> torch.Tensor:
    """Scale values (N,) to [0, 1]; a constant, which prefers nobody, becomes 0."""
    if values.min() == values.max():
        return torch.zeros_like(values)
    return (values - values.min()) / (values.max() - values.min())


def kl_weights(confidence: torch.Tensor, *, weight: float = 0.5, low: float = 0.1, high: float = 2.0) -> torch.Tensor:
    """Return w_i = λ·(w_min + (1 − p_i)·(w_max − w_min)), (B,) (Eq. 10).

    Args:
        confidence: p_i, reliabilities (B,) in [0, 1].
        weight: λ.
        low: w_min, for p = 1.
        high: w_max, for p = 0.
    """
    return weight * (low + (1 - confidence) * (high - low))


def refine(
    generator: Generator,
    teacher: Classifier,
    latents: torch.Tensor,
    class_ids: Sequence[int],
    targets: torch.Tensor,
    confidence: torch.Tensor,
    seeds: Sequence[int],
    *,
    steps: int = 100,
    kl_steps: int = 4,
    learning_rate: float = 0.01,
    reduction: Literal["sum", "mean"] = "sum",
    kl_weight: float = 0.5,
    kl_weight_min: float = 0.1,
    kl_weight_max: float = 2.0,
    temperature: float = 1.5,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Move latents towards what the frozen generator denoises best and the soft label says (Eq. 9, Alg. 1 lines 14-23).

    Per image, with a fresh noise ε and timestep t from [0, T) in every step, plain gradient descent minimises

        ‖ε_θ(z_t, t, c) − ε‖² + w_i·KL(q || softmax(teacher(Dec(z)) / τ))

    whose second term takes part in the last `kl_steps` steps alone; nothing is decoded before. The losses of a batch are
    summed, so a batch gives what one image at a time gives.

    Args:
        generator: Frozen; its weights get no gradients.
        teacher: Frozen, too.
        latents: float32 (B, channels, h, w).
        class_ids: c, the class of each in the generator.
        targets: q, float (B, C): soft labels at τ of the images before their refinement.
        confidence: p_i, float (B,): their reliabilities, for `kl_weights`.
        seeds: Of each image's noises and timesteps.
        steps: L, gradient steps per image.
        kl_steps: R; at least `steps` means all steps.
        learning_rate: η.
        reduction: Of the squared errors in the first term. Eq. 3 prints the squared norm, and the text calls it the
            mean-squared error. The mean, over 4,096 elements of a DiT-XL/2 latent, makes the steps at the paper's η of 0.01
            too small to change the image.
        kl_weight: λ.
        kl_weight_min: w_min.
        kl_weight_max: w_max.
        temperature: τ.

    Returns:
        The refined latents (B, channels, h, w), and every image's two terms before each step, unweighted, (B, steps, 2);
        where KL takes no part, its term is 0.

    Raises:
        InputError: When the latents diverge.
    """
    device = generator.device
    latents, targets, confidence = (x.to(device, torch.float32, copy=True) for x in (latents, targets, confidence))
    weights = kl_weights(confidence, weight=kl_weight, low=kl_weight_min, high=kl_weight_max).view(-1, 1, 1, 1)
    draws = [cpu_generator(seed) for seed in seeds]
    losses = torch.zeros(len(latents), steps, 2, device=device)
    for step in range(steps):
        # Drawn step by step: the noises of all steps would take `steps` times the memory of the latents.
        losses[:, step, 0], gradient = _denoising(generator, latents, generator.corruption(draws), class_ids, reduction)
        if step >= steps - kl_steps:
            parts = zip(latents.split(IMAGES_AT_ONCE), targets.split(IMAGES_AT_ONCE), strict=True)
            terms, gradients = zip(*(_divergence(generator, teacher, *part, temperature) for part in parts), strict=True)
            losses[:, step, 1] = torch.cat(terms)
            gradient = gradient + weights * torch.cat(gradients)
        latents = latents - learning_rate * gradient
    if not latents.isfinite().all():
        raise InputError(
            "refine_learning_rate", learning_rate, "the latents are not finite any more; a smaller one may help"
        )
    return latents, losses


def refine_set(
    run: Run,
    generator: Generator,
    teacher: Classifier,
    pool: Stage,
    chosen: Sequence[int],
    labels: Sequence[int],
    class_ids: Sequence[int],
    settings: RefineOptions,
    seed: int,
    made_from: Mapping[str, Any],
) -> Stage:
    """Refine the images of a set: the stage 'refine' with images, latents, losses, and the logits and seeds from before.

    Args:
        run: Spreads them over its processes.
        generator: See `refine`, as the next.
        teacher: Gave the logits.
        pool: A stage with `latents`, `logits` and `seeds`.
        chosen: Items of the pool.
        labels: Of each.
        class_ids: The class of each label in the generator.
        settings: How.
        seed: Of the run.
        made_from: See `Run.map`.

    Raises:
        InputError: See `refine`.
    """

    def refined(chunk: Sequence[tuple[int, int]]) -> dict[str, torch.Tensor]:
        own = [label for label, _ in chunk]
        rows = pool.take([row for _, row in chunk], "latents", "logits", "seeds")
        targets = soft_labels(rows["logits"], settings.temperature)
        latents, losses = refine(
            generator,
            teacher,
            rows["latents"],
            [class_ids[label] for label in own],
            targets,
            targets[range(len(own)), own],
            [draw_seed(seed, "refine", own_seed) for own_seed in rows["seeds"].tolist()],
            steps=settings.refine_steps,
            kl_steps=settings.kl_steps,
            learning_rate=settings.refine_learning_rate,
            reduction=settings.denoising_reduction,
            kl_weight=settings.kl_weight,
            kl_weight_min=settings.kl_weight_min,
            kl_weight_max=settings.kl_weight_max,
            temperature=settings.temperature,
        )
        cached = {"logits": rows["logits"], "seeds": rows["seeds"]}
        return {**render(generator, teacher, latents), **cached, "latents": latents, "losses": losses}

    items = list(zip(labels, chosen, strict=True))
    how = {"chunk_size": settings.refine_batch_size, "made_from": made_from, "lower": HALF}
    return run.map("refine", items, refined, **how)


def loss_notes(refined: Stage, settings: RefineOptions) -> dict[str, list[float]]:
    """Return what the manifest says of the losses: means over the set."""
    losses = refined.rows(0, len(refined), "losses")["losses"].mean(0)  # (steps, 2)
    return {
        "mean_denoising_loss_of_first_and_last_tenth": first_and_last_tenth(losses[:, 0]),
        "mean_divergence_in_its_steps": losses[max(0, settings.refine_steps - settings.kl_steps) :, 1].tolist(),
    }


def _denoising(generator, latents, corruption, class_ids, reduction) -> tuple[torch.Tensor, torch.Tensor]:
    """Return L_LDM of every image, (B,), and its gradient."""
    latents = latents.detach().requires_grad_(True)
    loss = generator.residual(latents, corruption, class_ids).square().sum(1)
    if reduction == "mean":
        loss = loss / corruption.elements
    (gradient,) = torch.autograd.grad(loss.sum(), latents)
    return loss.detach(), gradient


def _divergence(generator, teacher, latents, targets, temperature) -> tuple[torch.Tensor, torch.Tensor]:
    """Return KL(target || teacher's soft label at τ) of every decoded image, (B,), and its gradient."""
    latents = latents.detach().requires_grad_(True)
    predicted = F.log_softmax(teacher.logits(generator.decode(latents)).float() / temperature, dim=1)
    loss = F.kl_div(predicted, targets, reduction="none").sum(1)
    (gradient,) = torch.autograd.grad(loss.sum(), latents)
    return loss.detach(), gradient
