"""Stages: finished results on disk, in chunks that say what went into them."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save

from distill_hub.disk.files import atomic_write


@dataclass(frozen=True)
class Stage:
    """The finished results of one stage, read from disk chunk by chunk, in the order of its work items."""

    folder: Path
    chunk_size: int
    items: int
    sha256: str = ""  # over the hashes of its chunks

    def __len__(self) -> int:
        return self.items

    def rows(self, start: int, stop: int, *names: str) -> dict[str, torch.Tensor]:
        """Read items [start, stop): one tensor per name, its first dimension over the items.

        Args:
            start: First item.
            stop: Item behind the last.
            names: Tensors to read; all by default. Nothing else is read from disk.
        """
        return self.take(range(start, stop), *names)

    def take(self, items: Sequence[int], *names: str) -> dict[str, torch.Tensor]:
        """Read some items, in the order asked for; see `rows`. A chunk is opened once, one after the other."""
        ordered, order = torch.tensor(items).sort(stable=True)
        chunks, sizes = (ordered // self.chunk_size).unique_consecutive(return_counts=True)
        parts, result = zip(chunks.tolist(), *(x.split(sizes.tolist()) for x in (ordered, order)), strict=True), {}
        for index, own, places in parts:
            first, last = (int(own[end]) - index * self.chunk_size for end in (0, -1))
            with safe_open(Chunk(self.folder, index).file, "pt") as file:
                for name in names or file.keys():
                    part = file.get_slice(name)[first : last + 1]
                    if name not in result:
                        result[name] = part.new_empty(len(items), *part.shape[1:])
                    result[name][places] = part[own - own[0]]
        return result

    def batches(self, *names: str, size: int = 100) -> Iterator[dict[str, torch.Tensor]]:
        """Read all items in order, `size` at a time; see `rows`."""
        return (self.rows(start, min(start + size, self.items), *names) for start in range(0, self.items, size))

    def mapped(self) -> list[dict[str, torch.Tensor]]:
        """Open all chunks, their tensors mapped into memory: what is not used is not read."""
        return [load_file(Chunk(self.folder, index).file) for index in range(-(-self.items // self.chunk_size))]


@dataclass(frozen=True)
class Chunk:
    """One chunk of a stage: a file of tensors, and a marker that says that it is complete and what went into it."""

    folder: Path  # of the stage
    index: int

    @property
    def file(self) -> Path:
        """Where its tensors are."""
        return self.folder / f"{self.index:06d}.safetensors"

    @property
    def marker(self) -> Path:
        """Where it is said that they are complete."""
        return self.folder / f"{self.index:06d}.json"

    @property
    def lease(self) -> Path:
        """The lock of whoever makes it, where several processes may."""
        return self.folder / f"{self.index:06d}.lock"

    def store(self, result: Mapping[str, torch.Tensor], **facts: Any) -> None:
        """Write it, the marker second: a chunk counts only when it is complete."""
        data = save(dict(result))
        atomic_write(self.file, data)
        marker = {"sha256": hashlib.sha256(data).hexdigest(), **facts}
        atomic_write(self.marker, json.dumps(marker).encode())

    def facts(self) -> dict[str, Any]:
        """Return what its marker says; nothing where there is none, or a damaged one."""
        try:
            found = json.loads(self.marker.read_bytes())
        except (FileNotFoundError, IsADirectoryError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def is_marked(self, key: str) -> bool:
        """Tell whether its marker says that it was made with the same as `key` stands for."""
        return says(self.facts(), key)

    def is_whole(self, sha256: str) -> bool:
        """Tell whether its file is there, as it was written."""
        try:
            return hashlib.sha256(self.file.read_bytes()).hexdigest() == sha256
        except FileNotFoundError:
            return False

    def is_finished(self, key: str) -> bool:
        """Tell both."""
        facts = self.facts()
        return says(facts, key) and self.is_whole(facts["sha256"])


def says(facts: Mapping[str, Any], key: str) -> bool:
    """Tell whether a marker is one of what `key` stands for, and undamaged."""
    return facts.get("key") == key and isinstance(facts.get("seconds"), float) and "sha256" in facts


def chunks_in(folder: Path) -> list[Chunk]:
    """Return the chunks that lie in the folder of a stage, finished or not."""
    return [Chunk(folder, int(file.stem)) for file in sorted(folder.glob("[0-9]*.json")) if file.stem.isdecimal()]


def remove_rest(folder: Path, count: int) -> None:
    """Remove what lies in the folder of a finished stage beside its chunks: those of more items, leases of the killed."""
    for chunk in chunks_in(folder)[count:]:
        chunk.marker.unlink(missing_ok=True)
        chunk.file.unlink(missing_ok=True)
    for lease in folder.glob("*.lock*"):
        lease.unlink(missing_ok=True)


def hash_of(hashes: Iterable[str]) -> str:
    """Return the sha256 of a stage: over the hexadecimal ones of its chunks."""
    return hashlib.sha256("".join(hashes).encode()).hexdigest()


def key_of(*parts: Any) -> str:
    """Return a short name of what goes into something: lists, tuples, numbers, texts, None, and mappings of them.

    Raises:
        TypeError: For anything else, whose text might be the same for two that differ.
    """
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
