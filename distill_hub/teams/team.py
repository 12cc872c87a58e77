"""Processes that train one network together: each has its share of every batch, and all come to the same weights."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel


@dataclass(frozen=True)
class Team:
    """Some of a run's processes, with a process group of their own: Accelerate knows the one of all processes alone."""

    members: Sequence[int]  # by their ranks among all processes
    rank: int  # of this process in the team, from 0
    group: dist.ProcessGroup

    @property
    def size(self) -> int:
        """Number of its members, at least two."""
        return len(self.members)

    def share(self, count: int) -> slice:
        """Return which of `count` rows are this process's; none has more than one row more than another."""
        return slice(self.rank * count // self.size, (self.rank + 1) * count // self.size)

    def first(self, count: int) -> "Team | None":
        """Return the team of its first members, called by these alone; None: the first is on its own then."""
        return self if count >= self.size else _team(self.members[:count], self.rank)

    def shared(self, module: nn.Module) -> DistributedDataParallel:
        """Return a module whose gradients are the mean over the members, as they all start from the first one's weights."""
        # Weights without a part in the loss, as some of timm's networks have, are the same at every step.
        return DistributedDataParallel(module, process_group=self.group, gradient_as_bucket_view=True, static_graph=True)

    def weight(self, count: int) -> float:
        """Return by what the mean over this member's `share` of rows is multiplied for the gradients of that over all."""
        own = self.share(count)
        return self.size * (own.stop - own.start) / count

    def tell(self, value: Any) -> Any:
        """Return on every member what the first one says."""
        told = [value]
        dist.broadcast_object_list(told, src=self.members[0], group=self.group)
        return told[0]

    def summed(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return the sum over the members. A gradient through it is the one of what all of them make of the sum."""
        return _Sum.apply(tensor, self.group)


class Claims(Protocol):
    """What is claimed, see `running.claims`: each has the fields `is_mine`, whether there is work to do, and `lease`."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Any]: ...


@dataclass(frozen=True)
class Led:
    """What the first member of a team claims, one after the other, and the others then work on with it.

    Args:
        claims: Of the first member.
        team: The team.
    """

    claims: "Claims"
    team: Team

    def __len__(self) -> int:
        return len(self.claims)

    def __iter__(self) -> Iterator[Any]:
        if self.team.rank:
            while claim := self.team.tell(None):
                yield claim
            return
        for claim in self.claims:
            if claim.is_mine:
                self.team.tell(replace(claim, lease=None))
            yield claim
        self.team.tell(None)


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


@contextmanager
def at_work(team: Team | None, images: int, batch_size: int) -> Iterator[tuple[Team | None, int]]:
    """Let as many members of a team work as every batch has something for, each with its part of the machine's cores.

    Args:
        team: Who is there; None: this process alone, with all cores as ever, see `start_accelerator`.
        images: Of an epoch.
        batch_size: Of its batches; the last may be smaller.

    Yields:
        The team that works, None where one process does; and of how many it is, 0 where this one is not needed.
    """
    if not team:
        yield None, 1
        return
    smallest = min(batch_size, images, images % batch_size or batch_size)
    if team.rank >= smallest:
        yield None, 0
        return
    working, threads = team.first(smallest), torch.get_num_threads()
    if working:
        torch.set_num_threads(max(1, threads // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))
    try:
        yield working, working.size if working else 1
    finally:
        torch.set_num_threads(threads)


def gathered(team: Team | None, value: Any) -> list[Any]:
    """Return what every member says; of one process, which is no team, what it says itself."""
    said = [value] * (team.size if team else 1)
    if team:
        dist.all_gather_object(said, value, group=team.group)
    return said


def divided(count: int) -> tuple[int, Team | None]:
    """Divide all processes into teams, of which none has more than one member more than another. Call it on all of them.

    Args:
        count: Number of teams, at most that of the processes.

    Returns:
        Number of this process's team, from 0, and the team; None: the process is on its own.
    """
    if not dist.is_initialized():
        return 0, None
    world, rank = dist.get_world_size(), dist.get_rank()
    starts = [number * world // count for number in range(count + 1)]
    number = next(number for number in range(count) if rank < starts[number + 1])
    return number, _team(range(starts[number], starts[number + 1]), rank - starts[number])


def _team(members: Sequence[int], rank: int) -> Team | None:
    if len(members) == 1:
        return None
    group = dist.new_group(list(members), timeout=timedelta(days=7), use_local_synchronization=True)
    return Team(members, rank, group)
