"""Sources that `datasets` reads: local folders of tables (parquet, arrow, ...), and datasets on the Hub."""

import errno
import glob
import json
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pyarrow.parquet as pq
from datasets import ClassLabel, Dataset, DatasetBuilder, Features, Image, load_dataset_builder
from datasets.load import dataset_module_factory
from huggingface_hub import HfApi

from distill_hub.config import InputError, refusing
from distill_hub.data.card import BROKEN
from distill_hub.data.file_facts import have_settled, state_of
from distill_hub.data.folders import METADATA, TABLES, LeftOut, Listing, lay_out
from distill_hub.data.images import SUFFIXES
from distill_hub.data.rows import Choose, Opened, Origin, Rows, holds_labels
from distill_hub.data.rows import image_column as find_image_column
from distill_hub.data.rows import label_column as find_label_column
from distill_hub.data.split_names import by_split, split_named
from distill_hub.text import few, reason

_BUILDERS = {
    ".parquet": "parquet", ".arrow": "arrow", ".tar": "webdataset", ".jsonl": "json", ".json": "json", ".csv": "csv",
    ".tsv": "csv",
}  # fmt: skip
# Those that can hold images or paths to them; others run queries, or read what is none.
_READ = {*_BUILDERS.values(), "imagefolder", "cache"}
_UNTOLD = ("state.json", "dataset_info.json", "dataset_infos.json", "dataset_dict.json", "config.json")
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)


def choose_config(source: str, configs: Mapping[str, Any], default: str | None, wanted: str | None) -> str | None:
    """Return the configuration to read, None where there are none.

    Raises:
        InputError: When one must be named, or the one named is not there.
    """
    listed = ", ".join(configs) or "none"
    if wanted is not None and wanted not in configs:
        raise InputError("source_config", wanted, f"the configurations of {source} are: {listed}")
    if len(configs) < 2:
        return wanted or next(iter(configs), None)
    if (wanted or default) is None:
        raise InputError("source", source, f"it has several configurations; pass one with --source_config: {listed}")
    return wanted or default


def table_splits(source: str, names: Sequence[str], named: Collection[str | None]) -> dict[str, list[str]]:
    """Return the tables of each split: by the top folders, where there are any, and else by what the files are called.

    Raises:
        InputError: When some are called after a split and others are not, or they lie in folders that are no splits.
    """
    paths = {name: name.split("/") for name in names}
    while len({parts[0] for parts in paths.values()}) == 1 and all(len(parts) > 1 for parts in paths.values()):
        if split_named(next(iter(paths.values()))[0], named):
            break
        paths = {name: parts[1:] for name, parts in paths.items()}
    result: dict[str, list[str]] = {}
    if folders := sorted({parts[0] for parts in paths.values() if len(parts) > 1}):
        splits = by_split(source, folders, named)
        if splits is None or any(len(parts) == 1 for parts in paths.values()):
            valid = f"its tables lie in {few(folders)}, which are not all splits; name one of these folders"
            raise InputError("source", source, valid)
        for name, parts in paths.items():
            result.setdefault(splits[parts[0]], []).append(name)
        return result
    found = {name: split_named(os.path.splitext(parts[0])[0], named) for name, parts in paths.items()}
    if not any(found.values()):
        return {"train": list(names)}
    if others := [name for name, split in found.items() if split is None]:
        called = next(name for name, split in found.items() if split)
        raise InputError("source", source, f"{others[0]!r} is not called after a split, as {called!r} is; rename or move it")
    for name, split in found.items():
        result.setdefault(str(split), []).append(name)
    return result


def open_tables(
    source: str,
    found: Listing,
    choose: Choose,
    *,
    named: Collection[str | None] = (),
    given: Mapping[str, Iterable[str]] | None = None,
    features: Features | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
) -> Opened:
    """Open a local folder of tables.

    Args:
        source: What the user calls it.
        found: The files of the folder.
        choose: The splits to open, of those that there are.
        named: Names of splits that the user gave.
        given: Tables of each split where the dataset's card says so.
        features: Of the columns, where the card has them.
        image_column: Name; default: the only one of images.
        label_column: Name; default: the only ClassLabel, or one that is called so.

    Raises:
        InputError: For tables that cannot be read or contradict each other, or columns that are not there.
    """
    tables = [name for name in found.tables if name.rpartition("/")[2] not in _UNTOLD]
    if given is not None:
        tables = [name for own in given.values() for name in own]
    suffixes = {os.path.splitext(name)[1].lower() for name in tables}
    suffix = next((suffix for suffix in TABLES if suffix in suffixes), None)
    if suffix is None or not suffixes <= {*TABLES}:
        raise InputError("source", source, f"tables or images are needed; its card names {few(tables)}")
    read = dict.fromkeys(name for name in tables if name.lower().endswith(suffix))
    left_out: LeftOut = {why: list(names) for why, names in found.left_out.items()}
    if others := [*found.images, *(name for name in tables if name not in read)]:
        left_out.setdefault("of other kinds", []).extend(others)
    splits = {s: [n for n in own if n in read] for s, own in given.items()} if given else None
    splits = splits or table_splits(source, list(read), named)
    if set(splits) == {"all"}:  # which `datasets` keeps for the union of several
        splits = {"train": splits["all"]}
    files = {split: [os.path.join(os.path.abspath(found.root), name) for name in own] for split, own in splits.items()}
    for file in (file for own in files.values() for file in own):
        if "::" in file or os.path.expandvars(file) != file:  # `datasets` would open another one
            raise InputError(
                "source", source, f"tables are not read from a path with '::' or a $VARIABLE: {file}; rename it"
            )
    if suffix == ".parquet":
        _refuse_contradiction(source, found.root, [file for own in files.values() for file in own], features)
    origins = {split: origin for split, own in files.items() if (origin := _origin_of(own))}  # before they are read
    how: dict[str, Any] = {"sep": "\t"} if suffix == ".tsv" else {}
    with _reading(source):
        builder = load_dataset_builder(
            _BUILDERS[suffix],
            data_files={split: [glob.escape(file) for file in own] for split, own in files.items()},
            features=features,
            **how,
        )
    return _opened(source, builder, choose, image_column, label_column, left_out, origins.get)


def _origin_of(files: Sequence[str]) -> Origin | None:
    """Return what says whether files are still the same; None where one has just changed."""
    states = [state_of(file) for file in files]
    return Origin(json.dumps([files, states]), is_commit=False) if have_settled(states).all() else None


def _refuse_contradiction(source: str, root: str, files: Sequence[str], card: Features | None) -> None:
    """Refuse labels that are names in one parquet file and numbers in another, and names that differ, from the card's too.

    `datasets` would make texts of both, and take the names of the card, or of the first file.
    """
    first = {
        column: (kind, "its card") for column, feature in (card or {}).items() if isinstance(kind := _named(feature), list)
    }
    for file in files:
        name = os.path.relpath(file, root)
        with refusing(BROKEN, "source", source, f"{name} cannot be read"):
            features = Features.from_arrow_schema(pq.read_schema(file))
        for column, feature in features.items():
            kind, other = first.setdefault(column, (_named(feature), name))
            if _named(feature) != kind and (other != "its card" or isinstance(_named(feature), list)):
                raise InputError("source", source, f"{other} and {name} name the classes of {column!r} differently")


def _named(feature: Any) -> list[str] | str | None:
    """Return the names of classes, or what stands in their place where a column may hold labels."""
    if isinstance(feature, ClassLabel) or not holds_labels(feature):
        return getattr(feature, "names", None)
    return "texts" if "string" in feature.dtype else "numbers"


def open_hub(
    source: str,
    revision: str | None,
    config: str | None,
    choose: Choose,
    *,
    named: Collection[str | None] = (),
    image_column: str | None = None,
    label_column: str | None = None,
) -> Opened:
    """Open a dataset on the Hub.

    Args:
        source: Its id.
        revision: Branch, tag or commit.
        config: Its configuration, where it has several.
        choose: The splits to open, of those that there are.
        named: Names of splits that the user gave.
        image_column: Name; default: the only one of images.
        label_column: Name; default: the only ClassLabel, or one that is called so.

    Raises:
        InputError: When there is no such dataset, or it cannot be read.
    """
    with _reading(source):
        module = dataset_module_factory(source, revision=revision)
        parameters = module.builder_configs_parameters
        configs = parameters.metadata_configs or {}
        chosen = choose_config(source, configs, parameters.default_config_name, config) if configs else config
        builder = load_dataset_builder(source, name=chosen, revision=revision)
        # What no card says, `datasets` reads from any part of a path: a class called like a split is taken for one.
        if chosen is None or configs.get(chosen, {}).get("data_files") is None:
            builder = _by_top_folder(source, builder, revision, named)
        _refuse_shared(source, builder.config.data_files or {})
    commit = builder.hash  # for a dataset on the Hub, what the revision stands for

    def origin(split: str) -> Origin:
        return Origin(json.dumps([source, commit, chosen, split]), is_commit=True)

    opened = _opened(source, builder, choose, image_column, label_column, {}, origin)
    return replace(opened, commit=commit)


def _by_top_folder(
    source: str, builder: DatasetBuilder, revision: str | None, named: Collection[str | None]
) -> DatasetBuilder:
    """Return a builder whose splits are what would be found in the same folder on this machine."""
    if not builder.config.data_files:  # read from the cache, without the Hub
        return builder
    names = HfApi().list_repo_files(source, repo_type="dataset", revision=builder.hash)
    names = sorted(name for name in names if not any(part.startswith(".") for part in name.split("/")))
    if builder.name == "imagefolder":
        images = [name for name in names if os.path.splitext(name)[1].lower() in SUFFIXES]
        by_folder = not any(os.path.basename(name) in METADATA for name in names)
        layout = lay_out(source, Listing("", images=images), named, by_folder=by_folder)
        splits = {split: list(own) for split, own in layout.splits.items()}
        tops = {split: os.path.commonpath([os.path.dirname(name) for name in own]) for split, own in splits.items()}
        patterns = {split: [os.path.join(glob.escape(top), "**")] for split, top in tops.items()}
    else:
        suffixes = tuple(suffix for suffix, name in _BUILDERS.items() if name == builder.name)
        tables = [name for name in names if name.endswith(suffixes) and os.path.basename(name) not in _UNTOLD]
        splits = table_splits(source, tables, named)
        patterns = {split: [glob.escape(name) for name in own] for split, own in splits.items()}
    prefix = f"hf://datasets/{source}@{builder.hash}/"
    theirs = {split: {file.removeprefix(prefix) for file in own} for split, own in builder.config.data_files.items()}
    if {split: set(own) for split, own in splits.items()} == theirs:
        return builder
    return load_dataset_builder(source, data_files=patterns, revision=revision)


def _refuse_shared(source: str, data_files: Mapping[str, Sequence[str]]) -> None:
    owner: dict[str, str] = {}
    for split, files in data_files.items():
        for file in files:
            if owner.setdefault(str(file), split) != split:
                valid = f"{os.path.basename(file)!r} is in two of its splits, {owner[str(file)]!r} and {split!r}"
                raise InputError("source", source, valid)


def _opened(
    source: str,
    builder: DatasetBuilder,
    choose: Choose,
    image_column: str | None,
    label_column: str | None,
    left_out: LeftOut,
    origin: Callable[[str], Origin | None],
) -> Opened:
    """Read tables, and find their columns; `origin` says where a split comes from."""
    if builder.name not in _READ:
        raise InputError("source", source, f"a dataset of images is needed; its files are {builder.name}")
    with _reading(source):
        builder.download_and_prepare()
        features, splits = builder.info.features, builder.info.splits
        image, label = find_image_column(image_column, features), find_label_column(label_column, features)
        chosen = choose(list(splits))
        if empty := [name for name in chosen if splits[name].num_examples == 0]:
            raise InputError("source", source, f"split {empty[0]!r} is empty")
        data = {split: builder.as_dataset(split) for split in chosen}
        files = "imagefolder" in (builder.name, builder.info.builder_name)  # the second of one from the cache
        rows = {s: replace(_rows(own, image, label, files=files), origin=origin(s)) for s, own in data.items()}
    return Opened(rows, image, label, left_out)


def _rows(data: Dataset, image: str, label: str, *, files: bool) -> Rows:
    images = data.select_columns([image])
    if isinstance(data.features[image], Image):
        images = images.cast_column(image, Image(decode=False))
    names = data.features[label].names if isinstance(data.features[label], ClassLabel) else None
    # Without [:] `datasets` reads row by row, a second for 60,000.
    labels = data.select_columns([label])[label][:]
    return Rows(images, [int(value) if isinstance(value, bool) and names else value for value in labels], names, files=files)


@contextmanager
def _reading(source: str) -> Iterator[None]:
    """Turn what `datasets` raises for a source that it cannot reach or read into one line."""
    try:
        yield
    except InputError:
        raise
    except ConnectionError as error:
        valid = f"it is neither a folder here nor in the cache, and the Hub cannot be reached ({error})"
        raise InputError("source", source, valid) from error
    except BROKEN as error:
        cause = error.__cause__ or error
        if isinstance(cause, OSError) and cause.errno in _FORBIDDEN and cause.filename:  # most often of a cache
            valid = f"it cannot be read or written ({cause.strerror})"
            raise InputError("file", str(cause.filename), valid) from error
        raise InputError("source", source, f"a dataset with images is needed ({reason(cause)})") from error
