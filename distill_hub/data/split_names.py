"""Which split a folder or a file of a dataset belongs to, by its name alone."""

import re
from collections.abc import Iterable

from distill_hub.config import InputError

# The words that `datasets` knows, and what it calls the split.
WORDS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}
TEST_SPLITS = ("test", "validation", "valid", "val")  # the first that there is
SHARD = re.compile(r"(?P<split>.+)-\d{5}-of-\d{5}")


def split_named(name: str, named: Iterable[str | None] = ()) -> str | None:
    """Return the split that a folder or file is called after, or None.

    Args:
        name: Of a folder, or of a file without its suffix, e.g. 'train', 'Test', 'training_set', 'val-2'.
        named: Names of splits that are known, however they are spelt.
    """
    if name in named:
        return name
    if shard := SHARD.fullmatch(name):
        return shard["split"]
    words = {WORDS[word] for word in re.split(r"[-._ 0-9]+", name.lower()) if word in WORDS}
    return words.pop() if len(words) == 1 else None


def is_split_word(name: str) -> bool:
    """Whether a name is one of the words for a split, and nothing else."""
    return name.lower() in WORDS


def find_split(name: str, splits: Iterable[str]) -> str | None:
    """Return the split that someone means by a name: the one of that name, or of another word for it ('val')."""
    splits = list(splits)
    return name if name in splits else next((s for s in splits if WORDS.get(name, name) == WORDS.get(s, s)), None)


def by_split(source: str, names: Iterable[str], named: Iterable[str | None] = ()) -> dict[str, str] | None:
    """Return the split of each name, or None when not all of them are called after one.

    Raises:
        InputError: When two of them are called after the same one, so that joining them would be a guess.
    """
    found = {name: split_named(name, named) for name in names}
    if not found or None in found.values():
        return None
    for name, split in found.items():
        if twice := [other for other in found if found[other] == split and other != name]:
            valid = f"{name!r} and {twice[0]!r} are both called like the split {split!r}; leave one of them there"
            raise InputError("source", source, valid)
    return found
