"""ZCA whitening as a stage of a run: fitted to the real training images once, the same for all processes."""

import hashlib
from collections.abc import Sequence

import torch

from distill_hub.artifact.manifest import ZcaRecord
from distill_hub.augmentation.zca import EPS, Zca, check_side, fit
from distill_hub.config import InputError
from distill_hub.running.run import Run
from distill_hub.training.subject import HeldOut

_DECODED = 1000  # images at a time


def fit_zca(run: Run, test: HeldOut, size: int, eps: float = EPS) -> Zca:
    """Fit the transform to all training images of some classes: the stage 'fit zca'. Call it on every process.

    Args:
        run: One of its processes fits, and all get the same.
        test: Of these classes; its source has the training images.
        size: Side of the images in pixels.
        eps: See `augmentation.zca.fit`.

    Raises:
        InputError: See `augmentation.zca.check_side`.
    """
    check_side(size)
    train, rows = test.source.train, test.training_rows

    def fitted(_: Sequence[int]) -> dict[str, torch.Tensor]:
        parts = (rows[start : start + _DECODED] for start in range(0, len(rows), _DECODED))
        zca = fit((train.pixels(part, size).to(run.device) for part in parts), eps)
        sha256 = torch.tensor(list(bytes.fromhex(zca.sha256)), dtype=torch.uint8)
        return {"mean": zca.mean.cpu()[None], "transform": zca.transform.cpu()[None], "sha256": sha256[None]}

    images = {"source": test.source.fingerprint, "rows": hashlib.sha256(rows.tobytes()).hexdigest()}
    how = {"made_from": {**images, "size": size, "eps": eps}, "whole": True, "lower": "a smaller --image_size"}
    found = run.map("fit zca", [0], fitted, chunk_size=1, **how).rows(0, 1)
    mean, transform = (found[name][0].to(run.device) for name in ("mean", "transform"))
    return Zca(mean, transform, eps, len(rows), bytes(found["sha256"][0].tolist()).hex())


def refit_zca(run: Run, record: ZcaRecord, test: HeldOut, size: int) -> Zca:
    """Fit again the transform that whitened a set; see `fit_zca`.

    Args:
        run: The run.
        record: What the set's manifest says of it.
        test: Of the set's classes.
        size: Side of the set's images in pixels.

    Raises:
        InputError: When the training images are others than those it was fitted to.
    """
    zca = fit_zca(run, test, size, record.eps)
    if (zca.images, zca.sha256) != (record.images, record.sha256):
        found = f"its {zca.images:,} training images are others than the {record.images:,} that the set was whitened by"
        raise InputError("source", test.source.name, f"{found}; name the real dataset, at the revision on record")
    return zca
