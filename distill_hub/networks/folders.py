"""Reading the folder of a network that a stranger made: JSON, weights, and what other libraries say of both."""

import logging
import math
import os
import reprlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from pydantic import BaseModel, ValidationError
from safetensors import SafetensorError

from distill_hub.config import InputError, refusing
from distill_hub.networks.configs import Own, ShardIndex
from distill_hub.parsing import read_object
from distill_hub.text import printable

MAX_BYTES = 2**25  # of a JSON file
# What timm, transformers and diffusers raise for a configuration, or weights, that they cannot build a network from.
_UNBUILT = (
    *(OSError, ValueError, RuntimeError, TypeError, LookupError, AttributeError, ArithmeticError, AssertionError),
    *(NameError, ImportError, RecursionError, MemoryError, StopIteration, SafetensorError, StrictDataclassError),
)


def read_json(file: Path, field: str, name: str) -> dict[str, Any]:
    """Read a JSON object.

    Args:
        file: Where it lies.
        field: Option to blame.
        name: What the user called the network.

    Raises:
        InputError: When it is missing, too large, or something else.
    """
    called = _part(file.parent) + file.name
    if not os.path.lexists(file):
        raise InputError(field, name, f"there is no {called} in it")
    with refusing((OSError, ValueError), field, name, f"{called} must hold a JSON object"):
        return read_object(file, MAX_BYTES, finite=False)


def checked(kind: type[Own], content: Any, file: str, field: str, name: str) -> Own:
    """Return the record of what a file says.

    Args:
        kind: Of record.
        content: Of the file.
        file: Its name, for the message, as the next two are.
        field: Option to blame.
        name: What the user called the network.

    Raises:
        InputError: Naming the first field that is missing or cannot be, its value, and what would be valid.
    """
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(printable(str(part))[:40] for part in first["loc"])
        given = (
            "" if first["type"] == "missing" or isinstance(first["input"], BaseModel) else f" {reprlib.repr(first['input'])}"
        )
        place = f"{file}, {where}{given}" if where else file
        raise InputError(field, name, f"{place}: {first['msg'].removeprefix('Value error, ')}") from error


@contextmanager
def building(field: str, name: str, valid: str) -> Iterator[None]:
    """Turn what another library raises while it builds a network into one line; it stands around that call alone.

    What it would log meanwhile is not printed: it has names of a stranger's tensors, whatever they do to a terminal.

    Raises:
        InputError: It blames `field`, and says what is valid and why this is not.
    """
    before = logging.root.manager.disable
    logging.disable(max(before, logging.WARNING))
    try:
        with refusing(_UNBUILT, field, name, valid):
            yield
    finally:
        logging.disable(before)


def check_weights(folder: Path, stem: str, field: str, name: str) -> None:
    """Refuse a folder without safetensors weights, or with an index of others than its own.

    Args:
        folder: Where they lie.
        stem: Name of their file without suffix.
        field: Option to blame.
        name: What the user called the network.

    Raises:
        InputError: Saying what is missing, and what to do about it.
    """
    whole, index = folder / f"{stem}.safetensors", folder / f"{stem}.safetensors.index.json"
    if whole.is_file():
        return
    if not index.is_file():
        pickled = [file.name for suffix in ("bin", "pt", "pth", "ckpt") for file in sorted(folder.glob(f"*.{suffix}"))]
        advice = f"; {pickled[0]} is a pickle, which is not opened: save it as safetensors" if pickled else ""
        raise InputError(field, name, f"there is no {_part(folder)}{whole.name}{advice}")
    shards = checked(ShardIndex, read_json(index, field, name), index.name, field, name)
    if missing := sorted(shard for shard in set(shards.weight_map.values()) if not (folder / shard).is_file()):
        raise InputError(field, name, f"{index.name} names {missing[0]}, which is not there")


def check_extent(outline: torch.nn.Module, folder: Path) -> None:
    """Refuse a network that is larger than its weights, whose configuration alone would decide how much memory it takes.

    Args:
        outline: The network, on the meta device.
        folder: Of its weights.

    Raises:
        ValueError: Saying how large both are.
    """
    values = sum(tensor.numel() for tensor in outline.state_dict().values())
    stored = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    if values > stored + 2**20:
        raise ValueError(f"its configuration describes {values:,} values, more than its weights have bytes")


def check_loaded(
    model: torch.nn.Module,
    field: str,
    name: str,
    missing: Iterable[str] = (),
    unexpected: Iterable[str] = (),
    mismatched: Iterable[tuple[str, Sequence[int], Sequence[int]]] = (),
) -> None:
    """Refuse a network of which not every number came from the file, or came as no number.

    Args:
        model: What was loaded.
        field: Option to blame.
        name: What the user called the network.
        missing: Tensors that the file lacks.
        unexpected: Tensors of the file that the network lacks.
        mismatched: Tensors of another shape in the file than in the network: name and both shapes.

    Raises:
        InputError: Naming a tensor.
    """
    lacked, others = sorted(missing), sorted(unexpected)
    if lacked:
        have = f"; they have {_first(others)}, which it has no place for" if others else ""
        raise InputError(field, name, f"its weights lack {_first(lacked)}, which its configuration needs{have}")
    if others:
        raise InputError(field, name, f"its weights have {_first(others)}, which its configuration has no place for")
    for key, stored, needed in sorted(mismatched):
        shapes = f"{tuple(stored)}, which its configuration needs as {tuple(needed)}"
        raise InputError(field, name, f"its weights have {printable(key)[:100]} of the shape {shapes}")
    for key, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not math.isfinite(float(tensor.float().sum())) and not tensor.isfinite().all():
            raise InputError(field, name, f"its weights hold values that are no numbers, in {key}")


def _part(folder: Path) -> str:
    """Return the name of a folder, with a slash, where it is that of a part of a pipeline; else nothing."""
    return f"{folder.name}/" if (folder.parent / "model_index.json").is_file() else ""


def _first(tensors: Sequence[str]) -> str:
    more = f" and {len(tensors) - 1} more" if len(tensors) > 1 else ""
    return printable(tensors[0])[:100] + more
