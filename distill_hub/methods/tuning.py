"""Fine-tuning a generator: DiffFit's parameters on the diffusion loss and Minimax Diffusion's criteria (Eq. 5, Alg. 1).

With λ_r = λ_d = 0 this is the DiffFit baseline. Two things differ from Minimax's released code:

- the criteria are those of the whole batch, however it is spread over processes and forward passes; there, every process has
  its own share of it, and memories of its own;
- the code's own label dropout is kept, but by one draw per image for the whole network; diffusers' train mode would draw
  anew in every block.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TypeVar

import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from safetensors.torch import load_file, save

from distill_hub.config import InputError
from distill_hub.disk.files import atomic_write
from distill_hub.generating.latents import Latents
from distill_hub.generators.difffit import prepare
from distill_hub.generators.dit import DiTGenerator
from distill_hub.generators.objective import Objective
from distill_hub.methods.minimax import Memory, criteria
from distill_hub.options.minimax import TuningOptions
from distill_hub.running.checkpoint import Checkpoint
from distill_hub.running.console import progress
from distill_hub.running.cost import NOTHING, Cost, Meter, added
from distill_hub.running.run import Run
from distill_hub.running.seeds import cpu_generator, draw_seed

LOSSES = ("diffusion", "representativeness", "diversity")
MEMORY = 64  # latents of a class that are remembered, as in the released code
WINDOW = 20  # steps between two looks at the losses: each waits for the device
_Settings = TypeVar("_Settings", bound=TuningOptions)


def with_memory(settings: _Settings, labels: torch.Tensor) -> _Settings:
    """Return the settings with a size of the memories in them: by default the paper's, or that of the smallest class.

    Args:
        settings: See `TuningOptions`.
        labels: (N,) classes of the training images; each has one.
    """
    return dataclasses.replace(settings, memory_size=settings.memory_size or min(MEMORY, int(labels.bincount().min())))


def check(settings: TuningOptions, class_names: Sequence[str], labels: torch.Tensor, accelerator: Accelerator) -> int:
    """Refuse a fine-tuning that cannot be done, before any work for it.

    Args:
        settings: See there.
        class_names: C names.
        labels: (N,) classes of the training images.
        accelerator: Its processes share each batch.

    Returns:
        Images per forward pass of one process.

    Raises:
        InputError: When the batch cannot be shared evenly, a class has fewer images than the memory holds, or half precision
            needs the gradients scaled, which is not done here.
    """
    if accelerator.mixed_precision == "fp16":
        raise InputError("mixed_precision", "fp16", "gradients would vanish in it; valid for fine-tuning: bf16, no")
    processes = accelerator.num_processes
    batch, micro = settings.tuning_batch_size, settings.micro_batch_size
    if batch % processes:
        raise InputError("tuning_batch_size", batch, f"{processes} processes share it: valid is a multiple of {processes}")
    if micro and (batch // processes) % micro:
        raise InputError("micro_batch_size", micro, f"it must divide the {batch // processes} images of a process and step")
    counts = torch.bincount(labels, minlength=len(class_names))
    smallest = int(counts.argmin())
    if counts[smallest] < settings.memory_size:
        found = f"class {class_names[smallest]!r} has {counts[smallest]} images, fewer than it would remember"
        raise InputError("memory_size", settings.memory_size, f"{found}; valid: at most {counts[smallest]}")
    if len(labels) < batch:
        raise InputError("tuning_batch_size", batch, f"there are {len(labels)} training images to tune on at once")
    return micro or batch // processes


@dataclass(frozen=True)
class Batch:
    """The B images of one optimiser step, all processes together."""

    labels: torch.Tensor  # (B,) positions of the classes
    conditions: torch.Tensor  # (B,) the generator's class of each, or its null class
    latents: torch.Tensor  # z_0, (B, channels, h, w)
    noise: torch.Tensor  # ε
    timesteps: torch.Tensor  # (B,)

    def part(self, rows: slice) -> "Batch":
        """Return some of the images."""
        return Batch(**{name: tensor[rows] for name, tensor in vars(self).items()})


def state_of(
    run: Run,
    settings: TuningOptions,
    class_ids: Sequence[int],
    *,
    seed: int,
    identity: Mapping[str, str],
    name: str = "tuning",
) -> Path:
    """Return the folder of a fine-tuning's state, empty where it held another's; see `Tuning`."""
    rules = {f.name: getattr(settings, f.name) for f in fields(TuningOptions) if f.metadata["identity"]}
    del rules["tuning_epochs"]  # what comes after a step has no part in it
    return run.state(name, {**identity, **rules, "seed": seed, "class_ids": list(class_ids)})


def averaged(state: Path, epoch: int) -> dict[str, torch.Tensor]:
    """Return the averaged weights after an epoch that was to be saved, by name, from the folder of a fine-tuning's state."""
    return load_file(_average_of(state, epoch))


def _average_of(state: Path, epoch: int) -> Path:
    return state / f"epoch-{epoch}.safetensors"


class Tuning:
    """The fine-tuning of one generator (Alg. 1).

    Every draw comes from (seed, step), so a killed run goes on from its checkpoint to the same weights, bit for bit with the
    same number of processes. No step depends on how many are to follow, since learning rate and decay are constant: a longer
    fine-tuning goes on from the checkpoint of a shorter one, to what it would have come to by itself. Every process holds
    the whole memories and the predicted latents of a step are gathered: P processes do what one does with the same batch, up
    to the rounding of sums.

    Args:
        run: Its processes share each batch.
        base: The generator, in float32; its transformer is changed in place.
        latents: The encoded training images.
        labels: (N,) their classes, as positions in `class_ids`.
        class_ids: The generator's class of each class.
        settings: See there; with a size of the memories, see `with_memory`, and passed by `check`.
        micro_batch_size: Images per forward pass of one process.
        seed: Of every draw.
        identity: What else the result depends on; a checkpoint of other values is dropped.
        name: Of the folder of its state.
        compiled: Whether to compile the network and the criteria.

    Its state in the run's folder stays after the end: the checkpoint, and the averaged weights of the epochs to save.
    """

    def __init__(
        self,
        run: Run,
        base: DiTGenerator,
        latents: Latents,
        labels: torch.Tensor,
        class_ids: Sequence[int],
        settings: TuningOptions,
        *,
        micro_batch_size: int,
        seed: int,
        identity: Mapping[str, str],
        name: str = "tuning",
        compiled: bool = False,
    ):
        self.run, self.latents, self.settings, self.seed = run, latents, settings, seed
        self.labels, self.class_ids = labels, torch.tensor(class_ids)
        self.null_class = base.transformer.config.num_embeds_ada_norm
        self.objective = Objective(base.diffusion.scheduler.betas, run.device)
        self.transformer = base.transformer
        if settings.gradient_checkpointing:
            self.transformer.enable_gradient_checkpointing()
        self.parameters = prepare(self.transformer)
        self.criteria = criteria
        if compiled:
            self.transformer.compile(dynamic=False)
            self.criteria = torch.compile(criteria, dynamic=False)
        weights = list(self.parameters.values())
        self.optimizer = torch.optim.AdamW(weights, lr=settings.tuning_learning_rate, weight_decay=0.0, fused=True)
        # min_decay and update_after_step switch diffusers' warm-up off: the released code has one decay from the first step.
        decay = settings.ema_decay
        self.ema = EMAModel(weights, decay=decay, min_decay=decay, update_after_step=-1, foreach=True)
        self.model = run.accelerator.prepare(self.transformer)
        self.has_criteria = settings.lambda_r > 0 or settings.lambda_d > 0
        size = settings.memory_size, math.prod(latents.shape)
        self.real, self.generated = (Memory(len(class_ids), *size, run.device) for _ in range(2))
        self.per_epoch = len(labels) // settings.tuning_batch_size  # the rest of an epoch is left out
        self.losses = torch.zeros(settings.tuning_epochs * self.per_epoch, len(LOSSES))
        self.step, self.cost, self.epoch = 0, NOTHING, -1
        self.state = state_of(run, settings, class_ids, seed=seed, identity=identity, name=name)
        self.checkpoint = Checkpoint(self.state / "checkpoint.safetensors")
        processes = run.accelerator.num_processes
        starts = range(
            run.accelerator.process_index * micro_batch_size, settings.tuning_batch_size, processes * micro_batch_size
        )
        self.own = [slice(start, start + micro_batch_size) for start in starts]  # of each batch, what this process computes

    @property
    def steps(self) -> int:
        """Optimiser steps in all."""
        return len(self.losses)

    def batch(self, step: int) -> Batch:
        """Draw the images of a step: in a fresh order every epoch, each mirrored, noised and unlabelled at random."""
        size, shape = self.settings.tuning_batch_size, self.latents.shape
        epoch, place = divmod(step, self.per_epoch)
        if self.epoch != epoch:
            draw = cpu_generator(draw_seed(self.seed, "tuning epoch", epoch))
            self.epoch, self.order = epoch, torch.randperm(len(self.labels), generator=draw)
        rows = self.order[place * size : (place + 1) * size]
        draw = cpu_generator(draw_seed(self.seed, "tuning step", step))
        ways = torch.randint(self.latents.ways, (size,), generator=draw)
        timesteps = torch.randint(self.objective.steps, (size,), generator=draw)
        dropped = torch.rand(size, generator=draw) < self.settings.label_dropout
        posterior, noise = torch.randn(2, size, *shape, generator=draw)
        labels = self.labels[rows]
        conditions = torch.where(dropped, self.null_class, self.class_ids[labels])
        latents = self.latents.draw(rows, ways, posterior)
        device = self.run.device
        return Batch(*(tensor.to(device) for tensor in (labels, conditions, latents, noise, timesteps)))

    def _forward(self, part: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the diffusion loss of each image (b,) and its predicted latent (b, dimensions)."""
        noisy = self.objective.add_noise(part.latents, part.noise, part.timesteps)
        output = self.model(noisy, timestep=part.timesteps, class_labels=part.conditions).sample.float()
        predicted = output[:, : noisy.shape[1]]
        if self.settings.embedding == "x0":
            embedding = self.objective.clean(noisy, predicted, part.timesteps)
        else:
            embedding = noisy - predicted  # as Alg. 1 writes it, without the scales of the noising
        return self.objective.loss(output, part.latents, part.noise, noisy, part.timesteps), embedding.flatten(1)

    def update(self, batch: Batch) -> torch.Tensor:
        """Take one optimiser step; return the losses of `LOSSES`, the first of them this process's share.

        The criteria couple all images of the batch. So their gradient in the predicted latents comes first, from the whole
        batch, and then goes through the network with the diffusion loss of each part. Where a step has several forward
        passes, as many without gradients find the predicted latents before.
        """
        accelerator, settings = self.run.accelerator, self.settings
        results, criteria_losses, pull = None, torch.zeros(2, device=self.run.device), None
        if self.has_criteria:
            with torch.set_grad_enabled(len(self.own) == 1):
                results = [self._forward(batch.part(rows)) for rows in self.own]
            predicted = torch.cat([accelerator.gather(embedding.detach()) for _, embedding in results]).requires_grad_(True)
            forms = {"representativeness": settings.representativeness, "diversity": settings.diversity}
            losses = self.criteria(predicted, batch.labels, self.real, self.generated, **forms)
            (pull,) = torch.autograd.grad(settings.lambda_r * losses[0] + settings.lambda_d * losses[1], predicted)
            criteria_losses = torch.stack(losses).detach()
            self.real.add(batch.labels, batch.latents.flatten(1))  # after the loss, Alg. 1
            self.generated.add(batch.labels, predicted)
        own_loss = torch.zeros((), device=self.run.device)
        for index, rows in enumerate(self.own):
            is_last = index == len(self.own) - 1
            with nullcontext() if is_last else accelerator.no_sync(self.model):
                loss, embedding = results[0] if results and len(self.own) == 1 else self._forward(batch.part(rows))
                loss = loss.sum() / len(batch.labels)
                own_loss += loss.detach()
                if pull is not None:
                    loss = loss + (pull[rows] * embedding).sum()
                accelerator.backward(loss * accelerator.num_processes)  # which averages over processes
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.ema.step(self.parameters.values())
        return torch.cat([own_loss[None] * accelerator.num_processes, criteria_losses])

    def train(self) -> Cost:
        """Take all steps, from the last checkpoint on; leave the averaged weights in `transformer`.

        Those of the epochs to save lie in the state's folder then, see `averaged`.

        Returns:
            What it took all processes, interrupted attempts included as far as their last checkpoint.

        Raises:
            InputError: When a loss is not finite any more, or the checkpoint is not this one's.
        """
        self.resume()
        ends = {epoch * self.per_epoch: epoch for epoch in self.settings.epochs_to_save[:-1]}
        if self.step in ends:
            self._keep(ends[self.step])
        meter, before, pending = Meter(self.run.device), self.cost, []
        todo = range(self.step, self.step + self.run.part(self.steps - self.step))
        steps = progress(todo, "fine-tune", unit="step", done=self.step, disable=not self.run.is_main)
        for step in steps:
            pending.append(self.update(self.batch(step)))
            is_checkpoint = (step + 1) % self.settings.checkpoint_steps == 0
            if len(pending) == WINDOW or is_checkpoint or step + 1 in ends or step + 1 == todo.stop:
                self.losses[self.step : step + 1] = self.run.accelerator.reduce(torch.stack(pending), "mean").cpu()
                self._check_finite(step)
                self.step, pending = step + 1, []
                latest = self.losses[max(0, self.step - 100) : self.step].mean(0)
                shown = {name: f"{value:.4f}" for name, value in zip(LOSSES, latest.tolist(), strict=True)}
                steps.set_postfix(shown, refresh=False)  # with the bar's next turn
                self.run.trackers.log("fine-tune", self.step, self.steps, dict(zip(LOSSES, latest.tolist(), strict=True)))
            if step + 1 in ends:
                self._keep(ends[step + 1])
            if is_checkpoint or step + 1 == todo.stop:
                self.cost = added(before, self.run.summed(meter.read()))
                self.save()
        self._keep(self.settings.tuning_epochs)
        self.ema.copy_to(self.parameters.values())
        return self.cost

    def _keep(self, epoch: int) -> None:
        if self.run.is_main:
            weights = zip(self.parameters, self.ema.shadow_params, strict=True)
            atomic_write(_average_of(self.state, epoch), save({name: average.contiguous() for name, average in weights}))

    def _check_finite(self, step: int) -> None:
        """Stop before what is broken gets into a checkpoint."""
        wrong = (~self.losses.isfinite()).nonzero()
        if len(wrong):
            step, column = wrong[0].tolist()
            what, value = f"{LOSSES[column]} loss", self.losses[step, column].item()
        elif not torch.cat([parameter.detach().flatten() for parameter in self.parameters.values()]).isfinite().all():
            what, value = "trained weights", math.nan
        else:
            return
        kept = self.checkpoint.kept()
        advice = "a smaller --tuning_learning_rate, with --overwrite or another --output_dir, may help"
        raise InputError(what, value, f"it became so in step {step + 1} of {self.steps}; {kept}; {advice}")

    def _state(self) -> dict[str, torch.Tensor]:
        """Return all tensors that change from step to step, by name."""
        state = {f"memory.{name}.{part}": getattr(getattr(self, name), part)
                 for name in ("real", "generated") for part in ("entries", "seen")}  # fmt: skip
        for (name, parameter), average in zip(self.parameters.items(), self.ema.shadow_params, strict=True):
            moments = self.optimizer.state[parameter]
            if not moments:  # before the first step, as AdamW itself begins
                zeros = torch.zeros_like(parameter), torch.zeros_like(parameter)
                moments |= {"step": torch.zeros((), device=parameter.device), "exp_avg": zeros[0], "exp_avg_sq": zeros[1]}
            own = {"weight": parameter.data, "average": average, **moments}
            state |= {f"{name}.{part}": tensor for part, tensor in own.items()}
        return state

    def save(self) -> None:
        """Write the checkpoint in place of the last one, complete or not at all; the main process does."""
        if self.run.is_main:
            self.checkpoint.save({**self._state(), "losses": self.losses}, self.step, self.cost)

    def resume(self) -> None:
        """Go to where the checkpoint was taken, if there is one, and nothing to save lies before it."""
        missing = [epoch for epoch in self.settings.epochs_to_save if not _average_of(self.state, epoch).exists()]
        first = min([*missing, self.settings.tuning_epochs])
        if self.run.agree(self.checkpoint.step > first * self.per_epoch):
            why = "whose weights were not kept" if missing else "the last one"
            self.run.say(f"fine-tune: begins anew; what is there is past epoch {first}, {why}")
            return
        if not self.checkpoint.file.exists():
            return
        self.checkpoint.restore(self._state())
        self.step, self.cost = self.checkpoint.step, self.checkpoint.cost
        self.losses[: self.step] = self.checkpoint.tensors("losses")["losses"][: self.step]
        self.ema.optimization_step = self.step
