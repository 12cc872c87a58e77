"""Tags of a set's card, by which it is found on the Hub, and what they tell of it there."""

from collections.abc import Iterable
from dataclasses import dataclass

from distill_hub.artifact.manifest import Manifest
from distill_hub.artifact.names import is_synthetic
from distill_hub.disk.files import slug

OURS = "distill-hub"
GENERAL = ("dataset-distillation", "dataset-condensation", "dataset-compression", OURS)
SYNTHETIC = "synthetic"  # of images that nobody took
_SOURCE, _IPC = "source-", "ipc-"


def card_tags(manifest: Manifest) -> list[str]:
    """Return the tags of a set's card: general ones, its method, images per class and source."""
    kind = [SYNTHETIC] if is_synthetic(manifest.method) else []
    return [*GENERAL, *kind, method_tag(manifest.method.name), ipc_tag(manifest.ipc), source_tag(manifest.source.name)]


def method_tag(method: str) -> str:
    """Return the tag of sets by a method; the Hub tells cases apart, people do not."""
    return method.lower()


def source_tag(source: str) -> str:
    """Return the tag of sets that stand for a source."""
    return f"{_SOURCE}{slug(source)}"


def ipc_tag(ipc: int) -> str:
    """Return the tag of sets of so many images per class."""
    return f"{_IPC}{ipc}"


@dataclass(frozen=True)
class Tagged:
    """What the tags of a card tell; None: they do not."""

    source: str | None
    ipc: int | None
    method: str | None


def read_tags(tags: Iterable[str]) -> Tagged:
    """Read the tags that the Hub lists of a set: its card's, in their order, among the Hub's own, which hold a colon.

    People add tags after those of `card_tags`, so the method is the first that nothing else is called.
    """
    own = [tag for tag in tags if ":" not in tag and tag not in (*GENERAL, SYNTHETIC)]
    sources = [tag.removeprefix(_SOURCE) for tag in own if tag.startswith(_SOURCE)]
    sizes = [int(size) for tag in own if tag.startswith(_IPC) and (size := tag.removeprefix(_IPC)).isdecimal()]
    methods = [tag for tag in own if not tag.startswith((_SOURCE, _IPC))]
    return Tagged(*(next(iter(found), None) for found in (sources, sizes, methods)))
