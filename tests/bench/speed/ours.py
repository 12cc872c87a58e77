"""What the package does, task by task. `plain.py` has the same tasks as one writes them down first."""

import functools
import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import torch
from scene import PSR_RATE, RECOVER_RATE, ROLL, Scene

from distill_hub.artifact.manifest import ModelRecord
from distill_hub.augmentation.augment import normalize
from distill_hub.evaluation.views import draw_views
from distill_hub.generating.latents import Latents
from distill_hub.methods import cao2, psr
from distill_hub.methods.candidates import render
from distill_hub.methods.tuning import Tuning
from distill_hub.options.minimax import MinimaxConfig
from distill_hub.recovery import recover as recovering
from distill_hub.recovery import sre2l
from distill_hub.training.train import TrainingSet, train_students

Outcome = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Work:
    """One task, ready to be measured.

    Attributes:
        unit: What is counted.
        main: Does the work that is compared; returns how many of the unit it was.
        outcome: What the other side must arrive at, too.
        others: The same in other ways, by name.
    """

    unit: str
    main: Callable[[], int]
    outcome: Callable[[], Outcome]
    others: Mapping[str, Callable[[], int]] = field(default_factory=dict)


def _in_batches(scene: Scene, unit: str, steps: int, function: Callable[[int], Outcome]) -> Work:
    """Return the work of a function from a number of images to what becomes of them."""
    scale = scene.scale

    def work(count: int) -> Callable[[], int]:
        return lambda: function(count) and count * steps

    def outcome() -> Outcome:  # the plain loop's images are the first of a batch
        return {name: tensor[: scale.plain] for name, tensor in function(4 * scale.plain).items()}

    return Work(unit, work(scale.batch), outcome, {f"batch {count}": work(count) for count in scale.batches})


def sampling(scene: Scene) -> Work:
    def draw(count: int) -> Outcome:
        latents = scene.generator.sample(scene.ids(count), scene.seeds("sampling", count))
        return {"latents": latents, "images": render(scene.generator, scene.teacher, latents)["images"]}

    return _in_batches(scene, "images", 1, draw)


def refine_cao2(scene: Scene) -> Work:
    def refine(count: int) -> Outcome:
        start, seeds = scene.latents(count), scene.seeds("refine", count)
        latents, losses = cao2.refine(scene.generator, start, scene.ids(count), seeds, steps=scene.scale.steps)
        return {"moved": latents - start, "losses": losses}

    return _in_batches(scene, "images x steps", scene.scale.steps, refine)


def refine_psr(scene: Scene) -> Work:
    def refine(count: int) -> Outcome:
        start, seeds, steps = scene.latents(count), scene.seeds("refine", count), scene.scale.steps
        how = {"steps": steps, "kl_steps": steps // 25, "learning_rate": PSR_RATE}
        given = scene.generator, scene.teacher, start, scene.ids(count), *scene.soft_targets(count), seeds
        latents, losses = psr.refine(*given, **how)
        return {"moved": latents - start, "denoising": losses[..., 0], "divergence": losses[..., 1]}

    return _in_batches(scene, "images x steps", scene.scale.steps, refine)


def tuning(scene: Scene) -> Work:
    def make(**changes) -> tuple[Tuning, Callable[[int], None]]:
        """Return a fine-tuning that has not begun, and what encodes some images."""
        base, run = scene.make_generator(), scene.fresh_run()

        @torch.inference_mode()
        def encode(rows):
            ways = scene.real[list(rows)], scene.real[list(rows)].flip(3)
            mean, std = (torch.stack(parts, 1).half() for parts in zip(*map(base.posterior, ways), strict=True))
            return {"mean": mean, "std": std}

        latents = Latents(run.map("encode", range(len(scene.real)), encode, chunk_size=8))
        settings = MinimaxConfig(memory_size=64, **changes)
        how = {"micro_batch_size": settings.tuning_batch_size, "seed": 0, "identity": {}, "compiled": scene.compiled}
        own = Tuning(run, base, latents, scene.tuned_labels, scene.ids(10), settings, **how)
        return own, torch.inference_mode()(lambda count: base.posterior(scene.real[:count]))

    def steps(encoded: int, **changes) -> Callable[[], int]:
        made, numbers = functools.cache(lambda: make(**changes)), itertools.count()

        def work() -> int:
            own, encode = made()
            for number in itertools.islice(numbers, scene.scale.tuning_steps):
                encode(encoded)
                own.update(own.batch(number))
            return scene.scale.tuning_steps

        return work

    def outcome() -> Outcome:
        own, _ = make()
        return {"losses": torch.stack([own.update(own.batch(number)) for number in range(3)])}

    # Every image is encoded both ways, once in eight epochs: for the 8 images of a step that makes two.
    others = {
        "every image encoded in every step": steps(8),
        "gradient checkpointing": steps(2, gradient_checkpointing=True),
        "DiffFit": steps(2, lambda_r=0.0, lambda_d=0.0),
    }
    return Work("steps", steps(2), outcome, others)


def recover(scene: Scene) -> Work:
    count, steps = scene.scale.recover
    labels, seeds = torch.tensor(scene.ids(count)), scene.seeds("recover", count)
    how = {"size": scene.scale.pixels, "learning_rate": RECOVER_RATE, "views_seed": 0, "dtype": scene.run.dtype}
    objectives = [sre2l.statistics_objective(scene.teacher, labels, 1)]
    if scene.compiled:  # as `recover_set` does
        scene.teacher.model.to(memory_format=torch.channels_last)
        objectives = recovering.compiled(objectives)

    def loop(steps: int, roll: int = 0, smallest_crop: float = 1.0, flip: bool = False) -> Outcome:
        views = recovering.Views(smallest_crop, flip, (0, roll))
        images, losses = recovering.recover(scene.teacher, objectives, seeds, steps=steps, views=views, **how)
        return {"images": images, "losses": losses[:, 0]}

    def work(*changes) -> Callable[[], int]:
        return lambda: loop(steps, *changes) and count * steps

    others = {"with crops, flips and rolls": work(round(ROLL * scene.scale.pixels), 0.08, True)}
    return Work("images x iterations", work(), lambda: loop(5), others)


def relabelling(scene: Scene) -> Work:
    record = ModelRecord(id="none", architecture=scene.scale.teacher, sha256="0" * 64)

    def label(epochs: int) -> Outcome:
        given = scene.fresh_run(), scene.images, scene.teacher, record
        stage, _ = draw_views(*given, epochs=epochs, mirrored=True, seed=0)
        return stage.rows(0, epochs, "logits")

    epochs = scene.scale.epochs
    return Work("views", lambda: label(epochs) and len(scene.images) * epochs, lambda: label(1))


def evaluation(scene: Scene) -> Work:
    settings, name = scene.settings(), scene.scale.student
    data = TrainingSet(scene.images, scene.labels).at(settings, scene.device)
    how = {"dtype": scene.run.dtype, "compiled": scene.compiled}

    def train(students: int, epochs: int) -> int:
        same = [data] * students, None, 10, replace(settings, epochs=epochs), range(students)
        trained.append(train_students(name, *same, **how)[0].model)
        return students * epochs * len(scene.images)

    trained = []

    def outcome() -> Outcome:
        train(1, 2)
        with torch.inference_mode():
            return {"logits": trained[-1](normalize(data.images.float() / 255, settings.mean, settings.std))}

    has_running_statistics = name.endswith("-bn")
    others = {} if has_running_statistics else {"3 students side by side": lambda: train(3, settings.epochs)}
    return Work("images", lambda: train(1, settings.epochs), outcome, others)


TASKS = {
    "sampling": sampling,
    "cao2": refine_cao2,
    "psr": refine_psr,
    "minimax": tuning,
    "recover": recover,
    "relabel": relabelling,
    "evaluate": evaluation,
}
