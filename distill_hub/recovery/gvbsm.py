"""G-VBSM and EDC: pixels in which several networks, taking turns, see the statistics of real images.

G-VBSM (Shao et al., CVPR 2024) optimises noise with `recovery.recover`, each step by another network, until what its
convolutions and BatchNorm layers see has the statistics of all real images, see `statistics.convolutions`; "data
densification" spreads the images of a class. EDC (Shao et al., NeurIPS 2024) starts from RDED's images, aligns half with the
statistics of all images and half with those of the classes in the batch, and has no densification.

Where the released codes depart from what is done here:

- there, the moving averages of a batch's statistics start at 0, as a test for the first batch never holds: early ones are
  pulled towards 0, and so the images away from what they are to come near to; here they start with the first batch's;
- there, they go on from one batch of images to the next, and so does the turn of the networks; here every batch starts anew,
  with the first network, and does not depend on those before it;
- there, the scripts split a batch over two or four GPUs, each of which aligns the statistics of its part; here they are
  those of the whole batch;
- EDC's paper also has a term for flatness, how far a network's logits are from those on a moving average of the images. Its
  code for ImageNet-1K sets it to 0, and that for smaller images leaves it out unless asked for it; it is not built.
"""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch.linalg import vector_norm

from distill_hub.augmentation.augment import normalize
from distill_hub.recovery.recover import Objective
from distill_hub.recovery.sre2l import grouped_cross_entropy
from distill_hub.running.seeds import cpu_generator
from distill_hub.statistics.convolutions import Measured, Statistics
from distill_hub.statistics.features import captured, channel_moments, full

FACTS = {
    "name": "gvbsm",
    "title": "G-VBSM: Generalized Various Backbone and Statistical Matching",
    "paper": "https://arxiv.org/abs/2311.17950",
    "bibtex": """@inproceedings{shao2024generalized,
  title = {Generalized Large-Scale Data Condensation via Various Backbone and Statistical Matching},
  author = {Shao, Shitong and Yin, Zeyuan and Zhou, Muxin and Zhang, Xindong and Shen, Zhiqiang},
  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  year = {2024},
}""",
}
EDC = {
    "name": "edc",
    "title": "EDC: Elucidating Dataset Condensation",
    "paper": "https://arxiv.org/abs/2404.13733",
    "bibtex": """@inproceedings{shao2024elucidating,
  title = {Elucidating the Design Space of Dataset Condensation},
  author = {Shao, Shitong and Zhou, Zikai and Chen, Huanran and Shen, Zhiqiang},
  booktitle = {Advances in Neural Information Processing Systems},
  year = {2024},
}""",
}
TEMPERATURE = 4.0  # tau of the densification
POOLED = 32  # side in pixels at which images are compared in it


def densification_loss(images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the data densification loss, summed over classes, ().

    Of the eigenvalues l of X X^T, the products of a class's images with each other, it is KL(softmax(l / tau) ||
    softmax(l)), whose first argument has no gradient. Where the largest leads by tens, both are all but one-hot, and nothing
    is left of it: ten digits have 0, ten images of noise 0.002 at 32 px and about 1.3 at 224, as pooling divides their
    variance by 49.

    Args:
        images: Normalised, (B, 3, S, S); compared at 32 px.
        labels: int64 (B,), class by class.
    """
    pooled = full(F.adaptive_avg_pool2d(images, POOLED)).flatten(1)
    total = pooled.new_zeros(())
    for own in pooled.split(labels.unique_consecutive(return_counts=True)[1].tolist()):
        values = torch.linalg.eigvalsh(own @ own.T)  # symmetric, which the released code's solver is not told
        wanted = (values.detach() / TEMPERATURE).log_softmax(0)
        total = total + (wanted.exp() * (wanted - values.log_softmax(0))).sum()
    return total


def alignment_loss(
    found: Mapping[int, Sequence[torch.Tensor]],
    averages: Mapping[int, Sequence[torch.Tensor]],
    goals: Sequence[tuple[float, Statistics]],
    weights: Sequence[float],
) -> torch.Tensor:
    """Return the weighted sum of ||goal - (average + s - sg(s))|| over goals, layers and statistics s, ().

    The value is the distance of the moving average, the gradient goes to the batch's own statistics.

    Args:
        found: The batch's statistics, (1, D) or (1, P) each, by the number of the layer; of those that count in this step.
        averages: Their moving averages, of all layers seen so far.
        goals: Statistics of all layers to come near to, each with its share.
        weights: Of all layers.
    """
    distances = (
        share * weights[place] * vector_norm(aim - (mean + own - own.detach()))
        for share, goal in goals
        for place, layer in found.items()
        for own, mean, aim in zip(layer, averages[place], goal[place], strict=True)
    )
    return sum(distances, goals[0][1][-1][0].new_zeros(()))  # of no layer it is 0


def objective(
    measured: Measured,
    labels: torch.Tensor,
    *,
    weight: float = 0.01,
    first_layer_weight: float = 10.0,
    decay: float = 0.4,
    drop_rate: float = 0.0,
    class_share: float = 0.0,
    densification_weight: float = 1.0,
    seed: int = 0,
) -> Objective:
    """Return one network's objective for one batch: cross-entropy + weight * `alignment_loss` + densification.

    It keeps the moving averages of the batch, so that a batch needs one of its own.

    Args:
        measured: The network, and its statistics on real images.
        labels: int64 (B,), class by class.
        weight: Of the alignment; r_loss in the released code.
        first_layer_weight: Of the first convolution; the other layers weigh 1.
        decay: alpha, of the moving averages; 0: the batch's statistics as they are.
        drop_rate: beta_dr: probability with which a convolution is left out in a step.
        class_share: Share of the statistics of the batch's classes among the goals (EDC: 0.5), in [0, 1].
        densification_weight: See `densification_loss`.
        seed: Of which convolutions are left out.
    """
    teacher, layers = measured.teacher, measured.layers
    convolutions, norms = list(layers.convolutions.values()), list(layers.norms.values())
    goals = [(1 - class_share, measured.whole)] if class_share < 1 else []
    goals += [(class_share, measured.of(labels.tolist()))] if class_share else []
    weights = [first_layer_weight] + [1.0] * (len(convolutions) + len(norms) - 1)
    averages: dict[int, tuple[torch.Tensor, ...]] = {}
    generator = cpu_generator(seed)

    def loss(images: torch.Tensor) -> torch.Tensor:
        draws = torch.rand(len(convolutions), generator=generator).tolist()
        kept = [place for place, draw in enumerate(draws) if draw >= drop_rate]
        with (
            captured([convolutions[place] for place in kept], "inputs", layers.of_convolution) as seen,
            captured(norms, "inputs", lambda maps: channel_moments(maps, 1)) as normalized,
        ):
            logits = teacher.logits(images)
        found = dict(zip([*kept, *range(len(convolutions), len(weights))], [*seen, *normalized], strict=True))
        for place, layer in found.items():
            own = tuple(value.detach() for value in layer)
            before = averages.get(place, own)  # not 0, as in the released code
            averages[place] = tuple(decay * old + (1 - decay) * new for old, new in zip(before, own, strict=True))
        with torch.autocast(images.device.type, enabled=False):
            total = weight * alignment_loss(found, averages, goals, weights) + grouped_cross_entropy(logits, labels, 1)
            if densification_weight:
                shown = normalize(full(images), teacher.mean, teacher.std)
                total = total + densification_weight * densification_loss(shown, labels)
        return total

    return loss
