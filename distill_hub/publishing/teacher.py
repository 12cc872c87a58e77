"""A set whose teacher was published after it was made: its manifest names it, so that others fetch it and fit none."""

import shlex
from collections.abc import Collection
from pathlib import Path
from typing import TypeVar

from distill_hub.artifact.find import MANIFEST, find, read_description
from distill_hub.artifact.manifest import Manifest, ModelRecord
from distill_hub.config import InputError
from distill_hub.disk.files import atomic_write, cache_dir, folder_name, slug
from distill_hub.kinds import local_name
from distill_hub.networks.names import split_teachers
from distill_hub.publishing.readme import card_of, readme_files
from distill_hub.publishing.trained import CONFIG, WEIGHTS

_Model = TypeVar("_Model", bound=ModelRecord)


def name_teacher(folder: str | Path, teacher: str) -> None:
    """Write into the manifest of a set where its teacher is on the Hub, and at which commit; its content stays the same.

    Args:
        folder: Of the set.
        teacher: Id on the Hub, of several by commas; they are loaded, and the hash of their weights must be on record.

    Raises:
        InputError: For a set without a teacher, an id that is none, and weights that are no teacher's of the set.
    """
    from distill_hub.artifact.describe import weights_sha256  # these load torch, which a push without them does not need
    from distill_hub.classifiers import read_network

    folder = Path(folder)
    manifest, evaluations = read_description(find(folder))
    known = {model.sha256: model for model in _models(manifest)}
    places = {}
    for name, revision in split_teachers(teacher):
        if any(model.id == name and model.revision for model in known.values()):
            continue  # whatever its author has published there since
        network = read_network(name, revision)
        sha256, commit = weights_sha256(network["model"]), network["revision"]
        if commit is None:
            valid = "an id on the Hub is needed; `distill-hub push` publishes the folder of a classifier"
            raise InputError("teacher", name, valid)
        if sha256 not in known:
            on_record = ", ".join(f"{local_name(model.id)}, {sha[:12]}" for sha, model in known.items()) or "none"
            raise InputError("teacher", name, f"its weights hash to {sha256[:12]}, the set's teachers are {on_record}")
        places[sha256] = {"id": name, "revision": commit}
    named = _named_in(manifest, places)
    if named == manifest:
        return
    atomic_write(folder / MANIFEST, named.to_json().encode())
    card = readme_files(named, evaluations, location=folder_name(folder), files=find(folder).files, edited=[card_of(folder)])
    for name, content in card.items():
        atomic_write(folder / name, content)


def how_to_publish(folder: str | Path, repo_id: str) -> str | None:
    """Say how the teachers of a set are published that only this machine has; None where none of them is here.

    Args:
        folder: Of the set.
        repo_id: Where the set was published.
    """
    manifest, _ = read_description(find(folder))
    missing = {model.sha256 for model in _models(manifest) if model.revision is None}
    named = str(manifest.method.config.get("teacher") or "auto").split(",")
    fitted = sorted(cache_dir().glob(f"{slug(manifest.source.name)}-teacher-*"))
    here = [place for place in (*map(Path, named), *fitted) if missing and _holds(place, missing)]
    if not here:
        return None
    first = " and ".join(f"`{shlex.join(['distill-hub', 'push', str(place)])}`" for place in here)
    ids = ",".join(["NAMESPACE/NAME"] * len(here))
    then = shlex.join(["distill-hub", "push", str(folder), repo_id, "--teacher", ids])
    return f"Its teacher is on this machine alone: {first} publishes it, then `{then}` names it"


def _holds(place: Path, hashes: Collection[str]) -> bool:
    """Whether a folder holds a classifier whose weights have one of some hashes."""
    if not all((place / name).is_file() for name in (CONFIG, WEIGHTS)):
        return False
    from safetensors.torch import load_file  # as above

    from distill_hub.artifact.describe import hash_of_weights

    return hash_of_weights(load_file(place / WEIGHTS)) in hashes


def _models(manifest: Manifest) -> list[ModelRecord]:
    """Return the records of all classifiers of a set that its manifest names, of several together each."""
    views = manifest.views.teacher if manifest.views else None
    models = [model for model in (manifest.teacher, manifest.selector, views) if model]
    return [one for model in models for one in model.members or [model]]


def _named_in(manifest: Manifest, places: dict[str, dict[str, str]]) -> Manifest:
    def named(model: _Model | None) -> _Model | None:
        if model and model.members:
            members = [named(member) for member in model.members]
            return model.model_copy(update={"members": members, "id": ",".join(member.id for member in members)})
        return model and model.model_copy(update=places.get(model.sha256, {}))

    views = manifest.views and manifest.views.model_copy(update={"teacher": named(manifest.views.teacher)})
    update = {"teacher": named(manifest.teacher), "selector": named(manifest.selector), "views": views}
    return manifest.model_copy(update=update)
