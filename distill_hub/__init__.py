"""Distilled datasets as artifacts people can trust: make, load, train on, publish and re-score them.

Importing this package stays cheap; each name below loads what it needs when it is first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distill_hub.config import HubError, InputError
    from distill_hub.dataset import DistilledDataset
    from distill_hub.evaluation.reevaluate import evaluate, load_distilled
    from distill_hub.launching.recipes import make
    from distill_hub.publishing.generator import push_generator
    from distill_hub.publishing.publish import push

__version__ = "0.1.0"

_LAZY = {
    "HubError": "distill_hub.config",
    "InputError": "distill_hub.config",
    "DistilledDataset": "distill_hub.dataset",
    "load_distilled": "distill_hub.evaluation.reevaluate",
    "evaluate": "distill_hub.evaluation.reevaluate",
    "make": "distill_hub.launching.recipes",
    "push": "distill_hub.publishing.publish",
    "push_generator": "distill_hub.publishing.generator",
}
__all__ = [
    "DistilledDataset",
    "HubError",
    "InputError",
    "__version__",
    "evaluate",
    "load_distilled",
    "make",
    "push",
    "push_generator",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
