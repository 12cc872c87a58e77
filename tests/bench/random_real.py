"""Accuracy of random real images, the baseline of every table, measured by hand.

python tests/bench/random_real.py --source PATH/cifar10 --protocol idc-hard --students convnet-3 --ipc 10 --repeats 3
"""

import time
from dataclasses import dataclass, replace

from distill_hub.config import launch, option, options
from distill_hub.kinds import PositiveInt
from distill_hub.options.shared import EvaluationOptions, SourceOptions


@dataclass(frozen=True)
class Config(EvaluationOptions, SourceOptions):
    """The images."""

    image_size: PositiveInt = option(32, "side in pixels")
    ipc: PositiveInt = option(10, "images per class")
    epochs: PositiveInt | None = option(None, "instead of the protocol's")
    augment: bool = option(True, "augment as the protocol says; --no_augment: not at all")


def main(config: Config) -> None:
    """Train students on random real images, drawn anew for every seed, and print how they did."""
    import torch

    from distill_hub.augmentation.augment import Augmentation
    from distill_hub.data.sources import load_source
    from distill_hub.evaluation.scores import Trial, measure, settings_of
    from distill_hub.running.console import show
    from distill_hub.running.session import session
    from distill_hub.training.protocols import protocol
    from distill_hub.training.subject import HeldOut, Subject
    from distill_hub.training.train import TrainingSet

    source, rules = load_source(**options(config, SourceOptions)), protocol(config.protocol)
    rows = source.train.draw_per_class(config.ipc, 0)
    own = TrainingSet(source.train.pixels(rows, config.image_size), torch.from_numpy(source.train.labels[rows]))
    subject = Subject(own, HeldOut(source), "0" * 64)
    started, records = time.perf_counter(), []
    with session("bench", vars(config)) as run:
        for student in rules.students(config.students, config.image_size):
            settings = settings_of(subject, rules, student)
            if config.epochs:
                settings = replace(settings, epochs=config.epochs, looks=(config.epochs,))
            if not config.augment:
                settings = replace(settings, augmentation=Augmentation())
            drawn = Trial(subject.random_real(run, settings.image_size, soft=False), settings)
            how = {"together": config.seeds_together, "compiled": config.compile, "stage": student}
            records.append(measure(run, subject, rules, student, range(config.repeats), {"random real": drawn}, **how))
    for record in records:
        last = ", ".join(f"{100 * value:.2f}" for value in record.score.last)
        epochs, plain = record.settings["epochs"], "" if config.augment else ", not augmented"
        settings = (
            f"IPC {config.ipc}, {config.protocol} v{record.protocol_version}, {record.student}, {epochs} epochs{plain}"
        )
        show(f"{settings}: {record.score.percent()} % ({last}); {record.seconds:.0f} s of training and tests")
    show(f"{time.perf_counter() - started:.0f} s in all, {record.environment.hardware}, torch {torch.__version__}")


if __name__ == "__main__":
    launch(main, Config, __doc__)
