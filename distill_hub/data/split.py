"""One split of a real dataset: its images, which are read and decoded one by one, and their labels."""

import hashlib
import re
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from datasets import Dataset, Image
from PIL import Image as PILImage

from distill_hub.config import InputError
from distill_hub.data.file_facts import Facts, locked
from distill_hub.data.images import decode, size_of, square
from distill_hub.data.rows import Origin
from distill_hub.disk.files import atomic_write, cache_dir
from distill_hub.running.machine import own_cores
from distill_hub.text import shortened

T = TypeVar("T")
_AT_A_TIME = 32  # images that a thread decodes


@dataclass(frozen=True)
class Split:
    """One split: the rows, and their labels as positions in `Source.classes`."""

    source: str
    name: str
    dataset: Dataset = field(repr=False)  # the image column alone
    labels: np.ndarray = field(repr=False)  # (N,) int64
    image_column: str
    facts: Facts | None = field(default=None, repr=False)  # of the file that each row names
    files: bool = False  # whether a row may name a file, see `Rows`
    origin: Origin | None = None  # of the rows that were read
    rows: np.ndarray | None = field(default=None, repr=False)  # which of these this split has, int64 (N,); None: all

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def by_class(self) -> list[np.ndarray]:
        """The rows of every class, in their order, from one pass over the labels."""
        return np.split(np.argsort(self.labels, kind="stable"), np.cumsum(np.bincount(self.labels))[:-1])

    def select(self, rows: Sequence[int], name: str) -> "Split":
        """Return some of the rows as a split of another name."""
        facts = None if self.facts is None else self.facts.take(rows)
        own = np.asarray(rows, np.int64) if self.rows is None else self.rows[rows]
        return replace(self, name=name, dataset=self.dataset.select(rows), labels=self.labels[rows], facts=facts, rows=own)

    def image(self, row: int) -> PILImage.Image:
        """Decode one image, as RGB."""
        return self._read(row, decode)

    @cached_property
    def sizes(self) -> np.ndarray:
        """Width and height in px as stored, int (M, 2): of all files, or of 256 rows at most, spread evenly."""
        if self.facts is not None:
            return self.facts.sides
        rows = np.unique(np.linspace(0, len(self) - 1, min(256, len(self))).astype(int))
        return np.array([self._read(int(row), size_of) for row in rows])

    @cached_property
    def fingerprint(self) -> str:
        """What the split holds: the same for the same labels and images.

        The sha256 over the labels and the encoded images; of files, over the sha256 of each; of a dataset on the Hub, whose
        commit says what its images are, over the commit and which of the rows there these are. Tables are read once for all
        processes and runs, as long as no file of theirs changes.
        """
        digest = hashlib.sha256(self.labels.astype("<i8").tobytes())
        if self.facts is not None:
            digest.update(self.facts.sha256.tobytes())
            return digest.hexdigest()
        if self.origin is None:
            return self._read_all(digest)
        rows = b"" if self.rows is None else self.rows.astype("<i8").tobytes()
        known = hashlib.sha256(f"{self.origin.key} {self.image_column} ".encode() + digest.digest() + rows).hexdigest()
        if self.origin.is_commit:
            return known
        file = cache_dir() / "sources" / f"{known[:16]}.sha256"
        with locked(file):
            written = file.read_bytes() if file.is_file() else b""
            if not re.fullmatch(rb"[0-9a-f]{64}", written):  # none yet, or damaged
                written = self._read_all(digest).encode()
                atomic_write(file, written)
            return written.decode()

    def _read_all(self, digest: Any) -> str:
        """Take in the encoded images."""
        row = 0
        for batch in self._cells.iter(1000):  # row by row `datasets` takes many times as long
            for cell in batch[self.image_column]:
                digest.update(self._read(row, bytes, cell))
                row += 1
        return digest.hexdigest()

    @cached_property
    def _cells(self) -> Dataset:
        """The images as they are stored: nothing but `data.images` decodes them."""
        stored = isinstance(self.dataset.features[self.image_column], Image)
        return self.dataset.cast_column(self.image_column, Image(decode=False)) if stored else self.dataset

    def _encoded(self, row: int, cell: dict[str, Any] | bytes | None) -> bytes:
        """Return the bytes of one image, from the file that its cell names where it may name one."""
        data, path = (cell.get("bytes"), cell.get("path")) if isinstance(cell, dict) else (cell, None)
        if data is not None:
            return data
        if path is None:
            raise ValueError("there is none")
        if not self.files:
            raise ValueError(f"the table holds a path or an address instead, {shortened(path, 60)!r}, which is not opened")
        data = Path(path).read_bytes()
        if self.facts is not None and hashlib.sha256(data).digest() != self.facts.sha256[row].tobytes():
            raise ValueError(f"{shortened(path, 60)} has changed since it was first read; run the command again")
        return data

    def _read(self, row: int, reader: Callable[[bytes], T], cell: dict[str, Any] | bytes | None = None) -> T:
        try:
            return reader(self._encoded(row, cell or self._cells[row][self.image_column]))
        except (OSError, ValueError) as error:
            raise InputError(
                "source", self.source, f"image of row {row} in split {self.name!r} cannot be decoded ({error})"
            ) from error

    def pixels(self, indices: Sequence[int] | None, size: int, *, resize: int | None = None) -> torch.Tensor:
        """Decode images and make them `square`.

        Args:
            indices: Rows to decode; None for all.
            size: Side of the result in pixels.
            resize: Length of the shorter side before the centre is cropped; default: `size`.

        Returns:
            uint8 (N, 3, size, size).

        Raises:
            InputError: For an image that cannot be decoded; see also `square`.
        """
        indices = range(len(self)) if indices is None else indices
        result = np.empty((len(indices), 3, size, size), np.uint8)

        def decode_some(start: int) -> None:
            for place, row in enumerate(indices[start : start + _AT_A_TIME], start):
                result[place] = square(self.image(int(row)), size, resize).transpose(2, 0, 1)

        starts = range(0, len(indices), _AT_A_TIME)
        if (threads := min(own_cores(), len(starts))) > 1:  # Pillow lets go of Python's lock while it decodes and scales
            with ThreadPoolExecutor(threads) as pool:
                deque(pool.map(decode_some, starts), maxlen=0)
        else:
            deque(map(decode_some, starts), maxlen=0)
        return torch.from_numpy(result)

    def draw_per_class(self, count: int | np.ndarray, seed: int) -> np.ndarray:
        """Return `count` random rows of every class, class by class, as row numbers (C * count,), or (sum of counts,).

        See `check_ipc` for classes with fewer.
        """
        generator = np.random.default_rng(seed)
        counts = np.broadcast_to(count, len(self.by_class))
        drawn = zip(self.by_class, counts, strict=True)
        return np.concatenate([generator.choice(own, n, replace=False) for own, n in drawn])
