"""What parquet files unpack to, told by the headers of their pages: a kilobyte may stand for gigabytes.

Sizes in a file's footer are those of its pages, and a page of one long value and of ten thousand references to it is short;
so is a run of a million equal numbers. PyArrow gives memory to all of it before it can be asked, and ends the process for
some damaged footers. So the headers, which are in Thrift's compact protocol (parquet.thrift of apache/parquet-format), are
read here first.
"""

import mmap
import struct
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SMALL = 32 * 2**20  # bytes that a page or a column may unpack to, however little is stored
FACTOR = 64  # by which more may be unpacked than is stored
SMALL_SET, MOST_EXPANSION = 256 * 2**20, 1000  # the same of decoded images: bytes, and by how much
_WIDTHS = {0: 1, 1: 4, 2: 8, 3: 12, 4: 4, 5: 8}  # bytes of a value, by physical type; byte arrays are not among them
_BYTE_ARRAYS, _PREFIXES = 6, 7  # a physical type, and the encoding that repeats the beginning of the value before
_MOST_DEPTH = 20


@dataclass(frozen=True)
class Column:
    """One column of a file, all row groups together."""

    path: tuple[str, ...]  # e.g. image, bytes
    values: int  # of all rows, those of lists counted one by one
    largest_dictionary: int  # bytes of the values that pages refer to, of the row group where these are longest


class _Thrift:
    """A reader of structs: field number to value, of which nothing is believed but what the bytes hold."""

    def __init__(self, data: Any, place: int):
        self.data, self.place = data, place

    def byte(self) -> int:
        self.place += 1
        return self.data[self.place - 1]

    def varint(self) -> int:
        value = 0
        for shift in range(0, 70, 7):
            byte = self.byte()
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
        raise ValueError("a number has too many digits")

    def number(self) -> int:
        value = self.varint()
        return (value >> 1) ^ -(value & 1)

    def binary(self) -> bytes:
        size = self.varint()
        self.place += size
        if self.place > len(self.data):
            raise ValueError("a text ends outside the file")
        return self.data[self.place - size : self.place]

    def value(self, kind: int, depth: int) -> Any:
        if depth > _MOST_DEPTH:
            raise ValueError("it is nested too deeply")
        if kind in (1, 2):  # as an element of a list
            return self.byte() == 1
        if kind == 3:
            return self.byte()
        if kind in (4, 5, 6):
            return self.number()
        if kind == 7:
            self.place += 8
            return None
        if kind == 8:
            return self.binary()
        if kind in (9, 10):
            head = self.byte()
            size = self.varint() if head >> 4 == 15 else head >> 4
            return [self.value(head & 15, depth + 1) for _ in range(self.bounded(size))]
        if kind == 11:
            size = self.bounded(self.varint())
            kinds = self.byte() if size else 0
            return [(self.value(kinds >> 4, depth + 1), self.value(kinds & 15, depth + 1)) for _ in range(size)]
        if kind == 12:
            return self.struct(depth + 1)
        raise ValueError(f"there is no type {kind}")

    def bounded(self, size: int) -> int:
        if size > len(self.data) - self.place:
            raise ValueError("a list ends outside the file")
        return size

    def struct(self, depth: int = 0) -> dict[int, Any]:
        fields: dict[int, Any] = {}
        number = 0
        while head := self.byte():
            number = number + (head >> 4) if head >> 4 else self.number()
            kind = head & 15
            fields[number] = kind == 1 if kind in (1, 2) else self.value(kind, depth)
        return fields


def read_columns(file: Path, names: Collection[str] | None = None) -> list[Column]:
    """Return what the columns of a parquet file unpack to.

    Args:
        file: The file.
        names: The columns that will be read; None: all.

    Raises:
        ValueError: When it is damaged, or a page or column unpacks to more than `SMALL` bytes and `FACTOR` times what is
            stored.
        OSError: When it cannot be read.
    """
    try:
        with open(file, "rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _columns(data, names)
    except (IndexError, KeyError, TypeError, AttributeError, struct.error, UnicodeDecodeError) as error:
        raise ValueError(f"the headers of {file.name} are damaged ({type(error).__name__})") from error
    except ValueError as error:
        raise ValueError(f"{file.name}: {error}") from error


def _columns(data: mmap.mmap, names: Collection[str] | None) -> list[Column]:
    if len(data) < 12 or data[-4:] != b"PAR1":
        raise ValueError("it is no parquet file")
    end = len(data) - 8 - struct.unpack("<I", data[-8:-4])[0]
    if end < 4:
        raise ValueError("its footer is longer than the file")
    found: dict[tuple[str, ...], list[Column]] = {}
    for group in _Thrift(data, end).struct()[4]:
        for chunk in group[1]:
            facts = chunk[3]
            path = tuple(part.decode() for part in facts[3])
            if chunk.get(1):
                raise ValueError("it refers to another file")
            if names is None or path[0] in names:
                found.setdefault(path, []).append(_chunk(data, end, path, facts))
    columns = []
    for path, chunks in found.items():
        total = Column(path, sum(c.values for c in chunks), max(c.largest_dictionary for c in chunks))
        columns.append(total)
    return columns


def _chunk(data: mmap.mmap, end: int, path: tuple[str, ...], facts: dict[int, Any]) -> Column:
    """Walk through the pages of a column of one row group."""
    kind, name = facts[1], ".".join(path)[:100]
    if facts[5] == 0:  # of a file without rows, of which no page is looked at
        return Column(path, 0, 0)
    place = min(facts[9], facts.get(11) or facts[9])
    last = place + facts[7]
    if not 4 <= place <= last <= end:
        raise ValueError(f"column {name!r} lies outside the file")
    values = dictionary = distinct = 0
    while place < last:
        reader = _Thrift(data, place)
        header = reader.struct()
        unpacked, stored = header[2], header[3]
        if unpacked < 0 or stored < 0 or reader.place + stored > last:
            raise ValueError(f"a page of column {name!r} has no believable size")
        if unpacked > max(SMALL, FACTOR * stored):
            raise ValueError(f"a page of column {name!r} unpacks from {stored:,} to {unpacked:,} bytes")
        if header[1] == 2:
            dictionary, distinct = unpacked, header[7][1]
        elif header[1] in (0, 3):
            facts_of_page = header[5 if header[1] == 0 else 8]
            values += facts_of_page[1]
            if facts_of_page[1] < 0 or (kind == _BYTE_ARRAYS and facts_of_page[2 if header[1] == 0 else 4] == _PREFIXES):
                raise ValueError(f"column {name!r} is stored by common beginnings, which is not read")
        place = reader.place + stored
    width = _WIDTHS.get(kind) or (8 if kind == _BYTE_ARRAYS else max(2, dictionary // max(1, distinct)))
    if values * width > max(SMALL, FACTOR * len(data)):
        raise ValueError(f"column {name!r} unpacks to {values * width:,} bytes, its file has {len(data):,}")
    return Column(path, values, dictionary)


def rows_at_a_time(columns: list[Column], most: int) -> int:
    """Return how many rows to read at a time, at most `most`, so that what they refer to fits into `SMALL` bytes."""
    longest = max((column.largest_dictionary for column in columns), default=0)
    return max(1, min(most, SMALL // max(1, longest)))
