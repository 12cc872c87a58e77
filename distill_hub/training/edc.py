"""EDC's training of students (Shao et al., NeurIPS 2024): the logits of teachers, by squared error."""

from distill_hub.augmentation.augment import Augmentation
from distill_hub.data.known import NORMALIZATIONS
from distill_hub.training.settings import Settings, Task


def edc(task: Task) -> Settings:
    """EDC's training: the mean squared difference from the teacher's logits, and 0.025 times the cross-entropy.

    Code: shaoshitong/EDC, with the options of its train.sh, at 80116a7 (ImageNet-1K; its training at 9836066), d10019a
    (ImageNet-10), 8da0906 (Tiny-ImageNet), 32d5765 (CIFAR-100) and baf6a04 (CIFAR-10). Common to all: the loss, whose
    cross-entropy is to the image's own class although CutMix mixes every batch; AdamW at 0.001 with a decay of 0.01, or SGD
    at 0.1 with momentum 0.875 and 5e-4, of weights of more than one dimension; crops of at least half of the area, but for
    CIFAR-10; on ImageNet test images of 256 px, cut to 224. What is tested is the average of the weights, of decay 0.99 at
    every step and from the initial ones on, with the running statistics of the last. All but the first of these begin with
    RandAugment:

    - ImageNet-1K: 300 epochs in batches of 100, AdamW, half a period of the cosine.
    - ImageNet's subsets, as of ImageNet-10: 1,000 epochs in batches of 50, AdamW, the half-cosine with its drop.
    - Tiny-ImageNet, above 32 px: 300 epochs in batches of 100, SGD, the half-cosine.
    - CIFAR-100, from 100 classes on: 1,000 epochs in batches of 50, SGD, the half-cosine with its drop.
    - CIFAR-10: 1,000 epochs in batches of 100 (in its script, of IPC 1, of all ten images), AdamW, halved at 80, 90 and
      95 %, crops of at least 0.08.

    Taken, as it defines the published numbers: that the drop multiplies what the cosine has left at 5/6 of the epochs by 1/6
    at once; and that images of ImageNet-1K keep their halves where they are, as the code that is to shuffle them, like
    RDED's, joins them in their old order. Not taken: that at 9836066 the rate falls along a line to a half, although the
    script names a cosine; the normalisations, of CIFAR-100 for CIFAR-10 and of ImageNet for Tiny-ImageNet. On ImageNet-1K
    the authors store the labels as views of half precision; here a teacher says them. Theirs are several networks, whose
    logits are averaged.
    """
    size, classes = min(224, task.image_size), task.classes
    mean, std = task.normalization if size <= 64 else NORMALIZATIONS["imagenet"]
    adamw = {"optimizer": "adamw", "learning_rate": 0.001, "weight_decay": 0.01}
    sgd = {"optimizer": "sgd", "learning_rate": 0.1, "weight_decay": 5e-4, "momentum": 0.875}
    whole, smallest = size > 64 and classes == 1000, 0.5
    if whole:
        how, epochs, batch_size, schedule, every = adamw, 300, 100, "half-cosine", 30
    elif size > 64:
        how, epochs, batch_size, schedule, every = adamw, 1000, 50, "half-cosine-drop", 30
    elif size > 32:
        how, epochs, batch_size, schedule, every = sgd, 300, 100, "half-cosine", 30
    elif classes >= 100:
        how, epochs, batch_size, schedule, every = sgd, 1000, 50, "half-cosine-drop", 100
    else:
        smallest, how, epochs, batch_size, schedule, every = 0.08, adamw, 1000, 100, "halvings", 10
    first = 811 if schedule == "halvings" else 1
    known = size <= 64 or size == 224
    return Settings(
        epochs=epochs,
        batch_size=min(batch_size, task.images),
        decay_all=False,
        schedule=schedule,
        augmentation=Augmentation(crop_scale=(smallest, 1.0), flip=task.mirrored, mix="cutmix", rand_augment=not whole),
        image_size=size,
        test_resize=size if size <= 64 else size // 7 * 8,
        looks=(*range(first, epochs, every), epochs),
        labels="teacher",
        crops_stored=True,
        loss="mse",
        hard_weight=0.025,
        weight_average=0.99,
        mean=mean,
        std=std,
        non_standard=None if known else "EDC trains on no images of this size",
        **how,
    )
