"""What nobody may overlook who reads a score: students that did not train, sets below random images, replaced labels."""

import statistics
from collections.abc import Sequence

from distill_hub.artifact.manifest import Manifest
from distill_hub.artifact.records import OWN, RANDOM, EvaluationRecord
from distill_hub.text import shortened


def standard_error(accuracy: float, images: int) -> float:
    """Return the standard error of an accuracy, a fraction, that was measured on so many test images."""
    return (accuracy * (1 - accuracy) / images) ** 0.5


def collapsed_seeds(accuracies: Sequence[float], chance: float, images: int) -> list[int]:
    """Return which students did not train, as positions in the list.

    A student collapsed when its accuracy

    - exceeds chance by no more than two standard errors of chance on so many test images: it cannot be told from a student
      that says the same of every image; or
    - is far below its peers, the other seeds: its lead over chance is less than half that of their median, and the gap to
      the median is more than two standard errors of the difference of two accuracies on so many test images.

    Args:
        accuracies: Of the students that differ in their seed alone, as fractions.
        chance: What saying the same of every image reaches, a fraction.
        images: Number of test images.
    """
    least = chance + 2 * standard_error(chance, images)
    found = []
    for place, accuracy in enumerate(accuracies):
        peers = [*accuracies[:place], *accuracies[place + 1 :]]
        usual = statistics.median(peers) if peers else accuracy
        noise = 2 * 2**0.5 * standard_error(usual, images)
        is_far_below = accuracy - chance < (usual - chance) / 2 and usual - accuracy > noise
        if accuracy <= least or is_far_below:
            found.append(place)
    return found


def _test(record: EvaluationRecord, manifest: Manifest | None) -> tuple[float, int] | None:
    """Return chance and the number of test images: of the record, else of the set, as if its classes were of one size."""
    if record.chance is not None and record.test_images:
        return record.chance, record.test_images
    if manifest and manifest.source.test_images:
        return 1 / len(manifest.classes), manifest.source.test_images
    return None


def collapsed(record: EvaluationRecord, manifest: Manifest | None = None) -> dict[str, list[int]]:
    """Return the seeds in which students collapsed, by what they were trained on: the set as `OWN`, and its baselines.

    Args:
        record: The measurement.
        manifest: Of the set, for a record that does not say what its students were tested on; without it, nothing is judged.
    """
    test = _test(record, manifest)
    if test is None:
        return {}
    found = {name: collapsed_seeds(score.last, *test) for name, score in record.scores.items()}
    return {name: [record.seeds[place] for place in places] for name, places in found.items() if places}


def below_random(record: EvaluationRecord) -> float | None:
    """Return by how much the mean of a set is below that of as many random real images, a fraction; None where it is not.

    What would be written as 0.0 points is nothing.
    """
    random = record.baselines.get(RANDOM)
    lack = random.mean - record.score.mean if random else 0.0
    return lack if lack >= 0.0005 else None


def outside_the_literature(record: EvaluationRecord) -> str | None:
    """Say that students were not trained as for any number of the literature, and why; None where they were."""
    if record.standard:
        return None
    reason = record.why_non_standard
    what = f"{record.protocol} v{record.protocol_version}" + (f" with {record.student}" if reason else "")
    return (
        f"{what} is NOT of the literature{f': {reason}' if reason else ''}; its numbers compare with each other only, never "
        "with published ones"
    )


def failures(record: EvaluationRecord, manifest: Manifest | None = None) -> list[str]:
    """Say whether labels were replaced, what collapsed, and whether the set is below random real images; see `collapsed`."""
    by, lines = f", measured by {record.submitted_by}" if record.submitted_by else "", []
    if manifest and record.views_sha256 not in (None, manifest.views and manifest.views.sha256):
        lines.append(
            f"{record.student} under {record.protocol} v{record.protocol_version}{by} learned stored views that are not "
            "there any more"
        )
    test = _test(record, manifest)
    for name, seeds in collapsed(record, manifest).items():
        reached, (chance, images) = dict(zip(record.seeds, record.scores[name].last, strict=True)), test
        which = ", ".join(f"{seed} ({100 * reached[seed]:.1f} %)" for seed in seeds)
        bound = chance + 2 * standard_error(chance, images)
        beyond = "; what is above that is far below the other seeds" * any(reached[seed] > bound for seed in seeds)
        lines.append(
            f"{record.student} on {shortened(name, 60)}{by} COLLAPSED in {len(seeds)} of {len(record.seeds)} seeds: "
            f"{which}; chance is {100 * chance:.1f} %, and {images} test images tell it from more than "
            f"{100 * bound:.1f} % only{beyond}"
        )
    if (lack := below_random(record)) is not None:
        lines.append(
            f"{record.student} on {OWN}{by} is BELOW as many random real images, by {100 * lack:.1f} points on average"
        )
    return lines


def warnings(records: Sequence[EvaluationRecord], manifest: Manifest | None = None) -> list[str]:
    """Return all that is to be said of some records, each thing once; see `outside_the_literature` and `failures`."""
    said = [outside_the_literature(record) for record in records]
    return list(dict.fromkeys([line for line in said if line] + [line for r in records for line in failures(r, manifest)]))
