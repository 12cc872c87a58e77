"""Train a network of timm on a distilled set, with timm's augmentation, optimiser and schedule.

python recipes/examples/timm_loop.py outputs/digits-ipc10-cao2 --labels soft --model resnet18 --epochs 100
"""

import argparse

import timm
import torch
from timm.data import create_loader
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from torch.utils.data import DataLoader

from distill_hub import DistilledDataset


def main(location: str, labels: str, model: str, epochs: int) -> torch.nn.Module:
    """Train a network by its name in timm, from scratch."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dataset = DistilledDataset(location, labels)
    if labels == "views":  # which are augmented already
        sampler = dataset.sampler(seed=0)
        loader = DataLoader(dataset, dataset.manifest.views.batch_size, sampler=sampler)
    else:  # timm's loader has its own augmentation, and gives it to the set as its transform
        size, colours = (3, *dataset.images.shape[-2:]), {"mean": dataset.mean, "std": dataset.std}
        how = {"is_training": True, "num_workers": 0, "use_prefetcher": False, "persistent_workers": False}
        loader = create_loader(dataset, size, batch_size=min(50, len(dataset)), scale=(0.5, 1.0), **colours, **how)

    network = timm.create_model(model, num_classes=len(dataset.classes)).to(device)
    optimizer = create_optimizer_v2(network, opt="adamw", lr=0.001, weight_decay=0.01)
    schedule, epochs = create_scheduler_v2(optimizer, sched="cosine", num_epochs=epochs)
    for epoch in range(epochs):
        if hasattr(loader.sampler, "set_epoch"):
            loader.sampler.set_epoch(epoch)
        for images, targets in loader:
            loss = dataset.loss(network(images.to(device)), targets.to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        schedule.step(epoch + 1)
        print(f"epoch {epoch + 1}: loss {loss.item():.4f}")
    return network


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("location", help="folder, or NAMESPACE/NAME on the Hub")
    parser.add_argument("--labels", choices=["hard", "soft", "views"], default="soft")
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--epochs", type=int, default=100)
    main(**vars(parser.parse_args()))
