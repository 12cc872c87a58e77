"""What matches real and distilled images: the package's loops, and each as one writes it down first.

The plain loops are those of the released codes (VICO's DatasetCondensation, IDC, mtt-distillation) in their order of work,
in normalised space where they are: DM adds the losses of all classes up and goes back once; IDC takes gradients of all
weights and compares those of convolutions, and steps one optimiser for all classes after each of them; MTT goes back through
all of the student's steps at once. What is drawn at random is the same on both sides, and what is drawn is applied by the
package, whose augmentation has tests of its own.
"""

import resource
import time
from collections.abc import Callable
from dataclasses import replace

import torch
import torch.nn.functional as F
from ours import Outcome, Work
from scene import CLASSES, Scene
from torch import nn
from torch.func import functional_call

from distill_hub.augmentation.augment import Augmentation, augment, batch_of, denormalize, draw, normalize
from distill_hub.augmentation.dsa import OPERATIONS, every_operation, one_row, shared
from distill_hub.data.known import NORMALIZATIONS
from distill_hub.matching import dc, dm, idc, mtt, trained
from distill_hub.matching.experts import Flat
from distill_hub.matching.networks import embed, fresh
from distill_hub.options.mtt import MttConfig
from distill_hub.running.seeds import cpu_generator, draw_seed

MEAN, STD = NORMALIZATIONS["imagenet"]
NAMES = [f"class {label}" for label in range(CLASSES)]
IPC, STUDENT_STEPS, STUDENT_RATE = 10, 10, 0.05
RATE, TRAJECTORY_RATE = 10.0, 3000.0  # of pixels, for DM and for MTT


class Match:
    """Real images, where distilled ones start, and networks, at the size of a scene: digits, or CIFAR-10.

    Args:
        scene: Its device and its scale.
        ipc: Images per class.
    """

    def __init__(self, scene: Scene, ipc: int = IPC):
        large = scene.scale.pixels > 16
        self.device, self.size, self.batch = scene.device, 32 if large else 16, 256 if large else 64
        self.name, self.ipc, self.dtype = "convnet-3" if large else "convnet-2-w64", ipc, scene.run.dtype
        coarse = torch.rand(CLASSES * 300, 3, 6, 6, generator=cpu_generator(7))
        smooth = F.interpolate(coarse, (self.size,) * 2, mode="bilinear")
        self.real = (255 * smooth).round().to(torch.uint8).view(CLASSES, 300, *smooth.shape[1:]).to(self.device)
        self.start = self.real[:, :ipc].float() / 255
        self.black, self.white = (normalize(torch.full((1, 3, 1, 1), v, device=self.device), MEAN, STD) for v in (0.0, 1.0))

    def network(self, step: int) -> nn.Module:
        """Return the network of a step."""
        return fresh(self.name, CLASSES, self.size, 0, step, self.device)

    def state(self, steps: int) -> dict[str, torch.Tensor]:
        """Return the state of a loop."""
        pixels = self.start.clone()
        return {"pixels": pixels, "velocity": torch.zeros_like(pixels), "losses": torch.zeros(steps, device=self.device)}

    def chosen(self, step: int, label: int, count: int) -> tuple[torch.Tensor, torch.Generator]:
        """Return the rows of the real batch of a class, and the generator of what is drawn after them."""
        generator = cpu_generator(draw_seed(0, "match", step, NAMES[label]))
        return torch.randperm(300, generator=generator)[:count].to(self.device), generator

    def seen(self, images: torch.Tensor, draws: dict[str, torch.Tensor]) -> torch.Tensor:
        """Return normalised images as an augmentation shows them."""
        return augment(denormalize(images, MEAN, STD), shared(draws, len(images)), MEAN, STD)


def _work(unit: str, per_call: int, loop: Callable[[int], Outcome], checked: int, steps: int) -> Work:
    return Work(unit, lambda: loop(steps) and per_call * steps, lambda: loop(checked))


def dm_ours(scene: Scene, ipc: int = IPC) -> Work:
    match = Match(scene, ipc)
    how = {"steps": 0, "rate": RATE, "real_batch_size": match.batch, "operations": OPERATIONS, "mean": MEAN, "std": STD}
    rules = dm.Rules(**how, dtype=match.dtype)

    def loop(steps: int) -> Outcome:
        moved, losses = [], torch.zeros(steps, device=match.device)
        for label, real in enumerate(match.real):
            whole = match.state(steps)
            state = {name: own[label] if name != "losses" else own for name, own in whole.items()}
            embedding = lambda network, images: embed(network, images, CLASSES)  # noqa: E731
            dm.match(state, real, range(steps), match.network, embedding, rules, 0, NAMES[label])
            moved.append(state["pixels"])
            losses += state["losses"]
        return {"moved": torch.stack(moved) - match.start, "losses": losses}

    return _work("steps x classes", CLASSES, loop, 3, 5)


def dm_plain(scene: Scene, workers: int) -> Work:
    match = Match(scene)
    real = torch.stack([normalize(own.float() / 255, MEAN, STD) for own in match.real])

    def loop(steps: int) -> Outcome:
        images = nn.Parameter(torch.stack([normalize(own, MEAN, STD) for own in match.start]))
        optimizer, losses = torch.optim.SGD([images], RATE, momentum=0.5), []
        for step in range(steps):
            network, loss = match.network(step).requires_grad_(False), torch.zeros((), device=match.device)
            for label in range(CLASSES):
                rows, generator = match.chosen(step, label, match.batch)
                draws = one_row(OPERATIONS, match.size, generator)
                wanted = network.features(match.seen(real[label, rows], draws)).detach()
                found = network.features(match.seen(images[label], draws))
                loss += ((wanted.mean(0) - found.mean(0)) ** 2).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            with torch.no_grad():
                images.copy_(images.clamp(match.black, match.white))
            losses.append(loss.item())
        return {"moved": _unit(images) - match.start, "losses": torch.tensor(losses)}

    return _work("steps x classes", CLASSES, loop, 3, 5)


def _unit(images: torch.Tensor) -> torch.Tensor:
    return torch.stack([denormalize(own, MEAN, STD) for own in images.detach()])


def dsa_ours(scene: Scene, ipc: int = IPC) -> Work:
    match = Match(scene, ipc)
    rules = dc.Rules(
        networks=1, outer=100, inner=2, rate=0.1, network_rate=0.01, real_batch_size=match.batch, distance="rows",
        operations=OPERATIONS, mean=MEAN, std=STD, dtype=match.dtype,
    )  # fmt: skip

    def loop(steps: int) -> Outcome:
        state = match.state(steps)
        dc.match(state, match.network(0), match.real, range(steps), match.network, rules, 0, NAMES)
        return {"losses": state["losses"]}

    return _work("steps x classes", CLASSES, loop, 3, 3)


def _idc_rules(match: Match) -> trained.Rules:
    return trained.Rules(
        networks=1, steps=100, rate=0.01, real_batch_size=64, sampler="random", training_images=500, warm_up=0,
        training_batch_size=64, training_rate=0.01, weight_decay=5e-4, mix_probability=0.5, mean=MEAN, std=STD,
        dtype=match.dtype,
    )  # fmt: skip


def idc_ours(scene: Scene, ipc: int = IPC) -> Work:
    match = Match(scene, ipc)
    rules, rows = _idc_rules(match), torch.arange(CLASSES * 300, device=match.device)
    real = trained.Real(match.real.flatten(0, 1), rows // 300, rows.split(300), NAMES)
    objective = idc.gradient_distance("mse")

    def loop(steps: int) -> Outcome:
        network = match.network(0)
        state = trained.fresh_state(match.start.clone(), network, rules, real, range(CLASSES))
        trained.match(state, network, range(steps), match.network, objective, real, range(CLASSES), rules, 0)
        return {"losses": state["losses"][:steps]}

    return _work("steps x classes", CLASSES, loop, 3, 3)


def idc_plain(scene: Scene, workers: int) -> Work:
    match = Match(scene)
    rules, flat, labels = _idc_rules(match), match.real.flatten(0, 1), torch.arange(CLASSES).repeat_interleave(300)

    def train(network: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
        generator = cpu_generator(draw_seed(0, "network training", step))
        chosen = torch.randperm(len(flat), generator=generator)[:500]
        drawn = draw(Augmentation(mix="cutmix", mix_probability=0.5), 500, 64, match.size, generator)
        drawn |= every_operation(trained.ALONE, 500, match.size, generator)
        for first in range(0, 500, 64):
            part = batch_of(drawn, first, first + 64)
            rows = chosen[part["order"]]
            logits = network(augment(flat[rows], part, MEAN, STD))
            own, share = labels[rows].to(match.device), part["share"].to(match.device)
            both = [F.cross_entropy(logits, goal, reduction="none") for goal in (own, own[part["partner"]])]
            optimizer.zero_grad()
            (share * both[0] + (1 - share) * both[1]).mean().backward()
            optimizer.step()

    def loop(steps: int) -> Outcome:
        network, images, losses = match.network(0), nn.Parameter(match.start.clone()), []
        optimizer = torch.optim.SGD([images], rules.rate, momentum=0.5)
        trainer = torch.optim.SGD(network.parameters(), 0.01, momentum=0.9, weight_decay=5e-4)
        for step in range(steps):
            for label in range(CLASSES):
                rows, generator = match.chosen(step, label, 64)
                draws, sides = every_operation(trained.SIAMESE, 1, match.size, generator), []
                for shown in (match.real[label][rows], images[label]):
                    logits = network(augment(shown, shared(draws, len(shown)), MEAN, STD))
                    loss = F.cross_entropy(logits, torch.full((len(shown),), label, device=match.device))
                    sides.append(
                        torch.autograd.grad(loss, list(network.parameters()), create_graph=shown.is_floating_point())
                    )
                pairs = zip(*sides, strict=True)
                loss = sum(((wanted - found) ** 2).sum() for wanted, found in pairs if wanted.ndim == 4)
                optimizer.zero_grad(set_to_none=False)
                loss.backward(inputs=[images])
                optimizer.step()
                losses.append(loss.item())
            if step + 1 < rules.steps:
                train(network, trainer, step)
        return {"losses": torch.tensor(losses).view(steps, CLASSES)}

    return _work("steps x classes", CLASSES, loop, 3, 3)


def _mtt(scene: Scene, ipc: int) -> tuple[Match, MttConfig, list[torch.Tensor], Flat]:
    """Return what both sides of MTT have: an "expert" of random weights that drifts."""
    match = Match(scene, ipc)
    changes = {"student_steps": STUDENT_STEPS, "student_rate": STUDENT_RATE, "pixel_learning_rate": TRAJECTORY_RATE}
    settings = replace(MttConfig(ipc=ipc, match_steps=100, max_start=4, **changes).at(match.size))
    flat = Flat(match.network(0))
    drift = [0.02 * torch.randn(len(flat.own), generator=cpu_generator(place)).to(match.device) for place in range(6)]
    return match, settings, [flat.own + sum(drift[: place + 1]) for place in range(6)], flat


def mtt_ours(scene: Scene, ipc: int = IPC) -> Work:
    match, settings, expert, flat = _mtt(scene, ipc)
    labels = torch.arange(CLASSES, device=match.device).repeat_interleave(ipc)

    def loop(steps: int) -> Outcome:
        state = mtt.start(match.start.flatten(0, 1), None, settings)
        how = {"names": OPERATIONS, "normalization": (MEAN, STD), "seed": 0}
        mtt.match(state, range(steps), flat, lambda _, epoch: expert[epoch], 1, labels, settings, **how)
        return {"moved": state["pixels"] - match.start.flatten(0, 1), "losses": state["losses"][:steps]}

    return _work("student's steps", STUDENT_STEPS, loop, 2, 3)


def mtt_plain(scene: Scene, workers: int) -> Work:
    match, settings, expert, flat = _mtt(scene, IPC)
    labels = torch.arange(CLASSES, device=match.device).repeat_interleave(IPC)
    names, shapes = zip(*flat.shapes.items(), strict=True)

    def loop(steps: int) -> Outcome:
        images = nn.Parameter(normalize(match.start.flatten(0, 1), MEAN, STD))
        rate = nn.Parameter(torch.tensor(STUDENT_RATE, device=match.device))
        optimizers = [torch.optim.SGD([images], TRAJECTORY_RATE, momentum=0.5), torch.optim.SGD([rate], 1e-5, momentum=0.5)]
        losses = []
        for step in range(steps):
            generator = cpu_generator(draw_seed(0, "trajectory", step))
            torch.randint(1, (), generator=generator)  # of one expert
            epoch = int(torch.randint(0, 4, (), generator=generator))
            batches = mtt.batches_of(len(images), len(images), STUDENT_STEPS, generator)
            drawn = mtt.student_views(OPERATIONS, batches, match.size, generator)
            first, target = expert[epoch], expert[epoch + settings.expert_stretch]
            weights = first.clone().requires_grad_()
            for rows, draws in zip(batches, drawn, strict=True):
                parts = weights.split([shape.numel() for shape in shapes])
                named = {name: part.view(shape) for name, part, shape in zip(names, parts, shapes, strict=True)}
                shown = augment(denormalize(images[rows], MEAN, STD), draws, MEAN, STD)
                loss = F.cross_entropy(functional_call(flat.network, named, (shown,)), labels[rows])
                weights = weights - rate * torch.autograd.grad(loss, weights, create_graph=True)[0]
            loss = ((weights - target) ** 2).sum() / ((first - target) ** 2).sum()
            for optimizer in optimizers:
                optimizer.zero_grad()
            loss.backward()
            for optimizer in optimizers:
                optimizer.step()
            with torch.no_grad():
                images.copy_(images.clamp(match.black, match.white))
            losses.append(loss.item())
        return {"moved": denormalize(images.detach(), MEAN, STD) - match.start.flatten(0, 1), "losses": torch.tensor(losses)}

    return _work("student's steps", STUDENT_STEPS, loop, 2, 3)


OURS = {"dm": dm_ours, "idc": idc_ours, "mtt": mtt_ours}
PLAIN = {"dm": dm_plain, "idc": idc_plain, "mtt": mtt_plain}
BY_IPC = {**OURS, "dsa": dsa_ours}


def measure(task: str, scene: Scene, ipc: int) -> tuple[float, float]:
    """Return seconds per step, in this process all classes', and MiB that it takes above those of the process before it."""
    gpu = scene.device.type == "cuda"

    def peak() -> float:
        return (
            torch.cuda.max_memory_allocated() if gpu else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        ) / 2**20

    work, before = BY_IPC[task](scene, ipc), peak()
    work.main()
    started = time.perf_counter()
    count = work.main()
    if gpu:
        torch.cuda.synchronize()
    per_step = STUDENT_STEPS if task == "mtt" else CLASSES
    return (time.perf_counter() - started) * per_step / count, peak() - before
