"""Options of Minimax Diffusion."""

from dataclasses import dataclass
from typing import Literal

from distill_hub.config import InputError, option
from distill_hub.kinds import Fraction, NonNegativeFloat, PositiveFloat, PositiveInt
from distill_hub.options.shared import SampleOptions


@dataclass(frozen=True)
class TuningOptions:
    """Fine-tuning of the generator: DiffFit with the minimax criteria."""

    tuning_epochs: PositiveInt = option(
        8, "passes over the real images; a longer fine-tuning goes on from a shorter one in the same folder", common=True
    )
    keep_epochs: str | None = option(
        None, "earlier epochs, comma-separated, whose averaged weights are saved as generators, too", identity=False
    )
    classes_per_phase: PositiveInt | None = option(
        None,
        "fine-tune anew for every so many classes, in their order, as Minimax's code does for large datasets: memories and "
        "checkpoints are those of one group; default: all at once",
    )
    tuning_images: PositiveInt | None = option(
        None, "real images of every class to tune on, drawn by the seed; default: all"
    )
    tuning_batch_size: PositiveInt = option(8, "images per optimiser step, all processes together")
    micro_batch_size: PositiveInt | None = option(
        None, "images per forward pass of one process, gradients are accumulated; default: batch / processes"
    )
    tuning_learning_rate: PositiveFloat = option(1e-3, "AdamW learning rate")
    lambda_r: NonNegativeFloat = option(
        0.002, "weight of representativeness in Eq. 5; 0 with lambda_d 0 is plain DiffFit", common=True
    )
    lambda_d: NonNegativeFloat = option(0.008, "weight of diversity in Eq. 5", common=True)
    representativeness: Literal["minimax", "mean"] = option(
        "minimax", "compare with the least similar real latent (Eq. 3) or with their mean (Eq. 2, the ablation)"
    )
    diversity: Literal["minimax", "mean"] = option(
        "minimax", "compare with the most similar predicted latent (Eq. 4) or with their mean (the ablation)"
    )
    embedding: Literal["x0", "residual"] = option(
        "x0", "predicted embedding: the predicted clean latent (released code) or z_t - noise (as the paper writes it)"
    )
    memory_size: PositiveInt | None = option(
        None, "real and predicted latents remembered per class; default: 64, or as many as the smallest class has images"
    )
    label_dropout: Fraction = option(0.1, "share of images that are trained with the null class")
    ema_decay: Fraction = option(
        0.9999,
        "decay per step of the averaged weights, which are the ones kept; over much fewer than 10,000 steps the paper's "
        "0.9999 keeps most of the untuned weights: 0.999 suits 1,000 steps",
        common=True,
    )
    encode_batch_size: PositiveInt = option(64, "images per chunk of work when the real images are encoded")
    gradient_checkpointing: bool = option(False, "compute activations twice instead of keeping them", identity=False)
    checkpoint_steps: PositiveInt = option(500, "optimiser steps between checkpoints", identity=False)

    @property
    def epochs_to_save(self) -> list[int]:
        """After which epochs the averaged weights are saved, in order; the last of all is the last here."""
        return sorted({self.tuning_epochs, *map(int, self.keep_epochs.split(",") if self.keep_epochs else [])})

    def check_settings(self) -> None:
        """Refuse epochs that the fine-tuning has not."""
        words = self.keep_epochs.split(",") if self.keep_epochs else []
        if not all(word.strip().isdecimal() and 0 < int(word) <= self.tuning_epochs for word in words):
            valid = f"numbers from 1 to {self.tuning_epochs}, with commas between them, as in 1,2,4"
            raise InputError("keep_epochs", self.keep_epochs, valid)


@dataclass(frozen=True)
class MinimaxConfig(TuningOptions, SampleOptions):
    """Minimax Diffusion: fine-tune the generator for representative and diverse samples, then sample."""

    guidance_scale: NonNegativeFloat = option(
        4.0, "classifier-free guidance, as in Minimax's code; 1 switches it off", common=True
    )
