"""Reading distilled sets that distill-hub did not make, and finding out what their labels stand for.

Their format, class order and origin are not on record, and their authors are not known: nothing in a set is executed,
unpacked to disk, or guessed.
"""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

import numpy as np

from distill_hub.config import InputError
from distill_hub.data.classes import find_classes, imagenet_classes
from distill_hub.data.known import KNOWN
from distill_hub.data.sources import Source
from distill_hub.foreign.encoded import ForeignSet, from_pictures, from_tables, open_archive, reading
from distill_hub.foreign.layout import (
    PICTURES,
    READABLE,
    few,
    find_pair,
    layout_of,
    layout_of_file,
    of_kind,
    refusal,
    within,
)
from distill_hub.foreign.tensors import from_tensors, load_file_of_tensors, load_tensors, parse_normalisation
from distill_hub.hub import RemoteSet, check_repo_id, fetch, look

_CLASSES = (
    "a file of one class name or wnid per line in label order, a comma-separated list, 'source' for the source's own order, "
    "or imagenet1k, imagenette, imagewoof, imageidc, imagenet100 for the papers' order"
)
_SPLIT = re.compile(r"(?<![a-z])(train|test|val)").search


def read_foreign(
    location: str,
    *,
    revision: str | None = None,
    data_dir: str | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    image_size: int | None = None,
    mean: str | None = None,
    std: str | None = None,
) -> ForeignSet:
    """Read a distilled set of any readable format; each image is decoded once.

    Class names are those of the set: of a table's label column, or the folders of an image folder in natural order (2
    before 10), which is also the order of its rows within a class. Soft labels are taken as logits when some are negative,
    else they must be probabilities.

    Args:
        location: A file or folder, or a Hub id `org/name` when there is none of that name.
        revision: Branch, tag or commit, on the Hub.
        data_dir: Folder within the set, when it holds several.
        image_column: Image column of a table; default: the only one that holds images or is named so.
        label_column: Label column of a table; default: the only ClassLabel, or the only one named so.
        image_size: Side in pixels to which images are made `square`; default: theirs, when all are square and equal.
        mean: Of the normalisation that tensors went through: one number or three, comma separated, each in [0, 1].
        std: Likewise, each in (0, 1].

    Raises:
        InputError: For a set that cannot be read safely or without a guess, and for an option it has no use for.
        HubError: When Hub or network fail.
    """
    if image_size is not None and image_size < 1:
        raise InputError("image_size", image_size, "a positive number of pixels is needed")
    if os.path.exists(location) and revision is not None:
        raise InputError("revision", revision, f"{location} lies on this machine; only a set on the Hub has revisions")
    normalisation = parse_normalisation(mean, std)
    given = {"data_dir": data_dir, "image_column": image_column, "label_column": label_column, "mean": mean}
    if os.path.isfile(location):
        if layout_of_file(location) == "archive":
            _check_useful(location, given, "data_dir")
            with open_archive(location) as (names, read):
                prefix, names = within(location, names, data_dir)
                if not (pictures := of_kind(names, *PICTURES)):
                    raise refusal(location, f"it holds {few(names)}; {READABLE}")
                pictures = _training_files(location, pictures, data_dir, images=True)
                return from_pictures(location, pictures, lambda name: read(prefix + name), "zip of images", image_size)
        _check_useful(location, given, "mean")
        return from_tensors(location, load_file_of_tensors(location), image_size, normalisation)

    root, remote = Path(location), None
    if os.path.isdir(location):
        names = [file.relative_to(root).as_posix() for file in root.rglob("*") if file.is_file()]
    else:
        remote = _remote(location, revision)
        names = remote.files
    prefix, names = within(location, names, data_dir)
    layout = layout_of(location, names, on_hub=remote is not None)

    def folder(chosen: Sequence[str]) -> Path:
        return (root if remote is None else fetch(remote, [prefix + name for name in chosen])) / prefix

    if layout == "tables":
        _check_useful(location, given, "data_dir", "image_column", "label_column")
        tables = _training_files(location, of_kind(names, ".parquet"), data_dir, images=False)
        base = folder(tables)
        found = from_tables(location, [base / name for name in tables], image_column, label_column, image_size)
    elif layout == "pair":
        _check_useful(location, given, "data_dir", "mean")
        content = load_tensors(location, {key: root / prefix / name for key, name in find_pair(location, names).items()})
        found = from_tensors(location, content, image_size, normalisation)
    else:
        _check_useful(location, given, "data_dir")
        pictures = _training_files(location, of_kind(names, *PICTURES), data_dir, images=True)
        base = folder(pictures)

        def read(name: str) -> bytes:
            with reading(location, name, (OSError,)):
                return (base / name).read_bytes()

        found = from_pictures(location, pictures, read, "image folder", image_size)
    return found if remote is None else replace(found, revision=remote.commit)


def _check_useful(location: str, given: Mapping[str, str | None], *useful: str) -> None:
    """Refuse an option that would silently do nothing."""
    for option, value in given.items():
        if value is not None and option not in useful:
            raise InputError(option, value, f"{location} is of a format that has no use for it")


def label_order(foreign: ForeignSet, source: Source, classes: str | None) -> np.ndarray:
    """Find the class of the source that each label value of a set stands for, by name and never by position.

    Args:
        foreign: The set.
        source: The real images.
        classes: Names or wnids of label value 0, 1, ...: a file with one per line; a comma-separated list; 'source' or the
            source's name for the source's own order; or imagenet1k, imagenette, imagewoof, imageidc, imagenet100 for the
            papers' order. None: the set's own names.

    Returns:
        int64 (K,), positions in `source.classes` of label values 0..K-1. -1 for a value that no row has, when its name
        stands for no class of the source, or not alone.

    Raises:
        InputError: When names are not on record, too few, not as many as the soft labels have columns, or stand for no
            class of the source, for several, or for the same.
    """
    own_order = classes in ("source", source.name)
    names = source.class_names if own_order else foreign.class_names if classes is None else _named(classes)
    if names is None:
        raise InputError("classes", None, f"labels are numbers whose order is not on record: pass --classes with {_CLASSES}")
    used = [int(value) for value in np.unique(foreign.labels)]
    if used[-1] >= len(names):
        raise InputError("classes", classes, f"{len(names)} names are too few for {len(used)} label values up to {used[-1]}")
    if foreign.soft_labels is not None and foreign.soft_labels.shape[1] != len(names):
        columns = foreign.soft_labels.shape[1]
        raise InputError("classes", classes, f"{len(names)} names are not one for each of {columns} columns of soft labels")
    if own_order:
        return np.arange(len(names))
    return np.array(find_classes(names, source.classes, "classes", classes or foreign.location, used), dtype=np.int64)


def _named(classes: str) -> list[str]:
    """Return the names that a value of --classes stands for, in label order."""
    known = KNOWN.get(classes)
    if classes == "imagenet1k":
        return imagenet_classes()[0]
    if known and known.wnids:
        return list(known.wnids)
    if os.path.isfile(classes):
        try:
            lines = Path(classes).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError("classes", classes, f"the file cannot be read as text ({error})") from error
        return [line.strip() for line in lines if line.strip()]
    if "," in classes:
        return [part.strip() for part in classes.split(",")]
    raise InputError("classes", classes, f"valid: {_CLASSES}")


def _remote(location: str, revision: str | None) -> RemoteSet:
    try:
        check_repo_id(location)
    except InputError:
        raise refusal(location, "there is no such file or folder, and it is not a Hub id") from None
    return look(location, revision)


def _training_files(location: str, names: Sequence[str], data_dir: str | None, *, images: bool) -> list[str]:
    """Keep the files of the training split where names tell it, and refuse files of several folders.

    Args:
        location: The set.
        names: Names of files.
        data_dir: The user's choice among the folders.
        images: Whether the files lie in a folder per class, whose name tells no split.
    """
    if loose := [name for name in names if images and "/" not in name]:
        raise refusal(location, f"every image must lie in a folder named by its class, unlike {few(loose)}")

    def split(name: str) -> str | None:
        parts = name.lower().split("/")
        told = [found[1] for part in (parts[:-2] if images else parts) if (found := _SPLIT(part))]
        return told[-1] if told else None

    splits = {name: split(name) for name in names}
    if "train" in splits.values():
        names = [name for name in names if splits[name] == "train"]
    elif len(set(splits.values())) > 1:
        raise refusal(location, f"its files are of several splits, of which none is called train: {few(names)}")
    folders = sorted({str(PurePosixPath(name).parents[1 if images else 0]) for name in names})
    if len(folders) > 1:
        raise InputError("data_dir", data_dir, f"{location} holds several folders; pass one with --data_dir: {few(folders)}")
    return names
