"""MGD3: Mode-Guided Dataset Distillation using Diffusion Models (Chan-Santiago et al., ICML 2025).

Each image of a class is drawn towards another mode of its real latents (mode discovery: `modes.centres`; mode guidance and
stop guidance: `Towards`). The authors' code is followed, with these differences:

- any sampler of any generator can be guided, where it has DDPM and DDIM of a DiT, and a diffusion model of text;
- images are drawn in batches, with the result of one at a time;
- half of 50 steps are the first 25; there the comparison of an index that counts down leaves out the 25th.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from distill_hub.generators.base import State

FACTS = {
    "name": "mgd3",
    "title": "MGD3: Mode-Guided Dataset Distillation using Diffusion Models",
    "paper": "https://arxiv.org/abs/2505.18963",
    "bibtex": """@inproceedings{chansantiago2025mgd3,
  title = {{MGD}$^3$: Mode-Guided Dataset Distillation using Diffusion Models},
  author = {Chan-Santiago, Jeffrey A. and Tirupattur, Praveen and Nayak, Gaurav Kumar and Liu, Gaowen and Shah, Mubarak},
  booktitle = {International Conference on Machine Learning},
  year = {2025},
}""",
}


@dataclass(frozen=True)
class Towards:
    """A guide of B images, each towards its own mode m, in the first steps alone.

    x̂_0 goes the share λ of its way to m, and noise, velocity or mean follow from it: the paper's Alg. 1, for DDIM. Of DDPM,
    which makes the authors' sets, it is the mean of the next latents that is pulled, by λ·σ_t·(m − x̂_0). Early in the
    schedule x̂_0 is off by many times the size of a latent, and there λ above 0.1 throws samples out of all bounds.
    """

    modes: torch.Tensor  # m, float32 (B, channels, h, w), on the generator's device
    strength: float  # λ, in [0, 1]
    stop: float  # share of the schedule's steps that are guided, from noise on, in [0, 1]
    on_mean: bool = False  # of an ancestral sampler
    needs_graph = False

    def take(self, rows: Sequence[int]) -> "Towards":
        """See `Guide`."""
        return replace(self, modes=self.modes[rows])

    def __call__(self, state: State) -> torch.Tensor | None:
        """See `Guide`."""
        if state.step >= self.stop * state.of:
            return None
        shift = self.strength * (self.modes - state.x0)
        return state.sigma * shift / state.weight if self.on_mean else shift
