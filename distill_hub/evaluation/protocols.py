"""How a student is trained: named, versioned, frozen. A change that moves a number raises the version."""

from dataclasses import dataclass

from distill_hub.config import InputError, nearest


@dataclass(frozen=True)
class Protocol:
    """Cross-entropy on hard labels with SGD and a cosine schedule down to zero."""

    name: str
    version: int
    standard: bool  # whether the literature reports numbers under it
    steps: int  # optimiser steps, whatever the size of the set
    batch_size: int
    learning_rate: float
    momentum: float
    weight_decay: float
    shift: float  # random translation of each image by up to this share of its side, zero padding
    looks: int  # evaluations on the test split, evenly spaced, the last one after the last step


# For the digits default and for smoke runs. Not of the literature: its numbers compare only with its own baselines.
QUICK = Protocol(
    name="quick",
    version=1,
    standard=False,
    steps=100,
    batch_size=50,
    learning_rate=0.05,
    momentum=0.9,
    weight_decay=5e-4,
    shift=0.125,
    looks=5,
)
PROTOCOLS = {QUICK.name: QUICK}


def protocol(name: str, version: int | None = None) -> Protocol:
    """Return a protocol by name.

    Raises:
        InputError: When it is unknown, or known in another version than the one asked for.
    """
    if name not in PROTOCOLS:
        raise InputError("protocol", name, f"known: {', '.join(PROTOCOLS)}{nearest(name, list(PROTOCOLS))}")
    found = PROTOCOLS[name]
    if version not in (None, found.version):
        raise InputError(
            "protocol", f"{name} version {version}", f"this version of distill_hub knows version {found.version}"
        )
    return found
