"""Train a network on a distilled set in a plain loop of PyTorch.

python recipes/examples/plain_loop.py outputs/digits-ipc10-cao2 --labels views --epochs 300
"""

import argparse

import torch
from torch.utils.data import DataLoader
from torchvision.models import resnet18

from distill_hub import DistilledDataset


def main(location: str, labels: str, epochs: int) -> torch.nn.Module:
    """Train a ResNet-18 on a set, in a folder or on the Hub, on its classes, its soft labels or its stored views."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dataset = DistilledDataset(location, labels)
    batch_size = dataset.manifest.views.batch_size if labels == "views" else 50
    sampler = dataset.sampler(seed=0)
    loader = DataLoader(dataset, batch_size=batch_size, sampler=sampler)

    model = resnet18(num_classes=len(dataset.classes)).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.001, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    for epoch in range(epochs):
        sampler.set_epoch(epoch)  # of stored views each epoch has its own
        for images, targets in loader:
            loss = dataset.loss(model(images.to(device)), targets.to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        schedule.step()
        print(f"epoch {epoch + 1}: loss {loss.item():.4f}")
    return model  # test images are scaled to the set's side, and normalised by dataset.mean and dataset.std


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("location", help="folder, or NAMESPACE/NAME on the Hub")
    parser.add_argument("--labels", choices=["hard", "soft", "views"], default="hard")
    parser.add_argument("--epochs", type=int, default=100)
    main(**vars(parser.parse_args()))
