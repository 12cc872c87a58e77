"""The label contract: what silently reads classes in another order is refused, not scored."""

from collections.abc import Callable

import numpy as np

from distill_hub.artifact.manifest import Manifest
from distill_hub.config import InputError
from distill_hub.coresets.names import BY_DIFFICULTY

OTHER_CLASSES = "another class order, or images that do not show their classes"
_FROM_NOISE = "they were optimised from noise, and may teach a student what other networks do not see in them"
_HARDEST = "they were chosen as the hardest of their classes, which a network takes for others"


def excuse(manifest: Manifest) -> str | None:
    """Return why images of a set may not be recognised though nothing is wrong with it; None: they should be."""
    method = manifest.method
    if method.name in BY_DIFFICULTY and method.config.get("keep") == "hardest":
        return _HARDEST
    return _FROM_NOISE if manifest.is_from_noise else None


def refuse_chance(
    field: str,
    value: str,
    predicted: np.ndarray,
    labels: np.ndarray,
    class_names: list[str],
    what: str,
    cause: str = OTHER_CLASSES,
    say: Callable[[str], object] | None = None,
) -> float:
    """Return the share of predictions that agree with the labels; refuse one within a tenth of the way from chance to all.

    Args:
        field: Option to blame.
        value: Its value.
        predicted: Predicted class of each image, (N,).
        labels: Label of each image, (N,).
        class_names: Names of the C classes.
        what: Whose predictions on what, for the message.
        cause: What such a disagreement comes from, for the message.
        say: What is done with the message where such a disagreement may be right; None: it is an error.

    Raises:
        InputError: Naming the classes that agree least.
    """
    hits = np.asarray(predicted) == np.asarray(labels)
    chance, agreement = 1 / len(class_names), float(hits.mean())
    if agreement >= chance + 0.1 * (1 - chance):
        return agreement
    shares = [(float(hits[labels == c].mean()), name) for c, name in enumerate(class_names) if (labels == c).any()]
    worst = ", ".join(f"{name} ({share:.0%})" for share, name in sorted(shares)[:5])
    line = f"{what} agree with the labels on {agreement:.1%}, near chance ({chance:.1%}): {cause}; least: {worst}"
    if say is None:
        raise InputError(field, value, line)
    say(f"warning: {line}")
    return agreement
