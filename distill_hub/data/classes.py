"""Classes by name: the papers' ImageNet subsets, and the matching of one dataset's or model's classes with another's."""

from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cache
from unicodedata import normalize

from distill_hub.config import InputError
from distill_hub.text import few

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
    if not names:
        raise InputError(field, what, "its class names are not known; its model_index.json or config.json needs id2label")
    fits = _fits([_of_class(c) for c in classes], [_of_name(name) for name in _ids(names, classes)])
    if missing := [c.name for c, places in zip(classes, fits, strict=True) if len(places) != 1]:
        raise InputError(field, what, f"its {_some(names)} do not give one for: {few(missing)}")
    return [place for (place,) in fits]


def find_classes(
    names: Sequence[str], classes: Sequence[SourceClass], field: str, what: str, needed: Collection[int] | None = None
) -> list[int]:
    """Find the class of a source that each name stands for, by name, wnid or a shared synonym, never by position.

    Args:
        names: Class names or wnids of something else, e.g. of a distilled set in the order of its labels.
        classes: The source's classes.
        field: Option to blame, with which other names can be given.
        what: Where the names come from, for the message.
        needed: Positions of the names that must be found; None for all.

    Returns:
        The position in `classes` for each name. -1 for a name that is not needed and fits no class, or not alone.

    Raises:
        InputError: Naming the needed ones that fit no class or several, or that stand for the same class.
    """
    needed = range(len(names)) if needed is None else needed
    found = places_of(names, classes)
    advice = f"pass the name or wnid of each with --{field}"
    if missing := [names[i] for i in needed if found[i] < 0]:
        theirs = f"the source's {_some([c.name for c in classes])}"
        raise InputError(field, what, f"{theirs} do not give one for its names: {few(missing)}; {advice}")
    shared = Counter(found[i] for i in needed)
    if double := [names[i] for i in needed if shared[found[i]] > 1]:
        raise InputError(field, what, f"several of its names stand for one class: {few(double)}; {advice}")
    alone = Counter(found)
    return [place if i in needed or alone[place] == 1 else -1 for i, place in enumerate(found)]


def places_of(names: Sequence[str], classes: Sequence[SourceClass]) -> list[int]:
    """Return the position in `classes` that each name stands for; -1 where it is none, or several."""
    fits = _fits([_of_name(name) for name in _ids(names, classes)], [_of_class(c) for c in classes])
    return [places[0] if len(places) == 1 else -1 for places in fits]


def _ids(names: Sequence[str], classes: Sequence[SourceClass]) -> Sequence[str]:
    """Return wnids in place of ImageNet-1K's names, which are not unique, when the classes are known by theirs."""
    by_wnid = len(names) == 1000 and all(c.wnid for c in classes) and is_imagenet(names)
    return imagenet_classes()[0] if by_wnid else names


def _of_name(name: str) -> tuple[set[str], set[str]]:
    """Return what a name is known by, and its synonyms; an accent may be taken apart, as file names of macOS have it."""
    name = normalize("NFC", name)
    return {name}, _words(name)


def _of_class(c: SourceClass) -> tuple[set[str], set[str]]:
    known_by, words = _of_name(c.name)
    return known_by | ({c.wnid} if c.wnid else set()), words


def _fits(sought: Sequence[tuple], offered: Sequence[tuple]) -> list[list[int]]:
    """Return for each that is sought the positions of those offered: known by the same name or wnid, else by a synonym."""
    by_name, by_word = defaultdict(set), defaultdict(set)  # positions of those offered
    for place, (known_by, words) in enumerate(offered):
        for name in known_by:
            by_name[name].add(place)
        for word in words:
            by_word[word].add(place)

    def places(index: dict[str, set[int]], keys: set[str]) -> list[int]:
        return sorted(set().union(*(index[key] for key in keys if key in index)))

    return [places(by_name, known_by) or places(by_word, words) for known_by, words in sought]


def _some(names: Sequence[str]) -> str:
    return f"{len(names)} classes ({', '.join(names[:3])}, ...)"
