"""IGD: Influence-Guided Diffusion (Chen et al., ICLR 2025), training-free guidance by what a sample would teach a network.

A surrogate network is trained on the real images once, and some of its weights θ_k on the way are kept. While an image of
class c is drawn, two functions pull it. Influence (after TracIn) is how much a step on what x̂_0 decodes to would move the
weights where a step on real images of the class moves them:

    G_I = 1/K Σ_k cos(∇_θ CE(f_θk(Dec(x̂_0)), c), mean over real images of ∇_θ CE(f_θk(·), c))

Deviation keeps it away from the class's earlier samples, its memory M: G_D = −max over m in M of cos(z_t, m). After a step

    z_{t−1} += k·ρ_t·∇_{z_t} G_I + γ·∇_{z_t} G_D,   ρ_t = 0.0015·√(1−ᾱ_t)·rms(ε̂)/rms(∇G_I)

in steps 4 to 19 of 50: the influence's gradient gives a direction, and k the size of the step. The value of ρ_t, the noisy
z_t in G_D, and the mean over checkpoints, for which ρ_t makes up, are those of a fork of the released code,
miaostudy/RAE-IGD, which has the sampler that could not be had of the original.

Ours: γ is per 4,096 coordinates, as many as a latent of DiT-XL/2 at 256 px has, where it is the code's: every coordinate of
a cosine's gradient is smaller by their number. On digits of 16 px k 5 changes nothing; 50 to 200 raise influence, and 1,000
leaves the images behind. The code goes through the generator once per checkpoint; here the gradients are summed in the
pixels and taken back once. It draws the images of a class one after the other; here round j draws the j-th image of several
classes side by side, which is the same, as no image knows of another class. Decoded images are clamped to [0, 1], as those
published are, and normalised for the surrogate as for students, not to [−1, 1]; the real images of a class are drawn at
random, in place of the first 200 of its folder.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch.func import grad, vmap

from distill_hub.generators.base import State

FACTS = {
    "name": "igd",
    "title": "IGD: Influence-Guided Diffusion for Dataset Distillation",
    "paper": "https://openreview.net/forum?id=0whx8MhysK",
    "bibtex": """@inproceedings{chen2025influenceguided,
  title = {Influence-Guided Diffusion for Dataset Distillation},
  author = {Chen, Mingyang and Du, Jiawei and Huang, Bo and Wang, Yi and Zhang, Xiaobo and Wang, Wei},
  booktitle = {International Conference on Learning Representations},
  year = {2025},
}""",
}
DIFFERS = (
    "the surrogate is trained as MTT's experts are, with DSA and SGD without momentum; the push away from earlier samples "
    "is per 4,096 coordinates of a latent"
)
STEP = 0.0015  # in ρ_t
COORDINATES = 4096  # of a latent of DiT-XL/2 at 256 px
REAL_IMAGES = 200  # of a class, behind the mean of their gradients
SIMILAR = 0.7  # cosine of two checkpoints' gradients from which on the later one tells nothing new
MEMORY = 64  # latest samples of the class that a sample keeps away from

# From weights (P,) and normalised images (B, 3, S, S) to logits (B, C), such as `matching.experts.Flat`.
Network = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def gradients(network: Network, weights: torch.Tensor, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the gradient of every image's cross-entropy in the weights, (B, P), differentiable in `images`.

    Args:
        network: Without statistics of the batch.
        weights: θ, (P,).
        images: Normalised, (B, 3, S, S).
        labels: int64 (B,).
    """

    def loss(point: torch.Tensor, image: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(network(point, image[None]), label[None])

    return vmap(grad(loss), in_dims=(None, 0, 0))(weights, images, labels)


def mean_gradient(
    network: Network, weights: torch.Tensor, images: torch.Tensor, label: int, batch_size: int = 50
) -> torch.Tensor:
    """Return the mean over images of one class of the gradient of their cross-entropy in the weights, (P,).

    Args:
        network: See `gradients`, as the next two.
        weights: θ, (P,).
        images: (N, 3, S, S).
        label: Of all of them.
        batch_size: Images at a time.
    """
    point, total = weights.detach().requires_grad_(), torch.zeros_like(weights)
    with torch.enable_grad():
        for part in images.split(batch_size):
            target = torch.full((len(part),), label, device=part.device)
            total += torch.autograd.grad(F.cross_entropy(network(point, part), target, reduction="sum"), point)[0]
    return total / len(images)


def choose(cosines: torch.Tensor) -> list[int]:
    """Choose checkpoints: the first, then each one whose gradients are unlike those of the last that was chosen.

    Args:
        cosines: Of the mean gradients on real images at T checkpoints with each other, a mean over classes, (T, T).

    Returns:
        Those whose cosine with the last chosen one is below `SIMILAR`; rising, from 0.
    """
    chosen = [0]
    for place in range(1, len(cosines)):
        if cosines[place, chosen[-1]] < SIMILAR:
            chosen.append(place)
    return chosen


@dataclass(frozen=True)
class Influence:
    """How much images of some classes would teach a surrogate what real images of these classes teach it.

    Attributes:
        network: See `gradients`.
        checkpoints: θ_k, (K, P).
        real: Mean gradients of the real images of each row's class, (K, B, P).
        labels: int64 (B,), the class of each row.
        normalize: From images in [0, 1] to what the network sees, differentiable.
    """

    network: Network
    checkpoints: torch.Tensor
    real: torch.Tensor
    labels: torch.Tensor
    normalize: Callable[[torch.Tensor], torch.Tensor]

    def of(self, images: torch.Tensor) -> torch.Tensor:
        """Return G_I of images (B, 3, S, S) in [0, 1], float32 (B,), in [−1, 1]."""
        return sum(cosines.detach() for cosines in self._cosines(images)) / len(self.checkpoints)

    def gradient(self, images: torch.Tensor) -> torch.Tensor:
        """Return the gradient of every image's G_I in its pixels, (B, 3, S, S); memory holds one checkpoint's graph."""
        images = images.detach().requires_grad_()
        parts = (torch.autograd.grad(cosines.sum(), images)[0] for cosines in self._cosines(images))
        return sum(parts) / len(self.checkpoints)

    def _cosines(self, images: torch.Tensor) -> Iterator[torch.Tensor]:
        for weights, real in zip(self.checkpoints, self.real, strict=True):
            own = gradients(self.network, weights, self.normalize(images), self.labels)
            yield F.cosine_similarity(own, real, dim=1)


def nearest(latents: torch.Tensor, memory: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the largest cosine of each latent with one of its memory, (B,), and its gradient in the latent.

    Args:
        latents: (B, channels, h, w).
        memory: (B, M, channels, h, w), M >= 1: each row's own.
    """
    z, others = latents.flatten(1), F.normalize(memory.flatten(2), dim=2)
    norm = z.norm(dim=1, keepdim=True)
    cosines = (others @ (z / norm).unsqueeze(2)).squeeze(2)  # (B, M)
    cosine, place = cosines.max(1)
    unit = others[torch.arange(len(z), device=z.device), place]
    # d cos(z, m) / dz = (m/‖m‖ − cos·z/‖z‖) / ‖z‖
    gradient = (unit - cosine.unsqueeze(1) * z / norm) / norm
    return cosine, gradient.view_as(latents)


@dataclass(frozen=True)
class InfluenceGuide:
    """Guides B samples, one of each class of a chunk; see `generators.base.Guide`.

    Attributes:
        influence: Of the samples' classes, row by row.
        decode: The generator's.
        memory: Earlier samples of each row's class, (B, M, channels, h, w); M may be 0.
        influence_weight: k.
        deviation_weight: γ, per `COORDINATES` coordinates of a latent.
        guided: Steps of the sampler that are guided, counted from 0: noise.
    """

    influence: Influence
    decode: Callable[[torch.Tensor], torch.Tensor]
    memory: torch.Tensor
    influence_weight: float
    deviation_weight: float
    guided: range

    @property
    def needs_graph(self) -> bool:
        """Whether influence takes part; deviation knows its own gradient."""
        return self.influence_weight > 0

    def take(self, rows: Sequence[int]) -> "InfluenceGuide":
        """See `Guide`."""
        influence = replace(self.influence, real=self.influence.real[:, rows], labels=self.influence.labels[rows])
        return replace(self, influence=influence, memory=self.memory[rows])

    def __call__(self, state: State) -> torch.Tensor | None:
        """Return the shift of x̂_0 that moves z_{t−1} by the sum of the two pulls."""
        if state.step not in self.guided:
            return None
        pull = torch.zeros_like(state.x0)
        if self.influence_weight:
            pull += self.influence_weight * self._towards_influence(state)
        if self.deviation_weight and self.memory.shape[1]:
            _, gradient = nearest(state.noisy.detach(), self.memory)
            pull -= self.deviation_weight * gradient[0].numel() / COORDINATES * gradient
        return pull / state.weight

    def _towards_influence(self, state: State) -> torch.Tensor:
        """Return ρ_t·∇_{z_t} G_I, through surrogate, decoder and generator."""
        images = self.decode(state.x0)
        (gradient,) = torch.autograd.grad(images, state.noisy, self.influence.gradient(images))
        noise = (state.noisy - (1 - state.level**2) ** 0.5 * state.x0).detach() / state.level  # ε̂
        size = STEP * state.level * _rms(noise)
        return size / _rms(gradient).clamp(min=torch.finfo(gradient.dtype).tiny) * gradient


def _rms(tensor: torch.Tensor) -> torch.Tensor:
    """Return the root of the mean square of each row, (B, 1, 1, 1)."""
    return tensor.square().mean((1, 2, 3), keepdim=True).sqrt()
