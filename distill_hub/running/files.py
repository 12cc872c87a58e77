"""Files: where they lie, what they are called, and how one is written."""

import os
import platform
import re
from pathlib import Path


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


def cache_dir() -> Path:
    """Folder of what is fitted once and used by many runs: $DISTILL_HUB_CACHE, or distill_hub in the user's cache."""
    user = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser()
    return Path(os.environ.get("DISTILL_HUB_CACHE", user / "distill_hub"))


def shipped(name: str) -> Path:
    """Return where a folder that comes with the package lies: inside an installed one, beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    inside = package / name
    return inside if inside.is_dir() else package.parent / name


def slug(name: str) -> str:
    """Return the last part of a source's name as it enters names of folders and repositories: a-z, 0-9, '-', '.'."""
    return re.sub(r"[^a-z0-9.]+|\.{2,}", "-", Path(name).resolve().name.lower()).strip("-.") or "images"
