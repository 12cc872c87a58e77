"""From the stages of a run to the rows of a set, with the help of all its processes; what is large is mapped."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from distill_hub.artifact.package import ROW_GROUP_ROWS, encode_image
from distill_hub.running.mapped import map_rows
from distill_hub.running.run import Run, Stage


def images_of(run: Run, stage: Stage) -> torch.Tensor:
    """Return the images of a set from a stage, uint8 (N, 3, S, S), mapped; see `map_rows`. Call it on every process."""
    made_from = {"set": stage.sha256}
    return map_rows(run, "images", lambda a, b: stage.rows(a, b, "images")["images"], len(stage), made_from=made_from)


def soft_labels(run: Run, stage: Stage) -> torch.Tensor:
    """Return the teacher's probabilities of a stage with `logits`, float32 (N, C), mapped: those that `rows` yields."""

    def read(start: int, stop: int) -> torch.Tensor:
        return _probabilities(stage.rows(start, stop, "logits")["logits"])

    return map_rows(run, "soft labels", read, len(stage), made_from={"set": stage.sha256})


def encode_images(run: Run, images: torch.Tensor, image_format: str, made_from: Mapping[str, Any]) -> Stage:
    """Encode the images of a set, spread over processes, a row group per chunk; `rows` reads them.

    Args:
        run: The run. Once it has ended, what is encoded lies in the artifact, and no more in the run's folder.
        images: uint8 (N, 3, S, S).
        image_format: See `encode_image`.
        made_from: What the images are, see `Run.map`.
    """

    def encode(rows: Sequence[int]) -> dict[str, torch.Tensor]:
        pixels = images[rows[0] : rows[-1] + 1].permute(0, 2, 3, 1).contiguous().numpy()
        encoded = [torch.frombuffer(bytearray(encode_image(own, image_format)), dtype=torch.uint8) for own in pixels]
        sizes = torch.tensor([len(own) for own in encoded])
        return {"encoded": pad_sequence(encoded, batch_first=True), "bytes": sizes}  # a stage has tensors of one shape

    how = {"made_from": {**made_from, "image_format": image_format}, "whole": True}
    stage = run.map("encode images", range(len(images)), encode, chunk_size=ROW_GROUP_ROWS, **how)
    run.drop("encode images", now=False)
    return stage


def encoded_of(stage: Stage) -> Iterator[bytes]:
    """Yield the encoded images of `encode_images`, in order: memory holds a row group."""
    for part in stage.batches(size=stage.chunk_size):
        for row, size in zip(part["encoded"], part["bytes"].tolist(), strict=True):
            yield row[:size].numpy().tobytes()


def rows(
    stage: Stage, images: torch.Tensor, encoded: Stage, labels: Sequence[int], *, free: bool = False
) -> Iterator[dict[str, Any]]:
    """Yield a set's rows from a stage with `logits` (of the teacher) and `seeds`, in order.

    Args:
        stage: Its items are the set's images.
        images: They themselves, uint8 (N, 3, S, S).
        encoded: See `encode_images`.
        labels: Label of each.
        free: Whether the stage has free `pixels`, too.
    """
    names = ("logits", "seeds", *(["pixels"] if free else []))
    size, files = encoded.chunk_size, encoded_of(encoded)
    for start, part in zip(range(0, len(stage), size), stage.batches(*names, size=size), strict=True):
        pictures = images[start : start + size].permute(0, 2, 3, 1).numpy()  # (B, H, W, 3)
        soft, own = _probabilities(part["logits"]).numpy(), labels[start : start + size]
        extra = [{"pixels": pixels.numpy()} for pixels in part["pixels"]] if free else [{}] * len(pictures)
        for image, soft_label, seed, label, more in zip(pictures, soft, part["seeds"], own, extra, strict=True):
            yield {
                "image": np.ascontiguousarray(image),
                "encoded": next(files),
                "label": int(label),
                "soft_label": soft_label,
                "confidence": float(soft_label[label]),
                "seed": int(seed),
                **more,
            }


def _probabilities(logits: torch.Tensor) -> torch.Tensor:
    return logits.double().softmax(1).float()  # (B, C), temperature 1
