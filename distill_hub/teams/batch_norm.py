"""BatchNorm over a whole batch of which every member of a team has a share."""

import functools

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from distill_hub.teams.team import Team


def normalise_together(network: nn.Module, team: Team) -> None:
    """Let the BatchNorms of a network take mean and variance of the shares of all members, with the same running statistics.

    One for all devices: PyTorch's SyncBatchNorm refuses those of a CPU, and timm's BatchNorms with an activation.
    """
    for module in network.modules():
        if isinstance(module, _BatchNorm):
            module.forward = functools.partial(_normalised, module, team)


def _normalised(module: _BatchNorm, team: Team, maps: torch.Tensor) -> torch.Tensor:
    """Normalise maps (b, C, ...): this member's share of the batch."""
    if not module.training:
        return type(module).forward(module, maps)
    values = maps.float()
    variance, mean = torch.var_mean(values, [0, *range(2, maps.ndim)], correction=0)
    every = mean.new_zeros(team.size, 2 * len(mean) + 1)
    own = torch.cat([mean, variance, mean.new_tensor([maps.numel() / len(mean)])])
    every = team.summed(every.index_put((mean.new_tensor(team.rank, dtype=torch.long),), own))  # a row of each member
    means, variances, counts = every[:, : len(mean)], every[:, len(mean) : -1], every[:, -1:].detach()
    count = counts.sum()
    mean = (counts * means).sum(0) / count
    variance = (counts * (variances + (means - mean).square())).sum(0) / count
    if module.track_running_stats:
        with torch.no_grad():
            module.num_batches_tracked += 1
            module.running_mean.lerp_(mean, module.momentum)
            module.running_var.lerp_(variance * count / (count - 1), module.momentum)
    scale = (variance + module.eps).rsqrt()
    if module.affine:
        scale = scale * module.weight
    shift = -mean * scale
    if module.affine:
        shift = shift + module.bias
    shape = (1, -1) + (1,) * (maps.ndim - 2)
    made = torch.addcmul(shift.view(shape), values, scale.view(shape)).to(maps.dtype)
    return module.act(module.drop(made)) if hasattr(module, "act") else made  # timm's BatchNormAct2d
