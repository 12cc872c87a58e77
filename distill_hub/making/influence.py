"""Sets drawn by a generator that a method guides with a network trained on the real images."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from distill_hub.augmentation.augment import normalize
from distill_hub.config import options
from distill_hub.guidance import igd
from distill_hub.making.generated import GeneratorSetup
from distill_hub.matching import experts
from distill_hub.matching.networks import fresh, resolve
from distill_hub.matching.pixels import normalization
from distill_hub.matching.space import Space
from distill_hub.methods.candidates import render
from distill_hub.networks.build import AveragePool
from distill_hub.options.experts import SMALL, ExpertOptions
from distill_hub.options.psr import RefineOptions
from distill_hub.running.checkpoint import steps
from distill_hub.running.run import Stage
from distill_hub.running.seeds import cpu_generator, draw_seed
from distill_hub.teachers.fit import check_memory


class Surrogate:
    """A network trained on the source of a set, whose weights are kept after every epoch: the stage 'fit surrogate'.

    Args:
        setup: What the recipe works with, `IgdConfig` among it.

    Raises:
        InputError: For too little memory for the real images, or weights that are not finite any more.
    """

    def __init__(self, setup: GeneratorSetup):
        config, source, size, run = setup.config, setup.source, setup.image_size, setup.run
        check_memory(len(source.train), size, run.accelerator)
        name = resolve(config.network, len(source.classes), size)
        self.setup, self.normalization = setup, normalization(source, size)
        self.epochs = config.surrogate_epochs or (8 if size <= SMALL else 50)
        how = ExpertOptions(
            name, expert_count=1, expert_epochs=self.epochs, expert_batch_size=64,
            expert_learning_rate=config.surrogate_learning_rate,
        )  # fmt: skip
        test, kept, space = setup.test, range(self.epochs + 1), Space(*self.normalization)
        test.prepare(run, size)
        self.stage = experts.fit(
            run, source, lambda: (test.images(size), test.labels), space, how, kept,
            size=size, seed=config.seed, stage="fit surrogate",
        )  # fmt: skip
        self.network = experts.Flat(_pooled(fresh(name, len(source.classes), size, 0, 0, run.device).eval()))

    def normalize(self, images: torch.Tensor) -> torch.Tensor:
        """Bring images in [0, 1] to what the network sees."""
        return normalize(images, *self.normalization)

    def real(self, label: int) -> torch.Tensor:
        """Return `igd.REAL_IMAGES` real images of a class, fewer where it has fewer, normalised."""
        config, source, run = self.setup.config, self.setup.source, self.setup.run
        rows = source.train.by_class[label]
        generator = cpu_generator(draw_seed(config.seed, "influence", source.class_names[label]))
        order = torch.randperm(len(rows), generator=generator)[: igd.REAL_IMAGES]
        return self.normalize(source.train.pixels(rows[order.numpy()], self.setup.image_size).to(run.device).float() / 255)

    def mean_gradients(self, weights: torch.Tensor, label: int) -> torch.Tensor:
        """Return the mean gradients on the real images of a class at each of some weights, (K, P) as these."""
        images = self.real(label)
        return torch.stack([igd.mean_gradient(self.network, one, images, label) for one in weights])

    def checkpoints(self) -> list[int]:
        """Choose the epochs whose weights count, by gradients on the real images of all classes: the stage 'checkpoints'."""
        setup, weights = self.setup, self.weights()

        def compare(labels: Sequence[int]) -> dict[str, torch.Tensor]:
            units = (F.normalize(self.mean_gradients(weights, label), dim=1) for label in labels)
            return {"cosines": torch.stack([unit @ unit.T for unit in units])}

        made_from = {"surrogate": self.stage.sha256, "real": [igd.REAL_IMAGES, setup.config.seed]}
        how = {"chunk_size": setup.config.classes_at_a_time, "made_from": made_from, "lower": "a smaller --network"}
        found = setup.run.map("checkpoints", range(len(setup.source.classes)), compare, **how)
        return igd.choose(found.rows(0, len(found))["cosines"].mean(0))

    def weights(self) -> torch.Tensor:
        """Return the weights after every epoch, from the untrained ones on, (epochs + 1, P)."""
        return self.stage.rows(0, 1, "weights")["weights"][0].to(self.setup.run.device)


def draw_guided(setup: GeneratorSetup, surrogate: Surrogate, pool: Stage) -> tuple[Stage, list[int]]:
    """Draw IPC guided samples of every class: the stage 'guided'.

    Round j draws the j-th sample of all classes of a chunk side by side; what a sample keeps away from are those of its
    class from earlier rounds. A chunk that was interrupted goes on with the round after its last checkpoint.

    Args:
        setup: What the recipe works with, `IgdConfig` among it.
        surrogate: See there.
        pool: IPC plain samples of every class, from the same seeds.

    Returns:
        The set, class by class, with `latents`, and of every image, and of the plain one of its seed, `influence` (N, 2), in
        the order guided, plain, and `nearest` (N, 2), the largest cosine of their latents with earlier ones of the class,
        0 for the first; and the epochs of the checkpoints.
    """
    config, run, source, generator = setup.config, setup.run, setup.source, setup.generator
    epochs = surrogate.checkpoints()
    later = options(config, RefineOptions)  # what is refined afterwards is drawn in the same way
    made_from = {name: value for name, value in setup.made_from.items() if name not in later}
    made_from |= {"pool": pool.sha256, "surrogate": surrogate.stage.sha256, "checkpoints": epochs}
    folder = run.state("guided rounds", made_from)

    def draw(chunk: Sequence[int]) -> dict[str, torch.Tensor]:
        labels = list(dict.fromkeys(chunk))
        weights = surrogate.weights()[epochs]
        influence = igd.Influence(
            surrogate.network,
            weights,
            torch.stack([surrogate.mean_gradients(weights, label) for label in labels], 1),
            torch.tensor(labels, device=run.device),
            surrogate.normalize,
        )
        seeds = [
            [draw_seed(config.seed, "pool", source.class_names[label], j) for j in range(config.ipc)] for label in labels
        ]
        latents = torch.zeros(len(labels), config.ipc, *generator.latent_shape, device=run.device)
        file, title = folder / f"{labels[0]:06d}.safetensors", "guided" if run.is_main else ""
        advice = "a smaller --influence_weight or --deviation_weight"
        for j in steps(run, file, config.ipc, {"latents": latents}, title=title, unit="round", advice=advice):
            guide = igd.InfluenceGuide(
                influence, generator.decode, latents[:, max(0, j - igd.MEMORY) : j],
                _influence_weight(setup), config.deviation_weight, config.guided,
            )  # fmt: skip
            own = [setup.class_ids[label] for label in labels], [row[j] for row in seeds]
            latents[:, j] = generator.sample(*own, guide=guide)
        parts = latents.flatten(0, 1).split(config.sample_batch_size)
        made = [render(generator, setup.teacher, part) for part in parts]
        found = {name: torch.cat([part[name] for part in made]) for name in made[0]}
        start = labels[0] * config.ipc
        plain = pool.rows(start, start + len(chunk), "images", "latents")
        sets = [(found["images"], latents), (plain["images"], plain["latents"].to(run.device).view_as(latents))]
        measured = {
            "influence": torch.stack([_influence(influence, images) for images, _ in sets], 1),
            "nearest": torch.stack([_nearest(own) for _, own in sets], 1),
        }
        return {**found, "latents": latents.flatten(0, 1), "seeds": torch.tensor(seeds).flatten(), **measured}

    how = {"made_from": made_from, "whole": True, "lower": "a smaller --classes_at_a_time or --network"}
    return run.map("guided", setup.labels, draw, chunk_size=config.classes_at_a_time * config.ipc, **how), epochs


def _influence_weight(setup: GeneratorSetup) -> float:
    """Return k; see `IgdConfig`."""
    if setup.config.influence_weight is None:
        return 100.0 if setup.image_size <= SMALL else 5.0
    return setup.config.influence_weight


def _pooled(network: nn.Module) -> nn.Module:
    """Put torch's own pooling into a network: two gradients through `AveragePool` take three times as long on a CPU."""
    for module in network.modules():
        for name, child in module.named_children():
            if isinstance(child, AveragePool):
                setattr(module, name, nn.AvgPool2d(2))
    return network


def _influence(influence: igd.Influence, images: torch.Tensor) -> torch.Tensor:
    """Return the influence of uint8 images, class by class, (N,)."""
    rounds = images.to(influence.labels.device).float().div(255).unflatten(0, (len(influence.labels), -1))
    return torch.stack([influence.of(own) for own in rounds.unbind(1)], 1).flatten()


def _nearest(latents: torch.Tensor) -> torch.Tensor:
    """Return of latents (C, IPC, ...) the largest cosine with an earlier one of the class, (C · IPC,)."""
    found = torch.zeros(latents.shape[:2], device=latents.device)
    for j in range(1, latents.shape[1]):
        found[:, j], _ = igd.nearest(latents[:, j], latents[:, max(0, j - igd.MEMORY) : j])
    return found.flatten()


def notes_of(setup: GeneratorSetup, stage: Stage, epochs: Sequence[int]) -> dict[str, object]:
    """Return what the manifest says of a guided set, from `draw_guided`."""
    found = stage.rows(0, len(stage), "influence", "nearest")
    names = ("guided", "plain")
    influence, close = (dict(zip(names, found[name].mean(0).tolist(), strict=True)) for name in ("influence", "nearest"))
    return {
        "influence_weight": _influence_weight(setup),
        "surrogate_epochs_of_checkpoints": list(epochs),
        "mean_influence": influence,
        "mean_cosine_with_nearest_earlier_sample": close,
        "differs_from_the_paper": igd.DIFFERS,
    }
