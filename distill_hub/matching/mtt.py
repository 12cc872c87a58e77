"""MTT: a student trained on the set goes where experts trained on real images went (Cazenavette et al., CVPR 2022).

In every step an expert and a stretch of its trajectory are drawn; `adjoint.match_trajectory` takes a student along it on
the set, and gives the gradients of pixels, learning rate and, for DATM (Guo et al., ICLR 2024), soft labels. TESLA (Cui et
al., ICML 2023) truncates the gradient; FTD (Du et al., CVPR 2023) brings flat experts, see `experts`, and publishes an
average of the pixels over the steps. Where this departs from the released codes:

- the gradient is the exact one at the memory of one step; MTT's code holds the graphs of all steps;
- a learning rate that is not positive ends the run, there it goes on and the loss explodes;
- pixels are clamped to what an image can hold after every step, see `pixels`; there never;
- where the first expert classifies too few images right, DATM's asks the next, here that is refused;
- TESLA's soft labels, those of the expert that is followed, are not built.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from distill_hub.augmentation.augment import augment
from distill_hub.augmentation.dsa import Operation, draw_operations, operations
from distill_hub.classifiers import Classifier
from distill_hub.config import InputError
from distill_hub.data.known import RGB
from distill_hub.data.sources import Source
from distill_hub.matching import pixels as pixel
from distill_hub.matching.adjoint import match_trajectory
from distill_hub.matching.experts import Flat, logits_of, refuse_mixed_precision
from distill_hub.matching.space import Space
from distill_hub.networks.build import build
from distill_hub.options.mtt import MttConfig, TrajectoryOptions
from distill_hub.running.checkpoint import steps
from distill_hub.running.run import Run
from distill_hub.running.seeds import cpu_generator, draw_seed
from distill_hub.running.stages import Stage

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
LABEL_MOMENTUM = 0.9  # of learned labels, in DATM's code; that of the learning rate is the pixels'


def facts_of(settings: TrajectoryOptions) -> Mapping[str, str]:
    """Return which paper's method some settings are."""
    return DATM if settings.learn_labels else TESLA if settings.gradient == "truncated" else FACTS


def first_beyond(settings: TrajectoryOptions, step: int) -> int:
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


def student_views(
    names: tuple[Operation, ...], batches: list[torch.Tensor], size: int, generator: torch.Generator
) -> list[dict[str, torch.Tensor]]:
    """Draw DSA for the batches of a student: one operation each, with parameters of its own for every image."""
    chosen = torch.randint(len(names), (len(batches),), generator=generator).tolist()
    return [
        draw_operations([names[place]], torch.zeros(len(rows), dtype=torch.int64), size, generator)
        for place, rows in zip(chosen, batches, strict=True)
    ]


def mean_of_right(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return where DATM's labels start: of every image the mean logits (N, C) of those experts that classify it right.

    Args:
        logits: Of K experts, (K, N, C).
        labels: int64 (N,); each is what at least one expert says.
    """
    right = (logits.argmax(2) == labels).unsqueeze(2)
    return (logits * right).sum(0) / right.sum(0).clamp(min=1)


def start(images: torch.Tensor, logits: torch.Tensor | None, settings: TrajectoryOptions) -> dict[str, torch.Tensor]:
    """Return what changes from step to step, for `match`.

    Args:
        images: Float (N, 3, S, S) in the units of an image or whitened, on the device to work on.
        logits: Where learned labels start, (N, C); None: labels stay hard.
        settings: See `TrajectoryOptions`, without a default that depends on the image size.
    """
    learned = {"pixels": images.clone(), "rate": images.new_tensor(settings.student_rate)}
    if logits is not None:
        learned["logits"] = logits.clone()
    velocities = {f"velocity of {name}": torch.zeros_like(own) for name, own in learned.items()}
    average = {"average": images.clone()} if settings.ema_decay else {}
    return {**learned, **velocities, **average, "losses": images.new_zeros(settings.match_steps)}


def match(
    state: Mapping[str, torch.Tensor],
    todo: Iterable[int],
    network: Flat,
    weights_of: Callable[[int, int], torch.Tensor],
    experts: int,
    labels: torch.Tensor,
    settings: TrajectoryOptions,
    *,
    names: tuple[Operation, ...],
    normalization: tuple[RGB, RGB],
    free: bool = False,
    seed: int,
) -> None:
    """Match trajectories.

    Args:
        state: What `start` returned; changed in place.
        todo: Numbers of the steps.
        network: That of experts and students.
        weights_of: From the number of an expert and an epoch to its weights then, (P,).
        experts: How many there are.
        labels: Classes of the images, int64 (N,), on their device.
        settings: See `TrajectoryOptions`, without a default that depends on the image size.
        names: Operations of DSA.
        normalization: Mean and standard deviation per channel.
        free: Whether nothing bounds the pixels.
        seed: Of the run.

    Raises:
        InputError: When the learning rate is no positive number any more.
    """
    pixels, rate, logits = state["pixels"], state["rate"], state.get("logits")
    device, size = pixels.device, settings.student_batch_size or len(pixels)
    for step in todo:
        generator = cpu_generator(draw_seed(seed, "trajectory", step))
        expert = int(torch.randint(experts, (), generator=generator))
        epoch = int(torch.randint(settings.min_start, first_beyond(settings, step), (), generator=generator))
        batches = batches_of(len(pixels), size, settings.student_steps, generator)
        draws = student_views(names, batches, pixels.shape[-1], generator)
        batches = [rows.to(device) for rows in batches]

        def step_loss(
            weights: torch.Tensor, place: int, images: torch.Tensor, target: torch.Tensor, draws: list = draws
        ) -> torch.Tensor:
            seen = augment(images, draws[place], *normalization)
            return F.cross_entropy(network(weights, seen), target if logits is None else target.softmax(1))

        learned = [own.detach().requires_grad_() for own in (pixels, logits) if own is not None]
        targets = labels if logits is None else learned[1]
        matched = match_trajectory(
            step_loss,
            weights_of(expert, epoch).to(device),
            weights_of(expert, epoch + settings.expert_stretch).to(device),
            [(learned[0][rows], targets[rows]) for rows in batches],
            rate,
            truncated=settings.gradient == "truncated",
        )
        state["losses"][step] = matched.loss
        if settings.skip_above is None or not matched.loss > settings.skip_above:
            gradients = [torch.zeros_like(own) for own in learned]
            for rows, found in zip(batches, matched.batches, strict=True):
                for gradient, part in zip(gradients, found, strict=True):
                    gradient.index_add_(0, rows, part)
            how = {"rate": settings.pixel_learning_rate, "std": normalization[1], "free": free}
            pixel.step(pixels, state["velocity of pixels"], gradients[0], **how)
            rate.sub_(settings.rate_learning_rate * state["velocity of rate"].mul_(pixel.MOMENTUM).add_(matched.rate))
            if logits is not None:
                velocity = state["velocity of logits"].mul_(LABEL_MOMENTUM).add_(gradients[1])
                logits.sub_(settings.label_learning_rate * velocity)
            if not 0 < rate.item() < float("inf"):
                becomes = f"the student's learning rate becomes {rate.item():.3g} in step {step + 1}"
                valid = f"{becomes}; a smaller one, or a smaller --pixel_learning_rate, with --overwrite may help"
                raise InputError("rate_learning_rate", settings.rate_learning_rate, valid)
        if settings.ema_decay:
            state["average"].lerp_(pixels, 1 - settings.ema_decay)


def match_set(
    run: Run,
    source: Source,
    space: Space,
    teacher: Classifier,
    network: str,
    weights_of: Callable[[int, int], torch.Tensor],
    experts: int,
    last_epoch: int,
    settings: MttConfig,
    *,
    size: int,
    made_from: Mapping[str, Any],
) -> Stage:
    """Match a set, all classes together: the stage 'match', one chunk, with checkpoints inside.

    Args:
        run: Keeps what is finished.
        source: The real images.
        space: Of the pixels.
        teacher: Labels the finished set, unless its labels are learned.
        network: Name of that of experts and students.
        weights_of: See `match`, as the next.
        experts: How many there are.
        last_epoch: After which training of the experts ended.
        settings: Without a default that depends on the image size.
        size: Side of the images in pixels.
        made_from: See `Run.map`.

    Returns:
        The set, for `package_and_score`: the seed of an image is the row in the training split that it started from; its
        `logits` are the learned ones, or the teacher's. And for each, alike, the learned `rate` and `losses`, the means over
        the first and the last tenth of the steps.

    Raises:
        InputError: For mixed precision, or a class of which the first expert classifies fewer images right than the set is
            to have; see `match`.
    """
    refuse_mixed_precision(run)
    folder, normalization = run.state("match steps", made_from), (space.mean, space.std)
    labels = [label for label in range(len(source.classes)) for _ in range(settings.ipc)]

    def distil(chunk: Sequence[int]) -> dict[str, torch.Tensor]:
        flat = Flat(build(network, len(source.classes), size).to(run.device))
        targets = torch.tensor(chunk, device=run.device)
        ends = [weights_of(expert, last_epoch).to(run.device) for expert in range(experts)] if settings.learn_labels else []

        def logits_of_expert(images: torch.Tensor, expert: int) -> torch.Tensor:
            return logits_of(flat, ends[expert], images, normalization)

        rows = []
        for label, class_name in enumerate(source.class_names):
            own = source.train.by_class[label]
            if settings.learn_labels and not run.is_dry:  # whose experts may have learned nothing
                real = space.of(source.train.pixels(own, size).to(run.device))
                right = (logits_of_expert(real, 0).argmax(1) == label).cpu().numpy()
                if right.sum() < settings.ipc:
                    valid = f"an expert classifies {right.sum()} images of class {class_name!r} right: so many at most"
                    raise InputError("ipc", settings.ipc, valid)
                own = own[right]
            # As for the other methods, see `pixels.start`.
            drawn = cpu_generator(draw_seed(settings.seed, "start", class_name))
            rows.append(own[torch.randperm(len(own), generator=drawn)[: settings.ipc].numpy()])
        seeds = np.concatenate(rows)
        images, logits = space.of(source.train.pixels(seeds, size).to(run.device).float() / 255), None
        if settings.learn_labels:
            logits = mean_of_right(torch.stack([logits_of_expert(images, expert) for expert in range(experts)]), targets)
        state = start(images, logits, settings)
        title = "match trajectories" if run.is_main else ""
        advice = "a smaller --pixel_learning_rate"
        todo = steps(run, folder / "set.safetensors", settings.match_steps, state, title=title, advice=advice)
        match(
            state, todo, flat, weights_of, experts, targets, settings,
            names=operations(source.mirrored), normalization=normalization, free=space.free, seed=settings.seed,
        )  # fmt: skip
        finished = space.published(state["average" if settings.ema_decay else "pixels"])
        tenth = max(1, len(state["losses"]) // 10)
        ends_of = torch.stack([state["losses"][:tenth].mean(), state["losses"][-tenth:].mean()])
        alike = {"rate": state["rate"].cpu(), "losses": ends_of.cpu()}
        return {
            **finished,
            "logits": state["logits"].cpu() if settings.learn_labels else teacher.judge(finished["images"]),
            "seeds": torch.from_numpy(seeds),
            **{name: value.expand(len(chunk), *value.shape).contiguous() for name, value in alike.items()},
        }

    how = {"made_from": made_from, "whole": True, "lower": "a smaller --student_batch_size"}
    return run.map("match", labels, distil, chunk_size=len(labels), **how)


def notes_of(stage: Stage, labels: Sequence[int], settings: TrajectoryOptions) -> dict[str, Any]:
    """Return what the manifest says of a matched set: its losses, the learned rate, and how many learned labels moved away.

    Args:
        stage: See `match_set`.
        labels: Classes of its images.
        settings: Whether its labels were learned.
    """
    found = stage.rows(0, len(stage), "rate", "losses", "logits")
    notes = {"mean_loss_of_first_and_last_tenth": found["losses"][0].tolist(), "student_lr": found["rate"][0].item()}
    moved = int((found["logits"].argmax(1) != torch.tensor(labels)).sum())
    return {**notes, "labels_moved": moved} if settings.learn_labels else notes
