"""Generators that are known by name, and what a generator's folder says of where it comes from."""

import os
from pathlib import Path
from typing import Any

from distill_hub.config import refusing
from distill_hub.parsing import CARD_BYTES, front_matter, read_file, read_object

IMAGENET_DIT = "facebook/DiT-XL-2-256"
# The repository's main branch holds pickled weights only, which are not loaded here; this ref holds them as safetensors.
IMAGENET_DIT_REVISION = "refs/pr/1"
PHASES = "phases.safetensors"  # in the folder of one that was fine-tuned in groups of classes: their weights
TUNING = "tuning.json"  # in the folder of a generator that was fine-tuned: how that was done
DIT_LICENSE = "cc-by-nc-4.0"  # of `IMAGENET_DIT`
# Of text-to-image generators, as their model cards have it.
TEXT_LICENSES = {
    "stable-diffusion-v1-5/stable-diffusion-v1-5": "creativeml-openrail-m",
    "stabilityai/stable-diffusion-xl-base-1.0": "openrail++",
}


def is_imagenet_dit(location: str) -> bool:
    """Whether a location is that of `IMAGENET_DIT`."""
    return _is_copy(location, IMAGENET_DIT)


def _is_copy(location: str, id: str) -> bool:
    """Whether a location is a Hub id, a copy of it under its own name, or its snapshot in the Hub's cache.

    In any case, as the Hub takes ids.
    """
    parts, known = Path(location.lower()).parts, id.lower()
    return parts[-1:] == (known.split("/")[1],) or f"models--{known.replace('/', '--')}" in parts


def text_license(name: str, folder: Path) -> str | None:
    """Return the licence of a text-to-image generator: the one that its folder states, else that of the one it is a copy of.

    Raises:
        InputError: See `stated_license`.
    """
    known = (license for id, license in TEXT_LICENSES.items() if _is_copy(name, id))
    return stated_license(folder) or next(known, None)


def tuned_from(folder: Path) -> dict[str, Any] | None:
    """Read what a generator in a folder was tuned from, as its record has it; None where nothing says that it was.

    Raises:
        InputError: When the record cannot be read.
    """
    if not os.path.lexists(folder / TUNING):
        return None
    valid = f"its {TUNING} does not say what it comes from"
    with refusing((OSError, ValueError, KeyError), "generator", str(folder), valid):
        return read_object(folder / TUNING, CARD_BYTES)["base"]


def stated_license(folder: Path, field: str = "generator") -> str | None:
    """Read which licence a folder's README.md states, as model cards on the Hub do; None where none does.

    Args:
        folder: Of a model.
        field: Option to blame.

    Raises:
        InputError: When the YAML of the README.md is broken.
    """
    if not os.path.lexists(folder / "README.md"):
        return None
    with refusing((OSError, ValueError), field, str(folder), "the YAML at the top of its README.md cannot be read"):
        data, _ = front_matter(read_file(folder / "README.md", CARD_BYTES).decode())
    license = data.get("license_name") if data.get("license") == "other" else data.get("license")
    return None if license is None else str(license)
