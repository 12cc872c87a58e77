"""How difficult a source's real images are for a classifier, measured once."""

from collections.abc import Sequence

import numpy as np
import torch
from safetensors.torch import load_file, save

from distill_hub.classifiers import Classifier
from distill_hub.data.sources import Source, fit_folder
from distill_hub.disk.files import atomic_write
from distill_hub.methods.judging import judge_images
from distill_hub.running.run import Run


def real_difficulties(
    run: Run,
    source: Source,
    selector: Classifier,
    selector_sha256: str,
    *,
    over: str,
    image_size: int,
    batch_size: int = 256,
) -> list[np.ndarray]:
    """Measure all training images: the stage 'difficulty', once per source, selector and image size for all runs of a user.

    Args:
        run: Spreads the images over its processes.
        source: The real images.
        selector: The classifier.
        selector_sha256: Of its weights.
        over: Among which classes it judges; see `judge_images`.
        image_size: Side in pixels of the set; the real images are judged at it, too.
        batch_size: Images per chunk of work.

    Returns:
        Of each class, the difficulty of its images, float64 (M,).
    """
    seen = over, image_size, selector.resize
    file = run.cached(fit_folder(source, "difficulty", selector_sha256, *seen) / "difficulty.safetensors")
    labels = torch.from_numpy(source.train.labels)

    @torch.inference_mode()
    def measure(rows: Sequence[int]) -> dict[str, torch.Tensor]:
        pixels = source.train.pixels(rows, image_size).to(selector.device)
        found = judge_images(selector, pixels.float() / 255, labels[rows].tolist(), over)
        return {"difficulty": found["difficulty"]}

    if not run.agree(file.exists()):
        made_from = {"source": source.fingerprint, "selector": selector_sha256, "seen": seen}
        stage = run.map("difficulty", range(len(labels)), measure, chunk_size=batch_size, made_from=made_from)

        def keep() -> None:
            run.leave_stage(file.parent)
            atomic_write(file, save(stage.rows(0, len(stage))))

        run.on_main("keep difficulty", keep, makes=file)
    else:
        run.count_stage(file.parent)
    found = load_file(file)["difficulty"].numpy()
    return [found[rows] for rows in source.train.by_class]
