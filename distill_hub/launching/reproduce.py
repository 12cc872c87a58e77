"""Rebuilding a set from its manifest: the same, bit for bit, or where the new one first differs, and by how much."""

import dataclasses
import shlex
import signal
import subprocess
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import numpy as np

from distill_hub.artifact.find import MANIFEST, Found, find, folder_bytes, read_description
from distill_hub.artifact.load import read_artifact
from distill_hub.artifact.manifest import Manifest
from distill_hub.config import InputError
from distill_hub.ending import OUT_OF_MEMORY
from distill_hub.launching.words import NO_PART, make_words
from distill_hub.options.commands import ReproduceConfig
from distill_hub.running.folder import check_is_run
from distill_hub.starter import as_starter

_OF_SAMPLES = ("pool", "plain", "guide", "guided", "refine")  # stages whose images a generator drew
Verdict = Literal["same", "differs", "not on record", "not made again"]


@dataclass(frozen=True)
class Step:
    """Something that a set is made from, or a stage of its making, and the hash of it in both records."""

    name: str
    recorded: str | None
    rebuilt: str | None

    @property
    def verdict(self) -> Verdict:
        """Whether both are the same. 'not made again': its results lay in the user's cache."""
        if self.recorded is None:
            return "not on record"
        if self.rebuilt is None:
            return "not made again"
        return "same" if self.recorded == self.rebuilt else "differs"


@dataclass(frozen=True)
class Difference:
    """How far the rows of two sets of N images are apart, compared in order."""

    images: int  # that differ
    largest: int  # absolute difference of two pixel values, 0 .. 255
    mean: float  # absolute difference, over all pixel values of all images
    labels: int  # that differ
    soft_label: float  # largest absolute difference of two probabilities
    free_pixel: float | None = None  # of two free pixels; None: the sets have none


@dataclass(frozen=True)
class Reproduction:
    """A set as it is on record, and as it was rebuilt here."""

    recorded: Manifest
    rebuilt: Manifest
    difference: Difference | None  # None: identical, images and soft labels of another shape, or without images
    without_images: bool = False  # whether the set is a record alone, so that hashes are all that compares

    @property
    def identical(self) -> bool:
        """Whether pixels, labels and soft labels are the same, bit for bit."""
        return self.recorded.content_sha256 == self.rebuilt.content_sha256

    @property
    def steps(self) -> list[Step]:
        """What can be compared, in the order of the run."""
        before, after = _steps(self.recorded), _steps(self.rebuilt)
        return [Step(name, before.get(name), after.get(name)) for name in before | after]

    @property
    def first(self) -> Step | None:
        """The first step that differs, if any does."""
        return next((step for step in self.steps if step.verdict == "differs"), None)

    @property
    def environment(self) -> dict[str, tuple[str, str]]:
        """Versions, hardware, processes and precision that are not as recorded: what was recorded, and what is here."""
        before, after = ({**m.packages, **dict(m.environment)} for m in (self.recorded, self.rebuilt))
        names = [*dict.fromkeys([*self.recorded.packages, *self.rebuilt.packages])]
        names += ["python", "hardware", "processes", "mixed_precision"]
        pairs = {name: (str(before.get(name, "-")), str(after.get(name, "-"))) for name in names}
        return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}

    @property
    def new_options(self) -> dict[str, Any]:
        """Options that the recipe had not when the set was made, with what was taken: the default, or what was done then."""
        no_news = {*self.recorded.method.config, *NO_PART}
        return {name: value for name, value in self.rebuilt.method.config.items() if name not in no_news}

    def summary(self) -> dict[str, Any]:
        """Return all of this but the records, ready for JSON."""
        return {
            "name": self.recorded.name,
            "identical": self.identical,
            "content_sha256": {"recorded": self.recorded.content_sha256, "rebuilt": self.rebuilt.content_sha256},
            "first_difference": self.first.name if self.first else None,
            "difference": dataclasses.asdict(self.difference) if self.difference else None,
            "without_images": self.without_images,
            "steps": [{**dataclasses.asdict(step), "verdict": step.verdict} for step in self.steps],
            "environment": {name: {"recorded": a, "here": b} for name, (a, b) in self.environment.items()},
            "new_options": self.new_options,
        }


def _steps(manifest: Manifest) -> dict[str, str]:
    # Of these other tensors were kept in versions whose stages have no peak of memory: hashes of these do not compare.
    compared = [stage for stage in manifest.stages if stage.peak_memory_bytes is not None or stage.name not in _OF_SAMPLES]
    stages = {f"stage {stage.name}": stage.sha256 for stage in compared}
    generator, teacher, selector = manifest.generator, manifest.teacher, manifest.selector
    base = generator.tuning.base if generator and generator.tuning else None
    steps = {
        "source": manifest.source.identity,
        "base generator": base.sha256 if base else None,
        "teacher": teacher.sha256 if teacher else None,
        "selector": selector.sha256 if selector else None,
        "stage encode": stages.pop("stage encode", None),  # of the images that a recipe tunes its generator on
        "generator": generator.sha256 if generator else None,
        "vae": generator.vae.sha256 if generator and generator.vae else None,
        "stage fit experts": stages.pop("stage fit experts", None),
        "experts": manifest.experts.sha256 if manifest.experts else None,
        "dynamics": manifest.method.notes.get("dynamics_sha256"),
        **stages,
    }
    return {name: sha256 for name, sha256 in steps.items() if sha256}


def reproduce(config: ReproduceConfig) -> Reproduction | None:
    """Rebuild a set from its manifest in a process of its own, and compare the rows.

    Of a set whose images were not kept, the hash of its content and those of its stages are compared.

    Args:
        config: The set, what lies elsewhere now, and where to rebuild it. A rebuild that was interrupted goes on.

    Returns:
        Both records and what differs; None when only the launch line was to be printed.

    Raises:
        InputError: When the set is damaged, its manifest does not say how to rebuild it, the folder holds something else
            than a rebuild, or the recipe fails.
        HubError: When the Hub fails.
    """
    found = find(config.location, config.revision)
    manifest, _ = read_description(found)
    folder = config.output_dir or default_folder(manifest)
    if found.folder and folder.resolve() == found.folder.resolve():
        raise InputError("output_dir", str(folder), "it holds the set itself; name a new folder")
    words = make_words(manifest, config, folder, published=found.remote is not None)
    if config.print_command:
        print(shlex.join(words))
        return None
    check_is_run(folder)
    if has_rows(found):
        read_artifact(found, rows=False)  # is it what its manifest says?
    if not config.overwrite:
        _refuse_stale(folder)
    print(f"{shlex.join(words)}\n", flush=True)
    _run(words)
    return compare(found, folder)


def has_rows(found: Found) -> bool:
    """Whether a set has files of images, or is a record alone: manifest, evaluations and card."""
    return folder_bytes(found.files, "data") > 0


def default_folder(manifest: Manifest) -> Path:
    """Return where a set is rebuilt, unless another folder is named."""
    return Path("outputs", f"{manifest.name}-reproduced")


def _run(words: list[str]) -> None:
    """Run a command of `distill-hub` with this interpreter, and wait for its end; its output is streamed.

    Exits with 2 where that command refused its input: it has said why, in one line.

    Raises:
        InputError: When it fails.
    """
    with as_starter():
        # In a session of its own: Ctrl-C reaches this process alone, which says so once, and ends the other one.
        started = subprocess.Popen([sys.executable, "-m", "distill_hub.cli", *words[1:]], start_new_session=True)
        try:
            code = started.wait()
        except KeyboardInterrupt:
            started.terminate()
            started.wait()
            raise
    if code == -signal.SIGKILL:
        raise InputError("command", shlex.join(words), f"it was killed: {OUT_OF_MEMORY}")
    if code == 2:
        sys.exit(code)
    if code:
        valid = f"it ended with code {code}, for the reason above; the same command goes on where it stopped"
        raise InputError("command", shlex.join(words), valid)


def _refuse_stale(folder: Path) -> None:
    """Refuse a finished rebuild by other versions: its recipe would take up what they made."""
    made = Manifest.read(folder / MANIFEST).packages if (folder / MANIFEST).is_file() else {}
    for name, version in made.items():
        if version != metadata.version(name):
            valid = f"it was rebuilt with {name} {version}, here is {metadata.version(name)}; --overwrite starts afresh"
            raise InputError("output_dir", str(folder), valid)


def compare(recorded: Found, rebuilt: Path) -> Reproduction:
    """Compare a set with its rebuild.

    Args:
        recorded: The set.
        rebuilt: The folder of the rebuild.

    Raises:
        InputError: When one of them is damaged.
    """
    before, after = read_description(recorded)[0], Manifest.read(rebuilt / MANIFEST)
    shapes = [(m.rows, m.image_size, len(m.classes)) for m in (before, after)]
    if not has_rows(recorded):
        return Reproduction(before, after, None, without_images=True)
    if before.content_sha256 == after.content_sha256 or shapes[0] != shapes[1]:
        return Reproduction(before, after, None)
    one, other = (read_artifact(found, rows=False, pixels=True) for found in (recorded, find(rebuilt)))
    images = largest = total = 0
    for start in range(0, len(one.pixels), 100):
        a, b = (own.pixels[start : start + 100].astype(np.int16) for own in (one, other))
        apart = np.abs(a - b)
        images += int(apart.any((1, 2, 3)).sum())
        largest = max(largest, int(apart.max()))
        total += int(apart.sum())
    difference = Difference(
        images=images,
        largest=largest,
        mean=total / one.pixels.size,
        labels=int((one.labels != other.labels).sum()),
        soft_label=float(np.abs(one.soft_labels - other.soft_labels).max()),
        free_pixel=_apart(one.free_pixels, other.free_pixels),
    )
    return Reproduction(before, after, difference)


def _apart(one: np.ndarray | None, other: np.ndarray | None) -> float | None:
    """Return the largest absolute difference of the free pixels of two sets that have them."""
    if one is None or other is None:
        return None
    return max(float(np.abs(a.astype(np.float32) - b).max()) for a, b in zip(one, other, strict=True))
