"""`distill-hub adopt`."""

import re
from pathlib import Path

from distill_hub.artifact.base import NAME
from distill_hub.artifact.find import find
from distill_hub.config import InputError, say_loading
from distill_hub.foreign.layout import check_layout
from distill_hub.options.commands import AdoptConfig


def run(config: AdoptConfig) -> Path:
    """Bring a distilled set that was made elsewhere into the artifact format: images, or tensors as authors keep them.

    The manifest says that the set is external, and claims nothing that is not known. Classes are matched by name; labels
    that are mere numbers need --classes.

        distill-hub adopt path/to/set.pt --source cifar10 --method dm --classes source --teacher auto
    """
    if config.source is None:
        raise InputError("source", None, "pass --source with the real dataset that the set stands for")
    if config.method is not None and not re.match(NAME, config.method):
        raise InputError("method", config.method, "the name of what made the set is needed, e.g. dm")
    if config.paper is not None and not re.match(r"https?://\S+$", config.paper):
        raise InputError("paper", config.paper, "a URL is needed")
    found = find(config.location, config.revision)
    if found.is_artifact:
        raise InputError("distilled set", config.location, "it is in the artifact format already")
    check_layout(found, config.data_dir)
    say_loading()
    from distill_hub.making.adopt import adopt

    return adopt(found, config)
