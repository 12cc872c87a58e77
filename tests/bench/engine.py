"""Images per second of the engine, beside a plain loop of Pillow images and a DataLoader, and students side by side.

    python tests/bench/engine.py --student convnet-3 --image_size 32
    python tests/bench/engine.py --student resnet-18-bn --image_size 224 --workers 8      # on a GPU

Same network, same protocol (idc-hard), same batches. Every contestant is a process of its own; they take turns, and the
median of the rounds counts. The ratio is what is reported: the rates are of one machine on one day.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time

CLASSES, IPC = 10, 10


def images(size: int):
    import torch

    labels = torch.arange(CLASSES).repeat_interleave(IPC)
    return torch.randint(0, 256, (len(labels), 3, size, size), dtype=torch.uint8), labels


def rules(args):
    from dataclasses import replace

    from distill_hub.evaluation.protocols import protocol
    from distill_hub.evaluation.settings import Task

    names = tuple(f"class-{i}" for i in range(CLASSES))
    whole = protocol("idc-hard").settings(Task(CLASSES * IPC, names, args.image_size, "cifar10", args.student))
    return replace(whole, epochs=args.epochs, looks=())


def engine(args, students: int = 1) -> float:
    """Return images per second, over all students."""
    import torch

    from distill_hub.evaluation.train import TrainingSet, train_students
    from distill_hub.machine import start_accelerator

    accelerator = start_accelerator()
    data = TrainingSet(*images(args.image_size)).at(args.image_size, accelerator.device)
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(args.precision, torch.float32)
    how = {"dtype": dtype, "compiled": args.compile}

    def train(epochs: int) -> float:
        started = time.perf_counter()
        settings = rules(argparse.Namespace(**{**vars(args), "epochs": epochs}))
        train_students(args.student, [data] * students, None, CLASSES, settings, range(students), **how)
        if accelerator.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - started

    train(2)  # memory, kernels and compilation
    return students * args.epochs * CLASSES * IPC / train(args.epochs)


def plain(args) -> float:
    """Return images per second of what one writes first: transforms of one image at a time, and a DataLoader."""
    import torch
    import torchvision.transforms as T
    from PIL import Image
    from torch.utils.data import DataLoader, Dataset

    from distill_hub.networks import build

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    settings, (pixels, labels) = rules(args), images(args.image_size)
    own = settings.augmentation

    def jitter(image):
        for place in torch.randperm(3).tolist():
            grey = (image * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(0, keepdim=True).expand_as(image)
            reference = (torch.zeros_like(image), grey.mean().expand_as(image), grey)[place]
            image = torch.lerp(image, reference, float(torch.empty(1).uniform_(-own.jitter, own.jitter)))
        return image

    def lighting(image):
        values = torch.tensor([0.2175, 0.0188, 0.0045]) * own.lighting * torch.randn(3)
        vectors = torch.tensor([[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]])
        return image + (vectors @ values).view(3, 1, 1)

    def siamese(image):
        image = image + torch.rand(1) - 0.5
        mean = image.mean(0, keepdim=True)
        image = (image - mean) * 2 * torch.rand(1) + mean
        image = (image - image.mean()) * (torch.rand(1) + 0.5) + image.mean()
        kind = int(torch.randint(3, (1,)))
        if kind == 0:
            return T.RandomCrop(args.image_size, padding=args.image_size // 8)(image)
        return T.RandomAffine(15 if kind == 1 else 0, scale=None if kind == 1 else (1 / 1.2, 1.2),
                              interpolation=T.InterpolationMode.BILINEAR)(image)  # fmt: skip

    steps = [T.ToTensor(), T.RandomHorizontalFlip(), T.Normalize(settings.mean, settings.std), siamese]
    if own.crop_scale:
        crop = T.RandomResizedCrop(args.image_size, own.crop_scale)
        steps = [T.ToTensor(), crop, T.RandomHorizontalFlip(), jitter, lighting, T.Normalize(settings.mean, settings.std)]
    transform = T.Compose(steps)

    class Images(Dataset):
        def __init__(self):
            self.images = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in pixels]

        def __len__(self):
            return len(self.images)

        def __getitem__(self, index):
            return transform(self.images[index]), int(labels[index])

    torch.manual_seed(0)
    model = build(args.student, CLASSES, args.image_size).to(device).train()
    optimizer = torch.optim.SGD(model.parameters(), settings.learning_rate, momentum=0.9, weight_decay=settings.weight_decay)
    keep = {"num_workers": args.workers, "persistent_workers": args.workers > 0, "pin_memory": device.type == "cuda"}
    loader = DataLoader(Images(), batch_size=settings.batch_size, shuffle=True, **keep)

    def train(epochs: int) -> float:
        started = time.perf_counter()
        for _ in range(epochs):
            for batch, target in loader:
                batch, target = batch.to(device), target.to(device)
                share = 1.0
                other = target
                if torch.rand(1) < own.mix_probability:
                    order, side = torch.randperm(len(batch), device=device), args.image_size
                    half = int(side * float(torch.rand(1)) ** 0.5) // 2
                    down, right = (int(torch.randint(side, (1,))) for _ in range(2))
                    rows, columns = slice(max(0, down - half), down + half), slice(max(0, right - half), right + half)
                    area = batch[0, 0, rows, columns].numel()
                    batch[:, :, rows, columns] = batch[order][:, :, rows, columns]
                    share, other = 1 - area / side**2, target[order]
                logits = model(batch)
                cross_entropy = torch.nn.functional.cross_entropy
                loss = share * cross_entropy(logits, target) + (1 - share) * cross_entropy(logits, other)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - started

    train(2)
    return args.epochs * CLASSES * IPC / train(args.epochs)


CONTESTANTS = {
    "plain loop": plain,
    "engine": engine,
    "engine, 3 students side by side": lambda args: engine(args, 3),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--student", default="convnet-3")
    parser.add_argument("--image_size", type=int, default=32)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2, help="of the plain loop's DataLoader")
    parser.add_argument("--precision", choices=["no", "bf16", "fp16"], default="no", help="of the engine")
    parser.add_argument("--compile", action="store_true", help="compile the engine's students")
    parser.add_argument("--contestant", choices=CONTESTANTS)
    args = parser.parse_args()
    if args.contestant:
        print(json.dumps(CONTESTANTS[args.contestant](args)))
        return
    names = [name for name in CONTESTANTS if not (args.student.endswith("-bn") and "3 students" in name)]
    rates = {name: [] for name in names}
    for _ in range(args.rounds):
        for name in names:
            done = subprocess.run(
                [sys.executable, __file__, *sys.argv[1:], "--contestant", name],
                stdout=subprocess.PIPE,
                text=True,
                check=True,
            )
            rates[name].append(json.loads(done.stdout.splitlines()[-1]))
    base = statistics.median(rates["plain loop"])
    print(f"{args.student}, {args.image_size} px, {args.rounds} rounds of {args.epochs} epochs of {CLASSES * IPC} images")
    for name in names:
        middle, low, high = statistics.median(rates[name]), min(rates[name]), max(rates[name])
        print(f"{name:32} {middle:8.0f} images/s ({low:.0f} to {high:.0f}), {middle / base:.2f} x plain loop")


if __name__ == "__main__":
    main()
