"""The loop that optimises pixels (Yin, Xing and Shen, NeurIPS 2023, Sec. 3.2), which SRe2L's successors share.

Where the released code of SRe2L departs from what is done here:

- there, one crop and one flip are drawn for all images of a batch; here each image has its own, so that images of different
  classes do not depend on who shares their batch with them;
- there, the gradients of the network's weights are computed, too, and dropped.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from distill_hub.augmentation.augment import Augmentation, denormalize, draw, normalize, resized_crop
from distill_hub.classifiers import Classifier
from distill_hub.config import InputError
from distill_hub.methods.losses import first_and_last_tenth
from distill_hub.options.recovery import CompiledRecovery, RecoverOptions
from distill_hub.running.console import progress
from distill_hub.running.run import Run, Stage
from distill_hub.running.seeds import cpu_generator, draw_seed

CHECK_STEPS = 100  # steps between looks at the losses: each makes the device wait

# From images (B, 3, S, S) in [0, 1] to the loss of each group of images, (G,). Groups do not depend on each other.
Objective = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Views:
    """What is done to the images before each step.

    Attributes:
        smallest_crop: Least area of a RandomResizedCrop, as a share of the image's; 1 leaves it out.
        flip: Whether half of the views are mirrored.
        rolls: Least and greatest shift down and to the right, in pixels, the same for all images.
        schedule: How the least area comes down to `smallest_crop`; 'fixed': it is that in all steps.
        milestone: Share of the steps after which it is that.
    """

    smallest_crop: float
    flip: bool
    rolls: tuple[int, int]
    schedule: Literal["fixed", "step", "linear", "cosine"] = "fixed"
    milestone: float = 1.0

    def least_area(self, done: float) -> float:
        """Return the least area of a crop once a share of the steps is done: from easy to hard (CDA, Sec. 3).

        As in its code (CDA/recover_cda_in1k.py): it is the least area alone that moves, the greatest stays 1.
        """
        if self.schedule == "fixed" or done >= self.milestone:
            return self.smallest_crop
        part = done / self.milestone
        easier = {"step": 1.0, "linear": 1 - part, "cosine": (1 + math.cos(math.pi * part)) / 2}[self.schedule]
        return self.smallest_crop + (1 - self.smallest_crop) * easier


def views_of(settings: RecoverOptions, size: int, mirrored: bool) -> Views:
    """Resolve how images of a size are seen, by default as in the released codes.

    SRe2L's code for 224 px crops and mirrors, and rolls by 0 to 32 px; that for CIFAR rolls by 0 to 4 px and does nothing
    else; that for Tiny-ImageNet crops and mirrors, and rolls by -4 to 4 px. Of other sizes, rolls are in proportion.

    Args:
        settings: What is asked for.
        size: Side of the images in pixels.
        mirrored: Whether a mirrored image still shows its class.
    """
    most, both = settings.largest_roll, settings.roll_both_ways
    if most is None:
        most, both = round(size / (8 if size <= 32 else 16 if size <= 64 else 7)), both or 32 < size <= 64
    whole = size <= 32 and settings.crop_schedule == "fixed"
    crop = (1.0 if whole else 0.08) if settings.smallest_crop is None else settings.smallest_crop
    flips = size > 32 if settings.flips is None else settings.flips == "yes"
    rolls = (-most if both else 0, most)
    return Views(crop, flips and mirrored, rolls, settings.crop_schedule, settings.milestone)


def recover(
    teacher: Classifier,
    objectives: Sequence[Objective],
    seeds: Sequence[int],
    *,
    start: torch.Tensor | None = None,
    size: int,
    steps: int,
    learning_rate: float,
    views_seed: int,
    views: Views,
    dtype: torch.dtype = torch.float32,
    title: str = "",
    log: Callable[[int, dict[str, float]], None] | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Optimise pixels: Adam with betas 0.5 and 0.9, its learning rate falling to 0 along a cosine.

    In every step the images are cropped and resized, mirrored, and rolled (all by the same amount); after it each pixel is
    clamped to what an image can hold. No gradient of the network's weights is computed.

    Args:
        teacher: The trained network; its normalisation gives the learning rate its unit.
        objectives: What is minimised, step t the (t mod n)-th of n: several networks take their turns.
        seeds: One per image, B: without `start` each starts from its own normal noise.
        start: Images to start from, uint8 (B, 3, S, S).
        size: S, side of the images in pixels.
        steps: Iterations.
        learning_rate: Of Adam at the start, in units of the normalised images.
        views_seed: Of what is done to the images in every step.
        views: What that is.
        dtype: float32, or what forward passes are autocast to; the images and their optimiser are float32.
        title: Of a progress bar; none without it.
        log: Is told now and then how many steps are done, and the mean loss since it was told last.

    Returns:
        Images uint8 (B, 3, S, S), and the loss of each group before every step, float32 (steps, G), on the CPU.

    Raises:
        InputError: When a loss is not finite.
    """
    device = teacher.device
    if start is None:
        images = torch.stack([torch.randn(3, size, size, generator=cpu_generator(seed)) for seed in seeds]).to(device)
    else:
        images = normalize(start.to(device).float() / 255, teacher.mean, teacher.std)
    images.requires_grad_()
    black, white = (normalize(images.new_full((1, 3, 1, 1), value), teacher.mean, teacher.std) for value in (0.0, 1.0))
    optimizer = torch.optim.Adam([images], learning_rate, betas=(0.5, 0.9))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    scaler = torch.amp.GradScaler(device.type, enabled=dtype is torch.float16)
    autocast = torch.autocast(device.type, dtype, enabled=dtype is not torch.float32)
    generator, losses = cpu_generator(views_seed), []
    for step in progress(range(steps), title, unit="step", disable=not title):
        seen = _views(denormalize(images, teacher.mean, teacher.std), views, views.least_area(step / steps), generator)
        with autocast:
            loss = objectives[step % len(objectives)](seen)
        optimizer.zero_grad(set_to_none=True)
        scaler.scale(loss.sum()).backward()
        scaler.step(optimizer)
        scaler.update()
        schedule.step()
        with torch.no_grad():
            images.clamp_(black, white)
        losses.append(loss.detach().float())
        if (step + 1) % CHECK_STEPS == 0 or step + 1 == steps:
            _refuse_not_finite(losses, learning_rate)
            if log:
                log(step + 1, {"loss": torch.stack(losses[-(step % CHECK_STEPS + 1) :]).mean().item()})
    pixels = denormalize(images.detach(), teacher.mean, teacher.std)
    return (pixels.clamp(0, 1) * 255).round().to(torch.uint8).cpu(), torch.stack(losses).cpu()


def compiled(objectives: Sequence[Objective]) -> list[Objective]:
    """Compile the objectives of one batch. What was compiled before is forgotten: nothing depends on who had which batch."""
    torch.compiler.reset()
    return [torch.compile(objective, dynamic=False) for objective in objectives]


def recover_set(
    run: Run,
    teacher: Classifier,
    class_names: Sequence[str],
    items: Sequence[tuple[int, int]],
    objectives: Callable[[torch.Tensor], Sequence[Objective]],
    settings: RecoverOptions,
    *,
    start: Callable[[Sequence[tuple[int, int]]], torch.Tensor] | None = None,
    chunk_size: int,
    size: int,
    mirrored: bool,
    made_from: Mapping[str, Any] | None = None,
    lower: str | None = None,
) -> Stage:
    """Recover a set: the stage 'recover' with images, the teacher's logits of them, seeds, and losses.

    Args:
        run: Spreads the chunks over its processes.
        teacher: The trained network.
        class_names: C names. An image's noise comes from (seed, name, index): not from its place among the items.
        items: Label and index of every image, in the order of the stage.
        objectives: From the labels (B,) of a chunk to what is minimised for it, in turn.
        settings: Iterations, learning rate, crops and seed.
        start: From the items of a chunk to the images that it starts from, uint8 (B, 3, S, S); None: noise.
        chunk_size: Images optimised at a time.
        size: Side of the images in pixels.
        mirrored: Whether a mirrored image still shows its class.
        made_from: See `Run.map`.
        lower: See `Run.map`: the images of a chunk are optimised together.

    Raises:
        InputError: See `recover`, and what `objectives` raises.
    """
    compiles = isinstance(settings, CompiledRecovery) and settings.compile_set
    if compiles:  # the compiler fuses the layers between convolutions best where channels come last
        teacher.model.to(memory_format=torch.channels_last)

    def distil(chunk: Sequence[tuple[int, int]]) -> dict[str, torch.Tensor]:
        labels = torch.tensor([label for label, _ in chunk])
        seeds = [draw_seed(settings.seed, "recover", class_names[label], index) for label, index in chunk]
        steps = run.part(settings.recover_steps)

        def log(step: int, values: dict[str, float]) -> None:
            run.trackers.log("recover images", step, steps, values, part=str(chunk[0]))

        images, losses = recover(
            teacher,
            compiled(objectives(labels)) if compiles else objectives(labels),
            seeds,
            start=start and start(chunk),
            size=size,
            steps=steps,
            learning_rate=settings.recover_learning_rate,
            views_seed=draw_seed(settings.seed, "recover views", seeds[0]),
            views=views_of(settings, size, mirrored),
            dtype=run.dtype,
            title="recover images" if run.is_main else "",
            log=log if run.trackers.are_open else None,
        )
        ends = torch.tensor(first_and_last_tenth(losses)).T  # (G, 2)
        return {
            "images": images,
            "logits": teacher.judge(images),
            "seeds": torch.tensor(seeds),
            "losses": ends.repeat_interleave(len(chunk) // len(ends), 0),
        }

    return run.map("recover", items, distil, chunk_size=chunk_size, made_from=made_from, whole=True, lower=lower)


def _views(images: torch.Tensor, views: Views, least_area: float, generator: torch.Generator) -> torch.Tensor:
    count, size, (least, most) = len(images), images.shape[-1], views.rolls
    crop_scale = (least_area, 1.0) if least_area < 1 else None
    draws = draw(Augmentation(crop_scale=crop_scale, flip=views.flip), count, count, size, generator)
    down, right = torch.randint(least, most + 1, (2,), generator=generator).tolist()
    if "crop" in draws:
        images = resized_crop(images, draws["crop"].to(images.device), size)
    if "flip" in draws:
        images = torch.where(draws["flip"].view(-1, 1, 1, 1).to(images.device), images.flip(3), images)
    return images.roll((down, right), (2, 3))


def _refuse_not_finite(losses: Sequence[torch.Tensor], learning_rate: float) -> None:
    finite = torch.stack(losses[-CHECK_STEPS:]).isfinite().all(1)
    if not finite.all():
        step = len(losses) - len(finite) + int((~finite).long().argmax()) + 1
        valid = f"the loss is not a finite number in step {step}; a smaller one or --mixed_precision no may help"
        raise InputError("recover_learning_rate", learning_rate, valid)
