"""Files: where they lie, what they are called, and how one is written."""

import os
import platform
import re
import shutil
import tempfile
from pathlib import Path

from distill_hub.config import InputError

STATE = ".run"  # folder of what a run needs to resume; not part of the artifact


def atomic_write(path: Path, data: bytes) -> None:
    """Write a file so that it is either absent (or old) or complete, whenever the machine stops."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{platform.node()}.{os.getpid()}.tmp")  # machines may share the folder
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(path)) from error


def remove(path: Path) -> None:
    """Remove a file, a folder, or a link itself, never what it leads to; what is not there is fine."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def remove_temporary(folder: Path) -> None:
    """Remove what `atomic_write` left in a folder, and below, when it was cut short. Nobody else may be at work there."""
    for temporary in folder.rglob(".*.tmp"):
        temporary.unlink()


def of_dry_run(folder: Path) -> Path:
    """Return where a dry run works instead of in a folder: beside it."""
    place = Path(os.path.realpath(folder))
    return place.with_name(f".{place.name}.dry-run")


def check_folder(folder: Path, field: str = "output_dir") -> None:
    """Refuse an output folder that cannot be made or written to, before work is done for it.

    Args:
        folder: It need not exist.
        field: What names it, for the error.

    Raises:
        InputError: Naming what is in the way.
    """
    if reason := _in_the_way(folder):
        raise InputError(field, str(folder), f"{reason}; name a new folder")


def _in_the_way(folder: Path) -> str | None:
    name = Path(os.path.realpath(folder.absolute())).name if "\0" not in str(folder) else ""
    if not name:
        return "it is no name of a folder"
    if folder.parts[:1] and folder.parts[0].startswith("~"):
        return "there is no such home"
    try:
        str(folder).encode()  # cards and records name it
        # What lies in it, and the folder of a dry run beside it, have longer names.
        for longer in (folder.absolute() / ("x" * 200), of_dry_run(folder)):
            longer.exists()
        place = next(place for place in (folder, *folder.absolute().parents) if os.path.lexists(place))
        which = "it" if place == folder else place
        if not place.exists():
            return f"{which} is a link that leads to nothing"
        if not place.is_dir():
            return f"{which} is a file"
        tempfile.TemporaryFile(dir=place).close()
    except UnicodeEncodeError:
        return "it is not UTF-8"
    except OSError as error:
        return f"nothing can be written there ({error.strerror})"
    return None


def check_files(**files: Path | None) -> None:
    """Refuse files that cannot be written, by the options that name them, and one that two of them name.

    Raises:
        InputError: See `check_file`.
    """
    taken: dict[Path, str] = {}
    for field, file in files.items():
        if file is None:
            continue
        if file in taken:
            raise InputError(field, str(file), f"--{taken[file]} names the same file; name another")
        check_file(field, file)
        taken[file] = field


def check_file(field: str, file: Path) -> None:
    """Refuse a file that cannot be written, or must not be replaced, before work is done for it.

    Args:
        field: The option that names it.
        file: It need not exist.

    Raises:
        InputError: For a folder, a device, or a place where nothing can be written.
    """
    if file.is_dir():
        raise InputError(field, str(file), "it is a folder; name a file in it")
    if file.exists() and not (file.is_file() and not file.is_symlink()):
        raise InputError(field, str(file), "it is a device or a link, which would be replaced; name a plain file")
    place = next(parent for parent in file.absolute().parents if parent.exists())
    try:
        tempfile.TemporaryFile(dir=place).close()
    except OSError as error:
        valid = f"nothing can be written in {place} ({error.strerror}); name a file in another folder"
        raise InputError(field, str(file), valid) from error


def cache_dir() -> Path:
    """Folder of what is fitted once and used by many runs: $DISTILL_HUB_CACHE, or distill_hub in the user's cache."""
    user = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return Path(os.environ.get("DISTILL_HUB_CACHE") or user / "distill_hub")


def shipped(name: str) -> Path:
    """Return where a folder that comes with the package lies: inside an installed one, beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    inside = package / name
    return inside if inside.is_dir() else package.parent / name


def folder_name(folder: Path) -> str:
    """Return what a card in a folder calls it: not its place on its author's machine, but for the default's `outputs`."""
    name = os.path.basename(os.path.abspath(folder))
    return f"outputs/{name}" if Path(folder).parent == Path("outputs") else name


def slug(name: str) -> str:
    """Return the last part of a source's name as it enters names of folders and repositories: a-z, 0-9, '-', '.'."""
    last = os.path.basename(os.path.abspath(name))
    return re.sub(r"[^a-z0-9.]+|\.{2,}", "-", last.lower()).strip("-.") or "images"
