"""What is disturbed: commands of seconds, what they start from, and what must be the same in the end."""

import hashlib
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hub_server import HubServer

from tests.bench.faults.attempt import Place

SCORED = ["--students", "convnet-1-w16", "--repeats", "1", "--teacher_epochs", "4", "--view_epochs", "0"]
FIT = [
    *("--fit_vae_steps", "30", "--fit_dit_steps", "200", "--fit_vae_width", "8", "--fit_dit_width", "64"),
    *("--fit_dit_layers", "2"),
]
DRAWN = [*FIT, "--sample_steps", "5", "--sample_batch_size", "4", "--ipc", "2"]
RECOVERED = ["--ipc", "2", "--recover_steps", "40", "--smallest_crop", "1"]
VARIES = {"created", "date", "seconds", "peak_memory_bytes", "environment", "location"}  # of records


def nothing(place: Place, hub: HubServer, base: Path) -> None:
    """Begin with empty folders."""


def with_set(place: Place, hub: HubServer, base: Path) -> None:
    """Begin with a scored set and what was fitted for it."""
    shutil.copytree(base / "work" / "set", place.work / "set")
    shutil.copytree(base / "home" / "fits", place.home / "fits")


def with_published_set(place: Place, hub: HubServer, base: Path) -> None:
    """Begin with a set of somebody else's on the Hub."""
    folder = base / "work" / "set"
    files = {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    hub.commit("bob/set", {name: data for name, data in files.items() if not name.startswith(".run")}, author="bob")


def with_photos(place: Place, hub: HubServer, base: Path) -> None:
    """Begin with a folder of photos, whose times are always the same."""
    shutil.copytree(base / "photos", place.work / "photos")


def with_published_photos(place: Place, hub: HubServer, base: Path) -> None:
    """Begin with the same photos as a dataset of somebody else's on the Hub."""
    files = {file.relative_to(base / "photos").as_posix(): file.read_bytes() for file in (base / "photos").rglob("*.png")}
    hub.commit("bob/photos", {f"train/{name}": data for name, data in files.items()}, author="bob")


def with_array(place: Place, hub: HubServer, base: Path) -> None:
    """Begin with a set as others publish it."""
    shutil.copy2(base / "set.npz", place.work)


def plain(value: Any) -> Any:
    """Return what a record says, without what differs from run to run."""
    if isinstance(value, dict):
        # A fit, and what is encoded for it, stand in the record of the attempt that did it.
        stages = [own for own in value.get("stages", ()) if own["sha256"] and own["name"] != "encode"]
        value = {**value, "stages": stages}
        return {name: plain(part) for name, part in value.items() if name not in VARIES}
    return [plain(part) for part in value] if isinstance(value, list) else value


def meaning(name: str, data: bytes) -> Any:
    """Return what must be the same of a file."""
    if name.endswith(".json"):
        return plain(json.loads(data))
    return hashlib.sha256(data).hexdigest() if name.endswith((".parquet", ".safetensors")) else None


def undated(name: str) -> str:
    return re.sub(r"\d{8}T?\d{6}|\d{4}-\d\d-\d\d[T0-9:.-]*", "DATE", name)


def folders(place: Place, hub: HubServer) -> dict[str, Any]:
    """Return what all files of the working folder and all fits mean, but for what a run keeps to resume."""
    files = [file for part in (place.work, place.home / "fits") for file in sorted(part.rglob("*")) if file.is_file()]
    named = {file.relative_to(place.folder).as_posix(): file for file in files if ".run" not in file.parts}
    return {undated(name): meaning(name, file.read_bytes()) for name, file in named.items()}


def published(place: Place, hub: HubServer) -> dict[str, Any]:
    """Return what the Hub holds: every branch, tag and pull request, and every file that was uploaded."""
    found = {}
    for repo in hub.repos.values():
        refs = {
            ref: {undated(name): meaning(name, data) for name, data in repo.tree(ref).items()} for ref in sorted(repo.refs)
        }
        talks = [(one["title"], one["status"]) for one in repo.discussions]
        found[repo.id] = {"refs": refs, "tags": repo.tags, "commits": len(repo.commits), "discussions": talks}
        found[repo.id]["uploaded"] = len(repo.large)
    return json.loads(json.dumps(found))


@dataclass(frozen=True)
class Job:
    """A command.

    Args:
        words: Behind `distill-hub`.
        processes: That work on it.
        prepare: Writes what it starts from.
        result: Returns what must be the same in the end, as JSON.
        complete: What it says, with another exit code, where a killed attempt had made all of it.
        warm: Whether what the undisturbed run fitted is there from the beginning, so that other stages are met.
    """

    words: list[str]
    processes: int = 1
    prepare: Callable[[Place, HubServer, Path], None] = nothing
    result: Callable[[Place, HubServer], dict[str, Any]] = folders
    complete: str | None = None
    warm: bool = True


def make(recipe: str, *words: str, processes: int = 1, **how: Any) -> Job:
    return Job(["make", recipe, *words, "--output_dir", "set", "--num_processes", str(processes)], processes, **how)


SET = make("random_real", "--ipc", "2", *SCORED, processes=2)  # the base of others
JOBS = {
    "fit_generator": make("fit_generator", *FIT, warm=False, complete="it exists; pass --overwrite"),
    "fit_classifier": make(
        "fit_classifier", "--network", "convnet-1-w16-bn", "--epochs", "12", "--checkpoint_epochs", "1", processes=2
    ),
    "first fits": make("dit", *DRAWN, *SCORED, warm=False),
    "tuning": make(
        *("minimax", *DRAWN, *SCORED, "--tuning_epochs", "1", "--tuning_batch_size", "48", "--checkpoint_steps", "8"),
        processes=2,
    ),
    "cao2": make(
        *("cao2", *DRAWN, *SCORED, "--pool_factor", "3", "--refine_batch_size", "2", "--refine_steps", "5"), processes=2
    ),
    "rded": make("rded", "--ipc", "2", "--images_per_class", "20", *SCORED),
    "rded of two": make("rded", "--ipc", "2", "--images_per_class", "20", *SCORED, processes=2),
    "sre2l": make("sre2l", *RECOVERED, "--recover_batch_size", "4", *SCORED),
    "deda": make("deda", *RECOVERED, *SCORED),
    "photos": make("random_real", "--source", "photos", "--test_fraction", "0.3", "--ipc", "2", *SCORED,
                   prepare=with_photos, warm=False),
    "published photos": make("random_real", "--source", "bob/photos", "--test_fraction", "0.3", "--ipc", "2", *SCORED,
                             prepare=with_published_photos, warm=False),
    "relabel": Job(["relabel", "set", "--epochs", "30", "--batch_size", "10"], prepare=with_set),
    "adopt": Job(
        ["adopt", "set.npz", "--source", "digits", "--classes", "source", "--method", "dm", "--output_dir", "out"],
        prepare=with_array,
    ),
    "reproduce": Job(["reproduce", "set", "--output_dir", "out"], processes=2, prepare=with_set),
    "evaluate": Job(
        ["evaluate", "bob/set", "--submit", "--repeats", "2", "--students", "convnet-1-w16"],
        prepare=with_published_set,
        result=published,
    ),
    "push": Job(["push", "set", "alice/set"], prepare=with_set, result=published),
}  # fmt: skip


def write_base(base: Path) -> None:
    """Write what jobs start from, apart from the set: photos, and an array of digits."""
    import numpy as np
    from PIL import Image

    from distill_hub.data.sources import load_source

    draw = np.random.default_rng(0)
    for number in range(24):
        file = base / "photos" / ("dark", "light")[number % 2] / f"{number:02d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw.integers(0, 128, (32, 32, 3), dtype=np.uint8) + np.uint8(127 * (number % 2))).save(file)
    train = load_source("digits").train
    rows = [row for label in range(10) for row in np.flatnonzero(train.labels == label)[:2]]
    np.savez(base / "set.npz", images=train.pixels(rows, 16).permute(0, 2, 3, 1).numpy(), labels=train.labels[rows])
