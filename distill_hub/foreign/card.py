"""Splits and class names that the card of a foreign set has on record."""

from collections.abc import Mapping, Sequence
from typing import Any

from datasets import ClassLabel

from distill_hub.data.card import CARD, card_splits
from distill_hub.foreign.layout import refusal


def recorded_groups(location: str, configs: Mapping[str, Any], names: Sequence[str]) -> dict[tuple[str, ...], list[str]]:
    """Return the files of each configuration and split that has some.

    Args:
        location: The set.
        configs: Of its card.
        names: Of its files.

    Raises:
        InputError: When a configuration puts a file into two splits.
    """
    found: dict[tuple[str, ...], list[str]] = {}
    for name, config in configs.items():
        config = {"data_files": "**", **config} if config.get("data_dir") else config
        splits = card_splits("distilled set", location, config, names) or {}
        found |= {(name, split): own for split, own in splits.items() if own}
    if len(found) > 1 and len({split for _, split in found}) == 1:
        return {(name,): own for (name, _), own in found.items()}
    return found


def recorded_names(location: str, infos: Mapping[str, Any], column: str, config: str | None) -> list[str] | None:
    """Return the names of a label column; None where the card has none.

    Args:
        location: The set.
        infos: What its card has on record of each configuration.
        column: The label column.
        config: Of the files that were chosen; None: not known.

    Raises:
        InputError: When the configurations name the classes differently, and it is not known which is meant.
    """
    features = {name: (info.features or {}).get(column) for name, info in infos.items()}
    found = {name: feature.names for name, feature in features.items() if isinstance(feature, ClassLabel)}
    if config in found:
        return found[config]
    if len({tuple(names) for names in found.values()}) > 1:
        raise refusal(location, f"the configurations of its {CARD} name the classes of {column!r} differently")
    return next(iter(found.values()), None)
