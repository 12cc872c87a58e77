"""What a set made elsewhere is made of, told by the names of its files: nothing is opened, and nothing heavy is loaded."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Literal

from distill_hub.artifact.find import Found
from distill_hub.config import InputError
from distill_hub.data.folders import NOT_UTF_8, walk
from distill_hub.data.images import SUFFIXES as PICTURES
from distill_hub.data.split_names import WORDS, split_named
from distill_hub.text import few

SUFFIXES = (".pt", ".pth", ".safetensors", ".npy", ".npz")  # of tensors
READABLE = (
    "readable are parquet files and image folders (<class>/<file>.png), here or on the Hub; and here also a .zip of an image"
    " folder, a .pt, .pth, .safetensors or .npz file of tensors images and labels, and files images*, labels* of .pt or .npy"
)
_PARTS = ("", "part", "shard", "data", "chunk", "file")  # what numbered files are called that are parts of one split

Groups = Mapping[tuple[str, ...], Sequence[str]]  # file names by where they lie


def refusal(location: str, why: str) -> InputError:
    """Return the error that refuses a set, for the caller to raise."""
    return InputError("distilled set", location, why)


def check_layout(found: Found, data_dir: str | None) -> None:
    """Refuse, by its names, what `read_foreign` cannot read.

    Args:
        found: The set.
        data_dir: Folder within it, when it holds several.

    Raises:
        InputError: When it holds nothing readable.
    """
    if found.folder and found.folder.is_file():
        layout_of_file(found.location)
    else:
        names = files_below(found.folder) if found.folder else found.files
        layout_of(found.location, within(found.location, names, data_dir)[1], on_hub=found.remote is not None)


def files_below(folder: Path) -> list[str]:
    """Return the names of everything in a folder that is no folder, whether it can be read or not; see `walk`.

    Raises:
        InputError: See `walk`; or for a name that is not UTF-8.
    """
    found = dict(walk("distilled set", str(folder), str(folder)))
    if unnamed := [name for name, why in found.items() if why == NOT_UTF_8]:
        raise refusal(str(folder), f"it holds files or folders {NOT_UTF_8}: {few(unnamed)}; rename them")
    return list(found)


def layout_of_file(location: str) -> Literal["archive", "tensors"]:
    """Tell what a file is: an archive of pictures or tensors.

    Raises:
        InputError: When it is neither.
    """
    if location.lower().endswith(".zip"):
        return "archive"
    if location.lower().endswith(SUFFIXES):
        return "tensors"
    raise refusal(location, READABLE)


def layout_of(location: str, names: Sequence[str], *, on_hub: bool) -> Literal["tables", "pair", "pictures"]:
    """Tell what a folder holds: tables, a pair of files of tensors (not on the Hub), or pictures, whichever comes first.

    Args:
        location: The set.
        names: Of its files; see `within`.
        on_hub: Whether they lie on the Hub.

    Raises:
        InputError: When it holds none of them; see also `find_pair`.
    """
    if of_kind(names, ".parquet"):
        return "tables"
    if not on_hub and find_pair(location, names):
        return "pair"
    if of_kind(names, *PICTURES):
        return "pictures"
    advice = "download it and use `distill-hub adopt` on the file or folder; " if on_hub else ""
    if not on_hub and of_kind(names, ".zip", *SUFFIXES):
        advice = "pass the path of one file; "
    raise refusal(location, f"it holds {few(names)}; {advice}{READABLE}")


def of_kind(names: Iterable[str], *suffixes: str) -> list[str]:
    """Return the names with one of some endings, in small or capital letters."""
    return [name for name in names if name.lower().endswith(suffixes)]


def find_pair(location: str, names: Sequence[str]) -> dict[str, str]:
    """Find the files images*, labels* and soft_labels* (.pt or .npy) among the names in a folder; none without images*.

    Raises:
        InputError: When there are several of one kind, or no labels.
    """
    kinds = ("images", "labels", "soft_labels")
    found = {key: [name for name in names if re.fullmatch(rf"{key}[^/]*\.(pt|npy)", name)] for key in kinds}
    if not found["images"]:
        return {}
    for key, files in found.items():
        if len(files) > 1:
            raise refusal(location, f"it holds several {key}* files ({few(files)}); pass the path of one images* file")
    if not found["labels"]:
        raise refusal(location, f"it holds {found['images'][0]}, but no labels*.pt or labels*.npy")
    return {key: files[0] for key, files in found.items() if files}


def within(location: str, names: Iterable[str], data_dir: str | None) -> tuple[str, list[str]]:
    """Return the prefix that `data_dir` means and what follows it in the names, without hidden files.

    Raises:
        InputError: When there is no such folder, or labels lie in a list that is not read: folders might say otherwise.
    """
    prefix = "" if data_dir is None else data_dir.strip("/") + "/"
    seen = [n for n in names if not any(p.startswith((".", "__MACOSX")) for p in n.split("/"))]
    found = sorted(name.removeprefix(prefix) for name in seen if name.startswith(prefix))
    if prefix and not found:
        folders = sorted({str(PurePosixPath(name).parent) for name in seen})
        raise InputError("data_dir", data_dir, f"the folders of {location} are {few(folders)}")
    if unread := [name for name in found if PurePosixPath(name).name == "metadata.parquet"]:
        raise refusal(location, f"its labels lie in {unread[0]}, which is not read; save it as metadata.csv")
    return prefix, found


def table_groups(tables: Iterable[str]) -> dict[tuple[str, ...], list[str]]:
    """Group parquet files by folder and split: data/train-00000-of-00002.parquet is of ('data', 'train')."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for name in tables:
        *folders, file = name.split("/")
        stem = re.sub(r"(^|[-_.])\d+-of-\d+(-[0-9a-f]+)?$", "", file[: -len(".parquet")])
        numbered = re.fullmatch(r"(.*?)[-_.]?\d+", stem)
        # train-0 and part_1 are pieces of one split; ipc_1 and ipc_4 are two.
        if numbered and numbered[1].lower() in (*_PARTS, *WORDS):
            stem = "" if numbered[1].lower() in _PARTS else numbered[1]
        groups.setdefault((*folders, stem) if stem else tuple(folders), []).append(name)
    return groups


def picture_groups(location: str, pictures: Iterable[str]) -> dict[tuple[str, ...], list[str]]:
    """Group pictures by the folder of their class folders: train/cat/0.png is of ('train',).

    Raises:
        InputError: When a picture lies in no class folder, or the folders that would be classes are named like splits.
    """
    groups: dict[tuple[str, ...], list[str]] = {}
    for name in pictures:
        groups.setdefault(tuple(name.split("/")[:-2]), []).append(name)
    if loose := [name for name in groups.get((), ()) if "/" not in name]:
        raise refusal(location, f"every image must lie in a folder named by its class, unlike {few(loose)}")
    for names in groups.values():
        classes = {name.split("/")[-2] for name in names}
        if all(map(split_named, classes)):
            raise refusal(location, f"its images lie in {few(sorted(classes))} and in no folder named by their class")
    return groups


def choose(
    location: str, groups: Groups, split: str | None, data_dir: str | None, *, in_folders: bool = True
) -> tuple[str, ...]:
    """Choose one of the splits of a set: the one that is named, or the only one, or the only one to train on.

    A split is called by its top folder, or by the prefix of its files, never by a folder in between: that may be a class.

    Args:
        location: The set.
        groups: Files by where they lie: folders, then for tables the prefix of the file's name.
        split: The user's choice, by one of these.
        data_dir: The user's choice of a folder, made already.
        in_folders: Whether they lie in folders of these names; not so where the card names them.

    Raises:
        InputError: When there is no such split, or there are several and it is not said which.
    """
    shared = 0
    while len(groups) > 1 and len({parts[: shared + 1] for parts in groups}) == 1:
        shared += 1
    left = {parts: parts[shared:] for parts in groups}
    if split is not None:
        named = {parts: own for parts, own in left.items() if split in (*own, "/".join(own))}
        if not named:
            shown = few("/".join(own) or "." for own in left.values()) if any(left.values()) else "not named"
            raise InputError("split", split, f"the splits of {location} are {shown}")
        left = named
    if len(left) > 1:
        kinds = {parts: split_named(own[0]) or split_named(own[-1]) if own else None for parts, own in left.items()}
        if "train" in kinds.values() and all(kinds.values()):
            left = {parts: own for parts, own in left.items() if kinds[parts] == "train"}
    if len(left) > 1:
        shown = few(sorted("/".join(own) or "." for own in left.values()))
        if not in_folders or all(len(own) == 1 for own in left.values()):
            raise InputError("split", split, f"{location} holds several splits; pass one with --split: {shown}")
        folders = sorted({"/".join(parts if () in left.values() else parts[: shared + 1]) or "." for parts in left})
        raise InputError("data_dir", data_dir, f"{location} holds several folders; pass one with --data_dir: {few(folders)}")
    return next(iter(left))
