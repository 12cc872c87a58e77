"""Folders of images: which files there are, and the split and the class of each, by the folders it lies in."""

import os
import unicodedata
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from distill_hub.config import InputError, refusing
from distill_hub.data.images import READABLE, SUFFIXES
from distill_hub.data.split_names import by_split, is_split_word, split_named
from distill_hub.parsing import read_file
from distill_hub.text import few, printable

METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
TABLES = (".parquet", ".arrow", ".tar", ".jsonl", ".json", ".csv", ".tsv")  # the first of which there is one is read
_OTHER_IMAGES = (
    *(".heic", ".heif", ".avif", ".jxl", ".jp2", ".j2k", ".svg", ".eps", ".ps", ".psd", ".tga", ".ico", ".icns", ".pcx"),
    *(".raw", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".dcm", ".exr", ".hdr", ".npy"),
)
_UNTOLD = ("readme.md", "license", "license.txt", "license.md", "thumbs.db", "desktop.ini")
_SYSTEM = ("/proc", "/sys", "/dev")
_UNTOLD_FOLDERS = ("__MACOSX", "__pycache__")
NOT_UTF_8 = "with names that are not UTF-8"
MOST_FILES, MOST_FOLDERS, _DEEPEST = 10_000_000, 200_000, 16  # the last: folders below each other

LeftOut = dict[str, list[str]]  # why, and the names of what is not used


@dataclass
class Listing:
    """The files of a folder, as paths from it with '/', sorted."""

    root: str
    images: list[str] = field(default_factory=list)
    tables: list[str] = field(default_factory=list)
    metadata: list[str] = field(default_factory=list)
    links: set[str] = field(default_factory=set)  # of all these, and of the folders that they lie in, those that are links
    left_out: LeftOut = field(default_factory=lambda: defaultdict(list))


def walk(field: str, name: str, root: str, links: set[str] | None = None) -> Iterator[tuple[str, str]]:
    """Find what lies in a folder and below; links are followed, hidden files and folders are not looked at.

    Args:
        field: What is refused.
        name: What the user calls the folder.
        root: The folder.
        links: To which the paths of those files and folders are added that are links.

    Yields:
        The path from the folder, with '/', of each file, and of each folder that cannot be entered; and why it is left out,
        '' for a regular file.

    Raises:
        InputError: For a folder that cannot be read, is too deep or holds too much, or gives way to the whole system.
    """
    if any(f"{os.path.realpath(root)}/".startswith(f"{place}/") for place in ("/", *_SYSTEM)):
        raise InputError(field, name, "a folder of images is needed, not one of the system")
    with refusing((OSError,), field, name, "it cannot be read"):
        start = Path(os.path.realpath(root))
        waiting = [("", frozenset(_identity(folder.stat()) for folder in (start, *start.parents)))]
    system = {os.stat(place).st_dev for place in _SYSTEM if os.path.isdir(place)} - {os.stat(start.anchor).st_dev}
    files = folders = 0
    while waiting:
        place, above = waiting.pop()
        with refusing((OSError,), field, name, f"its folder {place or '.'!r} cannot be read"):
            entries = sorted(os.scandir(os.path.join(root, place)), key=lambda entry: entry.name)
        files, folders = files + len(entries), folders + 1
        if files > MOST_FILES or folders > MOST_FOLDERS:  # links may multiply them
            raise InputError(field, name, f"it holds more than {MOST_FILES:,} files or {MOST_FOLDERS:,} folders")
        for entry in entries:
            path = f"{place}{entry.name}"
            if entry.name.startswith(".") or entry.name in _UNTOLD_FOLDERS:
                continue
            try:
                is_folder, is_file = entry.is_dir(), entry.is_file()
                own = _identity(entry.stat()) if is_folder else (0, 0)
            except OSError:  # links in a circle, or to what this user may not see
                is_folder = is_file = False
            if links is not None and entry.is_symlink():
                links.add(path)
            if any("\ud800" <= c <= "\udfff" for c in entry.name):  # what Python makes of other bytes
                yield path, NOT_UTF_8
            elif is_folder:
                if own in above or own[0] in system:
                    yield path, "links to a folder above them, or of the system"
                elif place.count("/") >= _DEEPEST:
                    raise InputError(field, name, f"its folders lie more than {_DEEPEST} deep in each other")
                else:
                    waiting.append((f"{path}/", above | {own}))
            elif is_file:
                yield path, ""
            else:
                yield path, "links to nothing" if entry.is_symlink() else "no regular files"


def _identity(facts: os.stat_result) -> tuple[int, int]:
    return facts.st_dev, facts.st_ino


def list_folder(source: str, root: str) -> Listing:
    """List the folder of a source by what its files are; see `walk`."""
    found = Listing(root)
    for path, why in walk("source", source, root, found.links):
        name = path.rpartition("/")[2].lower()
        suffix = os.path.splitext(name)[1]
        if name in _UNTOLD:
            continue
        if why:
            found.left_out[why].append(path)
        elif suffix in SUFFIXES:
            found.images.append(path)
        elif name in METADATA:
            found.metadata.append(path)
        elif suffix in TABLES:
            found.tables.append(path)
        else:
            found.left_out["of other kinds"].append(path)
    for names in (found.images, found.tables, found.metadata, *found.left_out.values()):
        names.sort()
    return found


def read_inside(source: str, root: str, name: str, most_bytes: int) -> bytes:
    """Read one file of a folder; see `read_file`.

    Raises:
        InputError: When it cannot be read.
    """
    with refusing((OSError, ValueError), "source", source, f"{name} cannot be read"):
        return read_file(os.path.join(root, name), most_bytes)


@dataclass(frozen=True)
class Layout:
    """The images of each split, and the class that the folders give each; None: none."""

    splits: dict[str, dict[str, str | None]]
    left_out: LeftOut


def lay_out(
    source: str,
    found: Listing,
    named: Collection[str | None] = (),
    *,
    given: Mapping[str, Iterable[str]] | None = None,
    by_folder: bool = True,
) -> Layout:
    """Find split and class of every image of a folder.

    The split is the top folder, where all of these are called like splits, and else everything is 'train'; the class is the
    next folder. A lone folder around everything is looked through. Nothing is taken for a split further down.

    Args:
        source: What the user calls it.
        found: The files of the folder.
        named: Names of splits that the user gave.
        given: Images of each split where the dataset's card says so; then the class is the folder that an image lies in.
        by_folder: Whether folders are classes; else no image has one here.

    Raises:
        InputError: When folders could be read in more than one way.
    """
    if given is not None:
        return Layout({s: {path: _normal(PurePosixPath(path).parent.name) for path in own} for s, own in given.items()}, {})
    # The images of one folder have the same split and class: of a million of them, thousands of folders are looked at.
    folders = {folder: folder.split("/") if folder else [] for folder in dict.fromkeys(map(_folder, found.images))}
    while len(tops := {parts[0] for parts in folders.values() if parts}) == 1 and all(folders.values()):
        (top,) = tops
        if split_named(top, named) or all(len(parts) == 1 for parts in folders.values()):
            break
        folders = {folder: parts[1:] for folder, parts in folders.items()}
    left_out: LeftOut = {}
    splits = by_split(source, sorted({parts[0] for parts in folders.values() if parts}), named)
    classes = _classes if by_folder else lambda source, folders: dict.fromkeys(folders)
    if splits is None:
        if by_folder:
            _check_tops(source, folders.values(), named)
        return Layout({"train": _spread(found.images, classes(source, folders))}, left_out)
    if loose := [path for path in found.images if not folders[_folder(path)]]:
        left_out["beside the folders of the splits"] = loose
    result: dict[str, dict[str, str | None]] = {}
    for top, split in splits.items():
        own = {folder: parts[1:] for folder, parts in folders.items() if parts[:1] == [top]}
        result[split] = _spread(found.images, classes(source, own))
    return Layout(result, left_out)


def _folder(path: str) -> str:
    return path.rpartition("/")[0]


def _spread(images: Iterable[str], classes: Mapping[str, str | None]) -> dict[str, str | None]:
    """Return the class of each image that lies in one of some folders."""
    return {path: classes[folder] for path in images if (folder := _folder(path)) in classes}


def _check_tops(source: str, folders: Iterable[Sequence[str]], named: Collection[str | None]) -> None:
    """Refuse folders of classes, of which one may be a split: it is called so, and holds folders instead of images."""
    depths = defaultdict(set)
    for parts in folders:
        if parts:
            depths[parts[0]].add(len(parts))
    for top, own in depths.items():
        if split_named(top, named) and min(own) > 1:
            other = next(name for name in depths if not split_named(name, named))
            valid = f"{top!r} looks like a split and {other!r} beside it like a class; keep splits or classes there alone"
            raise InputError("source", source, valid)


def _classes(source: str, folders: Mapping[str, Sequence[str]]) -> dict[str, str | None]:
    """Return the class of the images in each folder: the folder its parts start with; None where there are none."""
    inner = defaultdict(set)  # of each class: the folders in it, '' for images that lie in it directly
    for parts in folders.values():
        if parts:
            inner[parts[0]].add(parts[1] if len(parts) > 1 else "")
    for name, own in inner.items():
        for below in own:
            if is_split_word(below):
                valid = f"the class {name!r} holds a folder {below!r}: is it a split? Put splits on top: {below}/{name}/..."
                raise InputError("source", source, valid)
        if len(own) > 1 and "" not in own:
            valid = f"{name!r} holds images only in folders of its own ({few(sorted(own))}): which of them are the classes? "
            raise InputError("source", source, valid + "One folder of images for each class is needed")
    return {folder: _normal(parts[0]) if parts else None for folder, parts in folders.items()}


def _normal(name: str) -> str:
    """Return a name in the one of its spellings that most systems write: macOS takes accents apart."""
    return unicodedata.normalize("NFC", name)


def refuse_twins(source: str, found: Listing, layout: Layout) -> None:
    """Refuse a file that is reached on two ways, by links, in two splits or in two classes.

    Args:
        source: What the user calls it.
        found: The files of the folder. Without a link among them there is one way to each.
        layout: Their splits and classes.

    Raises:
        InputError: Naming both ways.
    """
    if not found.links:
        return
    folders: dict[str, str] = {}
    seen: dict[str, tuple[str, str, str | None]] = {}
    for split, images in layout.splits.items():
        for path, name in images.items():
            full = os.path.join(found.root, path)
            parent, last = os.path.split(full)
            if path in found.links:
                real = os.path.realpath(full)
            else:
                if parent not in folders:
                    folders[parent] = os.path.realpath(parent)
                real = os.path.join(folders[parent], last)
            other, *place = seen.setdefault(real, (path, split, name))
            if place != [split, name]:
                raise InputError("source", source, f"{other!r} and {path!r} are the same file, in two splits or classes")


def refuse_unread(field: str, source: str, unread: Iterable[str], classes: Collection[str | None]) -> None:
    """Refuse a class of which no image is in a format that is read: a set without it would be another one.

    Args:
        field: What is refused.
        source: What the user calls it.
        unread: Files of other kinds, as paths from it.
        classes: Those that there are.

    Raises:
        InputError: Naming the folder.
    """
    for path in unread:
        folder, _, name = path.rpartition("/")
        known = not folder or any(_normal(part) in classes for part in folder.split("/"))
        if not known and os.path.splitext(name)[1].lower() in _OTHER_IMAGES:
            valid = f"{folder!r} holds no image in a format that is read ({name}); save them as {READABLE}"
            raise InputError(field, source, valid)


def left_out_line(left_out: Mapping[str, Sequence[str]]) -> str:
    """Write what is not used in one line: counts, reasons, and the first names of each."""
    parts = []
    for why, names in left_out.items():
        parts.append(f"{len(names):,} {why} ({few(names, 3, 130)})")
    return printable(", ".join(parts))
