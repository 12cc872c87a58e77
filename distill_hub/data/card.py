"""What the card of a dataset says of its files: the YAML at the top of README.md, as `datasets` reads it."""

import os
import re
import tarfile
from collections.abc import Collection, Mapping
from typing import Any

import pyarrow as pa
import yaml
from datasets.data_files import sanitize_patterns
from datasets.exceptions import DatasetsError
from datasets.info import DatasetInfosDict
from datasets.utils.metadata import MetadataConfigs
from fsspec.utils import glob_translate

from distill_hub.config import InputError, refusing
from distill_hub.parsing import front_matter
from distill_hub.text import few

CARD = "README.md"
# What `datasets` raises for files, cards and tables that are damaged, missing or not what it expects.
BROKEN = (
    *(OSError, ValueError, RuntimeError, TypeError, LookupError, AttributeError, RecursionError, OverflowError),
    *(AssertionError, pa.ArrowException, DatasetsError, yaml.YAMLError, tarfile.TarError),
)


def read_card(field: str, name: str, data: bytes) -> tuple[MetadataConfigs, DatasetInfosDict]:
    """Read the configurations, and what is on record of them, from the card of a dataset.

    Args:
        field: What is refused.
        name: What the user calls it.
        data: README.md; empty where there is none.

    Raises:
        InputError: When its YAML is damaged or ambiguous, or of another form than `datasets` reads.
    """
    with refusing(BROKEN, field, name, f"the YAML of its {CARD} cannot be read"):
        content, _ = front_matter(data.decode())
        for key in ("configs", "dataset_info"):  # of two of one name `datasets` takes the last
            listed = content.get(key) if isinstance(content.get(key), list) else []
            names = [one.get("config_name", "default") for one in listed]
            if len(set(names)) < len(names) or not all(isinstance(name, str) for name in names):
                raise ValueError(
                    f"its {key} must name each configuration once, with a text; they are {few(map(str, names))}"
                )
        configs = MetadataConfigs.from_dataset_card_data(content)
        configs.get_default_config_name()  # there may be one
        return configs, DatasetInfosDict.from_dataset_card_data(content)


def card_splits(field: str, name: str, config: Mapping[str, Any], files: Collection[str]) -> dict[str, list[str]] | None:
    """Return the files of each split that a configuration in a card names; None when it names none.

    Args:
        field: What is refused.
        name: What the user calls it.
        config: The configuration, as the card has it.
        files: Files of the folder, as paths from it: no others are ever read.

    Raises:
        InputError: When a file is in two splits, or a pattern is none.
    """
    if config.get("data_files") is None:
        return None
    with refusing((*BROKEN, re.error), field, name, f"the data_files of its {CARD} cannot be read"):
        folder, patterns = config.get("data_dir") or "", sanitize_patterns(config["data_files"])
        matching = {
            split: [re.compile(glob_translate(os.path.normpath(os.path.join(folder, pattern)))).match for pattern in own]
            for split, own in patterns.items()
        }
    result: dict[str, list[str]] = {}
    owner: dict[str, str] = {}
    for split, matches in matching.items():
        result[split] = [file for file in files if any(match(file) for match in matches)]
        for file in result[split]:
            if owner.setdefault(file, split) != split:
                raise InputError(field, name, f"its {CARD} puts {file!r} into two splits, {owner[file]!r} and {split!r}")
    return result
