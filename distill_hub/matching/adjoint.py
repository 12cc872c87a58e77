"""The gradient of MTT's loss at the memory of one step (Cazenavette et al., CVPR 2022; TESLA: Cui et al., ICML 2023).

From an expert's weights theta_0 a student takes N steps of gradient descent on the set, theta_{i+1} = theta_i - alpha g_i,
where g_i is the gradient of its loss on batch x_i. What is minimised is how far it ends from the expert's later weights:

    L = |theta_N - target|^2 / |theta_0 - target|^2    (MTT, Eq. 2).

Unrolled, the graphs of all steps are held at once. Here the steps are taken first, and only the N weight vectors kept; then
the steps are gone through backwards with lambda = dL/dtheta_{i+1}, each with a graph of its own: the adjoint method.
With s = -alpha lambda^T g_i(theta_i, x_i), the gradient of x_i is ds/dx_i, dL/dalpha gains -lambda^T g_i, and lambda gains
ds/dtheta_i. TESLA leaves the last step out, so that lambda stays that of the end: it drops how x_i moves the
gradients after it. Its released code also loses the factor 2 of the square, as it multiplies a tuple.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

Batch = Sequence[torch.Tensor]  # what one step is taken on: images, and whatever else its loss depends on


@dataclass(frozen=True)
class Matched:
    """What matching one stretch of a trajectory gives."""

    loss: torch.Tensor  # L, 0-dimensional
    rate: torch.Tensor  # dL/dalpha, 0-dimensional
    batches: list[list[torch.Tensor]]  # of every step: dL/dx_i of each tensor of its batch that requires a gradient


def match_trajectory(
    step_loss: Callable[..., torch.Tensor],
    start: torch.Tensor,
    target: torch.Tensor,
    batches: Sequence[Batch],
    rate: float | torch.Tensor,
    *,
    truncated: bool = False,
) -> Matched:
    """Take one step per batch from `start`, and return MTT's loss and its gradients.

    Args:
        step_loss: From weights (P,), the number of a step, and the tensors of its batch to the loss that the step descends.
            It is called twice per step and has to do the same both times.
        start: theta_0, (P,).
        target: The expert's later weights, (P,).
        batches: One per step.
        rate: alpha.
        truncated: TESLA's gradient in place of the exact one. With one step they are the same.
    """
    weights = [start.detach()]
    for step, batch in enumerate(batches):
        own = weights[-1].requires_grad_()
        (gradient,) = torch.autograd.grad(step_loss(own, step, *(x.detach() for x in batch)), own)
        weights.append((own - rate * gradient).detach())
    end, distance = weights.pop(), (start - target).square().sum()
    loss = (end - target).square().sum() / distance
    slope = 2 * (end - target) / distance  # lambda
    of_rate, of_batches = torch.zeros_like(loss), []
    for step in reversed(range(len(batches))):
        own = weights.pop().requires_grad_()
        batch = [x.detach().requires_grad_(x.requires_grad) for x in batches[step]]
        learned, chained = [x for x in batch if x.requires_grad], step > 0 and not truncated
        (gradient,) = torch.autograd.grad(step_loss(own, step, *batch), own, create_graph=True)
        along = slope @ gradient
        found = torch.autograd.grad(along, [*learned, own] if chained else learned)
        of_batches.append([-rate * one for one in found[: len(learned)]])
        of_rate = of_rate - along.detach()
        if chained:
            slope = slope - rate * found[-1]
    return Matched(loss, of_rate, of_batches[::-1])
