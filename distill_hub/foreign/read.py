"""Reading distilled sets that distill-hub did not make, and finding out what their labels stand for.

Their format, class order and origin are not on record, and their authors are not known: nothing in a set is executed,
unpacked to disk, or guessed.
"""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from distill_hub.config import InputError
from distill_hub.data.card import CARD, read_card
from distill_hub.data.classes import find_classes, places_of
from distill_hub.data.folders import METADATA, refuse_unread
from distill_hub.data.images import MAX_SIDE
from distill_hub.data.metadata import read_labels
from distill_hub.data.sources import Source
from distill_hub.foreign.card import recorded_groups, recorded_names
from distill_hub.foreign.class_files import CLASSES, names_in
from distill_hub.foreign.contents import MAX_ENTRY_BYTES, MAX_ROWS, ForeignSet, reading
from distill_hub.foreign.labels import LabelKind
from distill_hub.foreign.layout import (
    PICTURES,
    READABLE,
    choose,
    files_below,
    find_pair,
    layout_of,
    layout_of_file,
    of_kind,
    picture_groups,
    refusal,
    table_groups,
    within,
)
from distill_hub.foreign.pictures import from_pictures, open_archive
from distill_hub.foreign.tables import from_tables
from distill_hub.foreign.tensors import (
    MAX_CLIPPED,
    from_tensors,
    load_file_of_tensors,
    load_tensors,
    parse_normalisation,
)
from distill_hub.hub import RemoteSet, check_repo_id, fetch, look
from distill_hub.parsing import CARD_BYTES, read_file
from distill_hub.text import few


@dataclass(frozen=True)
class _Files:
    """The files of a set, here, on the Hub or in an archive.

    Args:
        location: The set, as the user named it.
        names: Of its files, without the prefix that `data_dir` means.
        fetch: Makes some of the files ready, at once.
        read: Returns the bytes of one, of at most so many.
        path: Returns the path of one that was fetched; an archive has none.
        data_dir: The user's choice of a folder.
        split: The user's choice of a split.
    """

    location: str
    names: Sequence[str]
    fetch: Callable[[Sequence[str]], None]
    read: Callable[[str, int], bytes]
    path: Callable[[str], Path]
    data_dir: str | None
    split: str | None

    def card(self) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
        """Read what the set's README.md says of its files; see `read_card`."""
        if CARD in self.names:
            self.fetch([CARD])
        return read_card("distilled set", self.location, self.read(CARD, CARD_BYTES) if CARD in self.names else b"")


def read_foreign(
    location: str,
    *,
    revision: str | None = None,
    data_dir: str | None = None,
    split: str | None = None,
    index: int | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    image_size: int | None = None,
    mean: str | None = None,
    std: str | None = None,
    pixel_range: float | None = None,
    max_clipped: float | None = None,
    label_kind: LabelKind | None = None,
) -> ForeignSet:
    """Read a distilled set of any readable format; each image is decoded once.

    Class names are those of the set: of a table's label column, in its file or its card, of a list metadata.csv or .jsonl,
    or the folders of an image folder in natural order (2 before 10), which is also the order of its rows within a class.

    Args:
        location: A file or folder, or a Hub id `org/name` when there is none of that name.
        revision: Branch, tag or commit, on the Hub.
        data_dir: Folder within the set, when it holds several.
        split: Which of several splits or configurations: by the card, the top folder, or the prefix of the file's name.
        index: Which of several sets that a file of tensors holds, from 0.
        image_column: Image column of a table; default: the only one that holds images or is named so.
        label_column: Label column of a table or list; default: the only ClassLabel, or the only one named so.
        image_size: Side in pixels to which images are made `square`; default: theirs, when all are square and equal, and
            else of pictures `side_for` the median of their shorter sides.
        mean: Of the normalisation that tensors went through: one number or three, comma separated, each in [0, 1].
        std: Likewise, each in (0, 1].
        pixel_range: Value of full brightness in tensors, e.g. 255; default: 1, or 255 for whole numbers.
        max_clipped: Share of values that may lie outside the range of pixels, once mean and std are undone; default 0.01.
        label_kind: What soft labels are, where their values do not tell; see `labels.probabilities`.

    Raises:
        InputError: For a set that cannot be read safely or without a guess, and for an option it has no use for.
        HubError: When Hub or network fail.
    """
    if image_size is not None and not 0 < image_size <= MAX_SIDE:
        raise InputError("image_size", image_size, f"a number of pixels from 1 to {MAX_SIDE:,} is needed")
    if os.path.exists(location) and revision is not None:
        raise InputError("revision", revision, f"{location} lies on this machine; only a set on the Hub has revisions")
    pixels = {
        "image_size": image_size,
        "normalisation": parse_normalisation(mean, std, pixel_range),
        "max_clipped": MAX_CLIPPED if max_clipped is None else max_clipped,
        "label_kind": label_kind,
    }
    columns = {"image_column": image_column, "label_column": label_column}
    numbers = {"mean": mean, "pixel_range": pixel_range, "max_clipped": max_clipped}
    given = {"data_dir": data_dir, "split": split, "index": index, "label_kind": label_kind, **numbers}
    given |= {f"set_{option}": value for option, value in columns.items()}

    def useful(*options: str) -> None:
        for option, value in given.items():
            if value is not None and option not in options:
                raise InputError(option, value, f"{location} is of a format that has no use for it")

    if os.path.isdir(location):
        return _of_folder(location, Path(location), None, given, useful, columns, pixels)
    if not os.path.exists(location):
        remote = _remote(location, revision)
        return replace(_of_folder(location, None, remote, given, useful, columns, pixels), revision=remote.commit)
    if layout_of_file(location) == "archive":
        useful("data_dir", "split", "set_label_column")
        with open_archive(location) as (names, read):
            prefix, names = within(location, names, data_dir)
            files = _Files(location, names, lambda _: None, lambda name, _: read(prefix + name), Path, data_dir, split)
            return _of_pictures(files, "zip of images", image_size, label_column)
    useful("index", "label_kind", *numbers)
    content, class_names = load_file_of_tensors(location, index)
    return from_tensors(location, content, class_names, **pixels)


def _of_folder(
    location: str,
    root: Path | None,
    remote: RemoteSet | None,
    given: Mapping[str, Any],
    useful: Callable[..., None],
    columns: Mapping[str, str | None],
    pixels: Mapping[str, Any],
) -> ForeignSet:
    """Read a folder here, or a repository on the Hub."""
    prefix, names = within(location, files_below(root) if root else remote.files, given["data_dir"])
    layout = layout_of(location, names, on_hub=remote is not None)
    base = root

    def make_ready(chosen: Sequence[str]) -> None:
        nonlocal base
        base = root or fetch(remote, [prefix + name for name in chosen])

    def path(name: str) -> Path:
        return base / prefix / name

    def read(name: str, limit: int) -> bytes:
        with reading(location, name, (OSError, ValueError)):
            return read_file(path(name), limit)

    files = _Files(location, names, make_ready, read, path, given["data_dir"], given["split"])
    if layout == "tables":
        useful("data_dir", "split", "label_kind", "set_image_column", "set_label_column")
        return _of_tables(files, columns, pixels["image_size"], pixels["label_kind"])
    if layout == "pair":
        useful("data_dir", "index", "label_kind", "mean", "pixel_range", "max_clipped")
        pair = find_pair(location, names)
        content = load_tensors(location, {key: path(name) for key, name in pair.items()}, given["index"])
        return replace(from_tensors(location, content, None, **pixels), unused=_unused(files, pair.values()))
    useful("data_dir", "split", "set_label_column")
    return _of_pictures(files, "image folder", pixels["image_size"], columns["label_column"])


def _unused(files: _Files, used: Sequence[str], *more: str) -> list[str]:
    read = {CARD, *used, *more}
    return [name for name in files.names if name not in read]


def _of_tables(
    files: _Files, columns: Mapping[str, str | None], image_size: int | None, label_kind: LabelKind | None
) -> ForeignSet:
    (configs, infos), tables = files.card(), of_kind(files.names, ".parquet")
    recorded = recorded_groups(files.location, configs, tables)
    groups = recorded or table_groups(tables)
    key = choose(files.location, groups, files.split, files.data_dir, in_folders=not recorded)
    chosen = sorted(groups[key])
    files.fetch(chosen)
    found = from_tables(
        files.location,
        [files.path(name) for name in chosen],
        lambda column: recorded_names(files.location, infos, column, key[0] if recorded else None),
        **columns,
        image_size=image_size,
        label_kind=label_kind,
    )
    return replace(found, unused=_unused(files, chosen))


def _of_pictures(files: _Files, kind: str, image_size: int | None, label_column: str | None) -> ForeignSet:
    location, pictures = files.location, of_kind(files.names, *PICTURES)
    if not pictures:
        raise refusal(location, f"it holds {few(files.names)}; {READABLE}")
    lists = [name for name in files.names if name.rpartition("/")[2] in METADATA]
    files.fetch(lists)
    contents = ((name, files.read(name, MAX_ENTRY_BYTES)) for name in lists)
    _, by_file = read_labels("distilled set", location, pictures, contents, "set_label_column", label_column) or ("", {})
    listed = {name: label for own in by_file.values() for name, label in own.items()}
    if label_column is not None and not listed:
        raise InputError("set_label_column", label_column, f"{location} holds no {' or '.join(METADATA)} with labels")
    there = set(files.names)
    if missing := [name for name in listed if name not in there]:
        raise refusal(location, f"its metadata name files that are not there: {few(missing)}")
    if without := [name for name, label in listed.items() if label is None]:
        raise refusal(location, f"its metadata give no label to {few(without)}")
    if listed:
        groups: dict[tuple[str, ...], list[str]] = {}
        for file, own in by_file.items():
            groups.setdefault(tuple(file.split("/")[:-1]), []).extend(own)
    else:
        groups = picture_groups(location, pictures)
    recorded = recorded_groups(location, files.card()[0], pictures)
    if recorded and not listed:  # the card's splits, of which each may lie in several folders
        key = choose(location, recorded, files.split, files.data_dir, in_folders=False)
        groups = {parts: own for parts, own in groups.items() if set(own) & set(recorded[key])}
        key = choose(location, groups, None, files.data_dir)
    else:
        key = choose(location, groups, files.split, files.data_dir)
    chosen = groups[key]
    if len(chosen) > MAX_ROWS:
        raise refusal(location, f"it holds more than {MAX_ROWS:,} images")
    files.fetch(chosen)
    found = from_pictures(location, chosen, lambda name: files.read(name, MAX_ENTRY_BYTES), image_size, listed or None)
    unused = _unused(files, chosen, *by_file)
    if not listed:
        beside = [name for name in unused if tuple(name.split("/")[:-2]) == key]
        refuse_unread("distilled set", location, beside, found.class_names)
    return replace(found, notes={"format": kind, **found.notes}, unused=unused)


def _remote(location: str, revision: str | None) -> RemoteSet:
    try:
        check_repo_id(location)
    except InputError:
        raise refusal(location, "there is no such file or folder, and it is not a Hub id") from None
    return look(location, revision)


def label_order(foreign: ForeignSet, source: Source, classes: str | None) -> np.ndarray:
    """Find the class of the source that each label value of a set stands for.

    Names that the set has on record win: where they are the source's, they say it, and `classes` may not say otherwise.

    Args:
        foreign: The set.
        source: The real images.
        classes: Names or wnids of label value 0, 1, ...: see `class_files.names_in`; 'source' or the source's name for the
            source's own order. None: the set's own names.

    Returns:
        int64 (K,), positions in `source.classes` of label values 0..K-1. -1 for a value that no row has, when its name
        stands for no class of the source, or not alone.

    Raises:
        InputError: When names are not on record, too few, not as many as the soft labels have columns, stand for no class of
            the source, for several, or for the same, or contradict those of the set.
    """
    own_order, own, used = classes in ("source", source.name), foreign.class_names, np.unique(foreign.labels).tolist()
    if own is None and classes is None:
        raise InputError("classes", None, f"labels are numbers whose order is not on record: pass --classes with {CLASSES}")
    recorded = None  # place of each of the set's own names
    if own is not None:
        recorded = places_of(own, source.classes)
        fitting = [value for value in used if recorded[value] >= 0]
        if classes is None or (own_order and fitting):
            _check_columns(foreign, len(own), classes)
            return np.array(find_classes(own, source.classes, "classes", foreign.location, used), dtype=np.int64)
    names = source.class_names if own_order else names_in(classes)
    value_of = _numbers(own or ())
    if own_order and own is not None and value_of is None:
        why = f"the set names its classes itself ({few(own)}), and none as {source.name} does"
        raise InputError("classes", classes, f"{why}; pass the source's names in the order of the set's")
    values = used if value_of is None else [value_of[value] for value in used]
    if max(values) >= len(names):
        shown = f"{len(names)} names are too few for {len(used)} label values up to {max(values)}"
        raise InputError("classes", classes, shown)
    if own is not None and value_of is not None and len(set(value_of)) != len(value_of):
        raise InputError("classes", classes, f"several of the set's own names are the same number: {few(own)}")
    _check_columns(foreign, len(names) if value_of is None else len(own), classes)
    if own_order:
        places = np.arange(len(names))
    else:
        places = np.array(find_classes(names, source.classes, "classes", classes, values), dtype=np.int64)
    order = places if value_of is None else np.array([places[v] if v < len(places) else -1 for v in value_of])
    for value in used if recorded else ():
        if recorded[value] >= 0 and recorded[value] != order[value]:
            there, said = source.class_names[recorded[value]], source.class_names[order[value]]
            why = f"the set itself calls label {value} {own[value]!r}, which is {there!r} of the source, not {said!r}"
            raise InputError("classes", classes, f"{why}; leave the option out to go by the set's own names")
    return order


def _numbers(names: Sequence[str]) -> list[int] | None:
    """Return the numbers that names are: folders or texts 0, 1, 3, or class_0, class_1, class_3, are labels 0, 1 and 3."""
    found = [re.fullmatch(r"(|.*\D)(\d{1,9})", name) for name in names]
    if not all(found) or len({part[1] for part in found}) != 1 or found[0][1] == "n":  # wnids are names
        return None
    return [int(part[2]) for part in found]


def _check_columns(foreign: ForeignSet, names: int, classes: str | None) -> None:
    if foreign.soft_labels is not None and foreign.soft_labels.shape[1] != names:
        columns = foreign.soft_labels.shape[1]
        raise InputError("classes", classes, f"{names} names are not one for each of {columns} columns of soft labels")
