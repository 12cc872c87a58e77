"""The libraries whose versions can change the bits of what is made."""

from functools import cache
from importlib import metadata

_PACKAGES = ("distill-hub", "torch", "torchvision", "diffusers", "transformers", "timm", "numpy", "pillow")


@cache
def versions() -> dict[str, str]:
    """Return the version of each, by name."""
    return {name: metadata.version(name) for name in _PACKAGES}
