"""Labels and soft labels of foreign sets, in the forms that authors keep them in: what a number means is never guessed."""

from typing import Literal

import numpy as np

from distill_hub.config import InputError
from distill_hub.foreign.layout import refusal

LabelKind = Literal["probabilities", "logits", "centred"]
_TOLERANCE = 1e-3  # of a row's sum; half precision has 2 ** -11
_BFLOAT16 = 2.0**-8


def hard_labels(location: str, labels: np.ndarray) -> np.ndarray | None:
    """Return labels (N,) as int64, whatever form says one class per image: (N,), (N, 1), whole floats, or one-hot (N, C).

    Returns:
        None for floats (N, C) that are no one-hot labels.

    Raises:
        InputError: For another shape or type, or numbers that are not whole.
    """
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim == 1 and (labels.dtype.kind in "iu" or (labels.dtype.kind == "f" and (labels == np.rint(labels)).all())):
        if labels.size and (float(labels.max()) >= 2**62 or float(labels.min()) <= -(2**62)):  # half precision ends before
            raise refusal(location, f"labels must be 0, 1, ..., but they reach from {labels.min()} to {labels.max()}")
        return labels.astype(np.int64)
    if labels.ndim == 2 and labels.dtype.kind in "biuf" and 0 not in labels.shape:
        if np.isin(labels, (0, 1)).all() and (labels.sum(1) == 1).all():
            return labels.argmax(1)
        if labels.dtype.kind == "f":
            return None
    valid = "labels must be whole numbers (N,) or (N, 1), one-hot (N, C), or floats (N, C)"
    raise refusal(location, f"{valid}; they are {labels.dtype} of {labels.shape}")


def check_decided(location: str, soft: np.ndarray, what: str) -> None:
    """Check that each soft label (N, C) has one largest value, which then says the class.

    Raises:
        InputError: When a row has several.
    """
    ties = (soft == soft.max(1, keepdims=True)).sum(1) != 1
    if ties.any():
        raise refusal(location, f"{what} does not say the class of image {int(ties.argmax())}: several values are largest")


def probabilities(
    location: str, soft: np.ndarray, labels: np.ndarray, what: str, kind: LabelKind | None
) -> tuple[np.ndarray, str]:
    """Return soft labels (N, C) as float32 probabilities, and what was done.

    Args:
        location: The set.
        soft: Floats.
        labels: int64 (N,).
        what: Where they lie, for messages.
        kind: What they are; None: told by the values where these leave no doubt. Without negative values they are
            probabilities, and rows must sum to 1, unless they are said to be such: rounded ones, or the largest few of a
            row, are then scaled. With some they are logits, or centred: probabilities less 1 / C, rows that sum to 0, as
            kernel methods learn them.

    Raises:
        InputError: For another shape or type, a value that is not finite, values that are not of the kind given, sums that
            are none of probabilities where none is, and values that may be logits as well as centred labels.
    """
    if soft.ndim != 2 or len(soft) != len(labels) or soft.shape[1] <= labels.max() or soft.dtype.kind != "f":
        needed = f"floats, for each of {len(labels)} images at least {labels.max() + 1}"
        raise refusal(location, f"{what} must hold {needed}; it is {soft.dtype} of shape {soft.shape}")
    values = soft.astype(np.float64)
    if not np.isfinite(values).all():
        raise refusal(location, f"{what} holds values that are empty or not finite")
    tolerance = _tolerance(soft)
    kind = kind or _kind(location, values, what, tolerance)
    if kind == "logits":
        values = np.exp(values - values.max(1, keepdims=True))
        return _normalised(values), f"softmax of {what}"
    done = f"probabilities of {what}"
    if kind == "centred":
        if (values >= 0).all():
            raise InputError("label_kind", kind, f"{what} has no negative value, as centred labels have")
        scaled = np.round((values - values.min()) / max(np.ptp(values), 1e-9), 3)
        one_hot = np.isin(scaled, (0, 1)).all()  # whatever its scale
        values = scaled if one_hot else (values + 1 / values.shape[1]).clip(0)
        done = f"centred labels of {what}, moved by 1 / classes, negative values made 0"
        if (values.sum(1) == 0).any():
            raise refusal(location, f"{what} holds no centred labels: a row is negative throughout")
        return _normalised(values), done
    sums = values.sum(1)
    if (values < 0).any() or (sums == 0).any():
        why = "some are negative" if (values < 0).any() else "a row is 0 throughout"
        raise refusal(location, f"{what} holds no probabilities ({why})")
    if (np.abs(sums - 1) > tolerance).any():
        done += f", whose rows summed to {sums.min():.4g} to {sums.max():.4g}"
    return _normalised(values), done


def _normalised(values: np.ndarray) -> np.ndarray:
    return (values / values.sum(1, keepdims=True)).astype(np.float32)


def _tolerance(soft: np.ndarray) -> float:
    """Return how far a row's sum may be from 1: bfloat16 keeps 8 bits, and what was rounded to it shows that in any type."""
    bits = soft.astype(np.float32).view(np.uint32) & 0xFFFF
    return _BFLOAT16 if not bits.any() else _TOLERANCE


def _kind(location: str, values: np.ndarray, what: str, tolerance: float) -> LabelKind:
    """Tell by the values (N, C) what they are."""
    sums, classes = values.sum(1), values.shape[1]
    if (values >= 0).all():
        if (np.abs(sums - 1) > tolerance).any():
            reach = f"rows sum to {sums.min():.4g} to {sums.max():.4g}, not 1"
            raise InputError(
                "label_kind",
                None,
                f"{what} holds neither probabilities ({reach}) nor logits (no value is negative); pass --label_kind "
                "probabilities, to scale them to 1, or logits",
            )
        return "probabilities"
    spread = values.max(1) - values.min(1)
    if (np.abs(sums) <= tolerance * max(1, spread.max())).all():
        two = np.unique(np.round(values / spread.max(), 3))
        one_hot = (
            len(two) == 2 and ((values > 0).sum(1) == 1).all() and (classes > 2 or np.allclose(spread, 1, atol=tolerance))
        )
        if one_hot or values.min() >= -1 / classes - tolerance:
            return "centred"
    # What a network says reaches further in some row; log-probabilities are negative throughout.
    if spread.max() <= 2 and (values.max(1) > 0).any():
        advice = "pass --label_kind logits, probabilities or centred"
        raise InputError(
            "label_kind", None, f"{what} may hold logits or centred labels (they differ by at most 2); {advice}"
        )
    return "logits"
