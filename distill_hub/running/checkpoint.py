"""Loops of steps that go on where they were killed: what changes from step to step, on disk."""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save

from distill_hub.config import InputError
from distill_hub.disk.files import atomic_write
from distill_hub.running.console import progress
from distill_hub.running.cost import NOTHING, Cost, Meter, added, from_metadata, to_metadata
from distill_hub.running.run import Run

LOGGED_EVERY = 20  # steps between two looks at the losses for trackers: each waits for the device
SAVED_AFTER = 30.0  # seconds of the clock between two checkpoints inside a chunk; the bits do not depend on it


@dataclass(frozen=True)
class Checkpoint:
    """The state of a loop after one of its steps: tensors by name, and what is known beside them. Whole or not there."""

    file: Path

    def save(self, tensors: Mapping[str, torch.Tensor], step: int, cost: Cost, **facts: str) -> None:
        """Write it in place of the last one.

        Args:
            tensors: All that changes from step to step.
            step: How many are done.
            cost: What they took.
            facts: What else is to be known.
        """
        data = save({name: tensor.detach().contiguous() for name, tensor in tensors.items()},
                    {**facts, "step": str(step), **to_metadata(cost)})  # fmt: skip
        atomic_write(self.file, data)

    @property
    def step(self) -> int:
        """How many steps were done when it was written; 0 where there is none."""
        return int(self.facts.get("step", 0))

    @property
    def cost(self) -> Cost:
        """What these took; nothing where there is none."""
        return from_metadata(self.facts) if self.file.exists() else NOTHING

    @property
    def facts(self) -> dict[str, str]:
        """What is known beside the tensors; nothing where there is none."""
        if not self.file.exists():
            return {}
        with safe_open(self.file, "pt") as file:
            return file.metadata()

    def tensors(self, *names: str) -> dict[str, torch.Tensor]:
        """Read tensors; all by default."""
        with safe_open(self.file, "pt") as file:
            return {name: file.get_tensor(name) for name in names or file.keys()}

    @torch.no_grad()
    def restore(self, state: Mapping[str, torch.Tensor]) -> None:
        """Write its tensors over those of a state, in place and one after the other."""
        with safe_open(self.file, "pt") as file:
            for name, tensor in state.items():
                tensor.copy_(file.get_tensor(name))

    def kept(self, unit: str = "step") -> str:
        """Say in the message of an error what of the work is still there."""
        return f"the checkpoint of {unit} {self.step} is kept" if self.step else "there is no checkpoint yet"


def steps(
    run: Run,
    file: Path,
    total: int,
    state: Mapping[str, torch.Tensor],
    *,
    title: str = "",
    unit: str = "step",
    advice: str = "a smaller learning rate",
    row: Callable[[int], int | None] = lambda step: step,
) -> Iterator[int]:
    """Yield the steps of a loop inside a chunk of `Run.map`, those before its last checkpoint left out.

    The body changes `state` in place. It is written between steps, so that a body that raises leaves the last one that was
    good, and goes once the loop is over: then the chunk itself is kept.

    Args:
        run: The chunk's. What earlier attempts took counts as the chunk's.
        file: Of the checkpoint, in a folder of `Run.state`.
        total: Steps in all.
        state: What changes from step to step, by name.
        title: Of a progress bar; none without it.
        unit: What a step is called.
        advice: What may help where a number is not finite.
        row: From a step to its row in the state's `losses`, if it has any, which trackers are told; None: it has none.

    Raises:
        InputError: When a tensor of the state is not finite any more.
    """
    checkpoint = Checkpoint(file)
    done, before, meter = checkpoint.step, checkpoint.cost, Meter(run.device)
    if done:
        checkpoint.restore(state)
    started = last = time.monotonic()
    todo = range(done, done + run.part(total - done) if done < total else done)
    pending: list[int] = []  # rows of losses that are not logged yet
    for step in progress(todo, title, unit=unit, done=done, disable=not title):
        yield step
        if run.trackers.are_open and "losses" in state:
            pending += [] if (own := row(step)) is None else [own]
            if pending and ((step + 1) % LOGGED_EVERY == 0 or step + 1 == todo.stop):
                loss = state["losses"][pending].mean().item()
                run.trackers.log(title, step + 1, total, {"loss": loss}, part=file.name)
                pending = []
        if step + 1 == todo.stop:
            _refuse_not_finite(state, step + 1, total, checkpoint, unit, advice)
        elif time.monotonic() - last > SAVED_AFTER:
            _refuse_not_finite(state, step + 1, total, checkpoint, unit, advice)
            checkpoint.save(state, step + 1, added(before, meter.read()))
            last = time.monotonic()
    run.looped(time.monotonic() - started)
    run.carried = added(run.carried, before)
    file.unlink(missing_ok=True)


def _refuse_not_finite(
    state: Mapping[str, torch.Tensor], step: int, total: int, checkpoint: Checkpoint, unit: str, advice: str
) -> None:
    for name, tensor in state.items():
        if not tensor.isfinite().all():
            found = f"it became so by {unit} {step} of {total}; {checkpoint.kept(unit)}"
            raise InputError(name, math.nan, f"{found}; {advice}, with --overwrite or another --output_dir, may help")
