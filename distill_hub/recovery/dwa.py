"""DWA: Diversity-Driven Synthesis through Directed Weight Adjustment (Du et al., NeurIPS 2024).

SRe2L from real images, each batch of them in a network of its own: the teacher, its weights moved to where it knows that
batch less (Eq. 12 of the paper, Alg. 1). So batches of one class do not all end at what the one teacher likes best. The
distances of variances weigh more, too (Eq. 8).

Where the released code (AngusDujw/Diversity-Driven-Synthesis, distillation/) departs from what is done here:

- there, the weights are moved in place and never moved back, so that of an index of the images each batch starts where the
  ones before it have left the network; and the first of its steps follows the sum of all gradients since, which nothing
  resets. Here the teacher stays as it is, and a batch does not depend on another;
- there, one crop, flip and roll is drawn for all images of a batch; see `recovery.recover`.
"""

import copy

import torch
import torch.nn.functional as F
from torch.linalg import vector_norm

from distill_hub.classifiers import Classifier
from distill_hub.recovery.recover import Objective
from distill_hub.recovery.sre2l import statistics_objective

FACTS = {
    "name": "dwa",
    "title": "DWA: Diversity-Driven Synthesis, Enhancing Dataset Distillation through Directed Weight Adjustment",
    "paper": "https://arxiv.org/abs/2409.17612",
    "bibtex": """@inproceedings{du2024diversity,
  title = {Diversity-Driven Synthesis: Enhancing Dataset Distillation through Directed Weight Adjustment},
  author = {Du, Jiawei and Zhang, Xin and Hu, Juncheng and Huang, Wenxin and Zhou, Joey Tianyi},
  booktitle = {Advances in Neural Information Processing Systems},
  year = {2024},
}""",
}


@torch.compiler.disable  # once for a batch
def adjusted(teacher: Classifier, images: torch.Tensor, labels: torch.Tensor, rho: float, steps: int) -> Classifier:
    """Return the teacher with weights of its own, moved K steps up the mean cross-entropy of some images.

    A step is w + (rho / K) * g / ||g||, over all parameters at once, those of BatchNorm and the last layer among them; the
    running statistics stay.

    Args:
        teacher: The trained network, which stays as it is.
        images: In [0, 1], (B, 3, S, S).
        labels: int64 (B,).
        rho: Length of the way.
        steps: K.
    """
    own = copy.copy(teacher)
    own.model = copy.deepcopy(teacher.model).requires_grad_()
    parameters = list(own.model.parameters())
    with torch.enable_grad(), torch.autocast(images.device.type, enabled=False):
        for _ in range(steps):
            loss = F.cross_entropy(own.logits(images), labels.to(images.device))
            gradients = torch.autograd.grad(loss, parameters, materialize_grads=True)  # 0 where the logits do without
            length = vector_norm(torch.stack([vector_norm(gradient) for gradient in gradients])) + 1e-12  # as in its code
            with torch.no_grad():
                for weight, gradient in zip(parameters, gradients, strict=True):
                    weight += rho / steps * gradient / length
    own.model.requires_grad_(False)
    return own


def objective(
    teacher: Classifier,
    labels: torch.Tensor,
    *,
    rho: float = 0.015,
    steps: int = 12,
    weight: float = 0.01,
    first_layer_weight: float = 10.0,
    variance_weight: float = 11.0,
) -> Objective:
    """Return what is minimised for one batch: SRe2L's objective in an `adjusted` teacher.

    The images that the weights are adjusted to are those of the first call, in which the batch is at its start.

    Args:
        teacher: A network with BatchNorm.
        labels: int64 (B,), all different.
        rho: See `adjusted`.
        steps: See `adjusted`.
        weight: r_bn; see `sre2l.statistics_objective`.
        first_layer_weight: See there.
        variance_weight: r_var, of the distances of variances; those of means weigh 1.
    """
    how = {"weight": weight, "first_layer_weight": first_layer_weight, "variance_weight": variance_weight}
    of_this_batch: list[Objective] = []

    def loss(images: torch.Tensor) -> torch.Tensor:
        if not of_this_batch:
            own = adjusted(teacher, images.detach(), labels, rho, steps) if rho else teacher
            of_this_batch.append(statistics_objective(own, labels, 1, **how))
        return of_this_batch[0](images)

    return loss
