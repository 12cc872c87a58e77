"""Training of students: images wait as uint8, on the device where they fit, and are augmented there, a batch at a time."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call, stack_module_state, vmap

from distill_hub.augmentation.augment import augment, batch_of, denormalize, draw, normalize
from distill_hub.augmentation.tiles import decode
from distill_hub.classifiers import Classifier, classified_at_a_time
from distill_hub.config import InputError
from distill_hub.feed import ahead, placed, taken
from distill_hub.networks.build import build
from distill_hub.running.console import progress
from distill_hub.running.mapped import map_rows
from distill_hub.running.run import Run
from distill_hub.running.seeds import cpu_generator, draw_seed
from distill_hub.teams.batch_norm import normalise_together
from distill_hub.teams.team import Team
from distill_hub.training.losses import nearest_temperatures, squared_error
from distill_hub.training.settings import Settings, learning_rate, teacher_temperature
from distill_hub.views.files import Views
from distill_hub.views.replay import order, probabilities, strongest, view_draws

LOGGED = 100  # times, at the most and beside looks, that a training tells trackers its loss: each waits for the device


@dataclass(frozen=True)
class TrainingSet:
    """What a student is trained on, on the device of its labels; images that do not fit there are on the CPU."""

    images: torch.Tensor  # uint8 (N, 3, S, S), or float: of free pixels in units of [0, 1], or whitened
    labels: torch.Tensor  # int64 (N,)
    soft_labels: torch.Tensor | None = None  # float32 (N, C): probabilities at temperature 1
    views: Views | None = None  # what its batches are, in place of fresh augmentation

    def decoded(self, run: Run, stage: str, tiles: int | None, made_from: Mapping[str, Any]) -> "TrainingSet":
        """Return a set of f x f tiles as students see it: each an image of its own, with the label of the one it is of.

        Args:
            run: Maps the images; see `map_rows`. Call it on every process.
            stage: Of the run.
            tiles: f; None: the set has none.
            made_from: What the images are, see `Run.map`.
        """
        if tiles is None:
            return self
        images, soft, each = self.images, self.soft_labels, tiles**2
        shown = map_rows(run, stage, lambda a, b: decode(images[a:b], tiles), len(images), made_from=made_from)
        if soft is not None:
            soft = map_rows(
                run, f"{stage}, soft labels", lambda a, b: self.soft_labels[a:b].repeat_interleave(each, 0), len(images),
                made_from=made_from,
            )  # fmt: skip
        return TrainingSet(shown, self.labels.repeat_interleave(each, 0), soft, self.views)

    def at(self, settings: Settings, device: torch.device | str) -> "TrainingSet":
        """Return the same set on a device, see `placed`, its images scaled to the side at which augmentation starts."""
        size = settings.start_size(self.images.shape[-1])
        soft_labels = None if self.soft_labels is None else self.soft_labels.to(device)
        return TrainingSet(placed(resized(self.images, size), device), self.labels.to(device), soft_labels, self.views)


def resized(images: torch.Tensor, size: int, batch_size: int = 256) -> torch.Tensor:
    """Scale uint8 or float images (N, 3, S, S) to (N, 3, size, size): bilinear with antialiasing, as Pillow does it."""
    if images.shape[-1] == size:
        return images
    made = images.new_empty(*images.shape[:2], size, size)  # filled part by part: images may be many
    for part, batch in zip(made.split(batch_size), images.split(batch_size), strict=True):
        part.copy_(F.interpolate(batch, (size, size), mode="bilinear", antialias=True, align_corners=False))
    return made


@dataclass(frozen=True)
class Training:
    """A trained network and its test accuracies, as fractions."""

    model: nn.Module
    last: float
    best: float
    best_epoch: int  # from 1
    curve: tuple[float, ...]  # at every look of the settings


class Students(nn.Module):
    """Networks of one architecture trained side by side: images (K, B, 3, S, S) to logits (K, B, C).

    One is called as it is. Several are evaluated in one vectorised call. They share nothing: each gets the gradient that it
    would get alone.

    Raises:
        InputError: For several networks with running statistics.
    """

    def __init__(self, models: Sequence[nn.Module]):
        super().__init__()
        self.models = nn.ModuleList(models)
        if len(models) > 1:
            stacked, buffers = stack_module_state(list(models))
            if buffers:
                raise InputError(
                    "seeds_together", True, "students with BatchNorm are trained one after another; leave it out"
                )
            self.names, self.stacked = list(stacked), nn.ParameterList(stacked.values())

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Map normalised images (K, B, 3, S, S) to logits (K, B, C)."""
        if len(self.models) == 1:
            return self.models[0](images[0])[None]
        parameters = dict(zip(self.names, self.stacked, strict=True))

        def one(own: dict[str, torch.Tensor], batch: torch.Tensor) -> torch.Tensor:
            return functional_call(self.models[0], own, (batch,))

        return vmap(one, randomness="different")(parameters, images)  # every network has its own dropout

    def trained(self) -> list[tuple[str, nn.Parameter, int]]:
        """Return what is optimised: name, tensor, and number of dimensions that it has in one network."""
        if len(self.models) == 1:
            return [(name, tensor, tensor.ndim) for name, tensor in self.models[0].named_parameters()]
        return [(name, tensor, tensor.ndim - 1) for name, tensor in zip(self.names, self.stacked, strict=True)]

    def separate(self) -> list[nn.Module]:
        """Return the networks, each with its own weights."""
        for name, tensor, _ in self.trained() if len(self.models) > 1 else ():
            for model, own in zip(self.models, tensor.detach(), strict=True):
                model.get_parameter(name).data.copy_(own)
        return list(self.models)


def train_students(
    student: str,
    sets: Sequence[TrainingSet],
    test: tuple[torch.Tensor, torch.Tensor] | None,
    num_classes: int,
    settings: Settings,
    seeds: Sequence[int],
    *,
    teacher: Classifier | None = None,
    dtype: torch.dtype = torch.float32,
    compiled: bool = False,
    team: Team | None = None,
    title: str = "",
    log: Callable[[int, dict[str, float]], None] | None = None,
) -> list[Training]:
    """Train networks from scratch, side by side, and look at the test split as often as the settings say.

    A team trains one network on the same batches as a single process, up to the rounding of sums; only what a network drops
    at random is drawn by every member for itself.

    Args:
        student: Name for `networks.build`.
        sets: What each is trained on: of one size, on the device to train on; see `TrainingSet.at`.
        test: Images (M, 3, S, S) as those of `sets` are, and int64 labels (M,) on the same device; None where it is never
            looked at.
        num_classes: Number of classes, C.
        settings: Optimiser, schedule, augmentation, labels.
        seeds: Of each network's initial weights, batches and augmentation.
        teacher: For settings whose labels a teacher gives.
        dtype: float32, or what forward passes are autocast to; losses, weights and targets are float32.
        compiled: Whether to compile the networks.
        team: Who trains a single network together, from the same arguments; None: this process alone.
        title: Of a progress bar over the epochs; none without it.
        log: Is told after some epochs how many are done, the last loss, and the mean accuracy where the test split is looked
            at.

    Raises:
        InputError: For several students with running statistics.
    """
    device = sets[0].labels.device
    students = Students([_initial(student, num_classes, settings, seed) for seed in seeds]).to(device)
    if any(isinstance(module, nn.BatchNorm2d) for module in students.modules()):
        students.to(memory_format=torch.channels_last)  # instance norm would copy back and forth
    optimizer = _optimizer(students, settings)
    scaler = torch.amp.GradScaler(device.type, enabled=dtype is torch.float16)
    network = trained = torch.compile(students) if compiled else students
    if team:
        normalise_together(students, team)
        torch.manual_seed(draw_seed(seeds[0], "student dropout", team.rank))
        trained = team.shared(network)
    autocast = torch.autocast(device.type, dtype, enabled=dtype is not torch.float32)
    weights = [tensor.detach() for _, tensor, _ in students.trained()]
    averages = [tensor.clone() for tensor in weights] if settings.weight_average else []
    best, curves = [(0.0, 0)] * len(seeds), [()] * len(seeds)
    temperature = 1.0 if settings.temperature_found else settings.temperature  # of the students
    steps = -(-len(sets[0].images) // settings.batch_size)
    for epoch in progress(range(settings.epochs), title, unit="epoch", disable=not title):
        labels_at = teacher_temperature(settings, epoch)
        for step, (images, draws, part) in enumerate(_batches(sets, settings, seeds, epoch, team)):
            done = epoch + step / steps if settings.schedule == "cosine-steps" else epoch
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(settings, done)
            with autocast, torch.no_grad():
                targets = _targets(settings, sets, images, draws, teacher, num_classes, labels_at)
            with autocast:
                predicted = trained(images.unflatten(0, (len(seeds), -1)))
            # The sum over networks of each one's mean over its batch: their gradients do not mix.
            if settings.loss == "mse":
                logits, labels = predicted.float().flatten(0, 1), _own_labels(sets, draws)[: len(images)]
                loss = len(seeds) * squared_error(logits, targets, labels, settings.hard_weight)
            else:
                log_predicted = F.log_softmax((predicted.float() / temperature).flatten(0, 1), dim=1)
                loss = F.kl_div(log_predicted, targets, reduction="sum") * len(seeds) / len(images)
                if settings.temperature_squared:
                    loss = loss * labels_at**2
            if team:
                loss = loss * part  # of what the gradients are the mean over the members
            optimizer.zero_grad(set_to_none=True)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            if averages:
                torch._foreach_lerp_(averages, weights, 1 - settings.weight_average)
        if settings.temperature_found:
            temperature = nearest_temperatures(predicted.detach().float(), targets.view_as(predicted), team)
        if epoch + 1 in settings.looks:
            _swap(weights, averages)
            with autocast:
                now = accuracies(network, *test, settings, team=team)
            _swap(weights, averages)
            best = [max(old, (new, epoch + 1), key=lambda look: look[0]) for old, new in zip(best, now, strict=True)]
            curves = [(*curve, new) for curve, new in zip(curves, now, strict=True)]
        if log and ((epoch + 1) % -(-settings.epochs // LOGGED) == 0 or epoch + 1 in settings.looks):
            looked = {"accuracy": sum(now) / len(now)} if epoch + 1 in settings.looks else {}
            log(epoch + 1, {"loss": loss.item() / len(seeds) / part, **looked})
    _swap(weights, averages)
    ends = zip(students.separate(), best, curves, strict=True)
    return [Training(model.eval(), curve[-1] if curve else 0.0, *top, curve) for model, top, curve in ends]


@torch.inference_mode()
def accuracies(
    network: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    settings: Settings,
    team: Team | None = None,
) -> list[float]:
    """Return the share of images (M, 3, S, S), uint8 or float, with labels (M,) that each of the `Students` gets right."""
    network.eval()
    hits, count = torch.zeros(len(network.models), dtype=torch.long, device=labels.device), len(labels)
    if team:  # each member looks at its part
        images, labels = images[team.share(count)], labels[team.share(count)]
    some = classified_at_a_time(images.shape[-1])
    for batch, target in zip(images.split(some), labels.split(some), strict=True):
        batch = batch.to(labels.device)
        values = batch if batch.is_floating_point() else batch.float() / 255
        prepared = normalize(values, settings.mean, settings.std)
        logits = network(prepared.expand(len(network.models), *prepared.shape))  # (K, B, C)
        hits = hits + (logits.argmax(2) == target).sum(1)
    network.train()
    return [hit / count for hit in (team.summed(hits) if team else hits).tolist()]


def _initial(student: str, num_classes: int, settings: Settings, seed: int) -> nn.Module:
    """Build a network; its weights depend on the seed alone."""
    torch.manual_seed(draw_seed(seed, "student weights"))
    model = build(student, num_classes, settings.image_size).train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            # Statistics that take in one batch k times, as with k forward passes before the step.
            module.momentum = 1 - (1 - module.momentum) ** settings.batchnorm_updates
    return model


def _optimizer(students: Students, settings: Settings) -> torch.optim.Optimizer:
    groups = {settings.weight_decay: [], 0.0: []}
    for name, tensor, dimensions in students.trained():
        decays = settings.decay_all or ("weight" in name and dimensions > 1)
        groups[settings.weight_decay if decays else 0.0].append(tensor)
    parameters = [{"params": tensors, "weight_decay": decay} for decay, tensors in groups.items() if tensors]
    if settings.optimizer == "sgd":
        return torch.optim.SGD(parameters, settings.learning_rate, momentum=settings.momentum)
    return torch.optim.AdamW(parameters, settings.learning_rate, betas=(0.9, 0.999))


def _swap(weights: Sequence[torch.Tensor], averages: Sequence[torch.Tensor]) -> None:
    """Put the averages where the weights are, and the weights there; without averages nothing is done."""
    for weight, average in zip(weights, averages, strict=False):
        kept = weight.clone()
        weight.copy_(average)
        average.copy_(kept)


Draws = Mapping[str, torch.Tensor]


def _batches(
    sets: Sequence[TrainingSet], settings: Settings, seeds: Sequence[int], epoch: int, team: Team | None
) -> Iterator[tuple[torch.Tensor, Draws, float]]:
    """Yield one epoch: augmented images (K * B, 3, S, S), and the draws that made them; see `augmentation.augment.draw`.

    Of a team each member has the images of its share, of b rows, and the draws of these first, followed by what is mixed
    into them. The third is the weight of its mean over b beside those of the others.
    """
    device, waiting, count = sets[0].labels.device, sets[0].images.device, len(sets[0].images)
    if sets[0].views is not None:
        parts = zip(*(_replayed(own.views, seed, epoch) for own, seed in zip(sets, seeds, strict=True)), strict=True)
    else:
        drawn = [
            draw(
                settings.augmentation,
                count,
                settings.batch_size,
                settings.image_size,
                epoch_generator(seed, epoch),
                stored_size=sets[0].images.shape[-1],
            )
            for seed in seeds
        ]
        drawn = [{key: tensor.to(waiting) for key, tensor in own.items()} for own in drawn]
        starts = range(0, count, settings.batch_size)
        parts = ([batch_of(own, start, start + settings.batch_size) for own in drawn] for start in starts)

    def gathered(part: Sequence[Draws]) -> tuple[torch.Tensor, Draws, int, float]:
        draws = {key: torch.cat([own[key] for own in part]).to(waiting) for key in part[0]}
        size = own = len(draws["order"]) // len(sets)
        if team:
            draws, own = _share(draws, team)
        elif "partner" in draws:
            places = torch.arange(len(sets), device=waiting).repeat_interleave(size)
            draws["partner"] = draws["partner"] + size * places
        chosen = zip(sets, draws["order"].split(len(draws["order"]) // len(sets)), strict=True)
        pixels = torch.cat([taken(training_set.images, rows, device) for training_set, rows in chosen])
        draws = {key: rows.to(device, non_blocking=True) for key, rows in draws.items()}
        return pixels, draws, own * len(sets), team.weight(size) if team else 1.0

    for pixels, draws, own, weight in ahead(gathered, parts, by_thread=waiting != device):
        yield augment(pixels, draws, settings.mean, settings.std, settings.image_size)[:own], draws, weight


def _share(draws: Draws, team: Team) -> tuple[Draws, int]:
    """Return the draws of a member's share of a batch, and of what is mixed into that, if anything; and the share's size."""
    count = len(draws["order"])
    rows = torch.arange(count, device=draws["order"].device)[team.share(count)]
    if "partner" not in draws:
        return {name: of_batch[rows] for name, of_batch in draws.items()}, len(rows)
    both = torch.cat([rows, draws["partner"][rows]])
    places = torch.arange(len(rows), len(both), device=both.device).repeat(2)  # nothing is mixed into the partners
    return {**{name: of_batch[both] for name, of_batch in draws.items()}, "partner": places}, len(rows)


def _replayed(views: Views, seed: int, epoch: int) -> Iterator[Draws]:
    return (view_draws(views.batch(place)) for place in order(views.record, views.images, seed, epoch))


def epoch_generator(seed: int, epoch: int) -> torch.Generator:
    """Return the generator of an epoch's order and augmentation: the same for every student, and for stored views."""
    return cpu_generator(draw_seed(seed, "student epoch", epoch))


def _targets(
    settings: Settings,
    sets: Sequence[TrainingSet],
    images: torch.Tensor,
    draws: Draws,
    teacher: Classifier | None,
    num_classes: int,
    temperature: float,
) -> torch.Tensor:
    """Return what the students should say of the images: probabilities (K * B, C), float32, or for `mse` logits."""
    if settings.labels == "teacher":
        logits = teacher.logits(denormalize(images, settings.mean, settings.std), as_is=settings.teacher_as_is)
        if settings.loss == "mse":
            return logits.float()
        top_k = sets[0].views.record.top_k if sets[0].views else None
        return probabilities(*strongest(logits, top_k), num_classes, temperature)
    if settings.labels == "views":
        return probabilities(draws["logits"], draws.get("class_index"), num_classes, temperature)[: len(images)]
    if settings.labels == "hard":
        targets = F.one_hot(_own_labels(sets, draws), num_classes).float()
    else:
        chosen = zip(sets, draws["order"].split(len(draws["order"]) // len(sets)), strict=True)
        stored = torch.cat([training_set.soft_labels[rows] for training_set, rows in chosen])
        targets = probabilities(stored.log(), None, num_classes, temperature)
    if "partner" in draws:
        # The mixed loss, share * loss(a) + (1 - share) * loss(b), has the gradient of the loss to mixed targets.
        share = draws["share"][:, None]
        targets = share * targets + (1 - share) * targets[draws["partner"]]
    return targets[: len(images)]


def _own_labels(sets: Sequence[TrainingSet], draws: Draws) -> torch.Tensor:
    """Return the label of each image of a batch, int64 (K * B,), whatever is mixed into it."""
    rows = draws["order"].split(len(draws["order"]) // len(sets))
    return torch.cat([training_set.labels[own] for training_set, own in zip(sets, rows, strict=True)])
