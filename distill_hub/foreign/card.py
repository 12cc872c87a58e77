"""What the card of a dataset repository says of its files: the YAML before the text of README.md, as `datasets` reads it."""

import fnmatch
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from distill_hub.foreign.layout import refusal
from distill_hub.text import reason

CARD = "README.md"
CARD_BYTES = 5_000_000
_ERRORS = (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError, TypeError)


@dataclass(frozen=True)
class Card:
    """Splits and class names on record.

    Args:
        splits: Patterns of file names by configuration and split.
        class_names: Names of label value 0, 1, ..., by configuration and column.
    """

    splits: Mapping[tuple[str, str], Sequence[str]] = field(default_factory=dict)
    class_names: Mapping[tuple[str, str], list[str]] = field(default_factory=dict)

    def groups(self, location: str, names: Iterable[str]) -> dict[tuple[str, ...], list[str]]:
        """Return the files of each configuration and split that has some.

        Args:
            location: The set.
            names: Of its files.

        Raises:
            InputError: When a configuration puts a file into two splits.
        """
        names = list(names)
        found: dict[tuple[str, ...], list[str]] = {}
        owner: dict[tuple[str, str], str] = {}
        for key, patterns in self.splits.items():
            if own := [name for name in names if any(_fits(name, pattern) for pattern in patterns)]:
                found[key] = own
                for name in own:
                    if owner.setdefault((key[0], name), key[1]) != key[1]:
                        first = owner[key[0], name]
                        raise refusal(location, f"its {CARD} puts {name} into two splits, {first!r} and {key[1]!r}")
        if len(found) > 1 and len({split for _, split in found}) == 1:
            return {(configuration,): own for (configuration, _), own in found.items()}
        return found

    def names_of(self, location: str, column: str, configuration: str | None) -> list[str] | None:
        """Return the names of a label column; None where the card has none.

        Args:
            location: The set.
            column: The label column.
            configuration: Of the files that were chosen; None: not known.

        Raises:
            InputError: When the card's configurations name them differently, and it is not known which is meant.
        """
        found = {config: names for (config, name), names in self.class_names.items() if name == column}
        if configuration in found:
            return found[configuration]
        if len({tuple(names) for names in found.values()}) > 1:
            raise refusal(location, f"the configurations of its {CARD} name the classes of {column!r} differently")
        return next(iter(found.values()), None)


def read_card(location: str, text: bytes) -> Card:
    """Read a README.md.

    Raises:
        InputError: When its YAML is damaged, or what it says of files and classes has another form than `datasets` writes.
    """
    lines = text.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n")
    if not lines.startswith(b"---\n") or (end := lines.find(b"\n---", 3)) < 0:
        return Card()
    try:
        block = lines[4:end].decode("utf-8")
        if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(block)):
            raise ValueError("it has aliases, which may stand for any amount of data")
        facts = yaml.safe_load(block)
        if not isinstance(facts, dict):
            return Card()
        splits = list(_splits(facts.get("configs")))
        if len(dict(splits)) < len(splits):
            raise ValueError("its configs name a split twice")
        return Card(dict(splits), dict(_class_names(facts.get("dataset_info"))))
    except _ERRORS as error:
        raise refusal(location, f"the YAML of its {CARD} cannot be read ({reason(error)})") from error


def _splits(configs: Any) -> Iterable[tuple[tuple[str, str], list[str]]]:
    for config in _listed(configs):
        name, files = str(config.get("config_name", "default")), config.get("data_files")
        if isinstance(files, dict):
            files = [{"split": split, "path": path} for split, path in files.items()]
        if isinstance(files, str) or (isinstance(files, list) and all(isinstance(path, str) for path in files)):
            files = [{"split": "train", "path": files}]
        prefix = f"{config['data_dir'].strip('/')}/" if isinstance(config.get("data_dir"), str) else ""
        if files is None and prefix:
            files = [{"split": "train", "path": "**"}]
        for entry in files or ():
            paths = entry["path"] if isinstance(entry["path"], list) else [entry["path"]]
            yield (name, str(entry.get("split", "train"))), [prefix + str(path).removeprefix("./") for path in paths]


def _class_names(infos: Any) -> Iterable[tuple[tuple[str, str], list[str]]]:
    for info in _listed(infos):
        for feature in _listed(info.get("features")):
            kind = feature.get("dtype", feature)
            if isinstance(kind, dict) and isinstance(kind.get("class_label"), dict):
                names = kind["class_label"].get("names")
                if isinstance(names, dict):
                    by_value = {int(value): name for value, name in names.items()}
                    if sorted(by_value) != list(range(len(names))):
                        raise ValueError(f"class names of {feature.get('name')!r} are not numbered 0, 1, ...")
                    names = [by_value[value] for value in range(len(names))]
                if not isinstance(names, list) or not names:
                    raise ValueError(f"class names of {feature.get('name')!r} are no list")
                yield (str(info.get("config_name", "default")), str(feature.get("name"))), [str(name) for name in names]


def _listed(value: Any) -> list[dict]:
    """Return dicts: several, one, or none."""
    values = value if isinstance(value, list) else [] if value is None else [value]
    if not all(isinstance(one, dict) for one in values):
        raise ValueError("configs, dataset_info and features must be lists of mappings")
    return values


def _fits(name: str, pattern: str) -> bool:
    """Whether a file is meant by a pattern of the card; a folder means what it holds."""
    return (
        fnmatch.fnmatchcase(name, pattern)
        or fnmatch.fnmatchcase(name, f"{pattern.rstrip('/')}/*")
        or ("**/" in pattern and fnmatch.fnmatchcase(name, pattern.replace("**/", "")))
    )
