"""Real datasets that are known by name."""

import os
from collections.abc import Sequence
from dataclasses import dataclass

from distill_hub.config import InputError, nearest
from distill_hub.data.classes import IMAGENET100, IMAGENETTE, IMAGEWOOF
from distill_hub.kinds import is_path

FITTED = "fitted on "  # and the name of a source: the id of a generator or classifier that was fitted to it


@dataclass(frozen=True)
class Known:
    """Where a named source lies. ``wnids``: the classes taken, in the papers' order; None takes all."""

    hub_id: str | None
    image: str
    label: str
    test_split: str
    license: str | None = None
    wnids: Sequence[str] | None = None


_IMAGENET = ("ILSVRC/imagenet-1k", "image", "label", "validation", "imagenet terms of access (non-commercial research)")
KNOWN = {
    # name            Hub id                  image    label         test split    licence                       classes
    "digits": Known(None, "image", "label", "test", "cc-by-4.0"),
    "cifar10": Known("uoft-cs/cifar10", "img", "label", "test"),
    "cifar100": Known("uoft-cs/cifar100", "img", "fine_label", "test"),
    "tiny-imagenet": Known("zh-plus/tiny-imagenet", "image", "label", "valid"),
    "imagenette": Known(*_IMAGENET, IMAGENETTE),
    "imagewoof": Known(*_IMAGENET, IMAGEWOOF),
    "imageidc": Known(*_IMAGENET, IMAGENET100[:10]),
    "imagenet100": Known(*_IMAGENET, IMAGENET100),
    "imagenet1k": Known(*_IMAGENET),
}


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
