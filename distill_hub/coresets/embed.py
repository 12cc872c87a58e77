"""What a classifier says of a source's training images: their embeddings."""

from collections.abc import Callable, Sequence
from itertools import accumulate

import torch
import torch.nn.functional as F

from distill_hub.classifiers import Classifier
from distill_hub.data.sources import Source
from distill_hub.running.run import Run


def embed(
    run: Run,
    source: Source,
    teacher: Classifier,
    teacher_sha256: str,
    *,
    image_size: int,
    batch_size: int,
    stage: str = "embed",
) -> Callable[[int], torch.Tensor]:
    """Embed the training images, each class in batches of its own. Each image is decoded once.

    Args:
        run: Spreads the batches over its processes.
        source: The real images.
        teacher: The classifier.
        teacher_sha256: Of its weights.
        image_size: Side in pixels of the set; the real images are embedded at it, too.
        batch_size: Images per forward pass.
        stage: Name of the stage.

    Returns:
        From the position of a class to the embeddings of its images, float32 (N, D) on the CPU, in the order of the training
        split.
    """
    train, counts = source.train, [len(rows) for rows in source.train.by_class]
    batches = [range(0, count, batch_size) for count in counts]
    items = [(label, start) for label, starts in enumerate(batches) for start in starts]
    longest = min(batch_size, max(counts))

    @torch.inference_mode()
    def of_batch(chunk: Sequence[tuple[int, int]]) -> dict[str, torch.Tensor]:
        ((label, start),) = chunk
        pixels = train.pixels(train.by_class[label][start : start + batch_size], image_size).to(teacher.device)
        found = teacher.embed(pixels.float() / 255).float().cpu()
        return {"embeddings": F.pad(found, (0, 0, 0, longest - len(found)))[None]}

    of = {"source": source.fingerprint, "teacher_sha256": teacher_sha256, "size": image_size, "batch_size": batch_size}
    how = {"made_from": of, "whole": True, "lower": "a smaller --embed_batch_size"}
    embedded = run.map(stage, items, of_batch, chunk_size=1, **how)
    ends = list(accumulate(map(len, batches)))

    def of_class(label: int) -> torch.Tensor:
        rows = embedded.rows(ends[label] - len(batches[label]), ends[label])["embeddings"]  # only the last batch is padded
        return rows.flatten(0, 1)[: counts[label]]

    return of_class
