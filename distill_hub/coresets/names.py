"""Names of the coresets: what can be refused before anything heavy is imported."""

from typing import Literal

from distill_hub.config import InputError, nearest

Difficulty = Literal["aum", "el2n", "forgetting"]
CoresetMethod = Literal["ccs", "el2n", "forgetting", "aum", "facility-location", "kmeans"]  # of recipes/coreset.py
OF_EMBEDDINGS = ("herding", "kcenter", "facility-location", "kmeans")
BY_DIFFICULTY = ("el2n", "forgetting", "aum")  # alone: the hardest, or the easiest
OF_DYNAMICS = (*BY_DIFFICULTY, "ccs")
CORESETS = ("herding", "kcenter", "el2n", "forgetting", "aum", "ccs", "facility-location", "kmeans")  # random apart
DYNAMICS = "dynamics.safetensors"  # in the folder of a classifier
VALID_DYNAMICS = f"a classifier that fit_classifier --dynamics trained, with {DYNAMICS}: a folder or a Hub id"


def check_dynamics(names: str, field: str = "dynamics") -> None:
    """Refuse what cannot hold training dynamics: neither auto, nor folders of classifiers or Hub ids, by commas.

    Raises:
        InputError: Saying what is valid.
    """
    if names != "auto":
        from distill_hub.hub import check_model  # not above: --help needs no Hub

        for name in names.split(","):
            check_model(field, name.strip(), DYNAMICS, f"{VALID_DYNAMICS}, is needed")


def split_baselines(names: str) -> tuple[str, ...]:
    """Split a comma-separated list of baselines.

    Args:
        names: 'random', or of `CORESETS`.

    Raises:
        InputError: For an unknown one, or one that is named twice.
    """
    known, baselines = ("random", *CORESETS), tuple(name.strip() for name in names.split(","))
    for name in baselines:
        if name not in known:
            raise InputError("baselines", name, f"known: {', '.join(known)}{nearest(name, known)}")
    if len(set(baselines)) < len(baselines):
        raise InputError("baselines", names, "every baseline of several counts once")
    return baselines
