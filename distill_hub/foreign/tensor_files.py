"""Files of tensors, as authors save them: .pt, .pth, .safetensors, .npy, .npz. They are read as data, never unpickled.

PyTorch's own restricted reader makes tensors, and the numbers and arrays of NumPy go through stand-ins here: NumPy's own
ones believe what a file says of its memory. What asks for far more memory than it stores is refused before it gets it.
"""

import math
import struct
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from tokenize import TokenError
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from distill_hub.foreign.contents import MAX_BYTES, reading
from distill_hub.foreign.layout import refusal
from distill_hub.foreign.pictures import ZIP_ERRORS
from distill_hub.parsing import check_file

_SMALL = 64 * 2**20  # bytes that any tensor may have, however few of them are stored
_CHANNELS = 3  # grey images are often stored once and expanded
# What each reader raises for a damaged file, or for one made to confuse it: found by damaging files.
_NUMPY = (*ZIP_ERRORS, TypeError, KeyError, SyntaxError, TokenError, OverflowError, MemoryError)
_SAFETENSORS = (SafetensorError, OSError, ValueError, KeyError, MemoryError)
_TORCH = (UnpicklingError, RuntimeError, EOFError, OSError, ValueError, TypeError, LookupError, AttributeError)
_TORCH_LEGACY = (AssertionError, struct.error, MemoryError, OverflowError, RecursionError)


class _Type:
    """Stands for `numpy.dtype`: the type of plain numbers."""

    def __init__(self, name: Any, *_: Any):
        self.order, self.name = "=", name.decode("ascii") if isinstance(name, bytes) else str(name)

    def __setstate__(self, state: tuple) -> None:
        self.order = state[1].decode("ascii") if isinstance(state[1], bytes) else str(state[1])

    @property
    def plain(self) -> np.dtype:
        """The type."""
        kind = np.dtype(self.name)
        if kind.kind not in "biuf" or kind.shape:
            raise ValueError(f"arrays of {self.name} are not read")
        return kind.newbyteorder(self.order)


class _Array:
    """Stands for `numpy.ndarray`."""

    value: np.ndarray | None = None

    def __setstate__(self, state: tuple) -> None:
        _, shape, kind, by_column, data = state
        if not isinstance(data, bytes):
            raise ValueError("arrays of objects are not read")
        self.value = np.frombuffer(data, kind.plain).reshape(shape, order="F" if by_column else "C")


def _new_array(*_: Any) -> _Array:
    """Stand for the function that makes an empty array, to be filled by its state."""
    return _Array()


def _scalar(kind: _Type, data: bytes) -> int | float | bool | str:
    """Stand for the function that makes a number or a text."""
    if kind.name.startswith("U"):
        return data.decode("utf-32-be" if kind.order == ">" else "utf-32-le")
    return np.frombuffer(data, kind.plain)[0].item()


def _no_bytes(*data: Any) -> bytes:
    """Stand for `bytes` as the empty ones are written."""
    if data:
        raise ValueError("bytes are not made")
    return b""


_STAND_INS = [
    (_Type, "numpy.dtype"),
    (_Array, "numpy.ndarray"),
    (_no_bytes, "builtins.bytes"),
    *((_new_array, f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")),
    *((_scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
]


def load(location: str, file: Path) -> Any:
    """Return what a file holds: tensors, arrays and numbers, in lists and dicts.

    Raises:
        InputError: For a damaged file, no regular file, or one that holds more, which would have to be executed.
    """
    kind = file.suffix.lower()
    with reading(location, file.name, (OSError, ValueError)):
        check_file(file, MAX_BYTES)
    if kind in (".pt", ".pth"):
        try:
            with torch.serialization.safe_globals(_STAND_INS), warnings.catch_warnings():  # of what is then refused
                warnings.simplefilter("ignore")
                return torch.load(file, map_location="cpu", weights_only=True)
        except (*_TORCH, *_TORCH_LEGACY) as error:  # its text advises to load the file without the safeguard
            raise refusal(
                location,
                f"{file.name} is damaged, or holds more than tensors, arrays and numbers, which would have to be executed; "
                "ask its author for tensors, safetensors or parquet",
            ) from error
    if kind == ".safetensors":
        with reading(location, file.name, _SAFETENSORS):
            return load_file(file)
    with reading(location, file.name, _NUMPY):
        if zipfile.is_zipfile(file):
            _check_archive(location, file)
        content = np.load(file, mmap_mode="r", allow_pickle=False)
        return dict(content) if isinstance(content, np.lib.npyio.NpzFile) else content


def _check_archive(location: str, file: Path) -> None:
    """Check that the arrays of an .npz fit into memory, before one is unpacked."""
    with zipfile.ZipFile(file) as archive:
        size = sum(entry.file_size for entry in archive.infolist())
        if size > MAX_BYTES:
            raise refusal(location, f"{file.name} unpacks to {size:,} bytes; at most {MAX_BYTES:,} are read")
        for entry in archive.infolist():
            if not entry.filename.endswith(".npy"):
                continue
            with archive.open(entry) as stored:
                version = np.lib.format.read_magic(stored)
                read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                shape, _, kind = read(stored)
            if math.prod(shape) * kind.itemsize > entry.file_size:
                raise refusal(location, f"{entry.filename} of {file.name} says it has shape {shape}, which it does not hold")


def plain(location: str, key: str, value: Any) -> np.ndarray:
    """Return a tensor, an array, or a list of numbers as an array of numbers; bfloat16 as float32.

    Raises:
        InputError: For anything else, and for a tensor that says it is far larger than what is stored of it.
    """
    if isinstance(value, _Array):
        value = value.value
    with reading(
        location, key, (RuntimeError, TypeError, ValueError, OverflowError)
    ):  # sparse, quantised, without data, uneven
        if isinstance(value, torch.Tensor):
            size = value.numel() * value.element_size()
            stored = value.untyped_storage().nbytes() if value.layout == torch.strided else 0
            if size > max(_SMALL, _CHANNELS * stored):
                why = f"{key} says it has shape {tuple(value.shape)}, {size:,} bytes, of which {stored:,} are stored"
                raise refusal(location, why)
            known = (torch.float16, torch.float32, torch.float64)
            widened = value.float() if value.is_floating_point() and value.dtype not in known else value  # bfloat16
            value = widened.numpy(force=True)
        elif isinstance(value, list | tuple) and value and all(isinstance(one, int | float) for one in value):
            value = np.array(value)
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "biuf":
        raise refusal(location, f"{key} must be a tensor of numbers; it is {getattr(value, 'dtype', type(value).__name__)}")
    return value


def plainly(value: Any) -> Any:
    """Return arrays in place of their stand-ins, in lists and dicts, too."""
    if isinstance(value, _Array):
        return value.value
    if isinstance(value, Mapping):
        return {key: plainly(one) for key, one in value.items()}
    return type(value)(map(plainly, value)) if type(value) in (list, tuple) else value
