"""Real datasets that are known by name or Hub id, and what only that tells: no folder's or class's name does."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from distill_hub.config import InputError, nearest
from distill_hub.data.classes import IMAGENET100, IMAGENETTE, IMAGEWOOF
from distill_hub.kinds import is_path

FITTED = "fitted on "  # and the name of a source: the id of a generator or classifier that was fitted to it

RGB = tuple[float, float, float]
Normalization = Literal["imagenet", "cifar", "svhn", "mnist", "fashion-mnist", "tiny-imagenet"]
# Mean and standard deviation per channel, by name (IDC's data.py; Tiny-ImageNet: SRe2L's).
NORMALIZATIONS: dict[Normalization, tuple[RGB, RGB]] = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "cifar": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    "svhn": ((0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970)),
    "mnist": ((0.1307,) * 3, (0.3081,) * 3),
    "fashion-mnist": ((0.2861,) * 3, (0.3530,) * 3),
    "tiny-imagenet": ((0.4802, 0.4481, 0.3975), (0.2302, 0.2265, 0.2262)),
}


@dataclass(frozen=True)
class Known:
    """What is known of a source.

    Attributes:
        hub_id: Where it lies; None: it comes with scikit-learn.
        image: Its image column.
        label: Its label column.
        test_split: Its test split.
        license: Its licence.
        wnids: The classes taken, in the papers' order; None takes all.
        config: Its configuration, where it has several.
        mirrored: Whether a mirrored image still shows its class (IDC: not of SVHN and MNIST).
        normalization: That of its images where they have 64 px at most; see `NORMALIZATIONS`.
    """

    hub_id: str | None
    image: str
    label: str
    test_split: str
    license: str | None = None
    wnids: Sequence[str] | None = None
    config: str | None = None
    mirrored: bool = True
    normalization: Normalization = "imagenet"


_IMAGENET = ("ILSVRC/imagenet-1k", "image", "label", "validation", "imagenet terms of access (non-commercial research)")
KNOWN = {
    # name            Hub id                  image    label         test split    licence                       classes
    "digits": Known(None, "image", "label", "test", "cc-by-4.0", mirrored=False),
    "cifar10": Known("uoft-cs/cifar10", "img", "label", "test", normalization="cifar"),
    "cifar100": Known("uoft-cs/cifar100", "img", "fine_label", "test", normalization="cifar"),
    "svhn": Known(
        "ufldl-stanford/svhn", "image", "label", "test", config="cropped_digits", mirrored=False, normalization="svhn"
    ),
    "mnist": Known("ylecun/mnist", "image", "label", "test", mirrored=False, normalization="mnist"),
    "fashion-mnist": Known("zalando-datasets/fashion_mnist", "image", "label", "test", normalization="fashion-mnist"),
    "tiny-imagenet": Known("zh-plus/tiny-imagenet", "image", "label", "valid", normalization="tiny-imagenet"),
    "imagenette": Known(*_IMAGENET, IMAGENETTE),
    "imagewoof": Known(*_IMAGENET, IMAGEWOOF),
    "imageidc": Known(*_IMAGENET, IMAGENET100[:10]),
    "imagenet100": Known(*_IMAGENET, IMAGENET100),
    "imagenet1k": Known(*_IMAGENET),
}


def known_by_id(hub_id: str | None) -> Known | None:
    """Return what is known of the dataset with a Hub id, in any case, as the Hub takes it.

    Sources that share an id differ in their classes alone.
    """
    wanted = (hub_id or "").lower()
    return next((known for known in KNOWN.values() if known.hub_id and known.hub_id.lower() == wanted), None)


def check_source(name: str) -> None:
    """Refuse what cannot be a source: neither a known name, nor a folder here, nor a Hub id.

    Raises:
        InputError: Naming what is known.
    """
    from distill_hub.hub import missing  # not above: --help needs no Hub

    place = os.path.expanduser(name)
    if name in KNOWN or os.path.isdir(place):
        return
    if os.path.exists(place):
        raise InputError("source", name, "it is not a folder; name the one that it lies in")
    if (reason := missing(name)) is None:
        return
    if not is_path(name):
        reason = f"known: {', '.join(KNOWN)}{nearest(name, list(KNOWN))}; or a Hub id org/name, or an existing folder"
    raise InputError("source", name, reason)
