"""A local folder of images as a source."""

import os
import secrets
from collections.abc import Collection, Iterable, Mapping, Sequence

import numpy as np
import pyarrow as pa
from datasets import Dataset, DatasetInfo, Features, Image

from distill_hub.config import InputError
from distill_hub.data.file_facts import LARGEST, read_facts
from distill_hub.data.folders import Layout, LeftOut, Listing, lay_out, read_inside, refuse_twins, refuse_unread
from distill_hub.data.metadata import of_one_kind, read_labels
from distill_hub.data.rows import Choose, Opened, Rows
from distill_hub.text import shortened


def open_image_folder(
    source: str,
    found: Listing,
    choose: Choose,
    *,
    named: Collection[str | None] = (),
    given: Mapping[str, Iterable[str]] | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    quiet: bool = False,
) -> Opened:
    """Open a folder of images: in one folder for each class, or with metadata files that name the classes.

    Args:
        source: What the user calls it.
        found: The files of the folder.
        choose: The splits to open, of those that there are.
        named: Names of splits that the user gave.
        given: Images of each split where the dataset's card says so.
        image_column: 'image', as `datasets` calls what it reads from such a folder.
        label_column: 'label', or a column of the metadata files.
        quiet: Show no progress.

    Raises:
        InputError: When classes or splits would be a guess, or no image of a class can be used.
    """
    if image_column not in (None, "image"):
        raise InputError("image_column", image_column, "a folder of images has the columns image and label")
    left_out: LeftOut = {why: list(names) for why, names in found.left_out.items()}
    column, labels = "label", None
    if found.metadata:
        files = ((name, read_inside(source, found.root, name, LARGEST)) for name in found.metadata)
        if read := read_labels("source", source, found.images, files, "label_column", label_column):
            column, by_file = read
            merged = {path: label for own in by_file.values() for path, label in own.items()}
            labels = dict(zip(merged, of_one_kind(merged.values()), strict=True))
    elif label_column not in (None, "label"):
        raise InputError("label_column", label_column, "a folder of images without metadata has the columns image and label")
    layout = lay_out(source, found, named, given=given, by_folder=labels is None)
    layout.left_out.update(left_out)
    if labels is not None:
        layout = _labelled(layout, labels)
    elif found.metadata:
        layout.left_out["that give no labels"] = found.metadata
    if found.tables:
        layout.left_out.setdefault("of other kinds", []).extend(found.tables)
    refuse_twins(source, found, layout)
    return _open(source, found, layout, choose(list(layout.splits)), column, by_name=labels is None, quiet=quiet)


def _labelled(layout: Layout, labels: Mapping) -> Layout:
    """Give each image the label that the metadata name."""
    splits = {split: {path: labels.get(path) for path in images} for split, images in layout.splits.items()}
    listed = {path for images in splits.values() for path in images}
    if missing := [path for path in labels if path not in listed]:
        layout.left_out["named in the metadata and not there"] = missing
    return Layout(splits, layout.left_out)


def _open(
    source: str, found: Listing, layout: Layout, chosen: list[str], column: str, *, by_name: bool, quiet: bool
) -> Opened:
    left_out, wanted = layout.left_out, {split: layout.splits[split] for split in chosen}
    for split, images in wanted.items():
        if not any(label is not None for label in images.values()):
            where = "are not named in the metadata" if not by_name else "lie in no class folders"
            valid = f"the images of split {split!r} {where}; one folder of images for each class is needed"
            raise InputError("source", source, valid)
    without = [path for images in wanted.values() for path, label in images.items() if label is None]
    if without:
        left_out["beside the class folders" if by_name else "without a label in the metadata"] = without
    paths = {split: [path for path, label in images.items() if label is not None] for split, images in wanted.items()}
    facts = read_facts(found.root, [path for own in paths.values() for path in own], quiet=quiet)
    ends = np.cumsum([len(own) for own in paths.values()])
    known = {split: facts.take(slice(end - len(own), end)) for end, (split, own) in zip(ends, paths.items(), strict=True)}
    broken = {s: {paths[s][row]: own.broken[row] for row in np.flatnonzero(own.broken != "")} for s, own in known.items()}
    if any(broken.values()):
        left_out["broken"] = [f"{shortened(path, 60)}: {why}" for own in broken.values() for path, why in own.items()]
    first = chosen[0]
    train = {label for path, label in wanted[first].items() if label is not None and path not in broken[first]}
    if lost := [path for path in broken[first] if wanted[first][path] not in train]:
        why = f"{shortened(lost[0], 60)}: {broken[first][lost[0]]}"
        raise InputError("source", source, f"no image of class {wanted[first][lost[0]]!r} can be used ({why})")
    classes = {label for images in layout.splits.values() for label in images.values()}
    refuse_unread("source", source, left_out.get("of other kinds", ()), classes)
    names = sorted(train) if by_name else None
    place = {name: number for number, name in enumerate(names or ())}
    splits = {}
    other: list[str] = []
    for split, images in wanted.items():
        whole = [row for row, path in enumerate(paths[split]) if path not in broken[split]]
        used = [row for row in whole if images[paths[split][row]] in train]
        own = [paths[split][row] for row in used]
        other += [paths[split][row] for row in whole if images[paths[split][row]] not in train]
        labels = [place[images[path]] if by_name else images[path] for path in own]
        splits[split] = Rows(_cells(found.root, own), labels, names, known[split].take(used), files=True)
    if other:
        left_out["of classes that the training split has not"] = other
    return Opened(splits, "image", column, left_out)


def _cells(root: str, paths: Sequence[str]) -> Dataset:
    """Return rows that name files, as `datasets` stores them; made of a million dicts they would take gigabytes."""
    files = pa.array((os.path.join(os.path.abspath(root), path) for path in paths), pa.string(), size=len(paths))
    cells = pa.StructArray.from_arrays([pa.nulls(len(paths), pa.binary()), files], ["bytes", "path"])
    table = pa.table({"image": cells})
    # Without a fingerprint `datasets` would hash all rows to find one.
    info = DatasetInfo(features=Features({"image": Image(decode=False)}))
    return Dataset(table, info=info, fingerprint=secrets.token_hex(8))
