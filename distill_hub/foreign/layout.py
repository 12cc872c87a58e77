"""What a set made elsewhere is made of, told by the names of its files: nothing is opened, and nothing heavy is loaded."""

import re
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath
from typing import Literal

from distill_hub.artifact.find import Found
from distill_hub.config import InputError

SUFFIXES = (".pt", ".pth", ".safetensors", ".npy", ".npz")  # of tensors
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
READABLE = (
    "readable are parquet files and image folders (<class>/<file>.png), here or on the Hub; and here also a .zip of an image"
    " folder, a .pt, .pth, .safetensors or .npz file of tensors images and labels, and files images*, labels* of .pt or .npy"
)


def refusal(location: str, why: str) -> InputError:
    """Return the error that refuses a set, for the caller to raise."""
    return InputError("distilled set", location, why)


def few(names: Iterable[str]) -> str:
    """Return the first of some names, for a message."""
    names = list(names)
    return (", ".join(names[:5]) or "nothing") + (f" and {len(names) - 5:,} more" if len(names) > 5 else "")


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
        layout_of(found.location, within(found.location, found.files, data_dir)[1], on_hub=found.remote is not None)


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
    """Return the prefix that `data_dir` means and what follows it in the names, without hidden files."""
    prefix = "" if data_dir is None else data_dir.strip("/") + "/"
    seen = [n for n in names if not any(p.startswith((".", "__MACOSX")) for p in n.split("/"))]
    found = sorted(name.removeprefix(prefix) for name in seen if name.startswith(prefix))
    if prefix and not found:
        folders = sorted({str(PurePosixPath(name).parent) for name in seen})
        raise InputError("data_dir", data_dir, f"the folders of {location} are {few(folders)}")
    return prefix, found
