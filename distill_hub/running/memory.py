"""Work that does not fit into memory: found out, and done in smaller parts."""

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch

from distill_hub.config import InputError
from distill_hub.ending import is_out_of_memory

Item = TypeVar("Item")


def in_parts(
    items: Sequence[Item],
    function: Callable[[Sequence[Item]], dict[str, torch.Tensor]],
    most: int,
    *,
    whole: bool = False,
) -> tuple[dict[str, torch.Tensor], int]:
    """Apply a function to items, to fewer at a time where memory does not suffice for all of them.

    Args:
        items: At least one.
        function: From items to tensors with one row per item each.
        most: Items at a time to begin with.
        whole: They belong together.

    Returns:
        What the function returns for all items, on the CPU, and how many at a time there was memory for.

    Raises:
        MemoryError: When it does not suffice for a single item, or for items that belong together.
    """
    parts: list[dict[str, torch.Tensor]] = []
    done = 0
    while done < len(items):
        part = items[done : done + most]
        try:
            found = {name: tensor.detach().cpu().contiguous() for name, tensor in function(part).items()}
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            found = None
        if found is None:  # outside of the handler, where the error would keep its tensors alive
            free()
            if whole or len(part) == 1:
                raise MemoryError
            most = (len(part) + 1) // 2
            continue
        parts.append(found)
        done += len(part)
    return (parts[0] if len(parts) == 1 else {name: torch.cat([part[name] for part in parts]) for name in parts[0]}), most


def free() -> None:
    """Give back what nothing needs any more."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@contextmanager
def told(stage: str, lower: str | None) -> Iterator[None]:
    """Turn an error for want of memory into one line.

    Args:
        stage: What is at work.
        lower: What needs less memory when it is made smaller, or instead; None: nothing that is known.

    Raises:
        InputError: In its place.
    """
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        advice = f"; {lower} needs less" if lower else ""
        raise InputError("stage", stage, f"there is not enough memory for it{advice}; finished work is kept") from error
