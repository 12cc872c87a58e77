"""Every number of one training, and what these numbers depend on."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Literal

from distill_hub.augmentation.augment import Augmentation
from distill_hub.classifiers import IMAGENET_MEAN, IMAGENET_STD
from distill_hub.data.known import RGB


@dataclass(frozen=True)
class Task:
    """What the settings of a training depend on, beside the protocol."""

    images: int  # N, of the set
    classes: int  # C
    image_size: int  # side in pixels, as the set has it
    mirrored: bool  # whether training may mirror the images
    normalization: tuple[RGB, RGB]  # mean and standard deviation per channel of images of at most 64 px
    student: str  # as `networks.build` knows it
    teacher: str | None = None  # architecture, for labels made online
    views_batch_size: int | None = None  # of the set's stored views
    label_temperature: float | None = None  # at which the set's method used its soft labels
    student_rate: float | None = None  # learning rate that the set's method learned with its images

    @property
    def ipc(self) -> int:
        """Images per class; of a set with unequal classes their mean, rounded."""
        return max(1, round(self.images / self.classes))


@dataclass(frozen=True)
class Settings:
    """Every number of one training."""

    epochs: int
    batch_size: int
    optimizer: Literal["sgd", "adamw"]  # see momentum; betas 0.9 and 0.999
    learning_rate: float
    weight_decay: float
    decay_all: bool  # False: no weight decay on biases and norms
    # Epoch by epoch: halfway, x0.1 there; multistep, x0.2 at 2/3 and 5/6; halvings, x0.5 at 80, 90 and 95 %; cosine to 0;
    # half-cosine to a half; half-cosine-drop, the same up to 5/6, then what is left there times 1 - e / E; warmup-cosine,
    # 5 linear epochs first. Step by step: cosine-steps.
    schedule: Literal[
        "halfway", "multistep", "halvings", "cosine", "half-cosine", "half-cosine-drop", "warmup-cosine", "cosine-steps"
    ]
    augmentation: Augmentation
    image_size: int  # side of what the student sees
    test_resize: int  # shorter side of a test image before its centre is cropped to image_size
    looks: tuple[int, ...]  # epochs, from 1, after which the test split is looked at; the last epoch is always one
    # hard: cross-entropy with `label`; soft: KL to the stored `soft_label`; teacher: KL to what a teacher says of the
    # finished batch; views: KL to the stored teacher logits of stored views.
    labels: Literal["hard", "soft", "teacher", "views"] = "hard"
    teacher_as_is: bool = False  # whether a teacher sees the batch at the batch's own size, not at that of its training
    crops_stored: bool = False  # whether crops are taken from images as they are stored, not scaled to image_size before
    temperature: float = 1.0  # of both distributions of the KL divergence
    temperature_squared: bool = False  # whether the KL divergence is multiplied by the square of the labels' temperature
    # LPQLD: every so many epochs the labels' temperature is multiplied by a factor, until it is the least one.
    temperature_steps: tuple[int, float, float] | None = None
    # LPQLD: whether each student has a temperature of its own: 1, and after every epoch the one of least divergence.
    temperature_found: bool = False
    # kl: the divergence of probabilities; mse: the mean squared difference of the logits from a teacher's (EDC).
    loss: Literal["kl", "mse"] = "kl"
    hard_weight: float = 0.0  # of the cross-entropy to the image's own label, whatever is mixed into it, beside mse
    momentum: float = 0.9  # of sgd
    # Decay, at every step, of the moving average of the weights, which is tested in their place; None: they are.
    weight_average: float | None = None
    batchnorm_updates: int = 1  # how often the running statistics take in each batch (RDED: 2)
    mean: RGB = IMAGENET_MEAN
    std: RGB = IMAGENET_STD
    frozen: bool = False  # whether only a last layer is trained, on the features of a network that has been; see `frozen`
    learned_rate: float | None = None  # in place of learning_rate, where a set's method learned one for its own images
    non_standard: str | None = None  # why no number of the literature was made so; None: the protocol's papers' were

    def start_size(self, stored: int) -> int:
        """Return the side at which augmentation starts from images with a side of `stored` pixels."""
        return stored if self.crops_stored and self.augmentation.crop_scale else self.image_size

    @property
    def for_others(self) -> "Settings":
        """The same training of other images, for which no learning rate was learned."""
        return dataclasses.replace(self, learned_rate=None)

    @property
    def hard(self) -> "Settings":
        """The same training on hard labels."""
        softness = {"temperature": 1.0, "temperature_squared": False, "temperature_steps": None, "temperature_found": False}
        return dataclasses.replace(self, labels="hard", **softness, loss="kl", hard_weight=0.0)


def teacher_temperature(settings: Settings, epoch: int) -> float:
    """Return the temperature of the labels in an epoch, from 0."""
    if settings.temperature_steps is None:
        return settings.temperature
    epochs, factor, least = settings.temperature_steps
    return max(least, settings.temperature * factor ** (epoch // epochs))


def learning_rate(settings: Settings, epoch: float) -> float:
    """Return the learning rate at a point of the training.

    Args:
        settings: Of the training.
        epoch: Epochs done: a whole number, and with the schedule cosine-steps any in between.
    """
    total = settings.epochs
    if settings.schedule == "halfway":
        factor = 0.1 if epoch >= total / 2 else 1.0
    elif settings.schedule == "multistep":  # MultiStepLR at floor(2E/3) and floor(5E/6)
        factor = 0.2 ** ((epoch >= 2 * total // 3) + (epoch >= 5 * total // 6))
    elif settings.schedule == "halvings":
        factor = 0.5 ** sum(epoch >= share * total for share in (0.8, 0.9, 0.95))
    elif settings.schedule == "half-cosine-drop" and epoch > 5 * total / 6:
        factor = (1 + math.cos(math.pi * 5 / 12)) / 2 * (1 - epoch / total)
    elif settings.schedule in ("half-cosine", "half-cosine-drop"):
        factor = (1 + math.cos(math.pi * epoch / (2 * total))) / 2
    elif settings.schedule == "warmup-cosine" and epoch < 5:  # LinearLR from 1 %
        factor = 0.01 + 0.99 * epoch / 5
    elif settings.schedule == "warmup-cosine":
        factor = (1 + math.cos(math.pi * (epoch - 5) / (total - 5))) / 2
    else:
        factor = (1 + math.cos(math.pi * epoch / total)) / 2
    return (settings.learned_rate or settings.learning_rate) * factor
