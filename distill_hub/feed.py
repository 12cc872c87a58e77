"""Images on their way to a device: all of them are there, or they come batch by batch where they do not fit."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

Item, Made = TypeVar("Item"), TypeVar("Made")


def placed(images: torch.Tensor, device: torch.device | str) -> torch.Tensor:
    """Return images on a device; where they would fill more than half of what is free on a GPU, as they are."""
    device = torch.device(device)
    if device.type == "cuda" and images.device != device and images.nbytes > torch.cuda.mem_get_info(device)[0] / 2:
        return images
    return images.to(device)


def taken(images: torch.Tensor, rows: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return rows of images on a device, where they are already or to which they are sent while it computes."""
    own = images[rows]
    return own.pin_memory().to(device, non_blocking=True) if device.type == "cuda" and own.device != device else own


def ahead(function: Callable[[Item], Made], items: Iterable[Item], *, by_thread: bool) -> Iterator[Made]:
    """Yield what a function makes of each item.

    Args:
        function: What to call.
        items: One after the other.
        by_thread: Whether a thread makes the next while the last is used.
    """
    if not by_thread:
        yield from map(function, items)
        return
    with ThreadPoolExecutor(1) as worker:
        coming: Future[Made] | None = None
        for item in items:
            last, coming = coming, worker.submit(function, item)
            if last:
                yield last.result()
        if coming:
            yield coming.result()
