"""Fit a small latent generator to a source: autoencoder first, then a transformer on its latents.

It is what the offline default and small sources use. Nothing of it is special to them: the result is an ordinary pipeline
folder. What differs from one kind of generator to another is in its own file, see `kinds.Fittable`.
"""

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from diffusers.optimization import get_cosine_schedule_with_warmup
from diffusers.training_utils import EMAModel

from distill_hub.config import InputError
from distill_hub.data.sources import Source
from distill_hub.disk.files import remove
from distill_hub.feed import placed, taken
from distill_hub.fitting import fit_once
from distill_hub.generating.kinds import FITTED_KINDS, Fittable
from distill_hub.running.console import progress
from distill_hub.running.cost import COST, NOTHING, Cost, Meter, added, write_cost
from distill_hub.running.run import Run
from distill_hub.running.seeds import cpu_generator, draw_seed
from distill_hub.teams.team import Team, at_work, gathered

LATENT_CHANNELS = 4  # of every generator that is fitted


def fit_in_run(run: Run, source: Source, folder: Path, kind: str, fit: Mapping[str, Any]) -> None:
    """Fit a generator of some kind in a run, unless it is there, see `fit_once`; `fit` as in `generating.open`."""
    settings = {key.removeprefix("fit_"): value for key, value in fit.items()}
    size = _size(source, settings["image_size"])

    def make(images: Callable[[], torch.Tensor], team: Team | None) -> None:
        parts = {key: run.part(settings[key]) for key in ("vae_steps", "dit_steps")}
        decoded, batch = images(), settings["batch_size"]
        with at_work(team, batch, batch) as (workers, processes):
            if processes:
                how = {**settings, **parts, "device": run.device, "images": decoded, "team": workers}
                fit_generator(source, folder, kind=kind, **how)

    fit_once(run, "fit generator", make, source, size, makes=folder, lower="a smaller --fit_batch_size")


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
    images: torch.Tensor | None = None,
    team: Team | None = None,
) -> None:
    """Fit autoencoder and transformer to the training split and save them as a pipeline.

    The folder appears only when both are done; a run stopped between them keeps the autoencoder. A team fits the same up to
    the rounding of sums; but what MAR's loss draws for itself, its members draw each for their share.

    Args:
        source: Real images and classes.
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
        images: Those of the training split, uint8 (N, 3, S, S), where they are decoded already.
        team: Who fits together, each with the same arguments; None: this process alone.

    Raises:
        InputError: When the image size is unknown or not a multiple of 16, or the width not a multiple of 32.
    """
    size = _size(source, image_size)
    if dit_width % 32:
        raise InputError("fit_dit_width", dit_width, "a multiple of 32 is needed")
    # Named by what the autoencoder depends on, so that one of other settings is not taken up.
    key = f"{source.fingerprint} {size} {vae_width} {vae_steps} {batch_size} {seed}"
    partial = folder.with_name(f"{folder.name}.{hashlib.sha256(key.encode()).hexdigest()[:8]}.partial")
    meter, before, is_first = Meter(device), NOTHING, team is None or team.rank == 0
    images = placed(source.train.pixels(None, size) if images is None else images, device)
    labels = torch.from_numpy(source.train.labels).to(device)
    kept = partial / "autoencoder"
    if team.tell(kept.is_dir()) if team else kept.is_dir():
        vae = AutoencoderKL.from_pretrained(kept, use_safetensors=True).to(device)
        before = json.loads((kept / COST).read_bytes()) if (kept / COST).is_file() else None  # of an older version
    else:
        vae = _fit_vae(images, vae_width, vae_steps, batch_size, seed, torch.device(device), team)
        spent = _spent(meter, team)
        if is_first:
            vae.save_pretrained(partial / "unfinished")
            write_cost(partial / "unfinished", spent, device)
            os.replace(partial / "unfinished", kept)
    network = _fit_network(
        FITTED_KINDS[kind],
        vae,
        images,
        labels,
        len(source.classes),
        dit_width,
        dit_layers,
        dit_steps,
        batch_size,
        seed,
        team,
    )
    spent = _spent(meter, team)
    if not is_first:
        return
    FITTED_KINDS[kind].save(network, vae, partial)
    # save_pretrained does not write id2label, which the layout has and class matching needs.
    labels = {str(place): name for place, name in enumerate(source.class_names)}
    _edit(partial / "model_index.json", id2label=labels)
    _edit(partial / "vae" / "config.json", _name_or_path="")  # where this disk held one that was resumed from
    if before is not None:
        write_cost(partial, added(before, spent), device, processes=team.size if team else 1)
    remove(folder)
    remove(kept)
    os.replace(partial, folder)


def _spent(meter: Meter, team: Team | None) -> Cost:
    own = meter.read()
    return {**added(*gathered(team, own)), "seconds": own["seconds"]}


def _size(source: Source, image_size: int | None) -> int:
    size = image_size or source.image_size
    if size is None or size < 16 or size % 16:
        raise InputError("fit_image_size", size, f"{source.name} needs one: a multiple of 16 pixels, at least 16")
    return size


class _Loss(torch.nn.Module):
    """A network and its loss, so that a team can share the gradients of what is no forward pass of the network alone."""

    def __init__(self, network: torch.nn.Module, loss: Callable[..., torch.Tensor]):
        super().__init__()
        self.network, self.loss = network, loss

    def forward(self, *batch: Any) -> torch.Tensor:
        return self.loss(self.network, *batch)


def _shared(network: torch.nn.Module, loss: Callable[..., torch.Tensor], team: Team | None) -> torch.nn.Module:
    return team.shared(_Loss(network, loss)) if team else _Loss(network, loss)


def _edit(file: Path, **values: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_bytes()), **values}, indent=2, sort_keys=True))


def _scale(images: torch.Tensor) -> torch.Tensor:
    return images.float() / 127.5 - 1


def _vae_loss(vae: AutoencoderKL, images: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """Return the mean loss of images (B, 3, S, S) in [-1, 1] at normal noise in the shape of their latents."""
    posterior = vae.encode(images).latent_dist
    reconstruction = vae.decode(posterior.mean + posterior.std * noise).sample
    # Per latent element. Heavier than latent diffusion's: smooth latents are what a small transformer can learn, and
    # digits still come back well enough for the teacher to read all of them.
    return F.mse_loss(reconstruction, images) + 1e-2 * posterior.kl().mean() / posterior.mean[0].numel()


def _fit_vae(
    images: torch.Tensor, width: int, steps: int, batch_size: int, seed: int, device: torch.device, team: Team | None
) -> AutoencoderKL:
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
    ).to(device)
    shared, own, weight = _shared(vae, _vae_loss, team), *_own(team, batch_size)
    latent_shape = LATENT_CHANNELS, *(size // 2**levels,) * 2
    generator = cpu_generator(draw_seed(seed, "vae batches"))
    optimizer = torch.optim.AdamW(vae.parameters(), lr=2e-3, weight_decay=0.0, fused=True)
    schedule = get_cosine_schedule_with_warmup(optimizer, steps // 20, steps)
    for _ in progress(range(steps), "fit autoencoder", unit="step", disable=_is_quiet(team)):
        rows = torch.randint(len(images), (batch_size,), generator=generator)[own]
        noise = torch.randn((batch_size, *latent_shape), generator=generator)[own].to(device)
        loss = weight * shared(_scale(taken(images, rows.to(images.device), device)), noise)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
    vae.eval()
    return vae


@torch.no_grad()
def _moments(
    vae: AutoencoderKL, images: torch.Tensor, batch_size: int, device: torch.device, team: Team | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return mean and standard deviation of every image's posterior, each (N, 4, h, w); a team shares the work."""
    own = team.share(len(images)) if team else slice(None)
    posteriors = [vae.encode(_scale(batch.to(device))).latent_dist for batch in images[own].split(batch_size)]
    found = torch.cat([p.mean for p in posteriors]), torch.cat([p.std for p in posteriors])
    if team is None:
        return found
    every = [part.new_zeros(len(images), *part.shape[1:]) for part in found]
    for whole, part in zip(every, found, strict=True):
        whole[own] = part
    mean, std = (team.summed(whole) for whole in every)
    return mean, std


def _own(team: Team | None, batch_size: int) -> tuple[slice, float]:
    """Return which rows of a batch are this process's, and the weight of their mean."""
    return (team.share(batch_size), team.weight(batch_size)) if team else (slice(None), 1.0)


def _is_quiet(team: Team | None) -> bool:
    return team is not None and team.rank > 0


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
    team: Team | None,
) -> torch.nn.Module:
    device = labels.device
    mean, std = _moments(vae, images, batch_size, device, team)
    vae.register_to_config(scaling_factor=1 / (mean.var() + std.square().mean()).sqrt().item())
    mean, std = mean * vae.config.scaling_factor, std * vae.config.scaling_factor
    name = kind.FACTS["name"]
    torch.manual_seed(draw_seed(seed, name))
    network = kind.build(tuple(mean.shape[1:]), classes, width, layers).to(device)
    generator = cpu_generator(draw_seed(seed, f"{name} batches"))
    own_draws = cpu_generator(draw_seed(seed, f"{name} batches", team.rank)) if team else generator
    shared, own, weight = _shared(network, kind.loss, team), *_own(team, batch_size)
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=0.0, fused=True)
    schedule = get_cosine_schedule_with_warmup(optimizer, steps // 20, steps)
    ema = EMAModel(network.parameters(), decay=0.999, use_ema_warmup=True, power=0.75, foreach=True)
    for _ in progress(range(steps), "fit transformer", unit="step", disable=_is_quiet(team)):
        rows = torch.randint(len(images), (batch_size,), generator=generator)[own].to(device)
        levels = kind.levels(generator, batch_size)[own].to(device)
        draw = torch.randn((2, batch_size, *mean.shape[1:]), generator=generator)[:, own].to(device)
        dropped = (torch.rand(batch_size, generator=generator) < 0.1)[own].to(device)
        latents, noise = mean[rows] + std[rows] * draw[0], draw[1]
        class_ids = torch.where(dropped, classes, labels[rows])
        loss = weight * shared(latents, noise, levels, class_ids, own_draws)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        ema.step(network.parameters())
    ema.copy_to(network.parameters())
    return network.eval()
