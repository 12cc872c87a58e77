"""Foreign sets of encoded images in folders, here, on the Hub or in an archive: a folder per class, or a list of labels.

Bytes from outside meet zipfile and the decoder here. What asks for more memory than any distilled set needs is refused
before it gets it, and nothing is unpacked to disk.
"""

import posixpath
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np

from distill_hub.foreign.contents import (
    MAX_BYTES,
    MAX_ENTRY_BYTES,
    ForeignSet,
    check_labels,
    decoded,
    natural,
    numbered,
    reading,
)
from distill_hub.foreign.layout import refusal

# What the reader raises for a damaged archive, or for one made to confuse it.
ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, NotImplementedError, EOFError, OSError, ValueError, IndexError, RuntimeError)


@contextmanager
def open_archive(location: str) -> Iterator[tuple[list[str], Callable[[str], bytes]]]:
    """Give the names of a zip's files, with slashes, and a function that reads one into memory.

    Raises:
        InputError: For an entry that is encrypted, leaves the archive's folder, or is larger than any image.
    """
    with reading(location, "the archive", ZIP_ERRORS):
        archive = zipfile.ZipFile(location)
        entries = [entry for entry in archive.infolist() if not entry.is_dir() and not entry.filename.endswith("\\")]
    files: dict[str, zipfile.ZipInfo] = {}
    with archive:
        for entry in entries:
            name = entry.filename
            if re.match(r"[/\\]|[A-Za-z]:", name) or ".." in re.split(r"[/\\]", name):
                raise refusal(location, f"entry {name!r} would lie outside the archive's folder")
            if entry.flag_bits & 1:
                raise refusal(location, f"entry {name!r} is encrypted")
            if entry.file_size > MAX_ENTRY_BYTES:
                raise refusal(location, f"entry {name!r} says it unpacks to {entry.file_size:,} bytes; an image is smaller")
            plain = posixpath.normpath(name.replace("\\", "/"))  # of archives from Windows; './a' and 'a//b' as well
            if plain in files:
                raise refusal(location, f"two of its entries are called {plain!r}")
            files[plain] = entry
        if sum(entry.file_size for entry in files.values()) > MAX_BYTES:
            raise refusal(location, f"it says that it unpacks to more than {MAX_BYTES:,} bytes")

        def read(name: str) -> bytes:
            with reading(location, f"entry {name!r}", ZIP_ERRORS), archive.open(files[name]) as file:
                return file.read(files[name].file_size)

        yield list(files), read


def from_pictures(
    location: str,
    names: Sequence[str],
    read: Callable[[str], bytes],
    image_size: int | None,
    listed: Mapping[str, str | int] | None = None,
) -> ForeignSet:
    """Read images, classes and files in natural order.

    Args:
        location: The set.
        names: The files, all below folders of classes.
        read: Returns the bytes of a file.
        image_size: See `read_foreign`.
        listed: The label of each file, where a list of labels has them and not the folders.

    Raises:
        InputError: When an image cannot be decoded, or labels are texts and numbers at once.
    """
    given = [name.split("/")[-2] if listed is None else listed[name] for name in names]
    kinds = {type(label) for label in given}
    if kinds == {int}:
        class_names, labels = None, np.array(given, dtype=object)
        if max(given) >= 2**62 or min(given) < 0:
            raise refusal(location, f"labels must be 0, 1, ..., but they reach from {min(given)} to {max(given)}")
        labels = labels.astype(np.int64)
    elif kinds == {str}:
        labels, class_names = numbered(given)
    else:
        raise refusal(location, "its labels are texts in some rows and numbers in others")
    rows = sorted(range(len(names)), key=lambda row: (labels[row], natural(names[row])))
    # Each image is a file of its own, so that many of them need no more room than they take.
    images, notes = decoded(location, lambda: ((names[row], read(names[row])) for row in rows), image_size, MAX_BYTES)
    labels = labels[rows]
    check_labels(location, labels, len(images), class_names)
    return ForeignSet(location, images, labels, class_names, None, notes)
