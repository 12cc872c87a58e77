"""A local folder of images as a source."""

import os
from collections.abc import Collection, Iterable, Mapping

from datasets import Dataset, Features, Image

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
    refuse_twins(source, found.root, layout)
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
    paths = [path for images in wanted.values() for path, label in images.items() if label is not None]
    known = dict(zip(paths, read_facts(found.root, paths, quiet=quiet), strict=True))
    if broken := [path for path in paths if known[path].broken]:
        left_out["broken"] = [f"{shortened(path, 60)}: {known[path].broken}" for path in broken]
    before = wanted[chosen[0]]
    train = {label for path, label in before.items() if label is not None and not known[path].broken}
    if lost := [path for path in broken if path in before and before[path] not in train]:
        valid = f"no image of class {before[lost[0]]!r} can be used ({shortened(lost[0], 60)}: {known[lost[0]].broken})"
        raise InputError("source", source, valid)
    classes = {label for images in layout.splits.values() for label in images.values()}
    refuse_unread("source", source, left_out.get("of other kinds", ()), classes)
    names = sorted(train) if by_name else None
    place = {name: number for number, name in enumerate(names or ())}
    splits = {}
    other: list[str] = []
    for split, images in wanted.items():
        used = [path for path, label in images.items() if label in train and not known[path].broken]
        other += [p for p, label in images.items() if label is not None and label not in train and not known[p].broken]
        cells = [{"bytes": None, "path": os.path.join(os.path.abspath(found.root), path)} for path in used]
        dataset = Dataset.from_dict({"image": cells}, features=Features({"image": Image(decode=False)}))
        labels = [place[images[path]] if by_name else images[path] for path in used]
        splits[split] = Rows(dataset, labels, names, [known[path] for path in used], files=True)
    if other:
        left_out["of classes that the training split has not"] = other
    return Opened(splits, "image", column, left_out)
