"""RDED: realistic and diverse images, tiled from crops of real ones (Sun et al., CVPR 2024). Nothing is optimised.

Of every real image the most realistic of some random crops is kept, and of these the most realistic ones of the class
(Fig. 3, stage 1); factor x factor of them make an image (stage 2). As in the released code (LINs-lab/RDED), tile k of image
j is the crop of rank k * IPC + j: no image gets all the best. Other than there, crops are rounded to 8 bits before they are
scored, so that what is scored is what is published (there: floats are scored, and the tiled image becomes a JPEG file).
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image as PILImage

from distill_hub.classifiers import Classifier, unit_batches
from distill_hub.config import InputError
from distill_hub.data.sources import Source
from distill_hub.running.seeds import cpu_generator, draw_seed

FACTS = {
    "name": "rded",
    "title": "RDED",
    "paper": "https://arxiv.org/abs/2312.03526",
    "bibtex": """@inproceedings{sun2024rded,
  title = {On the Diversity and Realism of Distilled Dataset: An Efficient Dataset Distillation Paradigm},
  author = {Sun, Peng and Shi, Bei and Yu, Daiwei and Lin, Tao},
  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  year = {2024},
}""",
}
SCALE = (0.08, 1.0)  # smallest and largest share of the image's area that a crop is drawn for
ATTEMPTS = 10  # to draw a crop that fits into the image, as in torchvision's RandomResizedCrop


def resolve_factor(factor: int | None, image_size: int) -> int:
    """Resolve None as the released code's scripts do: one crop per image up to 64 pixels, else two by two."""
    return factor or (1 if image_size <= 64 else 2)


def check(source: Source, *, ipc: int, image_size: int, factor: int, images_per_class: int) -> None:
    """Refuse what leaves a tile empty.

    Args:
        source: The real images.
        ipc: Images per class.
        image_size: Side of the distilled images in pixels.
        factor: Tiles per side.
        images_per_class: Real images that crops are taken from.

    Raises:
        InputError: When the side cannot be cut into equal tiles, or there are fewer real images than tiles.
    """
    if image_size % factor:
        raise InputError("image_size", image_size, f"a multiple of factor, {factor}, is needed for tiles of equal size")
    tiles = factor**2 * ipc
    if images_per_class < tiles:
        valid = f"{ipc} images per class of {factor} x {factor} crops need {tiles} real images or more"
        raise InputError("images_per_class", images_per_class, valid)
    counts = np.bincount(source.train.labels, minlength=len(source.classes))
    smallest = int(counts.argmin())
    if counts[smallest] < tiles:
        short = f"class {source.class_names[smallest]!r} of {source.name} has {counts[smallest]} images"
        raise InputError("ipc", ipc, f"{short}, and factor {factor} takes a crop from each of {tiles}")


def draw_boxes(width: int, height: int, count: int, seed: int) -> torch.Tensor:
    """Draw square crops of an image, as torchvision's RandomResizedCrop does with scale `SCALE` and aspect ratio 1.

    Args:
        width: Of the image, in pixels.
        height: Of the image, in pixels.
        count: Number of crops, K.
        seed: Of all of them.

    Returns:
        int64 (K, 4): left, top, right, bottom; the last two are the first pixels that are not in the crop.
    """
    generator = cpu_generator(seed)
    shares = torch.rand(count, ATTEMPTS, dtype=torch.float64, generator=generator)
    places = torch.rand(count, 2, dtype=torch.float64, generator=generator)
    sides = (width * height * (SCALE[0] + (SCALE[1] - SCALE[0]) * shares)).sqrt().round().long()
    size, shorter = torch.tensor([width, height]), min(width, height)
    fits = (sides > 0) & (sides <= shorter)
    side = sides.gather(1, fits.long().argmax(1, keepdim=True))  # of the first attempt that fits, (K, 1)
    corner = (places * (size - side + 1)).floor().long()
    middle = ((size - shorter) // 2).expand(count, 2)
    found = fits.any(1, keepdim=True)
    corner, side = torch.where(found, corner, middle), torch.where(found, side, shorter)
    return torch.cat([corner, corner + side], 1)


def crop(image: PILImage.Image, boxes: torch.Tensor, size: int) -> torch.Tensor:
    """Cut crops out of an image and scale each, bilinearly and with antialiasing.

    Args:
        image: At its own resolution, of any mode.
        boxes: See `draw_boxes`, (K, 4).
        size: Side of the results in pixels.

    Returns:
        uint8 (K, 3, size, size).
    """
    image = image.convert("RGB")
    # PIL's own `box` argument of resize would let pixels from outside the crop in.
    crops = [image.crop(box).resize((size, size), PILImage.Resampling.BILINEAR) for box in boxes.tolist()]
    return torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2)


@torch.inference_mode()
def losses(teacher: Classifier, crops: torch.Tensor, label: int, image_size: int, batch_size: int = 256) -> torch.Tensor:
    """Return the teacher's cross-entropy of crops with their class: the lower, the more realistic.

    A crop is judged in the middle of an image of the set's size that is zero around it after the teacher's normalisation.

    Args:
        teacher: The classifier.
        crops: uint8 (M, 3, s, s).
        label: Position of the class.
        image_size: Side of the distilled images in pixels, at least s.
        batch_size: Crops per forward pass.

    Returns:
        float64 (M,) on the CPU.
    """
    side = crops.shape[-1]
    start = (image_size - side) // 2
    inside = slice(start, start + side)
    result = []
    for batch in unit_batches(crops, batch_size, teacher.device):
        # The classifier normalises: its mean is what becomes zero.
        padded = batch.new_tensor(teacher.mean).view(1, 3, 1, 1).repeat(len(batch), 1, image_size, image_size)
        padded[:, :, inside, inside] = batch
        target = torch.full((len(batch),), label, device=teacher.device)
        result.append(F.cross_entropy(teacher.logits(padded).double(), target, reduction="none").cpu())
    return torch.cat(result)


def select(losses: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Keep the best crop of every image, and of these the best.

    Args:
        losses: (N, K), of K crops of each of N images.
        count: How many to keep, at most N.

    Returns:
        The images and, of each, the crop: int64 (count,) both, from the lowest loss up. Of equal ones the first is taken.
    """
    best = losses.min(1)
    images = best.values.sort(stable=True).indices[:count]
    return images, best.indices[images]


def tile(crops: torch.Tensor, factor: int) -> torch.Tensor:
    """Tile every factor² consecutive crops into one image, row by row.

    Args:
        crops: (factor² * B, 3, s, s).
        factor: Tiles per side.

    Returns:
        (B, 3, factor * s, factor * s).
    """
    grid = crops.unflatten(0, (-1, factor, factor))  # (B, rows, columns, 3, s, s)
    return grid.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)


def distill_class(
    source: Source,
    teacher: Classifier,
    label: int,
    ipc: int,
    *,
    image_size: int,
    factor: int,
    images_per_class: int,
    num_crops: int,
    seed: int,
) -> dict[str, torch.Tensor]:
    """Make the images of one class; see `check` for what is refused.

    Args:
        source: The real images. Each one drawn is decoded once.
        teacher: The classifier.
        label: Position of the class.
        ipc: Images to make.
        image_size: Their side in pixels, a multiple of `factor`.
        factor: Tiles per side.
        images_per_class: Real images that crops are taken from, or all where there are fewer.
        num_crops: Crops of each.
        seed: The run's seed. What is drawn depends on it, the class's name and an image's place in the draw.

    Returns:
        images: uint8 (ipc, 3, image_size, image_size), those with the most realistic tiles first; seeds: int64 (ipc,), of
        each image that of the crops that its upper left tile is from.
    """
    name, own = source.classes[label].name, source.train.by_class[label]
    order = torch.randperm(len(own), generator=cpu_generator(draw_seed(seed, "rded images", name)))
    rows: Sequence[int] = own[order[:images_per_class].numpy()]
    seeds = torch.tensor([draw_seed(seed, "rded", name, place) for place in range(len(rows))])
    crops = []
    for row, crop_seed in zip(rows, seeds.tolist(), strict=True):
        image = source.train.image(int(row))
        crops.append(crop(image, draw_boxes(*image.size, num_crops, crop_seed), image_size // factor))
    crops = torch.stack(crops)  # (N, K, 3, s, s)
    scores = losses(teacher, crops.flatten(0, 1), label, image_size).view(len(rows), num_crops)
    images, best = select(scores, factor**2 * ipc)
    by_image = torch.arange(factor**2 * ipc).view(factor**2, ipc).T.flatten()
    return {"images": tile(crops[images[by_image], best[by_image]], factor), "seeds": seeds[images[:ipc]]}
