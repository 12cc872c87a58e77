"""Distilled datasets as artifacts people can trust: make, load, publish and re-score them.

Importing this package stays cheap; each name below loads what it needs when it is first used.
"""

import importlib

__version__ = "0.1.0"

_LAZY = {
    "load_distilled": "distill_hub.evaluation.reevaluate",
    "evaluate": "distill_hub.evaluation.reevaluate",
    "push": "distill_hub.publishing.publish",
    "push_generator": "distill_hub.publishing.generator",
}
__all__ = ["HubError", "InputError", "__version__", *sorted(_LAZY)]

from distill_hub.config import HubError, InputError  # noqa: E402  (config reads nothing from here; it is light)


def __getattr__(name: str):
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
