"""Processes that train one network together: each has its share of every batch, and all come to the same weights."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist


@dataclass(frozen=True)
class Team:
    """Some of a run's processes, with a process group of their own: Accelerate knows the one of all processes alone."""

    group: dist.ProcessGroup
    rank: int  # of this process in the team, from 0
    size: int

    def share(self, count: int) -> slice:
        """Return which of `count` rows are this process's; none has more than one row more than another."""
        return slice(self.rank * count // self.size, (self.rank + 1) * count // self.size)

    def tell(self, value: Any) -> Any:
        """Return on every member what the first one says."""
        told = [value]
        dist.broadcast_object_list(told, group=self.group, group_src=0)
        return told[0]

    def summed(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return the sum over the members. A gradient through it is the one of what all of them make of the sum."""
        return _Sum.apply(tensor, self.group)

    @contextmanager
    def cores_divided(self) -> Iterator[None]:
        """Give each process its part of a machine's cores, where otherwise it has all of them; see `start_accelerator`."""
        before = torch.get_num_threads()
        torch.set_num_threads(max(1, before // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))
        try:
            yield
        finally:
            torch.set_num_threads(before)


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx, tensor, group):
        ctx.group = group
        total = tensor.contiguous().clone()
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx, gradient):
        return _Sum.apply(gradient, ctx.group), None


def make_teams(count: int, *, most: int | None = None) -> tuple[int, Team | None]:
    """Divide the processes of a run into teams. Call it on every process.

    Args:
        count: Number of teams. None has more than one member more than another.
        most: Members of a team; processes that are over are in none.

    Returns:
        Number of this process's team, from 0, and the team; None: it is in none, or alone.
    """
    if not dist.is_initialized():
        return 0, None
    own: tuple[int, Team | None] = -1, None
    world, rank = dist.get_world_size(), dist.get_rank()
    for number in range(count):
        members = range(number * world // count, (number + 1) * world // count)[:most]
        group = dist.new_group(list(members), timeout=timedelta(days=7)) if len(members) > 1 else None
        if rank in members:
            own = number, Team(group, members.index(rank), len(members)) if group else None
    return own
