"""Models that are fitted to a source once, for all runs of a user: by one process, or by all where that is worth it."""

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import torch

from distill_hub.data.sources import Source
from distill_hub.disk.once import missing
from distill_hub.running.cost import Cost, Meter
from distill_hub.running.mapped import map_rows
from distill_hub.running.processes import wait_until_seen
from distill_hub.running.run import Run
from distill_hub.teams.team import Team, divided

LARGE = 2**28  # bytes of decoded images, from which on all processes fit together; CIFAR's 50,000 of 32 px are 154 MB

Fit = Callable[[Callable[[], torch.Tensor], Team | None], None]


def fit_once(run: Run, stage: str, fit: Fit, source: Source, size: int, *, makes: Path, lower: str) -> None:
    """Fit a model to a source, unless it is there. Call it on every process.

    Up to `LARGE` bytes of images the main process fits while the others wait: the weights, and so the sets that are made
    with them, are the same bits for any number of processes. To more, all processes fit: the same up to rounding.

    Args:
        run: Its processes fit.
        stage: Name of the stage.
        fit: From what decodes the training images, uint8 (N, 3, S, S), and who fits together, None for one process, to the
            model, which the first member saves. Called where it is needed.
        source: The real dataset.
        size: Side of the images in pixels.
        makes: See `Run.on_main`.
        lower: See `Run.map`.

    Raises:
        InputError: See `Run.on_main`.
    """
    train = source.train
    if 3 * size**2 * len(train) <= LARGE or run.agree(makes.exists()):
        run.on_main(stage, lambda: fit(lambda: train.pixels(None, size), None), makes=makes, lower=lower)
        return
    made_from = {"source": source.fingerprint, "size": size}
    images = map_rows(run, f"{stage}, images", lambda a, b: train.pixels(range(a, b), size), len(train), made_from=made_from)
    if run.accelerator.num_processes == 1:
        run.on_main(stage, lambda: fit(lambda: images, None), makes=makes, lower=lower)
        return
    _, team = divided(1)

    def fit_together() -> Cost:
        meter = Meter(run.device)
        with missing(makes, stage, run.say) if run.is_main else nullcontext(False) as is_missing:
            if run.agree(is_missing):
                fit(lambda: images, team)
        return run.summed(meter.read())

    run.together(stage, 1, fit_together, lower=lower)
    wait_until_seen(makes)
