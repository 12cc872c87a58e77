"""What a classifier makes of images that should show a class each: the verdicts that CaO2 and DGS select by.

In both papers the judge is a network trained on all of ImageNet, and its prediction and probabilities are over its 1,000
classes. Among the ten of a subset nearly everything is recognised, and another image may be the harder one.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch

from distill_hub.classifiers import Classifier
from distill_hub.config import InputError


@dataclass(frozen=True)
class Verdicts:
    """Of N images of one class, by the probabilities of all classes that were judged over."""

    correct: torch.Tensor  # bool (N,), whether the class is the most probable one
    confidence: torch.Tensor  # float64 (N,), its probability
    difficulty: torch.Tensor  # float64 (N,), see `difficulty`
    largest: torch.Tensor  # float64 (N,), the largest probability of any class
    el2n: torch.Tensor  # float64 (N,), distance of the probabilities from 1 for the class and 0 elsewhere

    def __len__(self) -> int:
        return len(self.correct)


VERDICTS = [field.name for field in fields(Verdicts)]


def judge(logits: torch.Tensor, columns: Sequence[int]) -> dict[str, torch.Tensor]:
    """Return the fields of `Verdicts` for logits (N, K) and the column of each image's class, on the CPU.

    Raises:
        InputError: When a logit is not finite.
    """
    own = torch.tensor(columns)
    logits = logits.float().cpu()
    hard = torch.from_numpy(difficulty(logits, own))
    probabilities = logits.double().softmax(1)
    others = probabilities.scatter(1, own[:, None], 0.0)
    return {
        "correct": logits.argmax(1) == own,
        "confidence": probabilities.gather(1, own[:, None]).squeeze(1),
        "difficulty": hard,
        "largest": probabilities.amax(1),
        "el2n": (others.square().sum(1) + hard.square()).sqrt(),  # EL2N (Paul et al., 2021)
    }


def judge_images(classifier: Classifier, images: torch.Tensor, labels: Sequence[int], over: str) -> dict[str, torch.Tensor]:
    """Let a classifier judge images; see `judge`.

    Args:
        classifier: Who judges.
        images: (N, 3, H, W) in [0, 1].
        labels: Position of each image's class in the source.
        over: Among which classes: 'all' that the network knows, or those of the 'set'.
    """
    outputs, _ = classifier.outputs(images)
    if over == "set":
        return judge(outputs[:, classifier.columns], labels)
    return judge(outputs, [classifier.columns[label] for label in labels])


def difficulty(logits: torch.Tensor, labels: torch.Tensor) -> np.ndarray:
    """Return how little a classifier believes in the true classes: 1 - p(label | image) (Eq. 6 of DGS).

    Computed as the sum of the other classes' probabilities, which keeps what 1 - p loses for p near 1.

    Args:
        logits: (N, K).
        labels: int64 (N,) in [0, K).

    Returns:
        float64 (N,) in [0, 1].

    Raises:
        InputError: When a logit is not finite.
    """
    logits, labels = logits.cpu().double(), labels.cpu()[:, None]
    if not logits.isfinite().all():
        value = logits[~logits.isfinite()][0].item()
        raise InputError("logits", value, "the classifier must give finite numbers for every image")
    odds = (logits - logits.amax(1, keepdim=True)).exp()
    own = odds.gather(1, labels).squeeze(1)
    others = odds.scatter(1, labels, 0.0).sum(1)
    return (others / (others + own)).numpy()
