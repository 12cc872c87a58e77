"""The output folder of a run: whether it is one, what it was made with, and making room in it."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distill_hub.config import InputError, refusing
from distill_hub.disk.files import STATE, check_folder, remove
from distill_hub.parsing import read_object

CONFIG = "config.json"  # in STATE: what the run was made with
LOCK = "lock"  # in STATE
_FOLDERS = ("data", "views", "evaluations", "assets", "generator", STATE)
_FILES = ("manifest.json", "README.md")
_MOST_BYTES = 2**20  # of CONFIG


def check_is_run(folder: Path) -> None:
    """Refuse a folder that cannot be written to, or that holds something else than a run.

    Raises:
        InputError: Naming the folder.
    """
    check_folder(folder)
    if not folder.is_dir():
        return
    try:
        names = {path.name for path in folder.iterdir()}
        # A run stopped at its very first write leaves STATE without CONFIG.
        if names - {STATE} and not (folder / STATE / CONFIG).is_file():
            raise InputError("output_dir", str(folder), "it holds files that are not a run's; name a new folder")
        for name in names:
            if (name in _FOLDERS and not (folder / name).is_dir()) or (name in _FILES and (folder / name).is_dir()):
                what = "a folder" if name in _FOLDERS else "a file"
                raise InputError("output_dir", str(folder), f"{name} in it should be {what}; name a new folder")
        if STATE in names:
            check_folder(folder / STATE)
    except OSError as error:
        raise InputError("output_dir", str(folder), f"it cannot be read ({error.strerror}); name a new folder") from error


def made_with(folder: Path) -> dict[str, Any] | None:
    """Return what the run in a folder was made with; None where there is none.

    Raises:
        InputError: When the file that says so is broken.
    """
    file = folder / STATE / CONFIG
    if not os.path.lexists(file):
        return None
    with refusing((OSError, ValueError), "output_dir", str(folder), f"{file} is broken; --overwrite starts afresh"):
        return read_object(file, _MOST_BYTES)


_IMAGES = {"source_fingerprint": "training images", "test_fingerprint": "test images"}  # what these settings stand for


def refuse_other(folder: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Refuse to replace the result of another recipe, or a finished one of other settings.

    Args:
        folder: Of the run.
        before: What it was made with.
        now: What it is to be made with.

    Returns:
        Lines that say what has changed, where an unfinished run goes on.

    Raises:
        InputError: Naming one thing that has changed.
    """
    state = folder / STATE
    if before == now or not (_is_finished(folder) or any(state.glob("*/*.json")) or any(state.glob("*/key"))):
        return []  # or there is nothing to lose
    other = "--overwrite or another --output_dir starts afresh"
    if missing := sorted(before.keys() ^ now.keys()):
        valid = f"it was made by another recipe, or another version of it: {missing[0]} is not an option of both; {other}"
        raise InputError("output_dir", str(folder), valid)
    if before.get("method") != now.get("method"):
        valid = f"it was made by another recipe: {before['method']}, not {now['method']}; {other}"
        raise InputError("output_dir", str(folder), valid)
    changed = _changes(before, now)
    if _is_finished(folder):
        name, (old, new) = next(iter(changed.items()))
        if name in _IMAGES:
            valid = f"its {_IMAGES[name]} are not those that {folder} was made with: files were added, removed or changed"
            raise InputError(
                "source", now.get("source"), f"{valid}; name another --output_dir, or --overwrite to make it anew"
            )
        valid = f"{folder} was made with {old!r}; use that value, another --output_dir, or --overwrite to make it anew"
        raise InputError(name, new, valid)
    told = ", ".join(
        f"other {_IMAGES[name]}" if name in _IMAGES else f"{name} ({str(old)[:40]} before, {str(new)[:40]} now)"
        for name, (old, new) in changed.items()
    )
    return [f"Going on in {folder} with other settings: {told}; what depends on them is done again"]


def refuse_unlike(folder: Path, before: Mapping[str, Any], now: Mapping[str, Any], others: str) -> None:
    """Refuse to join those who work in a folder with other settings than theirs.

    Args:
        folder: Of the run.
        before: What it is made with.
        now: What this process was given.
        others: Who works there.

    Raises:
        InputError: Naming one thing that differs.
    """
    for name, (old, new) in _changes(before, now).items():
        what = f"other {_IMAGES[name]}" if name in _IMAGES else repr(old)
        valid = f"{others}, with {what}; give it the same, or another --output_dir"
        raise InputError("source" if name in _IMAGES else name, new if name not in _IMAGES else now.get("source"), valid)


def is_bare(folder: Path) -> bool:
    """Tell whether a folder holds a finished result, and nothing more of what it was made from."""
    return _is_finished(folder) and not any(any(path.glob("*.json")) for path in (folder / STATE).iterdir() if path.is_dir())


def _is_finished(folder: Path) -> bool:
    return any((folder / name).exists() for name in ("manifest.json", "config.json"))  # of a set, of a classifier


def _changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    old, new = (_flat(settings) for settings in (before, now))
    names = sorted(old | new, key=lambda name: (name in _IMAGES, name))  # another --test_fraction gives other images, too
    return {name: (old.get(name), new.get(name)) for name in names if old.get(name) != new.get(name)}


def _flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    versions = settings.get("versions")
    own = {f"version of {name}": value for name, value in (versions.items() if isinstance(versions, dict) else ())}
    return {**{name: value for name, value in settings.items() if name != "versions"}, **own}


def clear(folder: Path, *, keep: tuple[str, ...]) -> None:
    """Remove what a folder holds, links as such; the state goes last: half done, the folder is still known as a run's."""
    for path in sorted(folder.iterdir(), key=lambda path: path.name == STATE):
        if path.name not in keep:
            remove(path)
