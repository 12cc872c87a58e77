"""Sets that show ImageNet's own images, which their users may have under its terms alone (https://image-net.org/download)."""

from distill_hub.artifact.manifest import Manifest
from distill_hub.artifact.names import is_synthetic
from distill_hub.data.known import KNOWN, known_by_id

WARNING = (
    "warning: this set shows ImageNet's own images to everybody, and ImageNet's terms allow non-commercial research and "
    "education alone, by those who agreed to them: `--gated auto` lets in whoever does, `--private` nobody else"
)
PROMPT = (  # what the Hub asks readers of a gated repository to accept
    "This set shows images of ImageNet as they are. Its terms of access (https://image-net.org/download) hold for them: "
    "non-commercial research and education alone, and nobody may be given them who has not agreed to these terms."
)


def shows_imagenet(manifest: Manifest) -> bool:
    """Whether a set holds pixels of ImageNet as they are: real images, or crops of them, of classes that have its wnids."""
    known = known_by_id(manifest.source.hub_id)
    is_imagenet = any(own.wnid for own in manifest.classes) or (known and known.hub_id == KNOWN["imagenet1k"].hub_id)
    return bool(is_imagenet) and is_synthetic(manifest.method) is False
