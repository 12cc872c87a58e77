"""Several teachers that label together, as G-VBSM and EDC have them: a classifier whose logits are combined ones."""

from collections.abc import Sequence
from typing import NoReturn

import torch
from torch.linalg import vector_norm

from distill_hub.artifact.manifest import Combination
from distill_hub.classifiers import Classifier
from distill_hub.config import InputError
from distill_hub.statistics.features import full


def combine(logits: torch.Tensor, combination: Combination) -> torch.Tensor:
    """Combine the logits (M, B, C) of M networks to (B, C), in full precision.

    'mean' is their mean, as in EDC's code (relabel/generate_soft_label_with_db.py, where the other rule is commented out).
    'norm' is G-VBSM's (Shao et al., CVPR 2024; the file of that name in its code): each network's logits are scaled to the
    mean of the networks' norms first, so that none speaks louder than another. There, a norm is taken over a batch and its
    classes; here over the classes of each image, whose label would otherwise depend on what shares its batch. That is its
    code for ImageNet-1K; in those for CIFAR and Tiny-ImageNet the rule is commented out, too, and what the networks see is
    not mixed yet.
    """
    logits = full(logits)
    if combination == "norm":
        norms = vector_norm(logits, dim=2, keepdim=True)  # (M, B, 1)
        logits = logits / norms.clamp_min(torch.finfo(norms.dtype).tiny) * norms.mean(0)
    return logits.mean(0)


class Ensemble(Classifier):
    """Trained classifiers for the classes of one source that answer with one voice.

    Each resizes and normalises images by itself. What only a single network has, its embeddings and the logits of all
    classes that it knows, an ensemble refuses.

    Args:
        members: The classifiers. The first gives `mean` and `std`: in its units pixels are optimised.
        combination: See `combine`.
    """

    def __init__(self, members: Sequence[Classifier], combination: Combination):
        self.members, self.combination, first = tuple(members), combination, members[0]
        self.id = ",".join(member.id for member in members)
        self.architecture = f"ensemble of {', '.join(member.architecture for member in members)}"
        self.revision = self.license = None
        self.columns = list(range(len(first.columns)))  # logits are of the source's classes alone
        self.known = len(self.columns)
        self.image_size, self.device = max(member.image_size for member in members), first.device
        self.mean, self.std = first.mean, first.std

    def logits(self, images: torch.Tensor, *, as_is: bool = False) -> torch.Tensor:
        """Map images (B, 3, H, W) in [0, 1] to combined logits (B, C) of the source's classes; see `Classifier.outputs`."""
        return combine(torch.stack([member.logits(images, as_is=as_is) for member in self.members]), self.combination)

    def outputs(self, images: torch.Tensor, *, as_is: bool = False) -> NoReturn:
        """Refuse: neither embeddings nor the classes that the members know have anything in common.

        Raises:
            InputError: Always.
        """
        raise InputError("teacher", self.id, "features of one network are asked for: name one teacher")


def members_of(teacher: Classifier) -> tuple[Classifier, ...]:
    """Return the networks of a teacher: of an ensemble its members, else itself."""
    return teacher.members if isinstance(teacher, Ensemble) else (teacher,)


def teacher_classes(teacher: Classifier) -> list[int | None]:
    """Return a teacher's own index of each class of the source; None of each where members of an ensemble differ in them."""
    columns = [member.columns for member in members_of(teacher)]
    return list(columns[0]) if all(own == columns[0] for own in columns) else [None] * len(columns[0])
