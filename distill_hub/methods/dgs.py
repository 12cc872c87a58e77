"""Task-Specific Generative Dataset Distillation with Difficulty-Guided Sampling (Li et al., ICCV Workshops 2025).

From a pool of n·IPC candidates of a class, `select` takes IPC that are as difficult for a classifier as the class's real
images (Sec. 2.2). Before that, one logarithmic transform flattens the pool's difficulties, which lean to the easy side, and
is applied to the real ones, too (Sec. 2.3). The transform and the order of the divergences that choose its thresholds are
the released code's, which gave the paper's numbers. Where that code is not followed:

- difficulties are kept in full (there: rounded to four decimals);
- a transform that leaves a bin empty can still win (there: its objective is infinite, and a class for which every pair of
  thresholds leaves one empty goes without thresholds).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from distill_hub.config import InputError
from distill_hub.methods.candidates import check_pool
from distill_hub.running.seeds import cpu_generator

FACTS = {
    "name": "dgs",
    "title": "Task-Specific Generative Dataset Distillation with Difficulty-Guided Sampling",
    "paper": "https://arxiv.org/abs/2507.03331",
    "bibtex": """@inproceedings{li2025dgs,
  title = {Task-Specific Generative Dataset Distillation with Difficulty-Guided Sampling},
  author = {Li, Mingzhuo and Li, Guang and Mao, Jiafeng and Ye, Linfeng and Ogawa, Takahiro and Haseyama, Miki},
  booktitle = {International Conference on Computer Vision Workshops},
  year = {2025},
}""",
}
BINS = 10  # of equal width over [0, 1], from easy to hard
KINDS = ("real", "pool", "chosen")  # of images whose difficulties are counted
INNER_EDGES = np.linspace(0, 1, BINS + 1)[1:-1]
FLOOR = 1e-4  # ε of Eq. 7: least transformed difficulty, and least lower bound
EMPTY = 1e-12  # share that an empty bin counts as, so that divergences from it stay finite
TIE = 1e-12  # objectives closer than this are equal: less is rounding

# Images per bin and IPC (Fig. 4, Tab. 3).
SHAPES = {
    "hill": {
        10: (1, 0, 1, 0, 3, 3, 1, 0, 0, 1),
        20: (1, 1, 1, 2, 5, 5, 2, 1, 1, 1),
        50: (1, 3, 5, 6, 10, 10, 6, 5, 3, 1),
    },
    "ground": {ipc: (ipc // BINS,) * BINS for ipc in (10, 20, 50)},
    "slope": {
        10: (3, 3, 1, 1, 0, 0, 1, 1, 0, 0),
        20: (5, 5, 2, 2, 1, 1, 1, 1, 1, 1),
        50: (10, 10, 6, 6, 5, 5, 3, 3, 1, 1),
    },
    "cliff": {
        10: (6, 3, 0, 1, 0, 0, 0, 0, 0, 0),
        20: (9, 6, 1, 1, 1, 1, 1, 0, 0, 0),
        50: (20, 15, 3, 3, 2, 2, 2, 1, 1, 1),
    },
}


@dataclass(frozen=True)
class Sampling:
    """What was selected for one class, and why. Counts are int64 (10,), per bin from easy to hard."""

    indices: torch.Tensor  # int64 (ipc,), distinct: those drawn bin by bin from easy to hard, then the fill
    thresholds: tuple[int, int] | None  # b and t; None: nothing was transformed
    target: np.ndarray  # candidates wanted, after the transform
    filled: int  # how many of them stand in for one that their bin did not have
    before: dict[str, np.ndarray]  # of the 'real' images, the 'pool' and the 'chosen' candidates, as measured
    after: dict[str, np.ndarray]  # the same, transformed if they were

    def as_tensors(self) -> dict[str, torch.Tensor]:
        """Return it for a stage; see `samplings`."""
        counts = {name: torch.from_numpy(np.stack(list(getattr(self, name).values()))) for name in ("before", "after")}
        thresholds = {"thresholds": torch.tensor(self.thresholds)} if self.thresholds else {}
        plain = {"indices": self.indices, "filled": torch.tensor(self.filled), "target": torch.from_numpy(self.target)}
        return {**plain, **thresholds, **counts}


def bin_of(difficulties: np.ndarray) -> np.ndarray:
    """Return the bin of every difficulty in [0, 1], int64 of the same shape, in [0, 10); 1 is in the last, as in NumPy."""
    return np.digitize(difficulties, INNER_EDGES)


def histogram(difficulties: np.ndarray) -> np.ndarray:
    """Count difficulties (..., N) per bin: int64 (..., 10)."""
    rows = bin_of(difficulties).reshape(-1, difficulties.shape[-1])
    cells = rows + BINS * np.arange(len(rows))[:, None]
    return np.bincount(cells.ravel(), minlength=BINS * len(rows)).reshape(*difficulties.shape[:-1], BINS)


def _low(ordered: np.ndarray, bottom: int) -> float:
    """Return the lower bound, at least FLOOR. The released code's has no smaller ones either: it rounds to four decimals."""
    return max(FLOOR, ordered[min(bottom, len(ordered) - 1)])


def _log_scale(difficulties: np.ndarray, low: float, high: np.ndarray) -> np.ndarray:
    """Return Eq. 8: 0 for a difficulty of `low` or less, 1 for `high`, more above."""
    return np.log(np.maximum(difficulties, low) / low) / np.log(high / low)


def transform(difficulties: np.ndarray, bottom: int, top: int) -> np.ndarray:
    """Spread difficulties over [0, 1] on a logarithmic scale (Eq. 7, 8).

    Values below the `bottom`-th smallest (low) and above the `top`-th largest (high) are clipped to it, both counted from 0;
    then v becomes ln(v / low) / ln(high / low), at least 1e-4. A low below 1e-4 becomes 1e-4. Where high <= low, as when
    all values are the same or the thresholds meet, there is nothing to spread: the values are returned as they are.

    Args:
        difficulties: float64 (N,) in [0, 1], N >= 1, in any order.
        bottom: b >= 0.
        top: t >= 0.

    Returns:
        float64 (N,), in [1e-4, 1] if there is something to spread.
    """
    ordered = np.sort(difficulties)
    low, high = _low(ordered, bottom), ordered[max(len(ordered) - 1 - top, 0)]
    if high <= low:
        return difficulties
    return np.clip(_log_scale(difficulties, low, high), FLOOR, 1)


def objective(own: np.ndarray, transformed: np.ndarray, weight: float) -> np.ndarray:
    """Return λ·KL(own ‖ transformed) + (1 - λ)·KL(uniform ‖ transformed), in bits (Eq. 9).

    The paper writes both divergences the other way round; this is how the released code computes them. An empty bin of
    `transformed` counts as 1e-12 of the mass.

    Args:
        own: Counts (10,) of the difficulties as they are.
        transformed: Counts (..., 10) after the transform.
        weight: λ in [0, 1].

    Returns:
        float64 (...).
    """
    shares = np.maximum(transformed / transformed.sum(-1, keepdims=True), EMPTY)

    def divergence(counts: np.ndarray) -> np.ndarray:
        filled = counts > 0
        reference = counts[filled] / counts.sum()
        return (reference * np.log2(reference / shares[..., filled])).sum(-1)

    return weight * divergence(own) + (1 - weight) * divergence(np.ones(BINS))


def thresholds(difficulties: np.ndarray, limit: int, weight: float) -> tuple[int, int]:
    """Find the thresholds b and t of the transform that minimise `objective` (Eq. 9), trying all pairs.

    Pairs that leave nothing to spread lose against all others. Of equally good ones the smallest b wins, then the smallest
    t.

    Args:
        difficulties: float64 (N,) of a pool, N >= 1.
        limit: b and t are in [0, limit). It is at least 1, and at most N // 2, below which thresholds cannot meet.
        weight: λ in [0, 1]: 1 keeps the pool's own distribution, 0 makes it uniform.

    Returns:
        b and t.
    """
    ordered = np.sort(difficulties)
    limit = max(1, min(limit, len(ordered) // 2))
    own, highs = histogram(ordered), ordered[::-1][:limit]
    values = np.full((limit, limit), np.inf)  # (b, t)
    for bottom in range(limit):
        low = _low(ordered, bottom)
        spreads = highs > low
        scaled = _log_scale(ordered, low, highs[spreads, None])  # (pairs, N)
        values[bottom, spreads] = objective(own, histogram(scaled), weight)
    bottom, top = np.unravel_index(np.argmax(values <= values.min() + TIE), values.shape)
    return int(bottom), int(top)


def targets(difficulties: np.ndarray, ipc: int) -> np.ndarray:
    """Scale the histogram of the real images' difficulties to IPC (Sec. 2.2).

    Shares are rounded down, and what is missing goes to the largest fractions, of equal ones to the easier bin. In integers:
    floats would break ties at random.

    Args:
        difficulties: (M,) in [0, 1], M >= 1.
        ipc: Sum of the result.

    Returns:
        int64 (10,).
    """
    shares, fractions = np.divmod(histogram(difficulties) * ipc, len(difficulties))
    shares[np.argsort(-fractions, kind="stable")[: ipc - shares.sum()]] += 1
    return shares


def shape(distribution: str, ipc: int) -> np.ndarray:
    """Return one of `SHAPES`, int64 (10,).

    Raises:
        InputError: When it is not known, or not for this IPC.
    """
    if distribution not in SHAPES:
        raise InputError("distribution", distribution, f"valid are scale, {', '.join(SHAPES)}")
    known = SHAPES[distribution]
    if ipc not in known:
        valid = f"it is given for IPC {', '.join(map(str, known))}, not {ipc}; scale is valid for any"
        raise InputError("distribution", distribution, valid)
    return np.array(known[ipc], dtype=np.int64)


def select(
    pool: np.ndarray,
    ipc: int,
    real: np.ndarray,
    *,
    distribution: str = "scale",
    transformed: bool = True,
    weight: float = 0.5,
    limit: int | None = None,
    seed: int = 0,
) -> Sampling:
    """Choose IPC candidates of one class whose difficulties are distributed as those of its real images (Sec. 2.2, 2.3).

    The pool's thresholds b and t are ranks, and so are they for the real images: the transform of these clips at their own
    b-th and t-th value (f(P_X, b, t) of Eq. 8). What a bin has too few of is filled at random from the rest of the pool.

    Args:
        pool: float64 (N,), difficulties of one class's candidates, in [0, 1].
        ipc: How many to choose, at most N.
        real: float64 (M,), those of the class's real images.
        distribution: 'scale', or a shape of Fig. 4 in its place: 'hill', 'ground', 'slope', 'cliff'.
        transformed: Whether difficulties are transformed first; without it, the upper row of Fig. 2.
        weight: λ of Eq. 9.
        limit: See `thresholds`. Default: N // 2, as in the paper. The released code's program searches below IPC / 2. Its
            file of thresholds, in an earlier commit, has b up to 108 in the pools of 250 of ImageNette and ImageIDC, and of
            at most 24 for ImageWoof: the published runs took both ranges.
        seed: Of the draw.

    Returns:
        The selection, and the histograms that led to it.

    Raises:
        InputError: When IPC is larger than the pool, there is no real image, or the shape is unknown or not given for this
            IPC.
    """
    size = len(pool)
    check_pool(ipc, size)
    if len(real) == 0:
        raise InputError("real", 0, "difficulties of one or more real images are needed")
    found = thresholds(pool, size // 2 if limit is None else limit, weight) if transformed else None
    flat_pool, flat_real = (transform(values, *found) if found else values for values in (pool, real))
    target = targets(flat_real, ipc) if distribution == "scale" else shape(distribution, ipc)

    bins, draw = torch.from_numpy(bin_of(flat_pool)), cpu_generator(seed)

    def some(eligible: torch.Tensor, count: int) -> torch.Tensor:
        places = eligible.nonzero().flatten()
        return places[torch.randperm(len(places), generator=draw)[:count]]

    drawn = torch.cat([some(bins == level, count) for level, count in enumerate(target.tolist())])
    rest = torch.ones(size, dtype=torch.bool).index_fill(0, drawn, False)
    indices = torch.cat([drawn, some(rest, ipc - len(drawn))])
    chosen = indices.numpy()
    return Sampling(
        indices,
        thresholds=found,
        target=target,
        filled=ipc - len(drawn),
        before=dict(zip(KINDS, map(histogram, (real, pool, pool[chosen])), strict=True)),
        after=dict(zip(KINDS, map(histogram, (flat_real, flat_pool, flat_pool[chosen])), strict=True)),
    )


def samplings(found: Mapping[str, torch.Tensor]) -> list[Sampling]:
    """Return those of C classes from what `Sampling.as_tensors` gave, (C, ...) each, but for the indices."""
    classes = [dict(zip(found, values, strict=True)) for values in zip(*found.values(), strict=True)]
    return [
        Sampling(
            torch.empty(0, dtype=torch.int64),
            thresholds=tuple(own["thresholds"].tolist()) if "thresholds" in own else None,
            target=own["target"].numpy(),
            filled=int(own["filled"]),
            before=dict(zip(KINDS, own["before"].numpy(), strict=True)),
            after=dict(zip(KINDS, own["after"].numpy(), strict=True)),
        )
        for own in classes
    ]


def totals(samplings: Sequence[Sampling]) -> dict[str, dict[str, np.ndarray]]:
    """Add up the histograms of all classes (Fig. 2): by state, then by kind of image, counts (10,)."""
    states = {"as measured": [one.before for one in samplings]}
    if samplings[0].thresholds:
        states["transformed"] = [one.after for one in samplings]
    return {state: {kind: sum(one[kind] for one in all) for kind in all[0]} for state, all in states.items()}
