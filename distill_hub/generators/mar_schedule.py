"""How a MAR goes about an image: how many tokens are masked after each step, and how its head draws a token."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Step:
    """A step of the head's sampler (Ho et al., 2020, Eq. 7; Nichol and Dhariwal, 2021, Eq. 15)."""

    timestep: int
    signal: float  # √ᾱ_t
    level: float  # √(1−ᾱ_t)
    clean: float  # weight of x̂_0 in the mean of the next x
    keep: float  # weight of x in it
    smallest: float  # logarithm of the variance's lower end
    largest: float  # of its upper end


def respaced(betas: torch.Tensor, steps: int) -> Iterator[Step]:
    """Yield the steps of a sampler that takes `steps` of the timesteps, evenly from the last to 0."""
    alpha = (1 - betas.double()).cumprod(0).tolist()  # ᾱ_t
    used = [round(i * (len(betas) - 1) / (steps - 1)) for i in range(steps)]
    before = [1.0, *(alpha[t] for t in used[:-1])]
    widths = [1 - alpha[t] / previous for t, previous in zip(used, before, strict=True)]  # β of the respaced process
    smallest = [b * (1 - p) / (1 - alpha[t]) for t, b, p in zip(used, widths, before, strict=True)]
    smallest[0] = smallest[1]  # it is 0, and its logarithm is taken; no noise is added there
    for t, previous, beta, least in reversed(list(zip(used, before, widths, smallest, strict=True))):
        rest = 1 - alpha[t]
        yield Step(
            t,
            signal=math.sqrt(alpha[t]),
            level=math.sqrt(rest),
            clean=math.sqrt(previous) * beta / rest,
            keep=math.sqrt(1 - beta) * (1 - previous) / rest,
            smallest=math.log(least),
            largest=math.log(beta),
        )


def masked_counts(tokens: int, steps: int) -> Iterator[int]:
    """Yield how many tokens are masked after each autoregressive step that draws some: a cosine, down to 0."""
    left = tokens
    for step in range(1, steps):
        after = max(1, min(left - 1, math.floor(tokens * math.cos(math.pi / 2 * step / steps))))
        if after < left:
            yield after
            left = after
    yield 0


def training_share(u: torch.Tensor) -> torch.Tensor:
    """Return the share of masked tokens in training of u in [0, 1): normal with mean 1 and deviation .25, cut to [.7, 1]."""
    least = torch.special.ndtr(torch.tensor((0.7 - 1) / 0.25, dtype=torch.float64))
    return 1 + 0.25 * torch.special.ndtri(least + u * (0.5 - least))
