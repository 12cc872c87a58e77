"""Random numbers that depend on what they are for, and on nothing else."""

import hashlib

import torch


def draw_seed(*key: int | str) -> int:
    """Return the seed of one random draw, in [0, 2^63), from what the draw is for, e.g. (seed, stage, class, index).

    Hashing the whole key makes draws independent of each other and of which process or batch makes them.
    """
    return int.from_bytes(hashlib.sha256(repr(key).encode()).digest()[:8], "little") >> 1


def cpu_generator(seed: int) -> torch.Generator:
    """Return a CPU generator: the same numbers whatever device the work runs on."""
    return torch.Generator().manual_seed(seed)
