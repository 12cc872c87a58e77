"""DD-Ranking's comparisons and the distance to the real images, for a set that is scored."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence

import torch

from distill_hub.artifact.records import OWN, RANDOM, REAL, DDRanking, EvaluationRecord
from distill_hub.augmentation.augment import Augmentation
from distill_hub.config import InputError
from distill_hub.evaluation.metrics import augmentation_robust_score, label_robust_score, mmd
from distill_hub.evaluation.scores import Trial
from distill_hub.running.run import Run
from distill_hub.training.settings import Settings
from distill_hub.training.subject import Subject


def real_trial(run: Run, subject: Subject, settings: Settings) -> Trial:
    """Return the training on all real images of the set's classes: hard labels, no learned rate, all else as for the set."""
    size = settings.start_size(subject.own.images.shape[-1])
    images = functools.cache(lambda: subject.real_images(run, f"all real images, {size} px", subject.real_rows, size))
    return Trial(lambda seed: images(), settings.hard.for_others)


def ranking_trials(run: Run, subject: Subject, trials: Mapping[str, Trial], real_accuracy: float | None) -> dict[str, Trial]:
    """Add to the trials of a set what LRS and ARS compare with.

    Args:
        run: See `trials_of`.
        subject: The set.
        trials: See `scores.trials_of`.
        real_accuracy: Accuracy on all real data with hard labels, a fraction, where it is known and need not be trained.

    Raises:
        InputError: When the labels of the protocol cannot be had for random images or without augmentation.
    """
    settings = trials[OWN].settings
    if settings.labels == "views":
        raise InputError("command line", "--dd_ranking", "stored views cannot be had without augmentation; choose sre2l")
    if RANDOM not in trials:
        raise InputError("command line", "--dd_ranking", "soft labels of random real images are needed, too; pass --teacher")
    added = {
        f"{name}, no augmentation": dataclasses.replace(
            trials[name], settings=dataclasses.replace(trials[name].settings, augmentation=Augmentation())
        )
        for name in (OWN, RANDOM)
    }
    if settings.labels != "hard":
        added[f"{OWN}, hard labels"] = dataclasses.replace(trials[OWN], settings=settings.hard)
    if real_accuracy is None:
        added[REAL] = real_trial(run, subject, settings)
    return {**trials, **added}


def rank(record: EvaluationRecord, real_accuracy: float | None) -> DDRanking:
    """Return LRS and ARS of a record whose trials were those of `ranking_trials`."""
    means = {name: score.mean for name, score in record.scores.items()}
    own, random, real = means[OWN], means[RANDOM], means.get(REAL, real_accuracy)
    lrs = label_robust_score(real_hard=real, own_hard=means.get(f"{OWN}, hard labels", own), own=own, random=random)
    own_plain, random_plain = means[f"{OWN}, no augmentation"], means[f"{RANDOM}, no augmentation"]
    ars = augmentation_robust_score(own=own, random=random, own_plain=own_plain, random_plain=random_plain)
    return DDRanking(lrs=lrs, ars=ars, real_accuracy=real)


def distance_to_real(run: Run, subject: Subject) -> float:
    """Return the squared MMD between the teacher's embeddings of the set and those of the real training images.

    Every real image of the set's classes is decoded once, scaled to the set's size, by all processes together.
    """
    teacher, rows, size = subject.teacher, subject.real_rows, subject.own.images.shape[-1]
    train, made_from = subject.test.source.train, {**run.settings, "teacher": subject.teacher_record.sha256}

    def embed(places: Sequence[int]) -> dict[str, torch.Tensor]:
        return {"embeddings": teacher.embeddings(train.pixels(rows[places[0] : places[-1] + 1], size))}

    real = run.map("embed real images", range(len(rows)), embed, chunk_size=1000, made_from=made_from)
    embeddings = real.rows(0, len(real))["embeddings"]
    return mmd(teacher.embeddings(subject.own.images).to(teacher.device), embeddings.to(teacher.device))
