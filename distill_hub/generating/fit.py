"""Fit a small latent generator to a source: autoencoder first, then a transformer on its latents.

It is what the offline default and small sources use. Nothing of it is special to them: the result is an ordinary pipeline
folder. What differs from one kind of generator to another is in its own file, see `kinds.Fittable`.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from diffusers.optimization import get_cosine_schedule_with_warmup
from diffusers.training_utils import EMAModel

from distill_hub.config import InputError
from distill_hub.data.sources import Source
from distill_hub.generating.kinds import FITTED_KINDS, Fittable
from distill_hub.running.console import progress
from distill_hub.running.cost import COST, NOTHING, Meter, added, write_cost
from distill_hub.running.files import remove
from distill_hub.running.run import Run
from distill_hub.running.seeds import cpu_generator, draw_seed

LATENT_CHANNELS = 4  # of every generator that is fitted


def fit_on_main(run: Run, source: Source, folder: Path, kind: str, fit: Mapping[str, Any]) -> None:
    """Fit a generator of some kind on the main process of a run, unless it is there; `fit` as in `generating.open`."""
    settings = {key.removeprefix("fit_"): value for key, value in fit.items()}

    def make() -> None:
        parts = {key: run.part(settings[key]) for key in ("vae_steps", "dit_steps")}
        fit_generator(source, folder, kind=kind, **{**settings, **parts}, device=run.device)

    run.on_main("fit generator", make, makes=folder, lower="a smaller --fit_batch_size")


def fitted_name(kind: str) -> str:
    """Return what a fitted generator of a kind is called in the user's cache, see `fit_folder`."""
    return "generator" if kind == "dit" else kind


def fit_generator(
    source: Source,
    folder: Path,
    *,
    kind: str = "dit",
    image_size: int | None = None,
    vae_width: int = 16,
    vae_steps: int = 300,
    dit_width: int = 96,
    dit_layers: int = 4,
    dit_steps: int = 3000,
    batch_size: int = 32,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> None:
    """Fit autoencoder and transformer to the training split and save them as a pipeline.

    The folder appears only when both are done; a run stopped between them keeps the autoencoder.

    Args:
        source: Real images; all of them are held on the device as uint8.
        folder: Where to save.
        kind: Key of `kinds.FITTED_KINDS`.
        image_size: Side in pixels; default: the source's own.
        vae_width: Channels of the autoencoder's first level; doubled once.
        vae_steps: Optimiser steps of the autoencoder.
        dit_width: Width of the transformer, a multiple of 32.
        dit_layers: Transformer blocks.
        dit_steps: Optimiser steps of the transformer.
        batch_size: Images per step, in both.
        seed: Of initial weights, batches and noise.
        device: Where to fit.

    Raises:
        InputError: When the image size is unknown or not a multiple of 16, or the width not a multiple of 32.
    """
    size = image_size or source.image_size
    if size is None or size < 16 or size % 16:
        raise InputError("fit_image_size", size, f"{source.name} needs one: a multiple of 16 pixels, at least 16")
    if dit_width % 32:
        raise InputError("fit_dit_width", dit_width, "a multiple of 32 is needed")
    # Named by what the autoencoder depends on, so that one of other settings is not taken up.
    key = f"{source.fingerprint} {size} {vae_width} {vae_steps} {batch_size} {seed}"
    partial = folder.with_name(f"{folder.name}.{hashlib.sha256(key.encode()).hexdigest()[:8]}.partial")
    meter, before = Meter(device), NOTHING
    images = source.train.pixels(None, size).to(device)  # uint8 (N, 3, S, S)
    labels = torch.from_numpy(source.train.labels).to(device)
    kept = partial / "autoencoder"
    if kept.is_dir():
        vae = AutoencoderKL.from_pretrained(kept, use_safetensors=True).to(device)
        before = json.loads((kept / COST).read_bytes()) if (kept / COST).is_file() else None  # of an older version
    else:
        vae = _fit_vae(images, vae_width, vae_steps, batch_size, seed)
        vae.save_pretrained(partial / "unfinished")
        write_cost(partial / "unfinished", meter.read(), device)
        os.replace(partial / "unfinished", kept)
    network = _fit_network(
        FITTED_KINDS[kind], vae, images, labels, len(source.classes), dit_width, dit_layers, dit_steps, batch_size, seed
    )
    FITTED_KINDS[kind].save(network, vae, partial)
    # save_pretrained does not write id2label, which the layout has and class matching needs.
    labels = {str(place): name for place, name in enumerate(source.class_names)}
    _edit(partial / "model_index.json", id2label=labels)
    _edit(partial / "vae" / "config.json", _name_or_path="")  # where this disk held one that was resumed from
    if before is not None:
        write_cost(partial, added(before, meter.read()), device)
    remove(folder)
    remove(kept)
    os.replace(partial, folder)


def _edit(file: Path, **values: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_bytes()), **values}, indent=2, sort_keys=True))


def _scale(images: torch.Tensor) -> torch.Tensor:
    return images.float() / 127.5 - 1


def _fit_vae(images: torch.Tensor, width: int, steps: int, batch_size: int, seed: int) -> AutoencoderKL:
    size = images.shape[-1]
    # 16 px become 8x8 latents, larger images 16x16 (32x32 from 256 px on, as in the Stable Diffusion autoencoder).
    levels = {16: 1, 32: 1, 64: 2, 128: 3}.get(size, 3 if size > 128 else 1)
    channels = (width,) + (2 * width,) * levels
    torch.manual_seed(draw_seed(seed, "vae"))
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * len(channels),
        up_block_types=("UpDecoderBlock2D",) * len(channels),
        block_out_channels=channels,
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=8,
        sample_size=size,
    ).to(images.device)
    generator = cpu_generator(draw_seed(seed, "vae batches"))
    optimizer = torch.optim.AdamW(vae.parameters(), lr=2e-3, weight_decay=0.0, fused=True)
    schedule = get_cosine_schedule_with_warmup(optimizer, steps // 20, steps)
    for _ in progress(range(steps), "fit autoencoder", unit="step"):
        rows = torch.randint(len(images), (batch_size,), generator=generator)
        batch = _scale(images[rows.to(images.device)])
        posterior = vae.encode(batch).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=generator).to(images.device)
        reconstruction = vae.decode(posterior.mean + posterior.std * noise).sample
        # Per latent element. Heavier than latent diffusion's: smooth latents are what a small transformer can learn, and
        # digits still come back well enough for the teacher to read all of them.
        loss = F.mse_loss(reconstruction, batch) + 1e-2 * posterior.kl().mean() / posterior.mean[0].numel()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
    vae.eval()
    return vae


@torch.no_grad()
def _moments(vae: AutoencoderKL, images: torch.Tensor, batch_size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return mean and standard deviation of every image's posterior, each (N, 4, h, w)."""
    posteriors = [vae.encode(_scale(batch)).latent_dist for batch in images.split(batch_size)]
    return torch.cat([p.mean for p in posteriors]), torch.cat([p.std for p in posteriors])


def _fit_network(
    kind: Fittable,
    vae: AutoencoderKL,
    images: torch.Tensor,
    labels: torch.Tensor,
    classes: int,
    width: int,
    layers: int,
    steps: int,
    batch_size: int,
    seed: int,
) -> torch.nn.Module:
    mean, std = _moments(vae, images, batch_size)
    vae.register_to_config(scaling_factor=1 / (mean.var() + std.square().mean()).sqrt().item())
    mean, std = mean * vae.config.scaling_factor, std * vae.config.scaling_factor
    name = kind.FACTS["name"]
    torch.manual_seed(draw_seed(seed, name))
    network = kind.build(tuple(mean.shape[1:]), classes, width, layers).to(images.device)
    generator = cpu_generator(draw_seed(seed, f"{name} batches"))
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=0.0, fused=True)
    schedule = get_cosine_schedule_with_warmup(optimizer, steps // 20, steps)
    ema = EMAModel(network.parameters(), decay=0.999, use_ema_warmup=True, power=0.75, foreach=True)
    for _ in progress(range(steps), "fit transformer", unit="step"):
        rows = torch.randint(len(images), (batch_size,), generator=generator)
        levels = kind.levels(generator, batch_size)
        draw = torch.randn((2, batch_size, *mean.shape[1:]), generator=generator).to(images.device)
        dropped = (torch.rand(batch_size, generator=generator) < 0.1).to(images.device)
        rows = rows.to(images.device)
        latents, noise = mean[rows] + std[rows] * draw[0], draw[1]
        class_ids = torch.where(dropped, classes, labels[rows])
        loss = kind.loss(network, latents, noise, levels.to(images.device), class_ids, generator)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        ema.step(network.parameters())
    ema.copy_to(network.parameters())
    return network.eval()
