"""Fine-tunings of seconds, of a random generator on random latents; in this process, or started by torchrun as a script."""

import json
import sys
from pathlib import Path

import torch
from helpers import make_pipeline
from safetensors.torch import save_file

from distill_hub.generating.latents import Latents
from distill_hub.generators.dit import DiTGenerator
from distill_hub.methods.tuning import Tuning, check
from distill_hub.options.minimax import MinimaxConfig
from distill_hub.running.run import Run

LABELS = torch.arange(45) % 3
SETTINGS = {"tuning_epochs": 2, "memory_size": 4, "ema_decay": 0.9}  # 2 epochs of 5 steps of 8 images


def build(
    folder: Path,
    *,
    learned_variance: bool = True,
    identity: dict | None = None,
    classes: range = range(3),
    alone: bool = False,
    compiled: bool = False,
    **changes,
) -> Tuning:
    """Set up a fine-tuning on some classes; where they are `alone`, no image of another class is encoded."""
    settings = MinimaxConfig(**{**SETTINGS, **changes})
    run = Run(folder, {})

    def encode(rows):
        draws = [torch.Generator().manual_seed(row) for row in rows]
        mean = torch.stack([torch.randn(2, 4, 8, 8, generator=draw) for draw in draws])
        return {"mean": mean, "std": torch.full_like(mean, 0.1)}

    rows = torch.tensor([row for row, label in enumerate(LABELS.tolist()) if label in classes])
    stage = run.map("encode", rows.tolist() if alone else range(len(LABELS)), encode, chunk_size=7)
    latents, labels = Latents(stage) if alone else Latents(stage, rows), LABELS[rows] - classes.start
    base = DiTGenerator(make_pipeline(learned_variance=learned_variance), ["zero", "one", "two"])
    micro = check(settings, [base.class_names[c] for c in classes], labels, run.accelerator)
    identity = identity or {"generator": "tiny"}
    ids = [[2, 0, 1][c] for c in classes]
    how = {"micro_batch_size": micro, "seed": 0, "identity": identity, "compiled": compiled}
    return Tuning(run, base, latents, labels, ids, settings, **how)


def outcome(tuning: Tuning) -> dict[str, torch.Tensor]:
    """The averaged weights, the memories and the losses."""
    memories = {f"{name}.entries": getattr(tuning, name).entries for name in ("real", "generated")}
    return {**tuning.parameters, **memories, "losses": tuning.losses}


if __name__ == "__main__":
    for name, changes in json.loads(sys.argv[2]).items():
        out = Path(sys.argv[1], name)
        tuning = build(out, **changes)
        tuning.train()
        if tuning.run.is_main:
            tensors = {name: tensor.detach().contiguous() for name, tensor in outcome(tuning).items()}
            save_file(tensors, out / "outcome.safetensors")
    tuning.run.end()
