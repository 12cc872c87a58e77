"""What a text-to-image generator is told of each class: a table of prompts, from a file or from the classes' names."""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from unicodedata import normalize

import yaml

from distill_hub.config import InputError, refusing
from distill_hub.data.classes import SourceClass, imagenet_classes
from distill_hub.parsing import read_file, read_yaml
from distill_hub.text import few

TEMPLATE = "a photo of a {}"
NEEDED = "a YAML or JSON file of 'class name or wnid: prompt' is needed"
MAX_BYTES = 10_000_000  # of a table: room for 100,000 classes


def check_prompts(file: str | None) -> None:
    """Refuse a table that lies in no file; None is no name.

    Raises:
        InputError: Saying what is valid.
    """
    if file is not None and not os.path.isfile(file):
        raise InputError("prompts", file, NEEDED)


def prompts_of(classes: Sequence[SourceClass], template: str = TEMPLATE, file: Path | None = None) -> list[str]:
    """Return the prompt of every class.

    Args:
        classes: Those of the source. Of one that ImageNet has, by its wnid, the name is ImageNet's: the first of its
            synonyms, or where that would leave two classes alike, all of them.
        template: What a name is put into, at '{}'; '{}' alone is the name as it is (D4M).
        file: YAML or JSON with the prompt, as it is, of some classes by name or wnid. It may name any wnid of ImageNet, so
            that one table serves all its subsets.

    Raises:
        InputError: For a template without a place, a table that cannot be read or names what is no class, and two classes
            with one prompt, which the generator could not tell apart.
    """
    if template.count("{}") != 1:
        raise InputError(
            "prompt_template", template, f"it needs '{{}}' once, where the class's name goes, as in {TEMPLATE!r}"
        )
    given = _read(file, classes) if file else {}
    names = _names(classes)
    prompts = [
        given.get(c.wnid or "", given.get(normalize("NFC", c.name), template.replace("{}", name)))
        for c, name in zip(classes, names, strict=True)
    ]
    for same in _alike(prompts):
        one, other = (_called(classes[place]) for place in same[:2])
        raise InputError(
            "prompts", prompts[same[0]], f"{one} and {other} would have it both; give each class its own in a --prompts file"
        )
    return prompts


def _names(classes: Sequence[SourceClass]) -> list[str]:
    """Return what classes are called in a prompt."""
    described = dict(zip(*imagenet_classes(), strict=True)) if any(c.wnid for c in classes) else {}
    whole = [described.get(c.wnid or "", c.name).replace("_", " ") for c in classes]
    names = [name.split(",")[0].strip() if c.wnid in described else name for c, name in zip(classes, whole, strict=True)]
    for places in _alike(names):
        for place in places:
            names[place] = whole[place]
    return names


def _alike(texts: Sequence[str]) -> list[list[int]]:
    """Return the places of texts that the tokenizer of CLIP makes the same of: it knows neither capitals nor wide spaces."""
    places: dict[str, list[int]] = {}
    for place, text in enumerate(texts):
        places.setdefault(" ".join(normalize("NFC", text).lower().split()), []).append(place)
    return [same for same in places.values() if len(same) > 1]


def _called(c: SourceClass) -> str:
    return c.name if c.wnid is None or c.wnid in c.name else f"{c.name} ({c.wnid})"


def _read(file: Path, classes: Sequence[SourceClass]) -> Mapping[str, str]:
    """Read a table of prompts, by name or wnid."""
    with refusing((OSError, ValueError), "prompts", str(file), NEEDED):
        # Every value as it is written: a class may be called 0, or no. JSON is YAML but for pairs of surrogates.
        table = read_yaml(read_file(file, MAX_BYTES).decode("utf-8-sig"), yaml.BaseLoader)
        if not isinstance(table, dict):
            raise ValueError("it holds no lines of that kind")
        for name, prompt in table.items():
            if not isinstance(prompt, str) or not prompt.strip() or not prompt.isprintable():
                raise ValueError(f"what it has for {name} is no line of text")
    table = {normalize("NFC", name): prompt for name, prompt in table.items()}
    known = {normalize("NFC", c.name) for c in classes} | {c.wnid for c in classes}
    strange = [name for name in table if name not in known and not _is_imagenet(name)]
    if strange:
        raise InputError("prompts", str(file), f"the source has no class that is called: {few(strange)}")
    if double := [c.name for c in classes if c.wnid != c.name and {c.wnid, normalize("NFC", c.name)} <= table.keys()]:
        raise InputError("prompts", str(file), f"it names both name and wnid of: {few(double)}")
    return table


def _is_imagenet(name: str) -> bool:
    return re.fullmatch(r"n\d{8}", name) is not None and name in imagenet_classes()[0]
