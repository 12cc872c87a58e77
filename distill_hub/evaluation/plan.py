"""What students would take, for a dry run."""

import dataclasses
import functools
from collections.abc import Mapping

from distill_hub.artifact.records import REAL
from distill_hub.evaluation.scores import Trial
from distill_hub.running.dry_run import DryRun
from distill_hub.teams.team import at_work, divided
from distill_hub.training.frozen import Backbone, train_heads
from distill_hub.training.settings import Settings
from distill_hub.training.subject import Subject
from distill_hub.training.train import train_students


def expect_students(
    run: DryRun, subject: Subject, student: str, trials: Mapping[str, Trial], repeats: int, *, compiled: bool
) -> None:
    """Add students to a plan: one of each kind is trained for an epoch, and looks at the test split once.

    Where there are fewer than processes, teams train them as those of the run will.

    Args:
        run: The dry run.
        subject: The set.
        student: Name for `networks.build`.
        trials: The set and its baselines; see `trials_of`.
        repeats: Students per trial.
        compiled: Compile them.
    """
    groups: dict[tuple[Settings, bool], list[Trial]] = {}  # those that take the same time
    for name, trial in trials.items():
        groups.setdefault((trial.settings, name == REAL), []).append(trial)
    total, jobs = 0.0, len(trials) * repeats
    team = divided(jobs)[1] if jobs < run.accelerator.num_processes else None
    for (settings, _), group in groups.items():
        sets = [trial.make(seed) for trial in group for seed in range(repeats)]
        labels, data = settings.labels, sets[0]
        if data.views and subject.teacher:  # who says the labels of views that may not be stored yet
            labels, data = "teacher", dataclasses.replace(data, views=None)
        data = data.at(settings, run.device)
        subject.test.prepare(run, settings.image_size, settings.test_resize)
        test = subject.test_images(settings).to(run.device), subject.test.labels.to(run.device)

        if settings.frozen:  # a layer, which is soon trained as a whole
            head = functools.partial(
                train_heads, Backbone(student, run.device), [data], test, len(subject.test.classes), settings, [0]
            )
            total += len(group) * repeats * run.timed(head)[0]
            continue

        def train(looks: tuple[int, ...], *, data=data, test=test, settings=settings, labels=labels) -> None:
            short = dataclasses.replace(settings, epochs=1, looks=looks, labels=labels)
            how = {"teacher": subject.teacher, "dtype": run.dtype, "compiled": compiled}
            with at_work(team, len(data.images), short.batch_size) as (workers, processes):
                if processes:
                    train_students(student, [data], test, len(subject.test.classes), short, [0], team=workers, **how)

        epoch, with_look = (run.timed(functools.partial(train, looks))[0] for looks in ((), (1,)))
        seconds = settings.epochs * epoch + len(settings.looks) * max(0.0, with_look - epoch)
        total += len(group) * repeats * seconds
    share = run.shared(jobs)
    run.expect(f"evaluate {student}", jobs, total * share / jobs, chunks=share)
