"""Classes by name: the papers' ImageNet subsets, and the matching of one dataset's or model's classes with another's."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from distill_hub.config import InputError

IMAGENETTE = "n01440764 n02102040 n02979186 n03000684 n03028079 n03394916 n03417042 n03425413 n03445777 n03888257".split()
# The order of the papers' class file. It is not sorted; an image folder of the same classes is.
IMAGEWOOF = "n02096294 n02093754 n02111889 n02088364 n02086240 n02089973 n02087394 n02115641 n02099601 n02105641".split()
# ImageNet-100 as in IDC (Kim et al., 2022), in its order; its first ten classes are ImageIDC (ImageNet-10).
IMAGENET100 = """
n02869837 n01749939 n02488291 n02107142 n13037406 n02091831 n04517823 n04589890 n03062245 n01773797
n01735189 n07831146 n07753275 n03085013 n04485082 n02105505 n01983481 n02788148 n03530642 n04435653
n02086910 n02859443 n13040303 n03594734 n02085620 n02099849 n01558993 n04493381 n02109047 n04111531
n02877765 n04429376 n02009229 n01978455 n02106550 n01820546 n01692333 n07714571 n02974003 n02114855
n03785016 n03764736 n03775546 n02087046 n07836838 n04099969 n04592741 n03891251 n02701002 n03379051
n02259212 n07715103 n03947888 n04026417 n02326432 n03637318 n01980166 n02113799 n02086240 n03903868
n02483362 n04127249 n02089973 n03017168 n02093428 n02804414 n02396427 n04418357 n02172182 n01729322
n02113978 n03787032 n02089867 n02119022 n03777754 n04238763 n02231487 n03032252 n02138441 n02104029
n03837869 n03494278 n04136333 n03794056 n03492542 n02018207 n04067472 n03930630 n03584829 n02123045
n04229816 n02100583 n03642806 n04336792 n03259280 n02116738 n02108089 n03424325 n01855672 n02090622
""".split()


@dataclass(frozen=True)
class SourceClass:
    """One class of a source. Its position in `Source.classes` is its label in a distilled set."""

    name: str
    index: int | str  # its label in the source dataset
    wnid: str | None = None


@cache
def imagenet_classes() -> tuple[list[str], list[str]]:
    """Return ImageNet-1K's wnids and descriptions (synonyms, comma separated), both in class-index order."""
    from timm.data import ImageNetInfo

    info = ImageNetInfo()
    return info.label_names(), [info.index_to_description(index) for index in range(1000)]


def is_imagenet(names: Sequence[str]) -> bool:
    """Whether 1,000 class names are ImageNet-1K's, in its order: by wnid, or by a shared synonym."""
    wnids, descriptions = imagenet_classes()
    pairs = zip(names, wnids, descriptions, strict=True)
    # 'crane2': a ClassLabel allows no name twice.
    return all(name == wnid or _words(name.rstrip("0123456789")) & _words(description) for name, wnid, description in pairs)


def _words(name: str) -> set[str]:
    """Split 'tench, Tinca_tinca' into its synonyms."""
    return {part.strip().lower().replace("_", " ") for part in name.split(",")}


def match_classes(classes: Sequence[SourceClass], names: Sequence[str], field: str, what: str) -> list[int]:
    """Find every class of a source among the classes of a model, by wnid or name, never by position.

    Args:
        classes: The source's classes.
        names: The model's class names, in its order.
        field: Option to blame, e.g. 'generator'.
        what: The model, for the message.

    Returns:
        The model's index for each class.

    Raises:
        InputError: Naming the classes that are missing or fit several of the model's.
    """
    if len(names) == 1000 and all(c.wnid for c in classes) and is_imagenet(names):
        wnids, _ = imagenet_classes()
        return [wnids.index(c.wnid) for c in classes]
    if not names:
        raise InputError(field, what, "its class names are not known; its model_index.json or config.json needs id2label")
    found, missing = [], []
    for c in classes:
        exact = [i for i, name in enumerate(names) if name in (c.name, c.wnid)]
        fits = exact or [i for i, name in enumerate(names) if _words(name) & _words(c.name)]
        if len(fits) == 1:
            found += fits
        else:
            missing.append(c.name)
    if missing:
        shown = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
        raise InputError(field, what, f"its {len(names)} classes ({', '.join(names[:3])}, ...) do not give one for: {shown}")
    return found
