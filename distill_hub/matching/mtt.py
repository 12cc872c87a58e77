"""MTT: a student trained on the set goes where experts trained on real images went (Cazenavette et al., CVPR 2022).

In every step an expert and a stretch of its trajectory are drawn; `adjoint.match_trajectory` takes a student along it on
the set, and gives the gradients of pixels, learning rate and, for DATM (Guo et al., ICLR 2024), soft labels. TESLA (Cui et
al., ICML 2023) truncates the gradient; FTD (Du et al., CVPR 2023) brings flat experts, see `experts`, and publishes an average
of the pixels over the steps. Where this departs from the released codes:

- the gradient is the exact one at the memory of one step; MTT's code holds the graphs of all steps;
- a learning rate that is not positive ends the run, there it goes on and the loss explodes;
- pixels are clamped to what an image can hold after every step, there never;
- DATM's code starts each class from the first images that its experts classify right; here they are drawn at random.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
import torch.nn.functional as F

from distill_hub.augmentation.augment import Augmentation, augment, denormalize, draw, normalize
from distill_hub.config import InputError
from distill_hub.data.known import RGB
from distill_hub.matching.adjoint import match_trajectory
from distill_hub.matching.experts import Flat
from distill_hub.options.mtt import MatchingOptions
from distill_hub.running.checkpoint import steps
from distill_hub.running.run import Run
from distill_hub.running.seeds import cpu_generator, draw_seed

FACTS = {
    "name": "mtt",
    "title": "MTT: Dataset Distillation by Matching Training Trajectories",
    "paper": "https://arxiv.org/abs/2203.11932",
    "bibtex": """@inproceedings{cazenavette2022distillation,
  title = {Dataset Distillation by Matching Training Trajectories},
  author = {Cazenavette, George and Wang, Tongzhou and Torralba, Antonio and Efros, Alexei A. and Zhu, Jun-Yan},
  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  year = {2022},
}""",
}
TESLA = {
    "name": "tesla",
    "title": "TESLA: Scaling Up Dataset Distillation to ImageNet-1K with Constant Memory",
    "paper": "https://arxiv.org/abs/2211.10586",
    "bibtex": """@inproceedings{cui2023scaling,
  title = {Scaling Up Dataset Distillation to {ImageNet-1K} with Constant Memory},
  author = {Cui, Justin and Wang, Ruochen and Si, Si and Hsieh, Cho-Jui},
  booktitle = {International Conference on Machine Learning},
  year = {2023},
}""",
}
DATM = {
    "name": "datm",
    "title": "DATM: Towards Lossless Dataset Distillation via Difficulty-Aligned Trajectory Matching",
    "paper": "https://arxiv.org/abs/2310.05773",
    "bibtex": """@inproceedings{guo2024towards,
  title = {Towards Lossless Dataset Distillation via Difficulty-Aligned Trajectory Matching},
  author = {Guo, Ziyao and Wang, Kai and Cazenavette, George and Li, Hui and Zhang, Kaipeng and You, Yang},
  booktitle = {International Conference on Learning Representations},
  year = {2024},
}""",
}
MOMENTUM = 0.5  # of pixels and learning rate, in all released codes
LABEL_MOMENTUM = 0.9  # of learned labels, in DATM's


def facts_of(settings: MatchingOptions) -> Mapping[str, str]:
    """Return which paper's method some settings are."""
    return DATM if settings.learn_labels else TESLA if settings.gradient == "truncated" else FACTS


def first_beyond(settings: MatchingOptions, step: int) -> int:
    """Return the end of the window of starts at a step: a stretch starts from min_start to the epoch before it.

    DATM's grows from `window_start` to `max_start` in a straight line until step `window_end`, so that what is learned
    early comes first; the others' does not move.
    """
    if settings.window_start is None or step >= settings.window_end:
        return settings.max_start
    return settings.window_start + (settings.max_start - settings.window_start) * step // settings.window_end


def batches_of(count: int, size: int, number: int, generator: torch.Generator) -> list[torch.Tensor]:
    """Return the rows of `number` batches: one random order of all images after the other, cut into batches of `size`."""
    batches: list[torch.Tensor] = []
    while len(batches) < number:
        batches += torch.randperm(count, generator=generator).split(size)
    return batches[:number]


def match(
    run: Run,
    file: Path,
    network: Flat,
    weights_of: Callable[[int, int], torch.Tensor],
    images: torch.Tensor,
    labels: torch.Tensor,
    settings: MatchingOptions,
    *,
    experts: int,
    logits: torch.Tensor | None = None,
    rules: Augmentation,
    normalization: tuple[RGB, RGB],
    seed: int,
    title: str = "",
) -> dict[str, torch.Tensor]:
    """Match trajectories; a killed run goes on from its checkpoint.

    Args:
        run: See `running.checkpoint.steps`.
        file: Of the checkpoint.
        network: That of experts and students.
        weights_of: From the number of an expert and an epoch to its weights (P,).
        images: Where the set starts, uint8 (N, 3, S, S), on the device to work on.
        labels: int64 (N,), on the same.
        settings: All defaults resolved; see `MatchingOptions`.
        experts: How many there are.
        logits: Where learned labels start, (N, C); None: labels are hard.
        rules: Augmentation of the student's batches.
        normalization: Mean and standard deviation per channel; pixels are optimised in normalised space.
        seed: Of every draw.
        title: Of the progress bar.

    Returns:
        images: uint8 (N, 3, S, S); rate: the learned learning rate, 0-dimensional; losses: of every step, (steps,); and
        logits (N, C), where they are learned. All on the CPU.

    Raises:
        InputError: When the loss is not finite, or the learning rate not positive any more; the checkpoint from before is kept.
    """
    black, white = (normalize(torch.full((1, 3, 1, 1), shade, device=images.device), *normalization) for shade in (0.0, 1.0))
    pixels = normalize(images.float() / 255, *normalization)
    state = {"pixels": pixels, "rate": torch.tensor(settings.student_rate, dtype=torch.float32, device=images.device)}
    rates = {"pixels": settings.pixel_learning_rate, "rate": settings.rate_learning_rate}
    if logits is not None:
        state["logits"], rates["logits"] = logits.float().clone(), settings.label_learning_rate
    velocities = {name: torch.zeros_like(state[name]) for name in rates}
    average, losses = pixels.clone(), torch.zeros(settings.match_steps)
    kept = {**state, **{f"{name} velocity": own for name, own in velocities.items()}, "average": average, "losses": losses}

    def step_loss(weights: torch.Tensor, step: int, shown: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        seen = augment(denormalize(shown, *normalization), drawn[step], *normalization)
        return F.cross_entropy(network(weights, seen), target.softmax(1) if logits is not None else target)

    for step in steps(run, file, settings.match_steps, kept, title=title):
        generator = cpu_generator(draw_seed(seed, "trajectory step", step))
        expert = int(torch.randint(experts, (), generator=generator))
        epoch = int(torch.randint(settings.min_start, first_beyond(settings, step), (), generator=generator))
        size = settings.student_batch_size or len(images)
        rows = batches_of(len(images), size, settings.student_steps, generator)
        drawn = [draw(rules, len(own), len(own), images.shape[-1], generator) for own in rows]
        learned = {name: state[name].detach().requires_grad_() for name in rates if name != "rate"}
        targets = learned.get("logits", labels)
        matched = match_trajectory(
            step_loss,
            weights_of(expert, epoch).to(images.device),
            weights_of(expert, epoch + settings.expert_stretch).to(images.device),
            [(learned["pixels"][own], targets[own]) for own in rows],
            state["rate"],
            truncated=settings.gradient == "truncated",
        )
        losses[step] = matched.loss
        if not losses[step].isfinite():
            valid = f"the loss is not a finite number in step {step + 1}; a smaller one may help"
            raise InputError("pixel_learning_rate", settings.pixel_learning_rate, valid)
        if settings.skip_above is None or losses[step] <= settings.skip_above:
            gradients = {name: torch.zeros_like(own) for name, own in learned.items()}
            for own, found in zip(rows, matched.batches, strict=True):
                for gradient, part in zip(gradients.values(), found, strict=True):
                    gradient.index_add_(0, own.to(images.device), part)
            gradients["rate"] = matched.rate
            for name, velocity in velocities.items():
                velocity.mul_(LABEL_MOMENTUM if name == "logits" else MOMENTUM).add_(gradients[name])
                state[name].sub_(rates[name] * velocity)
            torch.minimum(torch.maximum(pixels, black, out=pixels), white, out=pixels)
            if not 0 < (rate := state["rate"].item()) < float("inf"):
                valid = f"the student's learning rate becomes {rate:.3g} in step {step + 1}; a smaller one may help"
                raise InputError("rate_learning_rate", settings.rate_learning_rate, valid)
        average.lerp_(pixels, 1 - settings.ema_decay)
    finished = denormalize(average if settings.ema_decay else pixels, *normalization)
    result = {"images": (finished.clamp(0, 1) * 255).round().to(torch.uint8), "rate": state["rate"], "losses": losses}
    return {name: own.cpu() for name, own in (result | ({"logits": state["logits"]} if logits is not None else {})).items()}
