"""The yardstick: the same tasks as one writes them down first, and as the authors' scripts have them, in full precision.

Minimax Diffusion's script samples one image at a time, both conditions in one forward pass (CaO2's takes a class at a
time). CaO2's refines one at a time, and its backward pass computes the gradients of all the generator's weights, which
add up unread. Pool-Select-Refine has no released code: taken is a loop like CaO2's. Minimax Diffusion's fine-tuning
encodes the images of every step, averages all weights one by one and looks at the losses in every step. SRe2L's recovers
batches, with the gradients of the network's weights; it relabels images that were transformed one at a time by workers of
a DataLoader, and so are those a student is trained on.

What the scripts draw at random comes from the same seeds as in the package here, so that the results can be compared. Two
things are not copied, because they only hurt: CaO2's train mode, which drops labels, and its timesteps that do not fit the
noise. Networks, the noise schedule and the loss of a learned variance are the package's and diffusers'.
"""

import functools
import itertools
from collections import defaultdict
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
import torchvision.transforms.functional as T
from ours import Outcome, Work
from PIL import Image
from scene import PSR_RATE, RECOVER_RATE, Scene
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import InterpolationMode

from distill_hub.augmentation.augment import (
    COLOR_EIGENVALUES,
    COLOR_EIGENVECTORS,
    LUMA,
    batch_of,
    denormalize,
    draw,
    normalize,
)
from distill_hub.methods.psr import kl_weights
from distill_hub.methods.tuning import Tuning
from distill_hub.networks.build import build
from distill_hub.options.minimax import MinimaxConfig
from distill_hub.running.seeds import cpu_generator, draw_seed
from distill_hub.training.post_training import fkd_views
from distill_hub.training.settings import learning_rate
from distill_hub.training.train import epoch_generator


def sampling(scene: Scene, workers: int) -> Work:
    generator = scene.generator

    @torch.inference_mode()
    def draw_one(label: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        noise = cpu_generator(seed)
        latents = torch.randn(1, *generator.latent_shape, generator=noise).to(scene.device)
        classes = torch.tensor([label, generator.transformer.config.num_embeds_ada_norm], device=scene.device)
        generator.diffusion.scheduler.set_timesteps(generator.diffusion.steps)
        for t in generator.diffusion.scheduler.timesteps:
            twice = torch.cat([latents, latents])
            output = generator.transformer(twice, timestep=t.to(scene.device).expand(2), class_labels=classes).sample
            (conditional, unconditional), variance = output[:, :4].split(1), output[:1, 4:]
            guided = unconditional + generator.guidance_scale * (conditional - unconditional)
            step = generator.diffusion.scheduler.step(torch.cat([guided, variance], 1), t, latents, generator=noise)
            latents = step.prev_sample
        pixels = generator.autoencoder.vae.decode(latents / generator.autoencoder.vae.config.scaling_factor).sample / 2 + 0.5
        image = (pixels.clamp(0, 1) * 255).round().to(torch.uint8)
        scene.teacher.logits(image.float() / 255)
        return latents, image

    def work() -> Outcome:
        count = scene.scale.plain
        drawn = [draw_one(*given) for given in zip(scene.ids(count), scene.seeds("sampling", count), strict=True)]
        return {name: torch.cat(part) for name, part in zip(("latents", "images"), zip(*drawn, strict=True), strict=True)}

    return Work("images", lambda: len(work()["images"]), work)


def _with_weight_gradients(scene: Scene) -> None:
    """Leave requires_grad on, as a network is loaded."""
    for network in (scene.generator.transformer, scene.generator.autoencoder.vae, scene.teacher.model):
        network.requires_grad_(True)


def refine_cao2(scene: Scene, workers: int) -> Work:
    _with_weight_gradients(scene)
    generator, steps = scene.generator, scene.scale.steps

    def refine_one(start: torch.Tensor, label: int, seed: int, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        random = cpu_generator(seed)
        noise = torch.randn(1, *generator.latent_shape, generator=random).to(scene.device)
        timesteps = torch.randint(1, round(0.25 * len(generator.diffusion.scheduler)), (steps,), generator=random)
        latents, losses = nn.Parameter(start[None].clone()), []
        optimizer = torch.optim.Adam([latents], lr=6e-4)
        for t in timesteps:
            optimizer.zero_grad()
            t, condition = (torch.tensor([int(value)], device=scene.device) for value in (t, label))
            noisy = generator.diffusion.scheduler.add_noise(latents, noise, t)
            predicted = generator.transformer(noisy, timestep=t, class_labels=condition).sample[:, :4]
            loss = F.mse_loss(predicted, noise) + 10.0 * (predicted - noise).abs().max()
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        return latents.detach() - start, torch.stack(losses)[None]

    return _one_by_one(scene, refine_one, ("moved", "losses"))


def _one_by_one(scene: Scene, refine_one: Callable, names: tuple[str, ...]) -> Work:
    """Return the work of refining one image after the other."""
    count = scene.scale.plain

    def work() -> Outcome:
        given = zip(scene.latents(count), scene.ids(count), scene.seeds("refine", count), strict=True)
        refined = [refine_one(*own, index) for index, own in enumerate(given)]
        return {name: torch.cat(part) for name, part in zip(names, zip(*refined, strict=True), strict=True)}

    return Work("images x steps", lambda: work() and count * scene.scale.steps, work)


def refine_psr(scene: Scene, workers: int) -> Work:
    _with_weight_gradients(scene)
    generator, teacher, steps = scene.generator, scene.teacher, scene.scale.steps
    targets, confidence = scene.soft_targets(4 * scene.scale.plain)
    weights = kl_weights(confidence)

    def refine_one(start: torch.Tensor, label: int, seed: int, index: int) -> tuple[torch.Tensor, ...]:
        random, latents, losses = cpu_generator(seed), start[None].clone(), []
        condition, target = torch.tensor([label], device=scene.device), targets[index : index + 1].to(scene.device)
        for step in range(steps):
            noise = torch.randn(1, *generator.latent_shape, generator=random).to(scene.device)
            t = torch.randint(len(generator.diffusion.scheduler), (1,), generator=random).to(scene.device)
            latents = latents.detach().requires_grad_()
            noisy = generator.diffusion.scheduler.add_noise(latents, noise, t)
            predicted = generator.transformer(noisy, timestep=t, class_labels=condition).sample[:, :4]
            loss = denoising = (predicted - noise).square().sum()
            divergence = torch.zeros((), device=scene.device)
            if step >= steps - steps // 25:
                pixels = (
                    generator.autoencoder.vae.decode(latents / generator.autoencoder.vae.config.scaling_factor).sample / 2
                    + 0.5
                )
                logits = teacher.logits(pixels.clamp(0, 1)) / 1.5
                divergence = F.kl_div(F.log_softmax(logits, 1), target, reduction="sum")
                loss = denoising + weights[index].item() * divergence
            loss.backward()
            latents = latents - PSR_RATE * latents.grad
            losses.append(torch.stack([denoising.detach(), divergence.detach()]))
        return latents.detach() - start, *torch.stack(losses)[None].unbind(2)

    return _one_by_one(scene, refine_one, ("moved", "denoising", "divergence"))


class Encoded:
    """Latents that are encoded whenever they are asked for, in the form of `generating.latents.Latents`."""

    def __init__(self, scene: Scene, generator):
        self.scene, self.generator, self.ways, self.shape = scene, generator, 2, generator.latent_shape

    @torch.no_grad()
    def draw(self, rows: torch.Tensor, ways: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        images = self.scene.real[rows.tolist()]
        images = torch.stack([image.flip(2) if way else image for image, way in zip(images, ways.tolist(), strict=True)])
        mean, std = self.generator.posterior(images)
        return mean + std * noise.to(mean.device)


def cosine(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Return the cosines of the rows of two matrices."""
    return a @ b.T / (a.norm(dim=1)[:, None] * b.norm(dim=1))


def tuning(scene: Scene, workers: int) -> Work:
    @functools.cache
    def make(purpose: str) -> Callable[[int], list[float]]:
        """Return a step of a fine-tuning that has not begun, from the step's number to its losses."""
        base, settings = scene.make_generator(), MinimaxConfig(memory_size=64)
        how = {"micro_batch_size": settings.tuning_batch_size, "seed": 0, "identity": {}}
        # The draws and DiffFit's parameters are the package's; the loop is the script's.
        drawn = Tuning(scene.fresh_run(), base, Encoded(scene, base), scene.tuned_labels, scene.ids(10), settings, **how)
        network, ema = base.transformer, deepcopy(base.transformer).requires_grad_(False)
        optimizer = torch.optim.AdamW(drawn.parameters.values(), lr=1e-3, weight_decay=0)
        real, generated = defaultdict(list), defaultdict(list)

        def step(number: int) -> list[float]:
            batch, objective = drawn.batch(number), drawn.objective
            noisy = objective.add_noise(batch.latents, batch.noise, batch.timesteps)
            output = network(noisy, timestep=batch.timesteps, class_labels=batch.conditions).sample
            loss = objective.loss(output, batch.latents, batch.noise, noisy, batch.timesteps).mean()
            embeddings = objective.clean(noisy, output[:, :4], batch.timesteps)
            near, far = torch.zeros((), device=scene.device), torch.zeros((), device=scene.device)
            labels = batch.labels.cpu().numpy()
            for label in sorted(set(labels)):
                own = embeddings[torch.from_numpy(labels == label)].flatten(1)
                if generated[label]:
                    near = near + (1 - cosine(own, torch.cat(real[label]).flatten(1)).min()) / len(set(labels))
                    far = far + cosine(own, torch.cat(generated[label]).flatten(1)).max() / len(set(labels))
                real[label].extend(batch.latents[torch.from_numpy(labels == label)].split(1))
                generated[label].extend(embeddings[torch.from_numpy(labels == label)].detach().split(1))
                del real[label][:-64], generated[label][:-64]
            optimizer.zero_grad()
            (loss + 0.002 * near + 0.008 * far).backward()
            optimizer.step()
            with torch.no_grad():
                for average, weight in zip(ema.parameters(), network.parameters(), strict=True):
                    average.mul_(0.9999).add_(weight, alpha=1 - 0.9999)
            return [loss.item(), near.item(), far.item()]

        return step

    numbers = itertools.count()

    def work() -> int:
        step = make("speed")
        for number in itertools.islice(numbers, scene.scale.tuning_steps):
            step(number)
        return scene.scale.tuning_steps

    def outcome() -> Outcome:
        step = make("outcome")
        return {"losses": torch.tensor([step(number) for number in range(3)])}

    return Work("steps", work, outcome)


def recover(scene: Scene, workers: int) -> Work:
    teacher, network = scene.teacher, scene.teacher.model.requires_grad_(True)
    count, steps = scene.scale.recover
    labels = torch.tensor(scene.ids(count), device=scene.device)
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]

    def loop(iterations: int) -> Outcome:
        noise = [
            torch.randn(3, *(scene.scale.pixels,) * 2, generator=cpu_generator(s)) for s in scene.seeds("recover", count)
        ]
        images, losses, seen = nn.Parameter(torch.stack(noise).to(scene.device)), [], []
        handles = [norm.register_forward_hook(lambda _, inputs, output: seen.append(inputs[0])) for norm in norms]
        optimizer = torch.optim.Adam([images], RECOVER_RATE, betas=(0.5, 0.9))
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, iterations)
        black, white = (normalize(images.new_full((1, 3, 1, 1), v), teacher.mean, teacher.std) for v in (0.0, 1.0))
        for _ in range(iterations):
            seen.clear()
            loss = F.cross_entropy(network(images), labels)
            for place, (maps, norm) in enumerate(zip(seen, norms, strict=True)):
                mean = maps.mean((0, 2, 3))
                variance = maps.permute(1, 0, 2, 3).flatten(1).var(1, unbiased=False)
                distance = (variance - norm.running_var).norm() + (mean - norm.running_mean).norm()
                loss = loss + 0.01 * (10.0 if place == 0 else 1.0) * distance
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            with torch.no_grad():
                images.copy_(images.clamp(black, white))
            losses.append(loss.item())
        for handle in handles:
            handle.remove()
        pixels = denormalize(images.detach(), teacher.mean, teacher.std).clamp(0, 1)
        return {"images": (pixels * 255).round(), "losses": torch.tensor(losses)}

    return Work("images x iterations", lambda: loop(steps) and count * steps, lambda: loop(5))


class Transformed(Dataset):
    """Pillow images, transformed one at a time by what was drawn for them; item r belongs to row r of the draws."""

    def __init__(self, images: torch.Tensor, draws: dict[str, torch.Tensor], mean, std):
        self.images = [Image.fromarray(np.ascontiguousarray(image.permute(1, 2, 0).numpy())) for image in images]
        self.draws, self.mean, self.std = draws, mean, std

    def __getitem__(self, row: int) -> torch.Tensor:
        own = {name: rows[row] for name, rows in self.draws.items()}
        image, side = self.images[own["order"]], self.images[0].size[0]
        if "crop" in own:
            top, left, height, width = (own["crop"] * side).round().int().tolist()
            image = T.resized_crop(image, top, left, height, width, [side, side], InterpolationMode.BILINEAR)
        if "shift" in own:
            most = round(0.125 * side)
            image = T.crop(T.pad(image, most), *(own["shift"] + most).tolist(), side, side)
        if own.get("flip", False):
            image = T.hflip(image)
        image = T.to_tensor(image)
        for kind in own.get("jitter_order", torch.empty(0)).tolist():
            grey = (image * torch.tensor(LUMA).view(3, 1, 1)).sum(0, keepdim=True).expand_as(image)
            reference = (torch.zeros_like(image), grey.mean().expand_as(image), grey)[kind]
            image = torch.lerp(image, reference, own["jitter"][kind])
        if "lighting" in own:
            colour = torch.tensor(COLOR_EIGENVECTORS) @ (torch.tensor(COLOR_EIGENVALUES) * own["lighting"])
            image = image + colour.view(3, 1, 1)
        return T.normalize(image, self.mean, self.std)


def _loader(scene: Scene, rules, epochs: int, batch_size: int, mean, std, workers: int):
    """Return a loader of all batches of all epochs, and what was drawn for each batch."""
    count, size = len(scene.images), scene.scale.pixels
    drawn = [draw(rules, count, batch_size, size, epoch_generator(0, epoch)) for epoch in range(epochs)]
    starts = [(epoch, start) for epoch in range(epochs) for start in range(0, count, batch_size)]
    rows = [list(range(epoch * count + start, epoch * count + min(start + batch_size, count))) for epoch, start in starts]
    together = {name: torch.cat([own[name] for own in drawn]) for name in drawn[0]}
    how = {"num_workers": workers, "persistent_workers": workers > 0, "pin_memory": scene.device.type == "cuda"}
    images = Transformed(scene.images, together, mean, std)
    loader = DataLoader(images, batch_sampler=rows, **how)
    return loader, [batch_of(drawn[epoch], start, start + batch_size) for epoch, start in starts]


def cut_mix(images: torch.Tensor, drawn: dict[str, torch.Tensor]) -> torch.Tensor:
    """Replace the box of a batch by the partners'."""
    if "box" in drawn:
        top, left, bottom, right = drawn["box"][0].tolist()
        images[:, :, top:bottom, left:right] = images[drawn["partner"].to(images.device)][:, :, top:bottom, left:right]
    return images


def relabelling(scene: Scene, workers: int) -> Work:
    batch_size = len(scene.images)

    def make(epochs: int) -> Callable[[], Outcome]:
        loader, drawn = _loader(scene, fkd_views(True), epochs, batch_size, scene.teacher.mean, scene.teacher.std, workers)

        @torch.inference_mode()
        def label() -> Outcome:
            views = (cut_mix(images.to(scene.device), own) for images, own in zip(loader, drawn, strict=True))
            return {"logits": torch.stack([scene.teacher.model(images).half().cpu() for images in views])}

        return label

    epochs = scene.scale.epochs
    label = make(epochs)
    return Work("views", lambda: label() and len(scene.images) * epochs, make(1))


def evaluation(scene: Scene, workers: int) -> Work:
    def make(epochs: int) -> Callable[[], nn.Module]:
        settings = replace(scene.settings(), epochs=epochs)
        given = epochs, settings.batch_size, settings.mean, settings.std, workers
        loader, drawn = _loader(scene, settings.augmentation, *given)
        per_epoch = len(drawn) // epochs

        def train() -> nn.Module:
            torch.manual_seed(draw_seed(0, "student weights"))
            model = build(scene.scale.student, 10, scene.scale.pixels).train().to(scene.device)
            rate, decay = settings.learning_rate, settings.weight_decay
            optimizer = torch.optim.SGD(model.parameters(), rate, momentum=0.9, weight_decay=decay)
            for number, (images, own) in enumerate(zip(loader, drawn, strict=True)):
                epoch, step = divmod(number, per_epoch)
                done = epoch + step / per_epoch if settings.schedule == "cosine-steps" else epoch
                optimizer.param_groups[0]["lr"] = learning_rate(settings, done)
                images = cut_mix(images.to(scene.device), own)
                labels = scene.labels[own["order"]].to(scene.device)
                logits = model(images)
                loss = F.cross_entropy(logits, labels)
                if "share" in own:
                    share, other = own["share"][0].item(), labels[own["partner"].to(scene.device)]
                    loss = share * loss + (1 - share) * F.cross_entropy(logits, other)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            return model.eval()

        return train

    settings, train, check = scene.settings(), make(scene.scale.epochs), make(2)

    def outcome() -> Outcome:
        images = normalize(scene.images.to(scene.device).float() / 255, settings.mean, settings.std)
        model = check()
        with torch.inference_mode():
            return {"logits": model(images)}

    return Work("images", lambda: train() and len(scene.images) * settings.epochs, outcome)


TASKS = {
    "sampling": sampling,
    "cao2": refine_cao2,
    "psr": refine_psr,
    "minimax": tuning,
    "recover": recover,
    "relabel": relabelling,
    "evaluate": evaluation,
}
