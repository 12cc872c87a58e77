"""D4M: Dataset Distillation via Disentangled Diffusion Model (Su et al., CVPR 2024).

The real latents of a class are clustered as they come by, in mini-batches: `prototypes`. Each prototype is noised and
denoised again on the condition of its class, for its share of the schedule (`Generator.sample`, its `start` and
`strength`). Where the released code departs from the method, the method is followed:

- what is left of a class after its last whole mini-batch is clustered, too (there: of the last class alone, and of a class
  that is smaller than a mini-batch nothing);
- images keep their aspect: the middle square is taken (there: they are squashed to 512 x 512).
"""

import torch

from distill_hub.running.seeds import cpu_generator

FACTS = {
    "name": "d4m",
    "title": "D4M: Dataset Distillation via Disentangled Diffusion Model",
    "paper": "https://arxiv.org/abs/2407.15138",
    "bibtex": """@inproceedings{su2024d4m,
  title = {{D}$^4${M}: Dataset Distillation via Disentangled Diffusion Model},
  author = {Su, Duo and Hou, Junjie and Gao, Weizhi and Tian, Yingjie and Tang, Bowen},
  booktitle = {Conference on Computer Vision and Pattern Recognition},
  year = {2024},
}""",
}


def prototypes(mean: torch.Tensor, std: torch.Tensor, count: int, seed: int, *, batch_size: int) -> torch.Tensor:
    """Return the centres of mini-batch K-means on one pass over samples of posteriors, in random order.

    The clustering is scikit-learn's `MiniBatchKMeans.partial_fit`, on one thread, see `modes.centres`.

    Args:
        mean: float32 (N, channels, h, w), of a class's images.
        std: Of the same shape.
        count: Number of prototypes, K, at most N.
        seed: Of order, noise and clustering.
        batch_size: Latents per mini-batch, at least K.

    Returns:
        float32 (K, channels, h, w).
    """
    from sklearn.cluster import MiniBatchKMeans
    from threadpoolctl import threadpool_limits

    draw = cpu_generator(seed)
    order = torch.randperm(len(mean), generator=draw)
    samples = mean + std * torch.randn(mean.shape, generator=draw)
    fit = MiniBatchKMeans(count, batch_size=batch_size, n_init=1, random_state=seed % 2**32)
    with threadpool_limits(1):
        for rows in order.split(batch_size):
            fit.partial_fit(samples[rows].flatten(1).numpy())
    return torch.from_numpy(fit.cluster_centers_).view(count, *mean.shape[1:])
