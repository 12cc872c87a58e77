"""The real images as a diffusion model sees them: encoded once, and kept."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from distill_hub.data.sources import Source
from distill_hub.generators.base import Generator
from distill_hub.running.run import Run, Stage


def encode(
    run: Run,
    generator: Generator,
    source: Source,
    *,
    rows: Sequence[int],
    mirrored: bool,
    batch_size: int,
    made_from: Mapping[str, Any] | None = None,
) -> Stage:
    """Encode training images and keep mean and standard deviation of the VAE's posterior: the stage 'encode'.

    Minimax Diffusion's code encodes every image anew in each epoch, mirrored at random; both ways are kept here instead, so
    that each image goes through the VAE twice in all. Images are scaled and cropped as everywhere here, bilinear; that code
    halves them and then scales bicubic. ImageNet-1K at 256 px needs 42 GB on disk.

    Args:
        run: Spreads the images over its processes.
        generator: Encodes, by `posterior`.
        source: Real images.
        rows: Which of its training split.
        mirrored: Whether a mirrored image still shows its class.
        batch_size: Images per chunk of work.
        made_from: What generator and source are, see `Run.key`; None: all settings of the run.

    Returns:
        One item per image: `mean` and `std`, float16 (ways, channels, h, w) in the diffusion model's scale, with
        ways = 2 (as it is, mirrored) or 1.
    """

    @torch.inference_mode()
    def encode_chunk(rows: Sequence[int]) -> dict[str, torch.Tensor]:
        images = source.train.pixels(rows, generator.image_size).to(generator.device).float() / 255
        ways = [images, images.flip(3)] if mirrored else [images]
        posteriors = [generator.posterior(way) for way in ways]
        # Half precision loses about a thousandth of a latent's spread, less than the noise of the first diffusion step.
        mean, std = (torch.stack(parts, dim=1).half() for parts in zip(*posteriors, strict=True))
        return {"mean": mean, "std": std}

    if made_from is not None:
        made_from = {**made_from, "mirrored": mirrored}
    return run.map("encode", rows, encode_chunk, chunk_size=batch_size, made_from=made_from)


class Latents:
    """Draws from the posteriors of encoded images, read from disk as they are needed.

    Args:
        stage: What `encode` kept.
        rows: (N,) of its items: those that count, from 0. None: all.
    """

    def __init__(self, stage: Stage, rows: torch.Tensor | None = None):
        self._chunks, self._size = stage.mapped(), stage.chunk_size
        self._rows = torch.arange(len(stage)) if rows is None else rows
        self.count = len(self._rows)
        self.ways, *shape = self._chunks[0]["mean"].shape[1:]
        self.shape = tuple(shape)  # (channels, h, w)

    def draw(self, rows: torch.Tensor, ways: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """Return z_0 = mean + std·noise of some images.

        Args:
            rows: (B,), in [0, `count`).
            ways: (B,) in [0, `ways`): as it is, or mirrored.
            noise: float32 (B, channels, h, w), standard normal.

        Returns:
            float32 (B, channels, h, w).
        """
        picked = [
            (self._chunks[row // self._size], row % self._size, way)
            for row, way in zip(self._rows[rows].tolist(), ways.tolist(), strict=True)
        ]
        mean, std = (
            torch.stack([chunk[name][place, way] for chunk, place, way in picked]).float() for name in ("mean", "std")
        )
        return mean + std * noise
